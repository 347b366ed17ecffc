"""Every physics check trips: a legal run, broken in one respect, is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from machines import (
    GivenSeconds,
    analytic_run,
    cpu,
    drive,
    event_run,
    gpu,
    move,
    op,
    plan,
    ram,
    run_task,
    system,
    tensors,
    two_gpus,
    wire,
)

from hw_configs.device import ComputationalStorage, Envelope
from hw_configs.problems import PhysicsError
from hw_configs.system import System
from simulator.check import check
from simulator.plan import Collective, Plan
from simulator.system import physics
from simulator.system.costs import CostTable
from simulator.system.engine import PhaseRun
from simulator.system.physics import check_phase
from tests.typed import operator_of
from workloads.graph import Graph, Role


@dataclass
class Legal:
    """A run that passes, with what it ran on."""

    run: PhaseRun
    graph: Graph
    machine: System

    def check(self) -> None:
        check_phase(self.run, self.graph, self.machine, CostTable(self.machine, GivenSeconds()))

    def change(self, name: str, **fields: object) -> None:
        """Alter the record of a task; fields of the cost are named ``cost.field``."""
        for place, record in enumerate(self.run.records):
            if record.task.name == name:
                cost = {key[5:]: value for key, value in fields.items() if key.startswith("cost.")}
                own = {key: value for key, value in fields.items() if not key.startswith("cost.")}
                if cost:
                    own["cost"] = replace(record.cost, **cost)  # type: ignore[arg-type]
                self.run.records[place] = replace(record, **own)  # type: ignore[arg-type]


def legal(made: Plan, graph: Graph, machine: System, runner: Callable[..., PhaseRun] = event_run) -> Legal:
    assert check(made, graph, machine) == []
    found = Legal(runner(made, graph, machine), graph, machine)
    found.check()
    return found


def busy_machine() -> Legal:
    """Two chained operators on one GPU, a copy over its wire, an operator behind it, a collective's round."""
    flops = 1e11  # one second on the vector unit of the test devices
    graph = Graph(
        "g",
        tensors({"x": 100, "w": 400, "a": 200, "b": 100, "p": 8, "q": 8, "s": 8, "t": 8}, {"w": Role.WEIGHT}),
        (
            replace(
                operator_of(
                    "elementwise", flops, 500, 200, "fp32", name="first", inputs=("x", "w"), outputs=("a",)
                ),
                measured_s=1.0,
            ),
            op("second", ["a"], ["b"], 2.0),
            op("far", ["b"], ["q"], 1.0),
            op("near", ["b"], ["p"], 0.5),
            op("sum", ["p", "q"], ["s", "t"], kind="all_reduce", bytes=8, group=2),
        ),
        ("s", "t"),
    )
    machine = with_power(two_gpus(bandwidth=100.0), "gpu0", idle=10.0, tdp=100.0)
    group = ("gpu0", "gpu1")
    tasks = [
        run_task("first", "gpu0"), run_task("second", "gpu0"), move("b", "gpu0", "gpu1"),
        run_task("far", "gpu1"), run_task("near", "gpu0"),
        *(Collective(f"sum@{n}", f"{n}.compute", "sum", n, group) for n in group),
    ]  # fmt: skip
    return legal(plan(graph, machine, tasks, {"x": "gpu0", "w": "gpu0"}), graph, machine)


def with_power(machine: System, name: str, idle: float, tdp: float) -> System:
    node = machine.nodes[name]
    device = node.device.model_copy(update={"power": Envelope(idle=idle, tdp=tdp)})
    return replace(machine, nodes={**machine.nodes, name: replace(node, device=device)})


def refused(found: Legal, *words: str) -> None:
    with pytest.raises(PhysicsError) as error:
        found.check()
    for word in words:
        assert word in str(error.value), (word, str(error.value))


def test_arithmetic_below_the_roof() -> None:
    found = busy_machine()
    found.change("first", end=0.999)
    refused(found, "operator 'first' took 0.999 s, below its roof of 1 s on gpu0")


def test_traffic_below_the_roof() -> None:
    found = busy_machine()
    found.change("first", **{"cost.read_bytes": 600_000, "cost.write_bytes": 410_000})
    refused(found, "operator 'first' took 1 s, below its roof of 1.01 s on gpu0")


@pytest.mark.parametrize("ports", [1, 2])
def test_the_roof_follows_the_ports(ports: int) -> None:
    """Two ports read and write beside each other, one port takes turns."""
    machine = system({"gpu0": gpu("gpu0", ram(1 << 20, 1000.0, ports=ports))})
    graph = Graph("g", {}, (op("o", moves=(600, 600), seconds=0.0),))
    found = legal(plan(graph, machine, [run_task("o", "gpu0")], {}), graph, machine)
    assert found.run.end == pytest.approx(1.2 if ports == 1 else 0.6)
    found.change("o", end=0.599 if ports == 2 else 1.199)
    refused(found, "operator 'o' took")


@pytest.mark.parametrize("part", ["compute_energy_j", "memory_energy_j"])
def test_negative_energy(part: str) -> None:
    found = busy_machine()
    found.change("second", **{f"cost.{part}": -1e-12})
    refused(found, "operator 'second' has negative energy")


@pytest.mark.parametrize("part", ["seconds", "launch_seconds"])
@pytest.mark.parametrize("value", [-1e-12, math.nan])
def test_negative_time(part: str, value: float) -> None:
    found = busy_machine()
    found.change("second", **{f"cost.{part}": value})
    refused(found, "operator 'second' takes")


def test_more_power_than_the_cooling_takes() -> None:
    """90 W above idle for two seconds are 180 J; a device without a stated limit has none."""
    found = busy_machine()
    found.change("second", **{"cost.compute_energy_j": 100.0, "cost.memory_energy_j": 79.9})
    found.change("far", **{"cost.compute_energy_j": 1e9})
    found.check()
    found.change("second", **{"cost.memory_energy_j": 80.1})
    refused(found, "operator 'second' draws 100.05 W on gpu0, above its TDP of 100 W")


def test_two_operators_at_once_on_a_device() -> None:
    graph = Graph("g", {}, (op("a", seconds=2.0), op("b", seconds=3.0)))
    machine = two_gpus()
    made = plan(graph, machine, [run_task("a", "gpu0", "s0"), run_task("b", "gpu0", "s1")], {})
    found = legal(made, graph, machine)
    found.change("b", start=1.9)
    refused(found, "device gpu0 runs 'a' and 'b' at once")


def test_two_tasks_at_once_on_a_stream() -> None:
    graph = Graph("g", tensors({"x": 1000, "y": 1000}), ())
    machine = two_gpus()
    tasks = [move("x", "host", "gpu0", "copies"), move("y", "host", "gpu1", "copies")]
    found = legal(plan(graph, machine, tasks, {"x": "host", "y": "host"}), graph, machine)
    found.change("move y to gpu1", start=0.9)
    refused(found, "stream copies runs 'move x to gpu0' and 'move y to gpu1' at once")


def test_a_run_below_its_critical_path() -> None:
    """'first', 'second' and 'far' follow one another: four seconds."""
    found = busy_machine()
    found.run.end = 3.99
    refused(found, "the critical path to 'far' takes 4 s, the run only 3.99 s")


def test_a_chain_through_an_update_in_place_is_a_critical_path() -> None:
    graph = Graph(
        "g",
        tensors({"cache": 10}, {"cache": Role.KV_CACHE}),
        (op("write", updates=["cache"], seconds=2.0), op("read", ["cache"], seconds=3.0)),
    )
    machine = two_gpus()
    tasks = [run_task("write", "gpu0"), run_task("read", "gpu0")]
    found = legal(plan(graph, machine, tasks, {"cache": "gpu0"}), graph, machine)
    found.run.end = 4.9
    refused(found, "the critical path to 'read' takes 5 s")


@pytest.mark.parametrize("change", [-10.0, 10.0])
def test_bytes_that_vanish_or_appear_on_a_wire(change: float) -> None:
    found = busy_machine()
    carried = {**found.run.carried_bytes}
    carried["up0>"] += change
    found.run.carried_bytes = carried
    refused(found, f"up0> carried {108 + change:.0f} bytes, tasks moved 108")


def test_bytes_of_a_transfer_that_no_wire_saw() -> None:
    found = busy_machine()
    found.change("move b to gpu1", moved_bytes=120.0)
    refused(found, "carried 116 bytes, tasks moved 136")


def copies() -> Legal:
    """One second of copying over a wire, and nothing else."""
    graph = Graph("g", tensors({"x": 1000}), ())
    machine = two_gpus()
    return legal(plan(graph, machine, [move("x", "host", "gpu0")], {"x": "host"}), graph, machine)


def test_a_wire_that_carries_more_than_it_can() -> None:
    found = copies()
    found.run.end = 0.9
    refused(found, "up0< carried 1000 bytes, more than its bandwidth allows in the run")


def test_a_wire_that_is_busy_longer_than_the_run() -> None:
    found = copies()
    found.run.busy_seconds = {**found.run.busy_seconds, "up0<": 1.01}
    refused(found, "wire 'up0' was busy longer than the run")


@pytest.mark.parametrize("runner", [event_run, analytic_run])
def test_a_wire_is_busy_as_long_as_something_is_on_it(runner: Callable[..., PhaseRun]) -> None:
    """Two copies side by side, a pause, and one more."""
    graph = Graph("g", tensors({"x": 1000, "y": 500, "z": 250}), (op("wait", ["x"], seconds=3.0),))
    machine = two_gpus()
    tasks = [
        move("x", "host", "gpu0", "c0"), run_task("wait", "gpu0"), move("y", "host", "gpu0", "c0"),
        move("z", "host", "gpu0", "c1", after=("wait",)),
    ]  # fmt: skip
    found = runner(plan(graph, machine, tasks, {"x": "host", "y": "host", "z": "host"}), graph, machine)
    assert found.busy_seconds["up0<"] == pytest.approx(1.75)
    assert found.carried_bytes["up0<"] == 1750


def unified(memory_bandwidth: float = 1000.0) -> Legal:
    """A CPU and a GPU that read 1000 bytes each from the memory they share, at 1000 bytes/s."""
    machine = system(
        {
            "gpu": gpu("gpu", None),
            "cpu": cpu("cpu", None),
            "dram": cpu("dram", ram(1 << 20, memory_bandwidth)),
        },
        works_in={"gpu": "dram", "cpu": "dram"},
    )
    graph = Graph("g", {}, (op("a", moves=(1000, 0), seconds=0.0), op("b", moves=(900, 100), seconds=0.0)))
    return legal(plan(graph, machine, [run_task("a", "gpu"), run_task("b", "cpu")], {}), graph, machine)


def test_kernels_that_draw_more_than_their_memory_has() -> None:
    """Each within its own roof, both together at twice the bandwidth."""
    found = unified()
    assert found.run.end == pytest.approx(2.0)
    found.change("a", end=1.0)
    found.change("b", end=1.0)
    found.run.end = 1.0
    refused(
        found, "memory 'dram' passed 1900 bytes read and 100 written", "takes 2 s of its 1 port(s), in 1 s"
    )


def test_a_copy_beside_a_kernel_counts_against_the_memory() -> None:
    machine = two_gpus(bandwidth=1000.0, memory_bandwidth=1000.0)
    graph = Graph("g", tensors({"x": 500}), (op("a", moves=(1000, 0), seconds=0.0),))
    made = plan(graph, machine, [run_task("a", "gpu0"), move("x", "gpu0", "host")], {"x": "gpu0"})
    found = legal(made, graph, machine)
    assert found.run.end == pytest.approx(1.5)
    found.change("a", end=1.0)
    found.run.end = 1.0
    refused(found, "memory 'gpu0' passed 1500 bytes read and 0 written, which takes 1.5 s")


def test_two_ports_take_reads_and_writes_side_by_side_and_no_more() -> None:
    machine = system(
        {"host": cpu("host", ram(1 << 20, 1e6)), "ssd": drive("ssd", 1 << 20, 500.0, 250.0)},
        [wire("nvme", [("ssd", "host")], 1e6)],
    )
    graph = Graph("g", tensors({"x": 1000, "y": 500}), ())
    tasks = [move("x", "ssd", "host"), move("y", "host", "ssd")]
    found = legal(plan(graph, machine, tasks, {"x": "ssd", "y": "host"}), graph, machine)
    assert found.run.end == pytest.approx(2.0)
    device = machine.nodes["ssd"].device.model_copy(
        update={"store": machine.nodes["ssd"].device.store.model_copy(update={"ports": 1})}
    )
    one = replace(machine, nodes={**machine.nodes, "ssd": replace(machine.nodes["ssd"], device=device)})
    shared = legal(plan(graph, one, tasks, {"x": "ssd", "y": "host"}), graph, one)
    assert shared.run.end == pytest.approx(4.0)


def drive_machine() -> System:
    """A host and a drive that computes; channels carry 1200 bytes a second."""
    store = drive("csd0", 1 << 20, 800.0, 800.0).store
    csd = ComputationalStorage.model_construct(
        kind="csd", name="csd0", interface="NVMe", store=store, internal_bandwidth=1200.0,
        memory=ram(1 << 10, 1e6), compute=gpu("g", None).compute, engine=None, power=None,
    )  # fmt: skip
    return system(
        {"csd0": csd, "host": cpu("host", ram(1 << 20, 1e6))}, [wire("nvme", [("csd0", "host")], 1e6)]
    )


def inside() -> Legal:
    """The drive's own compute reads 1200 bytes beside a host that fetches 400."""
    machine = drive_machine()
    graph = Graph("g", tensors({"x": 400}), (op("scan", moves=(1200, 0), seconds=1.0),))
    return legal(
        plan(graph, machine, [run_task("scan", "csd0"), move("x", "csd0", "host")], {"x": "csd0"}),
        graph,
        machine,
    )


def test_a_drives_own_compute_and_its_host_share_the_flash() -> None:
    found = inside()
    assert found.run.end > 1.3
    assert not any(
        name.startswith("csd0:read") for name in found.run.busy_seconds if name == "csd0:flash:read"
    )
    found.run.end = 1.5
    found.change("scan", end=1.0)
    found.run.end = 1.2
    refused(found, "the flash of 'csd0' passed 1600 bytes, more than its channels carry in the run")


def test_what_a_drive_computes_on_does_not_cross_its_host_interface() -> None:
    """1200 bytes inside in a second are more than the interface reads, and no breach."""
    found = inside()
    assert found.machine.memories["csd0"].read_bandwidth == 800.0
    found.check()


def test_a_memory_that_gives_back_what_it_does_not_hold() -> None:
    found = busy_machine()
    entries = found.run.ledger.entries["gpu0"]
    found.run.ledger.entries["gpu0"] = [*entries, (found.run.end, "x", -10_000)]
    refused(found, "memory 'gpu0' gave back more than it held, last 'x'")


def test_a_memory_that_holds_more_than_it_has() -> None:
    found = busy_machine()
    most = found.run.ledger.peak_bytes("gpu0")
    found.run.ledger.usable["gpu0"] = most
    found.check()
    found.run.ledger.usable["gpu0"] = most - 1
    refused(found, f"memory 'gpu0' held {most} bytes of {most - 1}")


def test_rounding_that_is_let_pass() -> None:
    """A billionth of the run and four units in the last place of its end."""
    run = busy_machine().run
    for start, end in ((0.0, 4.0), (3.0, 4.0), (5.0, 4.0), (0.0, 0.0), (0.0, 1e-3)):
        run.start, run.end = start, end
        assert physics._slack(run) == 1e-9 * max(end - start, 0.0) + 4 * math.ulp(max(end, 1e-9))


def streamed() -> Legal:
    """A GPU that takes 1000 bytes of a weight on the host past its own memory."""
    graph = Graph("g", tensors({"w": 1000}, {"w": Role.WEIGHT}), (op("a", ["w"], seconds=0.5),))
    machine = two_gpus()
    task = run_task("a", "gpu0", source="host", streamed=("w",))
    # A plan that streams past a memory that is no scratchpad is refused before it runs; the bytes are the same.
    found = Legal(event_run(plan(graph, machine, [task], {"w": "host"}), graph, machine), graph, machine)
    found.check()
    return found


@pytest.mark.parametrize("make", [busy_machine, streamed, copies, inside])
def test_every_byte_is_counted_on_every_wire_and_port(make: Callable[[], Legal]) -> None:
    """A byte less or more passes, for times round; anything beyond does not."""
    names = list(make().run.carried_bytes)
    assert names
    for name in names:
        for change, passes in ((-0.9, True), (0.9, True), (-1.1, False), (1.1, False)):
            found = make()
            carried = dict(found.run.carried_bytes)
            whole, carried[name] = carried[name], carried[name] + change
            found.run.carried_bytes = carried
            if passes:
                found.check()
            else:
                refused(found, f"{name} carried {whole + change:.0f} bytes, tasks moved {whole:.0f}")


def test_bytes_on_a_wire_that_no_task_used() -> None:
    found = copies()
    found.run.carried_bytes = {**found.run.carried_bytes, "up1>": 50.0}
    refused(found, "up1> carried 50 bytes, tasks moved 0")


def test_a_byte_too_much_for_a_wire_is_rounding_and_two_are_not() -> None:
    found = copies()
    found.run.busy_seconds = {}
    found.run.end = 0.9995
    found.check()
    found.run.end = 0.9985
    refused(found, "up0< carried 1000 bytes, more than its bandwidth allows in the run")


@pytest.mark.parametrize("resource", ["up0", "up0>", "up0<", "up1"])
def test_no_way_of_a_wire_is_busy_longer_than_the_run(resource: str) -> None:
    found = copies()
    found.run.busy_seconds = {resource: 1.0 + 1e-7}
    found.check()
    found.run.busy_seconds = {resource: 1.0 + 1e-5}
    refused(found, f"wire '{resource[:3]}' was busy longer than the run")


def test_a_byte_too_much_for_a_memory_is_rounding_and_two_are_not() -> None:
    found = unified()
    found.change("a", end=1.0)
    found.change("b", end=1.0)
    found.run.end = 1.9995
    found.check()
    found.run.end = 1.998
    refused(found, "memory 'dram' passed 1900 bytes read and 100 written")


def test_a_byte_too_much_for_a_drives_channels_is_rounding_and_two_are_not() -> None:
    found = inside()
    found.change("scan", end=1.0)
    found.run.end = 1600 / 1200 - 0.0005
    found.check()
    found.run.end = 1600 / 1200 - 0.0015
    refused(found, "the flash of 'csd0' passed 1600 bytes")


def test_what_passed_the_ports_of_each_memory() -> None:
    """By hand: kernels where they work, copies and rounds at both ends, streams at their source."""
    found = streamed()
    found.change("a", **{"cost.read_bytes": 1300, "cost.write_bytes": 40})
    passed = physics._passed(found.run, found.machine)
    assert {name: (p.read, p.written, p.inside) for name, p in passed.items()} == {
        "gpu0": (300.0, 40.0, 0.0), "gpu1": (0.0, 0.0, 0.0), "host": (1000.0, 0.0, 0.0),
    }  # fmt: skip
    drive_run = inside()
    drive_run.change("scan", **{"cost.write_bytes": 7})
    passed = physics._passed(drive_run.run, drive_run.machine)
    assert {name: (p.read, p.written, p.inside) for name, p in passed.items()} == {
        "csd0": (400.0, 0.0, 1207.0), "host": (0.0, 400.0, 0.0),
    }  # fmt: skip
    ring = busy_machine()
    for record in ring.run.records:
        if record.cost is not None:
            record.cost = replace(record.cost, read_bytes=10, write_bytes=1)
    passed = physics._passed(ring.run, ring.machine)
    assert {name: (p.read, p.written, p.inside) for name, p in passed.items()} == {
        # Three operators, the copy of b (100) and 8 bytes each way of the collective.
        "gpu0": (138.0, 11.0, 0.0), "gpu1": (18.0, 109.0, 0.0), "host": (0.0, 0.0, 0.0),
    }  # fmt: skip


def test_an_operator_that_ran_twice_counts_once_and_at_its_shorter_time() -> None:
    found = busy_machine()
    (second,) = (record for record in found.run.records if record.task.name == "second")
    found.run.records.append(replace(second, end=second.end + 50.0))
    assert list(physics._shorter_than_critical_path(found.run, found.graph)) == []
    found.run.records.insert(0, replace(second, end=second.end + 50.0))
    assert list(physics._shorter_than_critical_path(found.run, found.graph)) == []


def test_an_operator_without_a_limit_or_without_time_hides_no_other() -> None:
    """The power of one that follows is judged all the same; memory counts where it is the device's own."""
    found = busy_machine()
    found.change("first", start=0.0, end=0.0)
    found.change("near", **{"cost.compute_energy_j": 46.0})
    breaches = list(physics._operators_above_power(found.run, found.machine))
    assert breaches == ["operator 'near' draws 102 W on gpu0, above its TDP of 100 W"]
    found.change("near", **{"cost.compute_energy_j": 44.0, "cost.memory_energy_j": 1.1})
    (breach,) = physics._operators_above_power(found.run, found.machine)
    assert breach.startswith("operator 'near' draws 100.2 W")
    node = replace(found.machine.nodes["gpu0"], memory="host")
    found.machine = replace(found.machine, nodes={**found.machine.nodes, "gpu0": node})
    assert list(physics._operators_above_power(found.run, found.machine)) == []


def test_energy_and_time_of_nothing_are_no_breach() -> None:
    found = busy_machine()
    found.change("second", **{"cost.compute_energy_j": 0.0, "cost.memory_energy_j": 0.0})
    found.check()
    for record in found.run.records:
        if record.cost is not None:
            assert record.cost.launch_seconds == 0


def test_a_memory_may_be_full_and_may_be_empty() -> None:
    found = busy_machine()
    found.run.ledger.entries = {"gpu0": [(0.0, "x", 5), (1.0, "x", -5)], "gpu1": []}
    found.run.ledger.usable = {"gpu0": 5, "gpu1": 5}
    assert list(physics._memory_out_of_bounds(found.run)) == []
    found.run.ledger.entries = {"gpu1": [], "gpu0": [(0.0, "x", 6), (1.0, "y", -7)]}
    assert list(physics._memory_out_of_bounds(found.run)) == [
        "memory 'gpu0' held 6 bytes of 5, last 'x'", "memory 'gpu0' gave back more than it held, last 'y'",
    ]  # fmt: skip


@pytest.mark.parametrize(("own", "inside"), [("csd0", True), ("a", False), ("z", False)])
def test_a_drives_compute_takes_the_path_inside_where_it_works_on_its_own_flash(
    own: str, inside: bool
) -> None:
    found = drive_machine()
    node, memory = replace(found.nodes["csd0"], memory=own), replace(found.memories["csd0"], name=own)
    assert physics._works_inside(node, memory) is inside
    seen = physics._seen_from(node, memory)
    if inside:
        assert (seen.read_bandwidth, seen.write_bandwidth, seen.ports) == (1200.0, 1200.0, 1)
        wide = replace(memory, read_bandwidth=1300.0, write_bandwidth=1400.0)
        seen = physics._seen_from(node, wide)
        assert (seen.read_bandwidth, seen.write_bandwidth) == (1300.0, 1400.0)
    else:
        assert seen is memory
    host = found.nodes["host"]
    assert physics._seen_from(host, found.memories["host"]) is found.memories["host"]


def test_a_collective_may_run_beside_an_operator_of_its_device() -> None:
    """One device computes one operator at a time; what crosses its wires meanwhile is none."""
    graph = Graph(
        "g",
        tensors({"p": 8, "q": 8, "s": 8, "t": 8}),
        (op("sum", ["p", "q"], ["s", "t"], kind="all_reduce", bytes=800, group=2), op("beside", seconds=3.0)),
        ("s", "t"),
    )
    machine, group = two_gpus(bandwidth=1000.0), ("gpu0", "gpu1")
    tasks = [
        *(Collective(f"sum@{n}", f"{n}.wires", "sum", n, group) for n in group),
        run_task("beside", "gpu0"),
    ]
    found = legal(plan(graph, machine, tasks, {"p": "gpu0", "q": "gpu1"}), graph, machine)
    assert list(physics._overlaps(found.run)) == []
    found.change("sum@gpu0", end=2.9)
    found.run.records.append(replace(found.run.records[0]))
    assert list(physics._overlaps(found.run)) == ["stream gpu0.wires runs 'sum@gpu0' and 'sum@gpu0' at once"]
