"""A service run worker by worker between the times at which requests are sent, each stretch in one compiled call.

For what most studies ask: workers that serve alike (or one), engines by rules with the pricer from tables, nobody
failing, no drafts, adapters or copies, requests sent at stated times. The record is that of
:mod:`simulator.serving.cluster` to the last bit; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulator.serving.engine import Engine
from simulator.serving.pricing import Pricer
from simulator.serving.quick_kernel import CLOCK, FULL, HOST, STEP, Desk, advance_engine
from simulator.serving.record import (
    Growing,
    RequestColumns,
    ServiceRecord,
    StepColumns,
    TokenGaps,
    TransferColumns,
)
from simulator.serving.replica import Worker
from simulator.serving.routing import ROUTERS, Pool
from simulator.serving.service import Service
from simulator.serving.step_kernel import PRICE_COLUMNS
from workloads.requests import Requests

__all__ = ["QuickRun", "can_be_quick"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
STEPS: Final = 1 << 13
"""Steps of a worker between two looks at its buffers."""
TOLD: Final = 50


def can_be_quick(requests: Requests, service: Service) -> bool:
    """Whether a service is one that this module runs."""
    if service.apart or service.failures or service.keep_gaps or requests.clients or requests.adapters:
        return False
    if (requests.after >= 0).any() or (requests.adapter >= 0).any():
        return False
    return all(_plain(worker, requests) for worker in service.workers)


def _plain(worker: Worker, requests: Requests) -> bool:
    settings = worker.settings
    if worker.groups != 1 or worker.space.host_blocks or settings.swap or settings.speculation is not None:
        return False
    nobody = _no_requests(requests)
    return type(worker.pricer) is Pricer and type(worker.make(nobody, settings, worker.space)) is Engine


def _no_requests(requests: Requests) -> Requests:
    from workloads.requests import make_requests

    return make_requests([], [], name=requests.name)


class _Stretch:
    """One worker's engine, clock and buffers."""

    def __init__(
        self, worker: Worker, number: int, requests: Requests, shared: tuple[Floats, Floats, Floats, Ints]
    ) -> None:
        engine, pricer = worker.make(requests, worker.settings, worker.space), worker.pricer
        assert isinstance(engine, Engine)
        assert isinstance(pricer, Pricer)
        self.engine, self.tables, self.worker = engine, pricer.tables, worker
        most = len(engine.state.entries) + 1
        clock, host = np.zeros(1, CLOCK), np.zeros(1, HOST)
        clock["worker"] = number
        for name in HOST.names or ():
            host[name] = _host(pricer, name)
        room = 4 * STEPS + 2 * most
        tokens, context, drafts, got = (np.zeros(most, np.int64) for _ in range(4))
        self.desk = Desk(
            *shared, host=host, clock=clock, steps=np.zeros(STEPS, STEP), gap_s=np.zeros(room),
            gap_count=np.zeros(room, np.int64), ended=np.zeros(requests.count + 1, np.int64), tokens=tokens,
            context=context, drafts=drafts, got=got, out=np.zeros(len(PRICE_COLUMNS)),
        )  # fmt: skip
        self.clock = clock[0]
        self.at_work = 0
        self.stuck = False
        """Whether nothing can run until another request comes."""
        self.steps: list[npt.NDArray[Any]] = []
        self.gaps: list[tuple[Floats, npt.NDArray[np.int64]]] = []

    def add(self, request: int, now: float) -> None:
        """A request has come."""
        if not self.clock["step"]:
            self.clock["now"] = now
        self.stuck = False
        self.engine.add(request, now)
        self.at_work += 1

    def until(self, horizon: float) -> list[int]:
        """Run to a time; requests that ended."""
        if not self.at_work or self.stuck or (self.clock["step"] and self.clock["end"] > horizon):
            return []
        while advance_engine(self.engine.state, self.tables, self.desk, horizon) == FULL:
            self.empty()
        self.stuck = not self.clock["step"] and float(self.clock["now"]) < horizon
        ended: list[int] = self.desk.ended[: self.clock["ended"]].tolist()
        self.clock["ended"] = 0
        self.at_work -= len(ended)
        return ended

    def empty(self) -> None:
        """Take what stands in the buffers; the row of the step under way stays."""
        rows, gaps, steps = int(self.clock["rows"]), int(self.clock["gaps"]), self.desk.steps
        self.steps.append(steps[:rows].copy())
        self.gaps.append((self.desk.gap_s[:gaps].copy(), self.desk.gap_count[:gaps].copy()))
        if rows < len(steps):
            steps[0] = steps[rows]
        self.clock["rows"] = self.clock["gaps"] = 0


def _host(pricer: Pricer, name: str) -> float:
    if name == "launch_us":
        return 0.0 if pricer.settings.cuda_graphs else pricer.engine.eager_launch_us
    if name == "overlap":
        return pricer.engine.overlap if pricer.settings.async_scheduling else 0.0
    return float(getattr(pricer.engine, name))


class QuickRun:
    """One run of a service for which :func:`can_be_quick` holds."""

    def __init__(self, requests: Requests, service: Service) -> None:
        n, self.requests, self.service = requests.count, requests, service
        self.first_s, self.last_s, self.scheduled_s = (np.full(n, np.nan) for _ in range(3))
        self.counts = np.zeros((4, n), np.int64)
        self.counts[3] = -1
        self.sent_s = np.full(n, np.nan)
        shared = (self.first_s, self.last_s, self.scheduled_s, self.counts)
        self.workers = [_Stretch(w, number, requests, shared) for number, w in enumerate(service.workers)]
        self.numbers = np.arange(len(self.workers), dtype=np.int64)
        self.speed = np.array([worker.speed for worker in service.workers])
        self.load = np.zeros((2, len(self.workers)))
        self.router = ROUTERS.get(service.router)(requests, service.options)
        self.done = self.told = 0

    def run(self, advance: Callable[[int], None] | None = None) -> ServiceRecord | None:
        """Serve all requests; None where some can never end. An interrupt ends the run with what there is."""
        try:
            self._serve(advance)
        except KeyboardInterrupt:
            return self._record()
        return self._record() if self.done == self.requests.count else None

    def _serve(self, advance: Callable[[int], None] | None) -> None:
        arrivals = self.requests.arrival_s
        order = np.argsort(arrivals, kind="stable")
        before = -1.0
        for request, now in zip(order.tolist(), arrivals[order].tolist(), strict=True):
            if now > before:
                # Those of one instant come together: no step begins between them.
                self._until(now, advance)
            before = now
            self.sent_s[request] = now
            tokens = self.load / self.speed
            worker = self.router.choose(request, Pool(self.numbers, tokens[0], tokens[1]))
            self.workers[worker].add(request, now)
            self._weigh(request, worker, 1)
        last = float(arrivals.max())
        while self.done < self.requests.count:
            # In parts, so that somebody can be told and an interrupt is heard.
            busy = [float(w.clock["end"]) if w.clock["step"] else last for w in self.workers if w.at_work]
            if not busy:
                break
            last, before = max(last, min(busy)) + 10.0, self.done
            self._until(last, advance)
            if self.done == before and all(w.stuck for w in self.workers if w.at_work):
                break

    def _until(self, time_s: float, advance: Callable[[int], None] | None) -> None:
        for number, worker in enumerate(self.workers):
            for request in worker.until(time_s):
                self._weigh(request, number, -1)
                self.done += 1
        if advance is not None and self.done - self.told >= TOLD:
            advance(self.done - self.told)
            self.told = self.done

    def _weigh(self, request: int, worker: int, sign: int) -> None:
        self.load[0, worker] += sign
        self.load[1, worker] += sign * int(self.requests.prompt_tokens[request])

    def _record(self) -> ServiceRecord:
        for worker in self.workers:
            if worker.clock["step"]:
                worker.clock["rows"] += 1
            worker.empty()
        rows = np.concatenate([part for worker in self.workers for part in worker.steps])
        rows = rows[np.lexsort((rows["replica"], rows["start_s"]))]
        steps = StepColumns(*(np.ascontiguousarray(rows[column.name]) for column in fields(StepColumns)))
        n = self.requests.count
        delivered, preempted, cached, last = (row.copy() for row in self.counts)
        columns = RequestColumns(
            self.sent_s, self.scheduled_s, self.first_s, self.last_s, delivered, preempted, cached, last, last.copy(),
            np.zeros(n, np.int64), np.zeros(n),
        )  # fmt: skip
        workers, end = self.service.workers, max((float(w.clock["now"]) for w in self.workers), default=0.0)
        return ServiceRecord(
            columns, steps, Growing(TransferColumns).done(), self._gaps(), tuple(w.name for w in workers),
            tuple(max(len(w.devices), 1) for w in workers), end, 0, (0.0,) * len(workers),
        )  # fmt: skip

    def _gaps(self) -> TokenGaps:
        values = np.concatenate([gap for worker in self.workers for gap, _ in worker.gaps])
        counts = np.concatenate([count for worker in self.workers for _, count in worker.gaps])
        distinct, place = np.unique(values, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, place, counts)
        return TokenGaps(distinct, total)
