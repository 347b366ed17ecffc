"""Proofs that buffers fit no assignment to banks: never a false one, against trying every bank and every offset."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, Buffer
from mapping.allocation.banks import Bank, solve_banks, why_infeasible
from mapping.allocation.rules import Rules, storages
from tests.allocation.brute_force import fits
from tests.allocation.test_rules import least_peak_by_trying, pairs_of


def has_plan(problem: AllocationProblem, banks: list[Bank]) -> bool:
    """Whether any bank and offset of every buffer makes a plan."""
    n, rules = len(problem), problem.rules
    root = storages(n, rules)
    known: dict[tuple[int, tuple[int, ...]], bool] = {}

    def holds(capacity: int, members: tuple[int, ...]) -> bool:
        if (capacity, members) not in known:
            part = problem.subset(members)
            known[capacity, members] = (
                least_peak_by_trying(part, capacity) is not None if part.rules else fits(part, capacity)
            )
        return known[capacity, members]

    return any(
        all(where[i] == where[root[i]] for i in range(n))
        and all(where[a] != where[b] for a, b in rules.apart)
        and all(banks[where[i]].name in names for i, names in rules.banks.items())
        and all(
            holds(bank.capacity, tuple(i for i in range(n) if where[i] == b)) for b, bank in enumerate(banks)
        )
        for where in product(range(len(banks)), repeat=n)
    )


@st.composite
def tight(draw: st.DrawFn) -> tuple[AllocationProblem, list[Bank]]:
    """A few buffers under rules and two or three banks that are seldom large enough."""
    count = draw(st.integers(3, 5))
    listed = []
    for i in range(count):
        lower = draw(st.integers(0, 2))
        upper = draw(st.integers(lower + 1, 4))
        listed.append(
            Buffer(f"b{i}", lower, upper, draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2])))
        )
    names = ("x", "y", "z")[: draw(st.integers(2, 3))]
    memories = [Bank(name, draw(st.integers(3, 6))) for name in names]
    some = st.lists(pairs_of(count), max_size=1)
    choices = [names, *((name,) for name in names), names[:2]]
    banks = {i: draw(st.sampled_from(choices)) for i in range(count) if draw(st.booleans())}
    apart = draw(st.lists(pairs_of(count), max_size=3, unique=True))
    rules = Rules(draw(some), (), draw(some), draw(some) if draw(st.booleans()) else (), banks, tuple(apart))  # type: ignore[arg-type]
    try:
        return AllocationProblem.of(listed, rules=rules), memories
    except InputError:
        assume(False)
        raise


@given(tight())
@settings(max_examples=60, deadline=None)
def test_what_is_proved_infeasible_has_no_plan_and_the_other_way_round(
    case: tuple[AllocationProblem, list[Bank]],
) -> None:
    problem, banks = case
    told = why_infeasible(problem, banks, time_limit_s=200)
    assert (told is None) == has_plan(problem, banks)


X, Y, Z = Bank("x", 8), Bank("y", 8), Bank("z", 100)
PINNED = Buffer("p", 0, 2, 4, offset=6)


@pytest.mark.parametrize(
    ("sizes", "rules", "told"),
    [
        ((9, 1), Rules(banks={0: ("x", "y")}), "buffer 'b0' has 9 bytes, of the banks it may go to (x, y) none"),
        ((101, 1), Rules(), "buffer 'b0' has 101 bytes, the largest bank 100"),
        ((1, 1), Rules(((0, 1),), banks={0: ("x",), 1: ("y",)}), "buffers 'b0', 'b1' go to one bank"),
        ((1, 1, 1), Rules(banks=dict.fromkeys(range(3), ("x", "y")), apart=((0, 1), (1, 2), (0, 2))),
         "buffers 'b0', 'b1', 'b2' all go to different banks, and only to x, y"),
        ((6, 6, 6), Rules(banks={0: ("x",), 1: ("y",), 2: ("x", "y")}),
         "at time 0, 18 bytes are live of buffers that may go to x, y alone, with 16 bytes"),
        ((50, 50), Rules(), None),
        # Fifteen bytes of sixteen; five do not stand twice in eight.
        ((5, 5, 5), Rules(banks=dict.fromkeys(range(3), ("x", "y"))), "all were searched"),
        # Two may be the same bytes.
        ((5, 5, 5), Rules(banks=dict.fromkeys(range(3), ("x", "y")), shared=((0, 1),)), None),
        ((3, 3, 3, 5), Rules(banks=dict.fromkeys(range(4), ("x",)), separate=((0, 1), (0, 2), (1, 2))),
         "14 bytes are live"),
    ],
)  # fmt: skip
def test_each_proof_says_its_reason(sizes: tuple[int, ...], rules: Rules, told: str | None) -> None:
    problem = AllocationProblem.of([Buffer(f"b{i}", 0, 2, s) for i, s in enumerate(sizes)], rules=rules)
    found = why_infeasible(problem, [X, Y, Z])
    assert (found is None) if told is None else (told in (found or ""))
    assert (solve_banks(problem, [X, Y, Z]) is None) == (told is not None)


def test_a_bank_that_its_buffers_do_not_fill_without_a_hole_is_told() -> None:
    """Never more than eight bytes at once, and yet no plan below eight: pins leave holes that nothing fits."""
    listed = [Buffer("p", 0, 2, 2, offset=3), Buffer("q", 0, 2, 4), Buffer("r", 4, 5, 8)]
    problem = AllocationProblem.of(listed, rules=Rules(banks=dict.fromkeys(range(3), ("x",))))
    told = why_infeasible(problem, [X, Y])
    assert told is not None
    assert told.startswith("the buffers that may go to x alone have no plan below 8 bytes")
    high = AllocationProblem.of([PINNED], rules=Rules(banks={0: ("x",)}))
    assert "ends at byte 10" in (why_infeasible(high, [X, Z]) or "")


def test_equal_banks_are_not_searched_one_after_the_other() -> None:
    """Nine of five bytes in eight banks of nine bytes: without symmetry 8! assignments, with it a handful of nodes."""
    problem = AllocationProblem.of([Buffer(f"b{i}", 0, 1, 5) for i in range(9)])
    told = why_infeasible(problem, [Bank(f"k{b}", 9) for b in range(8)], max_nodes=50)
    assert told is not None
    # A search that ends early proves nothing.
    assert why_infeasible(problem, [Bank(f"k{b}", 9 + b % 2) for b in range(8)], max_nodes=1) is None
