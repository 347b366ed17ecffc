"""The other policies: equal to plain programs where their rules are vLLM's with a change; what each of them keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InfeasibleError, InputError
from serving.driver import EndlessError, in_step_with_the_oracle, run, whole_answers
from serving.plain_policies import (
    PlainMaxUtilization,
    PlainOrca,
    PlainPrefillFirst,
    PlainReserved,
    PlainStatic,
    PlainSwap,
)
from serving.strategies import engine_settings, request_tables
from simulator.serving.rules import UNLIMITED
from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.settings import EngineSettings, Speculation
from workloads.requests import make_requests

NEUTRAL = {
    "policy": "fcfs", "max_num_active_seqs": 0, "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False, "watermark": 0.0,
}  # fmt: skip
ORACLES = {
    "orca": PlainOrca,
    "prefill-first": PlainPrefillFirst,
    "static": PlainStatic,
    "trtllm-guaranteed-no-evict": PlainReserved,
    "trtllm-max-utilization": PlainMaxUtilization,
}
NEVER_EVICT = ("orca", "prefill-first", "static", "trtllm-guaranteed-no-evict")


def least_blocks(requests, chosen):
    """Blocks of the longest request, with its drafts."""
    spec = chosen.speculation
    longest = int((requests.prompt_tokens + requests.output_tokens).max()) + (
        spec.tokens + spec.lookahead if spec else 0
    )
    return -(-min(longest, chosen.max_model_len) // chosen.block_size)


def as_the_plain_one_reads_them(name, chosen):
    """Orca and static batches know neither budgets nor sharing."""
    changed = {field: getattr(chosen, field) for field in chosen.__dataclass_fields__}
    if name in ("orca", "static"):
        changed |= {
            "max_num_batched_tokens": UNLIMITED, "enable_chunked_prefill": False, "enable_prefix_caching": False,
        }  # fmt: skip
    return EngineSettings(**{**changed, "scheduler_reserve_full_isl": name == "trtllm-max-utilization"})


@pytest.mark.parametrize("name", ORACLES)
def test_every_decision_is_the_oracles(name):
    seen = {"preemptions": 0, "hits": 0}

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(engine_settings(scheduler=name, **NEUTRAL), request_tables(), st.integers(0, 12))
    def holds(chosen, requests, spare):
        assume(requests.prompt_tokens.max() < chosen.max_model_len)
        size, blocks = chosen.block_size, least_blocks(requests, chosen) + spare
        scheduler = SCHEDULERS.get(name)(requests, chosen, KvSpace(blocks, size, 1.0))
        oracle = ORACLES[name](requests, as_the_plain_one_reads_them(name, chosen), blocks, size)
        outcome = in_step_with_the_oracle(scheduler, requests, chosen, oracle, blocks)
        seen["preemptions"] += outcome.preemptions
        seen["hits"] += outcome.hits

    holds()
    assert (seen["preemptions"] == 0) == (name in NEVER_EVICT)
    assert (seen["hits"] == 0) == (name in ("orca", "static"))


def swapping_holds(plain, most):
    """The engine's swapping is a plain one's, and what goes comes back; what was seen."""
    seen = {"host": 0, "drive": 0, "recomputed": 0}

    @settings(max_examples=most, deadline=None, derandomize=True)
    @given(
        engine_settings(swap=True, speculation=None),
        request_tables(),
        st.integers(0, 8),
        st.sampled_from([0, 4, 50]),
        st.sampled_from([0, 3, 50]),
    )
    def holds(chosen, requests, spare, host, drive):
        assume(requests.prompt_tokens.max() < chosen.max_model_len)
        size, blocks = chosen.block_size, least_blocks(requests, chosen) + spare
        space = KvSpace(blocks, size, 8.0, sequence_bytes=1.0, host_blocks=host, drive_blocks=drive)
        scheduler = SCHEDULERS.get("vllm")(requests, chosen, space)
        oracle = plain(requests, chosen, blocks, size, tiers=(host, drive))
        try:
            outcome = in_step_with_the_oracle(scheduler, requests, chosen, oracle, blocks)
        except EndlessError:
            assert chosen.policy == "priority"
            return
        copied = (
            (outcome.copied_out_bytes, outcome.copied_in_bytes),
            (outcome.drive_out_bytes, outcome.drive_in_bytes),
        )
        for place, (tier, most) in enumerate(((scheduler.host, host), (scheduler.drive, drive))):
            assert tier.free == tier.blocks == most
            assert copied[place] == (tier.bytes_out, tier.bytes_in)
            assert tier.bytes_out == tier.bytes_in == 8 * oracle.moved[place][0] + oracle.times[place]
            assert oracle.moved[place][0] == oracle.moved[place][1]
            seen[tier.name] += oracle.moved[place][0]
            assert most > 0 or tier.bytes_out == 0
        seen["recomputed"] += outcome.preemptions if host == drive == 0 else 0

    holds()
    return seen


def test_swapping_is_the_oracles_and_what_goes_comes_back():
    seen = swapping_holds(PlainSwap, 400)
    assert seen["host"] > 50
    assert seen["drive"] > 20
    assert seen["recomputed"] > 5


class DrivesFirst(PlainSwap):
    def preempt(self, victim):
        self.tiers.reverse()
        super().preempt(victim)
        self.tiers.reverse()


class KeepsPlaces(PlainSwap):
    def allocate(self, job, n, hits, admission=False):
        rooms = list(self.tiers)
        got = super().allocate(job, n, hits, admission)
        self.tiers = rooms
        return got


class HalfOfIt(PlainSwap):
    def preempt(self, victim):
        super().preempt(victim)
        if victim.number in self.kept:
            tokens, tier = self.kept[victim.number]
            self.kept[victim.number] = max(tokens // 2, 1), tier


@pytest.mark.parametrize("broken", [DrivesFirst, KeepsPlaces, HalfOfIt])
def test_a_broken_tier_is_noticed(broken):
    with pytest.raises((AssertionError, ExceptionGroup)):
        swapping_holds(broken, 400)


@pytest.mark.parametrize("name", ["host", "drive"])
def test_a_tier_counts_places_and_bytes(name):
    requests, places = make_requests([4], [2]), {f"{name}_blocks": 3}
    scheduler = SCHEDULERS.get("vllm")(
        requests, EngineSettings(max_model_len=16), KvSpace(4, 4, 10.0, **places)
    )
    tier = getattr(scheduler, name)
    assert tier.put(2)
    assert not tier.put(2)
    assert (tier.free, tier.bytes_out, tier.bytes_in) == (1, 20.0, 0.0)
    tier.bring(1)
    tier.forget(1)
    assert (tier.free, tier.bytes_out, tier.bytes_in) == (3, 20.0, 10.0)
    with pytest.raises(ValueError, match="holds 0 blocks"):
        tier.bring(1)


@pytest.mark.parametrize("name", SCHEDULERS.names())
def test_every_request_gets_its_answer_and_comes_in_turn(name):
    @settings(max_examples=120, deadline=None, derandomize=True)
    @given(engine_settings(scheduler=name, **NEUTRAL), request_tables(), st.integers(0, 12))
    def holds(chosen, requests, spare):
        assume(requests.prompt_tokens.max() < chosen.max_model_len)
        spec = chosen.speculation
        blocks = least_blocks(requests, chosen) + 2 + (spec.tokens if spec else 0) + spare
        scheduler = SCHEDULERS.get(name)(requests, chosen, KvSpace(blocks, chosen.block_size, 1.0))
        outcome = run(scheduler, requests, blocks)
        assert list(outcome.tokens.values()) == whole_answers(requests, chosen.max_model_len).tolist()
        # First come, first served: whoever came first is admitted first.
        firsts = list(dict.fromkeys(outcome.admitted))
        assert firsts == sorted(firsts, key=lambda r: (requests.arrival_s[r], r))
        assert name not in NEVER_EVICT or outcome.preemptions == 0

    holds()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(engine_settings(scheduler="static", **NEUTRAL), request_tables(), st.integers(0, 12))
def test_a_static_batch_is_formed_when_nothing_runs(chosen, requests, spare):
    assume(requests.prompt_tokens.max() < chosen.max_model_len)
    blocks = least_blocks(requests, chosen) + spare
    scheduler = SCHEDULERS.get("static")(requests, chosen, KvSpace(blocks, chosen.block_size, 1.0))

    def check(scheduler, step):
        new = [admission.request for admission in scheduler.admitted]
        assert not new or new == step.request.tolist()
        assert all(step.tokens[k] == requests.prompt_tokens[r] for k, r in enumerate(new))

    run(scheduler, requests, blocks, check)


def whole_state(engine):
    """Holders, free list and index of an engine hold together, and follow from the tables of what runs."""
    s = engine._state
    e = s.engine[0]
    holders = np.zeros(len(s.blocks), np.int64)
    for r in s.running[: e["running"]]:
        q = s.requests[r]
        table = s.table[q["row"], : q["held"]]
        assert len(set(table.tolist())) == len(table)
        np.add.at(holders, table, 1)
    assert (holders == s.blocks["holders"]).all()
    at, free = int(s.blocks["next"][0]), []
    while at:
        free.append(at)
        at = int(s.blocks["next"][at])
    assert sorted(free) == (np.flatnonzero(holders[1:] == 0) + 1).tolist()
    assert len(free) == e["free"]
    heads = s.slots[s.slots > 0]
    assert len(heads) == e["keys"]
    standing = []
    for head in heads.tolist():
        at = head
        while True:
            standing.append(at)
            at = int(s.blocks["same_next"][at])
            if at == head:
                break
    assert sorted(standing) == np.flatnonzero(s.blocks["indexed"]).tolist()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(engine_settings(), request_tables(), st.integers(0, 10), st.data())
def test_holders_lists_and_index_hold_together_also_when_requests_are_dropped(chosen, requests, spare, data):
    assume(requests.prompt_tokens.max() < chosen.max_model_len)
    blocks = least_blocks(requests, chosen) + spare
    engine = SCHEDULERS.get("vllm")(requests, chosen, KvSpace(blocks, chosen.block_size, 1.0))
    inside = set(range(requests.count))
    for r in range(requests.count):
        engine.add(r)
    drops = data.draw(st.integers(0, 4))
    for _ in range(3000):
        if not inside:
            break
        step = engine.schedule()
        whole_state(engine)
        if drops and data.draw(st.booleans()):
            drops -= 1
            r = data.draw(st.sampled_from(sorted(inside)))
            engine.drop(r)
            whole_state(engine)
            if data.draw(st.booleans()):
                engine.add(r)
            else:
                inside.discard(r)
        done = engine.complete(np.zeros(len(step.request), np.int64))
        whole_state(engine)
        inside -= set(done.finished.tolist())
    assert not inside
    assert engine.running + engine.waiting == 0
    assert engine.free_blocks == blocks


@settings(max_examples=200, deadline=None, derandomize=True)
@given(request_tables(), st.integers(0, 12), st.integers(1, 12), st.sampled_from(["vllm", "sglang"]))
def test_a_larger_cache_never_lowers_hits_of_requests_one_at_a_time(requests, spare, more, name):
    # One at a time: then blocks leave in the order of their last use, and what a cache holds a larger one holds too.
    # With several that run, a larger cache admits others together, and who finds whose prefix changes.
    chosen = EngineSettings(
        scheduler=name, max_num_seqs=1, max_model_len=64, block_size=2, max_num_batched_tokens=64
    )
    hits = []
    for blocks in (
        least_blocks(requests, chosen) + 2 + spare,
        least_blocks(requests, chosen) + 2 + spare + more,
    ):
        hits.append(
            run(SCHEDULERS.get(name)(requests, chosen, KvSpace(blocks, 2, 1.0)), requests, blocks).hits
        )
    assert hits[0] <= hits[1]


@pytest.mark.parametrize("name", SCHEDULERS.names())
def test_what_can_never_fit_is_refused_at_once(name):
    requests = make_requests([10, 30, 60, 20], [5, 5, 5, 40])
    chosen = EngineSettings(scheduler=name, max_model_len=50, max_num_batched_tokens=16, block_size=4)
    scheduler = SCHEDULERS.get(name)(requests, chosen, KvSpace(8, 4, 1000.0))
    scheduler.add(0)
    with pytest.raises(InfeasibleError, match="prompt of 60 tokens; the engine takes 49"):
        scheduler.add(2)
    for request in (1, 3):
        with pytest.raises(InfeasibleError, match=r"\(8000 bytes\)"):
            scheduler.add(request)
    assert scheduler.waiting == 1


def test_a_prompt_that_one_step_cannot_take_is_refused_without_chunks():
    requests = make_requests([10, 12], [5, 6])
    chosen = EngineSettings(max_num_batched_tokens=16, enable_chunked_prefill=False, max_model_len=50)
    scheduler = SCHEDULERS.get("vllm")(requests, chosen, KvSpace(100, 16, 1.0))
    scheduler.add(0)
    with pytest.raises(
        InfeasibleError, match="comes to 17 tokens that must be computed in one step; a step takes 16"
    ):
        scheduler.add(1)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS.names() if name != "vllm"])
def test_settings_that_a_policy_does_not_know_are_refused(name):
    chosen = EngineSettings(scheduler=name, policy="priority", watermark=0.5)
    with pytest.raises(InputError) as error:
        SCHEDULERS.get(name)(make_requests([1], [1]), chosen, KvSpace(8, 4, 1.0))
    assert [problem.path for problem in error.value.problems] == ["engine.policy", "engine.watermark"]


def test_a_budget_below_one_token_is_refused():
    spec = Speculation(method="draft-model", tokens=3, lookahead=3, draft_slots=1)
    with pytest.raises(InputError, match="expected 2 or more: a token and its slots"):
        SCHEDULERS.get("vllm")(
            make_requests([1], [1]),
            EngineSettings(max_num_batched_tokens=1, speculation=spec),
            KvSpace(8, 4, 1.0),
        )


def test_an_engine_that_would_stand_still_says_so():
    # The second prompt is cached but for its last token, which comes with three placeholders: a step takes three.
    requests = make_requests([9, 9], [1, 4], prompts=[[(1, 9)], [(1, 9)]])
    spec = Speculation(method="ngram", tokens=3)
    chosen = EngineSettings(max_num_batched_tokens=3, speculation=spec, max_model_len=64)
    scheduler = SCHEDULERS.get("vllm")(requests, chosen, KvSpace(20, 4, 1.0))
    scheduler.add(0)
    while scheduler.running + scheduler.waiting:
        scheduler.complete(np.zeros(len(scheduler.schedule().request), np.int64))
    scheduler.add(1)
    with pytest.raises(
        InfeasibleError, match="request 1 waits for ever: it asks for more than a step of 3 tokens"
    ):
        scheduler.schedule()


def test_what_is_not_in_step_is_refused():
    requests = make_requests([4], [2])
    scheduler = SCHEDULERS.get("vllm")(requests, EngineSettings(max_model_len=16), KvSpace(4, 4, 1.0))
    scheduler.add(0)
    with pytest.raises(ValueError, match="in the system already"):
        scheduler.add(0)
    scheduler.schedule()
    with pytest.raises(ValueError, match="do not fit the step"):
        scheduler.complete(np.array([1]))
