"""The MIP solver's word 'optimal', on small programmes whose optimum is known by trying.

HiGHS 1.14.0 fails here: its presolve gave up better plans and claimed an optimum (HiGHS issues 3043 and 3094).
"""

from __future__ import annotations

from itertools import product

import pulp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.solver import SolverOptions, solve_model


def test_one_whole_and_one_continuous_variable() -> None:
    model = pulp.LpProblem("whole", pulp.LpMinimize)
    x, z = model.add_variable("x", 0, 10), model.add_variable("z", 0, 10, pulp.LpInteger)
    model.setObjective(2 * x + 3 * z)
    model += x + z >= 4.5
    report = solve_model(model, SolverOptions(time_limit_s=100))
    assert (report.status, report.objective) == ("optimal", pytest.approx(9.0))


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=3),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_buffers_in_arenas_cost_what_trying_every_choice_says(
    prices: list[int], sizes: list[int], repeated: int
) -> None:
    """Each item goes to one arena, an arena is as large as its largest item; rows may be stated more than once."""
    model = pulp.LpProblem("arenas", pulp.LpMinimize)
    chosen = [
        [model.add_variable(f"x{i}_{b}", 0, 1, pulp.LpInteger) for b in range(len(prices))]
        for i in range(len(sizes))
    ]
    arenas = [model.add_variable(f"s{b}", 0, sum(sizes)) for b in range(len(prices))]
    model.setObjective(pulp.lpSum(price * arena for price, arena in zip(prices, arenas, strict=True)))
    for size, row in zip(sizes, chosen, strict=True):
        model += pulp.lpSum(row) == 1
        for _ in range(repeated):
            for one, arena in zip(row, arenas, strict=True):
                model += size * one <= arena
    right = min(
        sum(
            price * max((size for size, b in zip(sizes, where, strict=True) if b == arena), default=0)
            for arena, price in enumerate(prices)
        )
        for where in product(range(len(prices)), repeat=len(sizes))
    )
    report = solve_model(model, SolverOptions(time_limit_s=100))
    assert (report.status, report.objective) == ("optimal", pytest.approx(right))
