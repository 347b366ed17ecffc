"""Runs schedulers of serving engines to the end, and holds what every policy must keep."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MOST_STEPS = 1500


class EndlessError(Exception):
    """Two requests preempt one another for ever, in the engine and in the oracle alike."""


def drafts_accepted(request, outputs, drafts):
    """As good as random, and the same for both sides."""
    return min(drafts, (request * 7 + outputs * 5 + 3) % 4)


@dataclass
class Run:
    """What came of a run."""

    tokens: dict[int, int] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    hits: int = 0
    preemptions: int = 0
    steps: int = 0
    widest: int = 0
    copied_in_bytes: float = 0.0
    copied_out_bytes: float = 0.0
    drive_in_bytes: float = 0.0
    drive_out_bytes: float = 0.0


def run(scheduler, requests, blocks, check=lambda scheduler, step: None):
    """Run all requests, which come at steps ``arrival_s``, and hold the invariants of any policy."""
    outcome, added, now = Run(), 0, 0
    made = np.zeros(requests.count, np.int64)
    while added < requests.count or scheduler.running + scheduler.waiting:
        while added < requests.count and requests.arrival_s[added] <= now:
            scheduler.add(added)
            added += 1
        step = scheduler.schedule()
        assert 0 <= scheduler.free_blocks <= blocks
        assert len(set(step.request.tolist())) == len(step.request)
        assert (step.tokens > 0).all()
        check(scheduler, step)
        for admission in scheduler.admitted:
            outcome.admitted.append(admission.request)
            outcome.hits += admission.hit
        outcome.preemptions += len(scheduler.preempted)
        outcome.copied_in_bytes += step.copied_in_bytes
        outcome.copied_out_bytes += step.copied_out_bytes
        outcome.drive_in_bytes += step.drive_in_bytes
        outcome.drive_out_bytes += step.drive_out_bytes
        outcome.widest = max(outcome.widest, len(step.request))
        right = [drafts_accepted(r, made[r], d) for r, d in zip(step.request, step.drafts, strict=True)]
        done = scheduler.complete(np.array(right, np.int64))
        made[done.request] += done.tokens
        for r in done.request.tolist():
            outcome.first.setdefault(r, now)
        outcome.finished += done.finished.tolist()
        now += 1
        outcome.steps += 1
        assert now < MOST_STEPS, "the engine does not come to an end"
    assert scheduler.free_blocks == blocks
    assert sorted(outcome.finished) == list(range(requests.count))
    outcome.tokens = dict(enumerate(made.tolist()))
    return outcome


def whole_answers(requests, max_model_len):
    """Tokens that each request must get."""
    return np.minimum(requests.output_tokens, max_model_len - requests.prompt_tokens)


def in_step_with_the_oracle(scheduler, requests, settings, oracle, blocks):
    """Every decision of a scheduler equals the oracle's; returns the run."""
    outcome, added, now = Run(), 0, 0
    made = np.zeros(requests.count, np.int64)
    while added < requests.count or oracle.running or oracle.queue:
        while added < requests.count and requests.arrival_s[added] <= now:
            scheduler.add(added)
            oracle.add(added)
            added += 1
        ours, theirs = scheduler.schedule(), oracle.schedule()
        mine = list(zip(*(column.tolist() for column in ours[:4]), strict=True))
        assert mine == [(e["job"].number, e["n"], e["context"], e["drafts"]) for e in theirs]
        assert ours.samples.tolist() == [e["context"] + e["n"] >= e["known"] for e in theirs]
        assert scheduler.preempted.tolist() == oracle.preempted
        assert [tuple(a) for a in scheduler.admitted] == oracle.admitted
        assert (scheduler.running, scheduler.waiting) == (len(oracle.running), len(oracle.queue))
        assert scheduler.free_blocks == len(oracle.pool.free)
        assert scheduler.cached_keys == len(oracle.pool.index)
        given = {new.request: new.blocks.tolist() for new in scheduler.new_blocks()}
        assert given == {e["job"].number: e["new"] for e in theirs if e["new"]}
        right = [drafts_accepted(e["job"].number, e["job"].outputs, e["drafts"]) for e in theirs]
        done = scheduler.complete(np.array(right, np.int64))
        assert done.finished.tolist() == oracle.complete(right)
        made[done.request] += done.tokens
        assert scheduler.free_blocks == len(oracle.pool.free)
        outcome.copied_in_bytes += ours.copied_in_bytes
        outcome.copied_out_bytes += ours.copied_out_bytes
        outcome.drive_in_bytes += ours.drive_in_bytes
        outcome.drive_out_bytes += ours.drive_out_bytes
        outcome.preemptions += len(oracle.preempted)
        outcome.hits += sum(hit for _, hit, _ in oracle.admitted)
        now += 1
        if now >= MOST_STEPS:
            raise EndlessError
    assert scheduler.free_blocks == blocks
    assert scheduler.running + scheduler.waiting == 0
    assert made.tolist() == whole_answers(requests, settings.max_model_len).tolist()
    return outcome
