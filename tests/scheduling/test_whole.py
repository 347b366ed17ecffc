"""Broken schedules told in full, plans of schedule files, what a machine writes back, and the search for cuts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hw_configs.problems import InfeasibleError, InputError
from mapping.scheduling import (
    Residence,
    Schedule,
    ScheduleProblem,
    Transfer,
    check,
    solve,
    tiling,
    write_schedule,
)
from mapping.scheduling import execution as execution_module
from mapping.scheduling.execution import is_schedule_file, schedule_planner
from mapping.scheduling.lowering import to_plan
from mapping.scheduling.problem import problem_from_graph
from mapping.scheduling.stays import assemble, stays_of
from tests.accelerator.machines import machine
from tests.scheduling.build import chain_of
from tests.scheduling.test_graphs import op, small
from workloads.graph import Graph

TIGHT = {"a": (4, "x"), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}


def tight() -> ScheduleProblem:
    return chain_of(TIGHT, {"x": 2}, {"e": 1})


def good() -> Schedule:
    """load x | a b | spill a | c e (with one byte of workspace) | retrieve a | d | store d, in nine bytes."""
    stays = (
        ("x", 0, 1, 0),
        ("a", 0, 2, 2),
        ("b", 1, 3, 6),
        ("c", 2, 4, 0),
        ("e", 3, 5, 6),
        ("a", 4, 5, 0),
        ("d", 4, 5, 4),
    )
    size = {t.name: t.size_bytes for t in tight().tensors}
    residences = tuple(Residence(name, start, end, at, size[name]) for name, start, end, at in stays)
    moves = (Transfer("x", 0, 2, "load"), Transfer("a", 2, 4, "spill"), Transfer("a", 4, 4, "retrieve"),
             Transfer("d", 5, 1, "store"))  # fmt: skip
    return Schedule(("a", "b", "c", "e", "d"), residences, {"e": 8}, moves)


def told(schedule: Schedule, capacity: int = 9, limit: int = 20) -> list[tuple[str, int, str]]:
    return [(v.kind, v.step, v.message) for v in check(tight(), schedule, capacity, limit)]


def stay(name: str, begin: int, /, **changes: Any) -> Schedule:
    made = good()
    rows = tuple(
        replace(s, **changes) if (s.tensor, s.start) == (name, begin) else s for s in made.residences
    )
    assert rows != made.residences
    return replace(made, residences=rows)


def moves(*transfers: Transfer) -> Schedule:
    return replace(good(), transfers=transfers)


X, OUT, BACK, STORE = good().transfers
COMES = "comes to lie there, filled"


def test_a_good_schedule_holds_to_its_last_byte() -> None:
    assert told(good()) == []
    assert told(good(), 8) == [
        ("capacity", 3, "step 3: the workspace of 'e' lies at 8 to 9, outside the 8 bytes")
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (replace(good(), order=("a", "b", "c", "d", "e")), [("order", 3, "'d' at step 3 runs before 'e' at step 4")]),
        (replace(good(), order=("a",)), [("order", 0, "the order does not hold every operator exactly once")]),
        (stay("b", 1, tensor="q"), [
            ("tensor", 1, "unknown tensor 'q'"), ("presence", 1, "step 1: 'b' needs 'b', which is there 0 times"),
            ("presence", 2, "step 2: 'c' needs 'b', which is there 0 times"),
        ]),
        (stay("b", 1, size_bytes=2), [("tensor", 1, "'b' has 1 bytes, not 2")]),
        (stay("b", 1, end=6), [
            ("time", 1, "'b' stays from 1 to 6"), ("overlap", 3, "step 3: 'b' and 'e' share the bytes 6 to 7"),
            ("overlap", 4, "step 4: 'b' and 'e' share the bytes 6 to 7"),
        ]),
        (stay("b", 1, start=3, end=3), [
            ("presence", 1, "step 1: 'b' needs 'b', which is there 0 times"),
            ("presence", 2, "step 2: 'c' needs 'b', which is there 0 times"),
            ("time", 3, "'b' stays from 3 to 3"), ("fill", 3, f"step 3: 'b' {COMES} 0 times"),
        ]),
        (stay("b", 1, offset=5), [
            ("overlap", 1, "step 1: 'a' and 'b' share the bytes 5 to 6"),
            ("overlap", 2, "step 2: 'c' and 'b' share the bytes 5 to 6"),
        ]),
        (stay("d", 4, offset=-1), [("capacity", 4, "step 4: 'd' lies at -1 to 0, outside the 9 bytes")]),
        (stay("d", 4, offset=9), [("capacity", 4, "step 4: 'd' lies at 9 to 10, outside the 9 bytes")]),
        (stay("e", 3, start=2, offset=7), [
            ("fill", 2, f"step 2: 'e' {COMES} 0 times"),
            ("fill", 2, "step 2: 'e' lies there before it is made at step 3"),
            ("overlap", 3, "step 3: 'e' and the workspace of 'e' share the bytes 8 to 9"),
        ]),
        (replace(good(), workspaces={}), [("workspace", 3, "the workspace of 'e' has no address")]),
        (replace(good(), workspaces={"e": 7}),
         [("overlap", 3, "step 3: 'e' and the workspace of 'e' share the bytes 7 to 8")]),
        (moves(OUT, BACK, STORE), [("fill", 0, f"step 0: 'x' {COMES} 0 times")]),
        (moves(X, X, OUT, BACK, STORE), [
            ("fill", 0, f"step 0: 'x' {COMES} 2 times"),
            ("traffic", 0, "step 0: load of 'x' is not the compulsory first one"),
        ]),
        (moves(X, replace(BACK, tensor="b", size_bytes=1, step=1), OUT, BACK, STORE), [
            ("fill", 1, f"step 1: 'b' {COMES} 2 times"), ("traffic", 1, "step 1: retrieve of 'b' was never written"),
        ]),
        (moves(X, OUT, BACK), [("traffic", 5, "the graph output 'd' is never stored")]),
        (moves(X, OUT, BACK, STORE, STORE), [("traffic", 5, "step 5: store of 'd' happens twice")]),
        (moves(X, OUT, BACK, STORE, replace(STORE, kind="spill")),
         [("traffic", 5, "step 5: spill of 'd': a graph output is stored, not spilled")]),
        (moves(X, OUT, replace(OUT, kind="store"), BACK, STORE),
         [("traffic", 2, "step 2: store of 'a' is no graph output")]),
        (moves(X, replace(OUT, step=3), BACK, STORE), [("traffic", 3, "step 3: spill of 'a' finds nothing to write")]),
        (moves(X, replace(OUT, step=1), BACK, STORE), []),
        (moves(X, replace(OUT, step=0), BACK, STORE), [
            ("time", 0, "step 0: spill of 'a' stands out of order"),
            ("traffic", 0, "step 0: spill of 'a' finds nothing to write"),
        ]),
        (moves(replace(X, kind="retrieve"), OUT, BACK, STORE),
         [("traffic", 0, "step 0: retrieve of 'x' is the first, compulsory one: a load")]),
        (moves(X, OUT, replace(BACK, kind="load"), STORE),
         [("traffic", 4, "step 4: load of 'a' is not the compulsory first one")]),
        (moves(X, OUT, replace(BACK, step=3), STORE), [
            ("fill", 3, "step 3: 'a' is fetched to no place"), ("fill", 4, f"step 4: 'a' {COMES} 0 times"),
        ]),
        (moves(X, replace(OUT, size_bytes=3), BACK, STORE), [
            ("tensor", 2, "step 2: spill of 'a' has a wrong size or name"),
            ("traffic", 4, "step 4: retrieve of 'a' was never written"),
        ]),
        (moves(X, OUT, BACK, STORE, replace(STORE, tensor="q")),
         [("tensor", 5, "step 5: store of 'q' has a wrong size or name")]),
        (moves(X, OUT, STORE, BACK), [("time", 4, "step 4: retrieve of 'a' stands out of order")]),
    ],
)  # fmt: skip
def test_what_is_broken_is_told_and_nothing_else(
    schedule: Schedule, expected: list[tuple[str, int, str]]
) -> None:
    assert sorted(told(schedule)) == sorted(expected)
    assert [step for _, step, _ in told(schedule)] == sorted(step for _, step, _ in expected)
    assert told(schedule, limit=1) == told(schedule)[:1]


def graph_of() -> Graph:
    return small(
        op("A", "x w1", "a"), op("B", "a", "b"), op("C", "b", "c"), op("E", "c", "e"), op("D", "a e", "d"),
        x=2, w1=3, a=4, b=1, c=6, e=2, d=1,
    )  # fmt: skip


def test_a_schedule_file_is_told_by_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"format": "offchip-schedule-1"}')
    assert is_schedule_file(path)
    assert is_schedule_file(str(path))
    monkeypatch.setattr(execution_module, "MAX_FILE_BYTES", 32)
    assert is_schedule_file(path)
    monkeypatch.setattr(execution_module, "MAX_FILE_BYTES", 31)
    assert not is_schedule_file(path)
    assert not is_schedule_file(tmp_path / "absent")
    path.write_text('{"format": "plan"}')
    assert not is_schedule_file(path)


def test_a_schedule_file_is_held_against_its_graph(tmp_path: Path) -> None:
    graph, system, path = graph_of(), machine(tmp_path), tmp_path / "plan.json"
    problem = problem_from_graph(graph)
    result = solve(problem, 8)
    assert result.schedule is not None
    write_schedule(problem, result, path)
    plan = schedule_planner(path)(graph, system)
    assert plan.mapper == "schedule file"
    notes: Any = plan.notes
    assert (notes.cost_bytes, notes.weights, notes.scratchpad_bytes) == (8, "stream", 8)
    assert (notes.schedule["status"], notes.schedule["bound_bytes"]) == ("optimal", 8)

    def refusal(wrong: Graph, old: str = "", new: str = "") -> list[str]:
        path.write_text(path.read_text().replace(old, new, 1) if old else path.read_text())
        with pytest.raises(InputError) as error:
            schedule_planner(path)(wrong, system)
        return [str(p).replace(str(path), "f") for p in error.value.problems]

    other = small(op("Q", "x", "y"), x=1, y=1)
    assert refusal(other) == [
        "f: order: the schedule is for graph 'small'; this is 'small', which has no operator 'A'"
    ]
    assert refusal(graph, '"scratchpad_bytes": 8', '"scratchpad_bytes": 7')[0].startswith(
        "f: capacity: step "
    )
    assert refusal(graph, '"weights": "stream"', '"weights": "some"') == [
        "f: weights: found 'some'; expected 'stream' or 'resident'"
    ]


def test_what_an_operator_loads_is_written_back_before_it_is_lost(tmp_path: Path) -> None:
    """'l' is made by an operator that loads it: the schedule drops it for nothing, a machine has to write it."""
    from tests.typed import work_of
    from workloads.graph import Operator

    load = Operator("L", work_of("copy", function="load"), (), ("l",))
    graph = small(
        load,
        op("A", "l", "a"),
        op("B", "a", "b"),
        op("C", "b", "c"),
        op("D", "l c", "d"),
        l=3,
        a=2,
        b=6,
        c=1,
        d=1,
    )
    problem = problem_from_graph(graph)
    assert problem.tensors[problem.tensor_index["l"]].copy_free
    result = solve(problem, 8)
    assert (result.cost_bytes, result.transfer_count) == (3, 1)
    plan = to_plan(graph, problem, result.schedule, machine(tmp_path))  # type: ignore[arg-type]
    notes: Any = plan.notes
    assert notes.uncounted_writes == ("l",)
    assert [task.name for task in plan.tasks if task.kind == "transfer"] == [
        "write l before step 2", "read l for step 4", "write d before step 5",
    ]  # fmt: skip


class Cutting:
    """Needs and weights read again by cuts, without graphs: what a search over cuts sees."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, needs: dict[Any, int], again: dict[Any, int], moves: Any
    ) -> None:
        self.tried: list[Any] = []
        self.needs, self.again = needs, again
        monkeypatch.setattr(tiling, "problem_from_graph", lambda graph, weights: None)
        monkeypatch.setattr(tiling, "_streamed", lambda graph, problem: 100)
        monkeypatch.setattr(tiling, "_cut", self.cut)
        monkeypatch.setattr(tiling, "_worst", lambda state: "worst")
        monkeypatch.setattr(tiling, "_need_of", lambda state, name: state.need_bytes)
        monkeypatch.setattr(tiling, "_moves", lambda graph, cuts, worst: moves(cuts))

    def cut(self, graph: Any, cuts: Any, weights: str, once: int) -> Any:
        assert (weights, once) == ("stream", 100)
        key = tuple(sorted((name, axis[0], parts) for name, (axis, parts) in cuts.items()))
        self.tried.append(key)
        tiles = {name: SimpleNamespace(axis=axis, parts=parts) for name, (axis, parts) in cuts.items()}
        return SimpleNamespace(
            key=key, need_bytes=self.needs[key], again_bytes=self.again.get(key, 0), tiles=tiles
        )


def test_the_cut_that_fits_for_the_least_wins_else_the_best_per_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    a2, a4, b2, c2 = (("a", "r", 2),), (("a", "r", 4),), (("b", "r", 2),), (("c", "r", 2),)
    graph: Any = None
    first = [{"a": ("row", 2)}, {"b": ("row", 2)}, {"c": ("row", 2)}, {"a": ("row", 4)}]

    def search(needs: dict[Any, int], again: dict[Any, int]) -> Any:
        Cutting(monkeypatch, {(): 1000, **needs}, again, lambda cuts: first)
        monkeypatch.setattr(
            tiling, "_coarsened", lambda graph, cuts, state, capacity, weights, once: state.key
        )
        return tiling.fit_tiles(graph, 500)

    # All fit: one strip more costs 256 bytes, weights read again cost themselves.
    assert search({a2: 500, b2: 400, c2: 300, a4: 100}, {a2: 10, b2: 9, c2: 11}) == b2
    assert search({a2: 501, b2: 900, c2: 501, a4: 500}, {a4: 10**6}) == a4
    assert search({a2: 500, b2: 500, c2: 501, a4: 1}, {a2: 512, b2: 513, a4: 0}) == a2
    assert search({a2: 500, b2: 1000, c2: 501, a4: 1}, {a2: 513, a4: 0}) == a4
    # None fits: (256 + again) / bytes taken away; then the search goes on from there.
    seen: list[Any] = []

    def moves(cuts: Any) -> Any:
        seen.append(dict(cuts))
        return first if not cuts else [{"a": ("row", 4)}]

    Cutting(monkeypatch, {(): 1000, a2: 900, b2: 800, c2: 700, a4: 400}, {a2: 0, b2: 244, c2: 500}, moves)
    assert tiling.fit_tiles(graph, 500) == a4
    Cutting(
        monkeypatch,
        {(): 1000, a2: 900, b2: 800, c2: 700, a4: 901},
        {a2: 0, b2: 244, c2: 500, a4: 9999},
        moves,
    )
    monkeypatch.setattr(
        tiling,
        "_cannot",
        lambda graph, state, name, capacity: InfeasibleError(f"{state.key} {name} {capacity}"),
    )
    seen.clear()
    with pytest.raises(InfeasibleError, match="'b', 'r', 2"):
        tiling.fit_tiles(graph, 500)
    assert seen == [{}, {"b": ("row", 2)}]
    Cutting(monkeypatch, {(): 500}, {}, moves)
    assert tiling.fit_tiles(graph, 500) == ()


def test_strips_that_are_not_needed_are_joined_the_finest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: Any = {"a": ("row", 8), "b": ("row", 16), "c": ("row", 3)}
    needs = {
        (("a", "r", 8), ("b", "r", 8), ("c", "r", 3)): 500, (("a", "r", 8), ("b", "r", 4), ("c", "r", 3)): 501,
        (("a", "r", 4), ("b", "r", 8), ("c", "r", 3)): 400, (("a", "r", 2), ("b", "r", 8), ("c", "r", 3)): 400,
        (("b", "r", 8), ("c", "r", 3)): 300, (("b", "r", 8),): 900,
    }  # fmt: skip
    cutting = Cutting(monkeypatch, needs, {}, None)
    state: Any = SimpleNamespace(key="whole")
    found: Any = tiling._coarsened(None, cuts, state, 500, "stream", 100)  # type: ignore[arg-type]
    assert found.key == (("b", "r", 8), ("c", "r", 3))
    assert cutting.tried == list(needs)


def test_chains_are_cut_while_that_lowers_the_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    a2, b2, ab = (("a", "r", 2),), (("b", "r", 2),), (("a", "r", 2), ("b", "r", 2))
    graph: Any = None
    costs = {(): 90, a2: 70, b2: 60, ab: 50}
    steps: list[Any] = []
    cutting = Cutting(monkeypatch, {(): 8, a2: 8, b2: 8, ab: 8}, {(): 3, b2: 3, ab: 3}, None)
    start: Any = cutting.cut(graph, {}, "stream", 100)
    monkeypatch.setattr(tiling, "_judge", lambda state, capacity: (costs[state.key], f"plan of {state.key}"))

    def chains(graph: Any, cuts: Any, schedule: Any) -> Any:
        steps.append((dict(cuts), schedule))
        return [{"a": ("row", 2)}, {"b": ("row", 2)}] if not cuts else [{"a": ("row", 2), "b": ("row", 2)}]

    monkeypatch.setattr(tiling, "_chain_moves", chains)
    found: Any = tiling.improve_tiles(graph, start, 8)
    assert found.key == ab
    assert steps == [
        ({}, "plan of ()"),
        ({"b": ("row", 2)}, f"plan of {b2}"),
        ({"a": ("row", 2), "b": ("row", 2)}, f"plan of {ab}"),
    ]
    assert tiling.improve_tiles(graph, start, 8, rounds=0) is start
    one: Any = tiling.improve_tiles(graph, start, 8, rounds=1)
    assert one.key == b2
    # What no longer fits is no way, nor what costs as much.
    cutting.needs[b2] = 9
    costs[ab] = 70
    assert tiling.improve_tiles(graph, start, 8).key == a2  # type: ignore[attr-defined]
    # Nothing but weights read again is left, or nothing was found at all.
    cutting.again[()] = 90
    costs[()] = 90
    steps.clear()
    again: Any = cutting.cut(graph, {}, "stream", 100)
    assert tiling.improve_tiles(graph, again, 8) is again
    monkeypatch.setattr(tiling, "_judge", lambda state, capacity: (1 << 62, None))
    assert tiling.improve_tiles(graph, start, 8) is start
    assert steps == []


def test_chains_run_around_the_tensors_that_move_most(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small(
        op("A", "x", "a"), op("B", "a", "b"), op("C", "b", "c"), op("D", "c", "d"), op("E", "d", "e"),
        op("F", "x e", "f"), x=1, a=1, b=1, c=1, d=1, e=1, f=1,
    )  # fmt: skip
    chains: list[Any] = []
    monkeypatch.setattr(
        tiling, "_finer", lambda graph, cuts, chain, axis: chains.append((tuple(chain), axis)) or []
    )

    def around(*moved: tuple[str, int, str]) -> list[str]:
        chains.clear()
        transfers = tuple(Transfer(name, 0, size, kind) for name, size, kind in moved)  # type: ignore[arg-type]
        assert list(tiling._chain_moves(graph, {}, SimpleNamespace(transfers=transfers))) == []  # type: ignore[arg-type]
        assert {axis for _, axis in chains} <= {"row"}
        return ["".join(chain) for chain, _ in chains]

    assert around(("a", 5, "load"), ("b", 5, "store")) == []
    assert around(("a", 5, "spill")) == ["A", "AB", "ABC", "ABCD"]
    assert around(("x", 5, "retrieve")) == ["x", "xAF", "xAFB", "xAFBC"]
    assert around(("f", 5, "retrieve")) == ["F"]
    # Strips count together; of equals the first by name, and four at most.
    assert around(("e", 4, "spill"), ("d.row0", 3, "spill"), ("d.row1", 2, "retrieve"), ("f", 4, "spill")) == [
        "D", "DE", "DEF", "E", "EF", "F",
    ]  # fmt: skip
    many = around(*((name, 9, "spill") for name in "fedcb"))
    assert [chain for chain in many if len(chain) == 1] == ["B", "C", "D", "E"]


def test_a_graph_that_cannot_be_cut_is_told_with_its_need() -> None:
    graph = graph_of()
    problem = problem_from_graph(graph)
    state = tiling.TiledProblem({}, graph, problem, 0)
    assert str(tiling._cannot(graph, state, "C", 6)) == (
        "operator 'C' (elementwise) needs 7 bytes of scratchpad even in strips, 6 are there; levers: a larger "
        "scratchpad, a smaller batch or element type, weights streamed (weights=stream)"
    )
    assert tiling._streamed(graph, problem) == 3
    assert tiling._streamed(graph, problem_from_graph(graph, "resident")) == 0


def test_baselines_tell_what_they_are() -> None:
    from mapping.scheduling.baselines import ARENA, BASELINES, baseline_stays
    from mapping.scheduling.mappers import MAPPER, STATIC_ARENA, Scheduled, _name

    problem = tight()
    for name, run in BASELINES.items():
        below = run(problem, 8)
        assert (below.status, below.method, below.engine, below.bound_bytes) == (
            "infeasible",
            "baseline",
            name,
            0,
        )
        at = run(problem, 9)
        assert (at.status, at.method, at.engine, at.scratchpad_bytes) == ("feasible", "baseline", name, 9)
        assert at.schedule is not None
        assert (at.cost_bytes, at.bound_bytes) == (at.schedule.cost_bytes, 0)
        wide = run(problem, 100)
        assert (wide.status, wide.cost_bytes) == ("optimal", 0)
    stays, offsets = baseline_stays(problem, range(5), ARENA, 100)
    assert stays == stays_of(problem, range(5))
    assert check(problem, assemble(problem, stays, offsets), 100) == []
    assert [_name(name) for name in ("", "given/lru", "static-arena")] == [
        "scratchpad", "scratchpad-given-lru", "scratchpad-static-arena",
    ]  # fmt: skip
    assert Scheduled("given/lru").DESCRIPTION == "scratchpad baseline: order given, replacement lru"
    assert STATIC_ARENA.DESCRIPTION == "scratchpad baseline: static arena, greedy by size"
    assert MAPPER.DESCRIPTION == "operator order, addresses and replacement on a scratchpad, with a proof"


def test_mappers_write_the_schedule_and_its_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hw_configs.settings import read_settings
    from mapping.mapper import MapperOptions
    from mapping.scheduling.mappers import MAPPER, STATIC_ARENA, BaselineSettings, ScheduleSettings
    from mapping.scheduling.tiling import MAPPER as TILED
    from mapping.scheduling.tiling import TiledSettings

    def options(kind: Any, **values: object) -> MapperOptions:
        return MapperOptions(settings=read_settings(kind, values))

    graph, system = graph_of(), machine(tmp_path, size=8)
    plan = MAPPER.plan(graph, system, options(ScheduleSettings))
    notes: Any = plan.notes
    assert (plan.mapper, notes.status, notes.cost_bytes, notes.bound_bytes) == ("scratchpad", "optimal", 8, 8)
    assert (notes.weights, notes.peak_bytes) == ("stream", 8)
    arena = STATIC_ARENA.plan(graph, system, options(BaselineSettings, weights="stream", device="npu"))
    told: Any = arena.notes
    assert (arena.mapper, told.status, told.engine) == ("scratchpad-static-arena", "feasible", "static-arena")
    with pytest.raises(InfeasibleError, match="operator 'A' needs 9 bytes"):
        MAPPER.plan(graph, system, options(ScheduleSettings, weights="resident"))
    tiled = TILED.plan(graph, system, options(TiledSettings, rounds="0"))
    cut: Any = tiled.notes
    assert (tiled.mapper, dict(tiled.tiles), tiled.views, cut.weights_again_bytes) == (
        "scratchpad-tiled",
        {},
        {},
        0,
    )
    assert (cut.status, cut.cost_bytes, cut.bound_bytes, cut.strips) == ("optimal", 8, 8, {})
    state = tiling.TiledProblem(
        {"A": SimpleNamespace(parts=3, axis="row")},
        graph,
        problem_from_graph(graph),
        21,  # type: ignore[dict-item]
    )
    asked: list[Any] = []
    monkeypatch.setattr(
        tiling,
        "fit_tiles",
        lambda graph, capacity, weights, begin: asked.append((capacity, weights)) or state,
    )
    monkeypatch.setattr(
        tiling,
        "improve_tiles",
        lambda g, s, capacity, weights, rounds: asked.append((capacity, weights, rounds)) or s,
    )
    strips: Any = TILED.plan(graph, system, options(TiledSettings)).notes
    assert (strips.strips, strips.weights_again_bytes) == ({"A": "3 rows"}, 21)
    assert asked == [(8, "stream"), (8, "stream", 6)]
    nothing = SimpleNamespace(schedule=None, explanation=None)
    limits: list[Any] = []
    monkeypatch.setattr(
        tiling, "solve", lambda problem, capacity, time_limit_s: limits.append(time_limit_s) or nothing
    )
    with pytest.raises(InfeasibleError, match=r"no schedule found within 2\.5 s"):
        TILED.plan(graph, system, options(TiledSettings, **{"time-limit": "2.5"}))
    assert limits == [2.5]
