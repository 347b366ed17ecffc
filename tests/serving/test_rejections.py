"""Requests that can never be answered: each is named with its reason, and the others are served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InfeasibleError, InputError
from simulator.serving.cluster import run_service
from simulator.serving.scheduler import SCHEDULERS
from simulator.serving.service import Service
from simulator.serving.settings import EngineSettings
from simulator.serving.taken import bounds_of, refusals
from tests.serving.counts import worker
from tests.serving.strategies import engine_settings, request_tables
from workloads.requests import make_requests


@pytest.mark.parametrize("name", SCHEDULERS.names())
def test_what_is_refused_is_what_a_scheduler_refuses(name: str) -> None:
    """The plain oracle: every request before a scheduler of its own; longer than the model is refused beside that."""
    neutral = {"policy": "fcfs", "long_prefill_token_threshold": 0, "long_prefill_token_threshold_adaptive": False,
               "max_num_active_seqs": 0, "watermark": 0.0, "scheduler": name}  # fmt: skip
    seen = {"refused": 0, "taken": 0}

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(engine_settings(**neutral), request_tables(), st.integers(4, 24))
    def holds(chosen: EngineSettings, requests, blocks: int) -> None:
        assume(chosen.max_num_batched_tokens >= chosen.block_size)
        one = worker(make=SCHEDULERS.get(name), settings=chosen)
        one = replace(one, space=one.space._replace(blocks=blocks, block_tokens=chosen.block_size))
        refused = set(refusals(requests, [one]))
        total = requests.prompt_tokens + requests.output_tokens
        for request in range(requests.count):
            expected = total[request] > chosen.max_model_len
            try:
                one.make(requests, chosen, one.space).add(request)
            except InfeasibleError:
                expected = True
            assert (request in refused) == expected
            seen["refused" if expected else "taken"] += 1

    holds()
    assert min(seen.values()) > 50


def test_the_others_are_served_as_if_it_had_not_come() -> None:
    requests = make_requests([100, 9000, 200], [10, 10, 12], [0.0, 0.1, 0.2])
    result = offchip.serve("llama-3-8b", "h100-sxm", requests)
    alone = offchip.serve("llama-3-8b", "h100-sxm", make_requests([100, 200], [10, 12], [0.0, 0.2]))
    assert result.counts["rejected"] == 1
    assert not result.stopped
    assert list(result.record.rejected) == [1]
    assert "expected at most 8192, the model's length" in result.record.rejected[1]
    kept = [0, 2]
    for name in ("first_token_s", "last_token_s", "tokens", "replica"):
        ours, theirs = getattr(result.record.requests, name)[kept], getattr(alone.record.requests, name)
        assert ours.tolist() == theirs.tolist()
    assert result.request_columns()["rejected"].tolist() == [False, True, False]
    assert result.attainment == pytest.approx(2 / 3)
    assert "1 of 3 requests can never be answered" in str(result)
    assert result.as_json()["rejected"][0]["request"] == 1
    with pytest.raises(InputError, match="request 1: found 9000 tokens of prompt"):
        offchip.serve("llama-3-8b", "h100-sxm", requests, strict=True)


def test_a_turn_that_holds_a_rejected_answer_is_rejected_and_one_that_does_not_is_sent() -> None:
    """Request 1 holds the answer of 0; request 2 only waits for it: it is sent a think time after."""
    prompts = [[(1, 9000)], [(1, 9000), (-1, 10), (2, 5)], [(3, 50)], [(4, 60)]]
    requests = make_requests(
        [9000, 9015, 50, 60], 10, [1.0, 0.0, 0.0, 0.0], prompts=prompts, after=np.array([-1, 0, 0, 2]),
        think_s=np.array([0.0, 1.0, 2.0, 3.0]), output_stream=np.array([-1, -2, -3, -4]),
    )  # fmt: skip
    long = [worker(settings=EngineSettings(max_model_len=9012, max_num_batched_tokens=64), blocks=4000)]
    assert "holds the answer" not in str(refusals(requests, long))
    result = offchip.serve("llama-3-8b", "h100-sxm", requests)
    assert list(result.record.rejected) == [0, 1]
    sent = result.record.requests.arrival_s
    assert sent[2] == 3.0
    assert sent[3] == result.record.requests.last_token_s[2] + 3.0
    short = [worker(settings=EngineSettings(max_model_len=9012, max_num_batched_tokens=64), blocks=2252)]
    held = make_requests([9004, 20], 10, prompts=[[(1, 9004)], [(-1, 10), (2, 10)]], after=np.array([-1, 0]))
    assert refusals(held, short)[1] == "its prompt holds the answer of request 0, which was rejected"


@given(st.lists(st.integers(-1, 8), min_size=1, max_size=9), st.integers(0, 511))
@settings(max_examples=100, deadline=None)
def test_a_part_of_requests_keeps_prompts_and_order(after: list[int], mask: int) -> None:
    n = len(after)
    links = np.array([min(a, i - 1) for i, a in enumerate(after)])
    requests = make_requests(np.arange(1, n + 1), 2, np.arange(n), after=links, think_s=np.ones(n))
    kept = np.array([bool(mask >> i & 1) for i in range(n)])
    part = requests.part(kept)
    assert part.prompt_tokens.tolist() == requests.prompt_tokens[kept].tolist()
    assert part.segment_tokens.tolist() == (np.arange(1, n + 1)[kept]).tolist()
    numbers = np.flatnonzero(kept).tolist()
    for place, number in enumerate(numbers):
        before = links[number]
        while before >= 0 and not kept[before]:
            before = links[before]
        assert part.after[place] == (numbers.index(before) if before >= 0 else -1)


def test_unlike_workers_get_only_what_they_can_hold() -> None:
    small, large = worker("small", blocks=10), worker("large", blocks=64)
    requests = make_requests([20, 100, 20, 100], [10, 20, 10, 20], 0.0)
    assert refusals(requests, [small, large]) == {}
    assert [None if b is None else b.tolist() for b in bounds_of(requests, [small, large])] == [
        [True, False, True, False], None,
    ]  # fmt: skip
    record = run_service(requests, Service((small, large)))
    assert record.requests.tokens.tolist() == requests.output_tokens.tolist()
    assert (record.requests.replica[[1, 3]] == 1).all()


def test_a_worker_never_has_more_than_its_most_requests() -> None:
    requests = make_requests(np.full(30, 8), 6, np.arange(30) * 0.001)
    workers = worker("a", most_requests=2), worker("b", most_requests=3)
    for router in ("round-robin", "least-loaded", "prefix-aware", "power-of-two", "session-affinity"):
        record = run_service(requests, Service(workers, router=router))
        assert record.requests.tokens.tolist() == [6] * 30
        for number, most in enumerate((2, 3)):
            mine = record.steps.replica == number
            assert (record.steps.sequences[mine] + record.steps.waiting[mine]).max() <= most
            # Who waits before the router is let in in order.
            begun = record.requests.first_scheduled_s[record.requests.replica == number]
            assert (np.diff(begun) >= 0).all()
