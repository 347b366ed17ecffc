"""Whatever is wrong with a plan, the checker says so and names the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from machines import (
    analytic_run,
    cpu,
    crossing,
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
from oracle import data_is_right, lives
from random_plans import Case, cases

from hw_configs.library import load_system
from hw_configs.problems import InputError
from hw_configs.system import System
from simulator.check import check
from simulator.plan import Collective, Compute, Home, Plan, Task
from simulator.plan_file import plan_from_json
from simulator.system.bound_plan import bind
from tests.typed import operator_of
from workloads.graph import Graph, Operator, Role

MACHINE = two_gpus()
ROLES = {"w": Role.WEIGHT, "cache": Role.KV_CACHE}
GRAPH = Graph(
    "small",
    tensors({"x": 8, "w": 64, "cache": 16, "a": 8, "b": 8, "p": 8, "q": 8, "sum0": 8, "sum1": 8}, ROLES),
    (
        op("first", ["x", "w"], ["a"]),
        op("second", ["a"], ["b"], updates=["cache"]),
        op("left", ["b"], ["p"]),
        op("right", ["b"], ["q"]),
        op("reduce", ["p", "q"], ["sum0", "sum1"], kind="all_reduce", bytes=8, group=2),
        op("third", ["sum0", "cache", "w"], []),
    ),
    ("sum1",),
)
GROUP = ("gpu0", "gpu1")
TASKS = (
    run_task("first", "gpu0"),
    run_task("second", "gpu0"),
    run_task("left", "gpu0"),
    move("b", "gpu0", "gpu1"),
    run_task("right", "gpu1"),
    Collective("reduce@0", "gpu0.compute", "reduce", "gpu0", GROUP),
    Collective("reduce@1", "gpu1.compute", "reduce", "gpu1", GROUP),
    run_task("third", "gpu0"),
)
GOOD = plan(GRAPH, MACHINE, TASKS, {"x": "gpu0", "w": "gpu0", "cache": "gpu0"})


def with_task(which: str, /, **changes: object) -> Plan:
    tasks = tuple(replace(t, **changes) if t.name == which else t for t in GOOD.tasks)  # type: ignore[arg-type]
    return replace(GOOD, tasks=tasks)


def without(name: str) -> Plan:
    return replace(GOOD, tasks=tuple(t for t in GOOD.tasks if t.name != name))


def inserted(at: int, *tasks: Task, plan: Plan = GOOD) -> Plan:
    return replace(plan, tasks=(*plan.tasks[:at], *tasks, *plan.tasks[at:]))


def with_home(tensor: str, *homes: Home) -> Plan:
    return replace(GOOD, homes={**GOOD.homes, tensor: homes})


def swapped(one: int, other: int) -> Plan:
    tasks = list(GOOD.tasks)
    tasks[one], tasks[other] = tasks[other], tasks[one]
    return replace(GOOD, tasks=tuple(tasks))


AGAIN = replace(run_task("second", "gpu0"), name="again")
BAD: dict[str, tuple[Plan, str, str]] = {
    "unknown tensor at home": (with_home("wx", Home("gpu0")), "homes.wx", "unknown tensor"),
    "unknown memory at home": (with_home("w", Home("gpu9")), "homes.w", "did you mean"),
    "two homes in one memory": (with_home("w", Home("gpu0"), Home("gpu0")), "homes.w", "two homes"),
    "home of a made tensor": (with_home("a", Home("gpu1")), "homes.a", "is made by 'first'"),
    "two tasks of one name": (with_task("second", name="first"), "first", "two tasks have this name"),
    "waits for a later task": (with_task("first", after=("third",)), "first", "does not stand before"),
    "waits for itself": (with_task("first", after=("first",)), "first", "does not stand before"),
    "unknown operator": (with_task("first", operator="frist"), "first", "did you mean 'first'"),
    "unknown device": (with_task("first", device="gpu2"), "first", "unknown device"),
    "device does not compute": (
        with_task("first", device="switch"), "first", "unknown device",
    ),
    "unknown tensor moved": (with_task("move b to gpu1", tensor="bb"), "move b to gpu1", "unknown tensor"),
    "unknown source": (with_task("move b to gpu1", source="gpu7"), "move b to gpu1", "unknown memory"),
    "copy to itself": (with_task("move b to gpu1", target="gpu0"), "move b to gpu1", "to itself"),
    "frees what is unknown": (with_task("first", frees=(("zz", "gpu0"),)), "first", "not a tensor"),
    "frees what is not there": (with_task("first", frees=(("w", "host"),)), "first", "where it is not"),
    "operator missing": (without("right"), "right", "no task runs"),
    "transfer missing": (without("move b to gpu1"), "right", "needs 'b' in 'gpu1', but it is in gpu0"),
    "dependent tasks swapped": (swapped(0, 1), "second", "runs before 'first'"),
    "group not together": (inserted(6, move("w", "gpu0", "host")), "reduce@0", "does not stand next to it"),
    "group out of order": (swapped(5, 6), "reduce@1", "does not stand next to it"),
    "group without a part": (without("reduce@1"), "reduce@0", "does not stand next to it"),
    "group empty": (with_task("reduce@0", group=()), "reduce@0", "does not stand next to it"),
    "ranks on one stream": (with_task("reduce@1", stream="gpu0.compute"), "reduce@0", "never meet"),
    "rank waits for rank": (with_task("reduce@1", after=("reduce@0",)), "reduce@1", "another rank"),
    "not a collective": (
        inserted(
            8,
            Collective("m0", "s0", "left", "gpu0", ("gpu0", "gpu1")),
            Collective("m1", "s1", "left", "gpu1", ("gpu0", "gpu1")),
        ),
        "m0", "no collective",
    ),
    "update applied twice": (inserted(2, AGAIN), "again", "updates tensors in place"),
    "stale copy read": (
        inserted(
            1, move("cache", "gpu0", "gpu1"), plan=inserted(8, move("cache", "gpu1", "host", name="keep"))
        ),
        "keep", "reads a stale copy of 'cache' in 'gpu1'",
    ),
    "home given up": (with_task("third", frees=(("w", "gpu0"),)), "w", "not back in its home"),
    "output dropped": (with_task("third", frees=(("sum1", "gpu1"),)), "sum1", "is an output"),
    "address of another's tensor": (with_task("first", addresses={"b": 0}), "first", "does not make"),
    "compute with a source": (with_task("first", source="host"), "first", "names the source 'host'"),
    "negative chunks": (with_task("move b to gpu1", chunk_bytes=-1), "move b to gpu1", "has chunk_bytes -1"),
    "negative readers": (with_task("move b to gpu1", readers=-2), "move b to gpu1", "has readers -2"),
    "negative address": (with_task("first", addresses={"a": -1}), "first", "places 'a' at byte -1"),
    "negative address at home": (with_home("w", Home("gpu0", -8)), "homes.w", "has the address -8"),
    "unknown target": (with_task("move b to gpu1", target="gpu7"), "move b to gpu1", "unknown memory 'gpu7'"),
    "a device that is none": (with_task("first", device="gpu00"), "first", "did you mean 'gpu0'"),
    "kernel of an unknown operator": (
        replace(GOOD, kernels={"frist": {}}), "kernels.frist", "unknown operator (did you mean 'first'?)",
    ),
    "streams from its own memory": (
        with_task("first", streamed=("w",), source="gpu0"), "first", "streams from 'gpu0', which is no memory outside",
    ),
    "faults of chunks": (
        with_task("move b to gpu1", faults=True, chunk_bytes=4), "move b to gpu1", "comes on faults, which know no",
    ),
    "placed where it is not": (
        inserted(
            4, move("b", "gpu0", "gpu1", name="once more", addresses={"b": 64}),
            plan=with_task("move b to gpu1", addresses={"b": 0}),
        ),
        "once more", "places 'b' at byte 64 of 'gpu1', where it already is elsewhere",
    ),
    "address beyond the end": (with_task("first", addresses={"a": 1 << 20}), "a", "ends at byte"),
}  # fmt: skip


def test_the_plan_that_is_changed_below_is_right() -> None:
    assert check(GOOD, GRAPH, MACHINE) == []
    assert data_is_right(GOOD, GRAPH, MACHINE)


@pytest.mark.parametrize("what", BAD)
def test_each_fault_is_named(what: str) -> None:
    bad, task, message = BAD[what]
    found = check(bad, GRAPH, MACHINE)
    assert any(v.task == task and message in v.message for v in found), [str(v) for v in found]


@pytest.mark.parametrize(("address", "fits"), [((1 << 20) - 8, True), ((1 << 20) - 7, False)])
def test_the_last_byte_of_a_memory_can_be_used_and_the_next_cannot(address: int, fits: bool) -> None:
    """'a' is eight bytes long."""
    found = check(with_task("first", addresses={"a": address}), GRAPH, MACHINE)
    assert found == [] if fits else "ends at byte 1048577" in str(found[0])


@pytest.mark.parametrize(
    ("address", "clash"), [(7, True), (8, False), (72, False), (73, True), (95, True), (96, False)]
)
def test_a_byte_is_shared_exactly_when_addresses_say_so(address: int, clash: bool) -> None:
    """In 'gpu0' lie 'x' in bytes 0 to 7, 'cache' in 80 to 95 and 'w' in 200 to 263; 'a' is 8 bytes long."""
    homes = {"x": (Home("gpu0", 0),), "cache": (Home("gpu0", 80),), "w": (Home("gpu0", 200),)}
    made = replace(with_task("first", addresses={"a": address}), homes={**GOOD.homes, **homes})
    found = [str(v) for v in check(made, GRAPH, MACHINE)]
    assert bool(found) == clash, found
    assert all("shares bytes of 'gpu0'" in message for message in found)


READ_THEN_UPDATE = Graph(
    "g",
    tensors({"cache": 8, "a": 8}, ROLES),
    (op("read", ["cache"], ["a"], 3.0), op("add", updates=["cache"]), op("use", ["a", "cache"], [])),
)


def test_an_update_in_place_stands_after_the_readers_of_what_it_overwrites() -> None:
    """Program order decides: 'read' is to see the old value, 'use' the new one."""
    assert READ_THEN_UPDATE.dependencies == {"read": (), "add": ("read",), "use": ("read", "add")}
    order = [run_task("add", "gpu0"), run_task("read", "gpu0"), run_task("use", "gpu0")]
    found = check(plan(READ_THEN_UPDATE, MACHINE, order, {"cache": "gpu0"}), READ_THEN_UPDATE, MACHINE)
    assert [str(v) for v in found] == ["add: runs before 'read', on which it depends"]


def test_an_update_waits_for_the_update_before_it_and_for_who_made_the_tensor() -> None:
    graph = Graph(
        "g",
        tensors({"grad": 8}),
        (op("make", [], ["grad"]), op("one", updates=["grad"]), op("two", updates=["grad"])),
    )
    assert graph.dependencies == {"make": (), "one": ("make",), "two": ("make", "one")}
    order = [run_task("make", "gpu0"), run_task("two", "gpu0"), run_task("one", "gpu0")]
    found = check(plan(graph, MACHINE, order, {}), graph, MACHINE)
    assert [str(v) for v in found] == ["two: runs before 'one', on which it depends"]


def test_an_update_waits_at_run_time_for_readers_on_other_streams() -> None:
    """The reader takes three seconds on a processor of its own; the update may not start before its end."""
    machine = system(
        {"gpu": gpu("gpu", None), "cpu": cpu("cpu", None), "dram": cpu("dram", ram(1 << 20, 1e6))},
        works_in={"gpu": "dram", "cpu": "dram"},
    )
    tasks = [run_task("read", "cpu"), run_task("add", "gpu"), run_task("use", "gpu")]
    made = plan(READ_THEN_UPDATE, machine, tasks, {"cache": "dram"})
    assert check(made, READ_THEN_UPDATE, machine) == []
    assert bind(made, READ_THEN_UPDATE, machine).waits[1] == (0,)
    for run in (event_run, analytic_run):
        assert spans(run(made, READ_THEN_UPDATE, machine))["add"] == (3.0, 4.0)


def collective_plan(operator: Operator, machine: System = MACHINE) -> tuple[Plan, Graph]:
    """Two ranks of a collective over what each GPU was given."""
    graph = Graph("c", tensors({"p": 8, "q": 8, "r": 8, "s": 8, "t": 8}), (operator,))
    tasks = [Collective(f"c@{n}", f"{n}.compute", "c", n, GROUP) for n in GROUP]
    return plan(graph, machine, tasks, {"p": "gpu0", "q": "gpu1", "r": "gpu1"}), graph


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (
            op("c", ["p", "q", "r"], ["s", "t"], kind="all_reduce", bytes=8),
            "2 ranks cannot share the tensors",
        ),
        (op("c", ["p", "q"], ["s"], kind="all_reduce", bytes=8), "2 ranks cannot share the tensors"),
        (
            op("c", ["p", "q"], ["s", "t"], updates=["r"], kind="all_reduce", bytes=8),
            "a collective makes new ones",
        ),
    ],
)
def test_a_collective_that_ranks_cannot_run_together_is_refused(operator: Operator, message: str) -> None:
    made, graph = collective_plan(operator)
    assert any(v.task == "c@gpu0" and message in v.message for v in check(made, graph, MACHINE))


def test_ranks_that_no_links_join_never_meet() -> None:
    operator = op("c", ["p", "q"], ["s", "t"], kind="all_reduce", bytes=8)
    made, graph = collective_plan(operator)
    assert check(made, graph, MACHINE) == []
    found = check(made, graph, replace(MACHINE, wires={}))
    assert [str(v) for v in found] == ["c@gpu0: no link path joins 'gpu0' to 'gpu1'"]


def test_a_device_that_does_not_compute_runs_nothing() -> None:
    """A switch has neither arithmetic nor a memory."""
    machine = system(
        {"gpu0": gpu("gpu0", ram(1 << 20, 1e6)), "switch": crossing("switch")},
        [wire("w", [("gpu0", "switch")], 1e3)],
    )
    graph = Graph("g", {}, (op("o"),))
    found = check(plan(graph, machine, [run_task("o", "switch")], {}), graph, machine)
    assert [str(v) for v in found] == ["o: device 'switch' does not compute"]


def test_more_streams_of_transfers_than_a_scratchpad_has_engines() -> None:
    machine = load_system("edge-tpu-board")
    graph = Graph("g", tensors(dict.fromkeys("xyz", 8)), ())
    tasks = [move(name, "dram", "accelerator", f"dma{name}") for name in "xyz"]
    found = check(plan(graph, machine, tasks, dict.fromkeys("xyz", "dram")), graph, machine)
    assert [str(v) for v in found] == [
        "move z to accelerator: moves bytes on a stream beyond the 2 DMA engines of 'accelerator'"
    ]
    assert check(plan(graph, machine, tasks[:2], dict.fromkeys("xyz", "dram")), graph, machine) == []


@pytest.mark.parametrize(("address", "clash"), [(0, True), (8, False)])
def test_a_copy_that_is_freed_held_its_bytes_until_then(address: int, clash: bool) -> None:
    """'a' is made beside 'x' and freed by the task that reads it."""
    freed = with_task("second", frees=(("a", "gpu0"),))
    tasks = tuple(replace(t, addresses={"a": address}) if t.name == "first" else t for t in freed.tasks)
    made = replace(freed, tasks=tasks, homes={**GOOD.homes, "x": (Home("gpu0", 0),)})
    assert bool(check(made, GRAPH, MACHINE)) == clash


def test_a_home_updated_elsewhere_is_stale() -> None:
    tasks = [move("cache", "gpu0", "gpu1"), run_task("add", "gpu1")]
    graph = Graph("g", tensors({"cache": 8}, ROLES), (op("add", updates=["cache"]),))
    away = plan(graph, MACHINE, tasks, {"cache": "gpu0"})
    assert [str(v) for v in check(away, graph, MACHINE)] == [
        "cache: was updated elsewhere and is stale in its home 'gpu0'"
    ]
    back = replace(away, tasks=(*tasks, move("cache", "gpu1", "gpu0")))
    assert check(back, graph, MACHINE) == []


def test_recomputing_from_a_changed_input_is_refused() -> None:
    graph = Graph(
        "g",
        tensors({"cache": 8, "a": 8}, ROLES),
        (op("read", ["cache"], ["a"]), op("add", updates=["cache"])),
    )
    tasks = [
        run_task("read", "gpu0"),
        run_task("add", "gpu0"),
        replace(run_task("read", "gpu0"), name="again"),
    ]
    found = check(plan(graph, MACHINE, tasks, {"cache": "gpu0"}), graph, MACHINE)
    assert [v.task for v in found] == ["again"]
    assert "has changed" in found[0].message


def test_recomputing_an_updated_tensor_makes_its_first_value() -> None:
    graph = Graph(
        "g",
        tensors({"grad": 8}),
        (op("make", [], ["grad"]), op("more", [], [], updates=["grad"]), op("use", ["grad"])),
    )
    tasks = [
        run_task("make", "gpu0"),
        run_task("more", "gpu0"),
        replace(run_task("make", "gpu0"), name="again"),
    ]
    found = check(plan(graph, MACHINE, [*tasks, run_task("use", "gpu0")], {}), graph, MACHINE)
    assert "reads a stale copy of 'grad'" in " ".join(str(v) for v in found)


def test_no_link_no_transfer() -> None:
    machine = replace(MACHINE, wires={})
    found = check(GOOD, GRAPH, machine)
    assert {v.task for v in found} == {"move b to gpu1"}
    assert "no link path" in found[0].message


def test_a_tensor_read_twice_by_one_operator_is_reported_once_or_twice_but_not_refused() -> None:
    graph = Graph("g", tensors({"x": 8}), (op("square", ["x", "x"]),))
    assert check(plan(graph, MACHINE, [run_task("square", "gpu0")], {"x": "gpu0"}), graph, MACHINE) == []


def _drop(case: Case, pick: Callable[[int], int]) -> Plan:
    tasks = list(case.plan.tasks)
    tasks.pop(pick(len(tasks)))
    return replace(case.plan, tasks=tuple(tasks))


def _swap(case: Case, pick: Callable[[int], int]) -> Plan:
    tasks = list(case.plan.tasks)
    one, other = pick(len(tasks)), pick(len(tasks))
    tasks[one], tasks[other] = tasks[other], tasks[one]
    return replace(case.plan, tasks=tuple(replace(task, after=()) for task in tasks))


def _elsewhere(case: Case, pick: Callable[[int], int]) -> Plan:
    tasks, places = list(case.plan.tasks), list(case.system.memories)
    index, place = pick(len(tasks)), places[pick(len(places))]
    task = tasks[index]
    if task.kind == "transfer":
        tasks[index] = replace(task, target=place)
    elif task.kind == "compute" and case.system.nodes[place].compute is not None:
        tasks[index] = replace(task, device=place)
    return replace(case.plan, tasks=tuple(tasks))


def _free(case: Case, pick: Callable[[int], int]) -> Plan:
    tasks, names, places = list(case.plan.tasks), list(case.graph.tensors), list(case.system.memories)
    assume(names)
    index, freed = pick(len(tasks)), (names[pick(len(names))], places[pick(len(places))])
    tasks[index] = replace(tasks[index], frees=(*tasks[index].frees, freed))
    return replace(case.plan, tasks=tuple(tasks))


def _rehome(case: Case, pick: Callable[[int], int]) -> Plan:
    names, places = list(case.graph.tensors), list(case.system.memories)
    assume(names)
    homes = {**case.plan.homes, names[pick(len(names))]: (Home(places[pick(len(places))]),)}
    return replace(case.plan, homes=homes)


def _repeat(case: Case, pick: Callable[[int], int]) -> Plan:
    tasks = list(case.plan.tasks)
    again = replace(tasks[pick(len(tasks))], name="repeated", after=())
    tasks.insert(pick(len(tasks) + 1), again)
    return replace(case.plan, tasks=tuple(tasks))


MUTATIONS = [_drop, _swap, _elsewhere, _free, _rehome, _repeat]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from(MUTATIONS), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_makes_a_plan_wrong_is_caught(
    case: Case, mutate: Callable[[Case, Callable[[int], int]], Plan], one: int, other: int
) -> None:
    assume(case.plan.tasks)
    numbers = iter([one, other, one + other])
    changed = mutate(case, lambda count: next(numbers) % count)
    assume(all(t.kind != "transfer" or t.source != t.target for t in changed.tasks))
    wrong = not data_is_right(changed, case.graph, case.system)
    found = check(changed, case.graph, case.system)
    if wrong:
        assert found
    if not found:
        bind(changed, case.graph, case.system)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(lanes=1), st.randoms(use_true_random=False), st.booleans())
def test_addresses_clash_exactly_when_two_lives_share_bytes(case: Case, rng: object, packed: bool) -> None:
    """Addresses at random or packed; the answer is worked out pair by pair."""
    moment: list[int] = []
    for task in case.plan.tasks:
        at = len(moment)
        moment += [at] * (len(task.group) if task.kind == "collective" and at == len(moment) else 1)
    moment = moment[: len(case.plan.tasks)]
    tasks, homes = list(case.plan.tasks), dict(case.plan.homes)
    placed: list[tuple[str, int, int, int, int]] = []
    for life in lives(case.plan, case.graph, case.system):
        size = case.graph.tensors[life.tensor].size_bytes
        begin = -1 if life.home else life.written[0]
        end = len(tasks) if life.kept or not life.touched else max(life.touched)
        address = max((high for *_, high in placed), default=0) if packed else rng.randrange(0, 20_000)  # type: ignore[attr-defined]
        if life.home:
            homes[life.tensor] = tuple(
                replace(h, address=address) if h.memory == life.memory else h for h in homes[life.tensor]
            )
        else:
            task = tasks[begin]
            tasks[begin] = replace(task, addresses={**task.addresses, life.tensor: address})
        placed.append((life.memory, begin, end, address, address + size))
    collectives = any(task.kind == "collective" for task in tasks)
    assume(not collectives)
    clash = any(
        a[0] == b[0] and a[1] <= b[2] and b[1] <= a[2] and max(a[3], b[3]) < min(a[4], b[4])
        for i, a in enumerate(placed)
        for b in placed[i + 1 :]
    )
    changed = replace(case.plan, tasks=tuple(tasks), homes=homes)
    found = check(changed, case.graph, case.system)
    assert bool(found) == clash, [str(v) for v in found]
    if not found:
        event_run(changed, case.graph, case.system)


def test_an_unknown_operator_in_the_splits_is_refused() -> None:
    from simulator.plan import Split
    from simulator.rewrite.apply import rewrite

    bad = replace(GOOD, splits={"frist": Split("column", ("gpu0", "gpu1"))})
    with pytest.raises(InputError, match="first"):
        rewrite(GRAPH, bad)


def test_the_limit_is_kept() -> None:
    many = Graph(
        "many", tensors({"x": 8}), tuple(operator_of("view", name=f"o{i}", inputs=("x",)) for i in range(80))
    )
    empty = plan(many, MACHINE, [], {"x": "gpu0"})
    assert len(check(empty, many, MACHINE)) == 50
    assert len(check(empty, many, MACHINE, limit=7)) == 7


def test_a_source_that_nothing_streams_from_is_named() -> None:
    tasks = list(GOOD.tasks)
    assert isinstance(tasks[0], Compute)
    tasks[0] = replace(tasks[0], source="host")
    found = [str(violation) for violation in check(replace(GOOD, tasks=tuple(tasks)), GRAPH, MACHINE)]
    assert found == ["first: names the source 'host' and streams nothing from it"]


@pytest.mark.parametrize(
    ("name", "key", "value", "told"),
    [
        ("first", "target", "gpu1", "a compute task has no 'target'; a transfer task has"),
        ("first", "source", "gpu1", "a compute task has one only for 'streamed' inputs"),
        ("first", "group", ["gpu0"], "a compute task has no 'group'; a collective task has"),
        ("reduce@0", "source", "gpu0", "a collective task has no 'source'; a compute or transfer task has"),
        ("reduce@0", "streamed", ["w"], "a collective task has no 'streamed'; a compute task has"),
        ("move b to gpu1", "operator", "left", "a transfer task has no 'operator'; a compute or collective"),
        ("move b to gpu1", "device", "gpu0", "a transfer task has no 'device'"),
        ("first", "adresses", {"a": 0}, "did you mean 'addresses'"),
        ("first", "addresses", {"a": -1}, "integers of at least 0"),
    ],
)
def test_a_field_of_another_kind_of_task_is_refused_by_name(
    name: str, key: str, value: object, told: str
) -> None:
    data = GOOD.to_json()
    assert plan_from_json(data, "plan.json") == GOOD
    index = next(i for i, task in enumerate(data["tasks"]) if task["name"] == name)
    data["tasks"][index][key] = value
    with pytest.raises(InputError) as caught:
        plan_from_json(data, "plan.json")
    assert told in str(caught.value)
    assert f"tasks.{index}.{key}" in str(caught.value)
