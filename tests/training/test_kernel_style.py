"""Frameworks' kernels: what they add stands in the graph, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from mapping.training.estimate import Estimator
from mapping.training.kernel_style import STYLES, style_of
from mapping.training.overlap import SLOWED, Sharing, shown_seconds
from mapping.training.pricing import Prices
from mapping.training.rank_graph import rank_graph
from mapping.training.rank_step import RankStep, plain_step, requests_of
from mapping.training.setup import TrainingSetup
from mapping.training.state_types import FRAMEWORKS, framework_types
from mapping.training.step_time import step_time
from simulator.system.gpu_library import wires_between
from tests.training.small_models import gpt_config
from workloads.operators import Attention, CollectiveWork, Norm, Product

LLAMA = TrainingSetup("llama-2-7b", 4096, batch=8, data=8, zero_stage=3)


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(Prices(load_system("dgx-h100")))


def step(estimator: Estimator, framework: str, **changes: object) -> RankStep:
    return estimator.rank_step(replace(LLAMA, framework=framework, **changes))  # type: ignore[arg-type]


def seconds(estimator: Estimator, framework: str, **changes: object) -> float:
    return step_time(step(estimator, framework, **changes), estimator.prices).step_s


def test_every_framework_has_kernels_and_types() -> None:
    assert set(STYLES) == set(FRAMEWORKS)


def test_plain_adds_nothing(estimator: Estimator) -> None:
    assert not any("#" in op.name for op in step(estimator, "plain").graph.operators)


@pytest.mark.parametrize("framework", [name for name in STYLES if name != "plain"])
def test_a_style_only_adds_bytes_beside_tensors(estimator: Estimator, framework: str) -> None:
    types = framework_types(framework)
    bare = step(estimator, "plain", types=types)
    plain, styled = bare.graph, step(estimator, framework).graph
    # Scores of unfused attention are tensors of their own.
    known = plain.tensors
    more = set(styled.tensors) - set(known)
    assert {name: styled.tensors[name] for name in known} == known
    assert bool(more) == (style_of(framework).attention == "unfused")
    own = [op for op in styled.operators if "#" not in op.name]
    assert [op.name for op in own] == [op.name for op in plain.operators]
    for mine, theirs in zip(own, plain.operators, strict=True):
        inputs, outputs = (
            tuple(name for name in names if name not in more) for names in (mine.inputs, mine.outputs)
        )
        assert (inputs, outputs, mine.updates, mine.place) == (
            theirs.inputs, theirs.outputs, theirs.updates, theirs.place,
        )  # fmt: skip
    added = [op for op in styled.operators if "#" in op.name]
    assert added
    assert all(not (op.inputs or op.outputs) and op.read_bytes + op.write_bytes > 0 for op in added)
    assert len({op.name for op in styled.operators}) == len(styled.operators)
    if style_of(framework).attention == "unfused":
        return  # the room in which a fused kernel works is not asked for
    requests = [estimator.requests(found) for found in (bare, step(estimator, framework))]
    assert requests[0].size.tolist() == requests[1].size.tolist()


def test_more_fused_is_faster(estimator: Estimator) -> None:
    eager, compiled, plain = (
        seconds(estimator, name) for name in ("torchtitan-eager", "torchtitan", "plain")
    )
    assert plain < compiled < eager
    assert seconds(estimator, "torchtitan-float8") < compiled
    assert (
        seconds(estimator, "megatron-fp8")
        < seconds(estimator, "megatron")
        < seconds(estimator, "megatron-2021")
    )


def test_products_take_their_recipe_inside_layers_alone(estimator: Estimator) -> None:
    graph = step(estimator, "megatron-fp8").graph
    layers = max(op.place.layer or 0 for op in graph.operators)
    for op in graph.operators:
        if isinstance(op.work, Product):
            assert op.dtype == ("fp8" if (op.place.layer or 0) < layers else "bf16"), op.name
        if isinstance(op.work, Attention):
            assert (op.dtype, op.work.library) == ("bf16", "cudnn")


def test_unfused_attention_does_all_pairs(estimator: Estimator) -> None:
    fused, unfused = (step(estimator, name).graph for name in ("plain", "megatron-2021"))
    for which in ("forward", "backward"):
        ours = sum(op.flops for op in unfused.operators if f"#{which}_core" in op.name)
        theirs = sum(
            op.flops for op in fused.operators
            if isinstance(op.work, Attention) and op.place.training_pass == which
        )  # fmt: skip
        # A mask leaves half of the pairs to a fused kernel, which recomputes the scores in its backward pass.
        assert ours == pytest.approx(theirs * (2.0 if which == "forward" else 2.0 * 4 / 5), rel=1e-3)
    again = step(estimator, "megatron-2022", recompute="selective").graph
    assert any("#recompute_core" in op.name for op in again.operators)
    assert not any("#recompute_core" in op.name for op in unfused.operators)


def test_residual_sums_are_kernels_of_their_own_where_nothing_fuses_them(estimator: Estimator) -> None:
    graph = step(estimator, "torchtitan-eager").graph
    names = {op.name for op in graph.operators}
    for op in graph.operators:
        if isinstance(op.work, Norm) and op.work.adds and op.place.training_pass == "forward":
            assert f"{op.name}#residual" in names
    assert not any(
        name.endswith("#residual")
        for name in (op.name for op in step(estimator, "torchtitan").graph.operators)
    )


def test_overlapped_tensor_parallelism_shows_one_chunk_in_as_many_as_ranks(estimator: Estimator) -> None:
    degrees = {"tensor": 8, "data": 1, "zero_stage": 0}

    def total(framework: str) -> int:
        return sum(
            op.work.bytes for op in step(estimator, framework, **degrees).graph.operators
            if isinstance(op.work, CollectiveWork) and op.kind in ("all_gather", "reduce_scatter")
        )  # fmt: skip

    assert total("megatron") == pytest.approx(total("plain") / 8, rel=1e-3)
    assert total("plain") > total("torchtitan-async") > total("megatron")


def test_an_uneven_ring_waits_for_its_last_rank(estimator: Estimator) -> None:
    long = {"sequence": 65536, "batch": 1, "data": 1, "context": 8, "recompute": "full"}
    even, uneven = (
        next(
            op.work for op in step(estimator, name, **long).graph.operators
            if isinstance(op.work, Attention) and op.place.training_pass == "forward"
        ) for name in ("compile", "torchtitan")
    )  # fmt: skip
    assert isinstance(even, Attention)
    assert isinstance(uneven, Attention)
    # Of eight ranks the last does seven whole blocks and half of its own, the mean four.
    assert uneven.pairs / (even.pairs * even.share) == pytest.approx(7.5 / 4, rel=1e-3)
    setups = (replace(LLAMA, framework=name, **long) for name in ("plain", "torchtitan"))  # type: ignore[arg-type]
    flops = {estimator.estimate(setup, exact=False).model_flops for setup in setups}
    assert len(flops) == 1


def test_an_unknown_framework_is_one_line(estimator: Estimator) -> None:
    with pytest.raises(InputError, match="unknown framework 'megatrn'"):
        style_of("megatrn")
    with pytest.raises(InputError, match="unknown framework"):
        step(estimator, "megatrn")


def test_a_small_model_waits_for_its_host(estimator: Estimator) -> None:
    tiny = replace(LLAMA, model="gpt2", sequence=128, framework="eager", zero_stage=0)
    assert step_time(estimator.rank_step(tiny), estimator.prices).host_s > 0
    assert step_time(step(estimator, "eager"), estimator.prices).host_s == 0


def plainly(sharing: Sharing, forward: float, backward: float, rate: float) -> float:
    """The same, interval by interval on two streams: passes here, collectives there."""
    total = 0.0
    each = {
        "w": sharing.weight_bytes / sharing.layers / rate,
        "g": sharing.gradient_bytes / sharing.layers / rate,
    }
    passes = {
        0: [(backward, 2 * each["g"], 2 * each["g"], 1)],
        1: [(backward, each["g"], each["g"], 1), (forward, each["w"], each["w"], 1)],
        2: [(backward, each["g"], each["g"], sharing.micro_batches), (forward, each["w"], each["w"], 1)],
        3: [
            (forward, each["w"], each["w"], sharing.micro_batches),
            (backward, each["w"] + each["g"], each["g"], sharing.micro_batches),
        ],
    }  # fmt: skip
    for computing, one, alone, times in passes[sharing.stage]:
        behind = min(one * sharing.layers - alone, computing)
        total += times * (one * sharing.layers - behind + SLOWED * behind)
    return total


@given(
    st.sampled_from([0, 1, 2, 3]), st.integers(1, 8), st.integers(1, 4), st.floats(1e-3, 10), st.floats(1e-3, 10),
    st.floats(1e6, 1e12),
)  # fmt: skip
def test_what_communication_shows(
    stage: int, layers: int, micro: int, forward: float, backward: float, rate: float
) -> None:
    sharing = Sharing(stage, layers, 840e6 * layers, 1680e6 * layers, micro)

    def price(kind: str, size: int) -> float:
        return size / rate * (2 if kind == "all_reduce" else 1)

    shown = shown_seconds(sharing, forward, backward, price)
    assert shown == pytest.approx(plainly(sharing, forward, backward, rate), rel=1e-6)
    assert shown > 0
    faster = shown_seconds(sharing, forward, backward, lambda kind, size: price(kind, size) / 2)
    assert faster < shown


def test_every_rank_has_its_rail() -> None:
    system = load_system("dgx-a100-x2")
    nodes = [system.nodes[f"gpu{number}"] for number in range(16)]
    found = wires_between(system, nodes)
    assert found is not None
    assert (found.wire, found.per_node, found.rails) == ("network", 8, 8)
    pair = wires_between(system, [nodes[0], nodes[8]])
    assert pair is not None
    assert pair.rails == 1
    prices = Prices(system)
    size = 1 << 30
    many = prices.collective("all_gather", size, prices.devices)
    few = prices.collective("all_gather", size, (prices.devices[0], prices.devices[8]))
    # Sixteen ranks over eight rails move nearly twice the bytes of a pair over one, four times as fast or more.
    assert many < few / 4


@pytest.mark.parametrize(("tensor", "micro_batch"), [(1, 1), (4, 2)])
def test_unfused_attention_keeps_its_scores(tmp_path: Path, tensor: int, micro_batch: int) -> None:
    """5 a s^2 b / t bytes a layer beside what one kernel leaves (arXiv:2205.05198, equation 2), none if run again."""
    layers, heads, sequence = 3, 8, 512
    model = gpt_config(tmp_path, layers=layers, hidden=256, heads=heads)

    def kept(framework: str, recompute: str = "none") -> int:
        setup = TrainingSetup(
            model, sequence, micro_batch, micro_batch, tensor=tensor, framework=framework,
            recompute=recompute,  # type: ignore[arg-type]
        )  # fmt: skip
        requests = requests_of(plain_step(rank_graph(setup), setup))
        return int(requests.size[requests.skeletal].sum())

    scores = 5 * heads * sequence**2 * micro_batch // tensor
    assert kept("megatron-2022") - kept("megatron") == layers * scores
    assert kept("megatron-2022", "selective") == kept("megatron", "selective")
    assert kept("megatron-2022", "full") == kept("megatron", "full")


def test_scores_are_there_while_they_are_worked_on(tmp_path: Path) -> None:
    """With everything run again a layer's scores live in its backward pass alone, as do their gradients."""
    model = gpt_config(tmp_path, layers=2, hidden=256, heads=8)
    peaks = []
    for framework in ("megatron-2022", "megatron"):
        setup = TrainingSetup(model, 2048, framework=framework, recompute="full")
        peaks.append(int(requests_of(plain_step(rank_graph(setup), setup)).live_bytes().max()))
    scores = 8 * 2048**2
    assert peaks[0] - peaks[1] > 0.9 * (5 + 4) * scores - peaks[1]
    assert peaks[0] < (5 + 4) * scores + peaks[1]
