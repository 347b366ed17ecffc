"""The vLLM policy equals a plain program that was written from the rules alone, decision by decision."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serving.driver import EndlessError, in_step_with_the_oracle
from serving.plain_scheduler import PlainScheduler
from serving.strategies import engine_settings, request_tables
from simulator.serving.policies.vllm import make
from simulator.serving.scheduler import KvSpace

FAMILIES = {
    "all": {},
    "priority": {"policy": "priority"},
    "caching": {"enable_prefix_caching": True, "speculation": None},
    "no-speculation": {"speculation": None},
    "long-prompts": {"long_prefill_token_threshold": 4, "long_prefill_token_threshold_adaptive": True},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_decision_is_the_oracles(family):
    seen = {"preemptions": 0, "hits": 0}

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(engine_settings(**FAMILIES[family]), request_tables(), st.integers(0, 12))
    def holds(chosen, requests, spare):
        size = chosen.block_size
        spec = chosen.speculation
        longest = int((requests.prompt_tokens + requests.output_tokens).max()) + (
            spec.tokens + spec.lookahead if spec else 0
        )
        assume(requests.prompt_tokens.max() < chosen.max_model_len)
        blocks = -(-min(longest, chosen.max_model_len) // size) + spare
        scheduler = make(requests, chosen, KvSpace(blocks, size, 1.0))
        oracle = PlainScheduler(requests, chosen, blocks, size)
        try:
            run = in_step_with_the_oracle(scheduler, requests, chosen, oracle, blocks)
        except EndlessError:
            # By priority the victim of equals is the first of the running list, so that equals can take turns for ever.
            assert chosen.policy == "priority"
            assert any((requests.priority == p).sum() > 1 for p in requests.priority)
            return
        seen["preemptions"] += run.preemptions
        seen["hits"] += run.hits

    holds()
    # The cases do what they are for.
    assert seen["preemptions"] > 20
    assert seen["hits"] > 100
