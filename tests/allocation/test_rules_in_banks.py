"""Rules across several memories, arenas with sizes as decision: against trying every bank and every offset."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, Buffer, check
from mapping.allocation.banks import Bank, parse_arena, solve_banks
from mapping.allocation.rules import Rules, storages
from tests.allocation.brute_force import least_peak
from tests.allocation.test_rules import least_peak_by_trying


def cheapest(problem: AllocationProblem, banks: list[Bank]) -> float | None:
    """The least cost over all assignments, each bank solved by trying."""
    n, rules = len(problem), problem.rules
    root = storages(n, rules)
    best: float | None = None
    for where in product(range(len(banks)), repeat=n):
        if any(where[i] != where[root[i]] for i in range(n)) or any(
            where[a] == where[b] for a, b in rules.apart
        ):
            continue
        if any(banks[where[i]].name not in names for i, names in rules.banks.items()):
            continue
        cost = 0.0
        for b, bank in enumerate(banks):
            members = [i for i in range(n) if where[i] == b]
            part = problem.subset(members)
            peak = least_peak_by_trying(part, 10) if part.rules else least_peak(part)
            if peak is None or peak > bank.capacity:
                break
            cost += bank.cost_per_size_byte * peak + bank.cost_per_byte * sum(
                int(problem.size[i]) for i in members
            )
        else:
            best = cost if best is None else min(best, cost)
    return best


@st.composite
def cases(draw: st.DrawFn) -> tuple[AllocationProblem, list[Bank]]:
    count = draw(st.integers(2, 4))
    listed = []
    for i in range(count):
        lower = draw(st.integers(0, 3))
        listed.append(Buffer(f"b{i}", lower, draw(st.integers(lower + 1, 4)), draw(st.integers(1, 3))))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda two: two[0] < two[1])
    pairs = st.lists(pair, max_size=1)
    banks = {
        i: draw(st.sampled_from([("x",), ("y",), ("x", "y")])) for i in range(count) if draw(st.booleans())
    }
    rules = Rules(draw(pairs), (), draw(pairs), (), banks, draw(pairs))  # type: ignore[arg-type]
    memories = [
        Bank(
            "x", draw(st.integers(2, 6)), draw(st.sampled_from([0.0, 1.0])), draw(st.sampled_from([0.0, 2.0]))
        ),
        draw(st.sampled_from([Bank("y", 100, 3.0), parse_arena("y@3"), parse_arena("y")])),
    ]
    try:
        return AllocationProblem.of(listed, rules=rules), memories
    except InputError:
        assume(False)
        raise


@given(cases())
@settings(max_examples=12, deadline=None)
def test_the_cheapest_banks_and_sizes(case: tuple[AllocationProblem, list[Bank]]) -> None:
    problem, banks = case
    right = cheapest(problem, banks)
    plan = solve_banks(problem, banks, time_limit_s=200, max_nodes=20_000)
    if right is None:
        assert plan is None
        return
    assert plan is not None
    assert plan.status == "optimal"
    assert (plan.cost, plan.bound) == (pytest.approx(right), pytest.approx(right))
    for b, bank in enumerate(banks):
        members = [i for i in range(len(problem)) if plan.bank[i] == b]
        assert check(problem.subset(members), plan.offsets[members].tolist(), bank.capacity) == []


def test_aliases_choose_the_cheaper_of_two_arenas() -> None:
    """HiGHS 1.14.0 answers 3 here and calls it optimal."""
    listed = [Buffer("a", 0, 1, 1), Buffer("b", 0, 1, 1)]
    problem = AllocationProblem.of(listed, rules=Rules(alias=((0, 1),)))
    plan = solve_banks(problem, [parse_arena("x@2"), parse_arena("y@3")], time_limit_s=200)
    assert plan is not None
    assert (plan.status, plan.cost, plan.bank) == ("optimal", 2.0, (0, 0))


def test_a_size_that_no_sum_of_live_bytes_tells() -> None:
    """Alignment makes the arena larger than its live bytes: the master learns the size from its place."""
    listed = [Buffer("a", 0, 2, 3), Buffer("b", 0, 2, 3, alignment=4), Buffer("c", 0, 2, 3, alignment=4)]
    plan = solve_banks(
        AllocationProblem.of(listed), [parse_arena("x@1"), parse_arena("y@10")], time_limit_s=200
    )
    assert plan is not None
    assert (plan.status, plan.cost, plan.peak_bytes) == ("optimal", 10.0, (10, 0))


@pytest.mark.parametrize("text", ["", "@1", "x=3", "x@", "x@-1", "x@a"])
def test_a_wrong_arena_is_told(text: str) -> None:
    with pytest.raises(InputError, match="NAME or NAME@COST"):
        parse_arena(text)


def test_a_bank_that_is_not_there_is_refused() -> None:
    listed = [Buffer("a", 0, 4, 2)]
    with pytest.raises(InputError, match="names the bank 'z'"):
        solve_banks(AllocationProblem.of(listed, rules=Rules(banks={0: ("z",)})), [Bank("x", 9)])
