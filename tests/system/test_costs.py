"""Paths, rounds and what kernels draw, worked out by hand on small machines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from machines import GivenSeconds, cpu, drive, op, ram, system, two_gpus, wire

from hw_configs.problems import InputError
from simulator.cost.model import OperatorCost
from simulator.flash.patterns import DrivePattern
from simulator.system import costs as costs_module
from simulator.system.costs import CostTable, MeasuredMemory, Path, Round, Traffic
from simulator.system.drives import engine_drives


def table(**options: Any) -> CostTable:
    return CostTable(two_gpus(bandwidth=1000.0, latency=0.5), GivenSeconds(), **options)


def cost(read: int, written: int, seconds: float = 1.0) -> OperatorCost:
    return OperatorCost(seconds, 0.0, "memory", read, written, 0.0, 0.0)


def test_a_path_crosses_ports_and_wires_in_order() -> None:
    costs = table()
    found = costs.path("gpu0", "gpu1")
    assert list(found.load.items()) == [("gpu0", 1.0), ("up0>", 1.0), ("up1<", 1.0), ("gpu1", 1.0)]
    assert (found.latency_s, found.narrowest, found.resources) == (1.0, "up0", tuple(found.load))
    assert costs.path("gpu0", "gpu1") is found
    assert costs.stream_path("host", "gpu0") == Path({"host": 1.0, "up0<": 1.0}, 0.5, "up0")
    assert (costs.capacity["up0>"], costs.capacity["gpu0"]) == (1000.0, 1e6)
    same = costs.path("host", "host")
    assert (same.load, same.latency_s, same.narrowest) == ({"host": 2.0}, 0.0, "host")


def test_a_path_over_a_half_duplex_wire_and_a_memory_with_latency() -> None:
    machine = system(
        {
            "host": cpu("host", ram(1 << 20, 600.0, latency=0.25)),
            "ssd": drive("ssd", 1 << 20, 500.0, 250.0, 0.125),
        },
        [wire("bus", [("ssd", "host")], 800.0, 0.5, "half")],
    )
    costs = CostTable(machine, GivenSeconds())
    assert costs.path("ssd", "host") == Path({"ssd:read": 1.0, "bus": 1.0, "host": 1.0}, 0.625, "ssd:read")
    assert costs.path("host", "ssd") == Path({"host": 1.0, "bus": 1.0, "ssd:write": 1.0}, 0.75, "ssd:write")
    assert costs.capacity["bus"] == 800.0
    chunked = costs.path("host", "ssd", 64, 2)
    assert chunked == costs.path("host", "ssd"), "only a drive is slower in chunks"


def test_seconds_of_rounds_that_have_the_wires_to_themselves() -> None:
    """Latency of each hop, then the fullest wire; messages of one round share it, rounds follow one another."""
    costs = table()
    one = (Round(3, (("gpu0", "gpu1", 100),)),)
    assert costs.seconds_alone(one) == pytest.approx(3 * 1.0 + 0.1)
    both_ways = (Round(1, (("gpu0", "gpu1", 100), ("gpu1", "gpu0", 300))),)
    assert costs.seconds_alone(both_ways) == pytest.approx(1.0 + 0.3)
    together = (Round(1, (("gpu0", "gpu1", 100), ("gpu0", "host", 300))),)
    assert costs.seconds_alone(together) == pytest.approx(1.0 + 0.4)
    assert costs.seconds_alone((*one, *both_ways)) == pytest.approx(4.4)
    assert costs.seconds_alone(()) == 0.0
    assert costs.seconds_alone((Round(2, ()),)) == 0.0


def test_what_kernels_draw_on_one_port_and_on_two() -> None:
    costs = table()
    assert costs.traffic("gpu0", cost(70, 30)) == Traffic(100.0, {"gpu0": 1.0})
    assert costs.traffic("gpu0", cost(70, 30), 50.0) == Traffic(50.0, {"gpu0": 1.0})
    assert costs.traffic("gpu0", cost(70, 30), 500.0) == Traffic(30.0, {"gpu0": 1.0})
    assert costs.traffic("gpu0", cost(70, 0), 70.0) is None
    assert costs.traffic("gpu0", cost(0, 0)) is None
    assert costs.traffic("gpu0", cost(1, 0, 0.0)) is None
    machine = system(
        {"near": cpu("near", None), "ram": cpu("ram", ram(1 << 20, 600.0, ports=2))}, works_in={"near": "ram"}
    )
    two = CostTable(machine, GivenSeconds())
    assert two.traffic("near", cost(60, 20)) == Traffic(60.0, {"ram:read": 1.0, "ram:write": 20 / 60})
    assert two.traffic("near", cost(0, 20)) == Traffic(20.0, {"ram:write": 1.0})


def test_measured_memories_stand_for_their_data_sheets() -> None:
    costs = table(measured={"gpu0": MeasuredMemory(400.0, 100.0, 3.0, 5.0)})
    assert costs.path("gpu0", "host").load == {"gpu0": 1.0, "gpu0:reading": 1.0, "up0>": 1.0, "host": 1.0}
    assert costs.path("host", "gpu0").load == {"host": 1.0, "up0<": 1.0, "gpu0:writing": 1.0, "gpu0": 4.0}
    assert costs.traffic("gpu0", cost(100, 50)) == Traffic(
        300.0, {"gpu0": 1.0, "gpu0:reading": 100 / 300, "gpu0:writing": 50 / 300}
    )
    assert (costs.joules_per_byte("gpu0", written=False), costs.joules_per_byte("gpu0", written=True)) == (
        3.0,
        5.0,
    )
    assert costs.joules_per_byte("host", written=True) == 0.0


def test_the_faster_algorithm_is_taken_unless_one_is_named() -> None:
    reduce = op("r", ["a", "b"], ["c", "d"], kind="all_reduce", bytes=4000, group=2)
    group = ("gpu0", "gpu1")
    found = {name: table(collective=name) for name in ("auto", "ring", "tree")}
    seconds = {name: costs.seconds_alone(costs.rounds(reduce, group)) for name, costs in found.items()}
    assert seconds["auto"] == min(seconds["ring"], seconds["tree"])
    # Each of two ranks sends half of the bytes and then the other half; a hop each.
    assert found["ring"].rounds(reduce, group) == (
        Round(2, (("gpu0", "gpu1", 4000), ("gpu1", "gpu0", 4000))),
    )
    assert seconds["ring"] == pytest.approx(2 * 1.0 + 4.0)
    with pytest.raises(InputError, match="found 'rnig'; expected one of "):
        table(collective="rnig")


def test_operators_are_priced_once_for_each_device() -> None:
    costs, work = table(), op("o", seconds=2.0)
    first = costs.operator(work, "gpu0")
    assert (first.seconds, costs.operator(work, "gpu0") is first) == (2.0, True)
    assert costs.operator(work, "gpu1") is not first
    kernel, played = object(), SimpleNamespace(cost=lambda *given: given)
    costs.lay_out({"o": kernel}, played)  # type: ignore[dict-item,arg-type]
    laid_out: Any = costs.operator(work, "gpu0", 7.0)
    assert laid_out == (work, "gpu0", kernel, 7.0)
    other = op("other", seconds=3.0)
    assert costs.operator(other, "gpu0").seconds == 3.0
    costs.lay_out({"o": kernel}, None)  # type: ignore[dict-item]
    assert costs.operator(work, "gpu0") is first


def test_drives_that_the_engine_stands_for_state_their_inside() -> None:
    machine = system({name: drive(name, 1 << 20, 1.0, 1.0) for name in ("a", "b", "c", "d")})
    for name, inside in (("a", ("geometry", "timing")), ("b", ("geometry",)), ("c", ("timing",))):
        store: Any = machine.nodes[name].device.store  # type: ignore[union-attr]
        for part in ("geometry", "timing"):
            object.__setattr__(store, part, object() if part in inside else None)
    assert list(engine_drives(machine)) == ["a"]


def test_chunks_come_no_faster_than_a_drive_reads_them_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default 32 reads are in flight; all copies of such chunks share what they read."""
    asked: list[DrivePattern] = []

    def drive_rate(device: Any, pattern: DrivePattern) -> Any:
        asked.append(pattern)
        return SimpleNamespace(bandwidth_bytes_per_s=10.0 * pattern.outstanding)

    monkeypatch.setattr(costs_module, "drive_rate", drive_rate)
    machine = system(
        {"host": cpu("host", ram(1 << 20, 600.0)), "ssd": drive("ssd", 1 << 20, 500.0, 250.0)},
        [wire("nvme", [("ssd", "host")], 800.0, 0.5)],
    )
    costs = CostTable(machine, GivenSeconds())
    whole = costs.path("ssd", "host")
    found = costs.path("ssd", "host", 4096)
    assert found == Path({**whole.load, "ssd:read 32 x 4096 B": 1.0}, 0.5, "ssd:read 32 x 4096 B")
    assert costs.path("ssd", "host", 4096, 32) is found
    assert costs.path("ssd", "host", 4096, 60).narrowest == "ssd:read"
    assert costs.path("ssd", "ssd", 4096).load == costs.path("ssd", "ssd").load
    assert asked == [DrivePattern("read", "random", 4096, 32), DrivePattern("read", "random", 4096, 60)]
    assert costs.capacity["ssd:read 32 x 4096 B"] == 320.0
