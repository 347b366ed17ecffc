"""Groups of sequence parallelism against every partition of small batches, and against one degree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError
from mapping.training.pricing import Prices
from mapping.training.sequence_groups import DegreeCost, degree_costs, grouped_step, plan_groups, static_step
from offchip import solve_offload

ROOM = 100.0
COSTS = {
    d: DegreeCost(d, 1e-4 / d, (0.05 + 0.02 * np.log2(d)) / d, 0.1, 1.0 / d)
    for d in (1, 2, 4)
}  # fmt: skip


def every_way(lengths: tuple[int, ...], devices: int) -> Iterator[float]:
    """Seconds of every way to divide sequences over groups of 1, 2 and 4 ranks."""

    @cache
    def splits(left: int, least: int) -> tuple[tuple[int, ...], ...]:
        found = [()] if left >= 0 else []
        for d in (1, 2, 4):
            if least <= d <= left:
                found += [(d, *rest) for rest in splits(left - d, d)]
        return tuple(found)

    def dealt(place: int, groups: tuple[int, ...], load: list[float], tokens: list[float]) -> Iterator[float]:
        if place == len(lengths):
            yield max(seconds + COSTS[d].once for d, seconds in zip(groups, load, strict=True) if seconds)
            return
        s = lengths[place]
        for k, d in enumerate(groups):
            if (tokens[k] + s) / d > ROOM:
                continue
            more = 1e-4 / d * s * s + (0.05 + 0.02 * np.log2(d)) / d * s
            load[k] += more
            tokens[k] += s
            yield from dealt(place + 1, groups, load, tokens)
            load[k] -= more
            tokens[k] -= s

    for groups in splits(devices, 1):
        if groups:
            yield from dealt(0, groups, [0.0] * len(groups), [0.0] * len(groups))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 380), min_size=1, max_size=5))
@example([50, 51, 51])  # two groups hold their tokens, and no two of them share one
def test_no_way_is_below_the_bound_or_far_below_the_plan(lengths: list[int]) -> None:
    times = list(every_way(tuple(lengths), 4))
    if not times:
        with pytest.raises(InfeasibleError):
            plan_groups(lengths, COSTS, 4, ROOM)
        return
    plan = plan_groups(lengths, COSTS, 4, ROOM)
    best = min(times)
    assert plan.bound_s <= best * (1 + 1e-6)
    assert best * (1 - 1e-9) <= plan.seconds <= best * 1.35
    assert sorted(length for _, part in plan.groups for length in part) == sorted(lengths)
    assert sum(degree for degree, _ in plan.groups) <= 4
    assert all(sum(part) / degree <= ROOM for degree, part in plan.groups)


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(InfeasibleError, match="401 tokens do not fit"):
        plan_groups([401], COSTS, 4, ROOM)
    with pytest.raises(InfeasibleError, match="do not fit 2 ranks"):
        static_step([10], COSTS[2], 4, ROOM, 300)


def test_short_sequences_beside_a_long_one_gain() -> None:
    lengths = [110, *[20] * 8]
    one = static_step(lengths, COSTS[4], 4, ROOM, 390)
    seconds, plans = grouped_step(lengths, COSTS, 4, ROOM, 1)
    assert seconds < one
    assert len({degree for degree, _ in plans[0].groups}) > 1


def test_costs_are_those_of_our_prices() -> None:
    costs = degree_costs("memo-7b", 16, Prices(load_system("dgx-a100*2")))
    assert list(costs) == [1, 2, 4, 8, 16]
    for narrow, wide in ((1, 2), (2, 4), (8, 16)):
        assert costs[wide].seconds(np.array([65536.0])) < costs[narrow].seconds(np.array([65536.0]))
        assert costs[wide].linear * wide >= costs[narrow].linear * narrow * 0.99, "exchanges come on top"
    assert costs[16].linear * 16 > 1.2 * costs[8].linear * 8, "between machines they take longer"


def test_the_policy_reads_lengths_and_says_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("60000\n" + "1500\n" * 60, encoding="utf-8")
    given = {"lengths": str(path)}
    found = solve_offload(
        "memo-7b", "a800-node", "sequence-groups", seq="64K", batch=61, settings=given
    ).answer
    dealt = [length for part in found.report["groups"] for group in part for length in group["lengths"]]  # type: ignore[attr-defined]
    assert sorted(dealt) == sorted([60000, *[1500] * 60])
    assert found.report["step_s"] < found.report["one_degree"]["step_s"]  # type: ignore[index,operator]
    path.write_text("12\nabc\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"lengths.txt.*2.*expected tokens from 1 to 65536"):
        solve_offload("memo-7b", "a800-node", "sequence-groups", seq="64K", settings=given)
