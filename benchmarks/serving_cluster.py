"""The loop of a service by itself: 100,000 requests on 16 workers with a scheduler that costs little.

./dev bench serving_cluster
"""

from __future__ import annotations

import resource
import sys
import time
from collections import deque

import numpy as np

from simulator.serving.cluster import run_service
from simulator.serving.replica import Worker
from simulator.serving.scheduler import Admission, KvSpace
from simulator.serving.service import Failure, Service
from simulator.serving.settings import EngineSettings
from simulator.serving.step import ScheduledStep, StepCost, StepOutcome
from workloads.requests import Requests, make_requests

REQUESTS, WORKERS = 100_000, 16
NONE = np.zeros(0, np.int64)


class Columns:
    """First come first served in columns: whole prompts, blocks for the whole answer taken at admission."""

    def __init__(self, requests: Requests, settings: EngineSettings, space: KvSpace) -> None:
        self.prompt, self.output = requests.prompt_tokens, requests.output_tokens
        self.settings, self.space, self.free_blocks = settings, space, space.blocks
        self.queue: deque[int] = deque()
        self.run, self.context, self.left = NONE, NONE, NONE
        self.preempted, self.admitted = NONE, list[Admission]()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self.queue)

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self.run)

    def add(self, request: int, _arrival_s: float | None = None) -> None:
        """A request has come."""
        self.queue.append(request)

    def drop(self, request: int) -> None:
        """Forget a request, wherever it stands."""
        if request in self.queue:
            self.queue.remove(request)
        kept = self.run != request
        self.free_blocks += self._blocks(request) * int((~kept).sum())
        self.run, self.context, self.left = self.run[kept], self.context[kept], self.left[kept]

    def _blocks(self, request: int) -> int:
        return -(-int(self.prompt[request] + self.output[request]) // self.space.block_tokens)

    def schedule(self) -> ScheduledStep:
        """Admit in order what fits, and go on with the rest."""
        self.admitted = []
        room, budget = (
            self.settings.max_num_seqs - len(self.run),
            self.settings.max_num_batched_tokens - len(self.run),
        )
        new = []
        while self.queue and len(new) < room:
            request = self.queue[0]
            blocks, prompt = self._blocks(request), int(self.prompt[request])
            if blocks > self.free_blocks or (prompt > budget and new):
                break
            self.queue.popleft()
            self.free_blocks -= blocks
            budget -= prompt
            new.append(request)
            self.admitted.append(Admission(request, 0, False))
        tokens = np.ones(len(self.run) + len(new), np.int64)
        if new:
            added = np.array(new, np.int64)
            tokens[len(self.run) :] = self.prompt[added]
            self.run = np.concatenate((self.run, added))
            self.context = np.concatenate((self.context, np.zeros(len(new), np.int64)))
            self.left = np.concatenate((self.left, self.output[added]))
        self.tokens = tokens
        drafts = np.zeros(len(tokens), np.int64)
        return ScheduledStep(
            self.run, tokens, self.context, drafts, np.ones(len(tokens), np.bool_), drafts - 1
        )

    def complete(self, _accepted: np.ndarray) -> StepOutcome:
        """A token each."""
        request, one = self.run, np.ones(len(self.run), np.int64)
        self.context = self.context + self.tokens
        self.left = self.left - 1
        finished = NONE
        if not self.left.all():
            over = self.left == 0
            finished = request[over]
            self.free_blocks += sum(self._blocks(number) for number in finished.tolist())
            kept = ~over
            self.run, self.context, self.left = request[kept], self.context[kept], self.left[kept]
        return StepOutcome(request, one, finished)


class Affine:
    """A step takes so much, and more for each token and each token of context."""

    def price(self, step: ScheduledStep) -> StepCost:
        """An affine price."""
        seconds = 6e-3 + 2e-5 * float(step.tokens.sum()) + 2e-8 * float(step.context.sum())
        return StepCost(seconds, seconds, 1e-3, 0.0, 500 * seconds)


def main() -> None:
    random = np.random.default_rng(0)
    prompt = np.clip(random.lognormal(5.0, 1.2, REQUESTS), 4, 4000).astype(np.int64)
    output = np.clip(random.lognormal(5.0, 0.9, REQUESTS), 4, 1000).astype(np.int64)
    arrival = np.cumsum(random.exponential(1 / 160, REQUESTS))
    requests = make_requests(prompt, output, arrival)
    settings, space = EngineSettings(max_num_seqs=256), KvSpace(30_000, 16, 2e6)
    workers = tuple(Worker(f"w{i}", Columns, settings, space, Affine()) for i in range(WORKERS))
    print(f"{int(output.sum()):,} tokens of answers")
    for router in sys.argv[1:] or ["round-robin", "least-loaded", "power-of-two", "prefix-aware"]:
        begun = time.process_time()
        failures = (Failure(3, 100.0, 130.0),)
        record = run_service(requests, Service(workers, router=router, failures=failures))
        seconds = time.process_time() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        steps = len(record.steps)
        print(
            f"{router:<16}{seconds:>7.1f} s{steps:>10,} steps{1e6 * seconds / steps:>7.1f} us a step"
            f"{record.steps.sequences.mean():>7.1f} sequences{peak:>7.2f} GiB{record.end_s:>8.0f} s served"
        )


if __name__ == "__main__":
    main()
