"""Language models on every memory: how the best placement moves with the model, its context and the batch.

A machine has a GPU, stacks that multiply beside their banks, a CPU with host memory, drives that attend and drives that
do not. ``co-place`` places decode steps on it: what computes, where weights and caches live, what binds, and which
change of the machine would help most. Nothing here was published; the study shows what the tool finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from hw_configs.library import load_system
from mapping.placement.co_place import CoPlacement, CoPlaceSettings, co_place
from mapping.placement.machine import Machine
from mapping.placement.what_if import levers
from offchip.studies.stacked_figure import draw_stacks
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from workloads.graph import PERSISTENT_ROLES, Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY"]

SYSTEM: Final = "every-memory"
MODELS: Final = {"8B": "llama-3.1-8b", "30B-A3B": "qwen3-30b-a3b", "70B": "llama-3.1-70b"}
KIB: Final = 1024
LOADS: Final = ((2 * KIB, 1), (16 * KIB, 8), (128 * KIB, 8), (128 * KIB, 64))
"""Context and sequences; at the last, caches outgrow memory."""
MEMORIES: Final = ("gpu", "pim", "host", "csd", "ssd")
LIMIT_S: Final = 6.0
SETTINGS: Final = CoPlaceSettings(limit=LIMIT_S, compare=False)


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
    """Every model at every load, but for what takes too long."""
    cells = [_Cell(model, context, batch) for model in MODELS for context, batch in LOADS]
    return [cell for cell in cells if cell != LEFT_OUT]


LEFT_OUT: Final = _Cell("30B-A3B", *LOADS[-1])
"""Its search finds no plan within a factor of three of what is proved in its time."""


@cache
def _graph(cell: _Cell) -> Graph:
    options = WorkloadOptions(phase="decode", batch=cell.batch, prompt=cell.context - 1)
    return load_workload(MODELS[cell.model], options).phases[0].graph


@cache
def _machine() -> Machine:
    return Machine(load_system(SYSTEM))


@cache
def _found(cell: _Cell) -> CoPlacement:
    return co_place(_graph(cell), _machine(), SETTINGS)


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
    """Which memory or device would help most, were it larger or faster; by the program's counts not whole."""
    gains = levers(found.question, SETTINGS, wires=False)
    best = gains[0] if gains else None
    if best is None or best.gain < 0.005:
        return "nothing helps"
    return f"{best.change}: -{100 * best.gain:.0f} %"


def _row(cell: _Cell) -> tuple[str | float, ...]:
    found = _found(cell)
    seconds = found.trial.seconds
    return (
        cell.name, float(f"{seconds * 1e3:.3g}"), float(f"{cell.batch / seconds:.2g}"),
        _who(found, "products"), _who(found, "attend"), _who(found, "experts") or "has none",
        _where(_held(found, caches=False)), _where(_held(found, caches=True)), found.notes.bottleneck, _next(found),
    )  # fmt: skip


_COLUMNS: Final = (
    "model, context, sequences", "ms a step", "tok/s", "products", "attention", "experts", "weights", "caches",
    "bottleneck", "what helps most", "gap, %",
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
    "Models on every memory: who computes, and where weights and caches live",
    "no publication; parts after AttAcc (ASPLOS 2024) and InstAttention (HPCA 2025)",
    "Decode steps of Llama-3.1-8B, Qwen3-30B-A3B and Llama-3.1-70B in 16 bits on one A100 of 40 GB, four HBM3 stacks "
    "that multiply, a Xeon with 512 GiB, four computational and four plain drives. Each search ends by time, after "
    f"{LIMIT_S:g} seconds beside the pricing of what it may choose: figures of large cells differ by a few per cent, "
    "up to a tenth, from run to run, and a slower machine may find less. The gap is the share of a step above what the "
    "program proves to be needed: where it is large, at 64 sequences above all, the placement is what was found and "
    "may be far from the best. Who computes is counted in units of layers, where things live in bytes. What helps "
    "most is 10 GB more in one memory, or one device with its memory twice as fast; faster wires were not asked about. "
    "Qwen3-30B-A3B at 64 sequences of 128K tokens is left out: in that time nothing near its bound is found.",
    _run,
    slow=True,
    timed=True,
)
