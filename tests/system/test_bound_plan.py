"""A plan bound to a graph: who held which bytes, who waits for whom, whose memory is shared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import cpu, gpu, move, op, plan, ram, run_task, system, tensors, two_gpus

from simulator.plan import Collective, Home
from simulator.system.bound_plan import _Bytes, _of_rank, bind, shared_memories, streamed_bytes
from workloads.graph import Graph, Role


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12))
def test_bytes_are_held_as_a_list_of_bytes_says(taken: list[tuple[int, int]]) -> None:
    held, memory = [-1] * 12, _Bytes()
    for number, (low, high) in enumerate(taken):
        lost = list(dict.fromkeys(held[at] for at in range(low, high) if held[at] >= 0))
        assert list(dict.fromkeys(memory.take(low, high, number))) == lost
        held[low : max(low, high)] = [number] * max(high - low, 0)
        ranges = [(at, holder) for low_, high_, holder in memory.ranges for at in range(low_, high_)]
        assert ranges == [(at, holder) for at, holder in enumerate(held) if holder >= 0]


def test_a_copy_at_planned_bytes_waits_for_the_users_of_what_lay_there() -> None:
    """b lies where a lay, c beside both, d over the second half of b and the first of c."""
    graph = Graph(
        "g",
        tensors({"a": 10, "b": 10, "c": 10, "d": 10, "s": 1}),
        (
            op("make_a", [], ["a"]), op("use_a", ["a"], ["s"]), op("make_b", [], ["b"]), op("make_c", [], ["c"]),
            op("use_b", ["b"]), op("use_c", ["c"]), op("make_d", [], ["d"]),
        ),
    )  # fmt: skip
    machine = two_gpus()
    places = {"make_a": {"a": 0}, "make_b": {"b": 0}, "make_c": {"c": 10}, "make_d": {"d": 5}}
    tasks = [
        run_task(o.name, "gpu0", f"s{n}", addresses=places.get(o.name, {}))
        for n, o in enumerate(graph.operators)
    ]  # fmt: skip
    bound = bind(plan(graph, machine, tasks, {}), graph, machine)
    assert [set(waits) for waits in bound.waits] == [set(), {0}, {0, 1}, set(), {2}, {3}, {2, 3, 4, 5}]
    assert bound.makes == ((0,), (1,), (2,), (3,), (), (), (4,))
    assert [set(used) for used in bound.uses] == [{0}, {0, 1}, {2}, {3}, {2}, {3}, {4}]
    assert [(c.tensor, c.memory, c.maker, c.home, c.address) for c in bound.copies] == [
        ("a", "gpu0", 0, False, 0), ("s", "gpu0", 1, False, None), ("b", "gpu0", 2, False, 0),
        ("c", "gpu0", 3, False, 10), ("d", "gpu0", 6, False, 5),
    ]  # fmt: skip
    assert bound.streams == {f"s{n}": (n,) for n in range(7)}


def test_a_home_at_planned_bytes_holds_them() -> None:
    """What follows at the bytes of an input waits for those who read it there."""
    graph = Graph(
        "g", tensors({"x": 4, "y": 4}), (op("read", ["x"]), op("again", ["x"]), op("write", [], ["y"]))
    )
    machine = two_gpus()
    tasks = [
        run_task("read", "gpu0"),
        run_task("again", "gpu0", "s1"),
        run_task("write", "gpu0", "s2", addresses={"y": 2}),
    ]
    made = replace(plan(graph, machine, tasks, {}), homes={"x": (Home("gpu0", 0),)})
    bound = bind(made, graph, machine)
    assert [set(waits) for waits in bound.waits] == [set(), set(), {0, 1}]
    assert [(c.maker, c.home, c.kept, c.lasting) for c in bound.copies] == [
        (-1, True, False, False),
        (2, False, False, False),
    ]


def test_an_update_waits_for_its_readers_and_is_waited_for() -> None:
    graph = Graph(
        "g",
        tensors({"kv": 4, "o": 1}, {"kv": Role.KV_CACHE}),
        (op("one", ["kv"]), op("two", ["kv"]), op("write", updates=["kv"]), op("three", ["kv"], ["o"]),
         op("more", updates=["kv"])),
        ("o",),
    )  # fmt: skip
    machine = two_gpus()
    tasks = [run_task(o.name, "gpu0", f"s{n}") for n, o in enumerate(graph.operators)]
    bound = bind(plan(graph, machine, tasks, {"kv": "gpu0"}), graph, machine)
    assert [set(waits) for waits in bound.waits] == [set(), set(), {0, 1}, {2}, {2, 3}]
    kept, made = bound.copies
    assert (kept.maker, kept.home, kept.kept, kept.lasting, kept.users) == (4, True, True, True, [4])
    assert (made.tensor, made.kept, made.lasting) == ("o", True, False)


def test_frees_are_last_uses() -> None:
    graph = Graph("g", tensors({"w": 4, "o": 1}, {"w": Role.WEIGHT}), (op("a", ["w"], ["o"]),), ("o",))
    machine = two_gpus()
    tasks = [run_task("a", "gpu0", frees=(("w", "gpu0"),))]
    weight, _ = bind(plan(graph, machine, tasks, {"w": "gpu0"}), graph, machine).copies
    assert (weight.home, weight.kept, weight.lasting, weight.users) == (True, False, False, [0])


def test_ranks_own_their_share_of_a_collectives_tensors() -> None:
    names = tuple("abcdef")
    for rank, device in enumerate(("d0", "d1", "d2")):
        task = Collective("c", "s", "op", device, ("d0", "d1", "d2"))
        assert _of_rank(task, names) == names[2 * rank : 2 * rank + 2]
    assert _of_rank(run_task("a", "d0"), names) == names  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tasks", "shared"),
    [
        ([run_task("a", "gpu0"), run_task("b", "gpu0")], set()),
        ([run_task("a", "gpu0"), move("x", "host", "gpu1")], set()),
        ([run_task("a", "gpu0"), move("x", "host", "gpu0")], {"gpu0"}),
        ([run_task("a", "gpu0"), move("x", "gpu0", "host")], {"gpu0"}),
        ([run_task("a", "gpu0"), run_task("b", "near")], {"gpu0"}),
        ([run_task("a", "gpu0", source="host", streamed=("x",)), run_task("b", "host")], {"host"}),
        ([run_task("a", "gpu0", source="host", streamed=("x",))], set()),
        ([run_task("a", "gpu0"), Collective("c", "s", "op", "gpu0", ("gpu0", "gpu1"))], {"gpu0"}),
        ([move("x", "host", "gpu0"), move("y", "host", "gpu0")], set()),
    ],
)  # fmt: skip
def test_memories_that_several_draw_on(tasks: list[object], shared: set[str]) -> None:
    machine = system(
        {"gpu0": gpu("gpu0", ram(99, 1.0)), "gpu1": gpu("gpu1", ram(99, 1.0)), "host": cpu("host", ram(99, 1.0)),
         "near": cpu("near", None)},
        works_in={"near": "gpu0"},
    )  # fmt: skip
    bound = replace(
        bind(plan(Graph("g", {}, ()), machine, [], {}), Graph("g", {}, ()), machine), tasks=tuple(tasks)
    )
    assert shared_memories(bound, machine) == shared


def test_streamed_bytes_are_those_that_the_operator_touches_of_the_tensors_named() -> None:
    sizes = tensors({"x": 3, "y": 4, "z": 5})
    totals = Graph("g", sizes, (op("a", ["x", "y", "z"]),))
    itemised = Graph("g", sizes, (replace(op("a", ["x", "y", "z"]), reads=(2, 4, 9)),))
    task = run_task("a", "gpu0", source="host", streamed=("x", "z"))
    assert streamed_bytes(task, totals) == 8.0  # type: ignore[arg-type]
    assert streamed_bytes(task, itemised) == 7.0  # type: ignore[arg-type]
    assert streamed_bytes(run_task("a", "gpu0"), totals) == 0.0  # type: ignore[arg-type]
