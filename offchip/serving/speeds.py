"""How fast workers of unlike hardware are beside one another, for routers that go by load.

A worker's speed is the inverse of the seconds that an average request costs it when it is full: its prompt by itself,
its answer in a batch as large as the cache and the engine allow. Divided by the speed, a number of requests is expected
seconds of work, up to a factor that is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from simulator.serving.replica import Worker
from simulator.serving.step import ScheduledStep
from workloads.requests import Requests

__all__ = ["request_seconds", "with_speeds"]

LARGEST: Final = 256
"""Requests of the batch at most: larger ones cost each about the same."""


def request_seconds(worker: Worker, prompt: float, answer: float) -> float:
    """Seconds of a request of such a length at a worker of its role that is full."""
    space, settings = worker.space, worker.settings
    seconds = 0.0
    if worker.role != "decode":
        chunk = int(max(min(prompt, settings.max_num_batched_tokens), 1))
        seconds += worker.pricer.price(_step(1, chunk, 0)).seconds * max(prompt / chunk, 1.0)
    if worker.role != "prefill":
        fit = int(space.blocks * space.block_tokens / worker.groups / max(prompt + answer, 1.0))
        batch = max(1, min(settings.max_num_seqs, fit, LARGEST))
        one = worker.pricer.price(_step(batch, 1, int(prompt + answer / 2)))
        seconds += answer * one.seconds / (batch * worker.groups)
    return seconds


def with_speeds(workers: Sequence[Worker], requests: Requests) -> list[Worker]:
    """The workers with their speeds, of mean 1 within a role; workers that are alike stay as they are."""
    prompt, answer = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    known: dict[int, float] = {}
    rates = []
    for worker in workers:
        key = hash((id(worker.pricer), worker.role, worker.settings, worker.space))
        if key not in known:
            known[key] = 1 / request_seconds(worker, prompt, answer)
        rates.append(known[key])
    found = []
    for worker, rate in zip(workers, rates, strict=True):
        same = [other for one, other in zip(workers, rates, strict=True) if one.role == worker.role]
        speed = 1.0 if len(set(same)) == 1 else rate / (sum(same) / len(same))
        found.append(replace(worker, speed=speed))
    return found


def _step(requests: int, tokens: int, context: int) -> ScheduledStep:
    ones = np.ones(requests, np.int64)
    return ScheduledStep(np.arange(requests), tokens * ones, context * ones, 0 * ones, ones > 0, -ones)
