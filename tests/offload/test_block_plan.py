"""Plans of a block: they hold, weights and caches lie in their shares, and every byte crosses where it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from mapping.mapper import MapperOptions
from mapping.offload.block_plan import write_block_plan
from mapping.offload.block_policy import RELEASED_T4, BlockPolicy, shape_of_graph
from mapping.offload.block_schedule import block_cost
from mapping.offload.block_search import MAPPER
from mapping.offload.placement_lp import PlacementResult
from offchip import api
from simulator.check import check
from simulator.rewrite.apply import rewrite
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions


def decode(model: str, batch: int) -> Graph:
    return load_workload(model, WorkloadOptions(phase="decode", batch=batch, prompt=256)).phases[0].graph


def found(graph: Graph, policy: BlockPolicy) -> PlacementResult:
    cost = block_cost(shape_of_graph(graph, 240, 32), RELEASED_T4, policy)
    return PlacementResult(policy, cost, 1, 0.0, "by hand")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=6, max_size=6), st.integers(1, 3), st.integers(1, 5))
def test_any_policy_gives_a_plan_that_holds(parts: list[int], gpu_batch: int, batches: int) -> None:
    def shares(values: list[int]) -> tuple[float, float]:
        total = sum(values)
        return (values[0] / total, values[1] / total) if total else (1.0, 0.0)

    system, graph = load_system("t4-server"), decode("opt-125m", gpu_batch * batches)
    policy = BlockPolicy(gpu_batch, batches, *shares(parts[:3]), *shares(parts[3:]), 1.0, 0.0)
    plan = write_block_plan(graph, system, found(graph, policy))
    changed = rewrite(graph, plan)
    assert check(plan, changed, system) == []
    layers = [
        n for n, t in graph.tensors.items() if t.role is Role.WEIGHT and len(t.shape) == 2 and "layers." in n
    ]
    whole = sum(graph.tensors[n].size_bytes for n in layers)
    for memory, share in (
        ("gpu", policy.weight_gpu),
        ("host", policy.weight_host),
        ("ssd", policy.weight_disk),
    ):
        held = sum(
            changed.tensors[n].size_bytes
            for n, homes in plan.homes.items()
            if homes[0].memory == memory and n.split("/")[0] in layers
        )
        assert held == pytest.approx(share * whole, abs=0.002 * whole)
    streamed = sum(
        changed.tensors[t.tensor].size_bytes
        for t in plan.tasks
        if t.kind == "transfer" and t.target == "gpu" and t.tensor.split("/")[0] in layers
    )
    assert streamed == pytest.approx((1 - policy.weight_gpu) * whole, abs=0.002 * whole)


def test_caches_live_batch_by_batch_and_return_new_tokens() -> None:
    system, graph = load_system("t4-server"), decode("opt-125m", 8)
    policy = BlockPolicy(2, 4, 1.0, 0.0, 0.25, 0.25, 1.0, 0.0)
    plan = write_block_plan(graph, system, found(graph, policy))
    assert plan.notes.cache_pieces == {"gpu": 1, "host": 1, "disk": 2}
    changed = rewrite(graph, plan)
    cache = "layers.0.attention.k_cache"
    assert [plan.homes[f"{cache}/{i}"][0].memory for i in range(4)] == ["gpu", "host", "ssd", "ssd"]
    back = [t for t in plan.tasks if t.kind == "transfer" and t.target == "ssd"]
    assert {t.tensor.rsplit("/", 1)[1] for t in back} == {"new"}
    assert sum(changed.tensors[t.tensor].size_bytes for t in back) == 12 * 2 * 4 * 768 * 2


def test_the_step_is_near_its_estimate() -> None:
    """Streams of weights decide; what the estimate leaves out is attention that nothing hides."""
    result = api.simulate(
        "opt-13b", "t4-server", phase="decode", batch=16, prompt=256, mapper="block-schedule"
    )
    system = load_system("t4-server")
    plan = MAPPER.plan(decode("opt-13b", 16), system, MapperOptions())
    assert plan.notes.estimated_step_s <= result.makespan_s * 1.05
    assert result.makespan_s < 1.6 * plan.notes.estimated_step_s


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--phase", "prefill"), 2, "plans decode steps"),
        (("--phase", "decode", "--batch", "8", "--set", "gpu-batch=3"), 2, "does not divide the batch of 8"),
        (("--phase", "decode", "--set", "fill=0"), 2, "share above 0"),
        (("--phase", "decode", "--set", "ahead=x"), 2, "ahead: found 'x'"),
        (("--phase", "decode", "--batch", "8192", "--set", "gpu-batch=8192"), 3, "no shares of"),
    ],
)
def test_what_cannot_be(cli: Callable[..., Any], arguments: tuple[str, ...], code: int, message: str) -> None:
    outcome = cli("simulate", "opt-13b", "--hw", "t4-server", "--mapper", "block-schedule", *arguments)
    assert outcome.code == code
    assert message in outcome.err
