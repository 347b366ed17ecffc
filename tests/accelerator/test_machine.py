"""A plan on a scratchpad machine: transfers beside arithmetic, weights that stream past, what cannot be."""

import dataclasses
import re

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError
from mapping.scheduling import BASELINES, least_budget, problem_from_graph, write_schedule
from mapping.scheduling.lowering import scratchpad_of, to_plan
from offchip import api
from simulator.accelerator.model import SCRATCHPAD
from simulator.check import check
from simulator.plan import Compute, Home, Plan, Transfer
from simulator.plan_file import read_plan, write_plan
from tests.accelerator.machines import machine
from tests.typed import operator_of
from workloads.graph import Graph, Role, Tensor
from workloads.layer_builder import ConvLayer, LayerBuilder
from workloads.models import build
from workloads.workload import WorkloadOptions

WIRE = 10e9
SETUP = 100e-9


def two_products(size=4096):
    """y = x w, z = y v, with weights that take longer to come than to use."""

    def mm(name, x, w, y):
        return operator_of(
            "matmul",
            2.0 * 64 * 64 * 64,
            2 * size,
            size,
            "int8",
            name=name,
            inputs=(x, w),
            outputs=(y,),
            m=64,
            n=64,
            k=64,
            batch=1,
        )

    tensors = {name: Tensor(name, (64, 64), "int8") for name in "xyz"}
    tensors |= {name: Tensor(name, (64, 64), "int8", Role.WEIGHT) for name in "wv"}
    return Graph("two", tensors, (mm("first", "x", "w", "y"), mm("second", "y", "v", "z")), ("z",))


def plan_of(graph, system, **changed):
    problem = problem_from_graph(graph)
    schedule = BASELINES["given/belady"](problem, least_budget(problem)).schedule
    plan = to_plan(graph, problem, schedule, system)
    if not changed:
        return plan
    tasks = [dataclasses.replace(t, **changed.get(t.operator or t.tensor, {})) for t in plan.tasks]
    return dataclasses.replace(plan, tasks=tuple(tasks))


@pytest.mark.parametrize("fidelity", ["analytic", "event"])
def test_an_operator_lasts_until_its_weights_have_come(tmp_path, fidelity):
    system, graph = machine(tmp_path, rows=64, columns=64), two_products()
    seen = []
    result = api.simulate(
        graph, system, plan=plan_of(graph, system), fidelity=fidelity, watch=lambda *run: seen.append(run[2])
    )
    alone = SCRATCHPAD.cost(graph.operators[0], system.nodes["npu"], system.memories["npu"])
    flow = SETUP + system.memories["dram"].latency_s + 4096 / WIRE
    assert flow > alone.seconds
    took = {record.task.name: record.end - record.start for record in seen[0].records}
    assert took["first"] == pytest.approx(flow)
    assert took["second"] == pytest.approx(flow)
    # The input comes first, the output goes last; nothing overlaps in a chain of two.
    assert result.makespan_s == pytest.approx(4 * flow - system.memories["dram"].latency_s, rel=1e-3)
    line = result.timeline
    bound = dict(zip(line.operator, line.bound_by, strict=True))
    assert bound["first"] == "onchip:npu-dram"


def test_every_byte_over_the_edge_is_counted_once(tmp_path):
    system, graph = machine(tmp_path), two_products()
    result = api.simulate(graph, system, plan=plan_of(graph, system))
    assert result.memories["dram"].read_bytes == 3 * 4096, "the input and two weights"
    assert result.memories["dram"].written_bytes == 4096
    wire = result.wires["onchip:npu-dram"]
    assert wire.bytes_forward + wire.bytes_backward == 4 * 4096
    assert result.energy_j["onchip:npu-dram link"] == pytest.approx(4 * 4096 * 3e-12)
    space = system.memories["dram"]
    moved = 3 * 4096 * space.energy_per_byte_read_j + 4096 * space.energy_per_byte_written_j
    assert result.energy_j["dram memory"] == pytest.approx(moved)
    assert result.memories["npu"].peak_bytes == 2 * 4096, "weights that stream take no scratchpad"


def test_a_transfer_that_nothing_waits_for_hides_behind_arithmetic(tmp_path):
    net = LayerBuilder("wide", WorkloadOptions(dtype="int8"))
    x, other = net.input("x", 16, 16, 16), net.input("other", 16, 16, 16)
    for index in range(3):
        x = net.conv(f"conv{index}", x, ConvLayer(16, 3, 1, 1))
    graph = net.graph(net.add("add", x, other))
    system = machine(tmp_path, rows=4, columns=4)
    plan = plan_of(graph, system, other={"addresses": {"other": 32768}})
    assert not check(plan, graph, system)
    result = api.simulate(graph, system, plan=plan)
    line = result.timeline
    when = {name: (a, b) for name, a, b in zip(line.task, line.start, line.end, strict=True)}
    load = next(name for name in when if name.startswith("read other"))
    assert when[load][1] < when["add"][0], "it runs ahead of its place in the list"
    assert result.devices["npu"].utilisation > 0.6


def test_streams_and_transfers_share_the_wire(tmp_path):
    system, graph = machine(tmp_path, size=65536), two_products()
    alone = api.simulate(graph, system, plan=plan_of(graph, system)).makespan_s
    busy = Tensor("noise", (1 << 15,), "int8")
    crowded = dataclasses.replace(graph, tensors={**graph.tensors, "noise": busy})
    plan = plan_of(graph, system)
    extra = Transfer("noise", "npu.dma0", tensor="noise", source="dram", target="npu",
                 addresses={"noise": 20000}, after=("read x for step 0",))  # fmt: skip
    noisy = Plan(
        plan.graph, plan.system, plan.mapper, (plan.tasks[0], extra, *plan.tasks[1:]),
        {**plan.homes, "noise": (Home("dram"),)}, notes=plan.notes,
    )  # fmt: skip
    assert api.simulate(crowded, system, plan=noisy, fidelity="event").makespan_s > 1.3 * alone


def test_cycle_fidelity_takes_the_dram_from_its_engine(tmp_path):
    system = machine(tmp_path)
    fast = dataclasses.replace(
        system,
        wires={
            name: dataclasses.replace(wire, link=wire.link.model_copy(update={"bandwidth": 1e12}))
            for name, wire in system.wires.items()
        },
    )
    graph = two_products()
    event, cycle = (
        api.simulate(graph, fast, plan=plan_of(graph, fast), fidelity=f) for f in ("event", "cycle")
    )
    assert cycle.provenance["by_dram_engine"] == ["dram"]
    assert cycle.makespan_s > event.makespan_s
    analytic = api.simulate(graph, fast, plan=plan_of(graph, fast), fidelity="analytic")
    assert analytic.makespan_s <= event.makespan_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"first": {"source": "npu"}}, "no memory outside it"),
        ({"first": {"source": "drum"}}, "did you mean 'dram'"),
        ({"first": {"streamed": ("w", "v")}}, "does not only read"),
        ({"first": {"streamed": ("w",), "source": ""}}, "no memory outside it"),
        ({"first": {"streamed": ()}}, "names the source"),
        ({"first": {"streamed": (), "source": ""}}, "needs 'w' in 'npu'"),
        ({"x": {"addresses": {"x": 65536}}}, "which has 65536"),
        ({"x": {"stream": "npu.dma7"}}, ""),
    ],
)
def test_a_plan_that_cannot_run_is_told_why(tmp_path, change, told):
    system, graph = machine(tmp_path), two_products()
    found = " ".join(str(v) for v in check(plan_of(graph, system, **change), graph, system))
    assert told in found
    assert bool(found) == bool(told)


def test_two_tensors_at_one_address_are_refused(tmp_path):
    system, graph = machine(tmp_path), two_products()
    first = next(task for task in plan_of(graph, system).tasks if task.operator == "first")
    plan = plan_of(graph, system, x={"addresses": {"x": first.addresses["y"]}})
    assert any("shares bytes" in str(v) for v in check(plan, graph, system))


def test_more_streams_of_transfers_than_engines_are_refused(tmp_path):
    system, graph = machine(tmp_path, dma=1), two_products()
    plan = plan_of(graph, system, z={"stream": "npu.dma1"})
    assert any("beyond the 1 DMA engines" in str(v) for v in check(plan, graph, system))


def test_a_plan_file_keeps_what_streams(tmp_path):
    system, graph = machine(tmp_path), two_products()
    plan = plan_of(graph, system)
    write_plan(plan, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again.tasks == plan.tasks
    assert [task.streamed for task in again.tasks if task.kind == "compute"] == [("w",), ("v",)]


def test_only_a_scratchpad_machine_and_a_gpu_stream(tmp_path):
    system, graph = load_system("workstation"), two_products()
    cpu = next(node for node in system.workers() if node.device.kind == "cpu")
    other = next(name for name in system.memories if name != cpu.memory)
    homes = {name: (Home(cpu.memory), Home(other)) for name in "xwv"}
    tasks = tuple(
        Compute(op.name, "s", operator=op.name, device=cpu.name, source=other, streamed=(op.inputs[1],))
        for op in graph.operators
    )
    found = check(Plan("two", system.name, "", tasks, homes), graph, system)
    assert "works in no scratchpad" in str(found[0])


def test_a_schedule_larger_than_the_scratchpad_names_both(tmp_path):
    graph = build("resnet-18", WorkloadOptions(dtype="int8")).phases[0].graph
    problem = problem_from_graph(graph)
    schedule = BASELINES["given/belady"](problem, least_budget(problem)).schedule
    with pytest.raises(InfeasibleError, match="'npu' has 65536"):
        to_plan(graph, problem, schedule, machine(tmp_path))


def test_a_schedule_file_is_run_and_held_against_its_graph(tmp_path):
    graph = two_products()
    problem = problem_from_graph(graph)
    result = BASELINES["given/belady"](problem, least_budget(problem))
    path = tmp_path / "schedule.json"
    write_schedule(problem, result, path)
    system = machine(tmp_path)
    assert api.simulate(graph, system, plan=path).mapper == "schedule file"
    other = build("mobilenet-v2", WorkloadOptions(dtype="int8")).phases[0].graph
    with pytest.raises(InputError, match="the schedule is for graph 'two'"):
        api.simulate(other, system, plan=path)
    text = path.read_text()
    path.write_text(re.sub(r'"offset": \d+', '"offset": 0', text))
    with pytest.raises(InputError, match="share the bytes"):
        api.simulate(graph, system, plan=path)
    path.write_text(text.replace('"stream"', '"streamed"', 1))
    with pytest.raises(InputError, match="expected 'stream' or 'resident'"):
        api.simulate(graph, system, plan=path)


def test_a_graph_that_updates_in_place_is_refused(tmp_path):
    graph = two_products()
    op = dataclasses.replace(graph.operators[0], inputs=("x",), updates=("w",))
    graph = dataclasses.replace(graph, operators=(op, graph.operators[1]))
    problem = problem_from_graph(graph)
    schedule = BASELINES["given/belady"](problem, least_budget(problem)).schedule
    with pytest.raises(InputError, match="updates 'w' in place"):
        to_plan(graph, problem, schedule, machine(tmp_path))


def test_a_system_without_a_scratchpad_is_told_what_one_is(tmp_path):
    with pytest.raises(InputError, match="memory: scratchpad"):
        scratchpad_of(load_system("desktop"))
