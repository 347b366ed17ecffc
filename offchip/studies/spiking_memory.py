"""A content-addressable memory of spiking neurons on a mesh of small cores: what storing and recalling asks of it.

Casanueva-Morato et al., arXiv:2310.05868: region CA3 of the hippocampus on SpiNNaker. Populations, synapses, delays and
weights are those that the authors released; the network is run spike by spike and its events are counted on four chips.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.spiking.mesh import SPINNAKER, MeshCounts, count_events
from simulator.spiking.network import Network, Neuron, Plasticity, Population, Projection
from simulator.spiking.run import run_network

__all__ = ["STUDY", "answered", "memory", "operate"]

_CUES, _BITS = 5, 10
"""Memories and bits of the authors' tests."""
_SLOW: Final = Neuron(capacity=0.27, leak=3.0, current_decay=0.3, threshold=3.0)
_FAST: Final = Neuron(capacity=0.14, leak=0.5, current_decay=0.3, threshold=3.0)
_OUT: Final = Neuron(capacity=0.27, leak=3.0, current_decay=0.3, threshold=2.5)
_LEARNT: Final = Plasticity(gain=36.0, loss=36.0, decay=3.0, most=6.0)
"""Gains of 6 times the largest weight: so sPyNNaker scales them, as recalled."""
_CODE: Final = "dancasmor/sPyMem, CA3_content_addressable and its documentation"
_ABSTRACT: Final = "Casanueva-Morato et al., arXiv:2310.05868, abstract"


def memory(cues: int, bits: int) -> Network:
    """The memory for so many cues and bits of content, with its input and output."""
    sizes = {
        "input": (cues + bits, None), "cue": (cues, _SLOW), "cue by content": (cues, _FAST), "content": (bits, _SLOW),
        "content by content": (bits, _SLOW), "gate": (bits, _FAST), "interneuron": (1, _FAST),
        "merged cue": (cues, _SLOW), "merged content": (bits, _SLOW), "output cue": (cues, _OUT),
        "output content": (bits, _OUT),
    }  # fmt: skip
    wires = (
        Projection("input", "cue", "one-to-one", 6.0),
        Projection("input", "content", "one-to-one", 6.0, first=cues),
        Projection("cue", "cue by content", "one-to-one", 6.0, 2),
        Projection("cue", "cue by content", "all-to-others", -6.0 * bits, 3),
        Projection("cue", "gate", "all-to-all", -6.0, 2),
        Projection("content", "gate", "one-to-one", 9.0),
        Projection("gate", "content by content", "one-to-one", 6.0),
        Projection("content", "interneuron", "all-to-all", 6.0),
        Projection("interneuron", "gate", "all-to-all", 2.0),
        Projection("cue", "content", "all-to-all", 0.0, plasticity=_LEARNT),
        Projection("content by content", "cue by content", "all-to-all", 0.0, plasticity=_LEARNT),
        Projection("cue by content", "cue by content", "all-to-others", -6.0, 2),
        Projection("cue", "merged cue", "one-to-one", 6.0, 3),
        Projection("cue by content", "merged cue", "one-to-one", 6.0),
        Projection("content", "merged content", "one-to-one", 6.0, 3),
        Projection("content by content", "merged content", "one-to-one", 6.0),
        Projection("merged cue", "output cue", "one-to-one", 6.0),
        Projection("merged content", "output content", "one-to-one", 6.0),
    )
    return Network(tuple(Population(name, *size) for name, size in sizes.items()), wires)


Operation = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Ticks that the input is held (3 learns, 1 recalls), cues and bits that are shown."""


def operate(network: Network, operations: list[tuple[int, Operation]], ticks: int) -> npt.NDArray[np.bool_]:
    """Spikes of a memory, ``[tick, neuron]``, for operations that start at given ticks."""
    cues = next(p.size for p in network.populations if p.name == "cue")
    size = network.populations[0].size
    trains: list[list[int]] = [[] for _ in range(size)]
    for start, (held, shown, bits) in operations:
        for neuron in (*shown, *(cues + bit for bit in bits)):
            trains[neuron] += range(start, start + held)
    return run_network(network, {"input": trains}, ticks)


def answered(
    network: Network, spikes: npt.NDArray[np.bool_], name: str, start: int, end: int
) -> dict[int, list[int]]:
    """Ticks after ``start`` at which each neuron of a population fires before ``end``; silent ones are left out."""
    begin = network.begins()[name]
    size = next(p.size for p in network.populations if p.name == name)
    found = {n: np.flatnonzero(spikes[start:end, begin + n]).tolist() for n in range(size)}
    return {neuron: ticks for neuron, ticks in found.items() if ticks}


_LEARN: Final[Operation] = (3, (0,), (0, 1, 2, 9))
_OTHER: Final[Operation] = (3, (1,), (0, 7, 8))
_AGAIN: Final[Operation] = (3, (0,), (2, 3, 8))
_OPERATIONS: Final[tuple[tuple[str, Operation], ...]] = (
    ("learn cue 0", _LEARN), ("learn cue 1", _OTHER), ("recall by cue 0", (1, (0,), ())),
    ("recall by bit 0", (1, (), (0,))), ("recall by bit 9", (1, (), (9,))), ("learn cue 0 anew", _AGAIN),
    ("recall by cue 0 anew", (1, (0,), ())), ("recall by bit 9 anew", (1, (), (9,))),
)  # fmt: skip
_SPACE: Final = 12
"""Ticks from one operation to the next."""


@cache
def _session() -> tuple[Network, npt.NDArray[np.bool_]]:
    network = memory(_CUES, _BITS)
    plan = [(_SPACE * place, operation) for place, (_, operation) in enumerate(_OPERATIONS)]
    return network, operate(network, plan, _SPACE * len(plan))


def _answer(operation: str, output: str) -> dict[int, list[int]]:
    network, spikes = _session()
    start = _SPACE * [name for name, _ in _OPERATIONS].index(operation)
    return answered(network, spikes, output, start, start + _SPACE)


def _set(neurons: object) -> str:
    return ", ".join(str(n) for n in sorted(neurons)) or "none"  # type: ignore[call-overload]


def _least_gap(first: Operation, least: int = 3) -> int:
    """Ticks from the start of an operation on cue 0 to another on cue 1, from which on all is answered rightly.

    Every gap from there to 12 gives the right answers too; the second operation learns, or recalls by cue or by bits.
    """
    network, good = memory(_CUES, _BITS), 12
    for gap in range(12, least - 1, -1):
        if not all(_right(network, first, second, gap) for second in (_OTHER, (1, (1,), ()), (1, (), (8,)))):
            break
        good = gap
    return good


def _right(network: Network, first: Operation, second: Operation, gap: int) -> bool:
    """Whether memories hold and answer: both learnt, ``first``, ``second`` after a gap, then all recalled."""
    plan = [(0, _LEARN), (20, _OTHER), (40, first), (40 + gap, second)]
    probes: list[Operation] = [(1, (0,), ()), (1, (1,), ()), (1, (), (9,)), (1, (), (7,))]
    plan += [(80 + 20 * place, probe) for place, probe in enumerate(probes)]
    spikes = operate(network, plan, 160)
    wanted = [({0}, {0, 1, 2, 9}), ({1}, {0, 7, 8}), ({0}, {9}), ({1}, {7})]
    for place, (cues, bits) in enumerate(wanted):
        span = (80 + 20 * place, 100 + 20 * place)
        if set(answered(network, spikes, "output cue", *span)) != cues:
            return False
        if set(answered(network, spikes, "output content", *span)) != bits:
            return False
    during = set(answered(network, spikes, "output content", 40 + gap + 5, 80))
    cue = set(answered(network, spikes, "output cue", 40 + gap + 5, 80))
    bits = {8} if second[2] == (8,) else {0, 7, 8}
    return bits <= during and 1 in cue


def _claims() -> list[ClaimResult]:
    first, again = _answer("learn cue 0", "output content")[0]
    cue, content = (
        _answer("recall by cue 0", "output cue")[0][0],
        _answer("recall by cue 0", "output content")[0][0],
    )
    timing = f"The released network of {_CUES} cues and {_BITS} bits, run tick by tick; time from an operation's start."
    copied = (
        "Delays, weights and neurons are the source's, so that agreement shows that they are counted alike."
    )
    rule = (
        "sPyNNaker's rule for spike pairs is applied as recalled: a spike of the source that meets one of the target "
        "weakens."
    )
    gaps = (
        "The least gap from which on the next operation on another cue (learning, recall by cue or by a bit) answers "
        "rightly, and all memories are whole after it."
    )
    stricter = (
        "What the source's gap has to keep intact, and on which memories, is in the paper, which was not read. The two "
        "memories here share a bit."
    )
    rows: list[tuple[str, str, float | str, Basis, float | str | None, str, str]] = [
        ("learn-first", "learning: first output", 5.0, "counting", float(first), timing, copied),
        ("learn-again", "learning: second output", 7.0, "counting", float(again), timing, copied),
        ("recall-cue", "recall by cue: the cue's output", 5.0, "counting", float(cue), timing, copied),
        ("recall-content", "recall by cue: the content's output", 6.0, "counting", float(content), timing, copied),
        ("by-cue", "bits returned for a cue that holds 0, 1, 2, 9", "0, 1, 2, 9", "mechanism",
         _set(_answer("recall by cue 0", "output content")), timing, rule),
        ("by-bit", "cues returned for a bit that memories 0 and 1 hold", "0, 1", "mechanism",
         _set(_answer("recall by bit 0", "output cue")), timing, rule),
        ("relearn", "bits returned for a cue that learnt 2, 3, 8 anew", "2, 3, 8", "construction",
         _set(_answer("recall by cue 0 anew", "output content")), timing,
         f"{rule} Were that not so, old bits would stay: the rule was chosen by this claim."),
        ("relearn-bit", "cues returned for a bit that was forgotten", "none", "construction",
         _set(_answer("recall by bit 9 anew", "output cue")), timing,
         "The way from bit to cue is not weakened: the gate keeps the old bit's spikes from it while a cue is shown."),
        ("gap-learn", "gap after learning", 7.0, "mechanism", float(_least_gap(_LEARN)), gaps, stricter),
        ("gap-recall", "gap after recall", 6.0, "mechanism",
         float(max(_least_gap((1, (0,), ())), _least_gap((1, (), (9,))))), gaps, stricter),
    ]  # fmt: skip
    results = [
        compare(
            Claim(
                id, words, published, "ms" if isinstance(published, float) else "", _CODE, "published", basis
            ),
            ours,
            method,
            differences,
        )
        for id, words, published, basis, ours, method, differences in rows
    ]
    unpublished = Claim(
        "events",
        "spikes, packets and load of cores",
        "no figure published",
        "",
        _ABSTRACT,
        "published",
        "mechanism",
    )
    return [
        *results,
        compare(
            unpublished,
            None,
            "Counted (tables).",
            "Nothing to hold them against: the source gives no figure.",
        ),
    ]


def _events(counts: MeshCounts, start: int, end: int) -> tuple[float, ...]:
    span = slice(start, end)
    sums = (counts.spikes, counts.packets, counts.events, counts.hops)
    return (*(float(part[span].sum()) for part in sums), 1e6 * float(counts.core_s[span].max()))


def _run() -> Outcome:
    network, spikes = _session()
    counts = count_events(network, SPINNAKER, spikes)
    rows: list[tuple[str | float, ...]] = [
        (name, *_events(counts, _SPACE * place, _SPACE * (place + 1)))
        for place, (name, _) in enumerate(_OPERATIONS)
    ]
    columns = ("operation", "spikes", "packets", "synaptic events", "hops", "busiest core in a tick, us")
    return Outcome(_claims(), [StudyTable("Events of an operation", columns, tuple(rows)), _sizes()])


def _sizes() -> StudyTable:
    """A memory of more cues and bits, half of the bits set: one learnt, recalled by its cue."""
    rows: list[tuple[str | float, ...]] = []
    for cues, bits in ((5, 10), (16, 64), (64, 256), (256, 1024)):
        network = memory(cues, bits)
        half = tuple(range(bits // 2))
        spikes = operate(network, [(0, (3, (0,), half)), (12, (1, (0,), ()))], 24)
        counts = count_events(network, SPINNAKER, spikes)
        rows.append(
            (f"{cues} cues, {bits} bits", float(counts.core_s.shape[1]), *_events(counts, 0, 12)[1:4],
             *_events(counts, 12, 24)[1:4], 1e6 * counts.busiest_core_s, float(counts.busiest_link),
             "yes" if counts.real_time else "no")
        )  # fmt: skip
    columns = (
        "memory", "cores", "learn: packets", "events", "hops", "recall: packets", "events", "hops",
        "busiest core in a tick, us", "packets of the busiest link in a tick", "real time",
    )  # fmt: skip
    return StudyTable("Memories by size", columns, tuple(rows))


STUDY: Final = Study(
    "spiking-memory",
    "A content-addressable memory of spiking neurons",
    "Casanueva-Morato et al., Bio-inspired computational memory model of the Hippocampus: an approach to a "
    "neuromorphic spike-based Content-Addressable Memory, arXiv:2310.05868",
    "The memory that the authors released, run spike by spike: memories learnt, recalled by cue and by bits, learnt "
    "anew; its events on four SpiNNaker chips in ticks of 1 ms. Clocks of each kind of work are assumptions.",
    _run,
)
