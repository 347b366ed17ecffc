"""A plain first-come-first-served scheduler over counts of blocks, and a price of a + b x tokens, for tests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from hw_configs.problems import InfeasibleError
from simulator.serving.replica import Worker
from simulator.serving.scheduler import Admission, KvSpace
from simulator.serving.settings import EngineSettings
from simulator.serving.step import ScheduledStep, StepCost, StepOutcome


@dataclass(frozen=True)
class Affine:
    """A step takes ``base_s`` and so much for each token."""

    base_s: float = 0.01
    token_s: float = 0.001

    def price(self, step: ScheduledStep) -> StepCost:
        assert len(step.request) > 0
        assert (step.tokens > 0).all()
        seconds = self.base_s + self.token_s * float(step.tokens.sum())
        return StepCost(seconds, seconds / 2, seconds / 4, seconds / 8, 2.0 * seconds)


class Counts:
    """Continuous batching with chunks; the last one that runs is preempted when blocks run out."""

    def __init__(self, requests, settings: EngineSettings, space: KvSpace) -> None:
        self.requests, self.settings, self.space = requests, settings, space
        self.free_blocks = space.blocks
        self.queue: deque[int] = deque()
        self.run: list[int] = []
        self.known: dict[int, int] = {}
        self.computed: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.answer: dict[int, int] = {}
        self.preempted = np.zeros(0, np.int64)
        self.admitted: list[Admission] = []
        self.step: list[tuple[int, int, int, bool]] = []
        self.before: set[int] = set()

    waiting = property(lambda self: len(self.queue))
    running = property(lambda self: len(self.run))

    def add(self, request: int, arrival_s=None) -> None:
        prompt, answer = int(self.requests.prompt_tokens[request]), int(self.requests.output_tokens[request])
        if -(-(prompt + answer) // self.space.block_tokens) > self.space.blocks:
            raise InfeasibleError(f"request {request} needs more blocks than there are")
        assert request not in self.known
        self.known[request], self.computed[request], self.held[request] = prompt, 0, 0
        self.answer[request] = 0
        self.queue.append(request)

    def _take(self, request: int, tokens: int) -> bool:
        need = -(-(self.computed[request] + tokens) // self.space.block_tokens) - self.held[request]
        if need > self.free_blocks:
            return False
        self.free_blocks -= max(need, 0)
        self.held[request] += max(need, 0)
        return True

    def _leave(self, request: int) -> None:
        self.free_blocks += self.held[request]
        self.held[request] = self.computed[request] = 0

    def schedule(self) -> ScheduledStep:
        budget, preempted, self.admitted, self.step = self.settings.max_num_batched_tokens, [], [], []
        place = 0
        while place < len(self.run) and budget:
            request = self.run[place]
            drafts = self._drafts(request)
            tokens = min(self.known[request] - self.computed[request] + drafts, budget)
            drafts = max(min(drafts, tokens - (self.known[request] - self.computed[request])), 0)
            while not self._take(request, tokens):
                last = self.run.pop()
                preempted.append(last)
                self._leave(last)
                self.queue.appendleft(last)
                if last == request:
                    break
            else:
                self._enter(request, tokens, drafts)
                budget -= tokens
                place += 1
        while self.queue and budget and not preempted and len(self.run) < self.settings.max_num_seqs:
            request = self.queue[0]
            tokens = min(self.known[request] - self.computed[request], budget)
            if not self._take(request, tokens):
                break
            self.queue.popleft()
            self.run.append(request)
            self.admitted.append(Admission(request, 0, request in self.before))
            self.before.add(request)
            self._enter(request, tokens, 0)
            budget -= tokens
        self.preempted = np.array(preempted, np.int64)
        columns = np.array([entry[:3] for entry in self.step], np.int64).reshape(-1, 3).T
        context = np.array([self.computed[entry[0]] for entry in self.step], np.int64)
        samples = np.array([entry[3] for entry in self.step], np.bool_)
        return ScheduledStep(
            columns[0], columns[1], context, columns[2], samples, np.full(len(self.step), -1)
        )

    def _drafts(self, request: int) -> int:
        speculation = self.settings.speculation
        return speculation.tokens if speculation is not None and self.answer[request] else 0

    def _enter(self, request: int, tokens: int, drafts: int) -> None:
        samples = self.computed[request] + tokens - drafts >= self.known[request]
        self.step.append((request, tokens, drafts, samples))

    def complete(self, accepted) -> StepOutcome:
        assert len(accepted) == len(self.step)
        requests, tokens, finished = [], [], []
        for (request, count, drafts, samples), kept in zip(self.step, accepted.tolist(), strict=True):
            self.computed[request] += count - drafts + kept
            if not samples:
                continue
            total = int(self.requests.output_tokens[request])
            got = min(1 + kept, total - self.answer[request])
            self.answer[request] += got
            self.known[request] += got
            requests.append(request)
            tokens.append(got)
            if self.answer[request] == total:
                finished.append(request)
                self.drop(request)
        self.step = []
        return StepOutcome(*(np.array(column, np.int64) for column in (requests, tokens, finished)))

    def drop(self, request: int) -> None:
        self._leave(request)
        if request in self.run:
            self.run.remove(request)
        else:
            self.queue.remove(request)
        for table in (self.known, self.computed, self.held, self.answer):
            del table[request]


class Resuming(Counts):
    """The same; a request whose worker failed comes with the tokens of its answer so far."""

    def __init__(self, requests, settings: EngineSettings, space: KvSpace) -> None:
        super().__init__(requests, settings, space)
        self.had: dict[int, tuple[int, int]] = {}

    def can_resume(self, request: int, tokens: int) -> bool:
        return tokens % 5 != 4  # Some requests are as if they did not fit.

    def resume(self, request: int, tokens: int, answered: int) -> None:
        self.had[request] = (tokens, answered)

    def add(self, request: int, arrival_s=None) -> None:
        super().add(request, arrival_s)
        tokens, answered = self.had.pop(request, (0, 0))
        self.known[request] += tokens
        self.answer[request] = answered


class Receiving(Counts):
    """The same; what was computed elsewhere is there when a request is admitted, and costs no budget."""

    def __init__(self, requests, settings: EngineSettings, space: KvSpace) -> None:
        super().__init__(requests, settings, space)
        self.brought: dict[int, int] = {}

    def receive(self, request: int, tokens: int) -> None:
        self.brought[request] = tokens

    def add(self, request: int, arrival_s=None) -> None:
        super().add(request, arrival_s)
        self.computed[request] = self.brought.pop(request, 0)


def worker(name: str = "w", **changes) -> Worker:
    """A small worker: 64 blocks of 4 tokens, 32 tokens a step, 8 requests."""
    settings = changes.pop("settings", None) or EngineSettings(
        max_num_batched_tokens=changes.pop("budget", 32), max_num_seqs=changes.pop("seqs", 8)
    )
    space = KvSpace(changes.pop("blocks", 64), 4, changes.pop("block_bytes", 4e6))
    make, pricer = changes.pop("make", Counts), changes.pop("pricer", Affine())
    return Worker(name, make, settings, space, pricer, **changes)
