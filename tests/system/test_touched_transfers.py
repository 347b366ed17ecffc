"""Transfers of what is touched: the engines move and hold those bytes, the checker lets nobody read more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import GivenSeconds, op, run_task, two_gpus

from hw_configs.problems import InputError
from simulator.check import check
from simulator.plan import Home, Plan, Task, Transfer
from simulator.plan_file import plan_from_json
from simulator.system.analytic import run_analytic
from simulator.system.bound_plan import bind
from simulator.system.costs import CostTable
from simulator.system.engine import run_events
from workloads.graph import Graph, Operator, Role, Tensor

BANDWIDTH = 1000.0
Step = tuple[int, int, list[int]]
"""Bytes of a weight, bytes that its reader touches, and the parts in which they come."""


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.integers(2, 900))
        touched = draw(st.integers(1, size - 1))
        first = draw(st.integers(1, touched))
        rest = touched - first
        parts = [first] + ([rest + draw(st.integers(0, size - touched))] if rest else [])
        found.append((size, touched, parts))
    return found


def case(items: list[Step]) -> tuple[Graph, Plan]:
    """Operators one after another, each of which reads its weight in part, in one stream."""
    tensors = {f"w{i}": Tensor(f"w{i}", (size,), "int8", Role.WEIGHT) for i, (size, _, _) in enumerate(items)}
    operators, tasks = list[Operator](), list[Task]()
    for i, (_, touched, parts) in enumerate(items):
        tensors[f"y{i}"] = Tensor(f"y{i}", (1,), "int8")
        inputs = (f"w{i}", f"y{i - 1}") if i else (f"w{i}",)
        reads = (touched, 1) if i else (touched,)
        operators.append(
            replace(op(f"o{i}", inputs, (f"y{i}",), 0.5), reads=reads, writes=(1,), beside_read=0)
        )
        tasks += [
            Transfer(f"m{i}.{n}", "s", f"w{i}", "host", "gpu0", touched_bytes=part)
            for n, part in enumerate(parts)
        ]
        tasks.append(run_task(f"o{i}", "gpu0", stream="s"))
    graph = Graph("g", tensors, tuple(operators), (f"y{len(items) - 1}",))
    homes = {f"w{i}": (Home("host"),) for i in range(len(items))}
    return graph, Plan("g", "test", "by hand", tuple(tasks), homes)


@settings(max_examples=60, deadline=None)
@given(steps())
def test_engines_move_and_hold_what_is_touched(items: list[Step]) -> None:
    graph, plan = case(items)
    machine = two_gpus(bandwidth=BANDWIDTH, memory_bandwidth=1e9)
    assert check(plan, graph, machine) == []
    # On paper: one thing after another, and in a moment what has come of one weight and two results.
    seconds = sum(sum(parts) / BANDWIDTH + 0.5 for _, _, parts in items)
    most = max(sum(parts) + (2 if i else 1) for i, (_, _, parts) in enumerate(items))
    for run in (run_events, run_analytic):
        done = run(graph, bind(plan, graph, machine), machine, CostTable(machine, GivenSeconds()))
        assert done.carried_bytes["up0<"] + done.carried_bytes.get("up0>", 0.0) == sum(
            sum(p) for _, _, p in items
        )
        assert done.end == pytest.approx(seconds, rel=1e-6)
        assert done.ledger.peak_bytes("gpu0") == most
        assert done.ledger.used["gpu0"] == 0


@settings(max_examples=40, deadline=None)
@given(steps(), st.data())
def test_nobody_reads_more_than_came(items: list[Step], data: st.DataObject) -> None:
    graph, plan = case(items)
    machine = two_gpus()
    chosen = data.draw(st.integers(0, len(items) - 1))
    touched = items[chosen][1]
    short = [touched - 1] if touched > 1 else []
    tasks = [t for t in plan.tasks if not (isinstance(t, Transfer) and t.tensor == f"w{chosen}")]
    place = next(n for n, t in enumerate(tasks) if t.name == f"o{chosen}")
    tasks[place:place] = [
        Transfer(f"m{chosen}.{n}", "s", f"w{chosen}", "host", "gpu0", touched_bytes=p)
        for n, p in enumerate(short)
    ]
    told = [str(v) for v in check(replace(plan, tasks=tuple(tasks)), graph, machine)]
    assert len(told) == 1
    assert (f"reads {touched} bytes of 'w{chosen}', of which 'gpu0' holds {touched - 1}" in told[0]) == bool(
        short
    )


def told(*tasks: Task, updates: bool = False) -> list[str]:
    """What the checker says of transfers of a weight of 100 bytes before an operator that touches 40 of it."""
    weight = Tensor("w", (100,), "int8", Role.WEIGHT)
    graph_op = replace(
        op("o", ("w",), ("y",), updates=("w",) if updates else ()), reads=(40,) * (1 + updates)
    )
    graph = Graph("g", {"w": weight, "y": Tensor("y", (1,), "int8")}, (graph_op,), ("y",))
    plan = Plan("g", "test", "by hand", (*tasks, run_task("o", "gpu0")), {"w": (Home("host"),)})
    return [v.message for v in check(plan, graph, two_gpus())]


def part(name: str, size: int, source: str = "host", target: str = "gpu0", **more: object) -> Transfer:
    return Transfer(name, "s", "w", source, target, touched_bytes=size, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        ([part("a", 40)], None),
        ([part("a", 30), part("b", 10)], None),
        ([part("a", 101)], "brings 101 bytes of 'w', which has 100"),
        ([part("a", -1)], "has touched_bytes -1"),
        ([part("a", 40), part("b", 0)], "brings all of 'w' to 'gpu0', where a part of it is"),
        ([part("a", 0), part("b", 40)], "brings a part of 'w' to 'gpu0', where all of it is"),
        ([part("a", 100), part("b", 1)], "where every byte of it has come"),
        ([part("a", 40), part("b", 9, addresses={"w": 0})], "beside another; only the first has an address"),
        ([part("a", 30, target="gpu1"), part("b", 40, "gpu1", "gpu0")], "brings 40 bytes of 'w'; 'gpu1' holds 30"),
        ([part("a", 30, target="gpu1"), part("b", 0, "gpu1", "gpu0")], "brings 100 bytes of 'w'; 'gpu1' holds 30"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_are_told(tasks: list[Task], found: str | None) -> None:
    messages = told(*tasks)
    if any(isinstance(t, Transfer) and "gpu1" in (t.source, t.target) for t in tasks):
        messages = [message for message in messages if "no link path" not in message]
    assert (messages == []) if found is None else any(found in message for message in messages), messages


def test_a_part_is_not_updated() -> None:
    assert any(
        "updates 'w' in 'gpu0', where only a part of it is" in m for m in told(part("a", 60), updates=True)
    )


def test_a_part_at_planned_bytes_shares_none_of_them() -> None:
    """The first part's own bytes count, not those of the whole tensor."""
    tensors = {n: Tensor(n, (100,), "int8", Role.WEIGHT) for n in ("v", "w")} | {
        "y": Tensor("y", (1,), "int8")
    }
    both = replace(op("o", ("v", "w"), ("y",)), reads=(40, 40))
    graph = Graph("g", tensors, (both,), ("y",))

    def plan(second: int) -> Plan:
        tasks = (
            Transfer("a", "s", "v", "host", "gpu0", touched_bytes=40, addresses={"v": 0}),
            Transfer("b", "s", "w", "host", "gpu0", touched_bytes=40, addresses={"w": second}),
            run_task("o", "gpu0"),
        )
        return Plan("g", "test", "by hand", tasks, {"v": (Home("host"),), "w": (Home("host"),)})

    assert check(plan(40), graph, two_gpus()) == []
    assert any("shares bytes" in v.message for v in check(plan(39), graph, two_gpus()))


def test_plan_files_hold_touched_bytes_and_refuse_what_is_none() -> None:
    plan = Plan("g", "s", "by hand", (part("a", 1 << 40),), {})
    assert plan_from_json(plan.to_json(), "plan.json").tasks == plan.tasks
    data = plan.to_json()
    for wrong in (-1, 1.5, "all", True, 1 << 61):
        data["tasks"][0]["touched_bytes"] = wrong
        with pytest.raises(InputError, match=r"tasks\.0\.touched_bytes: expected a whole number"):
            plan_from_json(data, "plan.json")
