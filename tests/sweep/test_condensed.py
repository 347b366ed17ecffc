"""The condensed evaluation gives what ``simulate`` gives, bit for bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.system import System
from offchip import api
from offchip.sweep.evaluate import Evaluator
from offchip.sweep.machine import Machines
from simulator.cost.model import COST_MODELS
from simulator.system.condensed import Condensed, condense, estimate
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
        ("resnet-50", "nvdla-large", "roofline", {"dtype": "int8"}),
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
