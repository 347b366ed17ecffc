"""Kernels, copies and streamed operands share a memory's ports: small cases by hand, laws over random ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import (
    GivenSeconds,
    analytic_run,
    cpu,
    drive,
    event_run,
    move,
    op,
    plan,
    ram,
    run_task,
    spans,
    system,
    tensors,
    wire,
)
from random_plans import Case, cases

import offchip
from hw_configs.device import ComputationalStorage
from hw_configs.library import load_device, load_system
from hw_configs.system import System
from simulator.check import check
from simulator.cost.model import COST_MODELS, roof_seconds
from simulator.link.flows import FlowNetwork
from simulator.plan import Collective, Home, Plan, Task
from simulator.simulate import simulate
from simulator.system.bound_plan import BoundPlan, shared_memories
from simulator.system.costs import CostTable, MeasuredMemory
from simulator.system.drives import flash_bandwidth
from simulator.system.engine import PhaseRun
from simulator.system.physics import check_phase
from tests.typed import operator_of
from workloads.graph import Graph, Operator, Tensor
from workloads.workload import Phase, Workload

EXAMPLES = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def unified(bandwidth: float = 1000.0, workers: int = 2, ports: int = 1) -> System:
    """Processors p0, p1, ... that work in one memory, with a drive on a fast wire."""
    devices = {f"p{n}": cpu(f"p{n}", None) for n in range(workers)}
    devices["dram"] = cpu("dram", ram(1 << 20, bandwidth, ports=ports))
    devices["ssd"] = drive("ssd", 1 << 20, 1e5, 1e5)
    return system(devices, [wire("nvme", [("ssd", "dram")], 1e5)], {f"p{n}": "dram" for n in range(workers)})


def side_by_side(machine: System, *operators: Operator, copied: int = 0) -> dict[str, tuple[float, float]]:
    """Spans of operators that all start at once, each on its own processor, and of a copy to the memory."""
    graph = Graph("g", tensors({"x": copied}), operators)
    tasks = [run_task(operator.name, f"p{n}") for n, operator in enumerate(operators)]
    if copied:
        tasks.append(move("x", "ssd", "dram", name="copy"))
    made = plan(graph, machine, tasks, {"x": "ssd"})
    assert check(made, graph, machine) == []
    run = event_run(made, graph, machine)
    check_phase(run, graph, machine, CostTable(machine, GivenSeconds()))
    return spans(run)


def ends(found: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {name: end for name, (_, end) in found.items()}


def test_two_kernels_that_want_all_of_a_memory_take_turns_byte_by_byte() -> None:
    """1000 and 500 bytes at 1000 bytes/s: half each until 1 s, then what is left alone."""
    found = side_by_side(
        unified(), op("a", seconds=0.0, moves=(1000, 0)), op("b", seconds=0.0, moves=(0, 500))
    )
    assert ends(found) == {"a": pytest.approx(1.5), "b": pytest.approx(1.0)}


def test_a_kernel_that_leaves_room_is_not_held_up() -> None:
    """'a' draws 300 bytes/s for its arithmetic takes longer; 'b' has the other 700."""
    found = side_by_side(
        unified(), op("a", seconds=2.0, moves=(600, 0)), op("b", seconds=0.0, moves=(700, 700))
    )
    assert found["a"] == (0.0, 2.0)
    assert found["b"] == (0.0, pytest.approx(2.0))


def test_kernels_that_fit_beside_each_other_end_to_the_last_bit_when_they_would_alone() -> None:
    operators = [op(f"o{n}", seconds=0.1 * (n + 1) / 3, moves=(7 * n, 5), launch=1e-3 * n) for n in range(5)]
    found = side_by_side(unified(1e5, 5), *operators, copied=100)
    for n, operator in enumerate(operators):
        assert found[f"o{n}"] == (0.0, 1e-3 * n + (operator.measured_s or 0.0))


def test_a_copy_that_others_leave_alone_ends_to_the_last_bit_when_it_would_alone() -> None:
    """Seven kernels come and go on its port; none takes what its wire lets through."""
    size, machine = 997, unified(1e6, 7)
    slow = wire("nvme", [("ssd", "dram")], 1e5 / 3)
    machine = replace(machine, wires={"nvme": slow})
    work = [
        op(f"o{n}", seconds=0.001 + 0.0037 * n, moves=(31 * n + 1, 5), launch=1e-3 / (n + 1))
        for n in range(7)
    ]
    assert side_by_side(machine, *work, copied=size)["copy"] == side_by_side(machine, copied=size)["copy"]


def test_memories_that_more_than_one_device_or_a_copy_draws_on() -> None:
    machine = replace(unified(), wires={})
    alone, other = run_task("a", "p0"), run_task("b", "p1")
    streaming = replace(run_task("c", "ssd"), streamed=("w",), source="dram")
    copy = move("x", "ssd", "dram")

    def shared(*tasks: Task) -> set[str]:
        return shared_memories(BoundPlan(tasks, (), (), (), (), {}), machine)

    assert shared(alone, replace(alone, stream="another")) == set()
    assert shared(alone, other) == {"dram"}
    assert shared(alone, copy) == {"dram"}
    assert shared(alone, streaming) == {"dram"}
    assert shared(streaming) == shared(copy) == set()
    rank = Collective("r", "s", "sum", "p0", ("p0", "p1"))
    assert shared(alone, rank) == {"dram"}


def test_a_launch_draws_nothing() -> None:
    """'a' is launched for a second, in which 'b' has the memory to itself; then both halve it."""
    found = side_by_side(
        unified(), op("a", seconds=0.0, moves=(1000, 0), launch=1.0), op("b", seconds=0.0, moves=(1500, 0))
    )
    assert ends(found) == {"a": pytest.approx(1 + 1.5), "b": pytest.approx(2.0)}


def test_a_launch_that_outlasts_what_runs_beside_it_costs_nothing() -> None:
    found = side_by_side(
        unified(), op("a", seconds=0.0, moves=(1000, 0), launch=3.0), op("b", seconds=0.0, moves=(1000, 0))
    )
    assert ends(found) == {"a": 4.0, "b": 1.0}


def test_a_copy_and_a_kernel_slow_each_other_down() -> None:
    found = side_by_side(unified(), op("a", seconds=0.0, moves=(1000, 0)), copied=1000)
    assert ends(found) == {"a": pytest.approx(2.0), "copy": pytest.approx(2.0)}


def test_two_ports_keep_readers_and_writers_apart() -> None:
    reader, writer = op("a", seconds=0.0, moves=(1000, 0)), op("b", seconds=0.0, moves=(0, 1000))
    assert ends(side_by_side(unified(ports=2), reader, writer)) == {"a": 1.0, "b": 1.0}
    both = op("b", seconds=0.0, moves=(1000, 1000))
    assert ends(side_by_side(unified(ports=2), reader, both)) == {
        "a": pytest.approx(2),
        "b": pytest.approx(2),
    }


def test_a_kernel_that_fell_behind_does_not_catch_up() -> None:
    """'a' would draw 500 bytes/s for two seconds; 'b' and 'c' leave it a third for one and a half."""
    a = op("a", seconds=2.0, moves=(1000, 0))
    found = side_by_side(unified(workers=3), a, *(op(n, seconds=0.0, moves=(500, 0)) for n in "bc"))
    assert ends(found) == {"a": pytest.approx(2.5), "b": pytest.approx(1.5), "c": pytest.approx(1.5)}


def one_port(read: float, write: float) -> System:
    """A processor and a host around a store whose single port reads and writes at two rates."""
    machine = system(
        {
            "near": cpu("near", None), "nearer": cpu("nearer", None),
            "ssd": drive("ssd", 1 << 20, read, write, ports=1), "host": cpu("host", ram(1 << 20, 1e6)),
        },
        [wire("nvme", [("ssd", "host")], 1e6)],
        {"near": "ssd", "nearer": "ssd"},
    )  # fmt: skip
    assert machine.memories["ssd"].ports == 1
    return machine


def test_one_port_with_two_rates_is_full_when_its_time_is() -> None:
    """400 bytes written at 100 bytes/s and 1200 read at 400 take 4 + 3 seconds however they mix."""
    machine = one_port(400.0, 100.0)
    graph = Graph("g", tensors({"x": 400, "y": 600}), (op("scan", seconds=0.0, moves=(600, 0)),))
    tasks = [move("x", "host", "ssd"), move("y", "ssd", "host"), run_task("scan", "near")]
    run = event_run(plan(graph, machine, tasks, {"x": "host", "y": "ssd"}), graph, machine)
    check_phase(run, graph, machine, CostTable(machine, GivenSeconds()))
    assert run.end == pytest.approx(7.0)
    mixed = Graph("g", {}, (op("both", seconds=0.0, moves=(1200, 400)),))
    assert event_run(plan(mixed, machine, [run_task("both", "near")], {}), mixed, machine).end == 7.0


@pytest.mark.parametrize("write", [400.0, 399.6, 100.0])
def test_a_sum_of_reads_and_writes_does_not_jump_when_one_rate_falls_a_little(write: float) -> None:
    machine = one_port(400.0, write)
    graph = Graph("g", tensors({"x": 400, "y": 400}), ())
    tasks = [move("x", "host", "ssd"), move("y", "ssd", "host")]
    run = event_run(plan(graph, machine, tasks, {"x": "host", "y": "ssd"}), graph, machine)
    assert run.end == pytest.approx(1.0 + 400 / write)


def test_operands_streamed_past_a_scratchpad_do_not_cross_it(tmp_path: object) -> None:
    """Neither do they wait for its banks; the kernel's own bytes are what remains."""
    table = CostTable(unified(), GivenSeconds())
    cost = GivenSeconds().cost(
        op("o", moves=(300, 100)), table.system.nodes["p0"], table.system.memories["dram"]
    )
    whole, rest = table.traffic("p0", cost), table.traffic("p0", cost, 250.0)
    assert whole is not None
    assert rest is not None
    assert (whole.bytes, rest.bytes) == (400, 150)
    assert table.traffic("p0", replace(cost, write_bytes=0), 300.0) is None


def test_what_crosses_a_port_and_what_does_not() -> None:
    """A drive's compute meets the flash behind its interface; hosts of PIM memories and scratchpads meet ports."""
    model = COST_MODELS.get("roofline")

    def loads(machine: System, device: str) -> set[str]:
        table, node = CostTable(machine, model), machine.nodes[device]
        work = operator_of("elementwise", 1.0, 1000, 1000, name="o")
        dtype = next(iter({**node.compute.vector, **node.compute.matrix})) if node.compute else "fp16"
        cost = model.cost(replace(work, dtype=dtype), node, machine.memories[node.memory or device])
        traffic = table.traffic(device, cost)
        assert traffic is not None
        return set(traffic.load)

    assert loads(load_system("csd-node"), "csd0") == {"csd0:flash"}
    assert loads(load_system("csd-node"), "gpu") == {"gpu"}
    assert loads(load_system("pim-gpt"), "asic") == {"pim"}
    assert loads(load_system("edge-tpu-board"), "accelerator") == {"accelerator"}
    assert loads(load_system("laptop"), "gpu") == loads(load_system("laptop"), "cpu") == {"unified"}
    node = load_system("csd-node")
    table = CostTable(node, model)
    assert table.path("csd0", "host").load["csd0:flash"] == table.path("csd0", "host").load["csd0:read"] == 1
    assert table.capacity["csd0:flash"] == pytest.approx(11.2e9)
    assert {"csd0:write", "csd0:flash"} <= set(table.path("host", "csd0").load)


@pytest.mark.parametrize(
    ("name", "rate"), [("smartssd", 8 * 667e6), ("instinfer-csd", 8 * 1.4e9), ("daisyplus", 4 * 0.4e9)]
)
def test_the_flash_of_a_drive_that_computes_carries_what_its_channels_carry(name: str, rate: float) -> None:
    device = load_device(name)
    assert isinstance(device, ComputationalStorage)
    assert flash_bandwidth(device) == pytest.approx(rate)
    unknown = device.model_copy(update={"store": device.store.model_copy(update={"geometry": None})})
    stated = max(device.internal_bandwidth, device.store.read_bandwidth, device.store.write_bandwidth)
    assert flash_bandwidth(unknown) == stated


@pytest.mark.parametrize(
    ("model", "machine", "device", "ratio"),
    [
        ("roofline", "a100-80gb", "a100-80gb", 0.5), ("roofline-peak", "a100-80gb", "a100-80gb", 0.5),
        ("scratchpad", "nvdla-large", "nvdla-large", 0.5),
        # A drive's own compute meets channels that are buses for both ways, whatever its interface.
        ("roofline", "csd-node", "csd0", 1.0),
    ],
)  # fmt: skip
def test_rooflines_follow_the_ports(model: str, machine: str, device: str, ratio: float) -> None:
    """As many bytes written as read take half the time on two ports, and the sum on one."""
    loaded = load_system(machine)
    node, one = (
        loaded.nodes[device],
        replace(loaded.memories[device], write_bandwidth=1e9, read_bandwidth=1e9, ports=1),
    )
    work = operator_of("elementwise", 0.0, 10**9, 10**9, name="o")
    took = [COST_MODELS.get(model).cost(work, node, replace(one, ports=ports)).seconds for ports in (1, 2)]
    assert took[0] >= 2.0
    assert took[1] / took[0] == pytest.approx(ratio)
    assert roof_seconds(work, node.compute, one) == (0.0, 2.0)
    assert roof_seconds(work, node.compute, replace(one, ports=2)) == (0.0, 1.0)


def test_a_measured_port_costs_a_mixture_its_time() -> None:
    """3 bytes/s read or 1 written: two seconds of each are six bytes read and two written."""
    found = MeasuredMemory(3.0, 1.0, 0.0, 0.0)
    machine = unified()
    table = CostTable(machine, GivenSeconds(), measured={"dram": found})
    reading, writing = table.path("dram", "ssd").load, table.path("ssd", "dram").load
    port = table.capacity["dram"]
    assert (6 * reading["dram"] + 2 * writing["dram"]) / port == pytest.approx(4.0)
    assert [table.capacity[f"dram:{way}"] for way in ("reading", "writing")] == [3.0, 1.0]


def laptop_pair(model: str, fidelity: str) -> dict[str, float]:
    """CPU and GPU of the shipped laptop, each adding up 2 GiB in the memory they share: seconds and bytes."""
    machine = load_system("laptop")
    size = 1 << 30
    names = {
        f"{side}{device}": Tensor(f"{side}{device}", (size // 2,), "fp16")
        for side in "xy"
        for device in ("gpu", "cpu")
    }
    work = tuple(
        operator_of(
            "elementwise",
            1.0,
            size,
            size,
            "fp16" if device == "gpu" else "fp32",
            name=device,
            inputs=(f"x{device}",),
            outputs=(f"y{device}",),
        )
        for device in ("gpu", "cpu")
    )
    graph = Graph("pair", names, work, ("ygpu", "ycpu"))
    homes = {name: (Home("unified"),) for name in ("xgpu", "xcpu")}
    both = Plan("pair", "laptop", "hand", tuple(run_task(d, d) for d in ("gpu", "cpu")), homes)
    workload = Workload("pair", (Phase("pair", "forward", graph),))
    result = simulate(workload, machine, lambda *_: both, fidelity=fidelity, cost_model=model)
    use = result.memories["unified"]
    line = result.timeline
    return {
        "seconds": result.makespan_s,
        "rate": (use.read_bytes + use.written_bytes) / result.makespan_s,
        "bound": float(set(line.bound_by) == {"unified"}),
        "bandwidth": machine.memories["unified"].read_bandwidth,
    }


@pytest.mark.parametrize("fidelity", ["analytic", "event", "cycle"])
@pytest.mark.parametrize("model", ["by-device", "roofline", "roofline-peak"])
def test_cpu_and_gpu_of_a_laptop_draw_no_more_than_their_memory_has(model: str, fidelity: str) -> None:
    found = laptop_pair(model, fidelity)
    assert found["rate"] <= found["bandwidth"] * (1 + 1e-9)
    assert found["rate"] >= 0.75 * found["bandwidth"]
    if fidelity != "analytic":
        assert found["bound"], "what held the kernels up is named"


def test_a_flow_network_keeps_its_books() -> None:
    """Kernels are not among the bytes carried; a resource is busy while a transfer is on it."""
    import simpy

    env = simpy.Environment()
    network = FlowNetwork(env, {"port": 10.0, "wire": 5.0})
    kernel = network.draw({"port": 1.0}, 80.0, 0.0, 10.0)
    seen: dict[str, float] = {}

    def copy():  # type: ignore[no-untyped-def]
        yield env.timeout(1.0)
        yield network.start({"wire": 1.0, "port": 2.0}, 9.0)
        seen["copy"] = env.now

    def work():  # type: ignore[no-untyped-def]
        yield env.timeout(10.0)
        late = network.leave(kernel)
        if late is not None:
            yield late
        seen["kernel"] = env.now

    env.process(copy())
    env.process(work())
    env.run()
    # All rise together until x + 2 x = 10: 10/3 each for 2.7 s; the kernel then goes on at 8.
    assert seen["copy"] == pytest.approx(1 + 2.7)
    assert seen["kernel"] == pytest.approx(3.7 + (80 - 8 - 9) / 8)
    assert network.carried == {"wire": 9.0, "port": 18.0}
    assert network.busy == {"wire": pytest.approx(2.7), "port": pytest.approx(2.7)}


# Laws over random plans.


def one_after_another(case: Case) -> Plan:
    """The same plan with every task behind all before it; the ranks of a collective stay together."""
    tasks, names = [], []
    for task in case.plan.tasks:
        first = task.kind != "collective" or task.group.index(task.device) == 0
        if first:
            names = [t.name for t in tasks]
        tasks.append(replace(task, after=tuple(names)))
    return replace(case.plan, tasks=tuple(tasks))


@EXAMPLES
@given(cases())
def test_an_operator_alone_takes_its_own_time_to_the_last_bit(case: Case) -> None:
    run = event_run(one_after_another(case), case.graph, case.system)
    for record in run.records:
        if record.cost is not None:
            assert record.end == record.start + (record.cost.launch_seconds + record.cost.seconds)


@EXAMPLES
@given(cases())
def test_one_after_another_event_and_analytic_are_the_same(case: Case) -> None:
    serial = one_after_another(case)
    slow, fast = event_run(serial, case.graph, case.system), analytic_run(serial, case.graph, case.system)
    if not any(task.kind == "collective" for task in serial.tasks):
        for one, other in zip(slow.records, fast.records, strict=True):
            assert one.end == pytest.approx(other.end, rel=1e-12, abs=1e-12)


@EXAMPLES
@given(cases(lanes=1))
def test_the_closed_form_errs_to_one_side_and_by_no_more_than_who_shares(case: Case) -> None:
    """At event fidelity a run takes at most as many times longer as streams draw on one resource."""
    slow = event_run(case.plan, case.graph, case.system)
    fast = analytic_run(case.plan, case.graph, case.system)
    assert fast.end <= slow.end * (1 + 1e-9) + 1e-9
    streams = len({task.stream for task in case.plan.tasks})
    # A port that reads faster than it writes weighs its flows by as much.
    weights = max(
        [1.0]
        + [max(m.read_bandwidth, m.write_bandwidth) / min(m.read_bandwidth, m.write_bandwidth)
           for m in case.system.memories.values()]
    )  # fmt: skip
    ranks = [len(t.group) for t in case.plan.tasks if isinstance(t, Collective)]
    messages = max([1, *(count * (count - 1) for count in ranks)])
    assert slow.end <= fast.end * streams * weights * 2 * messages + 1e-6


@pytest.mark.parametrize(
    ("kernels", "copied", "error"),
    [
        # Bytes of kernels that start together, of a copy beside them, and by how much the run is longer than said.
        ((1000,), 0, 1.0),
        ((1000, 1000), 0, 1.0),
        ((1000, 500), 0, 1.0),
        ((1000, 1000, 1000), 1000, 1.0),
        ((100, 1000), 2000, 1.0),
    ],
)
def test_what_starts_together_ends_when_the_port_has_passed_it(
    kernels: tuple[int, ...], copied: int, error: float
) -> None:
    """The closed form knows the bytes of a port, so it is exact where nothing follows."""
    machine = unified(workers=len(kernels))
    work = tuple(op(f"o{n}", seconds=0.0, moves=(size, 0)) for n, size in enumerate(kernels))
    graph = Graph("g", tensors({"x": copied}), work)
    tasks = [run_task(o.name, f"p{n}") for n, o in enumerate(work)]
    tasks += [move("x", "ssd", "dram")] if copied else []
    made = plan(graph, machine, tasks, {"x": "ssd"})
    slow, fast = (run(made, graph, machine).end for run in (event_run, analytic_run))
    assert slow / fast == pytest.approx(error)


@pytest.mark.parametrize(("workers", "error"), [(1, 1.0), (2, 3 / 2), (3, 4 / 3)])
def test_what_follows_on_a_shared_port_comes_later_than_the_closed_form_says(
    workers: int, error: float
) -> None:
    """Kernels of 1000 bytes side by side, one of them followed by a second of arithmetic: n + 1 s, not max(n, 2)."""
    machine = unified(workers=workers)
    work = tuple(op(f"o{n}", seconds=0.0, moves=(1000, 0)) for n in range(workers))
    graph = Graph(
        "g", tensors({"y": 0}), (op("o0", [], ["y"], 0.0, moves=(1000, 0)), *work[1:], op("then", ["y"]))
    )
    tasks = [*(run_task(f"o{n}", f"p{n}") for n in range(workers)), run_task("then", "p0")]
    made = plan(graph, machine, tasks, {})
    slow, fast = (run(made, graph, machine).end for run in (event_run, analytic_run))
    assert slow == pytest.approx(workers + 1)
    assert slow / fast == pytest.approx(error)


# More bandwidth is never slower, where nothing but bandwidth decides.


def with_bandwidth(machine: System, name: str, way: str, factor: float) -> System:
    """The machine with a memory's or a wire's bandwidth times a factor; ``way`` chooses reads or writes of a drive."""
    if name in machine.wires:
        link = machine.wires[name].link
        slower = link.model_copy(update={"bandwidth": link.bandwidth * factor})
        return replace(machine, wires={**machine.wires, name: replace(machine.wires[name], link=slower)})
    node = machine.nodes[name]
    own = "store" if node.device.kind == "flash" else "memory"
    memory = getattr(node.device, own)
    key = f"{way}_bandwidth" if own == "store" else "bandwidth"
    changed = memory.model_copy(update={key: getattr(memory, key) * factor})
    device = node.device.model_copy(update={own: changed})
    return replace(machine, nodes={**machine.nodes, name: replace(node, device=device)})


FACTORS = st.sampled_from([0.999, 0.9, 0.5, 0.1])
WAYS = st.sampled_from(["read", "write"])
BYTES = st.integers(0, 3000)


@pytest.mark.parametrize("runner", [event_run, analytic_run])
@EXAMPLES
@given(case=cases(), which=st.integers(0, 20), way=WAYS, factor=FACTORS)
def test_lowering_any_bandwidth_never_shortens_a_run_of_one_thing_at_a_time(
    runner: Callable[..., PhaseRun], case: Case, which: int, way: str, factor: float
) -> None:
    """Any memory's, either way, and any wire's; ports stay as they are stated."""
    places = [*case.system.memories, *case.system.wires]
    slower = with_bandwidth(case.system, places[which % len(places)], way, factor)
    serial = one_after_another(case)
    before, after = (runner(serial, case.graph, machine) for machine in (case.system, slower))
    assert after.end >= before.end * (1 - 1e-9) - 1e-9


@EXAMPLES
@given(case=cases(lanes=1), which=st.integers(0, 20), way=WAYS, factor=FACTORS)
def test_lowering_any_bandwidth_never_shortens_the_closed_form(
    case: Case, which: int, way: str, factor: float
) -> None:
    places = [*case.system.memories, *case.system.wires]
    slower = with_bandwidth(case.system, places[which % len(places)], way, factor)
    before, after = (analytic_run(case.plan, case.graph, machine) for machine in (case.system, slower))
    assert after.end >= before.end * (1 - 1e-9) - 1e-9


@EXAMPLES
@given(
    kernels=st.lists(
        st.tuples(BYTES, BYTES, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.25])),
        min_size=1,
        max_size=4,
    ),
    copied=st.sampled_from([0, 500, 4000]),
    ports=st.sampled_from([1, 2]),
    factor=FACTORS,
)
def test_lowering_a_memorys_bandwidth_never_shortens_what_starts_together(
    kernels: list[tuple[int, int, float, float]], copied: int, ports: int, factor: float
) -> None:
    work = [
        op(f"o{n}", seconds=seconds, moves=(read, written), launch=launch)
        for n, (read, written, seconds, launch) in enumerate(kernels)
    ]
    last = [
        max(ends(side_by_side(unified(rate, len(work), ports), *work, copied=copied)).values())
        for rate in (1000.0, 1000.0 * factor)
    ]
    assert last[1] >= last[0] * (1 - 1e-9)


def test_a_faster_wire_can_make_a_run_longer_and_why() -> None:
    """The anomaly of list schedules: what arrives earlier takes bandwidth from what the run waits for.

    'load' waits for a copy, then reads 1000 bytes. 'first' reads 1000 bytes, and ten seconds of arithmetic follow
    it. With a slow wire 'first' has the memory to itself; with a fast one the two share it.
    """

    def end(wire_bandwidth: float) -> float:
        devices = {"p0": cpu("p0", None), "p1": cpu("p1", None), "dram": cpu("dram", ram(1 << 20, 1000.0)),
                   "ssd": drive("ssd", 1 << 20, 1e9, 1e9)}  # fmt: skip
        machine = system(
            devices, [wire("nvme", [("ssd", "dram")], wire_bandwidth)], {"p0": "dram", "p1": "dram"}
        )
        graph = Graph(
            "g",
            tensors({"x": 1, "y": 0}),
            (
                op("load", ["x"], seconds=0.0, moves=(1000, 0)),
                op("first", [], ["y"], 0.0, moves=(1000, 0)),
                op("then", ["y"], seconds=10.0),
            ),
        )
        tasks = [
            move("x", "ssd", "dram"),
            run_task("load", "p0"),
            run_task("first", "p1"),
            run_task("then", "p1"),
        ]
        return event_run(plan(graph, machine, tasks, {"x": "ssd"}), graph, machine).end

    slow, fast = end(0.5), end(1e9)
    assert slow == pytest.approx(11.0, abs=0.01)
    assert fast == pytest.approx(12.0, abs=0.01)


@pytest.mark.parametrize("system_name", ["laptop", "a100-80gb", "workstation"])
def test_more_memory_bandwidth_is_never_slower_on_shipped_machines(system_name: str) -> None:
    """By the data-sheet roofline; the memory that the GPU works in, from half to twice its bandwidth."""
    machine = load_system(system_name)
    worker = next(node for node in machine.workers() if node.device.kind == "gpu")
    memory = machine.memories[worker.memory or worker.name]
    workload = offchip.load_model("gpt2", phase="decode", batch=4, prompt=64)
    graph = workload.phases[0].graph
    seconds = []
    for factor in (0.5, 0.9, 0.999, 1.0, 1.001, 2.0):
        rates = {
            "read_bandwidth": memory.read_bandwidth * factor,
            "write_bandwidth": memory.write_bandwidth * factor,
        }
        model = COST_MODELS.get("roofline-peak")
        changed = replace(memory, **rates)
        seconds.append(sum(model.cost(o, worker, changed).seconds for o in graph.operators))
    assert all(more >= less for more, less in pairwise(seconds))
