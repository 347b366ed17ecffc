"""Rates that are measured, with the measurements played: DRAM devices at cycle fidelity, and drives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from machines import cpu, ram, system

from simulator.cost.model import OperatorCost
from simulator.dram.patterns import AccessPattern
from simulator.flash.patterns import DrivePattern
from simulator.system import cycle as cycle_module
from simulator.system import drives as drives_module
from simulator.system.cycle import CycleMemory, access_pattern, measured_memories
from simulator.system.drives import MeasuredRates, drive_ports, flash_bandwidth
from tests.typed import operator_of
from workloads.graph import Operator
from workloads.operators import Product


def of(work: Any, read: int = 100, written: int = 0, dtype: str = "fp16") -> Operator:
    return Operator("o", work, (), (), dtype=dtype, beside_read=read, beside_written=written)


@pytest.mark.parametrize(
    ("operator", "pattern"),
    [
        (of(Product(m=1, n=1, k=1), 90, 10), AccessPattern("stream", write_share=0.1)),
        (of(Product(m=1, n=1, k=1), 0, 0), AccessPattern("stream", write_share=0.0)),
        (of(Product(m=1, n=1, k=1), 84, 16), AccessPattern("stream", write_share=0.2)),
        (of(Product(m=1, n=1, k=1), 0, 1), AccessPattern("stream", write_share=1.0)),
    ],
)  # fmt: skip
def test_streams_by_their_share_of_writes(operator: Operator, pattern: AccessPattern) -> None:
    assert access_pattern(operator) == pattern


@pytest.mark.parametrize(("n", "dtype", "row"), [(64, "fp16", 128), (64, "int4", 32), (1, "int4", 1)])
@pytest.mark.parametrize("kind", ["embedding", "gather", "scatter"])
def test_rows_of_a_table_by_their_bytes(kind: str, n: int, dtype: str, row: int) -> None:
    operator = operator_of(kind, 0.0, 50, 50, dtype, name="o", m=4, n=n)
    assert access_pattern(operator) == AccessPattern("gather", row, write_share=0.5)


def test_many_queries_at_once_are_a_stream() -> None:
    many = operator_of("attention", 1.0, 100, 0, "fp16", name="a", q_len=2, head_dim=128, kv_heads=8)
    assert access_pattern(many) == AccessPattern("stream", write_share=0.0)


STREAM = AccessPattern("stream")


class Model:
    """A cost model that waits for its memory's read bandwidth, and notes which memories it was asked beside."""

    name = "played"

    def __init__(self) -> None:
        self.asked: list[float] = []

    def cost(self, operator: Operator, node: Any, memory: Any) -> OperatorCost:
        self.asked.append(memory.read_bandwidth)
        seconds = max(2.0, 100.0 / memory.read_bandwidth)
        return OperatorCost(seconds, 0.5, "compute", operator.read_bytes, operator.write_bytes, 1.0, 7.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CPU whose memory passes for a DRAM device that the engine measures at 20 bytes/s."""
    found = system({"cpu": cpu("cpu", ram(1000, 5.0)), "other": cpu("other", ram(1000, 5.0))})
    monkeypatch.setattr(cycle_module, "engine_memories", lambda _: {"cpu": "device"})

    def pattern_bandwidth(device: str, pattern: AccessPattern = STREAM) -> Any:
        assert device == "device"
        share = pattern.write_share
        return SimpleNamespace(bandwidth_bytes_per_s=20.0 + share, energy_per_byte_j=0.25 + share)

    monkeypatch.setattr(cycle_module, "pattern_bandwidth", pattern_bandwidth)
    return found


def test_bytes_take_what_the_engine_says_and_arithmetic_what_the_model_says(machine: Any) -> None:
    model = Model()
    costs = CycleMemory(model, machine)
    assert costs.name == "played, DRAM by the engine"
    node, memory = machine.nodes["cpu"], machine.memories["cpu"]
    slow = costs.cost(of(Product(m=1, n=1, k=1), 60, 40), node, memory)
    assert slow == OperatorCost(100 / 20.4, 0.5, "memory", 60, 40, 1.0, 100 * 0.65)
    quick = costs.cost(of(Product(m=1, n=1, k=1), 20, 0), node, memory)
    assert quick == OperatorCost(2.0, 0.5, "compute", 20, 0, 1.0, 20 * 0.25)
    nothing = costs.cost(of(Product(m=1, n=1, k=1), 0, 0), node, memory)
    assert (nothing.seconds, nothing.memory_energy_j) == (20.0, 7.0)
    other = costs.cost(of(Product(m=1, n=1, k=1), 60, 40), machine.nodes["other"], machine.memories["other"])
    assert (other.seconds, other.memory_energy_j) == (20.0, 7.0)
    assert set(model.asked) == {5.0, 1e18}
    assert costs._boundless["cpu"].write_bandwidth == 1e18


def test_streams_of_reads_and_of_writes_are_measured_apart(machine: Any) -> None:
    (found,) = measured_memories(machine).values()
    assert (found.read_bytes_per_s, found.write_bytes_per_s) == (20.0, 21.0)
    assert (found.read_j_per_byte, found.write_j_per_byte) == (0.25, 1.25)


def store(**fields: Any) -> Any:
    return SimpleNamespace(
        **{"read_bandwidth": 9.0, "write_bandwidth": 4.0, "geometry": None, "timing": None, **fields}
    )


def test_drives_stream_in_large_requests_and_no_faster_than_they_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    rates = {"read": 8.0, "write": 5.0}

    def drive_rate(device: Any, pattern: DrivePattern, fidelity: str) -> Any:
        asked.append((pattern, fidelity))
        return SimpleNamespace(bandwidth_bytes_per_s=rates[pattern.operation])

    monkeypatch.setattr(drives_module, "drive_rate", drive_rate)
    reading, writing = drive_ports(SimpleNamespace(store=store()), "closed")  # type: ignore[arg-type]
    assert asked == [], "measured when it is called"
    assert (reading(), writing()) == (8.0, 4.0)
    rates["read"] = 10.0
    assert reading() == 9.0
    sequential = [
        DrivePattern(operation, "sequential", 131072, 32) for operation in ("read", "write", "read")
    ]  # type: ignore[arg-type]
    assert asked == [(pattern, "closed") for pattern in sequential]


def test_rates_are_worked_out_once() -> None:
    calls: list[str] = []
    rates = MeasuredRates({"a": lambda: calls.append("a") or 3.0})  # type: ignore[func-returns-value]
    rates["b"] = 4.0
    assert (rates["b"], calls) == (4.0, [])
    assert (rates["a"], rates["a"], calls) == (3.0, 3.0, ["a"])
    with pytest.raises(KeyError):
        rates["c"]


@pytest.mark.parametrize(
    ("inside", "channels", "bandwidth"),
    [(10.0, None, 10.0), (5.0, None, 9.0), (1.0, (4, 3.0), 12.0), (20.0, (4, 3.0), 20.0)],
)
def test_what_the_channels_of_a_drive_carry(
    inside: float, channels: tuple[int, float] | None, bandwidth: float
) -> None:
    parts: dict[str, Any] = {}
    if channels is not None:
        parts = {
            "geometry": SimpleNamespace(channels=channels[0]),
            "timing": SimpleNamespace(channel_bandwidth=channels[1]),
        }
    device: Any = SimpleNamespace(store=store(**parts), internal_bandwidth=inside)
    assert flash_bandwidth(device) == bandwidth
    for missing in ("geometry", "timing"):
        device.store = store(**{**parts, missing: None})
        assert flash_bandwidth(device) == max(inside, 9.0)
