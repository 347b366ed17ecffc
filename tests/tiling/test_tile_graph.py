"""Strips of operators, on numbers: each is made from nothing but what its operator names, and is right."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.plan import Plan, Tiling
from simulator.plan_file import read_plan, write_plan
from simulator.rewrite.tile import most_parts, tile_graph
from tests.tiling import interpreter
from tests.tiling.networks import networks
from workloads.graph import check_graph
from workloads.layer_builder import LayerBuilder
from workloads.workload import WorkloadOptions


@st.composite
def cut_networks(draw):
    graph = draw(networks())
    tiles = {}
    for name in [op.name for op in graph.operators] + ["image"]:
        axis = draw(st.sampled_from(("row", "channel", "none")))
        most = most_parts(graph, name, axis) if axis != "none" else 1
        if most > 1:
            tiles[name] = Tiling(axis, draw(st.integers(2, min(most, 6))), (name,))
    return graph, tiles


@given(cut_networks())
@settings(max_examples=60, deadline=None)
def test_strips_hold_what_the_whole_operators_make(case):
    graph, tiles = case
    tiled = check_graph(tile_graph(graph, tiles))
    interpreter.TILED["graph"] = tiled
    values = interpreter.weights_of(graph)
    truth = interpreter.run_whole(graph, values)
    interpreter.run_strips(graph, tiled, values, truth)


@given(cut_networks())
@settings(max_examples=60, deadline=None)
def test_strips_do_the_same_work_on_the_same_bytes(case):
    graph, tiles = case
    tiled = tile_graph(graph, tiles)
    assert sum(op.flops for op in tiled.operators) == pytest.approx(graph.flops)
    made = lambda g: sum(g.tensors[t].size_bytes for op in g.operators for t in op.outputs)  # noqa: E731
    assert made(tiled) == made(graph)
    assert tiled.parameters() == graph.parameters()
    for op in tiled.operators:
        assert op.read_bytes <= sum(tiled.tensors[name].size_bytes for name in op.inputs)
        assert op.write_bytes == sum(tiled.tensors[name].size_bytes for name in op.outputs)


def test_a_cut_that_cannot_be_made_is_refused():
    build = LayerBuilder("small", WorkloadOptions())
    x = build.conv("stem", build.input("image", 3, 8, 8), 4, 3, 1, 1)
    graph = build.graph(build.linear("classifier", build.adaptive_pool("mean", x), 10))
    for name, axis, parts in (("stem", "row", 9), ("mean", "row", 2), ("nobody", "row", 2)):
        with pytest.raises(InputError):
            tile_graph(graph, {"a": Tiling(axis, parts, (name,))})
    assert most_parts(graph, "stem", "row") == 8
    assert most_parts(graph, "stem", "channel") == 4
    assert most_parts(graph, "mean", "row") == 1


def test_a_plan_keeps_its_tiles_and_views(tmp_path):
    tiles = {"first": Tiling("row", 3, ("stem", "image"))}
    plan = Plan("g", "s", "m", (), {}, tiles=tiles, views={"a": "b"})
    write_plan(plan, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert (again.tiles, again.views) == (tiles, {"a": "b"})


@pytest.mark.parametrize(
    "tiles",
    ['{"a": 3}', '{"a": {"axis": "depth", "parts": 2, "operators": ["x"]}}', '{"a": {"axis": "row"}}'],
)
def test_broken_tiles_are_told_with_their_place(tmp_path, tiles):
    path = tmp_path / "plan.json"
    path.write_text('{"format": "offchip-plan-1", "tiles": %s}' % tiles)  # noqa: UP031
    with pytest.raises(InputError, match=r"tiles\.a"):
        read_plan(path)
