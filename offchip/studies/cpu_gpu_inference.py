"""Language models on a GPU that is too small and the CPU beside it: what engines' rules reach, and what a search finds.

Published rows of llama.cpp, KTransformers, Accelerate and ZeRO-Inference, each run by the same rule on the same parts
(``like-engine``). ``co-place`` may then place as it likes. No constant is taken from these rows; what host software
costs at a hand-over was measured of another engine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError
from mapping.mapper import MapperOptions, mapper_settings, plan_writer
from mapping.placement.co_place import CoPlacement, CoPlaceSettings, co_place
from mapping.placement.machine import Machine
from mapping.placement.trial import try_plan
from offchip.studies.line_figure import draw_lines
from offchip.studies.offloaded_generation import generation
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.models import config_of
from workloads.workload import WorkloadOptions

__all__ = ["STUDY"]

SMALL: Final = "rtx-2080-core-i9-10900x"
ONE_SOCKET, TWO_SOCKETS = "rtx-4090-xeon-6454s", "rtx-4090-2x-xeon-6454s"
HAND_OVER_S: Final = 138e-6
"""Of the 276 us a layer that one engine's two hand-overs were measured to take (docs/cpu-model.md)."""
_LLMFIT: Final = "github.com/AlexsJones/llmfit, pull request "
_KT: Final = "KTransformers, doc/en/DeepseekR1_V3_tutorial.md, table of V0.2"
_T4: Final = "FlexGen, benchmark/batch_size_table.md"
_BOX: Final = (
    "RTX 2080 and i9-10900X with 62 GB; memory taken as four channels of DDR4-3200, since 102 GB/s are stated. Q4_K_M "
    "has 7 % more bytes than q4_k. Context and prompt are not stated (256 tokens here)"
)
_AVERAGE: Final = (
    "; the published figure is an average that includes the prompt, some 8 % below generation alone"
)
_SLOW_HOST: Final = (
    "; all rows with layers on this CPU imply some 47 GB/s of its memory, which is what two channels give, and whether "
    "four are filled is not stated"
)
_XEON: Final = (
    "The published engine has llamafile's kernels on the CPU and runs on a 4090D, whose memory is the 4090's. Prompt "
    "of 500 tokens; 600 here. Everything in q4_k"
)


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    statement: str
    published: float
    model: str
    system: str
    values: Mapping[str, str]
    source: str
    note: str
    dtype: str | None = "q4_k"
    experts: int = 0
    """Experts a token, where not the model's own."""

    @property
    def context(self) -> int:
        """Tokens before the step."""
        return 256 if self.system == SMALL else 600


def _layers(layers: int, experts: int = 0) -> dict[str, str]:
    return {"layers": str(layers), "cpu-experts": str(experts)}


_KT_RULE: Final = {"engine": "ktransformers"}
_ROWS: Final = (
    _Row("llama-3.1-8b", "Llama-3.1-8B, all on the GPU", 71.9, "llama-3.1-8b", SMALL, _layers(99), f"{_LLMFIT}773",
         _BOX + _AVERAGE),
    _Row("qwen3-8b", "Qwen3-8B, all on the GPU", 69.3, "qwen3-8b", SMALL, _layers(99), f"{_LLMFIT}773",
         _BOX + _AVERAGE),
    _Row("qwen2.5-7b", "Qwen2.5-7B, all on the GPU", 77.0, "qwen2.5-7b", SMALL, _layers(99), f"{_LLMFIT}778",
         _BOX + _AVERAGE),
    _Row("gemma-2-9b", "Gemma-2-9B, -ngl 36", 23.7, "gemma-2-9b", SMALL, _layers(36), f"{_LLMFIT}778",
         _BOX + _AVERAGE + _SLOW_HOST),
    _Row("qwen2.5-14b", "Qwen2.5-14B, -ngl 42", 20.8, "qwen2.5-14b", SMALL, _layers(42), f"{_LLMFIT}778",
         _BOX + _AVERAGE + _SLOW_HOST),
    _Row("qwen3-14b", "Qwen3-14B, -ngl 32", 16.9, "qwen3-14b", SMALL, _layers(32), f"{_LLMFIT}774",
         _BOX + _AVERAGE + _SLOW_HOST),
    _Row("qwen3-30b-a3b", "Qwen3-30B-A3B, --n-cpu-moe 36", 36.7, "qwen3-30b-a3b", SMALL, _layers(99, 36),
         f"{_LLMFIT}755", _BOX + "; the server's own figure of generation" + _SLOW_HOST),
    _Row("deepseek-v2-lite", "DeepSeek-Coder-V2-Lite, --n-cpu-moe 16", 49.6, "deepseek-v2-lite", SMALL, _layers(99, 16),
         f"{_LLMFIT}778", _BOX + _AVERAGE + _SLOW_HOST),
    _Row("gpt-oss-20b", "gpt-oss-20B in MXFP4, --n-cpu-moe 12", 36.4, "gpt-oss-20b", SMALL, _layers(99, 12),
         f"{_LLMFIT}775", _BOX + _AVERAGE + _SLOW_HOST, None),
    _Row("deepseek-v3-one", "DeepSeek-V3, one socket, 8 experts", 8.73, "deepseek-v3", ONE_SOCKET, _KT_RULE, _KT,
         _XEON),
    _Row("deepseek-v3-one-6", "DeepSeek-V3, one socket, 6 experts", 10.303, "deepseek-v3", ONE_SOCKET, _KT_RULE, _KT,
         _XEON, experts=6),
    _Row("deepseek-v3-two", "DeepSeek-V3, two sockets, 8 experts", 12.208, "deepseek-v3", TWO_SOCKETS, _KT_RULE, _KT,
         f"{_XEON}; the tutorial's summary says 11.26"),
    _Row("deepseek-v3-two-6", "DeepSeek-V3, two sockets, 6 experts", 13.69, "deepseek-v3", TWO_SOCKETS, _KT_RULE, _KT,
         _XEON, experts=6),
)  # fmt: skip
_FREE: Final = ("gemma-2-9b", "qwen2.5-14b", "qwen3-14b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b",
                "deepseek-v3-one", "deepseek-v3-two")  # fmt: skip


def _graph(model: str, context: int, dtype: str | None, experts: int = 0) -> Graph:
    options = WorkloadOptions(phase="decode", batch=1, prompt=context, dtype=dtype)
    if not experts:
        return load_workload(model, options).phases[0].graph
    path = config_of(model)
    assert path is not None
    config = {**json.loads(path.read_text(encoding="utf-8")), "num_experts_per_tok": experts}
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / "config.json"
        changed.write_text(json.dumps(config), encoding="utf-8")
        return load_workload(changed, options).phases[0].graph


def _by_rule(row: _Row, hand_over_s: float) -> float:
    """Tokens a second; 0 where it does not fit."""
    graph = _graph(row.model, row.context, row.dtype, row.experts)
    values = {**row.values, "hand-over": str(hand_over_s)}
    options = MapperOptions(settings=mapper_settings("like-engine", values, "plan"))
    system = load_system(row.system)
    try:
        plan = plan_writer("like-engine").plan(graph, system, options)
    except InfeasibleError:
        return 0.0
    trial = try_plan(graph, Machine(system), plan)
    return 0.0 if trial.obstacle else 1 / trial.seconds


@cache
def _free(id: str) -> CoPlacement:
    """The search for half a minute at most; what it is short of the bound is less than the two digits shown."""
    row = next(row for row in _ROWS if row.id == id)
    settings = CoPlaceSettings(hand_over=HAND_OVER_S, limit=30.0)
    return co_place(_graph(row.model, row.context, row.dtype), Machine(load_system(row.system)), settings)


def _row_claims() -> tuple[list[ClaimResult], StudyTable]:
    claims, rows = [], []
    for row in _ROWS:
        bare, paid = _by_rule(row, 0.0), _by_rule(row, HAND_OVER_S)
        claim = Claim(row.id, row.statement, row.published, "tok/s", row.source, "published", "mechanism")
        method = (
            "The engine's rule on the machine's parts, one decode step, run event by event; 138 us of host software at "
            f"each hand-over between devices (without: {bare:.3g} tok/s)."
        )
        claims.append(compare(claim, paid, method, row.note + "."))
        free: tuple[str | float, ...] = ("", "")
        if row.id in _FREE:
            found = _free(row.id)
            free = (float(f"{1 / found.trial.seconds:.2g}"), _placed(found))
        rows.append((row.statement, row.published, float(f"{bare:.3g}"), float(f"{paid:.3g}"), *free))
    columns = (
        "run",
        "published",
        "ours by rule, no software",
        "ours by rule",
        "ours free",
        "where, when free",
    )
    return claims, StudyTable("Decode at batch 1 (tok/s)", columns, tuple(rows))


def _placed(found: CoPlacement) -> str:
    """Layers by role and device, in words."""
    names = {"products": "products", "attend": "attention", "experts": "experts"}
    parts = []
    for role, own in found.notes.placed.items():
        counts = ", ".join(f"{count} {device}" for device, count in sorted(own.items()))
        parts.append(f"{names[role]}: {counts}")
    return "; ".join(parts)


_GENERATIONS: Final = (
    ("accelerate-30b", "Accelerate, OPT-30B, batch 8", 0.62, "opt-30b", 8, {"engine": "accelerate"}),
    ("zero-30b", "ZeRO-Inference, OPT-30B, batch 4", 0.60, "opt-30b", 4, {"engine": "zero-inference"}),
    ("accelerate-175b", "Accelerate, OPT-175B, batch 2, from disk", 0.01, "opt-175b", 2, {"engine": "accelerate"}),
    ("zero-175b", "ZeRO-Inference, OPT-175B, batch 1, from disk", 0.01, "opt-175b", 1,
     {"engine": "zero-inference", "store": "ssd"}),
)  # fmt: skip


def _generation_claims() -> list[ClaimResult]:
    system = load_system("t4-server")
    claims = []
    for id, statement, published, model, batch, values in _GENERATIONS:
        ours: float | None
        try:
            ours = generation(model, system, batch, 512, 32, values, mapper="like-engine").tokens_per_s
            why = "Prompts of 512 and 32 tokens more; the time of Python and of allocations is not modelled."
        except InfeasibleError as error:
            ours, why = None, f"Does not fit here: {str(error).splitlines()[0]}."
        if published < 0.1:
            why += " The published figure has one digit."
        claim = Claim(id, f"{statement}, on a T4", published, "tok/s", _T4, "published", "mechanism")
        claims.append(
            compare(claim, ours, "The engine's rule on the shipped t4-server, prefill and decode.", why)
        )
    return claims


def _sweeps() -> Mapping[str, list[tuple[float, float]]]:
    """Tokens a second by how many layers, or layers' experts, are on the CPU."""
    dense = next(row for row in _ROWS if row.id == "qwen2.5-14b")
    experts = next(row for row in _ROWS if row.id == "qwen3-30b-a3b")
    lines: dict[str, list[tuple[float, float]]] = {
        "Qwen2.5-14B, whole layers": [],
        "Qwen3-30B-A3B, experts": [],
    }
    for count in range(0, 49, 4):
        for name, row, values in (
            ("Qwen2.5-14B, whole layers", dense, _layers(49 - count)),
            ("Qwen3-30B-A3B, experts", experts, _layers(99, count)),
        ):
            changed = _Row(row.id, "", 0.0, row.model, SMALL, values, "", "")
            rate = _by_rule(changed, HAND_OVER_S)
            if rate:
                lines[name].append((float(count), rate))
    lines["Qwen2.5-14B, published"] = [(7.0, dense.published)]
    lines["Qwen3-30B-A3B, published"] = [(36.0, experts.published)]
    return lines


def _figure() -> Figure:
    lines = _sweeps()
    free = {
        f"{name}, co-place": [(0.0, rate), (48.0, rate)]
        for name, id in (("Qwen2.5-14B", "qwen2.5-14b"), ("Qwen3-30B-A3B", "qwen3-30b-a3b"))
        if (rate := float(f"{1 / _free(id).trial.seconds:.2g}"))
    }
    draw = partial(
        draw_lines,
        lines=lines,
        xlabel="layers whose weights or experts are on the CPU",
        ylabel="tokens/s",
        bounds=free,
    )
    caption = (
        "An RTX 2080 of 8 GB with a ten-core CPU: what does not fit the card is on the CPU; fewer layers there do not "
        "fit. Dashed: what co-place finds."
    )
    return Figure("layers", caption, draw)


def _run() -> Outcome:
    claims, table = _row_claims()
    return Outcome([*claims, *_generation_claims()], [table], [_figure()])


STUDY: Final = Study(
    "cpu-gpu-inference",
    "CPU and GPU together: engines' rules and a search",
    "llmfit's community benchmarks of llama.cpp (RTX 2080); KTransformers' tutorial of DeepSeek-V3; FlexGen's table of "
    "batch sizes (Accelerate and ZeRO-Inference on a T4)",
    "Decode at batch 1 of models of 7 to 671 billion parameters that a GPU of 8 or 24 GB cannot hold, in GGUF types; "
    "and OPT on a T4. Each row runs by its engine's rule on the machine's parts; co-place is then free to place as it "
    "likes, at the same cost of hand-overs. That search ends by time.",
    _run,
    slow=True,
    timed=True,
)
