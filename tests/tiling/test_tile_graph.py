"""Strips of operators, on numbers: each is made from nothing but what its operator names, and is right."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.plan import Plan, Tiling
from simulator.plan_file import read_plan, write_plan
from simulator.rewrite.tile import most_parts, tile_graph
from simulator.rewrite.tile_rows import rows_needed
from tests.tiling import interpreter
from tests.tiling.networks import networks
from workloads.graph import Graph, Role, Tensor, check_graph, make_operator
from workloads.layer_builder import ConvLayer, LayerBuilder
from workloads.operators import Convolution, Pool
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
    x = build.conv("stem", build.input("image", 3, 8, 8), ConvLayer(4, 3, 1, 1))
    graph = build.graph(build.linear("classifier", build.adaptive_pool("mean", x), 10))
    for name, axis, parts in (("stem", "row", 9), ("mean", "row", 2), ("nobody", "row", 2)):
        with pytest.raises(InputError):
            tile_graph(graph, {"a": Tiling(axis, parts, (name,))})
    assert most_parts(graph, "stem", "row") == 8
    assert most_parts(graph, "stem", "channel") == 4
    assert most_parts(graph, "mean", "row") == 1


def halo(work, side, made, strip):
    """Rows of an image of ``side`` rows that a strip of one operator reads, by the padded image's own rows."""
    tensors = {
        "x": Tensor("x", (1, 2, side, 8), "int8"),
        "w": Tensor("w", (2, 2, 3, 3), "int8", Role.WEIGHT),
        "y": Tensor("y", (1, 2, made, 8), "int8"),
    }
    inputs = ("x", "w") if isinstance(work, Convolution) else ("x",)
    op = make_operator("o", work, inputs, ("y",), tensors)
    return rows_needed(Graph("g", tensors, (op,), ("y",)), op, "x", *strip)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_window_reaches_as_far_as_its_padding_says(padding, dilation, stride):
    """By the taps of every row, not by a rule: row r of the output reads r * stride + tap * dilation - padding."""
    side = 40
    made = (side + 2 * padding - dilation * 2 - 1) // stride + 1
    for strip in ((0, made // 3), (made // 3, made // 2), (made // 2, made)):
        rows = {r * stride + tap * dilation - padding for r in range(*strip) for tap in range(3)}
        rows &= set(range(side))
        convolution = Convolution(
            in_channels=2, out_channels=2, height=side, width=8, kernel_h=3, kernel_w=3, stride_h=stride,
            padding_h=padding, dilation=dilation, out_height=made, out_width=8,
        )  # fmt: skip
        low, high = halo(convolution, side, made, strip)
        # Of the rows between taps that lie in the padding, none but the nearest may be read for nothing.
        assert 0 <= min(rows) - low < dilation
        assert 0 <= high - (max(rows) + 1) < dilation
        if dilation == 1:
            pool = Pool(kernel_h=3, kernel_w=3, stride_h=stride, stride_w=stride, padding_h=padding)
            assert halo(pool, side, made, strip) == (min(rows), max(rows) + 1)


def test_a_convolution_without_padding_reads_no_row_before_its_strip():
    work = Convolution(
        in_channels=2, out_channels=2, height=34, width=10, kernel_h=3, kernel_w=3, out_height=32, out_width=8
    )
    assert halo(work, 34, 32, (24, 32)) == (24, 34)


def test_a_crop_in_strips_reads_what_it_keeps():
    build = LayerBuilder("small", WorkloadOptions(dtype="int8"))
    x = build.crop(
        "middle", build.conv("stem", build.input("image", 3, 16, 16), ConvLayer(4, 3, 1, 1)), 12, 6
    )
    graph = build.graph(build.linear("classifier", build.adaptive_pool("mean", x), 10))
    whole = graph.operator_by_name["middle"]
    tiled = tile_graph(graph, {"a": Tiling("row", 3, ("middle",))})
    strips = [op for op in tiled.operators if op.name.startswith("middle.row")]
    assert len(strips) == 3
    assert sum(op.read_bytes for op in strips) == whole.read_bytes == 4 * 12 * 6


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
