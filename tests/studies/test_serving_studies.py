"""What the studies of serving rest on: each against a second way to the same figure."""

from __future__ import annotations

import numpy as np
import pytest

from offchip.studies.expert_copies import CHOSEN, EXPERT_BYTES, EXPERTS, LAYERS, PAGED, distinct_experts
from offchip.studies.graph_pricer import GraphPricer
from offchip.studies.long_drafts import accepted_tokens, best_of, step_seconds
from offchip.studies.phase_times import cache_bytes, phase_times, weight_bytes
from offchip.studies.study import STUDIES
from offchip.studies.turn_memory import ASKED, FOUND, SAID, STATE, sessions
from offchip.studies.virtual_pages import PAGES, requests, served
from simulator.serving.step import ScheduledStep


def step(tokens: list[int], context: list[int]) -> ScheduledStep:
    count = np.array(tokens, np.int64)
    return ScheduledStep(
        np.arange(len(count)), count, np.array(context, np.int64), 0 * count, count > 0, 0 * count - 1
    )


def test_accepted_tokens_are_those_of_a_draw() -> None:
    random = np.random.default_rng(1)
    kept = np.cumprod(random.random((200_000, 6)) < 0.8, axis=1).sum(axis=1)
    assert 1 + kept.mean() == pytest.approx(accepted_tokens(0.8, 6), rel=0.01)


@pytest.mark.parametrize("adapters", [0, 4, 20])
def test_distinct_experts_are_those_of_a_draw(adapters: int) -> None:
    """Tokens choose experts at random; each adapter has its own copy of the same share of experts."""
    random, batch, own = np.random.default_rng(2), 40, PAGED / EXPERT_BYTES / LAYERS / EXPERTS
    found = []
    for _ in range(300):
        has = random.random((max(adapters, 1), EXPERTS)) < (own if adapters else 0)
        touched = set()
        for token in range(batch):
            adapter = token % max(adapters, 1)
            for expert in random.permutation(EXPERTS)[:CHOSEN].tolist():
                touched.add((adapter if has[adapter, expert] else -1, expert))
        found.append(len(touched))
    assert np.mean(found) == pytest.approx(distinct_experts(batch, adapters), rel=0.03)


def test_the_pricer_gives_the_graphs_own_times() -> None:
    pricer = GraphPricer("llama-3-8b", "a100-80gb")
    decode = phase_times("llama-3-8b", "a100-80gb", "decode", 32, 4096)
    assert pricer.price(step([1] * 32, [4095] * 32)).seconds == pytest.approx(decode.seconds, rel=0.01)
    prefill = phase_times("llama-3-8b", "a100-80gb", "prefill", 1, 8192)
    assert pricer.price(step([8192], [0])).seconds == pytest.approx(prefill.seconds, rel=0.05)
    # Two halves of a prompt read the same pairs of tokens as the whole.
    halves = pricer.price(step([4096], [0])).seconds + pricer.price(step([4096], [4096])).seconds
    assert halves == pytest.approx(prefill.seconds, rel=0.05)


def test_a_draft_that_costs_nothing_and_is_always_right_gains_its_depth() -> None:
    one = step_seconds("llama-2-7b", 1, 16384)
    best = best_of("llama-2-7b", 16384, 0.0, 1.0)
    assert best.depth == 12
    assert best.speed == pytest.approx(13 * one / step_seconds("llama-2-7b", 13, 16384))
    assert best_of("llama-2-7b", 16384, 10 * one, 0.1).speed < 1


def test_sessions_hold_what_was_before() -> None:
    whole, short = sessions(3, 0), sessions(3, STATE)
    assert whole.prompt_tokens[:3].tolist() == [ASKED + FOUND + i * (FOUND + SAID) for i in range(3)]
    assert short.prompt_tokens[:3].tolist() == [ASKED + FOUND, ASKED + STATE + FOUND, ASKED + STATE + FOUND]
    assert whole.after[:4].tolist() == [-1, 0, 1, -1]
    # The second turn's prompt begins with the first one's and its answer.
    first, second = (whole.segment_stream[slice(*whole.segment_begin[i : i + 2])].tolist() for i in (0, 1))
    assert second[: len(first)] == first
    assert second[len(first)] == whole.output_stream[0]


def test_larger_pages_waste_more_and_hold_no_more_requests() -> None:
    asked = requests()
    runs = [served(asked, page * 64 // cache_bytes("llama-3-8b")) for page in (PAGES[0], PAGES[-1])]
    assert [run.block_tokens for run in runs] == [32, 1024]
    assert runs[0].waste < 0.01 < runs[1].waste
    assert runs[0].sequences > runs[1].sequences


def test_bytes_of_models_are_those_of_their_shapes() -> None:
    assert cache_bytes("llama-3-8b") == 2 * 32 * 8 * 128 * 2
    assert cache_bytes("deepseek-v2-lite") == 27 * (512 + 64) * 2
    assert weight_bytes("llama-3-8b") == pytest.approx(2 * 8.03e9, rel=0.001)


def test_no_claim_of_the_serving_studies_is_without_figure_and_reason() -> None:
    for name in ("refrag", "cartridges", "generative-adapter", "longspec", "rapid", "expertweave"):
        outcome = STUDIES.get(name).run()
        assert any(result.ours is not None for result in outcome.claims)
        assert all(result.differences != "None known." for result in outcome.claims if result.ours is None)
