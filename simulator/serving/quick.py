"""The loop of a service with its workers' steps in compiled code: many steps in one call, until somebody has to look.

For what most studies ask: engines by rules with the pricer from tables, nobody failing, no drafts, adapters or copies;
requests sent at stated times, after earlier turns or by a number of clients; workers that serve alike, or prefill and
decode apart. What happens between steps is that of :class:`~simulator.serving.service_loop.ServiceLoop`, and so is the
record, to the last bit; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from math import inf
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulator.serving.crew import make_crew
from simulator.serving.engine import Engine
from simulator.serving.pricing import Pricer
from simulator.serving.quick_kernel import (
    CLERK,
    CLOCK,
    DECODE,
    FULL,
    HOST,
    MORE,
    PENDING,
    PREFILL,
    STEP,
    STOPPED,
    Desk,
    advance_crew,
    begin_step,
)
from simulator.serving.record import StepColumns, TokenGaps
from simulator.serving.replica import Progress, Worker, WorkerStep
from simulator.serving.service import Service
from simulator.serving.service_loop import ServiceLoop
from simulator.serving.step import ScheduledStep, StepCost
from simulator.serving.step_kernel import PRICE_COLUMNS
from workloads.requests import Requests, make_requests

__all__ = ["QuickLoop", "can_be_quick"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
STEPS: Final = 1 << 13
"""Steps of a call, and rows of the columns at the beginning."""
ROLES: Final = {"both": 0, "prefill": PREFILL, "decode": DECODE}


def can_be_quick(requests: Requests, service: Service) -> bool:
    """Whether a service is one that this module runs."""
    if service.failures or service.keep_gaps or requests.adapters or (requests.adapter >= 0).any():
        return False
    return requests.count > 0 and all(_plain(worker, requests) for worker in service.workers)


def _plain(worker: Worker, requests: Requests) -> bool:
    settings = worker.settings
    if worker.space.host_blocks or settings.swap or settings.speculation is not None:
        return False
    nobody = make_requests([], [], name=requests.name)
    return type(worker.pricer) is Pricer and type(worker.make(nobody, settings, worker.space)) is Engine


class Member:
    """A worker of the crew, as the loop and the handover know workers."""

    def __init__(self, worker: Worker, requests: Requests) -> None:
        pricer, space = worker.pricer, worker.space._replace(blocks=worker.space.blocks // worker.groups)
        assert isinstance(pricer, Pricer)
        self.worker = worker
        self.engines: list[Engine] = []
        for _ in range(worker.groups):
            engine = worker.make(requests, worker.settings, space)
            assert isinstance(engine, Engine)
            self.engines.append(engine)
        self.tables = pricer.tables if worker.groups == 1 else pricer.group_tables
        self.host = [_host(pricer, name) for name in HOST.names or ()]
        self.loads = [0] * worker.groups
        self.group: dict[int, int] = {}
        """Requests that are here, and the group that each is in."""
        self.step: WorkerStep | None = None
        """Of a prefill worker: its step under way."""

    def progress(self) -> Progress:
        """What waits, runs and is free."""
        engines = self.engines
        return Progress(
            sum(engine.waiting for engine in engines), sum(engine.running for engine in engines),
            sum(engine.free_blocks for engine in engines),
        )  # fmt: skip

    def add(self, request: int, sent_s: float) -> None:
        """A request has come; it goes to the group with the fewest."""
        group = min(range(len(self.loads)), key=self.loads.__getitem__)
        self.engines[group].add(request, sent_s)
        self.group[request] = group
        self.loads[group] += 1

    def ended(self, request: int) -> None:
        """A request has had its last token here."""
        self.loads[self.group.pop(request)] -= 1


def _ints(count: int) -> Ints:
    return np.zeros(count, np.int64)


def _host(pricer: Pricer, name: str) -> float:
    if name == "launch_us":
        return 0.0 if pricer.settings.cuda_graphs else pricer.engine.eager_launch_us
    if name == "overlap":
        return pricer.engine.overlap if pricer.settings.async_scheduling else 0.0
    return float(getattr(pricer.engine, name))


class QuickLoop(ServiceLoop):
    """The loop of a service for which :func:`can_be_quick` holds."""

    replicas: list[Member]  # type: ignore[assignment]

    def __init__(self, requests: Requests, service: Service) -> None:
        super().__init__(requests, service)
        workers, n, answers = len(service.workers), requests.count, self.answers
        self.crew = make_crew(
            [member.engines for member in self.replicas], [member.tables for member in self.replicas]
        )
        clock, host = np.zeros(workers, CLOCK), np.zeros(workers, HOST)
        for number, member in enumerate(self.replicas):
            clock["role"][number] = ROLES[member.worker.role]
            host[number] = tuple(member.host)
        most = max(sum(len(e.state.entries) + 1 for e in member.engines) for member in self.replicas)
        counts = np.zeros((4, n), np.int64)
        counts[3] = self.answers.held
        # Nobody is told of a request's end where nothing follows from it but that it is done.
        self.ends = bool(requests.clients or service.apart or (requests.after >= 0).any())
        room = workers * most * 2
        self.desk = Desk(
            answers.first_s, answers.last_s, self.scheduled_s, answers.produced, answers.delivered, counts,
            clock=clock, host=host, clerk=np.zeros(1, CLERK), steps=np.zeros(STEPS + workers, STEP),
            gap_s=np.zeros(room + STEPS), gap_count=_ints(room + STEPS), ended=_ints(2 * n + most),
            ended_by=_ints(2 * n + most), admitted=_ints(room + STEPS), over=_ints(workers), tokens=_ints(most),
            context=_ints(most), drafts=_ints(most), got=_ints(most), out=np.zeros(len(PRICE_COLUMNS)),
        )  # fmt: skip
        self.clerk, self.clock = self.desk.clerk[0], clock
        self.gaps: list[tuple[Floats, Ints]] = []

    def _replica(self, number: int, worker: Worker, requests: Requests) -> Any:
        del number
        return Member(worker, requests)

    def run(self, advance: Callable[[int], None] | None = None) -> Any:
        """From the first event to the last token."""
        return self._run(advance, self._until)

    def _stuck(self) -> None:
        for number, member in enumerate(self.replicas):
            if self._idle(number):
                for engine in member.engines:
                    engine.schedule()

    def _until(self, horizon: float) -> float:
        """Run steps up to a time; the instant in which something outside of them happens."""
        if self.done == self.requests.count:
            return inf
        watch = self.handover is not None and bool(self.handover.queue)
        code = MORE
        while code not in (PENDING, STOPPED):
            if code == FULL:
                self._make_room()
            code = advance_crew(self.crew, self.desk, horizon, STEPS, self.ends, watch)
            if not self.ends:
                self._take_ends()
                self.tell()
        if code == STOPPED:
            self.loop.now = float(self.clerk["now"])
            self._look_at_ends()
            return self.loop.now
        self._take_admitted()
        if horizon == inf:
            self.loop.now = max(self.loop.now, float(self.clerk["now"]))
        return horizon

    def _make_room(self) -> None:
        """Longer columns for steps; empty lists."""
        self._take_admitted()
        rows, gaps, steps = int(self.clerk["rows"]), int(self.clerk["gaps"]), self.desk.steps
        if gaps:
            self.gaps.append(_counted(self.desk.gap_s[:gaps], self.desk.gap_count[:gaps]))
            self.clerk["gaps"] = 0
        if rows + len(self.clock) >= len(steps):
            longer = np.zeros(2 * len(steps), STEP)
            longer[:rows] = steps[:rows]
            self.desk = self.desk._replace(steps=longer)

    def _take_admitted(self) -> None:
        """The handover is told whose blocks decode workers have taken."""
        if self.handover is not None:
            for request in self.desk.admitted[: self.clerk["admitted"]].tolist():
                self.handover.admitted(request)
        self.clerk["admitted"] = 0

    def _take_ends(self) -> None:
        ended = int(self.clerk["ended"])
        self.clerk["ended"] = 0
        pairs = zip(self.desk.ended[:ended].tolist(), self.desk.ended_by[:ended].tolist(), strict=True)
        for request, worker in pairs:
            member = self.replicas[worker]
            member.ended(request)
            self._ended_here(request, worker, member.worker.role == "prefill")

    def _look_at_ends(self) -> None:
        """Steps have ended in this instant: what the loop does after each of them, in their order."""
        self._take_admitted()
        ended, at = int(self.clerk["ended"]), 0
        self.clerk["ended"] = 0
        requests, by = self.desk.ended[:ended].tolist(), self.desk.ended_by[:ended].tolist()
        for worker in self.desk.over[: self.clerk["over"]].tolist():
            member = self.replicas[worker]
            prefill = member.worker.role == "prefill"
            if prefill and self.handover is not None:
                assert member.step is not None
                self.handover.step_ended(worker, member.step)
                member.step = None
            while at < ended and by[at] == worker:
                member.ended(requests[at])
                self._ended_here(requests[at], worker, prefill)
                at += 1
            self.touched.add(worker)

    def _add(self, request: int, worker: int, brought: int) -> None:
        if brought:
            self.desk.counts[2, request] = brought
            self.clock["brought"][worker] += 1
        self.replicas[worker].add(request, float(self.sent_s[request]))

    def _idle(self, worker: int) -> bool:
        return not self.clock["step"][worker] and bool(self.replicas[worker].group)

    def _begin(self, worker: int) -> None:
        member = self.replicas[worker]
        if self.handover is None:
            # Nobody looks at workers before the next call, which begins with this.
            self.clerk["now"] = self.loop.now
            self.clock["over"][worker] = 1
            return
        prefill = member.worker.role == "prefill"
        if prefill and not self.handover.may_begin(worker):
            return
        if self.clerk["rows"] >= len(self.desk.steps):
            self._make_room()
        self.clerk["now"] = self.loop.now
        begun = begin_step(self.crew, self.desk, worker)
        self._take_admitted()
        if begun and prefill:
            member.step = self._as_step(worker)
            self.handover.step_begun(worker, member.step)

    def _as_step(self, worker: int) -> WorkerStep:
        """What the handover looks at of a prefill worker's step."""
        row = self.desk.steps[self.clock["row"][worker]]
        groups = []
        for engine in self.replicas[worker].engines:
            entries = engine.state.entries[: engine.state.engine[0]["entries"]]
            request, tokens, context = (entries[name].copy() for name in ("request", "tokens", "context"))
            none = np.zeros(len(request), np.int64)
            groups.append(ScheduledStep(request, tokens, context, none, none > 0, none))
        cost = StepCost(
            *(float(row[name]) for name in ("seconds", "device_s", "host_s", "communication_s", "joules"))
        )
        return WorkerStep(cost, groups, [group.drafts for group in groups])

    def _steps(self) -> StepColumns:
        rows = self.desk.steps[: self.clerk["rows"]]
        return StepColumns(*(np.ascontiguousarray(rows[column.name]) for column in fields(StepColumns)))

    def _counts(self) -> tuple[Ints, Ints]:
        return self.desk.counts[0].copy(), self.desk.counts[1].copy()

    def _gaps(self) -> TokenGaps:
        self._make_room()
        values, counts = (
            _counted(*(np.concatenate(parts) for parts in zip(*self.gaps, strict=True)))
            if (self.gaps)
            else (np.zeros(0), np.zeros(0, np.int64))
        )
        return TokenGaps(values, counts)


def _counted(values: Floats, counts: Ints) -> tuple[Floats, Ints]:
    """Different values, ascending, and how often each came."""
    distinct, place = np.unique(values, return_inverse=True)
    total = np.zeros(len(distinct), np.int64)
    np.add.at(total, place, counts)
    return distinct, total
