"""Fetches of experts' weights: those of reuse distances, counted another way, and what orders cannot do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.expert_load import expected_experts
from workloads.expert_order import even_choices, weight_fetches


def by_distance(uses: list[int], held: int) -> int:
    """A use is served when fewer than ``held`` others came since the last one of the same expert."""
    found = 0
    for place, expert in enumerate(uses):
        before = [at for at in range(place) if uses[at] == expert]
        found += not before or len(set(uses[before[-1] + 1 : place])) >= held
    return found


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_fetches_are_those_of_reuse_distances(tokens: int, experts: int, data: st.DataObject) -> None:
    active = data.draw(st.integers(1, experts))
    held = data.draw(st.integers(1, experts + 1))
    choices = even_choices(tokens, experts, active, data.draw(st.integers(0, 99)))
    assert all(len(set(row)) == active for row in choices.tolist())
    uses = choices.ravel().tolist()
    apart = weight_fetches(choices, held, "token")
    together = weight_fetches(choices, held, "expert")
    assert apart == by_distance(uses, held)
    assert together == len(set(uses)) <= apart
    assert weight_fetches(choices, held + 1, "token") <= apart
    if held >= experts:
        assert apart == together


def test_experts_reached_are_the_expected_ones() -> None:
    drawn = [weight_fetches(even_choices(12, 16, 2, seed), 1, "expert") for seed in range(4000)]
    assert np.mean(drawn) == pytest.approx(expected_experts(16, 2, 12), rel=0.01)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="expected 1 to 4"):
        even_choices(3, 4, 5)
    with pytest.raises(InputError, match="found 0; expected 1 or more"):
        weight_fetches(even_choices(3, 4, 2), 0, "token")
