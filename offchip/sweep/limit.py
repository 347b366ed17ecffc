"""How long a point may take: its own seconds, without those in which its kernels were compiled.

Compiling happens once on a machine, in whichever point comes first, so it says nothing about that point. A
:class:`Stopwatch` therefore stands still while numba compiles a kernel or loads one that it compiled before. A point
that is stopped hears of it by :class:`PointStopped`, which is no ``Exception``: code that takes a broken file or a
failed try in its stride (``except OSError``, ``except Exception``) must not take the end of its time for one.
"""

from __future__ import annotations

import importlib
import signal
import threading
import time
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from offchip.sweep.worker import Slot

__all__ = ["COMPILE_LIMIT_S", "PointStopped", "Stopwatch", "overrun"]

AGAIN_S: Final = 0.1
"""A stop that something swallowed all the same (a destructor, a callback) comes again so soon."""
COMPILE_LIMIT_S: Final = 600.0
"""What compiling may take before it counts: a compiler that hangs is a hanging point."""
_COMPILING: Final = "numba:compiler_lock"
"""numba's event for the time in which a kernel is compiled, written to disk or read back."""


class PointStopped(BaseException):
    """The time of the point at work is over."""


def overrun(limit_s: float) -> str:
    """The reason in the row of a point that ran out of time."""
    return f"ran longer than the limit of {limit_s:g} s and was stopped"


class Stopwatch:
    """The seconds of one point, from :meth:`start` to :meth:`close`.

    ``alarm``: raise :class:`PointStopped` in the main thread when the limit is reached; the alarm acts between two
    Python instructions, so a point inside one long compiled call is stopped after it. ``slot`` is told while something
    is compiled, for whoever looks on from another process.
    """

    def __init__(self, limit_s: float, *, alarm: bool = False, slot: Slot | None = None) -> None:
        self.limit_s, self._slot = limit_s, slot
        self._alarm = alarm and threading.current_thread() is threading.main_thread()
        self._depth = 0
        self._began = self._since = self._ended = self._compiling_s = 0.0
        self._handler: Any = None
        self._listener: Any = None

    def start(self) -> None:
        """The point begins."""
        if self._alarm:
            self._handler = signal.signal(signal.SIGALRM, self._stop)
        self._began = time.monotonic()
        self._listener = _listening()(self)
        _numba_events().register(_COMPILING, self._listener)
        self._set_alarm()

    def close(self) -> None:
        """The point is over, or is given up; once is enough, twice does no harm."""
        self._ended = self._ended or time.monotonic()
        if self._alarm and self._handler is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._handler)
            self._handler = None
        if self._listener is not None:
            _numba_events().unregister(_COMPILING, self._listener)
            self._listener = None

    def seconds(self) -> float:
        """What the point has taken so far, or took."""
        now = self._ended or time.monotonic()
        compiling = self._compiling_s + (now - self._since if self._depth else 0.0)
        return now - self._began - min(compiling, COMPILE_LIMIT_S)

    def compile_begins(self) -> None:
        """Something is being compiled; one compilation may begin inside another."""
        self._depth += 1
        if self._depth == 1:
            self._since = time.monotonic()
            if self._slot is not None:
                self._slot.compile_begins()
            self._set_alarm()

    def compile_ends(self) -> None:
        """It has been compiled."""
        self._depth -= 1
        if self._depth == 0:
            self._compiling_s += time.monotonic() - self._since
            if self._slot is not None:
                self._slot.compile_ends()
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm and not self._ended:
            left = COMPILE_LIMIT_S - self._compiling_s if self._depth else self.limit_s - self.seconds()
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6), AGAIN_S)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._ended:
            raise PointStopped(overrun(self.limit_s))


@cache
def _numba_events() -> Any:
    """Numba's module of events: untyped, and imported late."""
    return importlib.import_module("numba.core.event")


@cache
def _listening() -> Any:
    """What hears numba tell of compiling, for one stopwatch."""

    class Compiling(_numba_events().Listener):  # type: ignore[misc]
        def __init__(self, watch: Stopwatch) -> None:
            self._watch = watch

        def on_start(self, _event: Any) -> None:
            self._watch.compile_begins()

        def on_end(self, _event: Any) -> None:
            self._watch.compile_ends()

    return Compiling
