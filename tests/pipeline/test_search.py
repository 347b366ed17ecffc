"""The best schedule: rules, exact search and programme against each other and against every order there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InfeasibleError, InputError, PhysicsError
from mapping.training.schedule_search import solve as solving
from mapping.training.schedule_search.list_schedule import list_schedule, rules
from mapping.training.schedule_search.problem import PipelineProblem, fits, makespan_bound
from mapping.training.schedule_search.solve import ENGINES, best_schedule
from mapping.training.schedules.action import Action, PipelineSchedule, looped, v_shaped
from mapping.training.schedules.check import violations
from mapping.training.schedules.run import StageTimes, run_schedule
from mapping.training.schedules.write import write_schedule


def orders_of_rank(problem: PipelineProblem, rank: int) -> list[tuple[Action, ...]]:
    """Every order of a rank's passes in which each stage's micro-batches follow each other and memory is kept."""
    stages = [s for s, r in enumerate(problem.rank_of_stage) if r == rank]
    kinds = "FIW" if problem.split else "FB"
    held = problem.held()
    share = {"F": 1.0, "B": -1.0, "I": -problem.times.freed_by_input, "W": problem.times.freed_by_input - 1.0}
    found: list[tuple[Action, ...]] = []

    def go(order: tuple[Action, ...], counts: dict[tuple[int, str], int], size: float) -> None:
        if len(order) == len(stages) * len(kinds) * problem.micro_batches:
            found.append(order)
            return
        for s, kind in product(stages, kinds):
            number = counts.get((s, kind), 0)
            before = kinds[kinds.index(kind) - 1]
            ready = problem.micro_batches if kind == "F" else counts.get((s, before), 0)
            after = size + share[kind] * held[s]
            if number < ready and (kind != "F" or after <= problem.room):
                go((*order, Action(s, kind, number)), counts | {(s, kind): number + 1}, after)  # type: ignore[arg-type]

    go((), {}, 0.0)
    return found


def by_brute_force(problem: PipelineProblem) -> float:
    best = np.inf
    for orders in product(*(orders_of_rank(problem, rank) for rank in range(problem.ranks))):
        schedule = PipelineSchedule("any", problem.micro_batches, problem.rank_of_stage, orders)
        try:
            best = min(best, run_schedule(schedule, problem.times).makespan_s)
        except InputError:
            continue
    return best


BRUTE = (
    PipelineProblem(looped(2, 1), 2, StageTimes([1, 2], [2, 1], [1, 1.5], activation_bytes=1), True, 1),
    PipelineProblem(looped(2, 1), 2, StageTimes([1, 2], [2, 1], [1, 1.5], activation_bytes=1), True, None),
    PipelineProblem(looped(2, 1), 3, StageTimes([1, 1.3], 1, 1, [2, 2.2], communication_s=0.4, activation_bytes=1),
                    False, 2),
    PipelineProblem(looped(3, 1), 2, StageTimes([1, 1.2, 0.9], 1, 1, activation_bytes=[1, 2, 1]), False, 2),
    PipelineProblem(looped(1, 2), 2, StageTimes([1, 2], 1, 1, activation_bytes=1), False, 3),
    PipelineProblem(v_shaped(2), 1, StageTimes([1, 2, 1, 1], [1, 1, 2, 1], 0.5, activation_bytes=1), True, 2),
    PipelineProblem(looped(2, 1), 2, StageTimes(1, [1, 2], 3, activation_bytes=1, freed_by_input=0.5), True, 1.5),
)  # fmt: skip


@pytest.mark.parametrize("problem", BRUTE, ids=range(len(BRUTE)))
def test_against_every_order(problem):
    least = by_brute_force(problem)
    assert makespan_bound(problem) <= least + 1e-9
    for engine in ("search", "mip"):
        found = best_schedule(problem, engine=engine, moves=0)
        assert found.status == "optimal"
        assert found.makespan_s == pytest.approx(least)
        assert found.bound_s == pytest.approx(least)
        assert found.gap == pytest.approx(0, abs=1e-9)


@st.composite
def problems(draw):
    ranks, shape = draw(st.integers(2, 3)), draw(st.sampled_from(["one", "v", "looped"]))
    layout = {"one": looped(ranks, 1), "v": v_shaped(ranks), "looped": looped(ranks, 2)}[shape]
    m = draw(st.integers(1, 3 if shape == "one" else 2))
    row = st.lists(st.integers(2, 9).map(lambda n: n / 4), min_size=len(layout), max_size=len(layout))
    times = StageTimes(
        draw(row), draw(row), draw(row), communication_s=draw(st.sampled_from([0.0, 0.3])), activation_bytes=1.0,
        freed_by_input=draw(st.sampled_from([0.0, 0.5])),
    )  # fmt: skip
    least = len(layout) // ranks
    memory = draw(st.sampled_from([None, least, least + 1, least + 0.5]))
    return PipelineProblem(layout, m, times, draw(st.booleans()), memory)


@given(problems())
@settings(max_examples=25, deadline=None)
def test_the_engines_agree(problem):
    search = best_schedule(problem, engine="search", moves=2000, time_limit_s=20)
    programme = best_schedule(problem, engine="mip", moves=0, time_limit_s=20)
    if search.status == programme.status == "optimal":
        assert search.makespan_s == pytest.approx(programme.makespan_s, rel=1e-6)
    for found in (search, programme):
        assert violations(found.schedule) == []
        assert makespan_bound(problem) <= found.bound_s * (1 + 1e-9)
        assert found.bound_s <= found.makespan_s * (1 + 1e-9)
        assert found.run.peak_bytes.max() <= problem.room
        assert fits(problem, found.schedule) == found.makespan_s
        assert not any(a.kind in "IW" for order in found.schedule.orders for a in order) or problem.split


@given(problems())
@settings(max_examples=60, deadline=None)
def test_every_rule_gives_a_schedule_within_the_memory(problem):
    for rule in rules(problem):
        made = list_schedule(problem, rule)
        assert violations(made) == []
        length = fits(problem, made)
        assert length is not None
        assert length >= makespan_bound(problem) * (1 - 1e-9)


@pytest.mark.parametrize(("ranks", "m", "memory"), [(8, 24, 8), (8, 24, 4), (16, 48, 12), (6, 12, 2)])
def test_larger_ones_are_no_worse_than_what_is_known(ranks, m, memory):
    times = StageTimes(1.0, 1.1, 0.9, communication_s=0.02, activation_bytes=1.0)
    problem = PipelineProblem(looped(ranks, 1), m, times, True, memory)
    found = best_schedule(problem, engine="rules", moves=20_000)
    assert found.run.peak_bytes.max() <= memory
    assert found.bound_s <= found.makespan_s
    for name in ("1f1b", "zb-h1", "zb-h2"):
        known = fits(problem, write_schedule(name, ranks, m))
        assert known is None or found.makespan_s <= known + 1e-9


def test_the_improvement_finds_the_optimum_of_a_tight_case():
    times = StageTimes(1.0, 1.1, 0.9, activation_bytes=1.0)
    problem = PipelineProblem(looped(4, 1), 8, times, True, 3)
    found = best_schedule(problem, engine="rules", moves=300_000)
    assert found.makespan_s == pytest.approx(31.8)
    assert best_schedule(problem, engine="rules", moves=300_000).schedule == found.schedule


def test_memory_that_holds_no_micro_batch_is_infeasible():
    problem = PipelineProblem(v_shaped(2), 2, StageTimes(activation_bytes=1.0), True, 1.5)
    for engine in ENGINES:
        with pytest.raises(InfeasibleError, match="rank 0 holds one micro-batch"):
            best_schedule(problem, engine=engine)
    enough = PipelineProblem(v_shaped(2), 2, StageTimes(activation_bytes=1.0), True, 2.0)
    assert best_schedule(enough).status == "optimal"


def test_bad_problems():
    with pytest.raises(InputError, match="unknown engine 'milp'"):
        best_schedule(BRUTE[0], engine="milp")
    with pytest.raises(InputError, match="above zero"):
        PipelineProblem(looped(2, 1), 2, StageTimes(), True, -1)
    with pytest.raises(InputError, match="at least one"):
        PipelineProblem((), 2, StageTimes())


def test_a_schedule_that_does_not_hold_is_never_given(monkeypatch):
    """Trips the guard: an improvement that loses a pass."""

    def damaged(problem, schedule, *_):
        orders = tuple(order[:-1] for order in schedule.orders)
        return PipelineSchedule("improved", schedule.micro_batches, schedule.rank_of_stage, orders)

    monkeypatch.setattr(solving, "improved", damaged)
    problem = PipelineProblem(looped(4, 1), 8, StageTimes(1, 1.1, 0.9, activation_bytes=1.0), True, 3)
    with pytest.raises(PhysicsError, match="engine improved does not hold: stage 0, micro-batch 7: found I"):
        best_schedule(problem, engine="rules")


def test_no_time_still_gives_an_honest_answer():
    problem = PipelineProblem(looped(4, 1), 8, StageTimes(1, 1.1, 0.9, activation_bytes=1.0), True, 3)
    found = best_schedule(problem, engine="search", max_nodes=50, moves=0)
    assert found.status == "feasible"
    assert found.bound_s < found.makespan_s
    assert 0 < found.gap < 1
