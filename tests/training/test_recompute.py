"""Recomputation in a graph, and the optimal schedule of a chain against an enumeration of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError
from mapping.mapper import MapperOptions
from mapping.placement.single_device import MAPPER
from mapping.training.rank_graph import rank_graph
from mapping.training.rank_step import plain_step
from mapping.training.recompute.chain import ChainStage, Step, best_schedule, replay_schedule
from mapping.training.recompute.in_graph import drop_and_recompute
from mapping.training.recompute.skeleton import kept_share, skeleton_of
from mapping.training.requests import request_sequence
from mapping.training.setup import TrainingSetup
from mapping.training.state_types import StateTypes
from simulator.check import check
from tests.training.small_models import gpt_config
from workloads.graph import Graph, Role, check_graph
from workloads.operators import Product
from workloads.step_types import StepTypes


def flops(graph: Graph, which: str) -> float:
    return sum(op.flops for op in graph.operators if op.place.training_pass == which)


@pytest.mark.parametrize(
    ("policy", "tokens"), [("full", 0.0), ("pointwise", 0.0), ("tokens", 0.0), ("tokens", 0.3)]
)
@pytest.mark.parametrize("tensor", [1, 4])
def test_the_graph_stays_valid_and_does_the_same_work(
    tmp_path: Path, policy: str, tokens: float, tensor: int
) -> None:
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 512, tensor=tensor))
    done = drop_and_recompute(graph, kept_share(graph, policy, tokens))
    assert check_graph(done) is done, "operators stand in a valid order"
    assert flops(done, "forward") == flops(graph, "forward")
    assert flops(done, "backward") == flops(graph, "backward")
    assert set(done.outputs) == set(graph.outputs)
    # Nothing that the forward pass drops is read by the backward pass.
    made_forward = {n for op in done.operators if op.place.training_pass == "forward" for n in op.outputs}
    dropped = {n for n in made_forward if n.endswith(".dropped")}
    readers = {done.operator_by_name[r].place.training_pass for n in dropped for r in done.consumers[n]}
    assert readers <= {"forward"}


def test_full_recomputation_runs_layers_once_more(tmp_path: Path) -> None:
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 512))
    done = drop_and_recompute(graph, kept_share(graph, "full"))
    layers = [
        op for op in graph.operators
        if op.place.training_pass == "forward" and 0 <= op.place.layer < 4
    ]  # fmt: skip
    # The last product's result goes to the next layer, which keeps what it needs of it; it is not run again. What
    # the last layer hands to the head stays whole, so its output projection is not run again either.
    spared = [op for op in layers if op.name.endswith("mlp.down") or op.name == "layers.3.attention.out"]
    again = sum(op.flops for op in layers) - sum(op.flops for op in spared)
    assert flops(done, "recompute") == pytest.approx(again, rel=1e-3)
    kept = skeleton_of(done).layers
    assert all(len(names) <= 3 for names in kept.values())
    assert kept[1] == ("layers.1.attention_norm.sum",)


def test_dropped_tokens_cost_their_share(tmp_path: Path) -> None:
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 512))
    none = drop_and_recompute(graph, kept_share(graph, "tokens", 0.0))
    half = drop_and_recompute(graph, kept_share(graph, "tokens", 0.5))
    assert flops(half, "recompute") == pytest.approx(flops(none, "recompute") / 2)
    assert not [
        op for op in none.operators if op.kind == "attention" and op.place.training_pass == "recompute"
    ]
    whole = drop_and_recompute(graph, kept_share(graph, "tokens", 1.0))
    assert whole.operators == graph.operators


def test_what_is_made_again_reads_what_it_needs(tmp_path: Path) -> None:
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 512))
    done = drop_and_recompute(graph, kept_share(graph, "tokens", 0.75))
    again = {op.name: op for op in done.operators if op.place.training_pass == "recompute"}
    assert again
    for name, copy in again.items():
        source = graph.operator_by_name[name.removesuffix(".again")]
        assert copy.flops == pytest.approx(source.flops / 4)
        if isinstance(source.work, Product):
            # Rows of the dropped tokens, and the weight whole.
            assert (copy.work.m, copy.work.share) == (source.work.m // 4, source.work.share)
            weight = next(n for n in source.inputs if graph.tensors[n].role is Role.WEIGHT)
            assert copy.reads[copy.inputs.index(weight)] == source.reads[source.inputs.index(weight)]
            assert copy.writes[0] == source.writes[0] // 4
    norm = again["layers.1.mlp_norm.again"]
    total = graph.operator_by_name["layers.1.mlp_norm"].outputs[1]
    # The norm's sum is made again from its addends, since it is dropped in part itself.
    assert f"{total}.again" in norm.outputs
    full = drop_and_recompute(graph, kept_share(graph, "full"))
    first = full.operator_by_name["layers.1.attention_norm.again"]
    total = graph.operator_by_name["layers.1.attention_norm"].outputs[1]
    assert (first.inputs[0], first.work.adds) == (total, 0)
    assert first.reads[0] == graph.tensors[total].size_bytes


def test_parts_of_a_tensor_are_moved_once(tmp_path: Path) -> None:
    """Dropping tokens divides what operators read and write; forward and backward passes move the same bytes."""
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 512))
    done = drop_and_recompute(graph, kept_share(graph, "tokens", 0.3))
    for op in graph.operators:
        after = done.operator_by_name[op.name]
        assert (after.read_bytes, after.write_bytes) == (op.read_bytes, op.write_bytes)
        assert len(after.reads) == len(after.inputs) + len(after.updates)
        assert len(after.writes) == len(after.outputs) + len(after.updates)


def test_only_the_first_layers(tmp_path: Path) -> None:
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 512))
    done = drop_and_recompute(graph, kept_share(graph, "full", first_layers=2))
    assert {op.place.layer for op in done.operators if op.place.training_pass == "recompute"} == {
        0,
        1,
    }


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return rank_graph(TrainingSetup(gpt_config(tmp_path_factory.mktemp("model"), layers=3), 256))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_choice_of_what_to_keep_gives_a_graph_that_runs(training: Graph, data: st.DataObject) -> None:
    """The simulator's own checker follows every value from its maker to its readers."""
    names = sorted(name for own in skeleton_of(training).layers.values() for name in own)
    kept = {name: data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) for name in names}
    done = drop_and_recompute(training, kept)
    assert check_graph(done) is done
    system = load_system("a100-80gb")
    assert check(MAPPER.plan(done, system, MapperOptions()), done, system) == []
    assert flops(done, "backward") == flops(training, "backward")


@pytest.mark.parametrize(
    "model", ["gpt-oss-20b", "deepseek-v2-lite", "falcon-40b", "gemma-2-9b", "mixtral-8x7b"]
)
@pytest.mark.parametrize("degrees", [{"ulysses": 2}, {"context": 2}, {"tensor": 2}], ids=str)
def test_other_architectures_are_divided_and_recomputed_too(model: str, degrees: dict[str, int]) -> None:
    graph = rank_graph(TrainingSetup(model, 512, **degrees))  # type: ignore[arg-type]
    for policy in ("pointwise", "full", "tokens"):
        done = drop_and_recompute(graph, kept_share(graph, policy, 0.5))
        assert check_graph(done) is done
        assert flops(done, "recompute") > 0


# The chain.

STAGES = st.builds(
    lambda f, b, out, more: ChainStage(float(f), float(b), out, out + more),
    st.integers(0, 5), st.integers(0, 5), st.integers(0, 4), st.integers(0, 8),
)  # fmt: skip


def every_schedule(s: int, t: int) -> Iterator[list[Step]]:
    """All schedules that keep what they store until it is used, whatever memory they take."""
    if s == t:
        yield [Step("save", s), Step("backward", s)]
        return
    for rest in every_schedule(s + 1, t):
        yield [Step("save", s), *rest, Step("backward", s)]
    for k in range(s + 1, t + 1):
        run = [Step("drop", stage) for stage in range(s, k)]
        for later in every_schedule(k, t):
            for first in every_schedule(s, k - 1):
                yield [*run, *later, *first]


@given(st.lists(STAGES, min_size=1, max_size=5), st.integers(0, 60))
@settings(max_examples=80, deadline=None)
def test_the_chain_is_solved_to_the_optimum(stages: list[ChainStage], limit: int) -> None:
    fitting = []
    for schedule in every_schedule(0, len(stages) - 1):
        peak, seconds = replay_schedule(stages, schedule)
        if peak <= limit:
            fitting.append(seconds)
    if not fitting:
        with pytest.raises(InfeasibleError):
            best_schedule(stages, limit)
        return
    found = best_schedule(stages, limit)
    assert found.seconds == min(fitting)
    assert found.peak_bytes <= limit
    assert replay_schedule(stages, found.steps) == (found.peak_bytes, found.seconds)


@given(st.integers(2, 30), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_equal_stages_follow_the_binomial_rule(length: int, slots: int) -> None:
    """Griewank and Walther: with c checkpoints, chains up to C(c + r, c) need at most r forward runs per stage."""
    from math import comb

    # A stage saves nothing but its output, which needs a slot as a checkpoint does.
    stages = [ChainStage(1.0, 0.0, 1, 1)] * length
    try:
        found = best_schedule(stages, slots)
    except InfeasibleError:
        assert slots < 2
        return
    runs = found.forward_runs
    for repeat in range(1, length):
        if length <= comb(slots - 1 + repeat, repeat):
            assert runs <= repeat * length + length
            break
    assert runs >= length
    assert best_schedule(stages, length).forward_runs == length


def test_bad_chains_are_refused() -> None:
    with pytest.raises(InputError):
        best_schedule([], 10)
    with pytest.raises(InputError):
        best_schedule([ChainStage(1.0, 1.0, 5, 4)], 10)
    with pytest.raises(InfeasibleError, match="would do"):
        best_schedule([ChainStage(1.0, 1.0, 5, 40)] * 3, 10)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt2-medium"])
@pytest.mark.parametrize("recompute", ["selective", "every-other", "reversible"])
@pytest.mark.parametrize("saved", ["fused", "eager", "eager-flash"])
def test_further_policies_leave_valid_graphs(model: str, recompute: str, saved: str) -> None:
    types = StateTypes("t", StepTypes(saved=saved))  # type: ignore[arg-type]
    setup = TrainingSetup(model, 128, recompute=recompute, types=types)  # type: ignore[arg-type]
    graph = rank_graph(setup)
    done = plain_step(graph, setup).graph
    assert check_graph(done) is done, "operators stand in a valid order"
    assert flops(done, "forward") == flops(graph, "forward")
    assert flops(done, "backward") == flops(graph, "backward")
    kept = request_sequence(done).live_bytes().max()
    assert kept <= request_sequence(graph).live_bytes().max()


def test_selective_is_the_attention_core_and_nothing_else() -> None:
    """Of eager code the scores go: per layer softmax in FP32 and its copy, and keys and values for all heads."""
    types = StateTypes("t", StepTypes(saved="eager"))
    setup = TrainingSetup("llama-3-8b", 256, types=types, recompute="selective")
    graph = rank_graph(setup)
    done = plain_step(graph, setup).graph

    def left(one: Graph) -> int:
        skeleton = skeleton_of(one)
        return sum(one.tensors[name].size_bytes for name in skeleton.layers[3])

    scores, heads = 32 * 256 * 256, 256 * 32 * 128
    assert left(graph) - left(done) == scores * (4 + 2) + 2 * heads * 2
    fused = replace(setup, types=None)
    assert plain_step(rank_graph(fused), fused).graph.operators == rank_graph(fused).operators


def test_every_other_keeps_every_second_product() -> None:
    """Of q, k, v, o, gate, up and down: q, v, gate and down's result (held, though nothing reads it), and attention."""
    setup = TrainingSetup("llama-3-8b", 128, recompute="every-other")
    graph = rank_graph(setup)
    done = plain_step(graph, setup).graph
    skeleton = skeleton_of(done).layers[5]
    products = {
        name: done.tensors[name].size_bytes for name in skeleton if done.producer[name].count(".") >= 3
    }
    tokens = 128 * 2
    assert products["layers.5.attention.qkv.out"] == tokens * (4096 + 1024)
    assert products["layers.5.attention.attend.out"] == tokens * 4096
    assert products["layers.5.mlp.gate_up.out"] == tokens * 14336
    assert products["layers.5.mlp.down.out"] == tokens * 4096
    assert "layers.5.attention.out.out" not in products


def test_reversible_layers_keep_one_input_whatever_the_depth(tmp_path: Path) -> None:
    """Guard as well: full recomputation keeps one input more for each layer."""

    def kept(layers: int, recompute: str) -> int:
        setup = TrainingSetup(gpt_config(tmp_path, layers), 256, recompute=recompute)  # type: ignore[arg-type]
        done = plain_step(rank_graph(setup), setup).graph
        sequence = request_sequence(done)
        return int(sequence.size[sequence.skeletal].sum())

    assert kept(12, "reversible") == kept(6, "reversible")
    assert kept(12, "full") - kept(6, "full") == 6 * 256 * 256 * 2
