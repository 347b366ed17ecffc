"""Cycle fidelity: do bytes in DRAM devices take the time that the DRAM engine measures, and nothing else change?"""

from __future__ import annotations

import json

import pytest

import offchip
from hw_configs.library import load_system
from simulator.cost.model import COST_MODELS
from simulator.dram.patterns import AccessPattern, pattern_bandwidth
from simulator.system.cycle import CycleMemory, access_pattern, engine_memories
from workloads.graph import Operator


def product(read: int, written: int = 0) -> Operator:
    return Operator("op", "matmul", (), (), 1.0, read, written, "fp16", (), {"m": 1, "n": 64, "k": 64})


def test_unified_memory_decodes_slower_than_its_data_sheet_says():
    arguments = {"batch": 8, "phase": "decode"}
    event = offchip.simulate("gpt2", "laptop", **arguments)
    cycle = offchip.simulate("gpt2", "laptop", fidelity="cycle", **arguments)
    again = offchip.simulate("gpt2", "laptop", fidelity="cycle", **arguments)
    assert cycle.makespan_s > event.makespan_s
    assert json.dumps(cycle.to_json()) == json.dumps(again.to_json())
    memory = next(iter(engine_memories(load_system("laptop"))))
    assert cycle.provenance["by_dram_engine"] == [memory]
    moved = sum(use.read_bytes + use.written_bytes for use in cycle.memories.values())
    assert cycle.makespan_s >= moved / load_system("laptop").memories[memory].read_bandwidth


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


@pytest.mark.parametrize(
    ("operator", "pattern"),
    [
        (product(100, 100), AccessPattern("stream", write_share=0.5)),
        (
            Operator("e", "embedding", (), (), 0.0, 100, 0, "fp16", (), {"m": 4, "n": 768}),
            AccessPattern("gather", 1536),
        ),
        (
            Operator(
                "a", "attention", (), (), 1.0, 100, 0, "fp16", (),
                {"q_len": 1, "head_dim": 128, "kv_heads": 8},
            ),
            AccessPattern("strided", 256, 2048),
        ),
    ],
)  # fmt: skip
def test_operators_touch_memory_in_their_way(operator, pattern):
    assert access_pattern(operator) == pattern


def test_streamed_weights_arrive_no_faster_than_the_engine_reads_them():
    result = offchip.simulate(
        "llama-3-70b", "workstation", phase="decode", mapper="stream-weights", fidelity="cycle"
    )
    host = engine_memories(load_system("workstation"))["host"]
    rate = pattern_bandwidth(host).bandwidth_bytes_per_s
    assert result.memories["host"].read_bytes / result.makespan_s <= rate


def test_without_a_dram_device_nothing_changes_and_a_note_says_so():
    event = offchip.simulate("gpt2", "a100-80gb", phase="decode")
    cycle = offchip.simulate("gpt2", "a100-80gb", phase="decode", fidelity="cycle")
    assert cycle.makespan_s == event.makespan_s
    assert any("cycle fidelity changes nothing" in note for note in cycle.warnings)
