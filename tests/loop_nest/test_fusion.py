"""Fused chains: words against a literal run, the best cut against every cut of small chains, and what a user sees."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import SpatialAccelerator
from hw_configs.spatial import WordBits
from mapping.loop_nest.fusion import Pieces, best_fusion
from mapping.loop_nest.search import METRICS, best_mapping
from offchip import load_model, solve_fusion, solve_mapping
from simulator.accelerator.loop_nest.chains import chains_of
from simulator.accelerator.loop_nest.fused import (
    Chain,
    FusedTiling,
    fused_program,
    inner_device,
    least_outside_bytes,
    slice_dim,
)
from tests.loop_nest import strategies
from tests.loop_nest.fused_literal import Run
from workloads import operators
from workloads.graph import Graph, Role, Tensor, make_operator


def graph_of(works: list[Any], shapes: list[tuple[int, ...]]) -> Graph:
    """Operators in a row, each with weights of its own; ``shapes`` of what lies between them."""
    tensors = {f"t{n}": Tensor(f"t{n}", shape, "int8") for n, shape in enumerate(shapes)}
    tensors |= {f"w{n}": Tensor(f"w{n}", (1,), "int8", Role.WEIGHT) for n in range(len(works))}
    made = [
        make_operator(f"op{n}", work, (f"t{n}", f"w{n}"), (f"t{n + 1}",), tensors)
        for n, work in enumerate(works)
    ]
    return Graph("chain", tensors, tuple(made), (f"t{len(works)}",))


@st.composite
def convolutions(draw: Any, most: int = 3) -> Graph:
    """Convolutions in a row, some depthwise, with any stride, padding and dilation."""
    height, width = draw(st.integers(3, 7)), draw(st.integers(2, 6))
    images, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    works, shapes = [], [(images, channels, height, width)]
    for _ in range(draw(st.integers(2, most))):
        depthwise = draw(st.booleans())
        out = channels if depthwise else draw(st.integers(1, 3))
        dilation = draw(st.integers(1, 2))
        taps, strides, pads, sides = [], [], [], []
        for size in (height, width):
            tap = draw(st.integers(1, 3))
            pad = draw(st.integers(0, tap - 1))
            if dilation * (tap - 1) + 1 > size + 2 * pad:
                tap, pad = 1, 0
            stride = draw(st.integers(1, 2))
            taps.append(tap)
            strides.append(stride)
            pads.append(pad)
            sides.append((size + 2 * pad - dilation * (tap - 1) - 1) // stride + 1)
        works.append(
            operators.Convolution(
                batch=images, in_channels=channels, out_channels=out, height=height, width=width, kernel_h=taps[0],
                kernel_w=taps[1], stride_h=strides[0], stride_w=strides[1], padding_h=pads[0], padding_w=pads[1],
                dilation=dilation, groups=channels if depthwise else 1, out_height=sides[0], out_width=sides[1],
            )
        )  # fmt: skip
        channels, (height, width) = out, sides
        shapes.append((images, channels, height, width))
        window = draw(st.sampled_from(((1, 1), (1, 1), (2, 2), (1, 2), (3, 2))))
        if window != (1, 1) and height >= window[0] and width >= window[1]:
            height, width = height // window[0], width // window[1]
            rows = images * channels * height
            works.append(
                operators.Pool(m=rows, n=width, flops_per_element=1, kernel_h=window[0], kernel_w=window[1],
                               stride_h=window[0], stride_w=window[1])
            )  # fmt: skip
            shapes.append((images, channels, height, width))
    return graph_of(works, shapes)


@st.composite
def products(draw: Any) -> Graph:
    """Products in a row, or attention."""
    if draw(st.booleans()):
        heads = draw(st.sampled_from(((2, 2), (2, 1), (4, 2))))
        work = operators.Attention(
            batch=draw(st.integers(1, 2)), heads=heads[0], kv_heads=heads[1], q_len=draw(st.integers(1, 4)),
            kv_len=draw(st.integers(1, 4)), head_dim=2,
        )  # fmt: skip
        return graph_of([work], [(1,), (1,)])
    rows, depth = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    works, shapes = [], [(rows, depth)]
    batch = draw(st.integers(1, 2))
    for _ in range(draw(st.integers(2, 3))):
        n = draw(st.integers(1, 4))
        works.append(operators.Product(m=rows, n=n, k=depth, batch=batch))
        shapes.append((batch, rows, n))
        depth = n
    return graph_of(works, shapes)


@st.composite
def tilings(draw: Any, chain: Chain) -> FusedTiling:
    """Any tile, ragged ones too, any halo, any weights."""
    sides = chain.layers[-1].sides
    slices = []
    for item in chain.layers:
        dim = slice_dim(item.layer)
        size = item.layer.sizes[dim] if dim else 1
        slices.append(draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0])))
    return FusedTiling(
        tuple(draw(st.integers(1, side.size)) for side in sides),
        tuple(draw(st.booleans()) for _ in sides),
        tuple(draw(st.booleans()) for _ in chain.layers),
        tuple(slices),
    )


def only_chain(graph: Graph) -> Chain:
    (chain,) = chains_of(graph)
    counts = {"attention": 2, "pool": 0}
    assert len(chain.layers) == sum(counts.get(op.kind, 1) for op in graph.operators)
    return chain


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_words_are_those_of_a_literal_run(data: st.DataObject) -> None:
    chain = only_chain(data.draw(st.one_of(convolutions(), products())))
    tiling = data.draw(tilings(chain))
    device = machine()
    program = fused_program(chain, tiling, device)
    run = Run(chain, tiling, device)
    assert (program.inputs, program.outputs) == (run.inputs, run.outputs)
    assert list(program.weights) == run.weights
    assert program.macs == run.macs
    width = device.word_bits
    moved = run.inputs * width.bytes_of("I") + run.outputs * width.bytes_of("O")
    assert least_outside_bytes(chain, device) <= moved + sum(run.weights) * width.bytes_of("W")
    made = sum(times * piece.macs for own in program.pieces for piece, times in own)
    assert made == run.macs
    for said, found in zip(program.held, run.held, strict=True):
        assert all(said[operand] >= found[operand] for operand in "IWO")
    expected = run.expected()
    assert run.result.keys() == expected.keys()
    assert all((run.result[place] == expected[place]).all() for place in expected)


def machine(capacity: int = 1 << 20, outside: float = 4, **more: Any) -> SpatialAccelerator:
    return strategies.accelerator(
        [
            {"holds": ("I", "W", "O"), "read": 100.0, "write": 90.0, "one_port": True, "read_width": outside,
             "write_width": outside},
            {"holds": ("I", "W", "O"), "capacity": capacity, "read_width": 8, "write_width": 8,
             "axes": [("X", 2, "any", ("I", "W"), ("O",))], **more},
            {"holds": ("I", "W", "O"), "capacity": 16},
        ]
    )  # fmt: skip


def every_tiling(chain: Chain) -> Any:
    sides = chain.layers[-1].sides
    tiles = itertools.product(*([n for n in range(1, s.size + 1) if s.size % n == 0] for s in sides))
    slices = []
    for item in chain.layers:
        dim = slice_dim(item.layer)
        size = item.layer.sizes[dim] if dim else 1
        slices.append([n for n in range(1, size + 1) if size % n == 0])
    flags = list(itertools.product((False, True), repeat=len(sides)))
    stays = list(itertools.product((False, True), repeat=len(chain.layers)))
    for tile, keeps, resident, cut in itertools.product(
        tiles, flags, stays, list(itertools.product(*slices))
    ):
        if all(n == 1 for n, kept in zip(cut, resident, strict=True) if kept):
            yield FusedTiling(tile, keeps, resident, cut)


def least(chain: Chain, device: SpatialAccelerator, metric: str) -> float:
    """Every cut, every tiling of every group: words from the literal run, pieces each at their best."""
    inner, outside, home = inner_device(device), device.levels[0], device.levels[1]
    by = METRICS if metric == "edp" else (metric,)
    known: dict[Any, Any] = {}

    def mapped(on: SpatialAccelerator, layer: Any, metric: str) -> Any:
        key = (len(on.levels), tuple(layer.sizes.items()), str(layer.operands), metric)
        if key not in known:
            known[key] = best_mapping(on, layer, metric).best[0].evaluation
        return known[key]

    def costs(first: int, beyond: int) -> Any:
        if beyond == first + 1:
            for one in by:
                found = mapped(device, chain.layers[first].layer, one)
                yield found.energy_j, found.latency_cycles
            return
        group = chain.part(first, beyond)
        for tiling in every_tiling(group):
            program = fused_program(group, tiling, device)
            if any(home.overflow(held) for held in program.held):
                continue
            run = Run(group, tiling, device)
            width = device.word_bits
            into = run.inputs * width.bytes_of("I") + sum(run.weights) * width.bytes_of("W")
            out = run.outputs * width.bytes_of("O")
            for one in by:
                energy = into * (outside.read_energy + home.write_energy) + out * (
                    home.read_energy + outside.write_energy
                )
                cycles, read, written = 0.0, out, into
                for own in program.pieces:
                    for piece, times in own:
                        found = mapped(inner, piece, one)
                        energy += times * found.energy_j
                        cycles += times * found.latency_cycles
                        read += times * found.levels[0].busiest_read_bytes
                        written += times * found.levels[0].busiest_write_bytes
                yield energy, max(cycles, outside.clocks(into, out), home.clocks(read, written))

    count = len(chain.layers)
    best = float("inf")
    table = {(a, b): list(costs(a, b)) for a in range(count) for b in range(a + 1, count + 1)}
    for ends in itertools.product((False, True), repeat=count - 1):
        cuts = [0, *(n + 1 for n, cut in enumerate(ends) if cut), count]
        for chosen in itertools.product(*(set(table[pair]) for pair in itertools.pairwise(cuts))):
            energy, cycles = sum(e for e, _ in chosen), sum(c for _, c in chosen)
            best = min(best, {"energy": energy, "latency": cycles, "edp": energy * cycles}[metric])
    return best


def small_chain(stride: int = 1) -> Chain:
    """Two convolutions with windows along the columns and a product of channels after them."""
    out = (4 - 1) // stride + 1
    works = [
        operators.Convolution(in_channels=2, out_channels=2, height=2, width=4, kernel_h=1, kernel_w=3, padding_w=1,
                              out_height=2, out_width=4),
        operators.Convolution(in_channels=2, out_channels=2, height=2, width=4, kernel_h=2, kernel_w=1,
                              stride_w=stride, padding_h=0, out_height=1, out_width=out),
        operators.Convolution(in_channels=2, out_channels=1, height=1, width=out, kernel_h=1, kernel_w=1,
                              out_height=1, out_width=out),
    ]  # fmt: skip
    return only_chain(graph_of(works, [(1, 2, 2, 4), (1, 2, 2, 4), (1, 2, 1, out), (1, 1, 1, out)]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("capacity", [24, 40, 1 << 20])
def test_no_cut_and_no_tiling_is_better(metric: str, capacity: int) -> None:
    chain, device = small_chain().part(0, 2), machine(capacity)
    found = best_fusion(device, chain, metric)
    assert found.value == pytest.approx(least(chain, device, metric), rel=1e-9)
    assert found.bound <= found.value * (1 + 1e-12)
    if metric != "edp":
        assert found.status == "optimal"


@pytest.mark.parametrize("widths", [{"outside": 1 / 64}, {"read_width": 0.25, "write_width": 0.25}])
def test_ports_bound_a_group(widths: dict[str, float]) -> None:
    chain, device = small_chain().part(0, 2), machine(**widths)
    found = best_fusion(device, chain, "latency")
    assert found.value == pytest.approx(least(chain, device, "latency"), rel=1e-9)
    (group,) = found.groups
    inside = sum(
        times * one.evaluation.latency_cycles
        for pieces, own in zip(group.program.pieces, group.mappings, strict=True)  # type: ignore[union-attr]
        for (_, times), one in zip(pieces, own, strict=True)
    )
    assert found.value > inside


@pytest.mark.parametrize("capacity", [15, 17, 20, 30])
def test_weights_in_slices_of_every_number(capacity: int) -> None:
    works = [operators.Product(m=1, n=6, k=1), operators.Product(m=1, n=1, k=6)]
    chain = only_chain(graph_of(works, [(1, 1), (1, 6), (1, 1)]))
    device = machine(capacity, axes=[("X", 2, "out", ("I",), ())], one_port=True, read=60.0, write=60.0)
    for metric in ("energy", "latency"):
        found = best_fusion(device, chain, metric)
        assert found.value == pytest.approx(least(chain, device, metric), rel=1e-9)


def test_three_layers_are_cut_as_well_as_can_be() -> None:
    chain, device = small_chain(2), machine(20)
    found = best_fusion(device, chain, "energy")
    assert found.status == "optimal"
    assert found.value == pytest.approx(least(chain, device, "energy"), rel=1e-9)


def test_a_longer_group_is_not_taken_where_it_is_not_allowed() -> None:
    chain, device = small_chain(), machine()
    free, pairs, alone = (best_fusion(device, chain, "energy", longest=n) for n in (3, 2, 1))
    assert free.value <= pairs.value <= alone.value == pytest.approx(alone.alone.energy_j)
    assert max(g.beyond - g.first for g in pairs.groups) <= 2
    assert free.value < alone.value


def test_out_of_time_keeps_a_true_bound() -> None:
    chain, device = small_chain(), machine(40)
    whole, cut = best_fusion(device, chain, "energy"), best_fusion(device, chain, "energy", time_limit_s=1e-9)
    assert 0 < cut.bound <= whole.value <= cut.value
    assert cut.status == "feasible"


def test_files_side_by_side_move_what_lies_between() -> None:
    chain = small_chain().part(0, 2)
    together = machine()
    apart = strategies.accelerator(
        [{"holds": ("I", "W", "O"), "read": 100.0, "write": 90.0, "one_port": True}]
    )
    home = together.levels[1].model_copy(
        update={"capacity": None, "capacities": {"I": 1024.0, "W": 1024.0, "O": 1024.0}}
    )
    apart = together.model_copy(update={"levels": (together.levels[0], home, *together.levels[2:])})
    values = [best_fusion(device, chain, "energy") for device in (together, apart)]
    program = values[1].groups[0].program
    assert program is not None
    moved = program.between[0] * (2 * home.read_energy + home.write_energy)
    assert values[1].value == pytest.approx(values[0].value + moved)


def test_pieces_are_solved_once() -> None:
    store = Pieces(machine())
    best_fusion(store.device, small_chain(), "energy", pieces=store)
    before = dict(store.inside)
    best_fusion(store.device, small_chain(), "energy", pieces=store)
    assert store.inside == before


def test_chains_end_where_a_second_layer_reads() -> None:
    graph = graph_of(
        [
            operators.Product(m=4, n=4, k=4),
            operators.Product(m=4, n=4, k=4),
            operators.Product(m=4, n=4, k=4),
        ],
        [(4, 4)] * 4,
    )
    assert [len(chain.layers) for chain in chains_of(graph)] == [3]
    also_out = Graph(graph.name, graph.tensors, graph.operators, ("t1", "t3"))
    assert [len(chain.layers) for chain in chains_of(also_out)] == [1, 2]
    tensors = {**graph.tensors, "x": Tensor("x", (4, 4), "int8"), "y": Tensor("y", (4, 4), "int8")}
    work = operators.Elementwise(m=4, n=4, flops_per_element=1)
    skip = make_operator("add", work, ("t1", "x"), ("y",), tensors)
    second = make_operator("op1", graph.operators[1].work, ("y", "w1"), ("t2",), tensors)
    added = Graph("g", tensors, (graph.operators[0], skip, second, graph.operators[2]), ("t3",))
    assert [len(chain.layers) for chain in chains_of(added)] == [1, 2]


@pytest.mark.parametrize(("stride", "lengths"), [(3, [2]), (2, [1, 1])])
def test_a_pool_with_windows_that_overlap_ends_a_chain(stride: int, lengths: list[int]) -> None:
    sides = (9 - 3) // stride + 1
    works = [
        operators.Convolution(in_channels=1, out_channels=1, height=9, width=9, kernel_h=1, kernel_w=1,
                              out_height=9, out_width=9),
        operators.Pool(m=sides, n=sides, flops_per_element=9, kernel_h=3, kernel_w=3, stride_h=stride, stride_w=stride),
        operators.Convolution(in_channels=1, out_channels=1, height=sides, width=sides, kernel_h=1, kernel_w=1,
                              out_height=sides, out_width=sides),
    ]  # fmt: skip
    graph = graph_of(works, [(1, 1, 9, 9), (1, 1, 9, 9), (1, 1, sides, sides), (1, 1, sides, sides)])
    assert [len(chain.layers) for chain in chains_of(graph)] == lengths


def test_five_layers_of_vgg_need_as_little_as_published() -> None:
    """Alwani et al., Fused-layer CNN accelerators, MICRO 2016, abstract: 3.6 MB a picture with 362 KB on chip."""
    graph = load_model("vgg-19", dtype="fp32").phases[0].graph
    chain = next(iter(chains_of(graph))).part(0, 5)
    device = machine().model_copy(update={"word_bits": WordBits(I=32, W=32, O=32)})
    held = {}
    for rows, columns in itertools.product((1, 2, 4, 7, 8), repeat=2):
        tiling = FusedTiling((1, rows, columns), (True,) * 3, (True,) * 5, (1,) * 5)
        program = fused_program(chain, tiling, device)
        assert program.macs == sum(item.layer.macs for item in chain.layers)
        # The picture with its padding, and the last map.
        assert (program.inputs, program.outputs) == (3 * 226 * 226, 256 * 56 * 56)
        held[rows, columns] = max(at["I"] + at["O"] for at in program.held)
    moved = 4 * (3 * 226 * 226 + 256 * 56 * 56)
    assert moved / 2**20 == pytest.approx(3.6, rel=0.02)
    # What is published is 0.86 of it.
    assert min(held.values()) == held[1, 1] == 429_416


def test_the_command_and_python_say_the_same(cli: Any, tmp_path: Path) -> None:
    out = tmp_path / "fused.json"
    ran = cli("solve", "mapping", "alexnet", "--hw", "gemmini", "--fuse", "chains", "--out", out, "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    found = solve_fusion("alexnet", "gemmini")
    assert said["fused"] == found.as_json()["fused"]
    assert json.loads(out.read_text())["chains"] == said["chains"]
    assert said["fused"]["energy_j"] <= said["alone"]["energy_j"]
    assert 0 < said["least_outside_bytes"] <= said["fused"]["outside_bytes"]
    by_layer = solve_mapping("alexnet", "gemmini")
    assert said["alone"]["energy_j"] == pytest.approx(by_layer.energy_j)
    assert said["alone"]["latency_s"] == pytest.approx(by_layer.latency_s)
    assert "by themselves" in str(found)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--hw", "simba-chiplet", "--fuse", "chains"), "'global-buffer' of simba-chiplet does not hold W"),
        (("--hw", "tensix-mesh", "--fuse", "chains"), "several instances of 'core-memory'"),
        (("--hw", "gemmini", "--fuse", "chans"), "did you mean 'chains'?"),
        (("--hw", "gemmini", "--fuse", "chains", "--top", "3"), "--top: is of a single layer"),
        (("--hw", "gemmini", "--fuse", "chains", "--fuse-depth", "0"), "expected 1 to 12 layers"),
        (("--hw", "gemmini", "--fuse", "chains", "--objective", "speed"), "expected energy, latency, edp"),
    ],
)
def test_bad_questions_are_one_line(asked: tuple[str, ...], says: str, cli: Any) -> None:
    ran = cli("solve", "mapping", "alexnet", *asked)
    assert ran.code == 2
    assert says in ran.err
    assert len(ran.err.strip().splitlines()) == 1
