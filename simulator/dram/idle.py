"""An exact leap over idle time: a channel without requests does nothing but refresh, round after round.

One round (every unit of refresh its turn) is stepped through to learn what it adds; from then on all clocks of refresh
move by whole rounds. The last rounds before the next request are stepped through, so that what they leave behind
(the youngest refreshes, the waits after them) is what the plain run leaves. A log of commands rules it out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simulator.dram import state as at
from simulator.dram.channel_tables import ChannelTables
from simulator.dram.state import State

__all__ = ["pass_idle"]

ROUNDS_LEFT = 2
"""Rounds before the next request that are stepped through."""


def pass_idle(
    tables: ChannelTables, state: State, start: int, arrival: int, step: Callable[[int], int]
) -> int:
    """Leap from tick ``start``, up to which the channel has run, towards a request at ``arrival``; ``step`` runs it to
    a tick. Returns the tick up to which it has run then.
    """
    length = _round(tables)
    if length == 0:
        # No refresh: nothing happens at all.
        return max(arrival - 1, start) if _is_idle(state) else start
    if (arrival - start) // length <= ROUNDS_LEFT + 1 or not _is_idle(state):
        return start
    before = state.counts.copy(), int(state.scalar[at.SUM_PRIORITY])
    status = step(start + length)
    start += length
    if status != at.PAUSED or not _is_idle(state):
        return start
    rounds = (arrival - start) // length - ROUNDS_LEFT
    counts, v, moved = state.counts, state.scalar, rounds * length
    counts += rounds * (counts - before[0])
    v[at.SUM_PRIORITY] += rounds * (int(v[at.SUM_PRIORITY]) - before[1])
    for clocks in (state.timer_next, state.paired_allowed):
        clocks += moved
    v[at.PAIRED_NEXT] += moved
    return start + moved


def _is_idle(state: State) -> bool:
    v = state.scalar
    waiting = v[at.LIVE] + v[at.PRIORITY_COUNT] + v[at.PAIRED_PENDING]
    return bool(waiting == 0 and v[at.OPENING] < 0 and v[at.LOCK] < 0 and not np.any(state.scope_open))


def _round(tables: ChannelTables) -> int:
    """Ticks in which every unit of refresh has its turn; 0 without refresh."""
    c = tables.settings
    if c.paired:
        return c.paired_period * c.paired_banks * c.paired_sids
    turns = np.diff(tables.timer_start)
    return int(max((tables.timer_period * turns).tolist(), default=0))
