"""The closed form by hand: what is booked when, and the times of rounds and of wires that overlap."""

from __future__ import annotations

import pytest
from machines import analytic_run, event_run, move, op, plan, run_task, tensors, two_gpus

from simulator.plan import Plan
from simulator.system.analytic import covered_seconds
from workloads.graph import Graph


def test_seconds_that_spans_cover() -> None:
    assert covered_seconds([]) == 0
    assert covered_seconds([(1.0, 3.0), (2.0, 4.0), (0.5, 1.5), (6.0, 7.0), (6.0, 6.5)]) == 4.5
    assert covered_seconds([(-3.0, -2.0), (-2.5, -1.0)]) == 2.0


def test_releases_come_before_what_begins_then() -> None:
    """x leaves at the moment at which c is made, by a task that stands after it in the list."""
    graph = Graph("g", tensors({"x": 2000, "c": 1500}), (op("w", seconds=2.0), op("c", [], ["c"])), ("c",))
    machine = two_gpus()
    tasks = [run_task("w", "gpu0"), run_task("c", "gpu0"), move("x", "gpu0", "host")]
    found = analytic_run(plan(graph, machine, tasks, {"x": "gpu0"}), graph, machine)
    assert found.ledger.entries["gpu0"] == [
        (0.0, "x", 2000),
        (2.0, "x", -2000),
        (2.0, "c", 1500),
        (3.0, "c", -1500),
    ]
    assert found.ledger.entries["host"] == [(0.0, "x", 2000), (2.0, "x", -2000)]
    assert found.ledger.peak_bytes("gpu0") == 2000


def test_a_task_without_time_allocates_before_it_lets_go() -> None:
    graph = Graph(
        "g", tensors({"a": 4, "b": 4}), (op("a", [], ["a"]), op("view", ["a"], ["b"], seconds=0.0)), ("b",)
    )
    machine = two_gpus()
    found = analytic_run(
        plan(graph, machine, [run_task("a", "gpu0"), run_task("view", "gpu0")], {}), graph, machine
    )
    assert found.ledger.entries["gpu0"] == [(0.0, "a", 4), (1.0, "b", 4), (1.0, "a", -4), (1.0, "b", -4)]


def crowded() -> tuple[Graph, Plan]:
    """Two copies of 8 bytes into 10: side by side they do not fit, one after the other they do."""
    graph = Graph(
        "g",
        tensors({"p": 6, "x": 8, "y": 8, "o": 1, "i": 1}),
        (op("make", [], ["p"]), op("use", ["p"]), op("first", ["x"], seconds=5.0), op("last", ["y", "i"], ["o"], 2.0)),
        ("o",),
    )  # fmt: skip
    machine = two_gpus(capacity=10)
    tasks = [
        run_task("make", "gpu0"), run_task("use", "gpu0"), move("x", "host", "gpu0", "c0", after=("use",)),
        run_task("first", "gpu0"), move("y", "host", "gpu0", "c1", after=("use",)), run_task("last", "gpu0"),
    ]  # fmt: skip
    return graph, plan(graph, machine, tasks, {"x": "host", "y": "host", "i": "gpu0"})


def test_what_only_fits_in_list_order_is_booked_in_list_order() -> None:
    """The clock of the books never goes back: y is booked when x has gone, at the end of its reader."""
    graph, made = crowded()
    found = analytic_run(made, graph, two_gpus(capacity=10))
    entries = found.ledger.entries["gpu0"]
    assert [entry[1:] for entry in entries] == [
        ("i", 1), ("p", 6), ("p", -6), ("x", 8), ("x", -8), ("y", 8), ("o", 1), ("i", -1), ("y", -8), ("o", -1),
    ]  # fmt: skip
    assert [entry[0] for entry in entries] == pytest.approx(
        [0, 0, 2, 2, 7.008, 7.008, 7.008, 9.008, 9.008, 9.008]
    )
    assert found.end == pytest.approx(9.008)
    assert found.ledger.peak_bytes("gpu0") == 10


def test_who_waits_for_the_same_bytes_goes_on_at_the_same_moment() -> None:
    """a holds 12 of 16 bytes until 3 s; then both copies that wait begin, not only the first of them."""
    graph = Graph(
        "g",
        tensors({"a": 12, "x": 5, "y": 5}),
        (op("make", [], ["a"]), op("use", ["a"], seconds=2.0), op("rx", ["x"]), op("ry", ["y"])),
    )
    machine = two_gpus(capacity=16)
    tasks = [
        run_task("make", "gpu0"), run_task("use", "gpu0"), move("x", "host", "gpu0", "c0"),
        move("y", "host", "gpu0", "c1"), run_task("rx", "gpu0"), run_task("ry", "gpu0"),
    ]  # fmt: skip
    found = event_run(plan(graph, machine, tasks, {"x": "host", "y": "host"}), graph, machine)
    entries = found.ledger.entries["gpu0"]
    assert [(time, tensor) for time, tensor, change in entries if change > 0] == [
        (0.0, "a"),
        (3.0, "x"),
        (3.0, "y"),
    ]
