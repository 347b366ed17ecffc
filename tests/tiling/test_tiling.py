"""The mapper that cuts operators: everything fits, nothing is read wrongly, the same cuts every time."""

import dataclasses

import pytest

import offchip
from hw_configs.board import as_board
from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError
from hw_configs.settings import read_settings
from mapping.mapper import MapperOptions, plan_writer
from mapping.scheduling import BASELINES, least_budget, problem_from_graph, solve
from mapping.scheduling.fused_cuts import fused_cuts
from mapping.scheduling.lowering import to_plan
from mapping.scheduling.tiling import TiledSettings, fit_tiles, improve_tiles
from offchip import api
from simulator.check import check
from simulator.rewrite.apply import rewrite
from simulator.rewrite.tile import tile_graph
from simulator.rewrite.views import without_views
from tests.accelerator.machines import machine
from tests.scheduling.executor import execute
from workloads import operators
from workloads.graph import Graph, Role, Tensor, make_operator
from workloads.layer_builder import ConvLayer, LayerBuilder
from workloads.models import build
from workloads.operators import Activation, View
from workloads.workload import WorkloadOptions


def asked(**values: object) -> MapperOptions:
    return MapperOptions(settings=read_settings(TiledSettings, values))


def graph_of(name="mobilenet-v2", side=64):
    options = WorkloadOptions(dtype="int8", dims={"height": side, "width": side})
    return build(name, options).phases[0].graph


@pytest.mark.parametrize("name", ["mobilenet-v2", "resnet-18", "lraspp-mobilenet-v3"])
@pytest.mark.parametrize("share", [0.8, 0.4])
def test_operators_too_big_for_the_scratchpad_are_cut_until_they_fit(name, share):
    graph = graph_of(name, 128)
    capacity = int(least_budget(problem_from_graph(graph)) * share)
    state = fit_tiles(graph, capacity)
    assert state.need_bytes <= capacity
    assert state.tiles == fit_tiles(graph, capacity).tiles
    for cut in state.tiles:
        fewer = {name: tiling for name, tiling in state.tiles.items() if name != cut}

        assert problem_from_graph(tile_graph(graph, fewer)).least_budget > capacity, f"{cut} need not be cut"


def test_a_graph_that_fits_is_left_whole():
    graph = graph_of()
    assert fit_tiles(graph, least_budget(problem_from_graph(graph))).tiles == {}


def test_cutting_chains_never_costs_more():
    graph = graph_of(side=128)
    capacity = int(least_budget(problem_from_graph(graph)) * 0.5)
    first = fit_tiles(graph, capacity)
    better = improve_tiles(graph, first, capacity, rounds=3)

    def cost(state):
        found = [
            BASELINES[name](state.problem, capacity).cost_bytes
            for name in ("depth-first/belady", "given/belady")
        ]
        return min(found) + state.again_bytes

    assert cost(better) < cost(first)


def test_what_cannot_be_cut_far_enough_is_named():
    net = LayerBuilder("flat", WorkloadOptions(dtype="int8"))
    x = net.adaptive_pool("mean", net.conv("stem", net.input("image", 3, 16, 16), ConvLayer(64, 3, 1, 1)))
    graph = net.graph(net.linear("classifier", x, 10))
    with pytest.raises(InfeasibleError, match=r"operator .mean. .* levers"):
        fit_tiles(graph, 8192)


@pytest.mark.parametrize("weights", ["stream", "resident"])
def test_a_tiled_plan_runs_with_real_bytes(tmp_path, weights):
    graph = graph_of()
    capacity = int(least_budget(problem_from_graph(graph, weights)) * 0.6)
    system = machine(tmp_path, size=capacity)
    options = asked(weights=weights, rounds="1", time_limit="5")
    plan = plan_writer("scratchpad-tiled").plan(graph, system, options)
    assert plan.tiles
    tiled = rewrite(graph, plan)
    assert not check(plan, tiled, system)
    seen = []
    api.simulate(graph, system, plan=plan, watch=lambda *run: seen.append(run[2]))
    assert execute(plan, tiled, seen[0].records, "npu", capacity) > 3 * len(graph.operators)


def test_settings_are_held_against_what_the_mapper_reads(tmp_path):
    graph, system = graph_of(), machine(tmp_path, size=1 << 20)
    for settings in ({"weights": "some"}, {"rounds": "-1"}, {"time-limit": "soon"}):
        with pytest.raises(InputError, match="--set"):
            plan_writer("scratchpad-tiled").plan(graph, system, asked(**settings))


def test_a_reshape_takes_no_place_in_a_plan(tmp_path):
    net = LayerBuilder("reshaped", WorkloadOptions(dtype="int8"))
    x = net.conv("first", net.input("image", 3, 8, 8), ConvLayer(4, 3, 1, 1))
    flat = net.operator("flatten", View(), (x,), (1, 256))
    graph = net.graph(net.linear("classifier", flat, 10))
    system = machine(tmp_path)
    problem = problem_from_graph(graph)
    result = solve(problem, least_budget(problem))
    plan = to_plan(graph, problem, result.schedule, system)
    assert plan.views == {flat: x}
    assert api.simulate(graph, system, plan=plan).makespan_s > 0
    wrong = dataclasses.replace(plan, views={x: "image"})
    with pytest.raises(InputError, match="is no reshape"):
        api.simulate(graph, system, plan=wrong)


def test_a_view_of_a_view_is_the_tensor_below_both():
    tensors = {name: Tensor(name, (4,), "int8") for name in "abcd"}
    operators = (
        make_operator("one", View(), ("a",), ("b",), tensors),
        make_operator("two", View(), ("b",), ("c",), tensors),
        make_operator("use", Activation(n=4, flops_per_element=1.0), ("c",), ("d",), tensors, dtype="int8"),
    )

    graph = without_views(Graph("g", tensors, operators, ("d",)), {"b": "a", "c": "b"})
    assert [(op.name, op.inputs) for op in graph.operators] == [("use", ("a",))]


@pytest.mark.parametrize("fidelity", ["analytic", "event", "cycle"])
def test_strips_of_fused_chains_run_on_a_spatial_device(fidelity):
    tensors = {f"t{n}": Tensor(f"t{n}", shape, "int8") for n, shape in enumerate(
        [(1, 8, 64, 64), (1, 32, 64, 64), (1, 32, 64, 64), (1, 32, 32, 32), (1, 8, 32, 32)]
    )}  # fmt: skip
    tensors |= {f"w{n}": Tensor(f"w{n}", shape, "int8", Role.WEIGHT) for n, shape in
                ((0, (32, 8, 3, 3)), (2, (32, 32, 2, 2)), (3, (8, 32, 3, 3)))}  # fmt: skip
    wide = {"height": 64, "width": 64}
    works = [
        operators.Convolution(in_channels=8, out_channels=32, **wide, kernel_h=3, kernel_w=3, padding_h=1, padding_w=1,
                              out_height=64, out_width=64),
        operators.Activation(m=32 * 64, n=64, flops_per_element=1),
        operators.Convolution(in_channels=32, out_channels=32, **wide, kernel_h=2, kernel_w=2, stride_h=2, stride_w=2,
                              out_height=32, out_width=32),
        operators.Convolution(in_channels=32, out_channels=8, height=32, width=32, kernel_h=3, kernel_w=3, padding_h=1,
                              padding_w=1, out_height=32, out_width=32),
    ]  # fmt: skip
    made = [
        make_operator(f"op{n}", work, (f"t{n}", f"w{n}") if f"w{n}" in tensors else (f"t{n}",), (f"t{n + 1}",), tensors,
                      dtype="int8")
        for n, work in enumerate(works)
    ]  # fmt: skip
    graph = Graph("chain", tensors, tuple(made), ("t4",))
    system = load_system("eyeriss")
    device = system.nodes["eyeriss"].device
    # All of the buffer for any operand: the chip's own share of filters takes no three layers.
    levels = tuple(level.model_copy(update={"capacities": None}) if level.name == "buffer" else level
                   for level in device.levels)  # fmt: skip
    node = dataclasses.replace(system.nodes["eyeriss"], device=device.model_copy(update={"levels": levels}))
    system = dataclasses.replace(system, nodes={"eyeriss": node})
    node = as_board(system).nodes["eyeriss"]
    cuts = fused_cuts(graph, node)
    assert {"op0", "op1", "op2"} <= set(cuts)  # the activation is cut with its neighbours
    assert len({cuts[name] for name in ("op0", "op1", "op2")}) == 1
    settings = {"cuts": "fusion", "rounds": 0, "time-limit": 5}
    result = offchip.simulate(graph, system, mapper="scratchpad-tiled", settings=settings, fidelity=fidelity)
    outside = result.memories["eyeriss-DRAM"]
    ends = tensors["t0"].size_bytes + tensors["t4"].size_bytes
    assert outside.written_bytes == tensors["t4"].size_bytes  # nothing between is spilled
    assert outside.read_bytes >= ends - tensors["t4"].size_bytes


def test_cuts_of_fused_chains_need_a_spatial_device():
    with pytest.raises(InputError, match="expected a spatial one"):
        offchip.simulate(
            "resnet-18", "nvdla-board", dtype="int8", mapper="scratchpad-tiled", settings={"cuts": "fusion"}
        )
