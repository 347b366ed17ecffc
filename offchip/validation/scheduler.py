"""Validation kind ``scheduler``: every step of recordings of vLLM's scheduler, decision by decision.

A folder holds cases as ``*.json.gz``: requests, settings, and three digests over texts of one line a step. ``core``:
what was scheduled, preempted, admitted and ended, and the free blocks; ``full``: also blocks in use within the step and
keys in the prefix index; ``blocks``: the number of every block that was given out. The model and the clock that drive
the scheduler are those of the recording: tokens by formula, drafts accepted by formula, microseconds by a sum. A row is
ok when ``core`` is equal.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InfeasibleError, InputError, bad_input
from offchip.validation.registry import Options, RowResult
from simulator.serving.engine import Engine
from simulator.serving.policies.vllm import make
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings, Speculation
from simulator.serving.step import ScheduledStep
from workloads.requests import Requests, make_requests

__all__ = ["Case", "Digests", "read_case", "replay", "run"]

Ints = npt.NDArray[np.int64]

_DIGESTS: Final = ("sha256_core", "sha256_full", "sha256_blocks")
_METHODS: Final = {"ngram": "ngram", "draft_model": "draft-model", "eagle": "eagle"}
_SAME_NAME: Final = (
    "max_num_batched_tokens", "max_num_seqs", "block_size", "enable_chunked_prefill", "enable_prefix_caching", "policy",
    "long_prefill_token_threshold", "long_prefill_token_threshold_adaptive", "max_model_len",
    "scheduler_reserve_full_isl", "watermark",
)  # fmt: skip
_STEP_US: Final = 5000
_PROMPT_TOKEN_US: Final = 20
_DECODE_US: Final = 50


@dataclass(frozen=True, slots=True)
class Case:
    """A recording: what it asks, and the digests of what came of it."""

    id: str
    family: str
    timed: bool
    """Whether arrivals and the clock are microseconds; else numbers of steps."""
    settings: EngineSettings
    space: KvSpace
    requests: Requests
    expected: Mapping[str, str]


@dataclass(slots=True)
class Digests:
    """Running digests of a replay's texts."""

    core: Any = field(default_factory=hashlib.sha256)
    full: Any = field(default_factory=hashlib.sha256)
    blocks: Any = field(default_factory=hashlib.sha256)
    steps: int = 0

    def texts(self) -> dict[str, str]:
        """Hexadecimal digests by the recording's names."""
        return {
            "sha256_core": self.core.hexdigest(),
            "sha256_full": self.full.hexdigest(),
            "sha256_blocks": self.blocks.hexdigest(),
        }


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:  # noqa: ARG001
    """Every case whose id matches the glob ``rows``, by name of file."""
    if not folder.is_dir():
        raise bad_input("no such folder", file=str(folder))
    files = sorted(folder.rglob("*.json.gz"))
    if not files:
        raise bad_input("holds no file named '*.json.gz'", file=str(folder))
    _warm_up()
    for file in files:
        if fnmatch.fnmatchcase(file.name.removesuffix(".json.gz"), rows or "*"):
            yield _run_case(file)


def _run_case(file: Path) -> RowResult:
    name = file.name.removesuffix(".json.gz")
    try:
        case = read_case(file)
        begin = time.perf_counter()
        digests = replay(case)
    except (InputError, InfeasibleError) as error:
        return RowResult(name, {}, {}, 0.0, "unsupported", None, str(error).splitlines()[0])
    seconds = time.perf_counter() - begin
    ours = digests.texts()
    differs = [key for key in _DIGESTS if ours[key] != case.expected[key]]
    verdict: Any = "off" if "sha256_core" in differs else "ok"
    note = f"differs: {', '.join(differs)}" if differs else ""
    return RowResult(
        case.id, dict(case.expected), ours, seconds, verdict, None, note,
        {"family": case.family, **{key: "differs" if key in differs else "equal" for key in _DIGESTS}},
    )  # fmt: skip


def _warm_up() -> None:
    """Load or compile the kernels, so that no row's seconds hold it."""
    engine = make(make_requests([4], [2]), EngineSettings(max_model_len=16), KvSpace(4, 4, 1.0))
    engine.add(0)
    while engine.running + engine.waiting:
        engine.complete(np.zeros(len(engine.schedule().request), np.int64))
    engine.add(0)
    engine.drop(0)


def read_case(file: Path) -> Case:
    """The recording in a file. Raises ``InputError`` for what is missing or of another kind."""
    try:
        data = json.loads(gzip.decompress(file.read_bytes()))
        return _case(data)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise bad_input(f"not a recording: {error}", file=str(file)) from None
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise bad_input(f"not a recording: {type(error).__name__} {error}", file=str(file)) from None


def _case(data: Mapping[str, Any]) -> Case:
    config, spec = data["config"], data["config"]["spec"]
    speculation = spec and Speculation(
        method=_METHODS[spec["method"]],  # type: ignore[arg-type]
        tokens=spec["num_spec_tokens"],
        lookahead=spec["lookahead"],
        draft_slots=spec["draft_slots"],
        drop_last_hit_block=spec["drop_last_hit_block"],
    )
    settings = EngineSettings(
        **{name: config[name] for name in _SAME_NAME},
        max_num_active_seqs=config["max_num_active_seqs"] or 0,
        speculation=speculation,
    )
    rows = data["requests"]
    requests = make_requests(
        [sum(tokens for _, tokens in row["prompt"]) for row in rows],
        [row["max_tokens"] for row in rows],
        [float(row["arrival"]) for row in rows],
        prompts=[[(stream, tokens) for stream, tokens in row["prompt"]] for row in rows],
        output_stream=np.array([row["out"] for row in rows], np.int64),
        priority=np.array([row["priority"] for row in rows], np.int64),
    )
    # One block of the recording is the null block.
    space = KvSpace(config["num_gpu_blocks"] - 1, config["block_size"], 1.0)
    expected = {key: data[key] for key in _DIGESTS}
    return Case(data["id"], data["family"], data["clock"] == "time", settings, space, requests, expected)


def accepted_drafts(request: Ints, outputs: Ints, drafts: Ints, most: int) -> Ints:
    """The recording's model: drafts accepted of each request that had ``outputs`` tokens, at most ``most`` drafts."""
    h = ((request + 1) * 40503 + (outputs + 1) * 2654435761) % 4294967296
    accepted: Ints = np.minimum(h // 65536 % (most + 1), drafts)
    return accepted


def replay(case: Case) -> Digests:
    """Run a case under the recording's model and clock."""
    requests, digests = case.requests, Digests()
    engine = make(requests, case.settings, case.space)
    most = case.settings.speculation.tokens if case.settings.speculation else 0
    arrival = requests.arrival_s.astype(np.int64)
    order = np.argsort(arrival, kind="stable")
    outputs = np.zeros(requests.count, np.int64)
    now = added = 0
    while added < len(order) or engine.running + engine.waiting:
        if not engine.running + engine.waiting:
            now = max(now, int(arrival[order[added]]))
        while added < len(order) and arrival[order[added]] <= now:
            engine.add(int(order[added]))
            added += 1
        step = engine.schedule()
        line = _Line(digests.steps if case.timed else now, now if case.timed else None, engine, step)
        duration = _duration(step, requests.prompt_tokens, outputs)
        right = accepted_drafts(step.request, outputs[step.request], step.drafts, most)
        outcome = engine.complete(right)
        line.write(digests, outcome.finished, engine)
        outputs[outcome.request] += outcome.tokens
        now += duration if case.timed else 1
    return digests


def _duration(step: ScheduledStep, prompt: Ints, outputs: Ints) -> int:
    """Microseconds of a step: so many a prompt token, so many a decode."""
    made = outputs[step.request]
    decodes = (made >= 1) & (step.context == prompt[step.request] + made - 1)
    prompt_tokens = int(step.tokens[~decodes].sum())
    return _STEP_US + _PROMPT_TOKEN_US * prompt_tokens + _DECODE_US * int(decodes.sum())


class _Line:
    """One step of the canonical texts: what is known after ``schedule``, and written after ``complete``."""

    def __init__(self, number: int, start: int | None, engine: Engine, step: ScheduledStep) -> None:
        scheduled = " ".join(map("{}:{}".format, step.request.tolist(), step.tokens.tolist()))
        preempted = " ".join(map(str, engine.preempted.tolist()))
        admitted = " ".join(f"{a.request}:{a.hit}:{int(a.resumed)}" for a in engine.admitted)
        at = "-" if start is None else start
        self.number = number
        self.text = f"{number}|{at}|{scheduled}|{preempted}|{admitted}|{engine.running}|{engine.waiting}"
        self.free = engine.free_blocks
        self.blocks = " ".join(
            f"{new.request}:{','.join(map(str, new.blocks.tolist()))}" for new in engine.new_blocks()
        )

    def write(self, digests: Digests, finished: Ints, engine: Engine) -> None:
        """Add the line to the digests."""
        core = f"{self.text}|{' '.join(map(str, finished.tolist()))}|{engine.free_blocks}"
        digests.core.update(f"{core}\n".encode())
        digests.full.update(f"{core}|{self.free}|{engine.cached_keys}\n".encode())
        digests.blocks.update(f"{self.number}|{self.blocks}\n".encode())
        digests.steps += 1
