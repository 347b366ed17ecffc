"""SGLang's policy: its tree equals a set of prefixes, and its rules on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.driver import run
from serving.plain_policies import PlainTree
from simulator.serving.policies.sglang import INITIAL_RATIO, LEAST_RATIO, make
from simulator.serving.radix import RadixTree, Run
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings
from workloads.requests import make_requests

sequences = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=1, max_size=3)


def as_runs(segments, tokens):
    runs, left = [], tokens
    for stream, length in segments:
        if left > 0:
            runs.append(Run(stream, 0, min(length, left)))
            left -= length
    return runs


def as_tokens(segments):
    return [(stream, j) for stream, length in segments for j in range(length)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from([1, 2, 3]), st.lists(sequences, min_size=1, max_size=10), st.lists(sequences, max_size=5)
)
def test_the_tree_holds_what_a_set_of_prefixes_holds(page, entered, asked):
    tree, plain = RadixTree(page), PlainTree(page)
    for segments in entered:
        tokens = as_tokens(segments)
        whole = len(tokens) // page * page
        before = plain.find(tokens)
        assert tree.insert(-1, as_runs(segments, whole)).tokens == before
        plain.insert(tokens)
        assert tree.size == plain.size
    for segments in entered + asked:
        tokens = as_tokens(segments)
        assert tree.find(-1, as_runs(segments, len(tokens))).tokens == plain.find(tokens)
        assert tree.find(0, as_runs(segments, len(tokens))).tokens == 0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from([1, 2]), st.lists(sequences, min_size=2, max_size=8), st.data())
def test_eviction_spares_what_is_held_and_frees_all_else(page, entered, data):
    tree = RadixTree(page)
    whole = [sum(length for _, length in segments) // page * page for segments in entered]
    for segments, tokens in zip(entered, whole, strict=True):
        tree.insert(-1, as_runs(segments, tokens))
    held = data.draw(st.integers(0, len(entered) - 1))
    node = tree.find(-1, as_runs(entered[held], whole[held])).node
    tree.hold(node)
    assert tree.held == whole[held]
    size, asked = tree.size, data.draw(st.integers(1, 12))
    gone = tree.evict(asked)
    assert gone >= min(asked, size - whole[held])
    assert tree.size == size - gone
    tree.evict(1000)
    assert tree.size == tree.held == whole[held]
    assert tree.find(-1, as_runs(entered[held], whole[held])).tokens == whole[held]
    tree.let_go(node)
    assert tree.held == 0
    tree.evict(1000)
    assert tree.size == 0


def test_the_least_recently_used_leaf_goes_first():
    tree = RadixTree(1)
    for stream in (1, 2, 3):
        tree.insert(-1, [Run(0, 0, 4), Run(stream, 0, 2)])
    tree.find(-1, [Run(0, 0, 4), Run(1, 0, 2)])
    assert tree.evict(1) == 2
    assert [tree.find(-1, [Run(0, 0, 4), Run(stream, 0, 2)]).tokens for stream in (1, 2, 3)] == [6, 4, 6]


def engine(requests, blocks, page=1, **changed):
    fields = {"max_num_batched_tokens": 64, "max_model_len": 500, "scheduler": "sglang", **changed}
    return make(requests, EngineSettings(**fields), KvSpace(blocks, page, 1.0))


def go(scheduler):
    step = scheduler.schedule()
    return step, scheduler.complete(np.zeros(len(step.request), np.int64))


def test_prompts_come_first_and_a_long_one_is_cut():
    scheduler = engine(make_requests([10, 100, 10], 8), 500)
    scheduler.add(0)
    assert go(scheduler)[0].tokens.tolist() == [10]
    assert go(scheduler)[0].tokens.tolist() == [1]
    scheduler.add(1)
    scheduler.add(2)
    step, outcome = go(scheduler)
    assert (step.request.tolist(), step.tokens.tolist(), outcome.request.tolist()) == ([1], [64], [])
    step, outcome = go(scheduler)
    assert (step.request.tolist(), step.tokens.tolist(), step.context.tolist()) == ([1, 2], [36, 10], [64, 0])
    assert outcome.request.tolist() == [1, 2]
    step, _ = go(scheduler)
    assert (step.request.tolist(), step.tokens.tolist()) == ([0, 1, 2], [1, 1, 1])


def test_prefixes_are_shared_by_the_token_and_only_once_computed():
    prompts = [[(7, 11), (1, 5)], [(7, 11), (2, 5)], [(7, 11), (1, 5), (3, 1)]]
    scheduler = engine(make_requests([16, 16, 17], 4, prompts=prompts), 200)
    scheduler.add(0)
    scheduler.add(1)
    go(scheduler)
    # In the same step nothing is shared; what both computed is kept once.
    assert [admission.hit for admission in scheduler.admitted] == [0, 0]
    assert scheduler.tree.size == 11 + 5 + 5
    scheduler.add(2)
    go(scheduler)
    assert [admission.hit for admission in scheduler.admitted] == [16]
    paged = engine(make_requests([16, 16, 17], 4, prompts=prompts), 200, page=4)
    for request in range(3):
        paged.add(request)
        go(paged)
    assert paged.tree.size == 8 + 8 + 8


def test_who_waits_is_let_in_by_what_is_still_to_come():
    # 200 tokens: after the first, 199 - 10 - 0.7 * 99 are left, and the second asks for 60 + 60 + 1.
    scheduler = engine(make_requests([10, 60, 10], [100, 60, 2]), 200)
    scheduler.add(0)
    go(scheduler)
    scheduler.add(1)
    scheduler.add(2)
    step, _ = go(scheduler)
    assert step.request.tolist() == [0]
    assert scheduler.waiting == 2
    # Nobody is asked again before one has ended.
    while scheduler.running == 1 and scheduler.waiting == 2:
        go(scheduler)
    assert scheduler._outputs[0] == 100


def test_the_ratio_falls_with_every_decode_and_rests_at_its_least():
    scheduler = engine(make_requests([4], [700]), 2000, max_model_len=1000)
    scheduler.add(0)
    ratios = []
    for _ in range(650):
        go(scheduler)
        ratios.append(scheduler._ratio)
    assert ratios[0] == INITIAL_RATIO
    assert ratios[1] == pytest.approx(INITIAL_RATIO - (INITIAL_RATIO - LEAST_RATIO) / 600)
    assert ratios[-1] == LEAST_RATIO


def pressed():
    """Requests that come one after another, each with a long answer, so that the estimate proves too low."""
    return make_requests([4 + k % 3 for k in range(16)], 60, [2.0 * k for k in range(16)])


def test_the_shortest_answers_are_retracted_and_all_end():
    requests = pressed()
    scheduler = engine(requests, 500)
    retractions = []

    def check(scheduler, step):
        if len(scheduler.preempted):
            gone = scheduler.preempted.tolist()
            answers = scheduler._outputs
            assert max(answers[gone]) <= min(answers[step.request])
            # Room for twenty more decodes of all that stay, or one alone.
            assert scheduler.free_blocks + len(step.request) >= 20 * len(step.request)
            retractions.append((gone, scheduler._ratio))

    outcome = run(scheduler, requests, 500, check)
    assert outcome.preemptions > 0
    assert retractions[0][1] > LEAST_RATIO
    assert set(outcome.tokens.values()) == {60}


def test_a_dropped_request_leaves_nothing():
    requests = make_requests([100, 20, 20], 10)
    scheduler = engine(requests, 400)
    for request in range(3):
        scheduler.add(request)
    step = scheduler.schedule()
    assert step.request.tolist() == [0]
    scheduler.drop(0)
    assert scheduler.complete(np.zeros(1, np.int64)).request.tolist() == []
    scheduler.drop(2)
    while scheduler.running + scheduler.waiting:
        go(scheduler)
    assert scheduler.free_blocks == 400
    assert scheduler._outputs.tolist() == [0, 10, 0]
