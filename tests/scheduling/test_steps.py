"""How a solve goes about: what it tries, in which order and with what effort, and what each answer proves."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from hw_configs.problems import InputError, PhysicsError
from mapping.deadline import Budget
from mapping.scheduling import ScheduleProblem, solve, solving
from mapping.scheduling import by_parts as parts_module
from mapping.scheduling import peak as peak_module
from mapping.scheduling.baselines import BASELINES
from mapping.scheduling.by_parts import cut_into_parts, divided, part_problem
from mapping.scheduling.instance import build_instance
from mapping.scheduling.result import PeakResult, Schedule, ScheduleResult
from mapping.scheduling.search import COST_SCALE, NO_LIMIT, LayerSearch, SearchAnswer, scaled
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import stays_of
from tests.scheduling.brute_force import least_cost_of_bytes
from tests.scheduling.build import chain_of
from tests.scheduling.strategies import problems

SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
TIGHT = {"a": (4, "x"), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}
ORDER = (0, 1, 2, 3, 4)
METHODS = "expected one of auto, ilp, decompose, divide, given-order"


def tight() -> ScheduleProblem:
    """'a' (4 bytes) must leave for a while in 8 bytes: a spill and a retrieve."""
    return chain_of(TIGHT, {"x": 2})


def run_of(problem: ScheduleProblem | None = None, capacity: int = 8, **limits: Any) -> SolverRun:
    return SolverRun(problem or tight(), capacity, Budget(**limits), 0)


def moved(cost: int) -> Any:
    """Stays that say they cost so much (scaled)."""
    return SimpleNamespace(cost=lambda problem: divmod(cost, COST_SCALE), order=(cost,), spans=())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "decompos"}, f"--method: found 'decompos'; {METHODS} (did you mean 'decompose'?)"),
        ({"objective": "peek"}, "--objective: found 'peek'; expected one of bytes, peak, time (did you mean 'peak'?)"),
        ({"objective": "time"}, "--objective: time needs a machine; call solve_timed with one"),
        ({"scratchpad_bytes": -1}, "--scratchpad: found -1; expected 0 to 2**60 bytes"),
        ({"scratchpad_bytes": 2**60 + 1}, f"--scratchpad: found {2**60 + 1}; expected 0 to 2**60 bytes"),
        ({"time_limit_s": 0.0}, "--time-limit: found 0; expected seconds above zero"),
        ({"time_limit_s": -1.5}, "--time-limit: found -1.5; expected seconds above zero"),
        ({"method": "ilp", "objective": "peak"}, "--method: the least peak is searched exactly; leave --method out"),
        ({"method": "x", "scratchpad_bytes": -1},
         f"--method: found 'x'; {METHODS}\n--scratchpad: found -1; expected 0 to 2**60 bytes"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_all_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        solve(tight(), **({"scratchpad_bytes": 8} | options))
    assert str(error.value) == words


def test_a_solve_takes_the_way_that_its_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def note(name: str) -> Any:
        def call(problem: ScheduleProblem, size: int, **options: Any) -> str:
            seen.append((name, size, options))
            return name

        return call

    monkeypatch.setattr(solving, "solve_peak", note("peak"))
    monkeypatch.setattr(solving, "solve_by_ilp", note("ilp"))
    assert solve(tight(), 8, objective="peak", time_limit_s=3.0, seed=4) == "peak"
    assert solve(tight(), 8, method="ilp", time_limit_s=3.0, seed=4) == "ilp"
    assert seen == [(name, 8, {"time_limit_s": 3.0, "seed": 4}) for name in ("peak", "ilp")]
    below = solve(tight(), 7, method="ilp", objective="bytes", seed=4)
    assert (below.status, below.engine, below.method, below.bound_bytes) == (
        "infeasible",
        "least budget",
        "ilp",
        0,
    )
    assert (below.cost_bytes, below.peak_bytes, below.seed, below.scratchpad_bytes) == (None, None, 4, 7)
    budgets: list[Any] = []
    real = solving.Budget

    def budget(*limits: Any) -> Budget:
        budgets.append(limits)
        return real(*limits)

    monkeypatch.setattr(solving, "Budget", budget)
    monkeypatch.setattr(solving, "_search", lambda run, method: seen.append((method, run.seed)))
    monkeypatch.setattr(solving, "_lower_peak", lambda run: seen.append("lower"))
    seen.clear()
    for limits in ({"time_limit_s": None}, {"time_limit_s": None, "max_states": 7}, {}, {"max_states": 9}):
        open_result = solve(tight(), 8, method="divide", seed=6, **limits)  # type: ignore[arg-type]
    assert budgets == [(None, solving.DEFAULT_MAX_STATES), (None, 7), (60.0, None), (60.0, 9)]
    assert seen == [("divide", 6)] * 4
    assert (open_result.status, open_result.cost_bytes, open_result.bound_bytes) == ("feasible", 8, 0)
    free = solve(tight(), 100)
    assert seen[4:] == ["lower"]
    assert free.cost_bytes == 0


def test_baselines_are_offered_until_one_is_free_of_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[Any] = []
    ordered: list[str] = []

    class Run(SimpleNamespace):
        def offer(self, stays: Any, name: str, offsets: Any) -> None:
            offered.append((name, stays, offsets))
            self.best = stays
            self.cost = self.costs.pop(0)

        def share_of_time(self, share: float) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

    def order_named(problem: Any, name: str) -> str:
        ordered.append(name)
        return f"<{name}>"

    monkeypatch.setattr(solving, "order_named", order_named)
    monkeypatch.setattr(
        solving, "baseline_stays", lambda problem, order, policy, capacity: ((order, policy), capacity)
    )
    run = Run(
        problem=None, capacity=8, cost=9, best=None, costs=[5] * 20, budget=SimpleNamespace(spent=False)
    )
    solving._warm_start(run)  # type: ignore[arg-type]
    assert [name for name, _, _ in offered] == list(BASELINES)
    assert offered[0] == ("given/belady", ("<given>", "belady"), 8)
    assert offered[4] == ("min-peak/lru", ("<min-peak>", "lru"), 8)
    assert offered[-1] == ("static-arena", ("<given>", "static-arena"), 8)
    assert ordered == ["given", "min-peak", "depth-first"]
    for costs, spent, count in (([5, 0, 0], False, 2), ([5, 5], True, 1), ([1, 0], False, 2)):
        offered.clear()
        run = Run(
            problem=None,
            capacity=8,
            cost=9,
            best=None,
            costs=list(costs),
            budget=SimpleNamespace(spent=spent),
        )
        solving._warm_start(run)  # type: ignore[arg-type]
        assert len(offered) == count


def test_layers_widen_by_eight_up_to_the_widest() -> None:
    def widths(widest: int, up_to: int | None) -> list[int]:
        return list(solving._widths(SimpleNamespace(widest=widest), up_to))  # type: ignore[arg-type]

    assert widths(10**6, None) == [64, 512, 4096, 32768, 262144, 10**6]
    assert widths(4096, None) == [64, 512, 4096]
    assert widths(10**6, 512) == [64, 512]
    assert widths(64, 512) == [64]
    assert widths(10, None) == [10]


def test_the_parts_of_a_search_follow_its_method_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(solving, "LayerSearch", lambda *given: "search")
    monkeypatch.setattr(solving, "_widen", lambda run, search, up_to: seen.append(up_to))
    monkeypatch.setattr(solving, "raise_bound_by_parts", lambda run: seen.append("bound"))
    monkeypatch.setattr(solving, "raise_bound_by_residency", lambda run: seen.append("certain"))
    monkeypatch.setattr(solving, "raise_bound_by_cuts", lambda run: seen.append("cuts"))
    monkeypatch.setattr(solving, "offer_beams", lambda run: seen.append("beams"))
    monkeypatch.setattr(solving, "improve_by_orders", lambda run: seen.append("orders"))
    monkeypatch.setattr(solving, "solve_given_order", lambda run: seen.append("given"))
    monkeypatch.setattr(
        solving, "improve_by_parts", lambda run: (seen.append("improve"), setattr(run, "proved", run.after))
    )

    def search(
        method: Any, operators: int, proved: bool = False, spent: bool = False, after: bool = False
    ) -> list[Any]:
        seen.clear()
        run = SimpleNamespace(
            problem=SimpleNamespace(operators=range(operators)), capacity=8, proved=proved, after=after,
            budget=SimpleNamespace(spent=spent), share_of_time=contextlib.nullcontext,
        )  # fmt: skip
        solving._search(run, method)  # type: ignore[arg-type]
        return list(seen)

    assert search("divide", 5) == ["beams", "cuts", "bound", "improve", 512]
    assert search("auto", 149) == ["beams", "cuts", None]
    assert search("decompose", 150) == ["beams", "cuts", None]
    assert search("given-order", 150) == ["given"]
    assert search("auto", 150) == ["certain", "cuts", "orders", 512, "bound", "improve", None, "orders"]
    assert search("auto", 2001) == ["certain", "cuts", "orders"]
    assert search("auto", 150, proved=True) == []
    assert search("auto", 150, spent=True) == []
    assert search("auto", 150, after=True) == ["certain", "cuts", "orders", 512, "bound", "improve"]


class Layers:
    """A search that answers from a list, and spends some states each time."""

    widest = 4096

    def __init__(self, run: SolverRun, *answers: SearchAnswer) -> None:
        self.run_, self.answers, self.asked, self.looked = run, list(answers), [], 0  # type: ignore[var-annotated]

    def run(self, below: int, width: int, **options: Any) -> SearchAnswer:
        self.asked.append((below, width, options.get("max_states")))
        self.run_.budget.nodes += 10
        return self.answers.pop(0)

    def look_ahead(self) -> None:
        self.looked += 1


def started(cost: int, **limits: Any) -> SolverRun:
    run = run_of(**limits)
    run.best, run.engine = (cost, moved(cost), [0]), "start"
    return run


def test_wider_layers_look_for_less_than_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[Any] = []
    monkeypatch.setattr(solving, "solve_with_cuts", lambda run, seconds: cuts.append(seconds))
    monkeypatch.setattr(SolverRun, "offer", lambda run, stays, engine: bool(run.__dict__.update(
        best=(stays.order[0], stays, [0]), engine=engine)) or True)  # fmt: skip
    run = started(90 * COST_SCALE, max_nodes=1000)
    layers = Layers(
        run, SearchAnswer(None, None, 20 * COST_SCALE, 10),
        SearchAnswer(70 * COST_SCALE, moved(70 * COST_SCALE), 30 * COST_SCALE, 10),
        SearchAnswer(60 * COST_SCALE, moved(60 * COST_SCALE), NO_LIMIT, 10),
    )  # fmt: skip
    solving._widen(run, layers, None)  # type: ignore[arg-type]
    assert layers.asked == [
        (90 * COST_SCALE, 64, 1000), (90 * COST_SCALE, 512, 990), (70 * COST_SCALE, 4096, 980),
    ]  # fmt: skip
    assert (run.engine, run.cost, run.bound) == ("layers/4096", 60 * COST_SCALE, 60 * COST_SCALE)
    assert (run.ties_proven, layers.looked, cuts) == (True, 2, [])
    endless = started(90 * COST_SCALE)
    layers = Layers(endless, SearchAnswer(None, None, NO_LIMIT, 10))
    solving._widen(endless, layers, None)  # type: ignore[arg-type]
    assert layers.asked == [(90 * COST_SCALE, 64, 1 << 40)]
    assert endless.bound == 90 * COST_SCALE
    spent = started(90 * COST_SCALE, max_nodes=0)
    solving._widen(spent, Layers(spent), None)  # type: ignore[arg-type]


def test_a_second_opinion_is_asked_for_once_before_layers_grow_large(monkeypatch: pytest.MonkeyPatch) -> None:
    opinions: list[Any] = []

    def cuts(run: SolverRun, seconds: float | None) -> None:
        opinions.append(seconds)
        if proof:
            run.best = (50, moved(50), [0])
            run.bound = 50

    monkeypatch.setattr(solving, "solve_with_cuts", cuts)
    many = solving._SECOND_OPINION_STATES // 8
    for states, up_to, proof, expected, asked in (  # noqa: B007
        (many, None, False, [], 3), (many + 1, None, False, [10.0], 3), (many + 1, 4096, False, [], 3),
        (many + 1, None, True, [10.0], 1),
    ):  # fmt: skip
        opinions.clear()
        run = started(90 * COST_SCALE)
        layers = Layers(run, *[SearchAnswer(None, None, 0, states)] * 3)
        solving._widen(run, layers, up_to)  # type: ignore[arg-type]
        assert (opinions, len(layers.asked)) == (expected, asked)


def test_a_proved_cost_is_searched_for_ties_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "solve_with_cuts", lambda run, seconds: None)
    for nodes, asked in ((400_000 - 10, 2), (400_000 - 9, 1)):
        run = started(5 * COST_SCALE + 3)
        run.budget.nodes = nodes
        proof = SearchAnswer(None, None, 5 * COST_SCALE + 1, 1)
        layers = Layers(run, proof, replace(proof, bound=NO_LIMIT))
        solving._widen(run, layers, None)  # type: ignore[arg-type]
        assert len(layers.asked) == asked


def test_other_orders_in_less_room_are_tried_before_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[Any] = []
    cuts: list[Any] = []

    class Tighter:
        def __init__(self, problem: Any, room: int, budget: Any, instance: Any) -> None:
            assert instance == "instance"
            self.room = room

        def run(self, below: int, width: int, rank: Any) -> SearchAnswer:
            rooms.append((self.room, below, width))
            assert sorted(rank) == [0, 1, 2, 3, 4]
            return (
                SearchAnswer(cheap, moved(cheap), 0, 1)
                if len(rooms) == found
                else SearchAnswer(None, None, 0, 1)
            )

    monkeypatch.setattr(solving, "LayerSearch", Tighter)
    monkeypatch.setattr(solving, "solve_with_cuts", lambda run, seconds: cuts.append(seconds))

    def offer(run: SolverRun, stays: Any, engine: str) -> bool:
        assert engine == "layers/other orders"
        run.best = (stays.order[0], stays, [0])
        return fits

    monkeypatch.setattr(SolverRun, "offer", offer)
    search: Any = SimpleNamespace(instance="instance")
    cheap = 7 * COST_SCALE
    for found, fits, optimum, tries, ties in (  # noqa: B007
        (3, True, cheap, 3, True), (3, False, cheap, 8, False), (3, True, cheap - 1, 8, False),
        (0, True, cheap, 8, False),
    ):  # fmt: skip
        rooms.clear()
        cuts.clear()
        run = started(90 * COST_SCALE)
        run.capacity = 40
        solving._fit_addresses(run, search, optimum)
        # From 40 bytes half way down to the 8 of the largest operator, in eight steps.
        assert [room for room, _, _ in rooms] == [40 - 2 * k for k in range(tries)]
        assert rooms[0][1:] == (90 * COST_SCALE, 512)
        assert (run.ties_proven, cuts) == (ties, [] if ties else [None])
    spent = started(90 * COST_SCALE, max_nodes=0)
    rooms.clear()
    cuts.clear()
    solving._fit_addresses(spent, search, 7)
    assert (rooms, cuts) == ([], [])


def test_the_peak_at_the_least_cost_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Room:
        def __init__(self, problem: Any, capacity: int, budget: Budget, instance: Any) -> None:
            self.capacity, self.budget = capacity, budget

        def run(self, below: int, width: int, max_states: int) -> SearchAnswer:
            asked.append((self.capacity, below, width, max_states))
            self.budget.nodes += 5
            bound = NO_LIMIT if complete else 0
            return (
                SearchAnswer(9, moved(9), bound, 5)
                if self.capacity >= least
                else SearchAnswer(None, None, bound, 5)
            )

    monkeypatch.setattr(solving, "LayerSearch", Room)
    monkeypatch.setattr(solving, "_pack_lower", lambda run, stays, high, middle: middle + slack)
    for least, complete, slack, capacities, proven in (  # noqa: B007
        (20, True, 0, [23, 15, 19, 21, 20], True), (20, False, 0, [23, 15, 19, 21, 20], False),
        (20, True, -2, [23, 14, 17, 19, 20], True), (8, True, 1, [23, 31, 35, 37, 38, 39], False),
    ):  # fmt: skip
        asked.clear()
        run = started(9, max_nodes=10**6)
        assert solving._bisect_peak(run, 40 if slack == 1 else 39, 100, None) == proven
        assert [ask[0] for ask in asked] == capacities
        assert asked[0][1:] == (10, 512, 100)
        assert asked[1][3] == 95
    least, complete, slack = 20, True, 0
    for states, tries in ((4, 1), (5, 2)):
        asked.clear()
        assert not solving._bisect_peak(started(9), 39, states, None)
        assert len(asked) == tries
    assert asked[-1][3] == 1
    late = started(9)
    monkeypatch.setattr(Budget, "elapsed", property(lambda self: self.nodes / 5))
    asked.clear()
    assert not solving._bisect_peak(late, 39, 100, 1.0)
    assert len(asked) == 2
    asked.clear()
    assert not solving._bisect_peak(started(9, max_nodes=0), 39, 100, None)
    assert solving._bisect_peak(started(9), 8, 100, None)
    assert asked == []


def test_ties_are_broken_by_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tight()
    stays = stays_of(problem, ORDER)
    run = run_of(problem, 100, seconds=None)
    # x 0, a 20, b 40, c 60, e 80, d 90: the peak is 91 and could be 12.
    run.best = (0, stays, [0, 20, 40, 60, 80, 90])
    asked: list[Any] = []

    def least(problem: Any, *, time_limit_s: float | None, max_states: int) -> PeakResult:
        asked.append((time_limit_s, max_states))
        return PeakResult("optimal", bound + 1, bound, ORDER, 0.0, 0)

    monkeypatch.setattr(solving, "least_peak", least)
    for bound, proven in ((12, True), (11, False)):  # noqa: B007
        run.best = (0, stays, [0, 20, 40, 60, 80, 90])
        solving._lower_peak(run)
        assert run.best is not None
        assert max(np.add(run.best[2], [2, 4, 1, 6, 2, 1])) == 12
        assert run.ties_proven == proven
    assert asked == [(None, 400_000)] * 2
    monkeypatch.setattr(Budget, "seconds_left", lambda self: left)
    monkeypatch.setattr(solving, "_pack_lower", lambda run, stays, high, capacity=None: high)
    for left, seconds in ((8.0, 2.0), (400.0, 10.0)):  # noqa: B007
        solving._lower_peak(run)
        assert asked[-1] == (seconds, 400_000)
    wide = chain_of({f"o{i}": (1, [f"o{i - 1}"] if i else []) for i in range(128)})
    long_run = run_of(wide, 100)
    long_run.best = (0, stays_of(wide, range(128)), [i % 2 for i in range(128)])
    solving._lower_peak(long_run)
    assert asked[-1][1] == 200_000
    halved: list[Any] = []
    monkeypatch.setattr(
        solving,
        "_bisect_peak",
        lambda run, high, states, seconds: halved.append((high, states, seconds)) or answer,
    )
    for answer, before, after in ((True, True, True), (True, False, False), (False, True, False)):  # noqa: B007
        run.best, run.ties_proven = (3, stays, [0, 20, 40, 60, 80, 90]), before
        solving._lower_peak(run)
        assert run.ties_proven == after
    assert halved == [(91, 400_000, 10.0)] * 3


def test_addresses_are_taken_where_they_lie_lower() -> None:
    problem = tight()
    stays, run = stays_of(problem, ORDER), run_of(tight(), 100)
    run.best = (0, stays, [0, 20, 40, 60, 80, 90])
    assert solving._pack_lower(run, stays, 12) == 12
    assert run.best[2] == [0, 20, 40, 60, 80, 90]
    assert solving._pack_lower(run, stays, 91) == 12
    assert run.best[:2] == (0, stays)
    assert max(np.add(run.best[2], [2, 4, 1, 6, 2, 1])) == 12


def test_no_schedule_at_all_is_told_with_the_tightest_operator() -> None:
    run = run_of(tight(), 9, max_nodes=50)
    run.bound, run.budget.nodes = 3 * COST_SCALE + 7, 42
    result = solving._answer(run, "auto")
    assert (result.status, result.schedule, result.cost_bytes, result.bound_bytes) == (
        "unknown",
        None,
        None,
        3,
    )
    assert (result.nodes, result.engine, result.method, result.scratchpad_bytes) == (42, "none", "auto", 9)
    assert result.explanation == (
        "no schedule was found in the time; the tightest operator is 'e': 8 bytes (8 B) of 9 bytes (9 B); "
        "what could help: more time (--time-limit), a larger scratchpad (--scratchpad)"
    )


def test_a_schedule_that_does_not_hold_is_never_given() -> None:
    run = run_of(tight(), 100)
    run.best, run.engine = (0, stays_of(tight(), ORDER), [0] * 6), "hand"
    with pytest.raises(PhysicsError) as error:
        solving._answer(run, "auto")
    assert str(error.value) == (
        "the engine hand made a schedule that does not hold: step 0: 'x' and 'a' share the bytes 0 to 2"
    )


def test_ties_are_proved_only_beside_the_cost() -> None:
    problem = tight()
    stays = stays_of(problem, ORDER, {2: [1]})
    for bound, ties, expected in ((8, True, True), (8, False, False), (7, True, False)):
        run = run_of(problem, 100)
        run.best = (scaled(8, 2), stays, [0, 20, 40, 60, 80, 90, 30])
        run.bound, run.ties_proven = bound * COST_SCALE, ties
        result = solving._answer(run, "divide")
        assert (result.ties_proven, result.status) == (expected, "optimal" if bound == 8 else "feasible")
        assert (result.method, result.peak_bytes, result.cost_bytes, result.bound_bytes) == (
            "divide",
            94,
            8,
            bound,
        )


def test_a_run_keeps_the_cheaper_plan_and_asks_for_addresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tight()
    run = run_of(problem, 12)
    assert (run.cost, run.proved) == (1 << 62, False)
    plain = stays_of(problem, ORDER)
    assert run.offer(plain, "first")
    assert (run.engine, run.cost, run.proved) == ("first", 0, True)
    assert not run.offer(plain, "again")
    narrow = run_of(problem, 11)
    assert not narrow.offer(plain, "first")
    assert narrow.best is None
    monkeypatch.setattr("mapping.scheduling.solver_run.find_addresses", None)
    assert not narrow.offer(plain, "again")
    assert narrow.offer(plain, "given", [0] * 6)
    assert narrow.best == (0, plain, [0] * 6)


def test_parts_are_cut_where_the_fewest_bytes_are_alive() -> None:
    sizes = [9, 9, 9, 9, 1, 9, 9, 9, 9, 9, 2, 9, 9, 9]
    chain = chain_of({f"o{i}": (size, [f"o{i - 1}"] if i else []) for i, size in enumerate(sizes)})
    order = tuple(range(14))
    assert parts_module._live_after(chain, order) == [*sizes[:-1], 0]
    # The first part has 2 to 6 operators; the cheapest place to cut is behind operator 4, then behind 10.
    assert cut_into_parts(chain, order, 4) == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9, 10), (11, 12, 13)]
    # All places alike: the nearest to the wanted size. What is left over stays whole up to half as much again.
    for count, parts in ((6, [6]), (7, [5, 2]), (14, [5, 5, 4])):
        level = chain_of({f"o{i}": (3, [f"o{i - 1}"] if i else []) for i in range(count)})
        assert [len(part) for part in cut_into_parts(level, range(count), 4)] == parts


def test_a_divided_problem_runs_part_by_part() -> None:
    problem = tight()
    listed = divided(problem, [(0, 1), (2, 3), (4,)])
    assert [(op.name, op.after) for op in listed.operators] == [
        ("a", ()), ("b", ()), ("c", (0, 1)), ("e", (0, 1)), ("d", (2, 3)),
    ]  # fmt: skip
    assert listed.tensors == problem.tensors
    swapped = chain_of({"a": (1, ""), "b": (2, ""), "c": (3, "ab")})
    other = divided(swapped, [(1,), (0, 2)])
    assert [(op.name, op.inputs, op.after) for op in other.operators] == [
        ("b", (), ()), ("a", (), (0,)), ("c", (0, 1), (0,)),
    ]  # fmt: skip
    assert [(t.producer, t.consumers) for t in other.tensors] == [(1, (2,)), (0, (2,)), (2, ())]


def test_a_part_owns_the_tensors_of_most_of_their_uses() -> None:
    # x: a; a: a b d; b: b c; c: c e; e: e d; d: d
    problem = tight()
    part = part_problem(problem, build_instance(problem), (1, 2, 0))
    assert [op.name for op in part.operators] == ["a", "b", "c"]
    assert [(t.name, t.producer, t.consumers, t.copy_free) for t in part.tensors] == [
        ("a", 0, (1,), False), ("b", 1, (2,), False),
    ]  # fmt: skip
    # What is not its own counts as a workspace of the operator: x for a, c for c.
    assert [(op.inputs, op.outputs, op.workspace_bytes) for op in part.operators] == [
        ((), (0,), 2), ((0,), (1,), 0), ((1,), (), 6),
    ]  # fmt: skip
    assert [op.after for op in part.operators] == [(), (0,), (0, 1)]
    tail = part_problem(problem, build_instance(problem), (1, 4))
    assert [(t.name, t.producer, t.consumers, t.copy_free) for t in tail.tensors] == [("a", -1, (0, 1), True)]
    assert [(op.workspace_bytes, op.after) for op in tail.operators] == [(1, ()), (3, (0,))]


def test_operators_of_a_part_wait_for_those_before_them_alone() -> None:
    problem = chain_of({"a": (1, ""), "b": (2, ""), "c": (3, "a"), "d": (4, "bc")})
    part = part_problem(problem, build_instance(problem), (0, 1, 2, 3))
    assert [op.after for op in part.operators] == [(), (), (0,), (0, 1, 2)]


@SOME
@given(problem=problems(most_bytes=6))
def test_the_bounds_of_parts_add_up_to_a_bound(problem: ScheduleProblem) -> None:
    instance, order = build_instance(problem), tuple(range(len(problem.operators)))
    capacity = problem.least_budget
    parts = cut_into_parts(problem, order, 2)
    assert sorted(o for part in parts for o in part) == list(order)
    run = run_of(problem, capacity)
    bounds = [parts_module._part_bound(run, part_problem(problem, instance, part)) for part in parts]
    assert sum(bounds) // COST_SCALE <= (least_cost_of_bytes(problem, capacity) or 0)
    whole = parts_module._part_bound(run, part_problem(problem, instance, order))
    assert whole // COST_SCALE == (least_cost_of_bytes(part_problem(problem, instance, order), capacity) or 0)


def test_parts_are_tried_in_all_sizes_and_cut_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def attempt(run: SolverRun, order: Sequence[int], about: int, seen: set[Any]) -> None:
        tried.append((tuple(order), about))
        if len(tried) == better:
            run.best = (run.cost - 1, SimpleNamespace(order=(9,)), [0])  # type: ignore[assignment]

    monkeypatch.setattr(parts_module, "_try_parts", attempt)
    monkeypatch.setattr(parts_module, "order_named", lambda problem, name: (name,))
    sizes = (24, 40, 16, 64)
    for better, orders in (  # noqa: B007
        (0, [(7,), ("given",), ("min-peak",), ("depth-first",)]),
                           (3, [(7,), ("given",), ("min-peak",), ("depth-first",), (9,)])):  # fmt: skip
        run = started(5 * COST_SCALE)
        run.best = (5 * COST_SCALE, SimpleNamespace(order=(7,)), [0])  # type: ignore[assignment]
        tried.clear()
        parts_module.improve_by_parts(run)
        assert tried == [(order, about) for order in orders for about in sizes]
    tried.clear()
    better = 0
    parts_module.improve_by_parts(run_of())
    assert [order for order, _ in tried[::4]] == [("given",), ("min-peak",), ("depth-first",)]
    tried.clear()
    run.bound = run.cost
    parts_module.improve_by_parts(run)
    parts_module.improve_by_parts(started(5 * COST_SCALE, max_nodes=0))
    assert tried == []


def test_a_part_is_searched_twice_and_no_division_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Search:
        def __init__(self, problem: ScheduleProblem, capacity: int, budget: Budget) -> None:
            self.names = [op.name for op in problem.operators]

        def run(self, below: int, width: int) -> SearchAnswer:
            asked.append((self.names, below, width))
            return answers.pop(0)

    offered: list[Any] = []
    monkeypatch.setattr(parts_module, "LayerSearch", Search)
    monkeypatch.setattr(SolverRun, "offer", lambda run, stays, engine: offered.append((stays.order, engine)))
    better = SearchAnswer(70, SimpleNamespace(order=(1, 0, 2), spans=()), 0, 1)  # type: ignore[arg-type]
    answers = [better, SearchAnswer(None, None, NO_LIMIT, 1), SearchAnswer(None, None, NO_LIMIT, 1)]
    seen: set[Any] = set()
    run = run_of(chain_of({"a": (1, ""), "b": (2, ""), "c": (3, "ab")}))
    run.best = (90, moved(90), [0])
    parts_module._try_parts(run, (1, 0, 2), 24, seen)
    assert asked == [(["b", "a", "c"], 90, 64), (["b", "a", "c"], 70, 1024)]
    # Numbers of the divided problem become those of the whole.
    assert offered == [((0, 1, 2), "parts/24")]
    parts_module._try_parts(run, (0, 1, 2), 24, seen)
    assert len(asked) == 2
    parts_module._try_parts(run, (1, 0, 2), 40, seen)
    assert len(asked) == 3


def test_the_least_footprint_says_what_it_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(peak_module.time, "perf_counter", lambda: now[0])
    asked: list[Any] = []
    real = peak_module.find_addresses

    def least(problem: ScheduleProblem, *, time_limit_s: float | None) -> PeakResult:
        now[0] += 3.0
        return PeakResult("optimal", 12, bound, ORDER, 3.0, 17)

    def addresses(problem: Any, stays: Any, capacity: Any, *, seconds: float | None) -> Any:
        asked.append(seconds)
        return real(problem, stays, capacity)

    monkeypatch.setattr(peak_module, "least_peak", least)
    monkeypatch.setattr(peak_module, "find_addresses", addresses)
    for capacity, bound, status in (
        (12, 12, "optimal"), (13, 12, "optimal"), (12, 11, "feasible"), (11, 11, "unknown"), (11, 12, "infeasible"),
    ):  # fmt: skip
        result: ScheduleResult = peak_module.solve_peak(tight(), capacity, time_limit_s=5.0, seed=2)
        inside = capacity >= 12
        assert (result.status, result.bound_bytes, result.nodes, result.seed) == (status, bound, 17, 2)
        assert (result.peak_bytes, result.cost_bytes) == ((12, 0) if inside else (None, None))
        assert (result.schedule is not None) == inside == (result.explanation is None)
        assert (result.method, result.engine, result.objective, result.seconds) == (
            "auto",
            "down-sets",
            "peak",
            3.0,
        )
    assert result.explanation is not None
    assert result.explanation.startswith(
        "without spills every order needs at least 12 bytes, and 11 are there; with spills it runs from 8 bytes "
        "(--objective bytes); operator '"
    )
    peak_module.solve_peak(tight(), 12, time_limit_s=None)
    peak_module.solve_peak(tight(), 12, time_limit_s=3.1)
    assert asked == [2.0] * 5 + [None, 0.5]


def result_of(objective: str, **values: Any) -> ScheduleResult:
    empty = {"schedule": None, "cost_bytes": None, "bound_bytes": 0, "peak_bytes": None, "seconds": 0.0}
    return ScheduleResult("feasible", "m", "e", 8, **(empty | values), objective=objective)  # type: ignore[arg-type]


def test_a_gap_is_of_what_was_minimised() -> None:
    assert result_of("bytes").gap is None
    assert result_of("bytes", cost_bytes=8, bound_bytes=6, peak_bytes=100).gap == 0.25
    assert result_of("bytes", cost_bytes=0, bound_bytes=0).gap == 0.0
    assert result_of("peak", cost_bytes=8, bound_bytes=6, peak_bytes=24).gap == 0.75
    assert result_of("time", cost_bytes=8, time_s=2.0, bound_time_s=1.0).gap == 0.5
    assert result_of("time", time_s=2.0).gap is None
    nothing = result_of("bytes")
    assert (nothing.order, nothing.residences, dict(nothing.workspaces), nothing.transfers) == (
        (),
        (),
        {},
        (),
    )
    assert nothing.transfer_count is None
    schedule = Schedule(("a",), (), {"a": 3}, ())
    some = result_of("bytes", schedule=schedule)
    assert (some.order, some.workspaces, some.transfer_count) == (("a",), {"a": 3}, 0)


def test_a_search_says_how_wide_its_layers_may_be_and_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    search = LayerSearch(tight(), 8, Budget())
    # One word of operators, one of tensors: 8 * (1 + 3 + 8) bytes a row, an eighth of the memory.
    assert search.widest == (1 << 30) // (8 * 96)
    wide = LayerSearch(chain_of({f"o{i}": (1, [f"o{i - 1}"] if i else []) for i in range(80)}), 8, Budget())
    assert wide.widest == (1 << 30) // (8 * 8 * (2 + 6 + 8))
    monkeypatch.setattr("mapping.scheduling.search._LAYER_BYTES", 1)
    assert search.widest == 64
    monkeypatch.undo()
    assert scaled(3, 2) == 3 * COST_SCALE + 2
    limits: list[Any] = []

    def kernel(question: Any, stop: Any) -> tuple[Any, ...]:
        limits.append(question.limits)
        return cost, np.array([0, 1, 2, 3, 4]), np.array([[0]] * 3 + [[1]] + [[0]]), missed, 11, 0

    monkeypatch.setattr("mapping.scheduling.search.search_by_layer", kernel)
    for cost, missed, bound in (  # noqa: B007
        (-1, 40, 40), (-1, 49, 49), (-1, 50, NO_LIMIT), (30, 29, 29), (30, 30, NO_LIMIT), (30, 40, NO_LIMIT),
        (60, 49, 49), (60, 55, NO_LIMIT), (0, 0, NO_LIMIT),
    ):  # fmt: skip
        answer = search.run(50, 70, max_states=9)
        assert (answer.bound, answer.states, answer.complete) == (bound, 11, bound == NO_LIMIT)
        assert answer.cost == (None if cost < 0 else cost)
        assert (answer.stays is None) == (cost < 0)
    assert search._budget.nodes == 99
    first = limits[0]
    assert tuple(first) == (8, 1, 50, 70, True, 9, 8 * search.widest)
    # Bit 0 of the row of step 3 drops tensor 'a', which comes back for its next use.
    assert answer.stays is not None
    assert [span for span in answer.stays.spans if span[0] == 1] == [(1, 0, 2), (1, 4, 5)]
    search.run(50, 1 << 40)
    assert limits[-1].width == search.widest
