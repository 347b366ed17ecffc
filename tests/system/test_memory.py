"""The books of a memory and what is said when it is full; the ports that its bytes cross."""

from __future__ import annotations

import math

import pytest
from machines import cpu, op, ram, system, tensors

from simulator.system.memory import MemoryLedger, memory_report, out_of_memory
from simulator.system.ports import MemoryPorts, _weight, together
from workloads.graph import Graph, Role

MACHINE = system({"a": cpu("a", ram(100, 1.0)), "b": cpu("b", ram(50, 1.0))})
GRAPH = Graph(
    "g",
    tensors(
        {"x": 30, "y": 20, "z": 30, "w": 10, "v": 0, "u": 5, "t": 4}, {"w": Role.WEIGHT, "u": Role.WEIGHT}
    ),
    (op("o"),),
)


def test_books_of_every_memory() -> None:
    ledger = MemoryLedger(MACHINE, GRAPH)
    assert (ledger.usable, ledger.room("a"), ledger.peak_bytes("a")) == ({"a": 100, "b": 50}, 100, 0)
    assert ledger.peak("a").live == ()
    assert (ledger.peak("a").time_s, ledger.peak("a").bytes) == (0.0, 0)
    for time_s, tensor in ((1.0, "x"), (2.0, "z"), (3.0, "y")):
        ledger.allocate(tensor, "a", time_s)
    ledger.release("x", "a", 4.0)
    ledger.allocate("x", "a", 5.0)
    ledger.allocate("w", "b", 6.0)
    assert (ledger.room("a"), ledger.room("b"), ledger.used) == (20, 40, {"a": 80, "b": 10})
    assert ledger.entries["a"] == [
        (1.0, "x", 30),
        (2.0, "z", 30),
        (3.0, "y", 20),
        (4.0, "x", -30),
        (5.0, "x", 30),
    ]
    peak = ledger.peak("a")
    assert (peak.memory, peak.time_s, peak.bytes) == ("a", 3.0, 80), "the first of equally full moments"
    assert peak.live == (("x", 30), ("z", 30), ("y", 20)), "the largest first, then by name"
    ledger.release("y", "a", 7.0)
    ledger.allocate("y", "a", 8.0)
    ledger.allocate("w", "a", 9.0)
    assert (ledger.peak("a").time_s, ledger.peak("a").bytes) == (9.0, 90)


def test_why_something_does_not_fit() -> None:
    """Roles by size, the five largest tensors, and every figure in its unit."""
    mebi, kibi = 1 << 20, 1 << 10
    sizes = {"t": 4, "w": 2 * mebi, "x": 3 * kibi, "u": 1 * kibi, "z": 5 * kibi, "y": 3 * kibi, "v": 0}
    live = [(GRAPH.tensors[name], size) for name, size in sizes.items()]
    assert memory_report("gpu", 5 * mebi, 4 * mebi, 8 * mebi, live) == (
        "gpu needs 5 MiB and has 4 MiB usable of 8 MiB: short by 1 MiB\n"
        "  by role: weight 2.001 MiB, activation 11 KiB\n"
        "  largest: w 2 MiB, z 5 KiB, x 3 KiB, y 3 KiB, u 1 KiB"
    )
    assert "  by role: \n  largest: v 0 B" in memory_report("m", 1, 0, 0, live[-1:])


def test_who_waits_and_who_holds_the_bytes() -> None:
    ledger = MemoryLedger(MACHINE, GRAPH)
    for time_s, tensor in ((0.0, "x"), (0.0, "z"), (1.0, "w")):
        ledger.allocate(tensor, "a", time_s)
    ledger.release("z", "a", 2.0)
    ledger.allocate("y", "b", 3.0)
    error = out_of_memory(ledger, MACHINE, {"a": ("task one", 70), "b": ("task two", 40)}, "levers")
    assert str(error) == (
        "out of memory at task one: a needs 110 B and has 100 B usable of 100 B: short by 10 B\n"
        "  by role: activation 30 B, weight 10 B\n  largest: x 30 B, w 10 B\n  levers\n"
        "out of memory at task two: b needs 60 B and has 50 B usable of 50 B: short by 10 B\n"
        "  by role: activation 20 B\n  largest: y 20 B\n  levers"
    )


def ports(
    count: int, *, even: bool = False, read: float = 8.0, write: float = 2.0, flash: float | None = None
) -> MemoryPorts:
    return MemoryPorts("m", count, even, lambda: read, lambda: write, flash)


@pytest.mark.parametrize(
    ("given", "rates", "read", "written"),
    [
        (ports(2), {"m:read": 8.0, "m:write": 2.0}, {"m:read": 1.0}, {"m:write": 1.0}),
        (ports(1, even=True), {"m": 8.0}, {"m": 1.0}, {"m": 1.0}),
        (ports(1), {"m": 8.0, "m:reading": 8.0, "m:writing": 2.0}, {"m": 1.0, "m:reading": 1.0},
         {"m": 4.0, "m:writing": 1.0}),
        (ports(1, read=2.0, write=8.0), {"m": 8.0, "m:reading": 2.0, "m:writing": 8.0},
         {"m": 4.0, "m:reading": 1.0}, {"m": 1.0, "m:writing": 1.0}),
        (ports(2, flash=9.0), {"m:read": 8.0, "m:write": 2.0, "m:flash": 9.0}, {"m:flash": 1.0, "m:read": 1.0},
         {"m:flash": 1.0, "m:write": 1.0}),
        (ports(2, flash=0.0), {"m:read": 8.0, "m:write": 2.0, "m:flash": 0.0}, {"m:flash": 1.0, "m:read": 1.0},
         {"m:flash": 1.0, "m:write": 1.0}),
    ],
)  # fmt: skip
def test_what_a_byte_crosses_and_how_fast(
    given: MemoryPorts, rates: dict[str, float], read: dict[str, float], written: dict[str, float]
) -> None:
    found = {name: rate() for name, rate in given.rates.items()}
    assert found == rates
    assert list(given.crossed("read", found).items()) == list(read.items())
    assert list(given.crossed("write", found).items()) == list(written.items())
    assert given.inside() == {"m:flash": 1.0}


def test_one_flow_alone_goes_at_the_rate_of_its_way() -> None:
    """The weight is the quotient or its neighbour below, whichever leaves the way its whole rate."""
    below = 0
    for port in range(1, 60):
        for way in range(1, port + 1):
            weight = _weight(float(port), float(way))
            assert weight in (port / way, math.nextafter(port / way, 0.0))
            assert port / weight >= way
            if port / (port / way) >= way:
                assert weight == port / way
            else:
                below += 1
    assert below > 0


def test_traffic_together() -> None:
    parts = [(3.0, {"a": 1.0, "b": 2.0}), (0.0, {"c": 1.0}), (2.0, {"b": 0.5, "d": 1.0})]
    assert together(parts) == {"a": 3.0, "b": 7.0, "d": 2.0}
    assert together([(0.5, {"a": 2.0})]) == {"a": 1.0}
