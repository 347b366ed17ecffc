"""Loads of experts against plain sampling and closed forms."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.expert_load import (
    LOADS,
    QUANTILES,
    busiest_rank,
    expected_experts,
    row_quantiles,
    sampled_rows,
)
from workloads.importers import load_workload
from workloads.operators import GroupedProduct
from workloads.workload import WorkloadOptions


def plain_draw(experts: int, active: int, tokens: int, exponent: float, seed: int) -> list[int]:
    """Rows of each expert under a power law, drawn expert by expert."""
    rng = random.Random(seed)
    rows = active * tokens
    low, high = (1.0, max(1.0, 0.8 * tokens)) if rows > experts else (0.01, 2.0)
    wanted = []
    for _ in range(experts):
        power = 1.0 - exponent
        u = rng.random()
        wanted.append((low**power + u * (high**power - low**power)) ** (1.0 / power))
    made = [round(w / sum(wanted) * rows) for w in wanted]
    order = sorted(range(experts), key=lambda e: (-made[e], rng.random()))
    missing = rows - sum(made)
    turn = 0
    while missing:
        expert = order[turn % experts]
        if missing > 0:
            made[expert] += 1
            missing -= 1
        elif made[expert]:
            made[expert] -= 1
            missing += 1
            turn -= 1
        turn += 1
    beyond = sum(max(0, rows_of - tokens) for rows_of in made)
    made = [min(rows_of, tokens) for rows_of in made]
    while beyond:
        for expert in order:
            if made[expert] < tokens and beyond:
                made[expert] += 1
                beyond -= 1
    return made


def plain_busiest(experts: int, active: int, tokens: int, ranks: int, exponent: float) -> tuple[float, float]:
    """Median rows and touched experts of the fullest rank over many draws."""
    own = experts // ranks
    totals, touched = [], []
    for seed in range(200):
        drawn = plain_draw(experts, active, tokens, exponent, seed)
        parts = [drawn[r * own : (r + 1) * own] for r in range(ranks)]
        most = max(parts, key=sum)
        totals.append(sum(most))
        touched.append(sum(rows > 0 for rows in most))
    return statistics.median(totals), statistics.median(touched)


@pytest.mark.parametrize(("count", "active", "tokens"), [(8, 2, 3), (64, 6, 10), (256, 8, 40), (128, 4, 200)])
def test_experts_touched_by_independent_choices(count: int, active: int, tokens: int) -> None:
    rng = random.Random(1)
    seen = [len({e for _ in range(tokens) for e in rng.sample(range(count), active)}) for _ in range(400)]
    assert statistics.mean(seen) == pytest.approx(expected_experts(count, active, tokens), rel=0.02)


@pytest.mark.parametrize(
    ("experts", "active", "tokens", "ranks", "exponent"),
    [
        (64, 4, 500, 8, 1.2),
        (128, 8, 64, 16, 1.01),
        (256, 8, 4000, 4, 1.01),
        (128, 6, 4, 32, 1.2),
        (32, 2, 300, 1, 1.2),
    ],
)
def test_the_busiest_rank_under_a_power_law(
    experts: int, active: int, tokens: int, ranks: int, exponent: float
) -> None:
    rows, touched = plain_busiest(experts, active, tokens, ranks, exponent)
    found = busiest_rank(experts, active, tokens, ranks, "power_law", exponent)
    assert found.rows == pytest.approx(rows, rel=0.2, abs=1)
    assert found.touched == pytest.approx(touched, rel=0.1, abs=1)


def test_the_oracle_would_notice_another_law() -> None:
    rows, _ = plain_busiest(64, 4, 500, 8, 1.2)
    assert busiest_rank(64, 4, 500, 8, "independent").rows < 0.8 * rows


@given(st.integers(0, 5), st.integers(1, 8), st.integers(1, 3000), st.sampled_from(LOADS))
@settings(max_examples=80, deadline=None)
def test_a_rank_has_its_share_at_least_and_all_rows_at_most(
    log_ranks: int, active: int, tokens: int, load: str
) -> None:
    ranks, experts = 2**log_ranks, 32
    found = busiest_rank(experts, active, tokens, ranks, load, 1.2)
    rows = active * tokens
    assert min(rows / ranks, tokens * (experts // ranks)) <= found.rows <= rows
    assert 1.0 <= found.touched <= min(experts // ranks, found.rows) + 1e-9


@given(
    st.integers(1, 8), st.integers(1, 500), st.sampled_from(["independent", "balanced"]), st.integers(0, 5)
)
@settings(max_examples=80, deadline=None)
def test_more_tokens_mean_no_fewer_rows_nor_experts(
    active: int, tokens: int, load: str, log_ranks: int
) -> None:
    fewer = busiest_rank(32, active, tokens, 2**log_ranks, load)
    more = busiest_rank(32, active, 2 * tokens, 2**log_ranks, load)
    assert more.rows >= fewer.rows
    assert more.touched >= fewer.touched - 1e-9


def test_draws_hold_all_rows_and_no_expert_more_than_the_tokens() -> None:
    drawn = sampled_rows(64, 4, 50, 1.2)
    assert (drawn <= 50).all()
    assert (drawn.sum(axis=1) == 200).all()
    assert (sampled_rows(64, 4, 3, 1.2).sum(axis=1) == 12).all()
    first = sampled_rows(128, 6, 2, 1.2, first=True)
    assert (np.flatnonzero(first[0]) == np.arange(12)).all()


@given(st.floats(1, 1e5), st.floats(1, 512), st.sampled_from(["independent", "balanced", "power_law"]))
def test_sixteenths_keep_the_mean(rows: float, touched: float, load: str) -> None:
    touched = min(touched, rows)
    found = np.array(row_quantiles(rows, 512, touched, rows / 4, load, 1.2))
    assert len(found) == QUANTILES
    assert found.mean() == pytest.approx(max(1.0, rows / touched))
    assert (np.diff(found) >= -1e-9).all()


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 512), st.sampled_from([1, 2, 4]))
def test_repeated_tokens_choose_as_one_does(per_rank: int, active: int, tokens: int, ranks: int) -> None:
    experts = per_rank * ranks
    active = min(active, experts)
    found = busiest_rank(experts, active, tokens, ranks, "repeated")
    assert found.rows == found.touched * tokens
    assert active / ranks <= found.touched <= min(active, per_rank)
    if ranks == 1:
        assert found == (active * tokens, float(active))
    rows = row_quantiles(float(found.rows), float(experts), found.touched, float(tokens), "repeated")
    assert rows == (float(tokens),) * QUANTILES


def test_sequences_that_repeat_a_prompt_read_the_experts_of_one() -> None:
    def products(same: bool, **options: object) -> list[GroupedProduct]:
        asked = WorkloadOptions(batch=16, same_prompts=same, **options)  # type: ignore[arg-type]
        graph = load_workload("mixtral-8x7b", asked).phases[0].graph
        return [op.work for op in graph.operators if isinstance(op.work, GroupedProduct)]

    same, apart = (products(s, phase="decode", prompt=64) for s in (True, False))
    assert {work.touched for work in same} == {2.0}
    assert {work.load for work in same} == {"repeated"}
    assert {work.m for work in same} == {work.m for work in apart} == {32}
    assert all(work.touched > 7.9 for work in apart)
    # A prompt's own tokens still choose one by one.
    prefill = products(True, phase="prefill", prompt=4)
    assert {round(work.touched, 6) for work in prefill} == {round(expected_experts(8, 2, 4), 6)}
    assert {work.load for work in prefill} == {"independent"}


@pytest.mark.parametrize(("model", "phase"), [("llama-3-8b", "decode"), ("mixtral-8x7b", "train")])
def test_same_prompts_need_experts_that_could_differ(model: str, phase: str) -> None:
    with pytest.raises(InputError, match="--same-prompts"):
        load_workload(model, WorkloadOptions(phase=phase, same_prompts=True))
