"""Cycle fidelity: do bytes in DRAM devices take the time that the DRAM engine measures, and nothing else change?"""

from __future__ import annotations

import json

import pytest

import offchip
from hw_configs.library import load_device, load_system
from simulator.cost.model import COST_MODELS
from simulator.dram.build import channel_of
from simulator.dram.patterns import AccessPattern, channel_grain, pattern_bandwidth
from simulator.system.costs import CostTable
from simulator.system.cycle import CycleMemory, access_pattern, engine_memories, measured_memories
from tests.typed import operator_of
from workloads.graph import Operator


def product(read: int, written: int = 0) -> Operator:
    return operator_of("matmul", 1.0, read, written, "fp16", name="op", m=1, n=64, k=64)


def test_unified_memory_keeps_below_its_pins_and_gives_the_same_bytes_twice():
    arguments = {"batch": 8, "phase": "decode"}
    event = offchip.simulate("gpt2", "laptop", **arguments)
    cycle = offchip.simulate("gpt2", "laptop", fidelity="cycle", **arguments)
    again = offchip.simulate("gpt2", "laptop", fidelity="cycle", **arguments)
    assert cycle.makespan_s != event.makespan_s
    assert json.dumps(cycle.to_json()) == json.dumps(again.to_json())
    memory = next(iter(engine_memories(load_system("laptop"))))
    assert cycle.provenance["by_dram_engine"] == [memory]
    moved = sum(use.read_bytes + use.written_bytes for use in cycle.memories.values())
    assert cycle.makespan_s >= moved / load_system("laptop").memories[memory].read_bandwidth


@pytest.mark.parametrize("model", ["by-device", "roofline"])
def test_arithmetic_and_traffic_come_apart_on_a_gpu(model):
    """A product whose bytes decide takes the engine's time; one whose arithmetic decides takes the model's."""
    system = load_system("laptop")
    node = next(node for node in system.workers() if node.device.kind == "gpu")
    memory = system.memories[node.memory or node.name]
    rate = pattern_bandwidth(engine_memories(system)[memory.name]).bandwidth_bytes_per_s
    cycle = CycleMemory(COST_MODELS.get(model), system)

    def gemm(m: int) -> Operator:
        n = k = 8192
        read = 2 * (m * k + n * k)
        sizes = {"m": m, "n": n, "k": k}
        return operator_of("matmul", 2.0 * m * n * k, read, 2 * m * n, "fp16", name="g", **sizes)

    thin, thick = gemm(1), gemm(8192)
    moved = thin.read_bytes + thin.write_bytes
    assert cycle.cost(thin, node, memory).seconds == pytest.approx(moved / rate, rel=0.02)
    compute = node.compute
    assert compute is not None
    assert cycle.cost(thick, node, memory).seconds >= thick.flops / max(compute.matrix.values(), default=1e30)
    assert cycle.cost(thick, node, memory).bound_by != "memory"


def test_an_operator_takes_the_time_of_its_pattern():
    system = load_system("laptop")
    node = next(node for node in system.workers() if node.device.kind == "cpu")
    memory = system.memories[node.memory or node.name]
    device = engine_memories(system)[memory.name]
    model = CycleMemory(COST_MODELS.get("roofline"), system)
    size = 2**30
    streamed = pattern_bandwidth(device).bandwidth_bytes_per_s
    assert model.cost(product(size), node, memory).seconds == pytest.approx(size / streamed)
    assert streamed <= memory.read_bandwidth
    both = product(3 * size, size)
    mixed = pattern_bandwidth(device, access_pattern(both)).bandwidth_bytes_per_s
    assert model.cost(both, node, memory).seconds == pytest.approx(4 * size / mixed)


@pytest.mark.parametrize(
    ("operator", "pattern"),
    [
        (product(100, 100), AccessPattern("stream", write_share=0.5)),
        (
            operator_of('embedding', 0.0, 100, 0, 'fp16', name='e', m=4, n=768),
            AccessPattern("gather", 1536),
        ),
        (
            operator_of('attention', 1.0, 100, 0, 'fp16', name='a', q_len=1, head_dim=128, kv_heads=8),
            AccessPattern("strided", 256, 2048, lanes=8),
        ),
        (
            operator_of('attention', 1.0, 100, 0, 'fp16', name='a', q_len=1, head_dim=128, kv_heads=8, kv_dtype='int4'),
            AccessPattern("strided", 64, 512, lanes=8),
        ),
    ],
)  # fmt: skip
def test_operators_touch_memory_in_their_way(operator, pattern):
    assert access_pattern(operator) == pattern


def test_transfers_meet_the_ports_at_the_bandwidth_the_engine_found():
    system = load_system("workstation")
    found = measured_memories(system)["host"]
    reads = pattern_bandwidth(engine_memories(system)["host"])
    writes = pattern_bandwidth(engine_memories(system)["host"], AccessPattern("stream", write_share=1.0))
    table = CostTable(system, COST_MODELS.get("roofline"), measured={"host": found})
    gpu = next(node for node in system.workers() if node.device.kind == "gpu").name
    assert table.capacity["host:reading"] == reads.bandwidth_bytes_per_s
    assert table.capacity["host:writing"] == writes.bandwidth_bytes_per_s
    assert table.capacity["host"] < system.memories["host"].read_bandwidth
    assert "host:reading" in table.path("host", gpu).resources
    assert "host:writing" in table.path(gpu, "host").resources
    assert not any(name.startswith("host") for name in table.stream_path(gpu, "host").resources)
    assert table.joules_per_byte("host", written=True) == writes.energy_per_byte_j
    stated = CostTable(system, COST_MODELS.get("roofline"))
    assert stated.capacity["host"] == system.memories["host"].read_bandwidth
    assert stated.joules_per_byte("host", written=False) == system.memories["host"].energy_per_byte_read_j


def test_energy_of_an_operator_is_that_of_its_pattern():
    system = load_system("laptop")
    node = next(node for node in system.workers() if node.device.kind == "cpu")
    memory = system.memories[node.memory or node.name]
    device = engine_memories(system)[memory.name]
    rows = operator_of("embedding", 0.0, 64 * 4096, 0, "fp16", name="e", m=4096, n=32)
    cost = CycleMemory(COST_MODELS.get("roofline"), system).cost(rows, node, memory)
    pattern = pattern_bandwidth(device, AccessPattern("gather", 64))
    assert cost.memory_energy_j == pytest.approx(64 * 4096 * pattern.energy_per_byte_j)
    assert pattern.energy_per_byte_j > 1.1 * pattern_bandwidth(device).energy_per_byte_j


def test_host_memories_stream_near_their_pins_in_both_directions():
    """Finer mappings than a whole row per bank: neither way stays in one bank group."""
    for name in ("host-ddr4-3200-8ch", "host-ddr5-4800-8ch", "unified-lpddr5-6400-16ch"):
        device = load_device(name)
        for share in (0.0, 1.0):
            stream = pattern_bandwidth(device, AccessPattern("stream", write_share=share), requests=8000)
            assert 0.85 < stream.utilisation <= 1.0


def test_a_stride_that_meets_one_channel_has_one_channels_bandwidth():
    device = load_device("host-ddr4-3200-8ch")
    grain = channel_grain(channel_of(device)) * device.transaction_bytes
    assert grain == 256
    alone = pattern_bandwidth(device, AccessPattern("strided", grain, grain * device.channels), requests=4000)
    beside = pattern_bandwidth(
        device, AccessPattern("strided", grain, grain * device.channels, lanes=device.channels), requests=4000
    )
    assert alone.bandwidth_bytes_per_s < device.bandwidth_bytes_per_s / device.channels
    assert beside.bandwidth_bytes_per_s > 6 * alone.bandwidth_bytes_per_s
    assert alone.energy_per_byte_j > beside.energy_per_byte_j


def test_without_a_dram_device_bandwidths_stay_and_a_note_says_so():
    event = offchip.simulate("gpt2", "a100-80gb", phase="decode")
    cycle = offchip.simulate("gpt2", "a100-80gb", phase="decode", fidelity="cycle")
    assert cycle.makespan_s == pytest.approx(event.makespan_s, rel=0.02)
    assert any("bandwidths stay" in note for note in cycle.warnings)
