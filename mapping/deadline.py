"""The one clock and the one interrupt that every solver looks at.

A solve runs under a :class:`Budget`: seconds, search nodes, and a flag that compiled kernels read while they run.
A solve inside another one (addresses for a schedule, a MIP in an order search) stands under the outer one's clock
and interrupt as well, whatever it was given itself, so that no step outlives the limit of the whole. The first
Ctrl-C ends the search with the best answer so far; a second one ends the programme.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Budget",
    "OutOfTimeError",
    "Watch",
    "cut_off",
    "is_late",
    "running_budget",
    "tell",
    "watching",
]

_AFTER_INTERRUPT_S: Final = 0.5
"""Work that looks at no clock may go on for so long after an interrupt."""

_OUTER: Final[ContextVar[Budget | None]] = ContextVar("running budget", default=None)
"""The budget of the solve that is running in this context; set and put back by :meth:`Budget.running` alone."""


def running_budget() -> Budget | None:
    """The budget of the innermost solve that is running, or None outside of one."""
    return _OUTER.get()


def is_late(share: float = 1.0) -> bool:
    """Whether the solve around this one has to end, or has spent so much of its time."""
    budget = running_budget()
    if budget is None:
        return False
    left = budget.seconds_left()
    return budget.spent or (left is not None and budget.elapsed > share * (budget.elapsed + left))


def tell(bound: float, incumbent: float | None) -> None:
    """Tell who watches the outermost solve that is running what it has proved and found so far."""
    budget = running_budget()
    while budget is not None and budget.outer is not None:
        budget = budget.outer
    if budget is not None:
        budget.report(bound, incumbent)


Watch = Callable[[float, float | None], None]
"""Told of every better bound or plan of a solve: the proven bound, and the best plan's figure where there is one."""

_WATCH: Final[ContextVar[Watch | None]] = ContextVar("who watches solves", default=None)


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Solves within the block tell ``watch`` how they come on; those that stand inside another solve do not."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


class OutOfTimeError(Exception):
    """A step of a solve was given up because the solve has to end; the solve answers with what it has."""


@contextlib.contextmanager
def cut_off(budget: Budget, seconds: float | None) -> Iterator[None]:
    """Raises :class:`OutOfTimeError` in the block, wherever it is then, once so many seconds have passed.

    Also shortly after an interrupt of ``budget``; without ``seconds`` only then. For work that looks at no clock
    itself. Main thread only, and where nobody else waits for the alarm; elsewhere the block just runs. A kernel or a
    foreign solver is let finish first.
    """
    mine = (
        threading.current_thread() is threading.main_thread()
        and hasattr(signal, "setitimer")
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    )
    if not mine:
        yield
        return

    def end(*_: object) -> None:
        raise OutOfTimeError

    def soon() -> None:
        if budget.interrupted:
            signal.setitimer(signal.ITIMER_REAL, _AFTER_INTERRUPT_S)

    signal.signal(signal.SIGALRM, end)
    if seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        with budget.stopping(soon):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@dataclass(slots=True)
class Budget:
    """What a solve may still spend, and the flag that stops a running kernel.

    The kernels read ``stop``; it is set by the clock or by an interrupt, never by both engines and clock in a
    way that changes an answer of a run that ends by its node budget. ``outer`` is the budget of the solve in which
    this one was made.
    """

    seconds: float | None = None
    max_nodes: int | None = None
    stop: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    nodes: int = 0
    interrupted: bool = False
    outer: Budget | None = field(default_factory=running_budget)
    watch: Watch | None = field(default_factory=_WATCH.get)
    _start: float = field(default_factory=lambda: time.perf_counter())
    _timer: threading.Timer | None = None
    _pool: ThreadPoolExecutor | None = None
    _actions: list[Callable[[], Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[Budget]:
        """Starts the clock's alarm and minds Ctrl-C; ends both with the block."""
        outer, token = self.outer, _OUTER.set(self)
        if outer is not None:
            outer._actions.append(self._follow)
            if outer.stop[0]:
                self._follow()
        left = self.seconds_left()
        if left is not None:
            self._timer = threading.Timer(max(left, 0.0), self._expire)
            self._timer.daemon = True
            self._timer.start()
        try:
            with self._minding_interrupts():
                yield self
        except KeyboardInterrupt:
            self.interrupt()
        finally:
            _OUTER.reset(token)
            if outer is not None:
                outer._actions.remove(self._follow)
            if self._timer is not None:
                self._timer.cancel()
            if self._pool is not None:
                self._pool.shutdown(wait=True)
                self._pool = None

    @contextlib.contextmanager
    def _minding_interrupts(self) -> Iterator[None]:
        """Takes the first Ctrl-C as a wish for the best answer so far; outermost solve of the main thread only."""
        mine = (
            self.outer is None
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if not mine:
            yield
            return

        def first(*_: object) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.interrupt()

        signal.signal(signal.SIGINT, first)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def stopping(self, action: Callable[[], Any]) -> Iterator[None]:
        """Within the block, ``action`` is called once the search has to end: it ends a foreign solver."""
        self._actions.append(action)
        try:
            if self.stop[0]:
                action()
            yield
        finally:
            self._actions.remove(action)

    def interrupt(self) -> None:
        """End this solve, and those that it stands in, with the best answer so far."""
        if self.outer is not None:
            self.outer.interrupt()
        self.interrupted = True
        self._expire()

    def _follow(self) -> None:
        """The outer solve has ended."""
        assert self.outer is not None
        self.interrupted = self.interrupted or self.outer.interrupted
        self._expire()

    def _expire(self) -> None:
        self.stop[0] = 1
        for action in tuple(self._actions):
            action()

    def seconds_left(self) -> float | None:
        """Seconds until the limit, this one's or that of the solve around it; None without one."""
        own = None if self.seconds is None else self.seconds - (time.perf_counter() - self._start)
        around = None if self.outer is None else self.outer.seconds_left()
        if own is None or around is None:
            return around if own is None else own
        return min(own, around)

    def report(self, bound: float, incumbent: float | None) -> None:
        """Tell who watches what is proved and what is found so far; a solve inside another one keeps it to itself."""
        if self.watch is not None and self.outer is None:
            self.watch(bound, incumbent)

    @property
    def elapsed(self) -> float:
        """Seconds since the budget was made."""
        return time.perf_counter() - self._start

    @property
    def spent(self) -> bool:
        """Whether the search has to end."""
        if self.stop[0]:
            return True
        if self.max_nodes is not None and self.nodes >= self.max_nodes:
            return True
        left = self.seconds_left()
        return left is not None and left <= 0

    def allow(self, nodes: int) -> int:
        """At most so many nodes of the wanted ones."""
        return nodes if self.max_nodes is None else max(0, min(nodes, self.max_nodes - self.nodes))

    def call(self, kernel: Callable[..., Any], *args: Any, long: bool) -> Any:
        """Run a kernel. A long one runs in a thread of its own, so that Ctrl-C reaches the main thread."""
        if not long or threading.current_thread() is not threading.main_thread():
            return kernel(*args)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1)
        future = self._pool.submit(kernel, *args)
        try:
            return future.result()
        except KeyboardInterrupt:
            self.interrupt()
            future.result()
            raise

    def race(
        self, calls: Sequence[Callable[[NDArray[np.int64]], Any]], decides: Callable[[Any], bool]
    ) -> list[Any]:
        """Run calls side by side, each with a stop flag of its own; once an answer ``decides``, stop the others.

        Answers in the order of the calls. Whatever ends this solve stops them all.
        """
        flags = [np.zeros(1, np.int64) for _ in calls]

        def stop_all() -> None:
            for flag in flags:
                flag[0] = 1

        with self.stopping(stop_all), ThreadPoolExecutor(len(calls)) as pool:
            futures = [pool.submit(call, flag) for call, flag in zip(calls, flags, strict=True)]
            try:
                for future in as_completed(futures):
                    if decides(future.result()):
                        stop_all()
            except KeyboardInterrupt:
                self.interrupt()
                raise
        return [future.result() for future in futures]
