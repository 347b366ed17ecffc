"""Buffers that move between places and banks: against every bank and offset of every part, and the checker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError, PhysicsError
from mapping.allocation import AllocationProblem, Buffer, Gap, solve
from mapping.allocation import banks as banks_module
from mapping.allocation.bank_choice import BankChoice
from mapping.allocation.banks import NO_CAPACITY, Bank, solve_banks, why_infeasible
from mapping.allocation.check_banks import check_banks, cost_in_banks
from mapping.allocation.parts import Parts
from mapping.allocation.result import Move
from mapping.allocation.rules import Rules
from tests.allocation.test_rules import moving, pairs_of

Place = tuple[int, int]


def cheapest_with_moves(
    problem: AllocationProblem, banks: list[Bank], most: int, price: float
) -> float | None:
    """The least cost over every bank and offset below ``most`` of every part of every life; None without a plan."""
    rules, n = problem.rules, len(problem)
    parts = []
    for i in range(n):
        times = rules.moves.get(i, ())
        parts += list(
            zip(
                [i] * (len(times) + 1),
                [int(problem.lower[i]), *times],
                [*times, int(problem.upper[i])],
                strict=True,
            )
        )
    chosen: list[Place] = []
    best: float | None = None

    def clash(p: int, place: Place, q: int) -> bool:
        (i, begin, end), (k, other_begin, other_end) = parts[p], parts[q]
        if (k, i) in rules.alias:
            return place != chosen[q]
        if (k, i) in rules.inside or (i, k) in rules.inside:
            (out, low), (into, high) = ((i, place), (k, chosen[q]))[:: 1 if (i, k) in rules.inside else -1]
            reach = int(problem.size[into] - problem.size[out])
            return not (low[0] == high[0] and high[1] <= low[1] <= high[1] + reach)
        if i == k or place[0] != chosen[q][0]:
            return i != k and place[0] == chosen[q][0] and (i, k) in rules.apart
        if (k, i) in rules.apart:
            return True
        # At the moment of a copy both places are in use.
        meet = max(begin, other_begin) < min(
            end + (end < problem.upper[i]), other_end + (other_end < problem.upper[k])
        )
        together = place[1] < chosen[q][1] + problem.size[k] and chosen[q][1] < place[1] + problem.size[i]
        return bool(together and ((k, i) in rules.separate or (meet and (k, i) not in rules.shared)))

    def cost() -> float:
        total = 0.0
        peak = [0] * len(banks)
        for p, ((i, begin, end), (b, at)) in enumerate(zip(parts, chosen, strict=False)):
            size = int(problem.size[i])
            life = int(problem.upper[i] - problem.lower[i])
            total += banks[b].cost_per_byte * size * (end - begin) / life
            peak[b] = max(peak[b], at + size)
            if p and parts[p - 1][0] == i and chosen[p - 1] != (b, at):
                total += price * size
        return total + sum(bank.cost_per_size_byte * top for bank, top in zip(banks, peak, strict=True))

    def extend() -> None:
        nonlocal best
        p = len(chosen)
        # No cost falls with more parts placed.
        now = cost()
        if best is not None and now >= best:
            return
        if p == len(parts):
            best = now
            return
        i = parts[p][0]
        for b, bank in enumerate(banks):
            if bank.name not in rules.banks.get(i, (bank.name,)):
                continue
            for at in range(
                0, min(bank.capacity, most) - int(problem.size[i]) + 1, int(problem.alignment[i])
            ):
                step = rules.boundary.get(i, NO_CAPACITY)
                crosses = at // step != (at + int(problem.size[i]) - 1) // step
                if not crosses and not any(clash(p, (b, at), q) for q in range(p)):
                    chosen.append((b, at))
                    extend()
                    chosen.pop()

    extend()
    return best


@st.composite
def movers(draw: st.DrawFn) -> tuple[AllocationProblem, list[Bank], float]:
    count = draw(st.integers(2, 4))
    listed = []
    for i in range(count):
        lower = draw(st.integers(0, 3))
        size = draw(st.integers(1, 3))
        listed.append(
            Buffer(f"b{i}", lower, draw(st.integers(lower + 1, 6)), size, draw(st.sampled_from([1, 1, 1, 2])))
        )
    # Long ones move, one of them twice; six parts in all at most.
    longest = sorted(range(count), key=lambda i: listed[i].lower - listed[i].upper)
    moves = {}
    for i, most in zip(longest, (2, 1) if count < 4 else (1, 1), strict=False):
        inner = range(listed[i].lower + 1, listed[i].upper)
        if inner:
            times = draw(st.lists(st.sampled_from(inner), min_size=1, max_size=most, unique=True))
            moves[i] = tuple(sorted(times))
    assume(moves)
    pair = st.lists(pairs_of(count), max_size=1)
    separate = draw(pair)
    shared = [two for two in draw(pair) if two not in separate]
    banks = {
        i: draw(st.sampled_from([("x",), ("y",), ("x", "y")]))
        for i in range(count)
        if draw(st.integers(0, 5)) == 0
    }
    apart = draw(pair) if draw(st.integers(0, 3)) == 0 else []
    boundary = {i: draw(st.integers(3, 4)) for i in range(count) if draw(st.integers(0, 5)) == 0}
    alias, inside = [], []
    still = [i for i in range(count) if i not in moves]
    if len(still) > 1 and draw(st.booleans()):
        small, large = sorted(still[:2], key=lambda i: listed[i].size)
        if draw(st.booleans()):
            alias = [tuple(still[:2])]
        else:
            inside = [(small, large)]
    rules = Rules(
        tuple(alias), tuple(inside), tuple(separate), tuple(shared), banks, tuple(apart), boundary, moves
    )
    memories = [
        Bank(
            "x",
            draw(st.integers(2, 4)),
            draw(st.sampled_from([0.0, 1.0])),
            draw(st.sampled_from([0.0, 0.0, 2.0])),
        ),
        draw(
            st.sampled_from(
                [Bank("y", 2, 3.0), Bank("y", 6, 3.0), Bank("y", 6, 3.0), Bank("y", NO_CAPACITY, 0.0, 3.0)]
            )
        ),
    ]
    try:
        return AllocationProblem.of(listed, rules=rules), memories, draw(st.sampled_from([0.0, 0.25, 0.5]))
    except InputError:
        assume(False)
        raise


@given(movers())
@settings(max_examples=25, deadline=None)
def test_the_cheapest_banks_places_and_moves(case: tuple[AllocationProblem, list[Bank], float]) -> None:
    problem, banks, price = case
    right = cheapest_with_moves(problem, banks, 6, price)
    plan = solve_banks(problem, banks, time_limit_s=200, max_nodes=20_000, move_cost=price)
    told = why_infeasible(problem, banks, time_limit_s=200)
    if plan is not None and max(plan.peak_bytes) > 6:
        # An arena that is larger than what was tried.
        assert told is None
        assert right is None or plan.cost <= right
        return
    if right is None:
        assert plan is None
        assert told is not None
        return
    assert told is None
    assert plan is not None
    assert (plan.cost, plan.bound, plan.status) == (pytest.approx(right), pytest.approx(right), "optimal")


@given(moving(), st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=15, deadline=None)
def test_one_bank_is_one_arena(problem: AllocationProblem, price: float) -> None:
    """An arena alone costs what the least peak and its moves do; below that, a bank the fewest bytes moved."""
    whole = solve(problem, max_nodes=50_000, move_cost=price)
    plan = solve_banks(problem, [Bank("x", NO_CAPACITY, 0.0, 1.0)], max_nodes=50_000, move_cost=price)
    assert plan is not None
    assert whole.peak_bytes is not None
    cost = whole.peak_bytes + price * whole.moved_bytes
    assert (plan.status, plan.cost) == ("optimal", pytest.approx(cost))
    below = solve(problem, whole.peak_bytes, max_nodes=50_000)
    small = solve_banks(problem, [Bank("x", whole.peak_bytes)], max_nodes=50_000, move_cost=1.0)
    assert small is not None
    assert (small.status, small.cost) == ("optimal", below.moved_bytes)


def test_a_move_to_another_bank_makes_room_where_the_first_one_is_full() -> None:
    """Both ends of a life in the near bank, which another buffer fills in between; far costs by the time there."""
    listed = [Buffer("long", 0, 9, 4), Buffer("wide", 4, 6, 8)]
    banks = [Bank("near", 8), Bank("far", 64, 1.0)]
    # The wide one may move as well; it stays, and at that moment its bytes count once.
    rules = Rules(banks={1: ("near",)}, moves={0: (3, 6), 1: (5,)})
    plan = solve_banks(AllocationProblem.of(listed, rules=rules), banks)
    assert plan is not None
    # Away from the end of moment 3 to moment 6, a third of its life.
    assert (plan.status, plan.cost, plan.bank) == ("optimal", pytest.approx(4 * 3 / 9), (0, 0))
    assert plan.moves == (Move(0, 3, 0, "far"), Move(0, 6, plan.moves[1].offset, "near"))
    assert (plan.moved_bytes, plan.peak_bytes) == (8, (8, 4))
    # At 0.5 a byte two copies cost more than the time away saves.
    dear = solve_banks(AllocationProblem.of(listed, rules=rules), banks, move_cost=0.5)
    assert dear is not None
    assert (dear.cost, dear.moves, dear.bank) == (4.0, (), (1, 0))
    # A copy back at moment 5 meets the wide one.
    early = Rules(banks={1: ("near",)}, moves={0: (3, 5)})
    plan = solve_banks(AllocationProblem.of(listed, rules=early), banks)
    assert plan is not None
    assert plan.cost == pytest.approx(4 * 6 / 9)


def test_a_move_inside_a_bank_closes_a_hole() -> None:
    """As in one arena: the large buffer fits only after the small one has moved down; the other bank is for another."""
    listed = [
        Buffer("a", 0, 2, 4, offset=0), Buffer("b", 0, 6, 2), Buffer("c", 4, 6, 6), Buffer("d", 0, 2, 2, offset=6),
        Buffer("e", 0, 6, 8),
    ]  # fmt: skip
    near = dict.fromkeys(range(4), ("near",))
    banks = [Bank("near", 8), Bank("far", 8, 1.0)]
    still = AllocationProblem.of(listed, rules=Rules(banks=near))
    assert solve_banks(still, banks) is None
    assert why_infeasible(still, banks) is not None
    problem = AllocationProblem.of(listed, rules=Rules(banks=near, moves={1: (3,)}))
    plan = solve_banks(problem, banks, move_cost=0.25)
    assert plan is not None
    assert (plan.status, plan.cost, plan.moved_bytes) == ("optimal", 8.5, 2)
    assert [(move.buffer, move.time, move.bank) for move in plan.moves] == [(1, 3, "near")]
    assert why_infeasible(problem, banks) is None
    # Under a price of the near bank's size the copy still is the only way.
    arena = solve_banks(problem, [Bank("near", 8, 0.0, 2.0), banks[1]], move_cost=0.25)
    assert arena is not None
    assert (arena.status, arena.cost) == ("optimal", 24.5)


def test_the_master_learns_what_copies_inside_a_bank_cost() -> None:
    """Closing the hole costs more than the far bank; a move between banks later on leaves no plan without moves."""
    listed = [
        Buffer("a", 0, 2, 4, offset=0), Buffer("b", 0, 6, 2), Buffer("c", 4, 6, 6), Buffer("d", 0, 2, 2, offset=6),
        Buffer("long", 10, 19, 4), Buffer("block", 10, 12, 8), Buffer("wide", 14, 16, 8),
    ]  # fmt: skip
    banks = {0: ("near",), 1: ("near",), 3: ("near",), 5: ("far",), 6: ("near",)}
    problem = AllocationProblem.of(listed, rules=Rules(banks=banks, moves={1: (3,), 4: (13,)}))
    memories = [Bank("near", 8), Bank("far", 8, 0.05)]
    plan = solve_banks(problem, memories, move_cost=0.25)
    assert plan is not None
    # The block, the copy of the long one and two thirds of its life far away, and the large one far away.
    assert (plan.status, plan.cost) == ("optimal", pytest.approx(0.4 + 1.0 + 0.2 * 2 / 3 + 0.3))
    assert [(move.buffer, move.bank) for move in plan.moves] == [(4, "far")]
    # A cheaper copy closes the hole.
    plan = solve_banks(problem, memories, move_cost=0.1)
    assert plan is not None
    assert (plan.status, plan.cost, plan.moved_bytes) == (
        "optimal",
        pytest.approx(0.4 + 0.4 + 0.2 * 2 / 3 + 0.2),
        6,
    )


def many(count: int) -> AllocationProblem:
    """Buffers of many sizes of which every third may move once."""
    listed = [Buffer(f"b{i}", i, i + 4 + i * 7 % 13, 5 + i * 37 % 61) for i in range(count)]
    return AllocationProblem.of(listed, rules=Rules(moves={i: (i + 2,) for i in range(0, count, 3)}))


def test_a_plan_without_moves_is_packed_by_the_portfolio() -> None:
    """Three per cent above the most live bytes of 80 buffers; orders of pairs alone end 18 % above them."""
    found = solve(many(80), 430, time_limit_s=8, max_nodes=50_000)
    assert (found.bound_bytes, found.status, found.moved_bytes) == (418, "optimal", 0)


def test_assignments_with_room_left_have_places() -> None:
    problem = many(40)
    banks = [Bank("near", 200), Bank("far", 4096, 1.0)]
    parts = Parts.of(problem)
    choice = BankChoice.of(parts.problem, banks, {})
    moving_parts = banks_module._Moving(parts, 0.1, time.perf_counter() + 60)
    plan = banks_module._with_room(banks, choice, None, 20_000, 0, moving_parts)
    assert plan is not None
    banks_module._insist(problem, banks, plan, 0.1)
    assert (
        banks_module._with_room(banks, choice, replace(plan, cost=0.0), 20_000, 0, moving_parts).cost == 0.0
    )  # type: ignore[union-attr]


def test_gaps_with_moves_are_refused() -> None:
    listed = [Buffer("a", 0, 4, 2, gaps=(Gap(1, 2),))]
    problem = AllocationProblem.of(listed, rules=Rules(moves={0: (3,)}))
    with pytest.raises(InputError, match="'a' has gaps and moves"):
        solve_banks(problem, [Bank("x", 9), Bank("y", 9)])


LISTED = [Buffer("a", 0, 4, 4, 2), Buffer("b", 0, 4, 4), Buffer("p", 5, 6, 2, offset=2)]
RULES = Rules(banks={0: ("x", "y")}, apart=((0, 1),), boundary={1: 8}, moves={0: (2,), 1: (2,)})
ROOM = {"x": 8, "y": 12, "z": 4}


@pytest.mark.parametrize(
    ("bank", "offsets", "moves", "kind"),
    [
        ("xyx", (0, 0, 2), (), None),
        ("xyx", (0, 0, 2), (Move(0, 2, 4, "x"), Move(1, 2, 0, "z")), None),
        ("zyx", (0, 0, 2), (), "bank"),
        ("xyx", (0, 0, 2), (Move(0, 2, 0, "z"),), "bank"),
        ("xyx", (0, 0, 2), (Move(0, 2, 0, "w"),), "bank"),
        ("xxx", (0, 4, 2), (), "apart"),
        ("xyx", (0, 0, 2), (Move(1, 2, 4, "x"),), "apart"),
        ("xyx", (6, 0, 2), (), "capacity"),
        ("xyx", (0, 0, 2), (Move(1, 2, 1, "z"),), "capacity"),
        ("xyx", (0, 0, 2), (Move(0, 2, -2, "x"),), "capacity"),
        ("xyx", (0, 0, 3), (), "pin"),
        ("xyx", (0, 0, 2), (Move(0, 2, 3, "x"),), "alignment"),
        ("xyx", (0, 6, 2), (), "boundary"),
        ("xyx", (0, 0, 2), (Move(0, 3, 4, "x"),), "moves"),
    ],
)  # fmt: skip
def test_the_checker_sees_what_is_wrong_in_banks(
    bank: str, offsets: tuple[int, ...], moves: tuple[Move, ...], kind: str | None
) -> None:
    problem = AllocationProblem.of(LISTED, rules=RULES)
    found = {violation.kind for violation in check_banks(problem, ROOM, bank, offsets, moves)}
    assert found == (set() if kind is None else {kind})


def test_both_places_of_a_copy_are_in_use() -> None:
    """The bank that is left stays in use to the end of the moment, the other one is from its begin on."""
    listed = [Buffer("a", 0, 4, 4), Buffer("b", 2, 3, 4)]
    problem = AllocationProblem.of(listed, rules=Rules(moves={0: (2,)}))
    for bank, there in (("xx", "y"), ("xy", "y")):
        wrong = check_banks(problem, ROOM, bank, (0, 0), (Move(0, 2, 0, there),))
        assert [violation.kind for violation in wrong] == ["overlap"]
    later = AllocationProblem.of(
        [listed[0], replace(listed[1], lower=3, upper=4)], rules=Rules(moves={0: (2,)})
    )
    assert check_banks(later, ROOM, "xx", (0, 0), (Move(0, 2, 0, "y"),)) == []


def test_the_cost_of_a_plan_by_hand() -> None:
    problem = AllocationProblem.of(LISTED, rules=RULES)
    banks = [Bank("x", 8, 1.0, 2.0), Bank("y", 12, 5.0), Bank("z", 4)]
    moves = (Move(0, 1, 4, "y"),)
    # a: a quarter of its life in x, then y; b in z; p in x: 4/4 + 5*4*3/4 + 2, the peak of x is 4, four bytes moved.
    assert cost_in_banks(problem, banks, "xzx", (0, 0, 2), moves, 0.5) == pytest.approx(1 + 15 + 2 + 8 + 2)


def test_a_wrong_plan_with_moves_trips_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = AllocationProblem.of(LISTED, rules=RULES)
    banks = [Bank("x", 8), Bank("y", 12), Bank("z", 4)]
    good = solve_banks(problem, banks)
    assert good is not None
    wrong = replace(good, offsets=np.array([0, 0, 1]))
    monkeypatch.setattr(banks_module, "_rounds", lambda *given: wrong)
    with pytest.raises(PhysicsError, match="pinned at 2"):
        solve_banks(problem, banks)
    monkeypatch.setattr(banks_module, "_rounds", lambda *given: replace(good, cost=7.0))
    with pytest.raises(PhysicsError, match="costs 0, not 7"):
        solve_banks(problem, banks)


def test_gaps_and_moves_of_one_buffer_are_refused(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("id,lower,upper,size,gaps,moves\na,0,9,4,2-4,5\nb,0,9,4,,\n", encoding="utf-8")
    for options in (["--minimize"], ["--bank", "x=9", "--bank", "y=9"]):
        result = cli("solve", "alloc", path, *options)
        assert (result.code, "'a' has gaps and moves; expected one of the two" in result.err) == (2, True)
    path.write_text("id,lower,upper,size\na,0,9,4\n", encoding="utf-8")
    result = cli("solve", "alloc", path, "--bank", "x=9", "--plot", tmp_path / "a.svg")
    assert (result.code, "--plot" in result.err) == (2, True)
