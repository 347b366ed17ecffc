"""Spatial devices in a simulation: operators at their best loop nests, the rest on lanes, a level as scratchpad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import offchip
from hw_configs.board import as_board
from hw_configs.device import SpatialAccelerator
from hw_configs.library import load_device, load_system
from hw_configs.problems import InputError
from mapping.loop_nest.cost_model import LOOP_NEST, METRIC
from mapping.loop_nest.search import best_mapping
from mapping.scheduling.timed import solve_timed
from simulator.accelerator.loop_nest.fused import inner_device
from simulator.accelerator.loop_nest.layers import layers_of
from workloads.graph import Graph, Role, Tensor, make_operator
from workloads.operators import Attention, Convolution, Elementwise, Product


def operator(work: Any, dtype: str = "int8") -> Any:
    tensors = {
        "i": Tensor("i", (64, 64), dtype),
        "w": Tensor("w", (64, 64), dtype, Role.WEIGHT),
        "o": Tensor("o", (64, 64), dtype),
    }
    return make_operator("op", work, ("i", "w"), ("o",), tensors, dtype=dtype)


def machine(name: str) -> SpatialAccelerator:
    device = load_device(name)
    assert isinstance(device, SpatialAccelerator)
    return device


@pytest.mark.parametrize("scratchpad", [False, True])
def test_an_operator_costs_what_its_best_mapping_does(scratchpad: bool) -> None:
    system = load_system("edge-tpu-array")
    system = as_board(system) if scratchpad else system
    node = system.nodes["edge-tpu-array"]
    assert node.scratchpad == scratchpad
    memory = system.memories[node.name]
    asked = operator(Product(m=48, n=96, k=64))
    cost = LOOP_NEST.cost(asked, node, memory)
    device = machine("edge-tpu-array")
    on = inner_device(device) if scratchpad else device
    best = best_mapping(on, layers_of(asked)[0], METRIC).best[0].evaluation
    assert cost.seconds == pytest.approx(best.latency_s)
    assert cost.compute_energy_j + cost.memory_energy_j == pytest.approx(best.energy_j)
    assert cost.memory_energy_j == pytest.approx(best.levels[0].energy_j)
    outer = best.levels[0].traffic
    width = device.word_bits
    assert cost.read_bytes == sum(moved.reads * width.bytes_of(o) for o, moved in outer.items())
    assert cost.write_bytes == sum(moved.writes * width.bytes_of(o) for o, moved in outer.items())
    assert LOOP_NEST.least_seconds(asked, node, memory) <= cost.seconds


def test_what_is_no_loop_nest_runs_on_lanes() -> None:
    system = load_system("edge-tpu-array")
    node, memory = system.nodes["edge-tpu-array"], system.memories["edge-tpu-array"]
    device = machine("edge-tpu-array")
    # A multiply-add a clock on each of 64 lanes; few operations wait for the memory's 26 bytes a clock.
    many = LOOP_NEST.cost(operator(Elementwise(m=64, n=64, flops_per_element=1000)), node, memory)
    assert many.seconds == pytest.approx(64 * 64 * 1000 / (2 * 64 * device.clock))
    few = operator(Elementwise(m=64, n=64, flops_per_element=1))
    moved = few.read_bytes + few.write_bytes
    assert LOOP_NEST.cost(few, node, memory).seconds == pytest.approx(moved / (26 * device.clock))
    assert LOOP_NEST.cost(few, node, memory).bound_by == "memory"


def test_softmax_of_attention_is_on_the_lanes() -> None:
    system = load_system("edge-tpu-array")
    node, memory = system.nodes["edge-tpu-array"], system.memories["edge-tpu-array"]
    asked = operator(Attention(batch=1, heads=2, kv_heads=2, q_len=16, kv_len=16, head_dim=16))
    cost = LOOP_NEST.cost(asked, node, memory)
    device = machine("edge-tpu-array")
    products = sum(
        best_mapping(device, layer, METRIC).best[0].evaluation.latency_s for layer in layers_of(asked)
    )
    assert cost.seconds == pytest.approx(products + 5 * 2 * 16 * 16 / (2 * 64 * device.clock))


def test_a_depthwise_convolution_takes_the_faster_of_both() -> None:
    system = load_system("edge-tpu-array")
    node, memory = system.nodes["edge-tpu-array"], system.memories["edge-tpu-array"]
    work = Convolution(in_channels=64, out_channels=64, groups=64, height=28, width=28, kernel_h=3, kernel_w=3,
                       padding_h=1, padding_w=1, out_height=28, out_width=28)  # fmt: skip
    asked = operator(work)
    layer = layers_of(asked)[0]
    mapped = best_mapping(machine("edge-tpu-array"), layer, METRIC).best[0].evaluation
    assert LOOP_NEST.cost(asked, node, memory).seconds < mapped.latency_s


@pytest.mark.parametrize("fidelity", ["analytic", "event", "cycle"])
def test_a_model_runs_at_three_fidelities(fidelity: str) -> None:
    result = offchip.simulate("resnet-18", "edge-tpu-array", dtype="int8", fidelity=fidelity)
    assert result.makespan_s > 0
    found = offchip.solve_mapping("resnet-18", "edge-tpu-array", dtype="int8", objective=METRIC)
    lanes = sum(
        end - start
        for kind, start, end in zip(
            result.timeline.operator_kind, result.timeline.start, result.timeline.end, strict=True
        )
        if kind not in ("conv", "matmul")
    )
    assert result.makespan_s == pytest.approx(found.latency_s + lanes, rel=1e-6)


def test_words_wider_than_the_devices_are_refused() -> None:
    with pytest.raises(InputError, match="multiplies words of 8 bits; 'stem' is in fp16"):
        offchip.simulate("resnet-18", "edge-tpu-array", dtype="fp16")
    assert offchip.simulate("resnet-18", "tpu-v4i-array", dtype="bf16").makespan_s > 0


def test_a_schedule_for_a_level_runs_on_the_device(tmp_path: Path) -> None:
    out, plan = tmp_path / "schedule.json", tmp_path / "plan.json"
    found = offchip.solve_schedule(
        "resnet-18", dtype="int8", weights="resident", hw="edge-tpu-array", out=out
    )
    assert found.result.scratchpad_bytes == 8 << 20
    ran = offchip.simulate("resnet-18", "edge-tpu-array", dtype="int8", plan=out)
    mapped = offchip.simulate(
        "resnet-18", "edge-tpu-array", dtype="int8", mapper="scratchpad", settings={"weights": "resident"},
        save_plan=plan,
    )  # fmt: skip
    again = offchip.simulate("resnet-18", "edge-tpu-array", dtype="int8", plan=plan)
    assert again.makespan_s == mapped.makespan_s
    assert ran.makespan_s == pytest.approx(mapped.makespan_s, rel=0.2)
    moved = sum(use.read_bytes for name, use in ran.memories.items() if name.endswith("DRAM"))
    assert moved > 11e6  # every weight once
    assert ran.makespan_s < offchip.simulate("resnet-18", "edge-tpu-array", dtype="int8").makespan_s * 1.5


def test_a_timed_schedule_is_bounded_by_the_fastest_mappings() -> None:
    system = as_board(load_system("edge-tpu-array"))
    graph = offchip.load_model("resnet-18", dtype="int8").phases[0].graph
    from mapping.scheduling import problem_from_graph

    problem = problem_from_graph(graph, "resident")
    found = solve_timed(problem, graph, system, 8 << 20, time_limit_s=5)
    node = system.nodes["edge-tpu-array"]
    memory = system.memories[node.name]
    least = sum(LOOP_NEST.least_seconds(op, node, memory) for op in graph.operators)
    assert found.bound_time_s is not None
    assert found.time_s is not None
    assert found.bound_time_s <= found.time_s
    assert found.bound_time_s >= least * (1 - 1e-9)


def test_the_bound_holds_for_other_mappings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from mapping.loop_nest import cost_model
    from mapping.scheduling import problem_from_graph

    system = as_board(load_system("eyeriss"))
    tensors = {"i": Tensor("i", (96, 56), "int16"), "w": Tensor("w", (56, 100), "int16", Role.WEIGHT)}
    tensors["o"] = Tensor("o", (96, 100), "int16")
    work = Product(m=96, n=100, k=56)
    made = make_operator("op", work, ("i", "w"), ("o",), tensors, dtype="int16")
    graph = Graph("one", tensors, (made,), ("o",))
    problem = problem_from_graph(graph, "resident")
    monkeypatch.setattr(cost_model, "METRIC", "energy")
    found = solve_timed(problem, graph, system, 108 << 10, time_limit_s=5)
    monkeypatch.setattr(cost_model, "METRIC", "latency")
    fastest = solve_timed(problem, graph, system, 108 << 10, time_limit_s=5)
    assert found.bound_time_s == pytest.approx(fastest.bound_time_s)
    assert found.bound_time_s <= fastest.time_s < found.time_s


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gemmini", "files side by side"),
        ("simba-chiplet", "does not hold W"),
        ("tensix-mesh", "several instances of 'core-memory'"),
    ],
)
def test_levels_that_are_no_scratchpad_are_refused(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        offchip.solve_schedule("resnet-18", dtype="int8", hw=name)
    with pytest.raises(InputError, match=says):
        offchip.simulate("resnet-18", name, dtype="int8", mapper="scratchpad")


def test_a_system_file_has_one_in_its_scratchpad(tmp_path: Path) -> None:
    board = tmp_path / "board.yaml"
    board.write_text(
        """
kind: system
name: board
devices:
  array: {use: edge-tpu-array, memory: scratchpad}
  dram: {use: lpddr5-6400}
links:
  - {link: {kind: onchip, name: dma, bandwidth: 12.8 GB/s, latency: 100 ns, duplex: half}, between: [array, dram]}
"""
    )
    times = {
        fidelity: offchip.simulate(
            "resnet-18", board, dtype="int8", mapper="scratchpad-depth-first-belady", fidelity=fidelity
        ).makespan_s
        for fidelity in ("analytic", "event", "cycle")
    }
    assert times["analytic"] <= times["event"] <= times["cycle"] * (1 + 1e-9)
    board.write_text(board.read_text().replace("edge-tpu-array", "gemmini"))
    with pytest.raises(InputError, match="files side by side"):
        load_system(board)


def test_rates_are_stated_in_part(tmp_path: Path) -> None:
    device = machine("edge-tpu-array")
    assert device.compute.matrix["int8"] == pytest.approx(2 * 64 * 64 * 480e6)
    assert device.compute.vector["int8"] == pytest.approx(2 * 64 * 480e6)
    assert "fp16" not in device.compute.matrix
    path = Path("hw_configs/devices/accelerator/edge-tpu-array.yaml")
    text = path.read_text(encoding="utf-8").replace("name: edge-tpu-array", "name: mine")
    own = tmp_path / "mine.yaml"
    own.write_text(text + "compute: {launch: 1 us, vector: {int8: 16 GOP/s}}\n")
    mine = machine(str(own))
    assert mine.compute.launch == 1e-6
    assert mine.compute.vector == {"int8": 16e9}
    assert mine.compute.matrix == device.compute.matrix
    own.write_text(text + "compute: {launch: 1 us, vectr: {int8: 16 GOP/s}}\n")
    with pytest.raises(InputError, match=r"vectr.*did you mean"):
        machine(str(own))
