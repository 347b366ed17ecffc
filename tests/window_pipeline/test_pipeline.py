"""Pixel pipelines: times against the longest path of a graph of events, taps against sets of pixels."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import floor

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_device
from hw_configs.problems import InputError
from hw_configs.window_pipeline import WindowPipeline
from simulator.window_pipeline.kernel import pixel_clocks, window_reads
from simulator.window_pipeline.layers import Deformation, PipelineLayer, layer_time, offsets_of


def machine(**changes: object) -> WindowPipeline:
    device = load_device("codenet-ultra96")
    assert isinstance(device, WindowPipeline)
    return device.model_copy(update=changes)


def longest_path(side: int, stride: int, ahead: int, costs: list[int], room: int) -> float:
    """The same events as nodes: a node ends its cost after all nodes before it."""
    read, product, store, take, write = costs
    graph, cost = nx.DiGraph(), {}

    def node(name: tuple[str, int], clocks: int, *before: tuple[str, int]) -> None:
        cost[name] = clocks
        graph.add_node(name)
        graph.add_edges_from((other, name) for other in before if other[1] >= 0)

    outputs = [(r, c) for r in range(0, side, stride) for c in range(0, side, stride)]
    for i in range(side * side):
        node(("read", i), read, ("read", i - 1), ("product", i - room - 1))
        node(("product", i), product, ("read", i), ("product", i - 1), ("store", i - room - 1))
        node(("store", i), store, ("product", i))
    for j in range(len(outputs)):
        node(("take", j), take, ("write", j - room - 1))
        node(("write", j), write, ("take", j), ("write", j - 1))
    # The buffer's own order: pixel (r, c) is stored just before output (r - ahead, c) is taken.
    order = sorted(
        [(r, c, 0, ("store", r * side + c)) for r in range(side) for c in range(side)]
        + [(r + ahead, c, 1, ("take", j)) for j, (r, c) in enumerate(outputs)]
    )
    graph.add_edges_from((a[3], b[3]) for a, b in pairwise(order))
    end: dict[tuple[str, int], float] = {}
    for name in nx.topological_sort(graph):
        end[name] = max((end[other] for other in graph.predecessors(name)), default=0) + cost[name]
    return max(end.values())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 2), st.integers(0, 3), st.lists(st.integers(0, 9), min_size=5, max_size=5),
    st.integers(1, 3),
)  # fmt: skip
def test_a_pipeline_takes_the_longest_path(
    side: int, stride: int, ahead: int, costs: list[int], room: int
) -> None:
    found = pixel_clocks(side, stride, ahead, np.array(costs, float), room)
    assert found == longest_path(side, stride, ahead, costs, room)
    # The line buffer's two steps are one after the other; every other stage alone is a bound too.
    pixels, outputs = side**2, (-(-side // stride)) ** 2
    assert found >= max(
        pixels * costs[0], pixels * costs[1], pixels * costs[2] + outputs * costs[3], outputs * costs[4]
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(-1, 3), st.booleans(),
    st.lists(st.tuples(st.integers(-12, 24), st.integers(-12, 24)), min_size=1, max_size=9),
)  # fmt: skip
def test_taps_read_the_pixels_around_them(
    side: int, kept: int, whole: bool, quarters: list[tuple[int, int]]
) -> None:
    """Places in quarters of a pixel, around every output."""
    places = [(a // 4, b // 4) if whole else (a / 4, b / 4) for a, b in quarters]
    rows = np.array([[i // side + a for a, _ in places] for i in range(side**2)], float)
    columns = np.array([[i % side + b for _, b in places] for i in range(side**2)], float)
    buffered = missed = runs = 0
    for output in range(side**2):
        for a, b in zip(rows[output].tolist(), columns[output].tolist(), strict=True):
            touched = {
                (r, c)
                for r in range(side)
                for c in range(side)
                if (r, c) == (a, b) or (not whole and abs(r - a) < 1 and abs(c - b) < 1)
            }
            near = {(r, c) for r, c in touched if abs(r - output // side) <= kept}
            buffered += len(near)
            missed += len(touched - near)
            runs += len({r for r, _ in touched - near})
    assert tuple(window_reads(rows, columns, side, kept, whole)) == (buffered, missed, runs)
    assert floor(rows.max()) >= -12


def test_the_line_buffer_takes_turns() -> None:
    """64 channels in groups of 16, 6 clocks to start: store 10, take 10; products 4 x 10 + 10 are slower."""
    here = machine()
    window = layer_time(PipelineLayer(32, 64, 64, product=False), here)
    assert window.seconds * here.clock == pytest.approx(32 * 32 * 20, rel=0.3)
    product = layer_time(PipelineLayer(32, 64, 64, window=""), here)
    assert product.seconds * here.clock == pytest.approx(32 * 32 * 50, rel=0.02)
    both = layer_time(PipelineLayer(32, 64, 64), here)
    assert product.seconds < both.seconds < product.seconds + window.seconds


def test_bounded_offsets_stay_in_the_line_buffer_and_others_do_not() -> None:
    base, here = PipelineLayer(32, 64, 64, product=False), machine()
    bounded = layer_time(replace(base, deformation=Deformation(4.0, here.bound)), here)
    free = layer_time(replace(base, deformation=Deformation(4.0)), here)
    none = layer_time(replace(base, deformation=Deformation(4.0)), here, line_buffer=False)
    assert bounded.missed == 0 < free.missed < none.missed
    assert bounded.scattered_s == 0 < free.scattered_s < none.scattered_s
    assert none.buffered == 0
    assert none.missed == free.missed + free.buffered


def test_a_square_window_grows_as_one_and_keeps_its_middle() -> None:
    layer = PipelineLayer(8, 16, 16, product=False)
    rows, columns = offsets_of(layer, Deformation(2.0, 7, whole=True, square=True))
    middle = np.arange(64)
    assert np.array_equal(rows[:, 4], middle // 8)
    assert np.array_equal(columns[:, 4], middle % 8)
    assert np.array_equal(rows[:, 8] - rows[:, 4], columns[:, 8] - columns[:, 4])
    assert np.abs(rows - rows[:, 4:5]).max() <= 7
    spread = offsets_of(PipelineLayer(64, 16, 16), Deformation(3.0))[0] - np.arange(64**2)[:, None] // 64
    assert spread[:, 4].std() == pytest.approx(3.0, rel=0.03)


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(InputError, match="unknown window 'dense'"):
        layer_time(PipelineLayer(8, 16, 16, window="dense"), machine())


def test_multiply_adds_are_those_of_the_layer() -> None:
    assert PipelineLayer(8, 16, 32).macs == 64 * (16 * 32 + 9 * 32)
    assert PipelineLayer(8, 16, 16, 2, product=False).macs == 16 * 9 * 16
    assert PipelineLayer(8, 16, 32, product=False, window="full").macs == 64 * 9 * 16 * 32
