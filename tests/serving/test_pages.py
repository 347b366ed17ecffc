"""Caches of pages: what a request holds at any time, told token by token, and what the schedulers make of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InfeasibleError, InputError
from serving.driver import run, whole_answers
from serving.strategies import request_tables
from simulator.serving.pages import contiguous, hybrid, pages_of
from simulator.serving.rules import PageGroup
from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.settings import EngineSettings
from workloads.requests import make_requests

groups = st.lists(
    st.builds(PageGroup, st.sampled_from([0, 1, 2, 4]), st.integers(1, 3), st.sampled_from([0, 0, 1, 3, 8])),
    min_size=1,
    max_size=3,
)


def sglang(space):
    return SCHEDULERS.get("sglang")(make_requests([1], [1]), EngineSettings(scheduler="sglang"), space)


def pages_by_token(group, base, tokens):
    """Pages that hold a token that the layers still look at."""
    if group.page_tokens == 0:
        return group.pages
    kept = [t for t in range(tokens) if group.window == 0 or t > base - group.window]
    return group.pages * len({t // group.page_tokens for t in kept})


@pytest.mark.parametrize("name", ["vllm", "trtllm-guaranteed-no-evict", "trtllm-max-utilization", "static"])
def test_pages_are_those_of_tokens_that_are_still_looked_at(name):
    seen = {"preemptions": 0, "held": 0}

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(groups.map(tuple), request_tables(), st.integers(0, 20), st.integers(4, 24))
    def holds(chosen, requests, spare, budget):
        longest = int((requests.prompt_tokens + requests.output_tokens).max())
        step_tokens = 1 << 40 if name == "static" else budget
        pages = pages_of(chosen, longest, step_tokens) + spare
        fields = EngineSettings(
            scheduler=name, max_num_batched_tokens=budget, max_model_len=64, max_num_seqs=4
        )
        scheduler = SCHEDULERS.get(name)(requests, fields, hybrid(pages, 1.0, chosen))

        def check(scheduler, step):
            if name == "vllm":
                held = sum(
                    pages_by_token(group, base, base + n)
                    for base, n in zip(step.context.tolist(), step.tokens.tolist(), strict=True)
                    for group in chosen
                )
                still = scheduler.running - len(step.request)
                assert held <= pages - scheduler.free_blocks
                assert still or held == pages - scheduler.free_blocks
                seen["held"] += 1

        outcome = run(scheduler, requests, pages, check)
        assert list(outcome.tokens.values()) == whole_answers(requests, 64).tolist()
        assert outcome.hits == 0
        seen["preemptions"] += outcome.preemptions

    holds()
    assert (seen["preemptions"] > 0) == (name in ("vllm", "trtllm-max-utilization"))
    assert (seen["held"] > 100) == (name == "vllm")


def test_the_most_pages_of_a_request_are_never_passed():
    group = PageGroup(4, 2, 8)
    for step in (1, 3, 10):
        most = max(pages_by_token(group, base, min(base + step, 60)) for base in range(60))
        assert most <= pages_of((group,), 60, step) <= most + 2 * group.pages
    assert pages_of((PageGroup(0, 3), PageGroup(4)), 9, 9) == 3 + 3


def test_small_pages_of_virtual_memory_hold_more_requests():
    # 32 layers, 8 heads of 128 in fp16: 2 KiB of keys a token and layer, so 32 or 1024 tokens a page.
    requests = make_requests([40] * 64, 4)
    batch = {}
    for page in (64 << 10, 2 << 20):
        space = contiguous(4 << 30, page, 64, 2048)
        assert space.block_tokens == page // 2048
        fields = EngineSettings(max_model_len=4096, enable_prefix_caching=False)
        scheduler = SCHEDULERS.get("vllm")(requests, fields, space)
        batch[page] = run(scheduler, requests, space.blocks).widest
    # A request takes 2 pages of 64 tensors, or one: 8 MiB against 128 MiB.
    assert batch == {64 << 10: 64, 2 << 20: 32}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: contiguous(1 << 30, 4096, 64, 2048), "64 KiB"),
        (lambda: contiguous(1 << 30, 4 << 20, 64, 2048), "2 MiB"),
        (lambda: contiguous(1 << 30, 65536, 0, 2048), "found 0 tensors"),
        (lambda: hybrid(10, 1.0, ()), "a group has pages"),
        (lambda: sglang(hybrid(9, 1.0, (PageGroup(4),))), "equal pages"),
    ],
)  # fmt: skip
def test_other_pages_are_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_a_request_that_never_fits_says_its_bytes():
    scheduler = SCHEDULERS.get("vllm")(
        make_requests([100], [10]),
        EngineSettings(max_model_len=200),
        hybrid(20, 1000.0, (PageGroup(4), PageGroup(0, 2))),
    )  # fmt: skip
    with pytest.raises(InfeasibleError, match=r"30 blocks \(30000 bytes\) for 109 tokens; the cache has 20"):
        scheduler.add(0)


def test_swapped_pages_come_back():
    requests = make_requests([8] * 4, 20)
    space = KvSpace(12, 4, 10.0, sequence_bytes=3.0, host_blocks=30, groups=(PageGroup(4),))
    scheduler = SCHEDULERS.get("vllm")(requests, EngineSettings(max_model_len=64, swap=True), space)
    outcome = run(scheduler, requests, 12)
    assert outcome.preemptions > 0
    assert outcome.copied_in_bytes == outcome.copied_out_bytes > 0
    assert scheduler.host.free == 30
    assert np.unique(list(outcome.tokens.values())).tolist() == [20]
