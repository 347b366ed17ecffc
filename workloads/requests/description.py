"""A description of requests in YAML, and the requests drawn from it: the same description and seed, the same requests.

Every part draws from a stream of its own, so that another arrival law leaves lengths and prefixes as they are, and a
higher rate sends the same requests sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from hw_configs.config import Config, Count, Fault, Latency, Time, parse, refuse
from hw_configs.problems import bad_input
from hw_configs.yaml_file import Document, read_yaml, read_yaml_text
from workloads.requests.arrivals import Arrivals, AtOnce, ClosedLoop, draw_arrivals, with_rate
from workloads.requests.lengths import Length, draw_lengths
from workloads.requests.prefixes import SharedPrefix, draw_prefixes
from workloads.requests.table import MAX_TOKENS, Requests

__all__ = ["MOST_REQUESTS", "RequestDescription", "draw_requests", "read_description"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MOST_REQUESTS: Final = 10_000_000
_PARTS: Final = ("arrivals", "prompt", "output", "prefix", "turns", "think", "priority", "adapter")


class Think(Config):
    """Time between an answer and the next turn: always ``mean``, or exponential about it."""

    kind: Literal["fixed", "exponential"] = "exponential"
    mean: Latency


def _think(value: Any) -> Any:
    return value if isinstance(value, dict | Think) else {"kind": "fixed", "mean": value}


class Sessions(Config):
    """Conversations: each turn's prompt is all that was said before and a new prompt. Arrivals are of sessions."""

    turns: Length
    think: Annotated[Think, BeforeValidator(_think)] = Think(kind="fixed", mean=0.0)


class Priorities(Config):
    """Priorities (smaller is more urgent) and how often each is drawn."""

    values: Annotated[
        list[Annotated[int, Field(ge=-(2**31), le=2**31)]], Field(min_length=1, max_length=1000)
    ]
    weights: list[Annotated[float, Field(gt=0, le=1e9)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fit(self) -> Priorities:
        if self.weights and len(self.weights) != len(self.values):
            refuse((("weights",), f"found {len(self.weights)} weights; expected {len(self.values)}"))
        return self


class Deadline(Config):
    """Time from arrival to the last token: ``base`` and so much for each token of the answer."""

    base: Time
    per_token: Latency = 0.0


Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _attention() -> list[Target]:
    return ["q_proj", "k_proj", "v_proj", "o_proj"]


class Adapters(Config):
    """``count`` adapters; ``share`` of the requests use one, the k-th with weight k to the power of minus ``skew``.

    All have ``rank`` and stand beside the products that ``targets`` names.
    """

    count: Annotated[int, Field(ge=1, le=1_000_000)]
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    skew: Annotated[float, Field(ge=0, le=10)] = 0.0
    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    targets: Annotated[list[Target], Field(min_length=1)] = Field(default_factory=_attention)
    name: str = "adapter"

    @model_validator(mode="after")
    def _once(self) -> Adapters:
        twice = [name for name in self.targets if self.targets.count(name) > 1]
        refuse((("targets",), f"{twice[0]!r} is named twice") if twice else None)
        return self


class Trace(Config):
    """A file to take requests from as they are; arrivals may be given anew, or be ``speed`` times as fast."""

    path: str
    format: str | None = None
    limit: Count | None = None
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class RequestDescription(Config):
    """The keys of a description of requests."""

    name: str = ""
    description: str = ""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    requests: Annotated[int, Field(ge=1, le=MOST_REQUESTS)] | None = None
    trace: Trace | None = None
    arrivals: Arrivals | None = None
    prompt: Length | None = None
    output: Length | None = None
    longest: Annotated[int, Field(ge=2, le=MAX_TOKENS)] | None = None
    """Tokens of prompt and answer together at most: longer prompts are cut, then answers."""
    shared_prefix: SharedPrefix | None = None
    sessions: Sessions | None = None
    priority: Priorities | None = None
    deadline: Deadline | None = None
    adapters: Adapters | None = None

    @model_validator(mode="after")
    def _whole(self) -> RequestDescription:
        faults: list[Fault | None]
        if self.trace is None:
            faults = [
                ((name,), f"missing key {name!r}; expected it, or 'trace' with a file to take requests from")
                for name in ("requests", "prompt", "output")
                if getattr(self, name) is None
            ]
        else:
            faults = [
                ((name,), "cannot stand beside 'trace', whose requests bring it")
                for name in ("requests", "prompt", "output", "shared_prefix", "sessions")
                if getattr(self, name) is not None
            ]
        if self.sessions is not None and isinstance(self.arrivals, ClosedLoop) and self.arrivals.think > 0:
            faults.append((("arrivals", "think"), "sessions have a think time of their own"))
        if self.longest is not None and (self.sessions or self.shared_prefix or self.trace):
            faults.append(
                (("longest",), "is a bound for single prompts: not with sessions, shared_prefix or trace")
            )
        refuse(*faults)
        return self

    def at_rate(self, rate: float) -> RequestDescription:
        """The same requests at another mean rate (requests or sessions per second)."""
        if self.arrivals is None:
            raise bad_input("the description has no arrivals whose rate could be turned", path="arrivals")
        return self.model_copy(update={"arrivals": with_rate(self.arrivals, rate)})


def read_description(source: str | Path, text: str | None = None) -> RequestDescription:
    """The description in a YAML file (or ``text``, named ``source``); ``InputError`` with every problem in it.

    Files that it names are found beside it.
    """
    document = read_yaml(source) if text is None else read_yaml_text(text, str(source))
    description = parse(RequestDescription, _beside(document))
    return description if description.name else description.model_copy(update={"name": Path(source).stem})


def _beside(document: Document) -> Document:
    """The document with the paths of its files made relative to its folder."""
    folder = Path(document.file).parent
    data = document.data
    if not isinstance(data, dict):
        return document
    places = [data.get(key) for key in ("trace", "arrivals", "prompt", "output")]
    for place in places:
        if isinstance(place, dict) and isinstance(place.get("path"), str):
            near = folder / place["path"]
            if near.exists():
                place["path"] = str(near)
    return document


def draw_requests(description: RequestDescription, seed: int | None = None) -> Requests:
    r"""The requests of a description; ``seed`` in place of its own.

    >>> text = "requests: 3\nprompt: 10\noutput: 5\narrivals: {kind: constant, rate: 2 /s}"
    >>> draw_requests(read_description("x.yaml", text)).arrival_s.tolist()
    [0.0, 0.5, 1.0]
    """
    start = description.seed if seed is None else seed
    streams = np.random.SeedSequence(start).spawn(len(_PARTS))
    draws = _Draws(description, {n: np.random.default_rng(s) for n, s in zip(_PARTS, streams, strict=True)})
    return draws.from_trace() if description.trace is not None else draws.synthetic()


@dataclass(frozen=True)
class _Draws:
    of: RequestDescription
    rng: dict[str, np.random.Generator]

    def from_trace(self) -> Requests:
        from workloads.requests.files import read_requests

        trace = self.of.trace
        assert trace is not None
        read = read_requests(trace.path, trace.format, limit=trace.limit).requests
        columns = {name: getattr(read, name) for name in Requests.__dataclass_fields__}
        columns["arrival_s"] = read.arrival_s / trace.speed
        if self.of.arrivals is not None:
            columns["arrival_s"] = np.sort(draw_arrivals(self.of.arrivals, read.count, self.rng["arrivals"]))
            columns.update(self._closed(read.count))
        columns.update(self._marks(read.count, read.output_tokens), name=self.of.name)
        return Requests(**columns)

    def synthetic(self) -> Requests:
        of = self.of
        assert of.requests is not None
        assert of.prompt is not None
        assert of.output is not None
        prompt = draw_lengths(of.prompt, of.requests, "prompt", self.rng["prompt"])
        output = draw_lengths(of.output, of.requests, "output", self.rng["output"])
        if of.longest is not None:
            output = np.minimum(output, of.longest - 1)
            prompt = np.minimum(prompt, of.longest - output)
        session, turn = self._sessions(of.requests)
        sessions = int(session[-1]) + 1
        starts = draw_arrivals(of.arrivals or AtOnce(kind="at-once"), sessions, self.rng["arrivals"])
        prefix = draw_prefixes(of.shared_prefix, sessions, self.rng["prefix"])
        segments = _segments(prefix, session, prompt, output)
        think = self._think(of.requests)
        later = turn > 0
        columns: dict[str, Any] = {
            "after": np.where(later, np.arange(of.requests) - 1, -1), "think_s": np.where(later, think, 0.0),
        }  # fmt: skip
        columns.update(self._closed(of.requests))
        columns.update(self._marks(of.requests, output))
        begin, stream, tokens = segments
        totals = np.add.reduceat(tokens, begin[:-1])
        return Requests(
            starts[session], totals, output, begin, stream, tokens, -1 - np.arange(of.requests), name=of.name,
            **columns,
        )  # fmt: skip

    def _sessions(self, count: int) -> tuple[Ints, Ints]:
        """Of each request its session and its place in it."""
        if self.of.sessions is None:
            return np.arange(count), np.zeros(count, np.int64)
        turns = draw_lengths(self.of.sessions.turns, count, "output", self.rng["turns"])
        session = np.repeat(np.arange(count), np.minimum(turns, count))[:count]
        first = np.searchsorted(session, session)
        return session, np.arange(count) - first

    def _think(self, count: int) -> Floats:
        if self.of.sessions is None:
            return np.zeros(count)
        think = self.of.sessions.think
        if think.kind == "fixed":
            return np.full(count, think.mean)
        return self.rng["think"].exponential(think.mean, count)

    def _closed(self, count: int) -> dict[str, Any]:
        """Clients of a closed loop: a bound on requests under way, or chains where clients think."""
        law = self.of.arrivals
        if not isinstance(law, ClosedLoop):
            return {}
        if law.think == 0:
            return {"clients": law.clients}
        after = np.arange(count) - law.clients
        return {
            "after": np.maximum(after, -1), "think_s": np.where(after >= 0, law.think, 0.0),
        }  # fmt: skip

    def _marks(self, count: int, output: Ints) -> dict[str, Any]:
        """Priorities, deadlines and adapters."""
        of = self.of
        marks: dict[str, Any] = {} if of.trace is not None else {
            "priority": np.zeros(count, np.int64), "deadline_s": np.full(count, np.inf),
            "adapter": np.full(count, -1, np.int64),
        }  # fmt: skip
        if of.priority is not None:
            weights = np.asarray(of.priority.weights or [1.0] * len(of.priority.values))
            marks["priority"] = self.rng["priority"].choice(
                np.asarray(of.priority.values, np.int64), count, p=weights / weights.sum()
            )
        if of.deadline is not None:
            marks["deadline_s"] = of.deadline.base + of.deadline.per_token * output
        if of.adapters is not None:
            rng, law = self.rng["adapter"], of.adapters
            weights = np.arange(1, law.count + 1, dtype=np.float64) ** -law.skew
            chosen = rng.choice(law.count, count, p=weights / weights.sum())
            marks["adapter"] = np.where(rng.random(count) < law.share, chosen, -1)
            marks["adapters"] = tuple(f"{law.name}-{k}" for k in range(law.count))
            marks["adapter_rank"], marks["adapter_targets"] = law.rank, tuple(law.targets)
        return marks


def _segments(
    prefix: list[list[tuple[int, int]]], session: Ints, prompt: Ints, output: Ints
) -> tuple[Ints, Ints, Ints]:
    """Prompts as segments: the session's shared prefix, then turn by turn what was asked and answered, then the new.

    Streams: shared ones are below ``2**40``, a request's own prompt is ``2**40`` and its number, its answer as
    ``make_requests`` has it.
    """
    begin, stream, tokens = [0], list[int](), list[int]()
    before: list[tuple[int, int]] = []
    last = -1
    for number in range(len(session)):
        own = int(session[number])
        if own != last:
            before, last = list(prefix[own]), own
        before.append((2**40 + number, int(prompt[number])))
        stream += [part for part, _ in before]
        tokens += [count for _, count in before]
        before.append((-1 - number, int(output[number])))
        begin.append(len(stream))
    return np.asarray(begin, np.int64), np.asarray(stream, np.int64), np.asarray(tokens, np.int64)
