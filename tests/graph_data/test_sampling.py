"""Sampled batches are valid samples, the same as a plain oracle's, and the same again for the same seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from tests.graph_data.oracle import graphs, sample, violations
from workloads.graph_data import (
    Adjacency,
    BatchTrace,
    LayerSampling,
    NeighbourSampling,
    SampledBatch,
    from_edges,
    training_batches,
)
from workloads.graph_data.batches import training_nodes
from workloads.graph_data.generators import barabasi_albert

RULES = st.builds(
    NeighbourSampling,
    st.lists(st.sampled_from([-1, 1, 2, 3, 5]), min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.sampled_from(["all", "new"]),
    st.integers(0, 2**40),
)


@settings(max_examples=150, deadline=None)
@given(graphs(), RULES, st.data())
def test_a_sample_is_the_oracles_and_valid(
    graph: Adjacency, rule: NeighbourSampling, data: st.DataObject
) -> None:
    seeds = data.draw(st.lists(st.integers(0, graph.nodes - 1), min_size=1, max_size=4, unique=True))
    number = data.draw(st.integers(0, 9))
    sampler = rule.sampler(graph)
    sampler.sample(list(range(graph.nodes)), 77)
    found = sampler.sample(seeds, number)
    rows = [graph.of(node).tolist() for node in range(graph.nodes)]
    expected = sample(rows, seeds, rule, number)
    assert found.nodes.tolist() == expected["nodes"]
    made = [
        (x.targets, x.sources, list(zip(x.edge_target.tolist(), x.edge_source.tolist(), strict=True)))
        for x in found.layers
    ]
    assert made == expected["layers"]
    if rule.expand == "all":
        assert violations(graph, seeds, found, rule) == []


def star() -> tuple[Adjacency, SampledBatch, NeighbourSampling]:
    graph = from_edges(np.arange(1, 9), np.zeros(8, np.int64), 9)
    rule = NeighbourSampling((3,))
    return graph, rule.sampler(graph).sample([0]), rule


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"nodes": [0, 1, 1, 2]}, "stands twice"),
        ({"nodes": [1, 0, 2, 3]}, "seeds do not come first"),
        ({"edge_target": [1, 1, 1]}, "no neighbour"),
        ({"edge_source": [1, 1, 2]}, "taken twice"),
        ({"edge_target": [0, 0, 0, 0], "edge_source": [1, 2, 3, 3]}, "more than the fan-out"),
        ({"edge_target": [0], "edge_source": [1]}, "fewer than there are"),
        ({"sources": 3}, "no layer brought"),
    ],
)
def test_the_checker_sees_a_broken_sample(broken: dict[str, object], told: str) -> None:
    graph, found, rule = star()
    assert violations(graph, [0], found, rule) == []
    layer = {k: np.array(v) if isinstance(v, list) else v for k, v in broken.items() if k != "nodes"}
    nodes = np.array(broken["nodes"]) if "nodes" in broken else found.nodes
    wrong = replace(found, nodes=nodes, layers=(replace(found.layers[0], **layer),))
    assert any(told in line for line in violations(graph, [0], wrong, rule))


def test_draws_without_replacement_are_even() -> None:
    graph, _, _ = star()
    sampler = NeighbourSampling((3,), seed=5).sampler(graph)
    seen = Counter(node for number in range(4000) for node in sampler.sample([0], number).nodes.tolist()[1:])
    # 12000 draws over 8 nodes: 1500 each, standard deviation 31.
    assert max(abs(seen[node] - 1500) for node in range(1, 9)) < 160


def test_other_seeds_and_numbers_give_other_samples() -> None:
    graph = barabasi_albert(400, 6, seed=3)
    one = NeighbourSampling((4, 4), seed=1).sampler(graph)
    same, other = one.sample([7, 8], 3), NeighbourSampling((4, 4), seed=2).sampler(graph).sample([7, 8], 3)
    assert same.nodes.tolist() == one.sample([7, 8], 3).nodes.tolist()
    assert same.nodes.tolist() != one.sample([7, 8], 4).nodes.tolist()
    assert same.nodes.tolist() != other.nodes.tolist()


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from(["ladies", "fastgcn"]), st.integers(1, 5), st.data())
def test_layers_of_a_budget(graph: Adjacency, rule: str, budget: int, data: st.DataObject) -> None:
    seeds = data.draw(st.lists(st.integers(0, graph.nodes - 1), min_size=1, max_size=4, unique=True))
    found = LayerSampling((budget, budget), rule, 3).sampler(graph).sample(seeds)
    nodes = found.nodes.tolist()
    assert len(set(nodes)) == len(nodes)
    assert nodes[: len(seeds)] == seeds
    known = len(seeds)
    for layer in found.layers:
        assert layer.targets == known
        assert layer.sources <= known + budget
        inside = set(nodes[: layer.sources])
        expected = Counter((t, int(s)) for t in range(known) for s in graph.of(nodes[t]) if int(s) in inside)
        made = Counter(
            (t, nodes[s]) for t, s in zip(layer.edge_target.tolist(), layer.edge_source.tolist(), strict=True)
        )
        assert made == expected
        known = layer.sources


def test_ladies_draws_by_the_squares_of_the_rows() -> None:
    # Node 2 is a neighbour of two rows of one each, node 3 shares a row of four: weights 2 and 1/16.
    graph = from_edges([4, 4, 3, 5, 6, 7], [0, 1, 2, 2, 2, 2], 8)
    picked = Counter(
        int(LayerSampling((1,), "ladies", seed).sampler(graph).sample([0, 1, 2]).nodes[-1])
        for seed in range(2000)
    )
    assert picked[4] / 2000 == pytest.approx(2 / 2.25, abs=0.03)


@settings(max_examples=40, deadline=None)
@given(graphs(), st.integers(1, 5), st.integers(0, 99))
def test_an_epoch_takes_every_training_node_once(graph: Adjacency, batch: int, seed: int) -> None:
    training = training_nodes(graph, max(1, graph.nodes // 2), seed=seed)
    rule = NeighbourSampling((2,), seed=seed)
    trace = training_batches(graph, training, batch, rule)
    seeds = [row for b in range(trace.batches) for row in trace.of(b).tolist()[: trace.layers[b][0].targets]]
    assert sorted(seeds) == training.tolist()
    assert trace.batches == -(-training.size // batch)
    again = training_batches(graph, training, batch, rule)
    assert again.rows.tolist() == trace.rows.tolist()
    assert training_batches(graph, training, batch, rule, most=1).batches == 1
    counts = Counter(trace.rows.tolist())
    assert trace.frequency().tolist() == [counts[node] for node in range(graph.nodes)]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda g: NeighbourSampling((0,)), "--fan-out"),
        (lambda g: NeighbourSampling((3,), expand="some"), "--expand"),
        (lambda g: NeighbourSampling((3,), seed=-1), "--seed"),
        (lambda g: LayerSampling((3,), "lady"), "--rule"),
        (lambda g: LayerSampling((0,)), "--budget"),
        (lambda g: NeighbourSampling((3,)).sampler(g).sample([9]), "seeds among the 9"),
        (lambda g: NeighbourSampling((3,)).sampler(g).sample([1, 1]), "twice"),
        (lambda g: training_nodes(g, 10), "--training-nodes"),
        (lambda g: training_batches(g, [1], 0, NeighbourSampling((3,))), "--batch"),
        (lambda g: BatchTrace.from_rows([[1, 2], [3, 3]], 9), "twice"),
        (lambda g: BatchTrace.from_rows([[9]], 9), "none of the 9"),
        (lambda g: BatchTrace(np.array([0, 2, 1]), np.array([1]), 9), "rise"),
    ],
)
def test_what_is_refused(call, told: str) -> None:
    with pytest.raises(InputError, match=told):
        call(star()[0])
