"""What a run of the PIM engine consists of between two instructions: arrays, and a name for every place in them.

The kernel changes these arrays in place and can stop between any two instructions, so a run is taken up again
where it stood, and a leap moves all of it on at once.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.pim.machine import BANKS, COMMANDS, HISTORY, INTERVAL, QUEUE, SLOTS, Tables
from simulator.pim.program import MAX_DEPTH

__all__ = ["DONE", "PAUSED", "Access", "Log", "State", "new_state"]

Ints = npt.NDArray[np.int64]

PAST: Final = -(1 << 60)
DONE, PAUSED = 0, 1
MAX_POSTPONED: Final = 8
"""Refreshes that may be owed before one is forced (JEDEC)."""

# Places after the open rows of State.rows.
OPEN_BANKS, MODE_NOW, NEWEST, ROW_EXTRAS = 0, 1, 2, 3
# Places in State.host.
CLOCK, PHASE_START, HOST_TIMES = 0, 1, 2
# Places in State.scalar.
PC, DEPTH, LABEL, LEAPT, ISSUED, LOGGED, ENDED, SCALARS = range(8)
# Totals per group, after the counts and the phase times in State.total.
MISSES, COLUMNS, OPEN_TICKS, TOTALS = range(4)
LAST, DEPART, DUE, OPENED, TIME_EXTRAS = range(5)


class State(NamedTuple):
    """A run between two instructions. ``time`` holds every tick of a group of equal channels: slots, past
    issues of window rules, the last four activations, the issues of the last requests (a ring), the last issue
    of every command, and the ticks named above; ``rows`` the open row of every bank, the number of open banks,
    the mode and the ring's newest place.
    """

    time: Ints
    rows: Ints
    total: Ints
    host: Ints
    scalar: Ints
    loop_start: Ints
    loop_iteration: Ints
    loop_seen: Ints
    saved_time: Ints
    saved_rows: Ints
    saved_total: Ints
    saved_host: Ints


class Access(NamedTuple):
    """A command and what it names: a target, a row and a column, -1 for none."""

    command: int
    target: int
    row: int
    column: int


class Log(NamedTuple):
    """Commands written down: tick, group of channels, command, target, row, column. Empty arrays: none."""

    tick: Ints
    group: npt.NDArray[np.int32]
    command: npt.NDArray[np.int16]
    target: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    column: npt.NDArray[np.int32]


def new_state(tables: Tables, groups: int, labels: int, start: int) -> State:
    """The state before an idle memory's first command at a tick: banks closed, nothing owed."""
    c = tables.config
    times = int(c[SLOTS] + c[HISTORY] + 4 + c[QUEUE] + 1 + c[COMMANDS]) + TIME_EXTRAS
    rows = int(c[BANKS]) + ROW_EXTRAS
    totals = labels * groups * int(c[COMMANDS]) + labels + groups * TOTALS
    time = np.full((groups, times), PAST, np.int64)
    time[:, times - TIME_EXTRAS + LAST] = start
    time[:, times - TIME_EXTRAS + DEPART] = start
    interval = int(c[INTERVAL])
    time[:, times - TIME_EXTRAS + DUE] = (start // interval + 1) * interval
    open_rows = np.full((groups, rows), -1, np.int64)
    open_rows[:, int(c[BANKS]) :] = 0
    d = MAX_DEPTH

    def zeros(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return State(
        time, open_rows, zeros(totals), np.full(HOST_TIMES, start, np.int64), zeros(SCALARS), zeros(d), zeros(d),
        zeros(d), zeros(d, groups, times), zeros(d, groups, rows), zeros(d, totals), zeros(d, HOST_TIMES),
    )  # fmt: skip
