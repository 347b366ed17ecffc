"""Worker processes on this machine: points are dealt out, a hanging worker is killed, a dead one replaced.

Workers are plain child processes that speak JSON (``worker.py``), so a killed one leaves nothing behind that
others could trip over. A point that exceeds its time limit is a row with status ``timeout``; a point whose
worker dies is tried again, and after three deaths a row with status ``crashed``. Rows come in any order.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import OffchipError
from offchip.sweep.keys import code_digest, point_key
from offchip.sweep.limit import COMPILE_LIMIT_S, overrun
from offchip.sweep.machine import Machines, Value
from offchip.sweep.points import Point
from offchip.sweep.space import Space
from offchip.sweep.store import Row
from offchip.sweep.worker import Slot, row_from

__all__ = ["Pool"]

MAX_ATTEMPTS: Final = 3
MAX_POINTS: Final = 128
MAX_MESSAGE: Final = 32 * 1024
"""Less than any pipe holds, so that giving work never blocks."""
PORTION_S: Final = 0.2
LOOK_EVERY_S: Final = 0.1
GATHER_S: Final = 0.02
"""Rows of quick points are handed on together, so that the store has a transaction for some, not for each."""
START_LIMIT_S: Final = 120.0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    slot: Slot
    assigned: dict[int, dict[str, Value]] = field(default_factory=dict)
    begun: int = 0
    """Points it had begun when it was last looked at, and since when that has not changed."""
    since: float = 0.0
    sent: int = 0
    """Portions it was sent; it gets no other until it has taken up the last."""
    rest: bytes = b""
    ready: bool = False


class Pool:
    """``jobs`` workers for one space. Use as a context; leaving it ends the workers."""

    def __init__(self, space: Space, jobs: int, cache: Path | None, code: str | None = None) -> None:
        self.space, self.jobs, self.cache = space, jobs, cache
        self.machines, self.code = Machines(space.beside), code or code_digest()
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.attempts: dict[int, int] = {}
        self.waiting: deque[Point] = deque()
        self.stage = 0
        self.pace = 0.05
        self.false_starts = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers now."""
        for worker in list(self.workers):
            self._bury(worker)
        self.selector.close()

    def run(self, stage: int, points: Iterable[Point]) -> Iterator[list[Row]]:
        """Evaluate points; yields rows as they come, in any order."""
        source, self.stage, self.attempts = iter(points), stage, {}
        exhausted = False
        rows: list[Row] = []
        handed = time.monotonic()
        while True:
            while not exhausted and len(self.waiting) < self.jobs * MAX_POINTS * 2:
                point = next(source, None)
                if point is None:
                    exhausted = True
                else:
                    self.waiting.append(point)
            busy = any(worker.assigned for worker in self.workers)
            if exhausted and not self.waiting and not busy:
                if rows:
                    yield rows
                return
            while self._lacks_a_worker():
                self._hire()
            for worker in self.workers:
                self._give(worker)
            rows += self._listen(GATHER_S if rows else LOOK_EVERY_S)
            if rows and time.monotonic() - handed >= GATHER_S:
                yield rows
                rows, handed = [], time.monotonic()

    def _lacks_a_worker(self) -> bool:
        idle = sum(not worker.assigned for worker in self.workers)
        return len(self.workers) < self.jobs and idle < len(self.waiting)

    def _hire(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        with tempfile.TemporaryFile() as shared:
            shared.truncate(Slot.SIZE)
            process = subprocess.Popen(
                [sys.executable, "-m", "offchip.sweep.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, pass_fds=[shared.fileno()],
            )  # fmt: skip
            start = {
                "text": self.space.text, "file": self.space.file, "code": self.code, "slot": shared.fileno(),
                "cache": str(self.cache) if self.cache is not None else None,
            }  # fmt: skip
            worker = _Worker(process, Slot(shared.fileno()), since=time.monotonic())
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.workers.append(worker)
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._send(worker, start)

    def _give(self, worker: _Worker) -> None:
        if not worker.ready or not self.waiting or worker.slot.read()[0] < worker.sent:
            return
        share = -(-len(self.waiting) // self.jobs)
        many = max(1, min(int(PORTION_S / self.pace), MAX_POINTS, share))
        if len(worker.assigned) > many // 2:
            return
        points, size = list[Point](), 0
        while self.waiting and len(points) < many and size < MAX_MESSAGE:
            point = self.waiting.popleft()
            size += len(json.dumps(point))
            points.append(point)
        worker.sent += 1
        worker.assigned.update(points)
        self._send(worker, {"stage": self.stage, "points": points})

    def _send(self, worker: _Worker, message: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
            worker.process.stdin.flush()
        except OSError:
            # It is dead; its end of file says so next.
            return

    def _listen(self, wait_s: float) -> list[Row]:
        rows: list[Row] = []
        for key, _ in self.selector.select(wait_s):
            worker: _Worker = key.data
            data = os.read(key.fd, 1 << 20)
            if not data:
                rows += self._lost(worker)
                continue
            *lines, worker.rest = (worker.rest + data).split(b"\n")
            for line in lines:
                self._heard(worker, json.loads(line), rows)
        now = time.monotonic()
        for worker in list(self.workers):
            _, begun, running = worker.slot.read()
            if begun != worker.begun:
                worker.begun, worker.since = begun, now
            elif running is not None and self._spent(worker, now) > self.space.time_limit:
                rows += self._timed_out(worker)
            elif not worker.ready and now - worker.since > START_LIMIT_S:
                rows += self._lost(worker)
        return rows

    def _spent(self, worker: _Worker, now: float) -> float:
        """What the point at work has taken, without the compiling in it."""
        return now - worker.since - min(worker.slot.compiling_s(now), COMPILE_LIMIT_S)

    def _heard(self, worker: _Worker, message: list[Any], rows: list[Row]) -> None:
        if message[0] == "ready":
            worker.ready, self.false_starts = True, 0
        else:
            row = row_from(message[1])
            worker.assigned.pop(row.number, None)
            self.pace += 0.1 * (max(row.seconds, 1e-5) - self.pace)
            attempts = self.attempts.get(row.number, 0) + 1
            rows.append(row if attempts == 1 else _with(row, attempts))

    def _timed_out(self, worker: _Worker) -> list[Row]:
        worker.process.kill()
        worker.process.wait()
        _, begun, number = worker.slot.read()
        values = worker.assigned.pop(number, None) if number is not None and begun == worker.begun else None
        self._put_back(worker)
        if number is None or values is None:
            # It got on with its work in the moment before it was stopped.
            return []
        return [self._row(number, values, "timeout", overrun(self.space.time_limit))]

    def _lost(self, worker: _Worker) -> list[Row]:
        """A worker is dead: what it had goes back; the point it ran is a row after so many deaths."""
        worker.process.kill()
        worker.process.wait()
        number = worker.slot.read()[2]
        if not worker.ready:
            self.false_starts += 1
            if self.false_starts >= MAX_ATTEMPTS:
                self._bury(worker)
                raise OffchipError("worker processes do not start; see the messages above")
        if number is None or number not in worker.assigned:
            self._put_back(worker)
            return []
        self.attempts[number] = self.attempts.get(number, 0) + 1
        if self.attempts[number] < MAX_ATTEMPTS:
            self._put_back(worker)
            return []
        values = worker.assigned.pop(number)
        self._put_back(worker)
        code = worker.process.returncode
        reason = f"its worker process died {MAX_ATTEMPTS} times" + (
            f" (signal {-code})" if code and code < 0 else ""
        )
        return [self._row(number, values, "crashed", reason)]

    def _row(self, number: int, values: dict[str, Value], status: str, reason: str) -> Row:
        key = point_key(self.space, self.machines, values, self.stage, self.code)
        attempts = max(self.attempts.get(number, 0), 1)
        return Row(number, key, status, reason, values, {}, 0.0, attempts, self.stage)

    def _put_back(self, worker: _Worker) -> None:
        self.waiting.extendleft(reversed(worker.assigned.items()))
        self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        process = worker.process
        assert process.stdin is not None
        assert process.stdout is not None
        self.selector.unregister(process.stdout)
        self.workers.remove(worker)
        process.kill()
        process.wait()
        worker.slot.close()
        process.stdout.close()
        try:
            process.stdin.close()
        except OSError:
            # What was still to be sent died with it.
            return


def _with(row: Row, attempts: int) -> Row:
    from dataclasses import replace

    return replace(row, attempts=attempts)
