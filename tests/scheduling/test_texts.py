"""Words and plans of schedules to the last figure: problems, files, explanations, tasks, fetches ahead, banks, cuts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hw_configs.problems import InfeasibleError, InputError, PhysicsError
from mapping.allocation.banks import Bank
from mapping.scheduling import (
    Residence,
    Schedule,
    ScheduleOperator,
    ScheduleProblem,
    ScheduleTensor,
    Transfer,
    check,
    read_schedule,
    schedule_file,
    solve,
    tiling,
    timed,
    write_schedule,
)
from mapping.scheduling import banks as banks_module
from mapping.scheduling.banks import check_banks, solve_in_banks
from mapping.scheduling.explain import not_proved, too_small
from mapping.scheduling.lowering import scratchpad_of, to_plan
from mapping.scheduling.problem import problem_from_graph
from mapping.scheduling.result import ScheduleResult
from mapping.scheduling.stays import Stays, assemble, stays_of
from mapping.scheduling.timed import fetch_ahead
from tests.accelerator.machines import machine
from tests.scheduling.build import chain_of
from tests.scheduling.test_graphs import op, small
from workloads.graph import Graph, Tensor

TIGHT = {"a": (4, "x"), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}
ORDER = (0, 1, 2, 3, 4)
LARGEST = 2**60


def tight() -> ScheduleProblem:
    return chain_of(TIGHT, {"x": 2})


def problems_of(*operators: ScheduleOperator, tensors: tuple[ScheduleTensor, ...] = ()) -> list[str]:
    with pytest.raises(InputError) as error:
        ScheduleProblem("p", operators, tensors)
    return [str(problem) for problem in error.value.problems]


def test_wrong_problems_are_told_all_at_once() -> None:
    half = LARGEST // 2
    one = ScheduleOperator("a", (), ())
    assert problems_of(one, one, one, replace(one, name="b"), replace(one, name="b")) == [
        "a: two operators have this name", "b: two operators have this name",
    ]  # fmt: skip
    two = ScheduleTensor("t", 1, -1, (), True)
    assert problems_of(tensors=(two, two)) == ["t: two tensors have this name"]
    assert problems_of(tensors=(replace(two, size_bytes=-1),)) == ["t: found -1 bytes; expected 0 to 2**60"]
    assert problems_of(tensors=(replace(two, size_bytes=LARGEST + 1),)) == [
        f"t: found {LARGEST + 1} bytes; expected 0 to 2**60", "p: the tensors sum to more than 2**60 bytes",
    ]  # fmt: skip
    assert problems_of(
        tensors=(replace(two, size_bytes=half), replace(two, name="u", size_bytes=half + 1))
    ) == ["p: the tensors sum to more than 2**60 bytes"]
    ScheduleProblem("p", (replace(one, workspace_bytes=LARGEST),), (replace(two, size_bytes=LARGEST),))
    for size in (-1, LARGEST + 1):
        assert problems_of(replace(one, workspace_bytes=size)) == [f"a: found a workspace of {size} bytes"]
    assert problems_of(replace(one, after=(1,)), replace(one, name="b")) == [
        "a: stands before 'b', which it needs"
    ]
    assert problems_of(replace(one, after=(0,))) == ["a: stands before 'a', which it needs"]
    made = ScheduleTensor("t", 1, 1, (0,), False)
    assert problems_of(replace(one, inputs=(0,)), replace(one, name="b", outputs=(0,)), tensors=(made,)) == [
        "a: stands before 'b', which it needs"
    ]


def test_needs_waits_and_sizes_of_a_problem() -> None:
    operators = (
        ScheduleOperator("a", (0,), (1,), 5), ScheduleOperator("b", (0,), (2,)),
        ScheduleOperator("c", (1, 2), (3,), 0, (0,)),
    )  # fmt: skip
    tensors = (
        ScheduleTensor("x", 1, -1, (0, 1), True), ScheduleTensor("a", 2, 0, (2,), False),
        ScheduleTensor("b", 4, 1, (2,), False), ScheduleTensor("c", 8, 2, (), True, True),
    )  # fmt: skip
    problem = ScheduleProblem("p", operators, tensors)
    assert (problem.need_bytes, problem.least_budget) == ((8, 5, 14), 14)
    assert problem.predecessors == ((), (), (0, 1))
    assert (problem.operator_index, problem.tensor_index["b"], problem.size_of("c")) == (
        {"a": 0, "b": 1, "c": 2},
        2,
        8,
    )
    assert ScheduleProblem("empty", (), ()).least_budget == 0


def test_views_outputs_and_loads_of_a_graph() -> None:
    graph = small(
        op("one", "x", "y"), op("flat", "y", "yf", "view"), op("again", "yf", "yg", "view"),
        op("odd", "y", "h", "view"),
        op("two", "yg x", "z"), op("last", "h z", "o"), x=4, y=6, yf=6, yg=6, h=3, z=1, o=2,
    )  # fmt: skip
    graph = replace(graph, outputs=("o", "yg"))
    problem = problem_from_graph(graph)
    # A view of other bytes is an operator like any other.
    assert [(o.name, o.after) for o in problem.operators] == [
        ("one", ()),
        ("odd", (0,)),
        ("two", (0,)),
        ("last", (1, 2)),
    ]
    assert [
        (t.name, t.size_bytes, t.producer, t.consumers, t.copy_free, t.is_output) for t in problem.tensors
    ] == [
        ("x", 4, -1, (0, 2), True, False), ("y", 6, 0, (1, 2), True, True), ("h", 3, 1, (3,), False, False),
        ("z", 1, 2, (3,), False, False), ("o", 2, 3, (), True, True),
    ]  # fmt: skip
    assert problem.views == {"yf": "y", "yg": "y"}
    assert (problem.name, problem.weights) == ("small", "stream")
    with pytest.raises(InputError) as error:
        problem_from_graph(Graph("empty", {}, ()), file="g.json")
    assert str(error.value) == "g.json: the graph has no operators"
    with pytest.raises(InputError) as error:
        problem_from_graph(graph, "some")  # type: ignore[arg-type]
    assert str(error.value) == "--weights: found 'some'; expected 'stream' or 'resident'"


def test_too_small_names_the_first_of_the_largest_and_its_tensors() -> None:
    assert too_small(tight(), 7) == (
        "operator 'e' needs 8 bytes (8 B) in the scratchpad at once (c 6, e 2), and 7 bytes (7 B) are there; "
        "what could help: a larger scratchpad (--scratchpad), the operator split into tiles"
    )
    sources = {f"s{i}": 10 - i for i in range(6)}
    wide = chain_of({"w": (20, list(sources)), "v": (30, ["w"]), "u": (40, ["v"])}, sources, {"w": 7})
    resident = ScheduleProblem("r", wide.operators, wide.tensors, "resident")
    assert too_small(resident, 49) == (
        "operator 'w' needs 72 bytes (72 B) in the scratchpad at once (w 20, s0 10, s1 9, s2 8, s3 7, workspace 7 "
        "and 2 more), and 49 bytes (49 B) are there; 2 more operators do not fit either; what could help: a larger "
        "scratchpad (--scratchpad), the operator split into tiles, weights streamed (--weights stream)"
    )
    assert "; 1 more operators do not fit" in too_small(wide, 50)
    assert "do not fit" not in too_small(wide, 70)
    level = chain_of({"p": (4, ""), "q": (4, "p"), "r": (4, "q")})
    assert too_small(level, 1).startswith("operator 'q' needs 8 bytes")


def test_not_proved_points_at_the_fullest_stretch() -> None:
    problem = tight()
    stays = stays_of(problem, ORDER, {2: [1]})
    # Without a drop: x, a 6; a, b 5; a, b, c 11; a, c, e 12; a, e, d 7.
    assert not_proved(problem, stays, 8, 3) == (
        "not proved optimal: at least 3 bytes (3 B) must move; most bytes are wanted around step 3 ('c' to 'e'): "
        "12 bytes (12 B) would be alive at once without a drop, and 8 bytes (8 B) are there; what could help: more "
        "time (--time-limit), a larger scratchpad (--scratchpad)"
    )
    level = chain_of(
        {f"o{i}": (9 if i != 3 else 8, [f"o{i - 1}"] if i else []) for i in range(6)}, workspaces={"o0": 9}
    )
    resident = ScheduleProblem("r", level.operators, level.tensors, "resident")
    # 18, 18, 18, 17, 17, 18: within a tenth of the most throughout.
    text = not_proved(resident, stays_of(level, range(6)), 8, 0)
    assert "around step 0 ('o0' to 'o5'): 18 bytes (18 B)" in text
    assert text.endswith("(--scratchpad), weights streamed (--weights stream)")


def result_of(schedule: Schedule, size: int = 8) -> ScheduleResult:
    return ScheduleResult("optimal", "auto", "hand", size, schedule, 8, 8, 8, 0.0, 3, 5)


def test_a_file_holds_a_row_to_a_line_and_comes_back(tmp_path: Path) -> None:
    problem = chain_of({"a": (2, ""), "b": (2, "a")}, workspaces={"b": 4})
    result = solve(problem, 8, seed=5)
    assert result.schedule is not None
    path = tmp_path / "plan.json"
    write_schedule(problem, result, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    at = {s.tensor: s.offset for s in result.residences}
    assert lines == [
        "{",
        ' "format": "offchip-schedule-1",', ' "graph": "by hand",', ' "weights": "stream",', ' "scratchpad_bytes": 8,',
        ' "result": {"status": "optimal", "method": "auto", "engine": "given/belady", "objective": "bytes", '
        '"cost_bytes": 0, "bound_bytes": 0, "peak_bytes": 8, "seed": 5},',
        ' "order": [', '  "a",', '  "b"', " ],",
        ' "residences": [',
        f'  {{"tensor": "a", "start": 0, "end": 2, "offset": {at["a"]}, "size_bytes": 2}},',
        f'  {{"tensor": "b", "start": 1, "end": 2, "offset": {at["b"]}, "size_bytes": 2}}', " ],",
        f' "workspaces": {{"b": {result.workspaces["b"]}}},',
        ' "transfers": [', '  {"tensor": "b", "step": 2, "size_bytes": 2, "kind": "store"}', " ]",
        "}",
    ]  # fmt: skip
    assert read_schedule(path).schedule == result.schedule
    write_schedule(problem, result_of(Schedule((), (), {}, ())), path)
    assert read_schedule(path).schedule == Schedule((), (), {}, ())
    with pytest.raises(ValueError, match="there is no schedule to write"):
        write_schedule(problem, replace(result, schedule=None), path)


WHOLE: dict[str, Any] = {
    "format": "offchip-schedule-1", "graph": "g", "weights": "stream", "scratchpad_bytes": 8, "order": ["a"],
    "residences": [{"tensor": "x", "start": 0, "end": 1, "offset": 0, "size_bytes": LARGEST}], "workspaces": {"a": 0},
    "transfers": [{"tensor": "x", "step": 0, "size_bytes": 4, "kind": "load"}],
}  # fmt: skip
STAY, MOVE = WHOLE["residences"][0], WHOLE["transfers"][0]
KEYS = "tensor, start, end, offset, size_bytes"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": "x"}, ["f: format: found 'x'; expected a schedule of format 'offchip-schedule-1'"]),
        ({"ordre": 1}, ["f:11: ordre: unknown key 'ordre' (did you mean 'order'?)"]),
        ({"graph": 3, "order": None},
         ["f:3: graph: found 3; expected str", "f:6: order: found None; expected list"]),
        ({"scratchpad_bytes": True}, ["f:5: scratchpad_bytes: found True; expected int"]),
        ({"order": ["a", 7]}, ["f:6: order.1: expected an operator's name"]),
        ({"workspaces": {"a": -1, "b": True, "c": 0}},
         ["f:8: workspaces.a: found -1; expected an offset", "f:8: workspaces.b: found True; expected an offset"]),
        ({"residences": [STAY, 5, {**STAY, "start": -1}]},
         [f"f:7: residences.1: expected an object with the keys {KEYS}",
          "f:7: residences.2: found -1 for 'start'; expected a count"]),
        ({"residences": [{**STAY, "size_bytes": LARGEST + 1}, {**STAY, "end": 1.0}, {**STAY, "tensor": 3}]},
         [f"f:7: residences.0: found {LARGEST + 1} for 'size_bytes'; expected a count",
          "f:7: residences.1: found 1.0 for 'end'; expected a count",
          "f:7: residences.2: found 3 for 'tensor'; expected a name"]),
        ({"transfers": [{**MOVE, "kind": "move"}, {**MOVE, "more": 1}]},
         ["f:9: transfers.0: found 'move'; expected one of load, retrieve, spill, store",
          "f:9: transfers.1: expected an object with the keys tensor, step, size_bytes, kind"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    changes: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    text = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in (WHOLE | changes).items())
    path.write_text(
        f'{{\n{text},\n"result": {{}}\n}}' if len(changes) == 0 else f"{{\n{text}\n}}", encoding="utf-8"
    )
    with pytest.raises(InputError) as error:
        read_schedule(path)
    assert [str(p).replace(str(path), "f") for p in error.value.problems] == [
        line.replace("f:11", f"f:{len(WHOLE) + 2}") for line in expected
    ]


def test_a_whole_file_is_read_and_others_are_told(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(WHOLE), encoding="utf-8")
    file = read_schedule(path)
    assert (file.graph, file.weights, file.scratchpad_bytes, file.result) == ("g", "stream", 8, {})
    assert file.schedule == Schedule(("a",), (Residence(**STAY),), {"a": 0}, (Transfer(**MOVE),))
    for text, found in (("[]", "'list'"), ("3", "'int'"), ("{}", "None")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as error:
            read_schedule(path)
        assert (
            str(error.value)
            == f"{path}: format: found {found}; expected a schedule of format 'offchip-schedule-1'"
        )
    for wrong, told in ((50, 51), (51, 51)):
        path.write_text(json.dumps(WHOLE | {"residences": [5] * wrong, "transfers": [5]}), encoding="utf-8")
        with pytest.raises(InputError) as error:
            read_schedule(path)
        assert len(error.value.problems) == told
    assert schedule_file.MAX_FILE_BYTES == 256 * 2**20


def tight_graph() -> Graph:
    """The tight problem as a graph, with a weight that streams."""
    return small(
        op("A", "x w1", "a"), op("B", "a", "b"), op("C", "b", "c"), op("E", "c w1", "e"), op("D", "a e", "d"),
        x=2, w1=3, a=4, b=1, c=6, e=2, d=1,
    )  # fmt: skip


def tight_schedule(problem: ScheduleProblem) -> Schedule:
    """'a' leaves before C and comes back for D at another address."""
    stays = stays_of(problem, ORDER, {2: [problem.tensor_index["a"]]})
    names = [problem.tensors[t].name for t, _, _ in stays.spans]
    places = {"x": 0, "a": 2, "b": 6, "c": 0, "e": 6, "d": 4}
    offsets = [places[name] for name in names]
    offsets[next(i for i, span in enumerate(stays.spans) if span[1] == 4 and names[i] == "a")] = 0
    schedule = assemble(problem, stays, offsets)
    assert check(problem, schedule, 8) == []
    return schedule


def test_every_step_becomes_its_transfers_and_one_task(tmp_path: Path) -> None:
    graph = tight_graph()
    problem, system = problem_from_graph(graph), machine(tmp_path, dma=3)
    plan = to_plan(graph, problem, tight_schedule(problem), system)
    assert [
        (t.name, t.stream, dict(t.addresses), t.frees, getattr(t, "source", ""), getattr(t, "streamed", ()))
        for t in plan.tasks
    ] == [
        ("read x for step 0", "npu.dma0", {"x": 0}, (), "dram", ()),
        ("A", "npu.array", {"a": 2}, (("x", "npu"),), "dram", ("w1",)),
        ("B", "npu.array", {"b": 6}, (), "", ()),
        ("write a before step 2", "npu.dma2", {}, (("a", "npu"),), "npu", ()),
        ("C", "npu.array", {"c": 0}, (("b", "npu"),), "", ()),
        ("E", "npu.array", {"e": 6}, (("c", "npu"),), "dram", ("w1",)),
        ("read a for step 4", "npu.dma1", {"a": 0}, (), "dram", ()),
        ("D", "npu.array", {"d": 4}, (("e", "npu"), ("a", "npu")), "", ()),
        ("write d before step 5", "npu.dma2", {}, (("d", "npu"),), "npu", ()),
    ]  # fmt: skip
    assert {name: homes[0].memory for name, homes in plan.homes.items()} == {"x": "dram", "w1": "dram"}
    assert plan.mapper == "schedule"
    notes: Any = plan.notes
    assert (notes.cost_bytes, notes.weights, notes.uncounted_writes) == (8, "stream", None)
    single = to_plan(graph, problem, tight_schedule(problem), machine(tmp_path, dma=1))
    assert {task.stream for task in single.tasks} == {"npu.dma0", "npu.array"}


def test_a_schedule_needs_room_and_a_forward_pass(tmp_path: Path) -> None:
    graph = tight_graph()
    problem = problem_from_graph(graph)
    schedule = tight_schedule(problem)
    to_plan(graph, problem, schedule, machine(tmp_path, size=8))
    high = replace(
        schedule, residences=(*schedule.residences[:-1], replace(schedule.residences[-1], offset=9))
    )
    with pytest.raises(InfeasibleError) as error:
        to_plan(graph, problem, high, machine(tmp_path, size=8))
    top = schedule.residences[-1].size_bytes + 9
    assert str(error.value) == (
        f"the schedule uses {top} bytes of scratchpad; 'npu' has 8: schedule it for at most that (--scratchpad 8)"
    )
    updating = small(op("A", "x", "y", updates="c"), x=2, y=1, c=4)
    wrong = problem_from_graph(updating)
    with pytest.raises(InputError) as update:
        to_plan(updating, wrong, Schedule(("A",), (), {}, ()), machine(tmp_path))
    assert str(update.value) == (
        "operator 'A' updates 'c' in place; a scratchpad machine runs graphs that only make new tensors "
        "(a forward pass)"
    )
    node, off_chip = scratchpad_of(machine(tmp_path), "npu")
    assert (node.name, off_chip) == ("npu", "dram")


def test_fetches_move_ahead_as_far_as_bytes_and_steps_allow() -> None:
    operators = {"a": (1, ""), "b": (2, "a"), "c": (1, "b"), "d": (3, "cw"), "e": (1, "dv")}
    problem = chain_of(operators, {"w": 2, "v": 4}, {"b": 1})
    schedule = solve(problem, 20).schedule
    assert schedule is not None
    assert schedule.order == ("a", "b", "c", "d", "e")

    def starts(capacity: int, steps: int) -> dict[str, int] | None:
        ahead = fetch_ahead(problem, schedule, capacity, steps)
        if ahead is None:
            return None
        assert check(problem, ahead, capacity) == []
        return {stay.tensor: stay.start for stay in ahead.residences if stay.tensor in "wv"}

    # Bytes at the steps: 1, 4, 3, 6 and 8; w (2) comes for step 3, v (4) for step 4.
    assert starts(100, 1) == {"w": 2, "v": 3}
    assert starts(100, 2) == {"w": 1, "v": 2}
    assert starts(100, 9) == {"w": 0, "v": 0}
    assert starts(10, 9) == {"w": 0, "v": 0}
    assert starts(9, 9) == {"w": 0, "v": 4}
    assert starts(8, 9) == {"w": 0, "v": 4}
    assert starts(8, 1) == {"w": 2, "v": 4}
    assert fetch_ahead(problem, schedule, 100, 0) is None
    early = fetch_ahead(problem, schedule, 100, 9)
    assert early is not None
    assert fetch_ahead(problem, early, 100, 9) is None


def test_a_tensor_comes_back_no_earlier_than_it_left() -> None:
    problem = tight()
    stays = stays_of(problem, ORDER, {2: [1]})
    schedule = assemble(problem, stays, _places(problem, stays))
    ahead = fetch_ahead(problem, schedule, 100, 9)
    assert ahead is not None
    assert sorted((s.start, s.end) for s in ahead.residences if s.tensor == "a") == [(0, 2), (2, 5)]
    assert [(m.step, m.kind) for m in ahead.transfers if m.tensor == "a"] == [(2, "spill"), (2, "retrieve")]


def _places(problem: ScheduleProblem, stays: Stays) -> list[int]:
    from mapping.scheduling.stays import find_addresses

    found = find_addresses(problem, stays, 100)
    assert found.offsets is not None
    return [int(at) for at in found.offsets]


class Clockwork:
    """Simulated seconds by schedule, without a simulator."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: list[float], computing: float) -> None:
        self.fidelities: list[str] = []
        self.times, self.computing = list(times), computing
        monkeypatch.setattr(timed, "to_plan", lambda *given: given)
        monkeypatch.setattr(timed, "simulate", self.simulate)

    def simulate(self, workload: Any, system: Any, planner: Any, fidelity: str) -> Any:
        self.fidelities.append(fidelity)
        line = SimpleNamespace(
            kind=["compute", "transfer", "compute"],
            start=[0.0, 1.0, 2.0],
            end=[0.5, 9.0, 2.0 + self.computing - 0.5],
        )
        return SimpleNamespace(
            timeline=line, makespan_s=self.times.pop(0) if len(self.fidelities) > 1 else 99.0
        )


def test_the_fastest_of_the_candidates_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph, system = tight_graph(), machine(tmp_path, size=64)
    problem = problem_from_graph(graph)
    schedules = [replace(tight_schedule(problem), workspaces={"A": n}) for n in range(4)]
    least = result_of(schedules[0], 64)
    monkeypatch.setattr(
        timed, "solve", lambda problem, size, time_limit_s: replace(least, notes={"limit": str(time_limit_s)})
    )
    monkeypatch.setattr(timed, "_candidates", lambda *given: [(f"c{n}", schedules[n]) for n in (1, 2, 3)])
    clockwork = Clockwork(monkeypatch, [5.0, 6.0, 4.0, 4.0], 3.0)
    result = timed.solve_timed(problem, graph, system, 64, fidelity="event", seed=2)
    assert clockwork.fidelities == ["analytic", "event", "event", "event", "event"]
    assert (result.status, result.engine, result.schedule) == ("feasible", "c2", schedules[2])
    assert (result.time_s, result.bound_time_s, result.nodes, result.seed) == (4.0, 3.0, 4, 2)
    assert (result.objective, result.method, result.bound_bytes) == ("time", "auto", 8)
    assert result.notes == {"machine": f"{system.name}, event fidelity"}
    assert result.explanation == (
        "not proved fastest: the bound is all arithmetic in a row, or all compulsory bytes at the wire's full rate"
    )
    clockwork = Clockwork(monkeypatch, [5.0, 3.0], 3.0)
    proved = timed.solve_timed(problem, graph, system, 64)
    assert (proved.status, proved.engine, proved.nodes, proved.explanation) == ("optimal", "c1", 2, None)
    Clockwork(monkeypatch, [2.0], 3.0)
    assert timed.solve_timed(problem, graph, system, 64).bound_time_s == 2.0
    monkeypatch.setattr(timed, "Budget", lambda seconds: SimpleNamespace(spent=True, elapsed=7.5))
    Clockwork(monkeypatch, [5.0], 3.0)
    spent = timed.solve_timed(problem, graph, system, 64)
    assert (spent.nodes, spent.engine, spent.seconds, spent.time_s) == (1, "least traffic", 7.5, 5.0)
    limits: list[Any] = []

    def nothing(problem: Any, size: int, time_limit_s: float | None) -> ScheduleResult:
        limits.append(time_limit_s)
        return replace(least, schedule=None)

    monkeypatch.setattr(timed, "solve", nothing)
    for limit in (None, 9.0):
        assert timed.solve_timed(problem, graph, system, 64, time_limit_s=limit).objective == "time"
    assert limits == [None, 4.5]
    with pytest.raises(InfeasibleError) as error:
        timed.solve_timed(problem, graph, system, 65)
    assert str(error.value) == "'npu' has 64 bytes of scratchpad; 65 were asked for"


def test_the_wire_takes_the_larger_of_what_must_come_and_go(tmp_path: Path) -> None:
    system = machine(tmp_path)
    moves = (Transfer("x", 0, 30, "load"), Transfer("w", 0, 20, "load"), Transfer("a", 1, 999, "spill"),
             Transfer("a", 2, 999, "retrieve"), Transfer("d", 3, 40, "store"))  # fmt: skip
    result = result_of(Schedule((), (), {}, moves))
    assert timed._wire_seconds(system, "npu", "dram", result) == pytest.approx(50 / 10e9)
    out = result_of(Schedule((), (), {}, (*moves, Transfer("e", 3, 60, "store"))))
    assert timed._wire_seconds(system, "npu", "dram", out) == pytest.approx(100 / 10e9)
    assert timed._wire_seconds(system, "npu", "npu", out) == 0.0


def test_candidates_are_fetched_one_two_four_and_eight_steps_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tight()
    least, other = (replace(Schedule((), (), {}, ()), workspaces={"n": n}) for n in range(2))
    monkeypatch.setattr(
        timed, "fetch_ahead", lambda p, schedule, capacity, steps: (schedule, steps) if steps > 1 else None
    )
    answers = {"p": least, "q": None, "r": other, "s": other}
    monkeypatch.setattr(
        timed,
        "BASELINES",
        {name: lambda p, c, s=s: SimpleNamespace(schedule=s) for name, s in answers.items()},
    )
    assert list(timed._candidates(problem, 8, least)) == [
        *((f"least traffic, fetched up to {n} ahead", (least, n)) for n in (2, 4, 8)), ("r", other),
        *((f"r, fetched up to {n} ahead", (other, n)) for n in (2, 4, 8)),
    ]  # fmt: skip


BANKS = [Bank("a", 6), Bank("b", 5)]


def test_banks_that_hold_a_schedule_say_how_far_it_is_proved() -> None:
    result = solve_in_banks(tight(), BANKS, time_limit_s=None, max_states=10_000, seed=3)
    assert (result.status, result.cost_bytes, result.bound_bytes, result.scratchpad_bytes) == (
        "optimal",
        8,
        8,
        11,
    )
    assert (result.method, result.engine, result.seed) == ("banks", "layers, then banks", 3)
    assert result.notes == {"banks": "a 6, b 5"}
    assert result.schedule is not None
    assert check(tight(), result.schedule, 11) == check_banks(result.schedule, BANKS) == []
    whole = solve_in_banks(tight(), [Bank("a", 100)], time_limit_s=None, max_states=10_000)
    assert (whole.status, whole.cost_bytes, whole.explanation) == ("optimal", 0, None)


def test_a_stay_across_two_banks_is_named() -> None:
    stays = [
        Residence("x", 0, 1, 4, 2),
        Residence("y", 0, 1, 5, 2),
        Residence("z", 0, 1, 6, 9),
        Residence("end", 0, 1, 9, 9),
    ]
    schedule = Schedule((), tuple(stays), {}, ())
    assert check_banks(schedule, [*BANKS, Bank("c", 4)]) == [
        "'y' lies across the end of a bank at 6", "'z' lies across the end of a bank at 11",
        "'end' lies across the end of a bank at 11",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "room", "packs"),
    [
        ([], [], True), ([], [3], True), ([3], [3], True), ([4], [3, 3], False), ([3, 3], [3, 3], True),
        ([3, 2, 1], [3, 3], True), ([3, 2, 2], [3, 4], True), ([4, 3, 3], [5, 5], False), ([3, 3, 2, 2], [5, 5], True),
        ([4, 4, 2, 2], [6, 6], True), ([5, 3, 3], [5, 6], True), ([2, 2, 2], [3, 3], False),
    ],
)  # fmt: skip
def test_pieces_are_packed_exactly(sizes: list[int], room: list[int], packs: bool) -> None:
    assert banks_module._packs(sizes, room) == packs


def test_an_operator_that_does_not_divide_is_named() -> None:
    result = solve_in_banks(tight(), [Bank("a", 5), Bank("b", 5)])
    assert (result.status, result.bound_bytes, result.scratchpad_bytes) == ("infeasible", 0, 10)
    assert (result.method, result.engine, result.schedule) == ("banks", "least budget", None)
    assert result.explanation == (
        "operator 'c' needs 7 bytes, which do not divide over the banks (a 5, b 5) without a tensor lying across two; "
        "what could help: larger or fewer banks, the operator split into tiles"
    )
    small_banks = solve_in_banks(tight(), [Bank("a", 6), Bank("b", 1)])
    assert small_banks.explanation == too_small(tight(), 7)
    work = chain_of({"p": (3, ""), "q": (3, "p")}, workspaces={"q": 4})
    assert banks_module._stuck_operator(work, [Bank("a", 6), Bank("b", 4)]) is None
    assert banks_module._stuck_operator(work, [Bank("a", 5), Bank("b", 5)]) == 1
    for banks in ([], [Bank("a", 1), Bank("a", 2)]):
        with pytest.raises(InputError) as error:
            solve_in_banks(tight(), banks)
        assert str(error.value) == "--bank: expected one or more banks of different names"


def test_plans_for_less_room_come_from_dear_to_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tight()
    asked: list[Any] = []
    left: list[float | None] = [8.0]
    schedule = solve(problem, 100).schedule

    def solved(
        problem: Any, room: int, *, time_limit_s: float | None, max_states: int | None, seed: int
    ) -> Any:
        asked.append((room, time_limit_s, max_states, seed))
        return SimpleNamespace(schedule=schedule if len(asked) != 2 else None, bound_bytes=7)

    monkeypatch.setattr(banks_module, "solve", solved)
    budget: Any = SimpleNamespace(seconds_left=lambda: left[0])
    found = list(banks_module._candidates(problem, 30, budget, 5, 3))
    # From 30 bytes to the 8 of the largest operator in eleven steps.
    assert asked == [(30 - 22 * k // 11, 4.0 if k == 0 else 2.0, 5, 3) for k in range(12)]
    assert [bound for _, bound in found] == [7] + [0] * 13
    assert found[0][0] == stays_of(problem, ORDER)
    # At last each of the three orders with every stay one step long.
    short = {(span[0], step, step + 1) for span in stays_of(problem, ORDER).spans for step in range(5)}
    assert all(set(stays.spans) <= short for stays, _ in found[-3:])
    for seconds, share in ((None, None), (0.02, 0.05)):
        left[0] = seconds
        asked.clear()
        list(banks_module._candidates(problem, 30, budget, 5, 3))
        assert {ask[1] for ask in asked} == {share}
    left[0] = 0.0
    asked.clear()
    assert len(list(banks_module._candidates(problem, 30, budget, 5, 3))) == 3
    assert asked == []


def test_the_cheapest_plan_that_divides_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tight()
    plans = {n: SimpleNamespace(cost=lambda p, n=n: (n, 0), name=n) for n in (2, 4, 6, 9)}
    divided: list[int] = []

    def divide(problem: Any, stays: Any, banks: Any, budget: Any) -> Any:
        divided.append(stays.name)
        return [stays.name] if stays.name in fits else None

    monkeypatch.setattr(banks_module, "_divide", divide)
    monkeypatch.setattr(
        banks_module, "assemble", lambda problem, stays, offsets: SimpleNamespace(cost_bytes=stays.name)
    )
    monkeypatch.setattr(banks_module, "check", lambda *given: [])
    monkeypatch.setattr(banks_module, "check_banks", lambda *given: [])
    monkeypatch.setattr(banks_module, "peak_bytes_of", lambda *given: 77)
    order = [(plans[2], 1), (plans[9], 3), (plans[6], 0), (plans[6], 0), (plans[4], 0)]
    monkeypatch.setattr(banks_module, "_candidates", lambda *given: order)
    fits = {4, 6, 9}
    result = solve_in_banks(problem, [Bank("a", 100)])
    assert divided == [2, 9, 6, 4]
    assert (result.status, result.cost_bytes, result.bound_bytes, result.peak_bytes) == ("feasible", 4, 3, 77)
    assert result.explanation == (
        "not proved optimal: the bound of 3 bytes is that of one scratchpad with all the banks' bytes"
    )
    divided.clear()
    fits, order = {2}, [(plans[9], 2), (plans[2], 0), (plans[4], 0)]
    assert (solve_in_banks(problem, [Bank("a", 100)]).status, divided) == ("optimal", [9, 2])
    fits = set()
    none = solve_in_banks(problem, [Bank("a", 100)], seed=4)
    assert (none.status, none.engine, none.bound_bytes, none.seed) == ("unknown", "none", 2, 4)
    assert none.explanation == "no division of a schedule over the banks was found in the time"
    monkeypatch.setattr(banks_module, "check_banks", lambda *given: ["wrong"])
    fits = {9}
    with pytest.raises(PhysicsError, match="the schedule over banks does not hold: wrong"):
        solve_in_banks(problem, [Bank("a", 100)])


def test_offsets_count_from_the_first_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def solved(problem: Any, banks: Any, *, time_limit_s: float | None, max_nodes: int) -> Any:
        asked.append((time_limit_s, max_nodes))
        return plan

    class Plan(SimpleNamespace):
        def peaks(self, banks: Any) -> Any:
            return list(zip(banks, self.tops, strict=True))

    monkeypatch.setattr(banks_module, "solve_banks", solved)
    stays = stays_of(tight(), ORDER)
    banks = [Bank("a", 6), Bank("b", 5), Bank("c", 9)]
    for tops, expected in (((6, 5, 9), [0, 9, 12]), ((7, 5, 9), None), ((6, 5, 10), None)):
        plan: Any = Plan(offsets=np.array([0, 3, 1]), bank=(0, 1, 2), tops=tops)
        budget: Any = SimpleNamespace(seconds_left=lambda: 7.0)
        assert banks_module._divide(tight(), stays, banks, budget) == expected
    plan = None
    for seconds, limit in ((0.01, 0.05), (None, None)):
        late: Any = SimpleNamespace(seconds_left=lambda seconds=seconds: seconds)
        assert banks_module._divide(tight(), stays, banks, late) is None
        assert asked[-1] == (limit, 20_000)
    assert asked[0] == (7.0, 20_000)


def conv_graph() -> Graph:
    tensors = {name: Tensor(name, (4,), "int8") for name in ("x", "a", "b")}
    operators = (op("one", "x", "a"), op("two", "a x", "b"))
    return Graph("g", tensors, operators, ("b",))


def test_finer_cuts_of_some_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    most = {
        ("one", "row"): 8,
        ("two", "row"): 3,
        ("x", "row"): 1,
        ("one", "channel"): 4,
        ("two", "channel"): 6,
    }
    monkeypatch.setattr(tiling, "most_parts", lambda graph, name, axis: most.get((name, axis), 1))

    def finer(cuts: tiling.Cuts, names: list[str], axis: str, factor: int = 2) -> list[tiling.Cuts]:
        return list(tiling._finer(conv_graph(), cuts, names, axis, factor))

    assert finer({}, ["one", "two"], "row") == [{"one": ("row", 2), "two": ("row", 2)}]
    assert finer({"one": ("row", 2)}, ["one", "two"], "row", 4) == [{"one": ("row", 8), "two": ("row", 3)}]
    assert finer({"one": ("row", 8)}, ["one", "one", "x"], "row") == []
    # Rows take the place of channels, never the other way.
    assert finer({"two": ("channel", 4)}, ["two"], "row") == [{"two": ("row", 2)}]
    assert finer({"two": ("row", 3)}, ["two"], "channel") == []
    assert finer({"two": ("channel", 2)}, ["two"], "channel") == [{"two": ("channel", 4)}]
    assert list(tiling._moves(conv_graph(), {}, "two")) == [
        cut
        for factor in (2, 4, 16)
        for cut in (
            {"two": ("row", min(factor, 3))}, {"one": ("row", min(factor, 8))}, {"one": ("row", min(factor, 8))},
            {"two": ("row", min(factor, 3)), "one": ("row", min(factor, 8))},
            {"two": ("channel", min(factor, 6))}, {"one": ("channel", min(factor, 4))},
        )
    ]  # fmt: skip
    assert tiling._strips({"one": ("row", 4), "two": ("row", 3)}) == 5
    assert tiling._strips({}) == 0


def test_strips_are_known_by_their_source() -> None:
    graph = conv_graph()
    assert [
        tiling._source(graph, name)
        for name in ("one.row3", "one.channel12", "one.row", "one.col3", "one", "a.b.row0", "a")
    ] == ["one", "one", "one.row", "one.col3", "one", "a.b", "a"]
    named = Graph("g", {"t.row1": Tensor("t.row1", (4,), "int8")}, (), ())
    assert tiling._source(named, "t.row1") == "t.row1"
    problem = chain_of({"p": (4, ""), "q.row0": (9, "p"), "q.row1": (8, "p"), "r.0x": (1, ["p", "q.row0"])})
    state = tiling.TiledProblem({"q": "tiling"}, graph, problem, 0)  # type: ignore[dict-item]
    assert state.need_bytes == 14
    assert tiling._worst(state) == "r.0x"
    assert [tiling._need_of(state, name) for name in ("q", "p", "q.row0", "r.0x", "none")] == [
        13,
        4,
        13,
        14,
        0,
    ]
    beside = chain_of({"b.row0": (9, ""), "q.row0": (3, ""), "z.row0": (8, "")})
    assert tiling._need_of(tiling.TiledProblem({"q": "tiling"}, graph, beside, 0), "q") == 3  # type: ignore[dict-item]
    bare = tiling.TiledProblem({}, graph, problem, 0)
    assert [tiling._need_of(bare, name) for name in ("q", "q.row1")] == [0, 12]
    first = chain_of({"p": (4, ""), "q.row0": (9, "p"), "q.row1": (9, "p")})
    assert tiling._worst(tiling.TiledProblem({"q": "tiling"}, graph, first, 0)) == "q"  # type: ignore[dict-item]
    assert tiling._worst(tiling.TiledProblem({}, graph, first, 0)) == "q.row0"


def test_quick_schedules_judge_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    state = tiling.TiledProblem({}, conv_graph(), tight(), 5)
    for costs, expected in (
        ((7, 3), (8, 1)),
        ((3, 3), (8, 0)),
        ((None, 4), (9, 1)),
        ((None, None), (1 << 62, None)),
        ((0, 2), (5, 0)),
    ):
        results = [SimpleNamespace(cost_bytes=cost) for cost in costs]
        monkeypatch.setattr(
            tiling,
            "BASELINES",
            {name: lambda p, c, r=r: r for name, r in zip(tiling._QUICK, results, strict=True)},
        )
        total, best = tiling._judge(state, 8)
        assert (total, None if best is None else results.index(best)) == expected
