"""Small runs whose times and bytes are worked out by hand, at both fidelities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from machines import (
    GivenSeconds,
    analytic_run,
    cpu,
    crossing,
    drive,
    event_run,
    gpu,
    move,
    op,
    plan,
    ram,
    run_task,
    spans,
    system,
    tensors,
    two_gpus,
    wire,
)

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError, PhysicsError
from hw_configs.system import MemorySpace, Node
from simulator.check import check
from simulator.cost.model import OperatorCost
from simulator.plan import Collective, Plan, Task
from simulator.system.costs import CostTable, Round
from simulator.system.engine import PhaseRun
from simulator.system.physics import check_phase
from tests.typed import operator_of
from workloads.graph import Graph, Operator, Role

BOTH = pytest.mark.parametrize("run", [event_run, analytic_run], ids=["event", "analytic"])
Run = Callable[..., PhaseRun]


def alone(graph: Graph, homes: dict[str, str], run: Run, capacity: int = 1 << 20) -> PhaseRun:
    """Everything on one GPU in program order."""
    machine = two_gpus(capacity)
    made = plan(graph, machine, [run_task(o.name, "gpu0") for o in graph.operators], homes)
    assert check(made, graph, machine) == []
    outcome = run(made, graph, machine)
    check_phase(outcome, graph, machine, CostTable(machine, GivenSeconds()))
    return outcome


@BOTH
def test_an_empty_graph_takes_no_time(run: Run) -> None:
    outcome = alone(Graph("empty", {}, ()), {}, run)
    assert (outcome.start, outcome.end, outcome.records) == (0.0, 0.0, [])


@BOTH
def test_a_diamond_holds_what_its_branches_need(run: Run) -> None:
    graph = Graph(
        "diamond",
        tensors({"x": 10, "a": 20, "l": 30, "r": 40, "y": 50}),
        (
            op("top", ["x"], ["a"]),
            op("l", ["a"], ["l"]),
            op("r", ["a"], ["r"]),
            op("join", ["l", "r"], ["y"]),
        ),
        ("y",),
    )
    outcome = alone(graph, {"x": "gpu0"}, run)
    assert outcome.end == 4.0
    assert outcome.ledger.peak_bytes("gpu0") == 30 + 40 + 50
    assert outcome.ledger.peak("gpu0").time_s == 3.0


@BOTH
def test_views_of_zero_time_allocate_and_release_in_list_order(run: Run) -> None:
    names = {f"v{i}": 8 for i in range(5)}
    views = tuple(op(f"view{i}", [f"v{i}"], [f"v{i + 1}"], 0.0, kind="view") for i in range(4))
    outcome = alone(Graph("views", tensors(names), views), {"v0": "gpu0"}, run, capacity=16)
    assert outcome.end == 0.0
    assert outcome.ledger.peak_bytes("gpu0") == 16


@BOTH
def test_unread_inputs_stay_and_outputs_may_be_read(run: Run) -> None:
    graph = Graph(
        "g", tensors({"x": 3, "unread": 5, "y": 7, "z": 11}), (op("a", ["x"], ["y"]), op("b", ["y"], ["z"])),
        ("y",),
    )  # fmt: skip
    outcome = alone(graph, {"x": "gpu0", "unread": "gpu0"}, run)
    assert outcome.ledger.peak_bytes("gpu0") == 5 + 7 + 11
    assert outcome.ledger.used["gpu0"] == 0


@BOTH
def test_a_cache_updated_in_place_is_held_once(run: Run) -> None:
    graph = Graph(
        "g",
        tensors({"k": 100}, {"k": Role.KV_CACHE}),
        tuple(op(f"s{i}", ["k"], updates=["k"]) for i in range(3)),
    )
    outcome = alone(graph, {"k": "gpu0"}, run)
    assert outcome.end == 3.0
    assert outcome.ledger.peak_bytes("gpu0") == outcome.ledger.used["gpu0"] == 100


@BOTH
def test_recomputation_after_frees(run: Run) -> None:
    graph = Graph(
        "g",
        tensors({"x": 8, "a": 100, "b": 100}),
        (op("a", ["x"], ["a"]), op("b", [], ["b"]), op("c", ["a", "x"])),
    )
    machine = two_gpus()
    tasks = [
        replace(run_task("a", "gpu0"), frees=(("a", "gpu0"),)),
        run_task("b", "gpu0"),
        replace(run_task("a", "gpu0"), name="a again"),
        run_task("c", "gpu0"),
    ]
    made = plan(graph, machine, tasks, {"x": "gpu0"})
    assert check(made, graph, machine) == []
    outcome = run(made, graph, machine)
    assert outcome.end == 4.0
    assert outcome.ledger.peak_bytes("gpu0") == 108


@BOTH
def test_a_weight_is_evicted_and_brought_back(run: Run) -> None:
    graph = Graph(
        "g", tensors({"w": 1000}, {"w": Role.WEIGHT}), (op("use", ["w"]), op("rest"), op("again", ["w"]))
    )
    machine = two_gpus()
    tasks = [
        run_task("use", "gpu0"),
        move("w", "gpu0", "host", frees=(("w", "gpu0"),)),
        run_task("rest", "gpu0"),
        move("w", "host", "gpu0", after=("rest",)),
        run_task("again", "gpu0"),
    ]
    made = plan(graph, machine, tasks, {"w": "gpu0"})
    assert check(made, graph, machine) == []
    outcome = run(made, graph, machine)
    # One second out beside 'use', which reads it as well; one second back after 'rest'.
    assert spans(outcome)["move w to host"] == (0.0, 1.0)
    assert spans(outcome)["again"] == (3.0, 4.0)
    assert outcome.ledger.used == {"gpu0": 1000, "gpu1": 0, "host": 0}


@BOTH
def test_double_buffering_hides_transfers(run: Run) -> None:
    count = 4
    graph = Graph(
        "g",
        tensors({f"w{i}": 1000 for i in range(count)}, {f"w{i}": Role.WEIGHT for i in range(count)}),
        tuple(op(f"use{i}", [f"w{i}"], seconds=2.0) for i in range(count)),
    )
    machine = two_gpus(capacity=2000)
    tasks: list[Task] = []
    for i in range(count):
        after = (f"use{i - 2}",) if i >= 2 else ()
        tasks += [move(f"w{i}", "host", "gpu0", after=after), run_task(f"use{i}", "gpu0")]
    made = plan(graph, machine, tasks, {f"w{i}": "host" for i in range(count)})
    assert check(made, graph, machine) == []
    outcome = run(made, graph, machine)
    assert outcome.end == pytest.approx(1 + 2 * count)
    assert outcome.ledger.peak_bytes("gpu0") == 2000


@BOTH
def test_two_streams_take_turns_on_a_device(run: Run) -> None:
    graph = Graph("g", {}, (op("a", seconds=2.0), op("b", seconds=3.0)))
    machine = two_gpus()
    tasks = [run_task("a", "gpu0", "s0"), run_task("b", "gpu0", "s1")]
    assert run(plan(graph, machine, tasks, {}), graph, machine).end == 5.0


@pytest.mark.parametrize(
    ("engines", "duplex", "there", "seconds"),
    [
        (("c", "c"), "full", ("host", "gpu0"), 2.0),
        (("c", "d"), "full", ("host", "gpu0"), 2.0),
        (("c", "d"), "full", ("gpu0", "host"), 1.0),
        (("c", "d"), "half", ("gpu0", "host"), 2.0),
    ],
)
def test_wires_are_shared(
    engines: tuple[str, str], duplex: str, there: tuple[str, str], seconds: float
) -> None:
    """Two transfers of 1000 bytes over a wire of 1000 bytes/s: same way, opposite ways, half duplex."""
    graph = Graph("g", tensors({"x": 1000, "y": 1000}), ())
    machine = two_gpus(duplex=duplex)
    tasks = [move("x", "host", "gpu0", engines[0]), move("y", *there, stream=engines[1])]
    made = plan(graph, machine, tasks, {"x": "host", "y": there[0]})
    assert check(made, graph, machine) == []
    assert event_run(made, graph, machine).end == pytest.approx(seconds)
    assert analytic_run(made, graph, machine).end == pytest.approx(seconds)


@BOTH
def test_a_bus_crossed_twice_carries_the_bytes_twice(run: Run) -> None:
    machine = system(
        {
            "gpu0": gpu("gpu0", ram(1 << 20, 1e6)), "gpu1": gpu("gpu1", ram(1 << 20, 1e6)),
            "host": cpu("host", ram(1 << 20, 1e6)),
        },
        [wire("bus", [("gpu0", "host"), ("gpu1", "host")], 1000.0, duplex="half")],
    )  # fmt: skip
    graph = Graph("g", tensors({"x": 1000}), ())
    outcome = run(plan(graph, machine, [move("x", "gpu0", "gpu1")], {"x": "gpu0"}), graph, machine)
    assert outcome.end == pytest.approx(2.0)
    assert outcome.carried_bytes["bus"] == 2000
    check_phase(outcome, graph, machine, CostTable(machine, GivenSeconds()))


@BOTH
def test_flash_reads_and_writes_at_its_own_rates(run: Run) -> None:
    machine = system(
        {"host": cpu("host", ram(1 << 20, 1e6)), "ssd": drive("ssd", 1 << 20, 500.0, 250.0, 0.5)},
        [wire("nvme", [("ssd", "host")], 1e6)],
    )
    graph = Graph("g", tensors({"x": 1000, "y": 1000}), ())
    reading = plan(graph, machine, [move("x", "ssd", "host")], {"x": "ssd"})
    writing = plan(graph, machine, [move("y", "host", "ssd")], {"y": "host"})
    assert run(reading, graph, machine).end == pytest.approx(0.5 + 2.0)
    assert run(writing, graph, machine).end == pytest.approx(4.0)
    both = plan(graph, machine, [*reading.tasks, *writing.tasks], {"x": "ssd", "y": "host"})
    assert run(both, graph, machine).end == pytest.approx(4.0)


@BOTH
def test_unified_memory_needs_no_transfer(run: Run) -> None:
    machine = system(
        {"gpu": gpu("gpu", None), "cpu": cpu("cpu", None), "dram": cpu("dram", ram(1 << 20, 1e6))},
        works_in={"gpu": "dram", "cpu": "dram"},
    )
    graph = Graph("g", tensors({"x": 10, "y": 20}), (op("a", ["x"], ["y"]), op("b", ["y"], [])))
    made = plan(graph, machine, [run_task("a", "gpu"), run_task("b", "cpu")], {"x": "dram"})
    assert check(made, graph, machine) == []
    outcome = run(made, graph, machine)
    assert outcome.end == 2.0
    assert outcome.ledger.peak_bytes("dram") == 30


def ranks_of(count: int, shape: str) -> tuple[object, list[str]]:
    names = [f"gpu{i}" for i in range(count)]
    devices: dict[str, object] = {name: gpu(name, ram(1 << 20, 1e9)) for name in names}
    if shape == "switch":
        devices["switch"] = crossing("switch")
        wires = [wire(f"{n}-s", [(n, "switch")], 1000.0, 0.01) for n in names]
    else:
        wires = [
            wire(f"{a}-{b}", [(a, b)], 1000.0, 0.02) for i, a in enumerate(names) for b in names[i + 1 :]
        ]
    return system(devices, wires), names  # type: ignore[arg-type]


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("shape", ["switch", "mesh"])
@pytest.mark.parametrize("algorithm", ["ring", "tree"])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"])
def test_collectives_take_their_alpha_beta_time(
    run: Run, count: int, shape: str, algorithm: str, kind: str
) -> None:
    """On a switch with a port per rank, and on a mesh, no message of a step shares a direction of a wire."""
    from simulator.cost.collective import schedule

    machine, names = ranks_of(count, shape)
    size = 840
    sizes = {f"{part}{i}": 8 for part in "io" for i in range(count)}
    collective = operator_of(
        kind,
        name="c",
        inputs=tuple(f"i{i}" for i in range(count)),
        outputs=tuple(f"o{i}" for i in range(count)),
        bytes=size,
    )
    graph = Graph("g", tensors(sizes), (collective,))
    tasks = [Collective(f"c@{n}", f"{n}.compute", "c", n, tuple(names)) for n in names]
    made = plan(graph, machine, tasks, {f"i{i}": n for i, n in enumerate(names)})
    assert check(made, graph, machine) == []
    outcome = run(made, graph, machine, algorithm)
    check_phase(outcome, graph, machine, CostTable(machine, GivenSeconds(), algorithm))
    form = schedule(kind, algorithm, count, size)
    assert outcome.end == pytest.approx(form.seconds(1000.0, 0.02), rel=1e-6)
    assert sum(r.moved_bytes for r in outcome.records) == form.total_bytes
    assert sum(r.received_bytes for r in outcome.records) == form.total_bytes


# Memory: what fits exactly runs, one byte less does not, and the message says why.

TIGHT = Graph(
    "tight",
    tensors({"x": 100, "w": 1000, "a": 300, "b": 200}, {"w": Role.WEIGHT}),
    (op("one", ["x", "w"], ["a"]), op("two", ["a"], ["b"])),
    ("b",),
)


@BOTH
def test_exactly_the_footprint_runs_and_a_byte_less_does_not(run: Run) -> None:
    homes = {"x": "gpu0", "w": "gpu0"}
    need = 1000 + 300 + 200
    assert alone(TIGHT, homes, run, capacity=need).ledger.peak_bytes("gpu0") == need
    with pytest.raises(InfeasibleError) as error:
        alone(TIGHT, homes, run, capacity=need - 1)
    text = str(error.value)
    assert error.value.exit_code == 3
    for part in (
        "out of memory at two",
        "gpu0",
        "short by 1 B",
        "weight",
        "activation",
        "w ",
        "what could help",
        "--tp",
    ):
        assert part in text, (part, text)


@BOTH
def test_homes_may_fill_their_memory(run: Run) -> None:
    graph = Graph("g", tensors({"x": 60, "w": 40}, {"w": Role.WEIGHT}), (op("o", ["x", "w"]),))
    assert alone(graph, {"x": "gpu0", "w": "gpu0"}, run, capacity=100).ledger.peak_bytes("gpu0") == 100


@BOTH
def test_homes_that_do_not_fit_are_told_at_the_start(run: Run) -> None:
    with pytest.raises(InfeasibleError, match=r"out of memory at the start: gpu0 .* short by 1 B"):
        alone(TIGHT, {"x": "gpu0", "w": "gpu0"}, run, capacity=1099)


def test_a_blocked_prefetch_does_not_block_who_would_make_room() -> None:
    """The list order fits, so the plan runs: 'use0' may take its bytes although 'w1' waits for more."""
    graph = Graph(
        "g",
        tensors({"w0": 60, "w1": 60, "y": 20, "z": 20}, {"w0": Role.WEIGHT, "w1": Role.WEIGHT}),
        (op("pause", seconds=5.0), op("use0", ["w0"], ["y"]), op("use1", ["w1", "y"], ["z"])),
        ("z",),
    )
    machine = two_gpus(capacity=100)
    tasks = [
        move("w0", "host", "gpu0"), run_task("pause", "gpu0"), run_task("use0", "gpu0"),
        move("w1", "host", "gpu0"), run_task("use1", "gpu0"),
    ]  # fmt: skip
    made = plan(graph, machine, tasks, {"w0": "host", "w1": "host"})
    assert check(made, graph, machine) == []
    outcome = event_run(made, graph, machine)
    assert spans(outcome)["use0"] == (5.0, 6.0)
    assert outcome.end == pytest.approx(6 + 0.06 + 1)


# Physics: a cost model that cheats is caught by the name of the operator.


class Cheating(GivenSeconds):
    def __init__(self, **changes: float) -> None:
        self.changes = changes

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        honest = super().cost(operator, node, memory)
        return replace(honest, **self.changes) if operator.name == "liar" else honest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_energy_j": -1.0}, "operator 'liar' has negative energy"),
        ({"memory_energy_j": -1e-9}, "operator 'liar' has negative energy"),
        ({"seconds": 0.5}, "operator 'liar' took 0.5 s, below its roof of 1 s"),
        ({"read_bytes": 3_000_000}, "operator 'liar' took 1 s, below its roof of 3 s"),
        ({"seconds": float("nan")}, "operator 'liar'"),
        ({"seconds": -1.0}, "operator 'liar'"),
    ],
)
@BOTH
def test_a_cheating_cost_model_is_caught(run: Run, changes: dict[str, float], message: str) -> None:
    from simulator.system.bound_plan import bind

    flops = 1e11  # one second on the vector unit of the test devices
    work = (
        op("honest"),
        replace(operator_of("elementwise", flops, dtype="fp32", name="liar"), measured_s=1.0),
    )
    graph = Graph("g", {}, work)
    machine = two_gpus()
    made = plan(graph, machine, [run_task("honest", "gpu0"), run_task("liar", "gpu0")], {})
    costs = CostTable(machine, Cheating(**changes))
    from simulator.system.analytic import run_analytic
    from simulator.system.engine import run_events

    engine = run_events if run is event_run else run_analytic
    with pytest.raises(PhysicsError) as error:
        check_phase(engine(graph, bind(made, graph, machine), machine, costs), graph, machine, costs)
    assert message in str(error.value)


def test_waiting_for_ever_is_an_error_in_words() -> None:
    """A plan that the checker would refuse does not hang the engine."""
    graph = Graph(
        "g",
        tensors({"a": 1, "b": 1, "c": 1, "d": 1}),
        (op("c", ["a", "b"], ["c", "d"], kind="all_reduce", bytes=1),),
    )
    group = ("gpu0", "gpu1")
    tasks = [Collective(f"c@{i}", "same", "c", f"gpu{i}", group) for i in range(2)]
    made: Plan = plan(graph, two_gpus(), tasks, {"a": "gpu0", "b": "gpu1"})
    with pytest.raises(InputError, match="never finishes"):
        event_run(made, graph, two_gpus())


def test_the_first_five_of_those_who_wait_for_ever_are_named() -> None:
    graph = Graph(
        "g",
        tensors({"a": 1, "b": 1, "c": 1, "d": 1}),
        (op("c", ["a", "b"], ["c", "d"], kind="all_reduce", bytes=1), *(op(f"o{n}") for n in range(4))),
    )
    group = ("gpu0", "gpu1")
    tasks = [
        *(Collective(f"c@{i}", "same", "c", f"gpu{i}", group) for i in range(2)),
        *(run_task(f"o{n}", "gpu0", "same") for n in range(4)),
    ]
    made = plan(graph, two_gpus(), tasks, {"a": "gpu0", "b": "gpu1"})
    with pytest.raises(
        InputError, match=r"^the plan never finishes: 6 tasks wait, first c@0, c@1, o0, o1, o2$"
    ):
        event_run(made, graph, two_gpus())


def test_a_round_of_a_collective_takes_the_latency_of_each_hop() -> None:
    machine = load_system("dgx-h100")
    first, second = (node.name for node in machine.workers()[:2])
    costs = CostTable(machine, Cheating())
    nodes = machine.nodes
    path = costs.path(nodes[first].memory or first, nodes[second].memory or second)
    assert path.latency_s > 0
    sends = ((first, second, 10**9),)
    one, three = (costs.seconds_alone((Round(hops, sends),)) for hops in (1, 3))
    narrowest = min(costs.capacity[name] for name in path.load)
    assert one == pytest.approx(path.latency_s + 1e9 / narrowest)
    assert three - one == pytest.approx(2 * path.latency_s)
