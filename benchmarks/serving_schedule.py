"""Scheduling of 10,000 chat-like requests at a batch of 256, every policy; the vLLM policy beside the plain oracle.

The ratio is of one run on one machine: the oracle (tests/serving/plain_scheduler.py) schedules the first requests of
the same table, and both are put as microseconds a step. No model runs: the time is that of the decisions alone.

Usage: ./dev bench serving_schedule [REQUESTS] [REQUESTS_OF_THE_ORACLE]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests, make_requests

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

BATCH = 256
BLOCK_TOKENS = 16
BLOCKS = 4_500
"""Less than the batch would like, so that requests are preempted and prefixes evicted."""
SEED = 1


def table(count: int) -> Requests:
    """Lengths as in ShareGPT (lognormal; means 220 and 190 tokens); a third begins with one of 20 system prompts."""
    random = np.random.default_rng(SEED)
    prompt = np.clip(random.lognormal(4.7, 1.2, count).astype(np.int64), 4, 4000)
    answer = np.clip(random.lognormal(4.9, 0.8, count).astype(np.int64), 1, 2000)
    shared = random.random(count) < 1 / 3
    system = random.integers(0, 20, count)
    prompts = [
        [(1_000_000 + int(system[i]), 200), (i, int(prompt[i]))] if shared[i] else [(i, int(prompt[i]))]
        for i in range(count)
    ]
    return make_requests(prompt + 200 * shared, answer, prompts=prompts)


def run(scheduler: Any, requests: Requests, nothing: Any) -> tuple[int, int, float]:
    """Steps, preemptions and CPU seconds until all requests have ended."""
    begin = time.process_time()
    for request in range(requests.count):
        scheduler.add(request)
    steps = preempted = 0
    while scheduler.running + scheduler.waiting:
        step = scheduler.schedule()
        preempted += len(scheduler.preempted)
        scheduler.complete(nothing[: len(step.request)])
        steps += 1
    return steps, preempted, time.process_time() - begin


def run_plain(requests: Requests, settings: EngineSettings) -> tuple[int, float]:
    """Steps and CPU seconds of the oracle."""
    from serving.plain_scheduler import PlainScheduler

    begin = time.process_time()
    oracle = PlainScheduler(requests, settings, BLOCKS, BLOCK_TOKENS)
    for request in range(requests.count):
        oracle.add(request)
    steps = 0
    while oracle.running or oracle.queue:
        oracle.complete([0] * len(oracle.schedule()))
        steps += 1
    return steps, time.process_time() - begin


def main() -> None:
    count, few = (int(argument) for argument in (*sys.argv[1:3], "10000", "600")[:2])
    nothing = np.zeros(BATCH, np.int64)
    space = KvSpace(BLOCKS, BLOCK_TOKENS, 2e6)
    requests = table(count)
    print(
        f"{count} requests, {int(requests.prompt_tokens.sum())} + {int(requests.output_tokens.sum())} tokens"
    )
    each: dict[str, float] = {}
    for name in SCHEDULERS:
        settings = EngineSettings(scheduler=name, max_num_seqs=BATCH, max_num_batched_tokens=8192)
        run(SCHEDULERS.get(name)(table(4), settings, space), table(4), nothing)
        steps, preempted, seconds = run(SCHEDULERS.get(name)(requests, settings, space), requests, nothing)
        each[name] = seconds / steps * 1e6
        print(
            f"{name:28} {steps:6} steps {preempted:5} preempted {seconds:7.2f} CPU s {each[name]:8.1f} us a step"
        )
    settings = EngineSettings(scheduler="vllm", max_num_seqs=BATCH, max_num_batched_tokens=8192)
    part = table(few)
    ours = run(SCHEDULERS.get("vllm")(part, settings, space), part, nothing)
    steps, seconds = run_plain(part, settings)
    assert steps == ours[0]
    print(
        f"plain oracle, {few} requests: {steps} steps, {seconds / steps * 1e6:.0f} us a step against "
        f"{ours[2] / steps * 1e6:.1f} us: {seconds / ours[2]:.0f} times"
    )


if __name__ == "__main__":
    main()
