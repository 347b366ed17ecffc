"""The loop of a service: from arrivals to last tokens over several workers, from event to event.

In each instant, steps end first, then transfers arrive, workers fail or come back, and requests are sent; after all of
that, idle workers that have something to do begin a step, in the order of their numbers. So one input has one outcome,
to the last bit. Tokens that a client has are never delivered again: a request whose worker failed goes on elsewhere
with them as a part of its prompt; where a scheduler does not know that, it begins anew and what it gives a second time
is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isnan
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InfeasibleError
from simulator.serving.events import EventLoop, Rank
from simulator.serving.handover import Handover
from simulator.serving.record import (
    GapCounter,
    Growing,
    RequestColumns,
    ServiceRecord,
    StepColumns,
    TokenGaps,
    TransferColumns,
)
from simulator.serving.replica import Replica, Worker, WorkerStep
from simulator.serving.routing import ROUTERS, Pool
from simulator.serving.sending import Sender
from simulator.serving.service import Failure, Service, in_order
from simulator.serving.taken import bounds_of
from simulator.serving.views import seen_by
from workloads.requests import Requests

__all__ = ["Answers", "ServiceLoop"]

MOST_UNTOLD: Final = 50
"""Requests answered before progress is told."""

Ints = npt.NDArray[np.int64]


class Answers:
    """What clients have so far, request by request."""

    def __init__(self, requests: Requests, keep_gaps: bool, held: npt.NDArray[np.bool_]) -> None:
        n = requests.count
        self.held = held
        """Requests whose first token waits at the prefill worker's end of the wire until the second is there."""
        self.produced = np.zeros(n, np.int64)
        """Tokens since the request last began anew, with those that its client had then, if it went on from them."""
        self.delivered = np.zeros(n, np.int64)
        self.first_s, self.last_s = np.full(n, np.nan), np.full(n, np.nan)
        self.gaps = GapCounter(keep_gaps)
        self.again = False
        """Whether some request ever began anew."""

    def add(self, request: Ints, tokens: Ints, now: float, prefill: bool = False) -> int:
        """Tokens have come, at a worker for ``prefill`` or not; how many of them are new to their clients."""
        self.produced[request] += tokens
        if prefill:
            request, tokens = request[~self.held[request]], tokens[~self.held[request]]
            if not len(request):
                return 0
        had = self.delivered[request]
        new = tokens
        if self.again:
            new = np.maximum(self.produced[request] - had, 0)
            if not new.all():
                kept = new > 0
                request, had, new = request[kept], had[kept], new[kept]
        first = had == 0
        if np.count_nonzero(first):
            self.first_s[request[first]] = now
            later = ~first
            self.gaps.add(request[later], now - self.last_s[request[later]])
        else:
            self.gaps.add(request, now - self.last_s[request])
        many = int(new.sum())
        if many > len(request):
            self.gaps.add(np.repeat(request, new - 1), np.zeros(many - len(request)))
        self.delivered[request] += new
        self.last_s[request] = now
        return many


class ServiceLoop:
    """One run; it is what :class:`Handover` knows as its places."""

    def __init__(self, requests: Requests, service: Service) -> None:
        n, self.requests, self.service = requests.count, requests, service
        self.loop = EventLoop()
        self.sender = Sender(requests, self.loop, self._sent)
        held = (requests.output_tokens > 1) & (service.apart and service.first_token == "decode")
        self.answers = Answers(requests, service.keep_gaps, held)
        self.answers.again = bool(held.any())
        self.replicas = [
            self._replica(number, worker, seen_by(worker.role, requests))
            for number, worker in enumerate(service.workers)
        ]
        self.alive = [True] * len(self.replicas)
        self.lives = [0] * len(self.replicas)
        self.down_at: dict[int, float] = {}
        self.down = [0.0] * len(self.replicas)
        self.retries, self.preemptions, self.cached = (np.zeros(n, np.int64) for _ in range(3))
        self.last_worker, self.first_worker = np.full(n, -1), np.full(n, -1)
        self.sent_s, self.scheduled_s = np.full(n, np.nan), np.full(n, np.nan)
        self.load = np.zeros((2, len(self.replicas)))
        """Requests and prompt tokens at each worker."""
        self.speed = np.array([worker.speed for worker in service.workers])
        self.first_pool = service.of_role("both", "prefill")
        self.router = ROUTERS.get(service.router)(requests, service.options)
        self.decode_router = ROUTERS.get(service.decode_router)(requests, service.options)
        self.passed_s = 0.0
        """When the front end is done with all that was sent so far."""
        self.parked: list[int] = []
        """Requests for which no worker is up, or has a place, in order."""
        self.freed = False
        """Whether a place has become free since they were looked at."""
        self.takes = bounds_of(requests, service.workers)
        self.had = np.zeros(n, np.int64)
        """Tokens of each request's answer that are a part of its prompt since its worker failed."""
        self.touched: set[int] = set()
        self.done, self.lost_tokens = 0, 0
        self.moved = [0.0, 0.0, 0.0, 0.0]
        self.steps = Growing(StepColumns)
        self.row = [0] * len(self.replicas)
        self.handover = Handover(service, requests, self.loop, self) if service.apart else None

    def _replica(self, number: int, worker: Worker, requests: Requests) -> Replica:
        return Replica(worker, requests, (self.service.seed, number))

    def run(self, advance: Callable[[int], None] | None = None) -> ServiceRecord:
        """From the first event to the last token."""
        return self._run(advance, lambda horizon: horizon)

    def _run(self, advance: Callable[[int], None] | None, until: Callable[[float], float]) -> ServiceRecord:
        for failure in in_order(self.service.failures):
            self.loop.at(failure.at_s, Rank.FAILURE, partial(self._fail, failure))
        self.sender.begin()
        try:
            self.tell = self._told(advance)
            self.loop.run(self.tell, self._settle, until)
        except KeyboardInterrupt:
            return self._record()
        if self.done < self.requests.count:
            self._stuck()
            raise InfeasibleError(
                f"{self.requests.count - self.done} of {self.requests.count} requests can never end: "
                f"{sum(self.alive)} of {len(self.alive)} workers are up and none of them can begin a step"
            )
        return self._record()

    def _stuck(self) -> None:
        """Nothing can happen any more: say why, where more is known than that."""

    def _told(self, advance: Callable[[int], None] | None) -> Callable[[], bool]:
        """Whether all is answered; somebody is told at every hundredth of it, and at fifty requests."""
        count = self.requests.count
        told, part = 0, max(min(count // 100, MOST_UNTOLD), 1)

        def over() -> bool:
            nonlocal told
            if advance is not None and self.done - told >= part:
                advance(self.done - told)
                told = self.done
            return self.done == count

        return over

    # What the handover asks.

    def choose_decode(self, request: int, workers: list[int]) -> int:
        """One of these decode workers, by the service's rule."""
        return self.decode_router.choose(request, self._pool(workers))

    def deliver(self, request: int, worker: int) -> None:
        """A request comes to a decode worker with its cache and first token."""
        self._place(request, worker, self.prompt_of(request))

    def prompt_of(self, request: int) -> int:
        """Tokens that are computed as its prompt: of a retried request, with what its client has."""
        return int(self.requests.prompt_tokens[request] + self.had[request])

    def expect(self, request: int, worker: int, sign: int) -> None:
        """A request's cache is on its way to a worker, or no longer."""
        self._weigh(request, worker, sign)

    def may_go(self, request: int, worker: int) -> bool:
        """Whether a worker can answer a request, and has a place for it."""
        mask, most = self.takes[worker], self.service.workers[worker].most_requests
        return (mask is None or bool(mask[request])) and (not most or self.load[0, worker] < most)

    def look(self, worker: int) -> None:
        """The worker may be able to begin a step."""
        self.touched.add(worker)

    # Sending.

    def _sent(self, request: int) -> None:
        self.sent_s[request] = self.loop.now
        self._unpark()
        front = self.service.front_end
        work = front.request_s + front.token_s * int(self.requests.prompt_tokens[request])
        if work > 0:
            self.passed_s = max(self.passed_s, self.loop.now) + work
            self.loop.at(self.passed_s, Rank.SEND, partial(self._route, request))
        else:
            self._route(request)

    def _unpark(self) -> None:
        """Those that wait before the router try again, in order, where a place has become free."""
        if self.freed:
            self.freed = False
            parked, self.parked = self.parked, []
            for request in parked:
                self._route(request)

    def _route(self, request: int) -> None:
        up = [worker for worker in self.first_pool if self.alive[worker] and self.may_go(request, worker)]
        if not up:
            self.parked.append(request)
            return
        self._place(request, self.router.choose(request, self._pool(up)), 0)

    def _pool(self, workers: list[int]) -> Pool:
        numbers = np.array(workers, np.int64)
        requests, tokens = self.load[:, numbers] / self.speed[numbers]
        return Pool(numbers, requests, tokens)

    def _place(self, request: int, worker: int, brought: int) -> None:
        self._add(request, worker, brought)
        self._weigh(request, worker, 1)
        self.touched.add(worker)

    def _add(self, request: int, worker: int, brought: int) -> None:
        self.replicas[worker].add(request, float(self.sent_s[request]), brought, int(self.had[request]))

    def _weigh(self, request: int, worker: int, sign: int) -> None:
        self.load[0, worker] += sign
        self.load[1, worker] += sign * int(self.requests.prompt_tokens[request])
        if sign < 0 and self.parked:
            self.freed = True

    # Steps.

    def _settle(self) -> None:
        """Everything of this instant is known: begin what can begin."""
        self._unpark()
        if self.handover is not None:
            self.handover.settle()
        while self.touched:
            touched, self.touched = sorted(self.touched), set()
            for worker in touched:
                if self.alive[worker] and self._idle(worker):
                    self._begin(worker)

    def _idle(self, worker: int) -> bool:
        """Whether a worker has requests and no step under way."""
        replica = self.replicas[worker]
        return replica.step is None and bool(replica.group)

    def _begin(self, worker: int) -> None:
        replica = self.replicas[worker]
        prefill = replica.worker.role == "prefill"
        if prefill and self.handover is not None and not self.handover.may_begin(worker):
            return
        step = replica.begin()
        now = self.loop.now
        for request in replica.preempted:
            self.preemptions[request] += 1
        for admission in replica.admitted:
            if isnan(self.scheduled_s[admission.request]):
                self.scheduled_s[admission.request] = now
                self.cached[admission.request] = admission.hit
            if self.handover is not None and not prefill:
                self.handover.admitted(admission.request)
        if step is None:
            return
        self._step_row(worker, replica, step)
        if prefill and self.handover is not None:
            self.handover.step_begun(worker, step)
        end = partial(self._end, worker, self.lives[worker])
        self.loop.at(now + step.cost.seconds, Rank.STEP_END, end)

    def _step_row(self, worker: int, replica: Replica, step: WorkerStep) -> None:
        cost, tokens, prefill, sequences = step.cost, 0, 0, 0
        drafting = replica.worker.settings.speculation is not None
        for group in step.groups:
            for place, size in enumerate(group[-4:]):
                self.moved[place] += size
            decode = (
                group.samples
                & (group.tokens - group.drafts == 1)
                & (self.answers.produced[group.request] > 0)
            )
            all_tokens = int(group.tokens.sum())
            tokens += all_tokens
            drafts = int(group.drafts[decode].sum()) if drafting else 0
            prefill += all_tokens - int(np.count_nonzero(decode)) - drafts
            sequences += len(group.request)
        waiting, running, free = replica.progress()
        self.row[worker] = self.steps.add(
            worker, self.loop.now, cost.seconds, cost.device_s, cost.host_s, cost.communication_s, cost.joules,
            tokens, prefill, sequences, waiting, running, free, 0, 0,
        )  # fmt: skip

    def _end(self, worker: int, life: int) -> None:
        if self.lives[worker] != life or not self.alive[worker]:
            return
        replica, now = self.replicas[worker], self.loop.now
        step, prefill = replica.step, replica.worker.role == "prefill"
        assert step is not None
        if prefill and self.handover is not None:
            self.handover.step_ended(worker, step)
        delivered = 0
        for outcome in replica.finish():
            if len(outcome.request):
                delivered += self.answers.add(outcome.request, outcome.tokens, now, prefill)
            for request in outcome.finished.tolist():
                self._ended_here(request, worker, prefill)
        self.steps.set(self.row[worker], "delivered", delivered)
        self.touched.add(worker)

    def _ended_here(self, request: int, worker: int, prefill: bool) -> None:
        self._weigh(request, worker, -1)
        if prefill or not self.service.apart:
            self.first_worker[request] = worker
        more = int(self.requests.output_tokens[request] - self.had[request]) > 1
        if prefill and self.handover is not None and more:
            self.handover.computed(request, worker)
            return
        self.last_worker[request] = worker
        self.done += 1
        self.sender.ended(request)

    # Failures.

    def _fail(self, failure: Failure) -> None:
        worker, now = failure.worker, self.loop.now
        replica = self.replicas[worker]
        if replica.step is not None:
            row = self.row[worker]
            self.steps.set(row, "seconds", now - self.steps.columns[1][row])
            self.steps.set(row, "lost", 1)
        victims = list(replica.group)
        for request in victims:
            self._weigh(request, worker, -1)
        self.alive[worker] = False
        self.lives[worker] += 1
        self.down_at[worker] = now
        if self.handover is not None:
            victims += self.handover.failed(worker)
        replica.restart()
        for request in sorted(victims):
            self._again(request)
        if failure.back_s < float("inf"):
            self.loop.at(failure.back_s, Rank.RETURN, partial(self._back, worker))

    def _again(self, request: int) -> None:
        self.retries[request] += 1
        had = int(self.answers.delivered[request])
        self.had[request] = had if had and all(r.can_resume(request, had) for r in self.replicas) else 0
        self.lost_tokens += int(self.answers.produced[request] - self.had[request])
        self.answers.produced[request] = self.had[request]
        self.answers.again = True
        self.loop.at(self.loop.now + self.service.retry_s, Rank.SEND, partial(self._route, request))

    def _back(self, worker: int) -> None:
        self.alive[worker] = True
        self.down[worker] += self.loop.now - self.down_at.pop(worker)
        self.freed = True
        self._unpark()

    # The end.

    def _record(self) -> ServiceRecord:
        answers, now = self.answers, self.loop.now
        n = self.requests.count
        transfers = self.handover.seconds if self.handover is not None else np.zeros(n)
        for worker, since in self.down_at.items():
            self.down[worker] += now - since
        preemptions, cached = self._counts()
        columns = RequestColumns(
            self.sent_s, self.scheduled_s, answers.first_s, answers.last_s, answers.delivered, preemptions,
            cached, self.last_worker, self.first_worker, self.retries, transfers,
        )  # fmt: skip
        workers = self.service.workers
        rows = self.handover.rows if self.handover is not None else Growing(TransferColumns)
        return ServiceRecord(
            columns, self._steps(), rows.done(), self._gaps(), tuple(w.name for w in workers),
            tuple(max(len(w.devices), 1) for w in workers), now, self.lost_tokens, tuple(self.down), tuple(self.moved),
        )  # fmt: skip

    def _counts(self) -> tuple[Ints, Ints]:
        """Preemptions of each request, and its prompt tokens found in a cache."""
        return self.preemptions, self.cached

    def _steps(self) -> StepColumns:
        made: StepColumns = self.steps.done()
        return made

    def _gaps(self) -> TokenGaps:
        return self.answers.gaps.done()
