"""Placements as engines make them: held against rules written out by operators' names, and against what must move."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InfeasibleError, InputError
from hw_configs.system import System
from mapping.mapper import MapperOptions, mapper_settings, plan_writer
from mapping.notes import typed_notes
from mapping.offload.policy import OffloadRequest
from mapping.placement.co_place import CoPlaceNotes
from mapping.placement.engine_rule import MAPPER, LikeEngineNotes, LikeEngineSettings
from mapping.placement.machine import Machine
from mapping.placement.trial import try_plan
from simulator.check import check
from simulator.plan import Compute, Plan, Transfer
from simulator.rewrite.apply import rewrite
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import Phase, Workload, WorkloadOptions

LAYERS = 5


@cache
def graph_of(model: str, layers: int | None = LAYERS, dtype: str = "q4_k") -> Graph:
    options = WorkloadOptions(phase="decode", batch=1, prompt=64, layers=layers, dtype=dtype)
    return load_workload(model, options).phases[0].graph


@cache
def machine(name: str) -> System:
    return offchip.load_system(name)


def planned(graph: Graph, system: str, **values: object) -> Plan:
    text = {name.replace("_", "-"): str(value) for name, value in values.items()}
    options = MapperOptions(settings=mapper_settings("like-engine", text, "plan"))
    plan = plan_writer("like-engine").plan(graph, machine(system), options)
    assert check(plan, rewrite(graph, plan), machine(system)) == []
    return plan


def device_by_name(name: str, layers: int, cpu_experts: int, tied: bool) -> str:
    """Where llama.cpp runs an operator, from its name alone."""
    found = re.match(r"layers\.(\d+)\.", name)
    if found is None:
        first = name == "embedding" and not tied
        return "cpu" if first or layers == 0 else "gpu"
    layer = int(found[1])
    if layer + layers < LAYERS + 1:
        return "cpu"
    experts = ".experts." in name and not name.endswith((".sort", ".router"))
    return "cpu" if experts and layer < cpu_experts else "gpu"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["llama-3.1-8b", "gemma-2-2b", "qwen3-30b-a3b", "deepseek-v2-lite"]),
    st.integers(0, LAYERS + 3), st.integers(0, LAYERS + 1),
)  # fmt: skip
def test_whole_layers_are_where_their_numbers_say(model: str, layers: int, cpu_experts: int) -> None:
    graph = graph_of(model)
    plan = planned(graph, "desktop", layers=layers, cpu_experts=cpu_experts)
    tied = model.startswith("gemma")
    for task in plan.tasks:
        if isinstance(task, Compute):
            assert task.device == device_by_name(task.operator, layers, cpu_experts, tied), task.operator
    # A layer's cache is where its attention runs, so that no weight and no cache ever moves.
    moved = {task.tensor for task in plan.tasks if isinstance(task, Transfer)}
    assert all(name in graph.producer for name in moved)


def test_as_many_layers_as_fit_are_the_most_that_run() -> None:
    graph = graph_of("llama-3.1-70b", None)
    plan = planned(graph, "desktop")
    assert isinstance(plan.notes, LikeEngineNotes)
    assert plan.notes.layers is not None
    assert try_plan(graph, Machine(machine("desktop")), plan).obstacle == ""
    with pytest.raises(InfeasibleError, match=r"as llama\.cpp places it"):
        planned(graph, "desktop", layers=plan.notes.layers + 2)


def test_experts_go_to_the_cpu_and_the_rest_to_the_gpu() -> None:
    plan = planned(graph_of("deepseek-v3"), "rtx-4090-xeon-6454s", engine="ktransformers")
    on_cpu = {task.operator for task in plan.tasks if isinstance(task, Compute) and task.device == "cpu"}
    assert {name for name in on_cpu if ".experts." not in name} == {"embedding"}
    assert any(name.startswith("layers.4.mlp.experts") for name in on_cpu)
    assert not any(".shared" in name for name in on_cpu)


@pytest.mark.parametrize(("store", "memory"), [("host", "host"), ("ssd", "ssd")])
def test_all_weights_come_anew_in_every_step(store: str, memory: str) -> None:
    graph = graph_of("llama-3.1-8b")
    plan = planned(graph, "desktop", engine="zero-inference", store=store)
    brought = {task.tensor for task in plan.tasks if isinstance(task, Transfer) and task.source == memory}
    assert brought == {tensor.name for tensor in graph.tensors.values() if tensor.is_weight}
    assert {home.memory for t in graph.tensors.values() if t.is_cache for home in plan.homes[t.name]} == {
        "gpu"
    }


def test_a_device_map_fills_in_order_and_overlaps_nothing() -> None:
    graph = graph_of("llama-3.1-70b", 80, "fp16")
    plan = planned(graph, "desktop", engine="accelerate")
    where = [plan.homes[f"layers.{i}.attention.qkv.weight"][0].memory for i in range(80)]
    assert where == sorted(where, key=["gpu", "host", "ssd"].index)
    assert set(where) == {"gpu", "host", "ssd"}
    copies = [task for task in plan.tasks if isinstance(task, Transfer) and task.target == "gpu"]
    assert copies
    assert all(task.pageable for task in copies)
    read = {task.name for task in plan.tasks if isinstance(task, Transfer) and task.mapped}
    assert read
    assert read == {name for task in copies for name in task.after if name.startswith("read ")}
    # Nothing is fetched before the operator ahead of it has ended, so the step is as long as its parts together.
    workload = Workload(graph.name, (Phase("decode", "decode", graph, 1),))
    result = offchip.simulate(workload, machine("desktop"), plan=plan)
    line = result.timeline
    busy = sum(end - start for start, end in zip(line.start, line.end, strict=True))
    assert result.makespan_s == pytest.approx(busy, rel=0.01)


def test_flexgen_computes_products_on_the_gpu() -> None:
    plan = planned(graph_of("opt-6.7b", 3, "fp16"), "t4-server", engine="flexgen")
    at = {task.operator: task.device for task in plan.tasks if isinstance(task, Compute)}
    assert {device for name, device in at.items() if ".attend" not in name} == {"gpu"}


def test_a_hand_over_is_paid_once_however_much_goes_along() -> None:
    graph = graph_of("qwen3-30b-a3b")
    plan = planned(graph, "desktop", layers=99, cpu_experts=3, hand_over="100 us")
    waits = [task.wait_s for task in plan.tasks if isinstance(task, Transfer) and task.wait_s]
    # The input to the GPU, and of three layers one to the CPU and one back.
    assert waits == [1e-4] * 7
    free = planned(graph, "desktop", layers=99, cpu_experts=3, hand_over="0")
    at = Machine(machine("desktop"))
    more = try_plan(graph, at, plan).seconds - try_plan(graph, at, free).seconds
    assert 6.0e-4 < more <= 7.01e-4


def test_a_search_that_pays_for_hand_overs_is_no_slower_than_the_rule_and_near_its_bound() -> None:
    graph, system = graph_of("deepseek-v3", 6), "rtx-4090-xeon-6454s"
    rule = planned(graph, system, engine="ktransformers", hand_over="200 us")
    options = MapperOptions(settings=mapper_settings("co-place", {"hand-over": "200 us"}, "plan"))
    free = typed_notes(plan_writer("co-place").plan(graph, machine(system), options), CoPlaceNotes)
    assert free.simulated_s <= try_plan(graph, Machine(machine(system)), rule).seconds
    own = [
        entry.step_s for entry in free.considered if entry.plan.startswith("co-place") and not entry.obstacle
    ]
    assert min(own) <= 1.15 * free.simulated_s
    assert free.gap < 0.1


def test_it_answers_what_lives_where() -> None:
    asked = LikeEngineSettings(layers=30)
    request = OffloadRequest("qwen3-8b", machine("desktop"), "decode", 64, dtype="q4_k", settings=asked)
    (decision,) = MAPPER.solve(request).tables
    assert ("layers", 30) in decision.rows
    (held,) = (value for what, value in decision.rows if what == "held bytes")
    assert re.fullmatch(r"host [\d.]+ [GM]iB, gpu [\d.]+ GiB", str(held))


@pytest.mark.parametrize(
    ("system", "values", "told"),
    [
        ("pim-gpt", {}, "has no GPU"),
        ("a100-80gb", {"engine": "ktransformers"}, "has no CPU"),
        ("desktop", {"engine": "zero-inference", "store": "hots"}, "expected a memory"),
        ("desktop", {"engine": "vllm"}, "llama.cpp"),
    ],
)
def test_what_cannot_be_is_said(system: str, values: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        planned(graph_of("llama-3.1-8b"), system, **values)
