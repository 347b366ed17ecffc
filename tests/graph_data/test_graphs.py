"""Adjacencies, generators, presets and files: what they hold, and one line for each mistake."""

from __future__ import annotations

import gzip
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.graph_data import Adjacency, from_edges
from workloads.graph_data.files import load_adjacency, read_degrees, read_edge_list, save_adjacency
from workloads.graph_data.generators import (
    barabasi_albert,
    configuration_model,
    power_law_degrees,
    r_mat,
)
from workloads.graph_data.presets import PRESETS, generate, preset


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9), st.booleans(), st.data())
def test_edges_become_rows(nodes: int, directed: bool, data: st.DataObject) -> None:
    node = st.integers(0, nodes - 1)
    edges = data.draw(st.lists(st.tuples(node, node), max_size=30))
    graph = from_edges([s for s, _ in edges], [t for _, t in edges], nodes, directed=directed)
    rows: list[list[int]] = [[] for _ in range(nodes)]
    for source, target in edges:
        rows[target].append(source)
        if not directed:
            rows[source].append(target)
    assert [graph.of(v).tolist() for v in range(nodes)] == rows
    assert graph.edges == len(edges) * (1 if directed else 2)
    assert graph.degrees().tolist() == [len(row) for row in rows]


@pytest.mark.parametrize(
    ("offsets", "neighbours", "told"),
    [
        ([0, 2, 1], [0], "never fall"),
        ([1, 1], [], "never fall"),
        ([0, 2], [0], "the last is 2, yet there are 1"),
        ([0, 1], [1], "found node 1 among 1"),
        ([0], [], "1 to"),
        ([0, 1], [-1], "neighbours: expected 0"),
        ([0.0, 1.0], [0], "offsets: expected whole"),
    ],
)
def test_a_wrong_adjacency_is_refused(offsets, neighbours, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Adjacency(np.array(offsets), np.array(neighbours, np.int64))


def test_an_adjacency_cannot_be_changed() -> None:
    graph = from_edges([0], [1], 2)
    with pytest.raises(ValueError, match="read-only"):
        graph.neighbours[0] = 1


def test_r_mat_falls_into_the_quadrants() -> None:
    graph = r_mat(1024, 40_000, (0.5, 0.2, 0.2, 0.1), seed=4)
    assert (graph.nodes, graph.edges) == (1024, 40_000)
    source, target = graph.neighbours, np.repeat(np.arange(1024), graph.degrees())
    share = Counter(zip((source >= 512).tolist(), (target >= 512).tolist(), strict=True))
    for (row, column), expected in {(0, 0): 0.5, (0, 1): 0.2, (1, 0): 0.2, (1, 1): 0.1}.items():
        assert share[bool(row), bool(column)] / 40_000 == pytest.approx(expected, abs=0.01)
    assert r_mat(1024, 100, seed=4).neighbours.tolist() == r_mat(1024, 100, seed=4).neighbours.tolist()
    assert r_mat(1024, 100, seed=4).neighbours.tolist() != r_mat(1024, 100, seed=5).neighbours.tolist()
    assert r_mat(1000, 5000).neighbours.max() < 1000
    assert r_mat(1, 3).edges == 3


def test_barabasi_albert_attaches_to_distinct_nodes_by_degree() -> None:
    graph = barabasi_albert(3000, 3, seed=2)
    assert graph.edges == 2 * 3 * 2997
    degrees = graph.degrees()
    assert degrees[3:].min() == 3
    assert all(len(set(graph.of(v).tolist())) == 3 for v in range(2500, 3000) if degrees[v] == 3)
    # The share above k falls as k^-2: of nodes with k or more, about 3 * 4 / (k (k + 1)).
    assert (degrees >= 12).mean() == pytest.approx(3 * 4 / (12 * 13), rel=0.15)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.integers(0, 50))
def test_the_configuration_model_keeps_every_degree(degrees: list[int], seed: int) -> None:
    assert configuration_model(degrees, seed=seed, directed=True).degrees().tolist() == degrees
    if sum(degrees) % 2:
        with pytest.raises(InputError, match="odd"):
            configuration_model(degrees, seed=seed)
    else:
        graph = configuration_model(degrees, seed=seed)
        assert graph.degrees().tolist() == degrees
        ends = Counter(graph.neighbours.tolist())
        assert [ends[v] for v in range(len(degrees))] == degrees


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.floats(0, 1), st.floats(1.5, 4), st.integers(0, 9))
def test_power_law_degrees_sum_up(nodes: int, share: float, exponent: float, seed: int) -> None:
    edges = int(nodes * (nodes - 1) * share)
    degrees = power_law_degrees(nodes, edges, exponent, seed=seed)
    assert int(degrees.sum()) == edges
    assert degrees.min() >= 0
    assert degrees.max() <= nodes - 1


def test_the_tail_has_the_exponent() -> None:
    degrees = power_law_degrees(200_000, 2_000_000, 2.5)
    above = [(degrees >= k).mean() for k in (30, 60)]
    assert np.log2(above[0] / above[1]) == pytest.approx(1.5, abs=0.1)


def test_presets_scale_by_the_share() -> None:
    whole = preset("ogbn-papers100m")
    part = whole.scaled(Fraction(1, 10_000))
    graph = generate(part, seed=1)
    assert (graph.nodes, graph.edges) == (11_106, 161_569)
    assert part.training_nodes == 121
    assert part.row_bytes == 512
    assert graph.edges / graph.nodes == pytest.approx(whole.average_degree, rel=1e-3)
    both = preset("ogbn-products").scaled(Fraction(1, 500))
    assert generate(both).edges == pytest.approx(2 * both.edges, abs=1)
    assert all(shape.source for shape in PRESETS.values())
    assert preset("mag240m-cites").row_bytes == 1536
    with pytest.raises(InputError, match="did you mean 'reddit'"):
        preset("redit")
    with pytest.raises(InputError, match="smaller scale"):
        generate(whole)
    with pytest.raises(InputError, match="--scale"):
        whole.scaled(Fraction(2))


def test_edge_lists_in_text(tmp_path: Path) -> None:
    text = "# a comment\n% another\n\n0 1\n2\t1 0.5 weight\n1 0\n"
    plain, packed = tmp_path / "g.txt", tmp_path / "g.txt.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    graphs = [read_edge_list(plain), load_adjacency(packed)]
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "g.zst").write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    graphs.append(load_adjacency(tmp_path / "g.zst"))
    for graph in graphs:
        assert [graph.of(v).tolist() for v in range(3)] == [[1], [0, 2], []]
    both = load_adjacency(plain, directed=False)
    assert both.edges == 6
    (tmp_path / "d").write_text("3\n0\n1\n")
    assert read_degrees(tmp_path / "d").tolist() == [3, 0, 1]


def test_arrays_in_npz(tmp_path: Path) -> None:
    graph = r_mat(64, 500, seed=3)
    save_adjacency(graph, tmp_path / "g.npz")
    again = load_adjacency(tmp_path / "g.npz")
    assert again.offsets.tolist() == graph.offsets.tolist()
    assert again.neighbours.tolist() == graph.neighbours.tolist()
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("e", b"0 1\n0 x\n", r"e:2: target: found 'x'"),
        ("e", b"0\n", r"e:1: target: missing"),
        ("e", b"-1 0\n", r"e:1: source: found '-1'"),
        ("e", b"0 99999999999\n", r"e:1: target"),
        ("e", b"# nothing\n", "no edges"),
        ("e", b"0 1 " + b"x" * 5000, "e:1: a line of more"),
        ("e.gz", b"not packed", "e.gz: cannot be read"),
        ("e", b"\xff\xfe", "cannot be read"),
        ("e.npz", b"no archive", "e.npz: not a .npz"),
    ],
)
def test_a_bad_file_is_told_by_line_and_field(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        load_adjacency(tmp_path / name)


def test_a_bad_archive_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", offsets=np.array([0, 0]))
    with pytest.raises(InputError, match=r"a.npz: neighbours: no such array"):
        load_adjacency(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", offsets=np.array([None]), neighbours=np.array([0]))
    with pytest.raises(InputError, match="plain arrays"):
        load_adjacency(tmp_path / "b.npz")
    with pytest.raises(InputError, match="no such file"):
        load_adjacency(tmp_path / "c.npz")
    with pytest.raises(InputError, match=r"\.npz"):
        save_adjacency(from_edges([0], [0], 1), tmp_path / "g.bin")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: r_mat(0, 1), "nodes"),
        (lambda: r_mat(4, -1), "edges"),
        (lambda: r_mat(4, 1, (0.5, 0.5, 0.5, 0.5)), "shares"),
        (lambda: r_mat(3, 1, (0.0, 0.0, 0.0, 1.0)), "shares"),
        (lambda: r_mat(4, 1, seed=-1), "seed"),
        (lambda: barabasi_albert(3, 3), "each"),
        (lambda: configuration_model([-1]), "degrees"),
        (lambda: power_law_degrees(3, 7), "fewer"),
        (lambda: power_law_degrees(3, 1, 1.0), "exponent"),
        (lambda: from_edges([0], [3], 3), "none of the 3"),
        (lambda: from_edges([0, 1], [0], 3), "as many"),
    ],
)
def test_what_cannot_be_made(call, told: str) -> None:
    with pytest.raises(InputError, match=told):
        call()
