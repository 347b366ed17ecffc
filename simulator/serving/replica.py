"""One worker of a service: schedulers that step together, what a step takes, and what came of it.

A worker has one scheduler, or several whose requests are apart but whose steps are not: groups of data-parallel
attention share the experts (``Layout.attention_dp``), and batches that ping-pong between two kinds of devices share
both (:mod:`simulator.serving.apart`). Its clock is the service's; it only says how long a step lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from simulator.serving.scheduler import Admission, KvSpace, MakeScheduler, Scheduler
from simulator.serving.settings import EngineSettings
from simulator.serving.step import ScheduledStep, StepCost, StepOutcome, StepPricer
from workloads.requests import Requests

__all__ = [
    "GroupPricer", "Progress", "Replica", "Resumes", "TakesCaches", "Worker", "WorkerStep", "nothing_scheduled",
]  # fmt: skip

Ints = npt.NDArray[np.int64]
Role = Literal["both", "prefill", "decode"]

_TRIES: Final = 64
"""Times that a scheduler may preempt and schedule nothing before it is taken to be stuck until something happens."""


@runtime_checkable
class GroupPricer(Protocol):
    """A pricer that knows what groups share. Without it a step takes as long as its slowest group's."""

    def price_groups(self, steps: Sequence[ScheduledStep]) -> StepCost:
        """The cost of one step of all groups, at least one of which schedules something."""
        ...


@runtime_checkable
class TakesCaches(Protocol):
    """A scheduler that admits requests whose keys and values another worker has computed.

    One without this counts such tokens against the budget of the step that admits them, though nothing is computed.
    """

    def receive(self, request: int, tokens: int) -> None:
        """The first ``tokens`` of a request's prompt are brought when it is admitted; called before ``add``."""
        ...


@runtime_checkable
class Resumes(Protocol):
    """A scheduler that goes on with an answer that another worker began: the tokens so far are a part of the prompt.

    At one without this a request whose worker failed begins anew.
    """

    def can_resume(self, request: int, tokens: int) -> bool:
        """Whether the request fits with so many tokens of its answer in its prompt."""
        ...

    def resume(self, request: int, tokens: int, answered: int) -> None:
        """``tokens`` of the answer follow the prompt, ``answered`` of which the request need not answer any more.

        Called before ``add``. The two differ at a prefill worker, whose requests answer one token each time.
        """
        ...


@dataclass(frozen=True)
class Worker:
    """What a worker is. ``devices``: nodes of the service's system that hold its cache, needed for transfers alone.

    The blocks of ``space`` are those of all ``groups`` together, the bytes of a block those of one group's devices.
    """

    name: str
    make: MakeScheduler
    settings: EngineSettings
    space: KvSpace
    pricer: StepPricer
    groups: int = 1
    role: Role = "both"
    devices: tuple[str, ...] = ()
    layers: int = 1
    """Parts in which its cache can leave while later ones are computed."""
    speed: float = 1.0
    """Routers divide its load by this: how fast it is beside others of a mixed pool."""
    most_requests: int = 0
    """Requests that may be there at once, waiting or running; further ones wait before the router. 0: any number."""

    @property
    def acceptance(self) -> float:
        """Chance of each draft token, where the one before it was accepted."""
        speculation = self.settings.speculation
        return speculation.acceptance if speculation is not None else 0.0


class WorkerStep(NamedTuple):
    """A step under way."""

    cost: StepCost
    groups: list[ScheduledStep]
    """What is computed."""
    drafts: list[Ints]
    """Of every entry that was scheduled, also where all of its tokens had been brought."""


class Progress(NamedTuple):
    """How many requests wait and run, and blocks that no request holds."""

    waiting: int
    running: int
    free_blocks: int


class Replica:
    """A worker at work. ``known`` gives each request's tokens that need not be computed here (-1: none)."""

    def __init__(self, worker: Worker, requests: Requests, seed: Sequence[int] = (0,)) -> None:
        self.worker, self.requests = worker, requests
        self.random = np.random.default_rng(list(seed))
        self.group: dict[int, int] = {}
        """Requests that are here, in order of arrival, and the group that each is in."""
        self.brought: dict[int, int] = {}
        """Tokens of requests whose cache a transfer has brought, until they are admitted and run."""
        self.step: WorkerStep | None = None
        self.admitted: list[Admission] = []
        self.preempted: list[int] = []
        self.schedulers: list[Scheduler] = []
        self.restart()

    def restart(self) -> None:
        """Begin with empty caches and no requests."""
        worker = self.worker
        space = worker.space._replace(blocks=worker.space.blocks // worker.groups)
        self.schedulers = [worker.make(self.requests, worker.settings, space) for _ in range(worker.groups)]
        self.loads = [0] * worker.groups
        self.group.clear()
        self.brought.clear()
        self.step = None

    def can_resume(self, request: int, tokens: int) -> bool:
        """Whether a request could go on here after so many tokens of its answer."""
        first = self.schedulers[0]
        return isinstance(first, Resumes) and first.can_resume(request, tokens)

    def add(self, request: int, sent_s: float, brought: int = 0, had: int = 0) -> None:
        """A request sent at ``sent_s`` has come; the keys and values of its first ``brought`` tokens with it.

        ``had``: tokens of its answer that its client has already.
        """
        group = min(range(len(self.loads)), key=self.loads.__getitem__)
        scheduler = self.schedulers[group]
        if had:
            assert isinstance(scheduler, Resumes)
            scheduler.resume(request, had, 0 if self.worker.role == "prefill" else had)
        if brought and isinstance(scheduler, TakesCaches):
            scheduler.receive(request, brought)
        elif brought:
            self.brought[request] = brought
        scheduler.add(request, sent_s)
        self.group[request] = group
        self.loads[group] += 1

    def progress(self) -> Progress:
        """Sums over the groups."""
        waiting = running = free = 0
        for scheduler in self.schedulers:
            waiting += scheduler.waiting
            running += scheduler.running
            free += scheduler.free_blocks
        return Progress(waiting, running, free)

    def begin(self) -> WorkerStep | None:
        """Schedule the next step and price it; None: nothing can run until something happens."""
        self.admitted, self.preempted = [], []
        idle = 0
        while idle < _TRIES:
            before, scheduled = (
                len(self.preempted),
                [self._schedule(scheduler) for scheduler in self.schedulers],
            )
            groups = [self._without_brought(step) for step in scheduled] if self.brought else scheduled
            if any(len(step.request) for step in groups):
                self.step = WorkerStep(self._price(groups), groups, [step.drafts for step in scheduled])
                return self.step
            for scheduler, step in zip(self.schedulers, scheduled, strict=True):
                scheduler.complete(np.zeros(len(step.request), np.int64))
            if any(len(step.request) for step in scheduled):
                continue
            if len(self.preempted) == before:
                return None
            idle += 1
        return None

    def _schedule(self, scheduler: Scheduler) -> ScheduledStep:
        step = scheduler.schedule()
        self.admitted += scheduler.admitted
        preempted = scheduler.preempted.tolist()
        self.preempted += preempted
        for request in preempted:
            self.brought.pop(request, None)
        return step

    def _price(self, groups: list[ScheduledStep]) -> StepCost:
        pricer = self.worker.pricer
        if len(groups) > 1 and isinstance(pricer, GroupPricer):
            return pricer.price_groups(groups)
        costs = [pricer.price(step) for step in groups if len(step.request)]
        if len(costs) == 1:
            return costs[0]
        longest = max(costs, key=lambda cost: cost.seconds)
        return longest._replace(joules=sum(cost.joules for cost in costs))

    def _without_brought(self, step: ScheduledStep) -> ScheduledStep:
        """The step without tokens whose keys and values have been brought, and without whom nothing is left of."""
        tokens, context = step.tokens.copy(), step.context.copy()
        for entry, request in enumerate(step.request.tolist()):
            brought = self.brought.get(request)
            if brought is None:
                continue
            skip = min(brought - int(context[entry]), int(tokens[entry]))
            if skip > 0:
                tokens[entry] -= skip
                context[entry] += skip
            if context[entry] + tokens[entry] >= brought:
                del self.brought[request]
        left = tokens > 0
        return step._replace(
            request=step.request[left], tokens=tokens[left], context=context[left], drafts=step.drafts[left],
            samples=step.samples[left], adapter=step.adapter[left],
        )  # fmt: skip

    def finish(self) -> list[StepOutcome]:
        """The step's end: draw what drafts are accepted, and say what each group got."""
        assert self.step is not None
        outcomes = []
        for scheduler, drafts in zip(self.schedulers, self.step.drafts, strict=True):
            outcomes.append(scheduler.complete(self._accepted(drafts)))
            for request in outcomes[-1].finished.tolist():
                self.loads[self.group.pop(request)] -= 1
        self.step = None
        return outcomes

    def _accepted(self, drafts: Ints) -> Ints:
        if self.worker.settings.speculation is None or not (most := int(drafts.max(initial=0))):
            return np.zeros(len(drafts), np.int64)
        kept: npt.NDArray[np.bool_] = self.random.random((len(drafts), most)) < self.worker.acceptance
        run: Ints = np.cumprod(kept, axis=1, dtype=np.int64).sum(axis=1)
        accepted: Ints = np.minimum(run, drafts)
        return accepted


def nothing_scheduled() -> ScheduledStep:
    """A step of no requests."""
    none = np.zeros(0, np.int64)
    return ScheduledStep(none, none, none, none, np.zeros(0, np.bool_), none)
