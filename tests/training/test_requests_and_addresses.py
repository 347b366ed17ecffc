"""The request sequence of a training step, and addresses on two levels against one level and the MIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from mapping.allocation import AllocationProblem, check
from mapping.training.allocator_trace import replay
from mapping.training.rank_graph import rank_graph
from mapping.training.recompute.in_graph import drop_and_recompute
from mapping.training.recompute.skeleton import kept_share, skeleton_of
from mapping.training.requests import RequestSequence, request_sequence, rounded
from mapping.training.setup import TrainingSetup
from mapping.training.two_level_addresses import plan_bilevel, plan_memory, plan_one_level
from tests.training.small_models import gpt_config
from tests.training.strategies import request_sequences
from workloads.graph import PERSISTENT_ROLES, Graph, Role
from workloads.microbatch import microbatched


def problem_of(sequence: RequestSequence) -> AllocationProblem:
    return AllocationProblem.from_arrays(sequence.malloc, sequence.free, rounded(sequence.size))


def live_peak_by_hand(graph: Graph) -> int:
    """Most bytes live at once, tensor by tensor, in plain Python; workspace left out."""
    held = {n for n, t in graph.tensors.items() if t.role in PERSISTENT_ROLES} | set(graph.outputs)
    for op in graph.operators:
        if op.kind == "optimizer":
            held |= {n for n in op.inputs if graph.tensors[n].role is Role.GRADIENT}
    touches: dict[str, list[int]] = {}
    for index, op in enumerate(graph.operators):
        for name in (*op.inputs, *op.updates, *op.outputs):
            touches.setdefault(name, []).append(index)
    peak = 0
    for index in range(len(graph.operators)):
        live = [n for n, at in touches.items() if n not in held and at[0] <= index <= at[-1]]
        peak = max(peak, sum(max(512, -(-graph.tensors[n].size_bytes // 512) * 512) for n in live))
    return peak


def test_skeletal_activations_are_sixteen_units_per_layer() -> None:
    """16 x 1048576 x 4096 x 2 B x 32 layers = 4096 GiB (MEMO, arXiv:2407.12117, section 3.1)."""
    graph = rank_graph(TrainingSetup("memo-7b", 2**20))
    layers = skeleton_of(graph).layers
    total = sum(graph.tensors[name].size_bytes for names in layers.values() for name in names)
    assert total == 16 * 2**20 * 4096 * 2 * 32 == 4096 * 2**30
    sharded = rank_graph(TrainingSetup("memo-7b", 2**20, tensor=8))
    names = [name for own in skeleton_of(sharded).layers.values() for name in own]
    assert sum(sharded.tensors[name].size_bytes for name in names) == total // 8


@pytest.mark.parametrize("recompute", ["none", "pointwise", "full"])
def test_requests_follow_lifetimes(tmp_path: Path, recompute: str) -> None:
    model = gpt_config(tmp_path)
    graph = rank_graph(TrainingSetup(model, 512, tensor=2))
    graph = drop_and_recompute(graph, kept_share(graph, recompute))
    sequence = request_sequence(graph)
    assert (sequence.free < sequence.instructions).all(), "a step leaves nothing behind"
    steps = sequence.order().tolist()
    assert sorted(steps) == sorted([*range(1, len(sequence) + 1), *range(-len(sequence), 0)])
    no_workspace = [n for n, name in enumerate(sequence.names) if not name.endswith(".workspace")]
    change = np.zeros(sequence.instructions + 1, np.int64)
    np.add.at(change, sequence.malloc[no_workspace], rounded(sequence.size)[no_workspace])
    np.subtract.at(change, sequence.free[no_workspace], rounded(sequence.size)[no_workspace])
    assert int(np.cumsum(change).max()) == live_peak_by_hand(graph)
    skeletal = {sequence.names[n] for n in np.flatnonzero(sequence.skeletal)}
    kept = {n for names in skeleton_of(graph).layers.values() for n in names}
    assert kept <= skeletal, "what a layer keeps for its backward pass is skeletal"
    assert "malloc" in sequence.text().splitlines()[0]


@given(request_sequences())
@settings(max_examples=60, deadline=None)
def test_a_plan_holds_and_never_needs_more_than_the_caching_allocator(sequence: RequestSequence) -> None:
    plan = plan_memory(sequence)
    assert check(problem_of(sequence), plan.offsets.tolist()) == []
    assert plan.bound_bytes == int(sequence.live_bytes().max()) <= plan.peak_bytes
    assert plan.peak_bytes <= replay(sequence).peak_reserved
    for stairs in (True, False):
        two = plan_bilevel(sequence, staircase=stairs)
        assert check(problem_of(sequence), two.offsets.tolist()) == []
        assert two.peak_bytes >= plan.bound_bytes


@pytest.mark.parametrize("recompute", ["none", "pointwise", "full"])
@pytest.mark.parametrize("tensor", [1, 2])
def test_two_levels_equal_one_level_on_small_models(tmp_path: Path, recompute: str, tensor: int) -> None:
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 512, tensor=tensor))
    sequence = request_sequence(drop_and_recompute(graph, kept_share(graph, recompute)))
    one = plan_one_level(sequence)
    two = plan_bilevel(sequence)
    assert one.optimal
    assert two.peak_bytes == one.peak_bytes
    published = plan_bilevel(sequence, staircase=False)
    assert published.peak_bytes >= two.peak_bytes, "rectangles can only lose"
    assert check(problem_of(sequence), two.offsets.tolist()) == []


def test_the_mip_as_published_gives_the_same_peaks(tmp_path: Path) -> None:
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path, layers=1), 512))
    sequence = request_sequence(drop_and_recompute(graph, kept_share(graph, "full")))
    own = plan_bilevel(sequence, staircase=False)
    mip = plan_bilevel(sequence, staircase=False, engine="mip")
    assert mip.peak_bytes == own.peak_bytes
    assert mip.level_one_bytes == own.level_one_bytes


def test_a_step_of_a_hundred_thousand_requests() -> None:
    graph = microbatched(rank_graph(TrainingSetup("gpt3-175b", 2048, tensor=8)), 18)
    sequence = request_sequence(graph)
    assert sequence.instructions > 100_000
    two = plan_bilevel(sequence)
    assert two.problems < 20, "equal passes and equal micro-batches are solved once"
    assert two.peak_bytes < 1.01 * two.bound_bytes
    plan = plan_memory(sequence)
    assert plan.optimal
    assert plan.peak_bytes <= min(two.peak_bytes, replay(sequence).peak_reserved)
