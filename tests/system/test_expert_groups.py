"""Experts in groups: sums are those of the whole, and what a group reaches is what drawn tokens reach."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InputError
from hw_configs.system import System
from simulator.gpu.model import GPU
from simulator.plan import ExpertGroups, Plan
from simulator.plan_file import plan_from_json, read_plan, write_plan
from simulator.rewrite.expert_groups import expert_blocks, group_experts
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.operators import GroupedProduct
from workloads.workload import Phase, Workload, WorkloadOptions

MODELS = (
    "deepseek-v2-lite", "deepseek-v3", "gemma-4-26b-a4b", "glm-5", "gpt-oss-20b", "kimi-k2", "llama-4-scout",
    "minimax-m2.5", "mixtral-8x7b", "qwen3-30b-a3b", "qwen3.5-397b-a17b",
)  # fmt: skip


@cache
def graph_of(model: str, phase: str = "decode", batch: int = 1, same: bool = False) -> Graph:
    options = WorkloadOptions(phase=phase, batch=batch, prompt=20, same_prompts=same, layers=5)
    return load_workload(model, options).phases[0].graph


@st.composite
def cuts(draw: st.DrawFn, experts: int, active: int) -> ExpertGroups:
    """Groups of a block with shares that a router can have: no group gets more rows than it has experts for."""
    edges = sorted(draw(st.sets(st.integers(1, experts - 1), min_size=0, max_size=4)))
    counts = tuple(b - a for a, b in zip([0, *edges], [*edges, experts], strict=True))
    weights = [draw(st.floats(0.01, 1.0)) for _ in counts]
    even = [count / experts for count in counts]
    shares = [weight / sum(weights) for weight in weights]
    # Towards even shares until every group can hold its rows.
    for step in range(101):
        mixed = [s + (e - s) * step / 100 for s, e in zip(shares, even, strict=True)]
        if all(active * s <= count for s, count in zip(mixed, counts, strict=True)):
            break
    return ExpertGroups(counts, tuple(mixed))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODELS), st.sampled_from(["decode", "prefill"]), st.sampled_from([1, 3, 64]), st.data()
)
def test_groups_add_up_to_the_whole(model: str, phase: str, batch: int, data: st.DataObject) -> None:
    graph = graph_of(model, phase, batch)
    blocks = expert_blocks(graph)
    assert blocks
    name, block = data.draw(st.sampled_from(sorted(blocks.items())))
    groups = data.draw(cuts(block.experts, block.active))
    cut = group_experts(graph, {name: groups})
    assert sum(t.size_bytes for t in cut.tensors.values()) == sum(
        t.size_bytes for t in graph.tensors.values()
    )
    assert cut.flops == pytest.approx(graph.flops, rel=1e-12)
    for member in block.members:
        whole = graph.operator_by_name[member]
        parts = [cut.operator_by_name[f"{member}/{i}"] for i in range(len(groups.counts))]
        assert sum(op.flops for op in parts) == pytest.approx(whole.flops, rel=1e-11)
        assert sum(op.write_bytes for op in parts) == whole.write_bytes
        weights = [i for i, t in enumerate(whole.inputs) if t in block.weights]
        for place, size in enumerate(whole.reads):
            if place not in weights:
                assert sum(op.reads[place] for op in parts) == size
        for share, op in zip(groups.shares, parts, strict=True):
            assert op.flops == pytest.approx(whole.flops * share, rel=1e-9, abs=1e-3)
    for weight in block.weights:
        parts_of = [cut.tensors[f"{weight}/{i}"] for i in range(len(groups.counts))]
        assert [t.shape[0] for t in parts_of] == list(groups.counts)
        assert all(t.role is Role.WEIGHT for t in parts_of)
    joined = cut.operator_by_name[block.joins[0]]
    last = graph.operator_by_name[block.members[-1]].outputs[0]
    assert [t for t in joined.inputs if t.startswith(f"{last}/")] == [
        f"{last}/{i}" for i in range(len(groups.counts))
    ]
    assert joined.read_bytes == graph.operator_by_name[block.joins[0]].read_bytes


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("batch", "same"), [(1, False), (7, False), (4, True)])
def test_even_groups_read_the_weights_that_the_whole_reads(model: str, batch: int, same: bool) -> None:
    graph = graph_of(model, "decode", batch, same)
    groups = {}
    for name, block in expert_blocks(graph).items():
        first = block.experts // 4
        groups[name] = ExpertGroups((first, block.experts - first), (0.25, 0.75))
    cut = group_experts(graph, groups)
    assert sum(op.read_bytes for op in cut.operators) == sum(op.read_bytes for op in graph.operators)
    shared = [op.name for op in graph.operators if ".shared." in op.name]
    assert all(cut.operator_by_name[name] == graph.operator_by_name[name] for name in shared)


def drawn(chances_by: np.ndarray, active: int, tokens: int, rng: np.random.Generator) -> list[set[int]]:
    """Experts of each token: different ones, drawn one after another in proportion to weights among those left."""
    found = []
    for _ in range(tokens):
        left, mine = dict(enumerate(chances_by)), set[int]()
        for _ in range(active):
            names = list(left)
            weights = np.array([left[n] for n in names])
            expert = names[int(rng.choice(len(names), p=weights / weights.sum()))]
            mine.add(expert)
            del left[expert]
        found.append(mine)
    return found


@pytest.mark.parametrize(("model", "batch"), [("mixtral-8x7b", 1), ("mixtral-8x7b", 3), ("gpt-oss-20b", 5)])
def test_a_group_moves_the_bytes_that_drawn_tokens_reach(model: str, batch: int) -> None:
    """Tokens drawn one by one, experts counted one by one; within a group all are wanted alike, between groups not."""
    graph = graph_of(model, "decode", batch)
    name, block = next(iter(expert_blocks(graph).items()))
    first = block.experts // 4
    weights = np.array([4.0] * first + [1.0] * (block.experts - first))
    rng, runs = np.random.default_rng(5), 1500
    rows, distinct = np.zeros(2), np.zeros(2)
    for _ in range(runs):
        tokens = drawn(weights, block.active, batch, rng)
        for group, low, high in ((0, 0, first), (1, first, block.experts)):
            rows[group] += sum(low <= e < high for mine in tokens for e in mine)
            distinct[group] += len({e for mine in tokens for e in mine if low <= e < high})
    share = float(rows[0] / rows.sum())
    groups = ExpertGroups((first, block.experts - first), (share, 1 - share))
    cut = group_experts(graph, {name: groups})
    for group in (0, 1):
        op = cut.operator_by_name[f"{name}/{group}"]
        assert isinstance(op.work, GroupedProduct)
        assert op.work.touched == pytest.approx(distinct[group] / runs, rel=0.03)
        place = op.inputs.index(f"{block.weights[0]}/{group}")
        per_expert = graph.tensors[block.weights[0]].size_bytes / block.experts
        assert op.reads[place] == pytest.approx(distinct[group] / runs * per_expert, rel=0.03)
        whole = graph.operator_by_name[name]
        # Rows are whole: those of the steps in which the group is reached at all.
        assert op.work.m * op.work.share == pytest.approx(rows[group] / runs, abs=0.5)
        assert op.flops / whole.flops == pytest.approx(rows[group] / rows.sum(), rel=1e-6)


def test_touched_experts_can_be_said() -> None:
    graph = graph_of("mixtral-8x7b")
    name, block = next(iter(expert_blocks(graph).items()))
    cut = group_experts(graph, {name: ExpertGroups((2, 6), (0.5, 0.5), (0.8, 0.6))})
    size = graph.tensors[block.weights[0]].size_bytes / 8
    for group, touched in enumerate((0.8, 0.6)):
        op = cut.operator_by_name[f"{name}/{group}"]
        assert op.reads[op.inputs.index(f"{block.weights[0]}/{group}")] == pytest.approx(
            touched * size, abs=1
        )


def documented(graph: Graph, system: System) -> Plan:
    """The plan that the documentation writes: group 0 on the GPU, group 1 on the CPU."""
    text = (Path(__file__).parents[2] / "docs" / "plan-format.md").read_text(encoding="utf-8")
    code = text.split("## Experts in groups")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"graph": graph, "system": system}
    exec(code, names)
    plan: Plan = names["plan"]
    return plan


def one(graph: Graph) -> Workload:
    return Workload(graph.name, (Phase("decode", "decode", graph, 1),))


@pytest.mark.parametrize("fidelity", ["event", "analytic"])
def test_the_hot_run_on_the_gpu_beside_the_cold_on_the_cpu(fidelity: str, tmp_path: Path) -> None:
    graph = graph_of("mixtral-8x7b")
    system = offchip.load_system("workstation")
    plan = documented(graph, system)
    write_plan(plan, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again.experts == plan.experts
    assert offchip.check(again, graph, system) == []
    result = offchip.simulate(one(graph), system, plan=again, fidelity=fidelity)
    busy = {name: use.busy_s for name, use in result.devices.items()}
    assert min(busy.values()) > 0
    # They run at the same time.
    lines = [
        (result.timeline.start[i], result.timeline.end[i], result.timeline.task[i])
        for i in range(len(result.timeline))
    ]
    hot = next(line for line in lines if line[2] == "layers.1.mlp.experts.gate_up/0")
    cold = next(line for line in lines if line[2] == "layers.1.mlp.experts.gate_up/1")
    assert max(hot[0], cold[0]) < min(hot[1], cold[1])
    # Only rows cross the link, no weights.
    link = result.wires["pcie:gpu-cpu"]
    assert 0 < link.bytes_forward + link.bytes_backward < 1e6


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (ExpertGroups((2, 5), (0.4, 0.6)), r"counts \[2, 5\]; expected 8 experts"),
        (ExpertGroups((2, 6), (0.4, 0.5)), "shares that add up to 0.9"),
        (ExpertGroups((1, 7), (0.6, 0.4)), r"shares\.0: found a share of 0.6 for 1 experts.*at most 0.5"),
        (ExpertGroups((2, 6), (0.4, 0.6), (0.9, 0.6)), r"touched\.0: found 0.9 experts touched; expected 0 to 0.8"),
        (ExpertGroups((2, 6), (0.4, 0.6), (0.9,)), "not of one length"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_are_told(groups: ExpertGroups, found: str) -> None:
    name = next(iter(expert_blocks(graph_of("mixtral-8x7b"))))
    with pytest.raises(InputError, match=found):
        group_experts(graph_of("mixtral-8x7b"), {name: groups})


def test_blocks_are_named_by_their_first_product() -> None:
    with pytest.raises(InputError, match=r"did you mean 'layers\.0\.mlp\.experts\.gate_up'"):
        group_experts(graph_of("mixtral-8x7b"), {"layers.0.mlp.experts.gate_upp": ExpertGroups((8,), (1.0,))})


def test_experts_that_somebody_else_reads_are_not_cut() -> None:
    graph = graph_of("mixtral-8x7b")
    name, block = next(iter(expert_blocks(graph).items()))
    reader = replace(
        graph.operators[-1], name="sum", inputs=(block.weights[0],), outputs=(), reads=(1,), writes=()
    )
    twice = replace(graph, operators=(*graph.operators, reader))
    with pytest.raises(InputError, match="is also used by 'sum'"):
        group_experts(twice, {name: ExpertGroups((2, 6), (0.25, 0.75))})


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"counts": [0, 8], "shares": [0.5, 0.5]}, "whole numbers of 1 or more"),
        ({"counts": [2, 6], "shares": [0.5]}, "as many shares as counts"),
        ({"counts": [2, 6], "shares": [0.5, -0.5]}, "as many shares as counts"),
        ({"counts": [2, 6], "shares": [0.5, float("nan")]}, "as many shares as counts"),
        ({"counts": [2, 6], "shares": [0.5, 0.5], "touchd": [1, 1]}, "unknown key 'touchd'.*did you mean 'touched'"),
        ([1], "whole numbers of 1 or more"),
    ],
)  # fmt: skip
def test_groups_of_a_wrong_form_are_told(entry: object, found: str) -> None:
    with pytest.raises(InputError, match=found):
        plan_from_json({"format": "offchip-plan-1", "experts": {"block": entry}}, "plan.json")


@pytest.mark.parametrize("share", [0.45, 0.2, 0.01])
def test_a_group_that_is_reached_at_times_costs_its_share_of_one_expert(share: float) -> None:
    """Expected seconds on a GPU: those of one expert in the steps in which it is reached, a launch in every one."""
    graph = graph_of("mixtral-8x7b")
    name = next(iter(expert_blocks(graph)))
    system = offchip.load_system("workstation")
    node = system.nodes["gpu"]
    most = group_experts(graph, {name: ExpertGroups((1, 7), (0.5, 0.5))}).operator_by_name[f"{name}/0"]
    some = group_experts(graph, {name: ExpertGroups((1, 7), (share, 1 - share))}).operator_by_name[
        f"{name}/0"
    ]
    one, rare = (GPU.cost(op, node, system.memories["gpu"]) for op in (most, some))
    assert rare.seconds == pytest.approx(one.seconds * 2 * share, rel=1e-3)
    assert rare.launch_seconds == one.launch_seconds
