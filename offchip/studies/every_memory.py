"""One model on every memory: how the best placement moves with its context and the batch.

A machine has a GPU, stacks that multiply beside their banks, a CPU with host memory, drives that attend and drives that
do not. ``co-place`` places decode steps on it: what computes, where weights and caches live, what binds, and which
change of the machine would help most. Nothing here was published; the study shows what the tool finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, NoAnswerError
from mapping.placement.co_place import CoPlacement, CoPlaceSettings, co_place
from mapping.placement.column_program import bound_columns
from mapping.placement.machine import Machine
from mapping.solver import SolverOptions
from offchip.studies.stacked_figure import draw_stacks
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from workloads.graph import PERSISTENT_ROLES, Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY"]

SYSTEM: Final = "every-memory"
MODELS: Final = {"8B": "llama-3.1-8b"}
KIB: Final = 1024
LOADS: Final = ((2 * KIB, 1), (16 * KIB, 8), (128 * KIB, 1), (128 * KIB, 64))
"""Context and sequences."""
MEMORIES: Final = ("gpu", "pim", "host", "csd", "ssd")
SOLVE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class _Cell:
    model: str
    context: int
    batch: int

    @property
    def name(self) -> str:
        """Model, context and batch in short."""
        return f"{self.model}, {self.context // KIB}K, {self.batch}"


def _cells() -> list[_Cell]:
    """Every model at every load."""
    return [_Cell(model, context, batch) for model in MODELS for context, batch in LOADS]


@cache
def _graph(cell: _Cell) -> Graph:
    options = WorkloadOptions(phase="decode", batch=cell.batch, prompt=cell.context - 1)
    return load_workload(MODELS[cell.model], options).phases[0].graph


@cache
def _machine() -> Machine:
    return Machine(load_system(SYSTEM))


@cache
def _found(cell: _Cell) -> CoPlacement:
    return co_place(_graph(cell), _machine(), CoPlaceSettings(limit=SOLVE_S))


def _held(found: CoPlacement, *, caches: bool) -> dict[str, int]:
    """Bytes of caches, or of weights, by group of memories."""
    from simulator.rewrite.apply import rewrite

    written, machine = rewrite(found.question.graph, found.plan), found.question.machine
    sizes = dict.fromkeys(MEMORIES, 0)
    for name, homes in found.plan.homes.items():
        tensor = written.tensors[name]
        if tensor.role in PERSISTENT_ROLES and tensor.is_cache == caches:
            for home in homes:
                sizes[machine.system.nodes[home.memory].group] += tensor.size_bytes
    return sizes


def _where(sizes: Mapping[str, int]) -> str:
    """Shares above a hundredth, in words."""
    total = sum(sizes.values()) or 1
    shares = [(group, round(100 * size / total)) for group, size in sizes.items()]
    return ", ".join(f"{group} {share} %" for group, share in shares if share)


def _who(found: CoPlacement, role: str) -> str:
    own = found.notes.placed.get(role, {})
    total = sum(own.values()) or 1
    return ", ".join(
        f"{group} {round(100 * n / total)} %" for group, n in sorted(own.items()) if n / total >= 0.005
    )


def _next(found: CoPlacement) -> str:
    """Which memory would help most with 10 GB more in it: the value of room, by the program's counts not whole."""
    question, options = found.question, SolverOptions(time_limit_s=5.0)
    best, gain = "no more room helps", 0.005
    try:
        base = bound_columns(question.program, question.capacity, options).seconds
        for memory in question.machine.stores:
            usable = {**question.capacity.usable, memory: question.capacity.usable[memory] + 10e9}
            wider = replace(question.capacity, usable=usable)
            seconds = bound_columns(question.program, wider, options).seconds
            if 1 - seconds / base > gain:
                best, gain = question.machine.system.nodes[memory].group, 1 - seconds / base
    except (InfeasibleError, NoAnswerError):
        return "not known"
    return best if best.startswith("no ") else f"10 GB more in {best}: -{100 * gain:.0f} %"


def _row(cell: _Cell) -> tuple[str | float, ...]:
    found = _found(cell)
    seconds = found.trial.seconds
    return (
        cell.name, float(f"{seconds * 1e3:.3g}"), float(f"{cell.batch / seconds:.2g}"),
        _who(found, "products"), _who(found, "attend"), _who(found, "experts") or "none",
        _where(_held(found, caches=False)), _where(_held(found, caches=True)), found.notes.bottleneck, _next(found),
    )  # fmt: skip


_COLUMNS: Final = (
    "model, context, sequences", "ms a step", "tok/s", "products", "attention", "experts", "weights", "caches",
    "bottleneck", "more room", "above the bound, %",
)  # fmt: skip


def _claims() -> list[ClaimResult]:
    """What two papers say of where a large cache belongs, on this machine."""
    largest = _Cell("8B", *LOADS[-1])
    caches = _held(_found(largest), caches=True)
    drives = "drives that attend" if caches["csd"] > caches["ssd"] else "plain drives"
    shares = _found(largest).notes.placed.get("attend", {})
    stacks = "most" if 2 * shares.get("pim", 0) > sum(shares.values()) else "less than half"
    asked = "Where co-place puts the layers of Llama-3.1-8B at 64 sequences of 128K tokens."
    return [
        compare(
            Claim("drives", "drives that hold more of a cache that outgrows memory", "drives that attend", "",
                  "InstAttention, HPCA 2025", "recalled", "mechanism"),
            drives, asked, "The paper compares with plain drives alone; here a CPU's memory and PIM stacks compete.",
        ),
        compare(
            Claim("stacks", "attention of long contexts that runs in stacks which multiply", "most", "",
                  "AttAcc, ASPLOS 2024", "recalled", "mechanism"),
            stacks, asked, "The paper's stacks hold the whole cache; here they hold 64 of 1,100 GB.",
        ),
    ]  # fmt: skip


def _figure(cells: Sequence[_Cell]) -> Figure:
    held = [(_held(_found(cell), caches=False), _held(_found(cell), caches=True)) for cell in cells]
    parts: dict[str, list[float]] = {}
    for group in MEMORIES:
        for kind, words in ((0, "weights"), (1, "caches")):
            # Of all bytes of a bar, in per cent: models and loads differ by three orders of magnitude.
            parts[f"{words} in {group}"] = [
                100 * pair[kind][group] / (sum(pair[0].values()) + sum(pair[1].values())) for pair in held
            ]
    shown = {name: heights for name, heights in parts.items() if max(heights) >= 0.5}
    draw = partial(draw_stacks, bars=[cell.name for cell in cells], parts=shown, ylabel="bytes, %")
    return Figure("homes", "Where weights and caches live: model, context and sequences.", draw)


def _run() -> Outcome:
    cells = _cells()
    rows = [(*_row(cell), round(100 * _found(cell).notes.gap)) for cell in cells]
    table = StudyTable("One step of decode, placed by co-place on every-memory", _COLUMNS, tuple(rows))
    return Outcome(_claims(), [table], [_figure(cells)])


STUDY: Final = Study(
    "every-memory",
    "One model on every memory: who computes, and where weights and caches live",
    "no publication; parts after AttAcc (ASPLOS 2024) and InstAttention (HPCA 2025)",
    "Decode steps of Llama-3.1-8B in 16 bits on one A100 of 40 GB, four HBM3 stacks "
    "that multiply, a Xeon with 512 GiB, four computational and four plain drives. Each search has 15 seconds, so "
    "that a slower machine may find less; the last column says how far its plan is from what the program proves.",
    _run,
    slow=True,
)
