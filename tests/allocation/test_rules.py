"""Plans under rules against an oracle that tries every offset; and the checker against plans that break each rule."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError, PhysicsError
from mapping.allocation import AllocationProblem, Buffer, check, lower_bound, peak_of, solve
from mapping.allocation.result import Move
from mapping.allocation.rules import Rules
from mapping.allocation.storage_model import groups_of, model_of
from mapping.allocation.storage_search import broken, plan_of, search
from mapping.deadline import Budget


def least_peak_by_trying(problem: AllocationProblem, most: int) -> int | None:
    """The least peak of any plan without moves that the checker takes, by trying every offset below ``most``."""
    choices = [
        [int(problem.fixed[i])] if problem.fixed[i] >= 0 else range(0, most + 1, int(problem.alignment[i]))
        for i in range(len(problem))
    ]
    peaks = [
        peak_of(problem, offsets)
        for offsets in product(*choices)
        if not check(problem, offsets, most, limit=1)
    ]
    return min(peaks, default=None)


@st.composite
def buffers(draw: st.DrawFn, count: int, aligned: bool = True) -> list[Buffer]:
    listed = []
    for i in range(count):
        lower = draw(st.integers(0, 3))
        alignment = draw(st.sampled_from([1, 1, 2])) if aligned else 1
        size = draw(st.integers(1, 4))
        listed.append(Buffer(f"b{i}", lower, draw(st.integers(lower + 1, 4)), size, alignment))
    return listed


def pairs_of(count: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(
        lambda pair: pair[0] < pair[1]
    )


@st.composite
def ruled(draw: st.DrawFn) -> AllocationProblem:
    count = draw(st.integers(2, 4))
    listed = draw(buffers(count))
    some = st.lists(pairs_of(count), max_size=2, unique=True)
    separate = draw(some)
    shared = [pair for pair in draw(some) if pair not in separate]
    inside = [(a, b) if listed[a].size <= listed[b].size else (b, a) for a, b in draw(some)]
    alias = draw(st.sampled_from([(), ((0, 1),), ((0, count - 1),)]))
    boundary = {i: draw(st.sampled_from([4, 5])) for i in range(count) if draw(st.booleans())}
    rules = Rules(alias, tuple(inside), tuple(separate), tuple(shared), boundary=boundary)
    try:
        return AllocationProblem.of(listed, rules=rules)
    except InputError:
        assume(False)
        raise


@given(ruled(), st.sampled_from(["auto", "mip"]))
@settings(max_examples=60, deadline=None)
def test_the_least_peak_is_that_of_trying_every_offset(problem: AllocationProblem, engine: str) -> None:
    most = 10
    right = least_peak_by_trying(problem, most)
    found = solve(problem, max_nodes=50_000, engine=engine)  # type: ignore[arg-type]
    if found.status == "infeasible" or found.peak_bytes is None:
        assert right is None
        return
    assert lower_bound(problem) <= found.bound_bytes <= found.peak_bytes
    if right is None:
        assert found.peak_bytes > most
    else:
        assert (found.status, found.peak_bytes) == ("optimal", right)
    below = solve(problem, found.peak_bytes - 1, max_nodes=50_000, engine=engine)  # type: ignore[arg-type]
    assert below.status == "infeasible"
    assert solve(problem, found.peak_bytes, max_nodes=50_000).status in ("optimal", "feasible")


def least_cost_of_moves(
    problem: AllocationProblem, most: int, capacity: int | None, cost: float
) -> float | None:
    """The least peak and cost of moves (or bytes moved below a capacity), by trying every place of every part."""
    parts = [len(problem.rules.moves.get(i, ())) + 1 for i in range(len(problem))]
    best: float | None = None
    for places in product(range(most + 1), repeat=sum(parts)):
        at = iter(places)
        offsets, moves = [], []
        for i, count in enumerate(parts):
            last = next(at)
            offsets.append(last)
            for k in range(count - 1):
                here = next(at)
                if here != last:
                    moves.append(Move(i, problem.rules.moves[i][k], here))
                last = here
        moved = sum(int(problem.size[move.buffer]) for move in moves)
        value = moved if capacity is not None else peak_of(problem, offsets, moves) + cost * moved
        if (best is None or value < best) and not check(
            problem, offsets, capacity or most, moves=moves, limit=1
        ):
            best = value
    return best


@st.composite
def moving(draw: st.DrawFn) -> AllocationProblem:
    count = draw(st.integers(2, 3))
    listed = [replace(buffer, size=min(buffer.size, 3)) for buffer in draw(buffers(count, aligned=False))]
    mobile = [i for i, buffer in enumerate(listed) if buffer.upper - buffer.lower > 1][: 4 - count]
    assume(mobile)
    moves = {i: (draw(st.integers(listed[i].lower + 1, listed[i].upper - 1)),) for i in mobile}
    separate = draw(st.lists(pairs_of(count), max_size=1))
    return AllocationProblem.of(listed, rules=Rules(moves=moves, separate=tuple(separate)))


@given(moving(), st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=15, deadline=None)
def test_moves_cost_the_least(problem: AllocationProblem, cost: float) -> None:
    most = 6
    right = least_cost_of_moves(problem, most, None, cost)
    assume(right is not None)
    found = solve(problem, max_nodes=50_000, move_cost=cost)
    assert found.peak_bytes is not None
    assert found.status == "optimal"
    assert found.peak_bytes + cost * found.moved_bytes == pytest.approx(right)
    for capacity in (found.peak_bytes, found.bound_bytes):
        below = solve(problem, capacity, max_nodes=50_000)
        moved = least_cost_of_moves(problem, capacity, capacity, 0.0)
        if moved is None:
            assert below.status == "infeasible"
        else:
            assert (below.status, below.moved_bytes, below.cost) == ("optimal", moved, moved)


def test_a_move_makes_room_where_fragments_stood() -> None:
    """Two small buffers leave a hole each; the large one fits only after the upper one has moved down."""
    listed = [
        Buffer("a", 0, 2, 4), Buffer("b", 0, 6, 2), Buffer("c", 4, 6, 6), Buffer("d", 0, 2, 2),
    ]  # fmt: skip
    still = AllocationProblem.of(
        [
            replace(listed[0], offset=0),
            replace(listed[1], offset=4),
            replace(listed[2]),
            replace(listed[3], offset=6),
        ]
    )
    assert solve(still, 8).status == "infeasible"
    free = AllocationProblem.of(
        [replace(listed[0], offset=0), listed[1], listed[2], replace(listed[3], offset=6)],
        rules=Rules(moves={1: (3,)}),
    )
    found = solve(free, 8)
    assert (found.status, found.moved_bytes, found.moves) == (
        "optimal",
        2,
        (Move(1, 3, found.moves[0].offset),),
    )


@pytest.mark.parametrize(
    ("rules", "offsets", "kind"),
    [
        (Rules(alias=((0, 1),)), (0, 2), "alias"),
        (Rules(inside=((1, 0),)), (0, 3), "inside"),
        (Rules(separate=((0, 2),)), (0, 4, 1), "separate"),
        (Rules(boundary={0: 4}), (2, 8), "boundary"),
        (Rules(shared=((0, 2),)), (0, 1), "overlap"),
    ],
)
def test_the_checker_sees_each_broken_rule(rules: Rules, offsets: tuple[int, ...], kind: str) -> None:
    listed = [Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 2), Buffer("c", 5, 6, 4)]
    problem = AllocationProblem.of(listed, rules=rules)
    assert kind in [violation.kind for violation in check(problem, [*offsets, 12][:3])]


def test_the_checker_sees_wrong_moves() -> None:
    listed = [Buffer("a", 0, 4, 4, alignment=2), Buffer("b", 2, 4, 4)]
    problem = AllocationProblem.of(listed, rules=Rules(moves={0: (2,)}))
    assert check(problem, [4, 0], moves=[Move(0, 2, 8)]) == []
    kinds = {
        violation.kind
        for move in (Move(0, 1, 8), Move(0, 2, 9), Move(0, 2, 2), Move(1, 3, 8))
        for violation in check(problem, [4, 0], 12, moves=[move])
    }
    assert kinds == {"moves", "alignment", "overlap", "capacity"}
    # The place left is in use to the end of the moment of the copy.
    assert [v.kind for v in check(problem, [0, 0], moves=[Move(0, 2, 8)])] == ["overlap"]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (Rules(inside=((0, 1),)), "fits inside its input"),
        (Rules(inside=((1, 0), (1, 2))), "inside two buffers"),
        (Rules(inside=((0, 2), (2, 0))), "inside itself"),
        (Rules(separate=((0, 0),)), "paired with itself"),
        (Rules(alias=((0, 1),), separate=((0, 1),)), "one storage"),
        (Rules(separate=((0, 1),), shared=((1, 0),)), "may never"),
        (Rules(boundary={0: 3}), "at least its size"),
        (Rules(moves={0: (0,)}), "rising times inside its life"),
        (Rules(moves={0: (1,)}, alias=((0, 1),)), "one of the two"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(rules: Rules, told: str) -> None:
    listed = [Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 2), Buffer("c", 5, 6, 4)]
    with pytest.raises(InputError, match=told):
        AllocationProblem.of(listed, rules=rules)


def test_boundaries_and_shares_at_a_size_beyond_trying() -> None:
    """300 buffers: the plan holds, and the bound is below it."""
    listed = [Buffer(f"b{i}", i, i + 3 + i % 7, 100 + 37 * (i % 11), 4) for i in range(300)]
    rules = Rules(
        boundary=dict.fromkeys(range(300), 1024), shared=tuple((i, i + 1) for i in range(0, 298, 9))
    )
    found = solve(AllocationProblem.of(listed, rules=rules), max_nodes=2000)
    assert found.peak_bytes is not None
    assert found.bound_bytes <= found.peak_bytes <= 1.5 * found.bound_bytes


def test_a_pair_kept_apart_counts_its_own_bytes_not_those_of_its_aliases() -> None:
    listed = [Buffer("a", 0, 2, 1), Buffer("b", 3, 4, 3), Buffer("c", 0, 2, 3)]
    problem = AllocationProblem.of(listed, rules=Rules(alias=((0, 1),), separate=((0, 2),)))
    found = solve(problem)
    assert (found.status, found.peak_bytes) == ("optimal", 4)


def test_a_plan_that_breaks_a_promise_trips_the_guard() -> None:
    listed = [Buffer("a", 0, 2, 4, 2), Buffer("b", 1, 3, 2), Buffer("c", 1, 3, 2, offset=8)]
    problem = AllocationProblem.of(listed, rules=Rules(boundary={0: 8}, inside=((1, 0),), separate=((0, 2),)))
    model = model_of(problem, groups_of(problem))
    good = search(model, None, "auto", Budget(None, 1000))
    assert good.offsets is not None
    assert not broken(model, good.offsets)
    scale = 8 // model.unit
    for s, place in ((0, scale), (1, scale), (2, 0), (0, scale // 2 + 1), (0, -1)):
        wrong = good.offsets.copy()
        wrong[s] = place
        assert broken(model, wrong)
        with pytest.raises(PhysicsError, match="does not hold"):
            plan_of(problem, model, replace(good, offsets=wrong), None, Budget(None, 1), 0)


def test_a_bound_counts_only_bytes_that_no_pair_may_share() -> None:
    listed = [Buffer("a", 0, 2, 5), Buffer("b", 0, 2, 4), Buffer("c", 0, 2, 3)]
    rules = Rules(shared=((0, 1), (0, 2)))
    problem = AllocationProblem.of(listed, rules=rules)
    assert lower_bound(problem) == 5
    found = solve(problem)
    assert (found.status, found.peak_bytes, found.bound_bytes) == ("optimal", 7, 7)
    assert solve(problem, 6).status == "infeasible"


def test_pins_of_one_place_that_differ_are_told() -> None:
    listed = [Buffer("a", 0, 2, 4, offset=0), Buffer("b", 3, 4, 4, offset=4), Buffer("c", 3, 4, 4, 3)]
    found = solve(AllocationProblem.of(listed, rules=Rules(alias=((0, 1),))))
    assert found.status == "infeasible"
    assert found.explanation is not None
    assert "have one place and are pinned at 0 and 4" in found.explanation.message
    other = solve(AllocationProblem.of(listed[1:], rules=Rules(alias=((0, 1),))))
    assert other.explanation is not None
    assert "would not be aligned to 3" in other.explanation.message
    clash = [Buffer("a", 0, 2, 4, offset=0), Buffer("b", 3, 4, 4, offset=2)]
    never = solve(AllocationProblem.of(clash, rules=Rules(separate=((0, 1),), boundary={0: 8})))
    assert never.status == "infeasible"
    assert "None" not in str(never.explanation and never.explanation.message)
