"""Each rule, broken by itself in the plain program, is noticed: the random cases reach every one of them."""

from __future__ import annotations

import contextlib
import inspect

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from serving import plain_scheduler
from serving.driver import EndlessError, in_step_with_the_oracle
from serving.strategies import engine_settings, request_tables
from simulator.serving.policies.vllm import make
from simulator.serving.scheduler import KvSpace

FCFS, PRIORITY = {"policy": "fcfs"}, {"policy": "priority"}
CACHED = {"enable_prefix_caching": True}
BROKEN = {
    "table freed first block first": ("in reversed(table)", "in table", {}),
    "all freed blocks to the end": (
        "self.free = [b for b in loose if b not in self.key_of] + self.free",
        "self.free += [b for b in loose if b not in self.key_of]",
        {},
    ),
    "all freed blocks to the front": (
        "self.free += [b for b in loose if b in self.key_of]",
        "self.free = [b for b in loose if b in self.key_of] + self.free",
        CACHED,
    ),
    "the newest of equal blocks": ("hits.append(standing[0])", "hits.append(standing[-1])", CACHED),
    "a second block of a key not entered": (
        "        self.key_of[b] = key\n",
        "        if key in self.index:\n            return\n        self.key_of[b] = key\n",
        CACHED,
    ),
    "a look-up may take the last token": (
        "(len(tokens) - 1) // self.size",
        "len(tokens) // self.size",
        CACHED,
    ),
    "the last hit block stays": ("return hits[:-1] if drop_last else hits", "return hits", CACHED),
    "preempted to the back": ("self.queue.insert(0, victim)", "self.queue.append(victim)", FCFS),
    "no look-ahead": ("self.LA = spec.lookahead", "self.LA = 0 * spec.lookahead", {}),
    "no slots for drafts": ("self.ds = spec.draft_slots", "self.ds = 0 * spec.draft_slots", {}),
    "active sequences ignored": ("(cfg.max_num_active_seqs or cfg.max_num_seqs)", "cfg.max_num_seqs", {}),
    "the cap is never lifted": ("if inside > 1 else 0", "", {}),
    "the cap is lifted by what runs": (
        "inside = len(self.running) + len(self.queue)",
        "inside = len(self.running)",
        {},
    ),
    "the cap not for running": (
        "n = self.cap(job.known + job.drafts - job.computed)",
        "n = job.known + job.drafts - job.computed",
        {},
    ),
    "the cap not for admissions": ("            n = self.cap(n)\n", "", {}),
    "adaptive ignored": ("if self.L and cfg.long", "if False and cfg.long", {}),
    "no cut at the longest sequence": (
        "self.room(), self.cfg.max_model_len - job.computed - 1)",
        "self.room())",
        {},
    ),
    "priority: the last victim of equals": (
        "next(j for j in self.running if",
        "next(j for j in self.running[::-1] if",
        PRIORITY,
    ),
    "priority: always the last": (
        '            if self.cfg.policy == "priority":\n                    worst',
        "            if False:\n                    worst",
        PRIORITY,
    ),
    "priority: budgets are lost": ('self.Bt += entry["n"]', "self.Bt += 0", PRIORITY),
    "priority: input budgets are lost": ('self.Bi += entry["n"] + self.ds', "self.Bi += 0", PRIORITY),
    "priority: the place is not moved": (
        "                    i -= 1\n",
        "                    i -= 0\n",
        PRIORITY,
    ),
    "the pass goes on after itself": (
        "                    return\n                got",
        "                    break\n                got",
        {},
    ),
    "admits after preempting": ("if not self.preempted:", "if True:", {}),
    "no padding": ("if self.S > 0 and n == 1", "if self.S > 9 and n == 1", {}),
    "padding beside prompts": ("and not in_prefill and", "and", {}),
    "padding when idle": ("and (ran or H > 0)", "", {}),
    "padding beyond the longest": ("if H + m + 1 <= cfg.max_model_len:", "if True:", {}),
    "padding cut to the room": (
        "                    if m > self.room():\n                        return\n",
        "",
        {},
    ),
    "watermark ignored": ("math.floor(self.cfg.watermark * self.total)", "0", {}),
    "watermark when idle": ("if admission and self.running else 0", "if admission else 0", {}),
    "watermark not for the whole": ("whole - len(hits) + parked + W", "whole - len(hits) + parked", {}),
    "parked hits not counted": ("parked = sum(pool.holders[b] == 0 for b in hits)", "parked = 0", CACHED),
    "all hits counted as parked": (
        "parked = sum(pool.holders[b] == 0 for b in hits)",
        "parked = len(hits)",
        CACHED,
    ),
    "no test of the whole": ("if admission and self.cfg.scheduler_reserve_full_isl", "if False", {}),
    "the whole is the prompt": (
        "whole = math.ceil(min(job.known, M)",
        "whole = math.ceil(min(job.known - job.outputs, M)",
        {},
    ),
    "prompts cut though they may not": (
        "if not cfg.enable_chunked_prefill and",
        "if False and",
        {"enable_chunked_prefill": False, "max_model_len": 20, "max_num_batched_tokens": 24},
    ),
    "outputs not entered": (
        "min(job.computed + n, job.known) // pool.size",
        "min(job.computed + n, job.known - job.outputs) // pool.size",
        CACHED,
    ),
    "drafts entered": (
        "min(job.computed + n, job.known) // pool.size",
        "min(job.computed + n, len(job.tokens) + 99) // pool.size",
        CACHED,
    ),
    "drafts accepted all the same": ('job.computed -= entry["drafts"] - right', "pass", {}),
    "placeholders accepted": ('            if entry["padded"]:\n                right = 0\n', "", {}),
    "adapters share": (
        "(int(r.adapter[i]), int(r.segment_stream[k]), j)",
        "(0, int(r.segment_stream[k]), j)",
        CACHED,
    ),
}


def plain(old, new):
    """The plain scheduler with one text of its source replaced."""
    source = inspect.getsource(plain_scheduler)
    assert source.count(old) >= 1
    space = {"__name__": plain_scheduler.__name__}
    exec(compile(source.replace(old, new), "broken", "exec", dont_inherit=True), space)
    return space["PlainScheduler"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_noticed(rule):
    old, new, fixed = BROKEN[rule]
    broken = plain(old, new)

    @settings(
        max_examples=2500,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(engine_settings(**fixed), request_tables(), st.integers(0, 10))
    def holds(chosen, requests, spare):
        assume(requests.prompt_tokens.max() < chosen.max_model_len)
        size, spec = chosen.block_size, chosen.speculation
        longest = int((requests.prompt_tokens + requests.output_tokens).max())
        longest += spec.tokens + spec.lookahead if spec else 0
        blocks = -(-min(longest, chosen.max_model_len) // size) + spare
        scheduler = make(requests, chosen, KvSpace(blocks, size, 1.0))
        with contextlib.suppress(EndlessError):
            in_step_with_the_oracle(
                scheduler, requests, chosen, broken(requests, chosen, blocks, size), blocks
            )

    with pytest.raises((AssertionError, IndexError, ValueError)):
        holds()
