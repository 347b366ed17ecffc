"""How often experts are wanted against tokens and caches that are played one by one."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.expert_frequency import (
    ExpertFrequency,
    Policy,
    chances_of,
    expected_touched,
    fetches,
    frequency_of,
    hit_rate,
    lru_hit_rate,
    read_frequency,
    top_share,
    zipf_weights,
)
from workloads.expert_load import expected_experts

LRU_ERROR = 0.02
"""How far Che's approximation lies from a played cache where a step wants at most a quarter of the slots."""


def draw(weights: np.ndarray, active: int, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Different experts of each token, one after another in proportion to the weights of those left: a row a token."""
    chosen = np.empty((tokens, active), int)
    left = np.tile(weights, (tokens, 1))
    for turn in range(active):
        edges = np.cumsum(left, axis=1)
        at = rng.random(tokens) * edges[:, -1]
        chosen[:, turn] = (edges <= at[:, None]).sum(axis=1)
        left[np.arange(tokens), chosen[:, turn]] = 0.0
    return chosen


@pytest.mark.parametrize(
    ("experts", "active", "exponent"), [(8, 2, 1.0), (8, 2, 4.0), (16, 1, 1.3), (32, 4, 0.7), (128, 8, 1.0)]
)
def test_chances_are_those_of_drawn_tokens(experts: int, active: int, exponent: float) -> None:
    weights = zipf_weights(experts, exponent)
    tokens = 40_000
    counted = np.bincount(
        draw(np.array(weights), active, tokens, np.random.default_rng(3)).ravel(), minlength=experts
    )
    chances = np.array(chances_of(weights, active))
    deviation = np.sqrt(chances * (1 - chances) / tokens) + 1e-9
    assert np.abs(counted / tokens - chances).max() < 0.02
    assert (np.abs(counted / tokens - chances) / deviation).max() < 4.5
    assert chances.sum() == pytest.approx(active)


def test_two_of_three_in_closed_form() -> None:
    """P(e among the first two) = w_e/W + sum over the first f of w_f/W * w_e/(W - w_f)."""
    weights = (5.0, 2.0, 1.0)
    whole = sum(weights)
    for e, own in enumerate(weights):
        after = sum(w / whole * own / (whole - w) for f, w in enumerate(weights) if f != e)
        assert chances_of(weights, 2)[e] == pytest.approx(own / whole + after, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 64), st.data())
def test_chances_are_bounded_and_ordered(experts: int, data: st.DataObject) -> None:
    active = data.draw(st.integers(1, min(experts, 12)))
    exponent = data.draw(st.floats(0, 5))
    chances = chances_of(zipf_weights(experts, exponent), active)
    assert sum(chances) == pytest.approx(active, rel=1e-6)
    assert all(0 <= b <= a + 1e-9 <= 1 + 1e-8 for a, b in pairwise(chances))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_experts_wanted_alike_are_the_known_closed_form(
    experts: int, tokens: int, data: st.DataObject
) -> None:
    active = data.draw(st.integers(1, experts))
    shares = ExpertFrequency().shares(experts, active)
    assert expected_touched(shares, active, tokens) == pytest.approx(
        expected_experts(experts, active, tokens)
    )
    assert top_share(shares, experts) == pytest.approx(1.0)


@pytest.mark.parametrize(("experts", "active", "tokens", "exponent"), [(8, 2, 3, 1.0), (64, 6, 10, 1.2)])
def test_touched_experts_are_those_of_drawn_tokens(
    experts: int, active: int, tokens: int, exponent: float
) -> None:
    weights = np.array(zipf_weights(experts, exponent))
    shares = ExpertFrequency(exponent).shares(experts, active)
    rng, runs, slots = np.random.default_rng(4), 3000, experts // 4
    chosen = draw(weights, active, tokens * runs, rng).reshape(runs, -1)
    whole = np.mean([len(set(row)) for row in chosen.tolist()])
    hot = np.mean([len({e for e in row if e < slots}) for row in chosen.tolist()])
    assert expected_touched(shares, active, tokens) == pytest.approx(whole, rel=0.01)
    assert expected_touched(shares[:slots], active, tokens) == pytest.approx(hot, rel=0.01)
    assert hit_rate(shares, active, slots, "static", tokens) == pytest.approx(hot / whole, rel=0.01)
    assert top_share(shares, slots) == pytest.approx(float((chosen < slots).mean()), rel=0.02)


def played(chosen: np.ndarray, slots: int, policy: str) -> float:
    """The hit rate of a cache, played token by token; the first fifth fills it."""
    inside: OrderedDict[int, None] = OrderedDict()
    counts: dict[int, int] = {}
    hits = asked = 0
    for token, row in enumerate(chosen.tolist()):
        if token * 5 >= len(chosen):
            asked += len(row)
            hits += sum(expert in inside for expert in row)
        for expert in row:
            counts[expert] = counts.get(expert, 0) + 1
            inside[expert] = None
            inside.move_to_end(expert)
        while len(inside) > slots:
            del inside[next(iter(inside)) if policy == "lru" else min(inside, key=lambda e: counts[e])]
    return hits / asked


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.5])
@pytest.mark.parametrize(
    ("experts", "active", "slots"), [(64, 2, 16), (128, 8, 32), (128, 8, 64), (16, 1, 4)]
)
def test_the_last_used_stay(experts: int, active: int, slots: int, exponent: float) -> None:
    weights = np.array(zipf_weights(experts, exponent))
    chosen = draw(weights, active, 20_000, np.random.default_rng(7))
    shares = ExpertFrequency(exponent).shares(experts, active)
    found = played(chosen, slots, "lru")
    assert lru_hit_rate(shares, active, slots) == pytest.approx(found, abs=LRU_ERROR)
    # What is wanted most does better than what was wanted last, and the cache that counts comes to that.
    static = hit_rate(shares, active, slots)
    assert static >= lru_hit_rate(shares, active, slots) - 1e-9
    assert hit_rate(shares, active, slots, "lfu") == static
    if exponent:
        assert played(chosen, slots, "lfu") == pytest.approx(static, abs=0.03)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.floats(0, 4), st.data())
def test_a_larger_cache_finds_more(experts: int, exponent: float, data: st.DataObject) -> None:
    active = data.draw(st.integers(1, min(experts, 8)))
    shares = ExpertFrequency(exponent).shares(experts, active)
    policies: tuple[Policy, ...] = ("static", "lru")
    for policy in policies:
        rates = [hit_rate(shares, active, slots, policy) for slots in range(experts + 1)]
        assert rates[0] == 0
        assert rates[-1] == pytest.approx(1, rel=1e-6)
        assert all(a <= b + 1e-9 for a, b in pairwise(rates))


def test_guesses_that_are_wrong_are_fetched_for_nothing() -> None:
    rng = np.random.default_rng(9)
    ahead = demand = 0
    for _ in range(4000):
        wanted = set(rng.choice(32, 4, replace=False).tolist())
        guessed = {e if rng.random() < 0.7 else 100 + e for e in wanted}
        ahead += len(guessed)
        demand += len(wanted - guessed)
    assert fetches(4.0, 0.7) == pytest.approx((ahead / 4000, demand / 4000), rel=0.03)
    assert fetches(4.0) == (0.0, 4.0)


def test_a_file_says_it_by_layer(tmp_path: Path) -> None:
    file = tmp_path / "experts.csv"
    file.write_text("layer,expert,count\n0,0,10\n0,1,30\n1,0,1\n1,1,1\n1,2,2\n")
    frequency = frequency_of(str(file))
    assert frequency.shares(4, 1, 0) == (0.75, 0.25, 0.0, 0.0)
    assert frequency.shares(3, 2, 1) == (0.5, 0.25, 0.25)
    with pytest.raises(InputError, match="no experts of layer 7; expected layers 0 to 1"):
        frequency.shares(4, 1, 7)
    with pytest.raises(InputError, match=r"0.75 of the rows of layer 0.*at most 0.5"):
        frequency.shares(4, 2, 0)
    with pytest.raises(InputError, match="found 3 experts of layer 1; the model has 2"):
        frequency.shares(2, 1, 1)
    file.write_text("expert,share\n1,0.5\n0,0.5\n")
    assert read_frequency(file).shares(2, 1, 12) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("expert\n0\n", "1: found the columns expert; expected"),
        ("expert,count,colour\n0,1,red\n", "1: found the columns"),
        ("", "1: found the columns nothing"),
        ("expert,count\n", "found no experts"),
        ("expert,count\n0,-1\n", r"2: count: found '-1'"),
        ("expert,count\n0,nan\n", r"2: count: found 'nan'"),
        ("expert,count\n0,1\n0,2\n", r"3: expert: found expert 0 of this layer twice"),
        ("expert,count\n0.5,1\n", r"2: expert: found '0.5'"),
        ("expert,count\n0,1,2\n", r"2: found 3 values; expected 2"),
        ("layer,expert,count\n3,0,0\n", "no routed rows of layer 3"),
        ("layer,expert,count\n99999999,0,1\n", "expected a whole number below"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_told(text: str, found: str, tmp_path: Path) -> None:
    file = tmp_path / "experts.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=found):
        read_frequency(file)


@pytest.mark.parametrize("text", ["zipf", "zipf:x", "zipf:-1", "zipf:nan", "zipf:99", "no-such-file.csv", ""])
def test_names_that_are_none_are_told(text: str) -> None:
    with pytest.raises(InputError, match="expert-frequency: found"):
        frequency_of(text)


def test_names_of_laws() -> None:
    assert frequency_of("uniform") == ExpertFrequency()
    assert frequency_of("zipf:1.2") == ExpertFrequency(1.2)
    with pytest.raises(InputError, match="found 3 active of 2 experts"):
        chances_of((1.0, 0.5), 3)
