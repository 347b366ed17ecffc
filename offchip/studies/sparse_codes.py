"""Items learnt at once as sparse codes in one memory: accesses, time on one core, and a memory that stands apart.

Rinkus and Leveille, Superposed Episodic and Semantic Memory (Sparsey), arXiv:1710.07829. One field of the model is run
item by item (:mod:`simulator.sparse_codes.memory`). The published sizes were not read, so items are drawn at random and
sizes are swept.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np

from hw_configs.access_energy import AccessEnergy, energy_per_byte
from hw_configs.library import load_system
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.sparse_codes.memory import (
    CodeMemory,
    MemoryShape,
    apart_accesses,
    code_accesses,
    overlap,
)
from simulator.vector_search.processor import Processor, cpu_processor
from simulator.vector_search.work import Work

__all__ = ["STUDY", "learnt", "likeness", "seconds_to_learn"]

INPUTS: Final = 28 * 28
"""Pixels of an MNIST image, black or white."""
ACTIVE: Final = 100
"""Of them black: an assumption."""
SHAPE: Final = MemoryShape(INPUTS, 24, 24)
"""Groups and units of the memory that is run: an assumption."""
STORED: Final = (10, 30, 100, 300, 1000)
MNIST: Final = 60_000
WEIZMANN: Final = 90 * 60
"""Frames: 90 snippets (the author's page) of 60 frames (an assumption)."""
NANOMETRES: Final = 45
HOST: Final = "desktop"
_FIXED: Final = "arXiv:1806.04704, abstract"
_PAPER: Final = "arXiv:1710.07829, abstract"


def _items(count: int, seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.choice(INPUTS, ACTIVE, replace=False).tolist() for _ in range(count)]


@cache
def learnt(count: int, shape: MemoryShape = SHAPE) -> tuple[float, float, float, int]:
    """After so many items: reads of the last one's learning, reads of a recall, share of codes recalled whole, and the
    number of different codes.
    """
    memory, items = CodeMemory(shape), _items(count, seed=5)
    codes = []
    for item in items:
        before = memory.read_bits
        codes.append(memory.learn(item))
    last = memory.read_bits - before
    before = memory.read_bits
    right = sum(
        memory.recall(item).tolist() == code.tolist() for item, code in zip(items, codes, strict=True)
    )
    different = len({tuple(code.tolist()) for code in codes})
    return float(last), (memory.read_bits - before) / count, right / count, different


@cache
def likeness(kept: int, trials: int = 20) -> float:
    """Share of a code that an item keeps which shares so many active inputs with the one before it."""
    found = []
    for seed in range(trials):
        draw = np.random.default_rng(seed)
        item = draw.permutation(INPUTS)
        memory = CodeMemory(SHAPE, seed)
        code = memory.learn(item[:ACTIVE].tolist())
        other = np.concatenate([item[:kept], item[ACTIVE : 2 * ACTIVE - kept]])
        found.append(overlap(code, memory.learn(other.tolist())))
    return float(np.mean(found))


@cache
def _core() -> Processor:
    core = cpu_processor(load_system(HOST), "fp32", 1)
    assert core is not None
    return core


def seconds_to_learn(items: int, weights_an_item: float) -> float:
    """Seconds on one core that loads one weight after another, two a clock, out of its cache."""
    return _core().seconds(Work(lookups=items * weights_an_item))


def _joules(bits: float, size: float) -> float:
    """Of bits out of an SRAM of such a size in bytes."""
    return bits / 8 * energy_per_byte(AccessEnergy(kind="sram", technology=NANOMETRES), size)


def _bus_joules(bits: float) -> float:
    return bits / 8 * energy_per_byte(AccessEnergy(kind="ddr3"), 0)


def _claims() -> list[ClaimResult]:
    def claim(id: str, statement: str, published: float | str, source: str, basis: Basis) -> Claim:
        return Claim(
            id, statement, published, "x" if isinstance(published, float) else "", source, "published", basis
        )

    first, last = learnt(STORED[0]), learnt(STORED[-1])
    run = f"{SHAPE.modules} groups of {SHAPE.units} units over {INPUTS} inputs, {ACTIVE} active, items at random."
    likes = [likeness(kept) for kept in (0, 25, 50, 75, 100)]
    reads = code_accesses(SHAPE, ACTIVE, learns=False).read_bits
    crossing = reads / INPUTS
    apart = apart_accesses(SHAPE, MNIST, learns=False).bus_bits
    minutes = 600.0
    most = minutes / seconds_to_learn(MNIST, 1.0)
    return [
        compare(Claim("minutes", "time to learn MNIST or Weizmann on one CPU", "minutes", "", _PAPER, "published",
                      "construction"), None,
                f"{MNIST} items on one core of {HOST}, two loads a clock. Ten minutes allow {most / 1e6:.0f} million "
                f"weights an item; the memory that is run has {reads:,} and takes "
                f"{seconds_to_learn(MNIST, reads):.2g} s.",
                "Fields, levels and lengths of the published networks were not read."),
        compare(claim("learning", f"accesses to learn, item {STORED[-1]} over {STORED[0]}", 1.0, _FIXED, "counting"),
                last[0] / first[0], run, "The source says that the time stays; its algorithm has no other step."),
        compare(claim("recall", f"accesses to recall, {STORED[-1]} items over {STORED[0]}", 1.0, _FIXED, "counting"),
                last[1] / first[1], run,
                f"As above. {STORED[0]} items have {first[3]} codes, {100 * first[2]:.0f} % of them recalled whole; "
                f"{STORED[-1]} have {last[3]} and {100 * last[2]:.0f} %: the time stays, the memory fills."),
        compare(claim("likeness", "overlap of codes as items share more inputs", "rises", _PAPER, "construction"),
                "rises" if all(a < b for a, b in pairwise(likes)) else "does not rise", run,
                "Overlaps for 0, 25, 50, 75 and 100 shared of 100: " + ", ".join(f"{x:.2f}" for x in likes)
                + ". The curve from familiarity to choice is an assumption."),
        compare(Claim("movement", f"bits over the bus to recall one of {MNIST}, memory apart against in place", "more",
                      "", _PAPER, "published", "counting"),
                "more" if apart > code_accesses(SHAPE, ACTIVE, learns=False).bus_bits else "less",
                f"An exhaustive list apart brings {apart / 8e6:.1f} MB, the inputs' and winners' numbers are "
                f"{code_accesses(SHAPE, ACTIVE, learns=False).bus_bits / 8:.0f} B.",
                f"In place {reads / 8:.0f} B are read without the bus; below {crossing:.0f} items the list reads less. "
                "A memory of this size no longer tells as many apart (table), and an index over the list brings less "
                "than all of it."),
    ]  # fmt: skip


def _capacity() -> StudyTable:
    """How many items a memory holds: it has to read more for each to hold more."""
    rows: list[tuple[str | float, ...]] = []
    for modules, units in ((24, 24), (50, 50), (24, 100), (50, 100), (50, 200)):
        shape = MemoryShape(INPUTS, modules, units)
        reads = code_accesses(shape, ACTIVE, learns=False).read_bits
        recalled = (100 * learnt(count, shape)[2] for count in STORED[:4])
        rows.append((f"{modules} groups of {units}", reads / 8, reads / INPUTS, *recalled))
    columns = (
        "memory", "read for a recall, B", "items of a list with as many bits", *(f"{n} items, %" for n in STORED[:4]),
    )  # fmt: skip
    return StudyTable("Codes recalled whole by size", columns, tuple(rows))


def _run() -> Outcome:
    place = SHAPE.weights / 8
    code, found = code_accesses(SHAPE, ACTIVE, learns=False), []
    for count in (*STORED, 10_000, MNIST):
        apart = apart_accesses(SHAPE, count, learns=False)
        fate: tuple[str | float, ...] = ("-", "-")
        if count in STORED:
            fate = (float(learnt(count)[3]), 100 * learnt(count)[2])
        found.append(
            (float(count), code.read_bits / 8, code.bus_bits / 8, apart.bus_bits / 8,
             1e9 * (_joules(code.read_bits, place) + _bus_joules(code.bus_bits)),
             1e9 * (_joules(apart.read_bits, count * INPUTS / 8) + _bus_joules(apart.bus_bits)), *fate)
        )  # fmt: skip
    columns = (
        "items", "codes: read in place, B", "codes: over the bus, B", "list: over the bus, B", "codes, nJ", "list, nJ",
        "different codes", "recalled whole, %",
    )  # fmt: skip
    recall = StudyTable(f"One recall, SRAM of {NANOMETRES} nm and a DDR3 bus", columns, tuple(found))
    sizes = tuple(
        (float(fields), float(modules), float(units), reads, seconds_to_learn(MNIST, reads),
         seconds_to_learn(WEIZMANN, reads))
        for fields, modules, units in ((1, 24, 24), (1, 100, 100), (100, 10, 20), (1000, 10, 20), (1000, 20, 50))
        for reads in (float(fields * ACTIVE * modules * units),)
    )  # fmt: skip
    names = ("fields", "groups", "units", "weights an item", f"{MNIST} images, s", f"{WEIZMANN} frames, s")
    return Outcome(
        _claims(), [recall, _capacity(), StudyTable(f"Learning on one core of {HOST}", names, sizes)]
    )


STUDY: Final = Study(
    "sparsey",
    "Sparsey: items learnt at once as sparse codes",
    "Rinkus, Leveille, Superposed Episodic and Semantic Memory via Sparse Distributed Representation, arXiv:1710.07829",
    "One memory of sparse codes run item by item, up to 1,000 random items: accesses, likeness of codes, recall; "
    "beside a list in a memory apart, and learning times on one core by size.",
    _run,
)
