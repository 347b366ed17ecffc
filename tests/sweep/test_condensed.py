"""The condensed evaluation gives what ``simulate`` gives, bit for bit."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.system import System
from offchip import api
from offchip.sweep.evaluate import Evaluator
from offchip.sweep.machine import Machines
from simulator.cost.model import COST_MODELS, OperatorCost
from simulator.system import condensed as condensed_module
from simulator.system.condensed import Condensed, CondensedPhase, condense, estimate
from tests.sweep.spaces import serial_rows, space_of, table
from workloads.graph import KINDS, Graph, Operator, Place, Role, Tensor, make_operator
from workloads.operators import AllReduce, Product
from workloads.workload import Phase, Workload

MEMORY_FIELDS = (
    "technology", "capacity_bytes", "usable_bytes", "resident_bytes", "peak_bytes", "peak_time_s", "read_bytes",
    "written_bytes",
)  # fmt: skip


def assert_equal(workload: Workload, system: System, cost_model: str = "roofline") -> None:
    result = api.simulate(workload, system, fidelity="analytic", cost_model=cost_model)
    condensed = condense(workload)
    assert condensed is not None
    (device,) = result.devices or [system.workers()[0].name]
    for form in (condensed, Condensed.from_bytes(condensed.to_bytes())):
        found = estimate(form, system, system.nodes[device], COST_MODELS.get(cost_model))
        assert found is not None
        assert found.summary() == result.summary()
        assert list(found.time_by_bound().items()) == list(result.time_by_bound().items())
        assert found.devices == result.devices
        assert list(found.energy_j.items()) == list(result.energy_j.items())
        assert found.phases == result.phases
        assert set(found.memories) == set(result.memories)
        for name, use in found.memories.items():
            for field in MEMORY_FIELDS:
                assert getattr(use, field) == getattr(result.memories[name], field), field


@pytest.mark.parametrize(
    ("model", "hw", "cost_model", "options"),
    [
        ("llama-3-8b", "a100-80gb", "roofline", {"phase": "decode", "batch": 4, "prompt": 2048}),
        ("llama-3-8b", "h100-sxm", "by-device", {"phase": "prefill", "batch": 2, "prompt": 512}),
        ("llama-3-8b", "dgx-a100", "roofline-peak", {"phase": "decode"}),
        ("llama-3-8b", "a100-80gb", "roofline", {"prompt": 100, "generate": 16}),
        ("resnet-50", "edge-tpu", "roofline", {"dtype": "int8"}),
        ("resnet-50", "a100-80gb", "roofline", {"batch": 8, "phase": "train"}),
        ("bert-base-uncased", "desktop", "roofline", {}),
    ],
)
def test_models(model, hw, cost_model, options):
    assert_equal(api.load_model(model, **options), api.load_system(hw), cost_model)


@st.composite
def graphs(draw):
    """Chains and forks of operators with weights, inputs, updates, outputs and views."""
    tensors = {"in": Tensor("in", (draw(st.integers(1, 10**6)),), "fp16")}
    tensors["kv"] = Tensor("kv", (draw(st.integers(1, 10**6)),), "fp16", Role.KV_CACHE)
    operators, made = [], ["in"]
    for index in range(draw(st.integers(1, 8))):
        inputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
        kind = draw(st.sampled_from(["matmul", "norm", "elementwise", "view", "copy"]))
        name, weight = f"t{index}", f"w{index}"
        tensors[name] = Tensor(name, (draw(st.integers(1, 10**6)),), "fp16")
        reads = list(inputs)
        if kind == "matmul":
            tensors[weight] = Tensor(weight, (draw(st.integers(1, 10**6)),), "fp16", Role.WEIGHT)
            reads.append(weight)
        if kind == "matmul":
            m, n, k = (draw(st.integers(1, 10**4)) for _ in range(3))
            work = Product(m=m, n=n, k=k)
        else:
            work = KINDS[kind]()
        updates = ("kv",) if draw(st.booleans()) and kind == "copy" else ()
        place = Place(layer=index)
        operators.append(
            make_operator(f"o{index}", work, reads, (name,), tensors, updates=updates, place=place)
        )
        made.append(name)
    outputs = tuple(draw(st.lists(st.sampled_from(made[1:]), max_size=2, unique=True)))
    return Graph("random", tensors, tuple(operators), outputs)


SYSTEM = api.load_system("a100-80gb")


@settings(max_examples=60, deadline=None)
@given(st.lists(graphs(), min_size=1, max_size=3))
def test_random_graphs(found):
    phases = tuple(Phase(f"p{i}", "forward", graph, i) for i, graph in enumerate(found))
    assert_equal(Workload("random", phases), SYSTEM)


def test_changed_machine():
    system = Machines().system("a100-80gb", {"gpu.memory.bandwidth": 1.1e12, "gpu.power.idle": 33.0})
    assert_equal(api.load_model("llama-3-8b", phase="decode", batch=3), system)


def test_what_does_not_fit_is_left_to_the_simulation():
    system = Machines().system("a100-80gb", {"gpu.memory.capacity": 8e9})
    condensed = condense(api.load_model("llama-3-8b", phase="decode"))
    assert condensed is not None
    assert estimate(condensed, system, system.workers()[0], COST_MODELS.get("roofline")) is None


def test_communication_is_not_condensed():
    tensor = Tensor("x", (8,), "fp16")
    reduce = Operator("r", AllReduce(bytes=16, group=2), ("x",), ("y",))
    graph = Graph("g", {"x": tensor, "y": Tensor("y", (8,), "fp16")}, (reduce,))
    assert condense(Workload("g", (Phase("g", "forward", graph),))) is None


def test_broken_bytes_are_refused():
    data = condense(api.load_model("resnet-50")).to_bytes()
    for broken in (data[:-4], b"{}\n", data.replace(b"offchip-condensed-1", b"offchip-condensed-9")):
        with pytest.raises((ValueError, KeyError)):
            Condensed.from_bytes(broken)


CONDENSED = """
model: llama-3-8b
options: {phase: decode}
vary:
  hw: [a100-80gb, dgx-h100, desktop, gpu-pim, csd-node]
  batch: [1, 32]
  prompt: [512, 4096]
  cost_model: [roofline, by-device]
"""


def test_points_are_what_simulate_says(tmp_path, monkeypatch):
    """The evaluator chooses the device that the mapper chooses, and gives every figure as it is."""
    space = space_of(tmp_path, CONDENSED)
    rows = serial_rows(space)
    assert {row.status for row in rows} == {"ok", "infeasible"}
    monkeypatch.setattr(Evaluator, "_estimate", lambda *_: None)
    assert table(serial_rows(space)) == table(rows)


def cost(seconds=1.5, launch=0.5, read=100, written=50, compute_j=0.0, memory_j=0.0):
    return OperatorCost(seconds, launch, "memory", read, written, compute_j, memory_j)


@pytest.mark.parametrize(
    ("kind", "peak", "found", "possible"),
    [
        ("matmul", 0.0, cost(), True), ("matmul", 2.0, cost(), True), ("matmul", 2.1, cost(), False),
        ("matmul", 0.0, cost(1.4999), False), ("matmul", 0.0, cost(1.5 - 2e-6), True),
        ("matmul", 0.0, cost(2.0, 0.0), True), ("matmul", 0.0, cost(3.0, -0.5), False),
        ("matmul", 0.0, cost(-0.5, 3.0), False), ("matmul", 0.0, cost(0.0, 3.0), True),
        ("matmul", 0.0, cost(float("nan")), False), ("matmul", 0.0, cost(compute_j=-1e-9), False),
        ("matmul", 0.0, cost(memory_j=-1e-9), False), ("matmul", 0.0, cost(compute_j=2.0, memory_j=0.5), True),
        ("matmul", 0.0, cost(0.0, 0.0, 0, 0), False), ("view", 0.0, cost(0.0, 0.0, 0, 0), True),
        ("view", 0.0, cost(1.0, 0.0, 0, 0), False), ("matmul", 0.0, cost(1.0, 0.0, 100, 0), True),
        ("matmul", 0.0, cost(1.0, 0.0, 0, 50), True), ("matmul", 0.0, cost(1.0, 0.0, 0, 51), False),
    ],
)  # fmt: skip
def test_costs_that_only_a_simulation_may_judge(kind, peak, found, possible):
    """100 bytes a second read and 50 written, one after the other: two seconds are the roof."""
    operators = (SimpleNamespace(kind="matmul"), SimpleNamespace(kind=kind))
    costs, peaks = [cost(), found], [0.0, peak]
    assert condensed_module._possible(operators, costs, peaks, 100.0, 50.0) is possible
    assert condensed_module._possible(operators[::-1], costs[::-1], peaks[::-1], 100.0, 50.0) is possible


def phase(name, first, last, need, resident, peak, task):
    return CondensedPhase(name, "forward", name, 1, 1.0, first, last, need, resident, peak, task)


def test_the_fullest_moment_is_that_of_the_first_fullest_phase():
    """Three phases of two tasks, one without any, and a peak that stands before the first task of its phase."""
    starts = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    order = np.zeros(6, dtype=np.int32)

    def fullest(*peaks):
        spans = ((0, 2), (2, 2), (2, 4), (4, 6))
        phases = tuple(phase("p", *span, 0, 0, *peak) for span, peak in zip(spans, peaks, strict=True))
        return condensed_module._fullest(Condensed("m", (), order, phases), starts)

    assert fullest((5, 1), (4, -1), (5, 0), (3, 1)) == (5, 1.0)
    assert fullest((5, 1), (6, -1), (5, 0), (6, 1)) == (6, 0.0), (
        "a phase without tasks has no time of its own"
    )
    assert fullest((5, -1), (4, -1), (7, -1), (3, 1)) == (7, 2.0)
    assert fullest((5, -1), (4, -1), (7, 1), (9, 1)) == (9, 5.0)
    assert fullest((0, -1), (0, -1), (0, -1), (0, -1)) == (0, 0.0)


def test_memory_of_a_graph_by_hand():
    """Weights and inputs stand from the start; what has no further user goes before the next task's outputs come."""
    sizes = {"w": 10, "in": 5, "a": 8, "b": 4, "c": 20, "o": 2}
    roles = {"w": Role.WEIGHT}
    tensors = {
        name: Tensor(name, (size,), "int8", roles.get(name, Role.ACTIVATION)) for name, size in sizes.items()
    }
    operators = tuple(
        make_operator(f"o{i}", KINDS["elementwise"](), reads, made, tensors)
        for i, (reads, made) in enumerate(
            [(("in", "w"), ("a",)), (("a",), ("b",)), (("b",), ("c",)), (("c", "b"), ("o",))]
        )
    )
    graph = Graph("g", tensors, operators, ("o",))
    # 15 at first; 23 with a; in goes: 18, 22 with b; a goes: 14, 34 with c; then 36 with o.
    assert condensed_module._memory(graph) == (36, 10, 36, 3)
    assert condensed_module._memory(Graph("g", tensors, operators[:2], ("b",))) == (45, 10, 45, 0), (
        "what nobody makes is there from the start"
    )
    assert condensed_module._memory(Graph("g", {"in": tensors["in"]}, (), ())) == (5, 0, 5, -1)


def test_bytes_for_a_cache_hold_everything():
    found = condense(api.load_model("bert-base-uncased"))
    head, _, order = found.to_bytes().partition(b"\n")
    fields = json.loads(head)
    assert (fields["format"], fields["model"], fields["tasks"]) == (
        "offchip-condensed-1",
        found.model,
        len(found.order),
    )
    assert len(order) == 4 * len(found.order)
    back = Condensed.from_bytes(found.to_bytes())
    assert (back.model, back.operators, back.phases, back.metadata, back.unsupported) == (
        found.model, found.operators, found.phases, found.metadata, found.unsupported,
    )  # fmt: skip
    assert back.order.tolist() == found.order.tolist()
    wrong = np.array([len(found.operators)], dtype="<i4").tobytes()
    for place in (wrong + order[4:], np.array([-1], dtype="<i4").tobytes() + order[4:]):
        with pytest.raises(ValueError, match="a broken condensed workload"):
            Condensed.from_bytes(head + b"\n" + place)
    with pytest.raises(ValueError, match="no condensed workload, or a broken one"):
        Condensed.from_bytes(head + b"\n" + order[4:])
    fields["operators"][0][0] = "no such kind"
    with pytest.raises(ValueError, match="a broken operator of kind 'no such kind'"):
        Condensed.from_bytes(json.dumps(fields).encode() + b"\n" + order)


def test_a_workload_of_too_many_tasks_is_simulated(monkeypatch):
    workload = api.load_model("resnet-50")
    many = len(workload.phases[0].graph.operators)
    monkeypatch.setattr(condensed_module, "MAX_TASKS", many)
    assert condense(workload) is not None
    monkeypatch.setattr(condensed_module, "MAX_TASKS", many - 1)
    assert condense(workload) is None


def test_nothing_to_do_takes_nothing():
    empty = Condensed("m", (), np.zeros(0, dtype=np.int32), ())
    found = estimate(
        empty, SYSTEM, SYSTEM.nodes["a100-80gb"], COST_MODELS.get("roofline"), provenance={"x": 1}
    )
    assert found is not None
    assert (found.makespan_s, found.phases, found.devices, found.bounds) == (0.0, (), {}, {})
    assert found.energy_j == {"a100-80gb compute": 0.0, "a100-80gb memory": 0.0, "a100-80gb idle": 0.0}
    assert found.provenance == {
        "fidelity": "analytic", "cost_model": "roofline", "collective": "ring", "x": 1,
    }  # fmt: skip
    (use,) = found.memories.values()
    assert (use.resident_bytes, use.peak_bytes, use.peak_time_s, use.read_bytes) == (0, 0, 0.0, 0.0)


def test_a_device_that_runs_sums_behind_its_arrays_is_simulated():
    condensed = condense(api.load_model("resnet-50", dtype="int8"))
    system = api.load_system("nvdla-large")
    assert estimate(condensed, system, system.nodes["nvdla-large"], COST_MODELS.get("by-device")) is None
