"""Loops of a PIM program, and the leap over iterations that are like the last one.

A loop whose iteration has moved every time by one period, and every row by one stride, will do so again until a
refresh falls due. So whole iterations are skipped: times, rows and counts move on by as many times as much.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return, call-overload, call-arg"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.pim.channel import catch_up
from simulator.pim.machine import BANKS, COMMANDS, GRID, HISTORY, POLICY, QUEUE, SLOTS, Tables
from simulator.pim.program import COUNT as P_COUNT
from simulator.pim.program import ROW as P_ROW
from simulator.pim.program import UNIFORM as P_UNIFORM
from simulator.pim.state import (
    CLOCK,
    DEPTH,
    DUE,
    ISSUED,
    LABEL,
    LAST,
    LEAPT,
    NEWEST,
    OPENED,
    PC,
    PHASE_START,
    TIME_EXTRAS,
    TOTALS,
    Log,
    State,
)

__all__ = ["end_of_iteration"]

Ints = npt.NDArray[np.int64]

# Without reference counts: nothing is allocated here, and counting every array at every call is dear.
_step = compiled(_nrt=False)


@_step
def _turn_ring(t: Tables, s: State, g: int) -> None:
    """Turn the ring of the last requests so that the newest stands first, which makes two states comparable."""
    newest = s.rows[g, t.config[BANKS] + NEWEST]
    if newest == 0:
        return
    queue = t.config[SLOTS] + t.config[HISTORY] + 4
    size = t.config[QUEUE] + 1
    # Three reversals turn it in place.
    for start, end in ((0, newest - 1), (newest, size - 1), (0, size - 1)):
        while start < end:
            held = s.time[g, queue + start]
            s.time[g, queue + start] = s.time[g, queue + end]
            s.time[g, queue + end] = held
            start += 1
            end -= 1
    s.rows[g, t.config[BANKS] + NEWEST] = 0


@_step
def _iterations_to_leap(t: Tables, s: State, depth: int, stride: int, left: int, grid: int) -> int:
    """Iterations that will be like the last one, moved on by a period; 0 when the state has not come round."""
    period = s.host[CLOCK] - s.saved_host[depth, CLOCK]
    if period <= 0 or period % grid:
        return 0
    marked = s.host[PHASE_START] - s.saved_host[depth, PHASE_START]
    if marked not in (0, period):
        return 0
    start = s.saved_host[depth, CLOCK]
    banks = t.config[BANKS]
    tail = s.time.shape[1] - TIME_EXTRAS
    for g in range(s.time.shape[0]):
        for b in range(banks):
            moved = s.rows[g, b] - s.saved_rows[depth, g, b]
            if moved != 0 and moved != stride:
                return 0
        for b in range(banks, s.rows.shape[1]):
            if s.rows[g, b] != s.saved_rows[depth, g, b]:
                return 0
        for i in range(tail + TIME_EXTRAS):
            moved = s.time[g, i] - s.saved_time[depth, g, i]
            if moved == period or i == tail + DUE:
                continue
            # What has not moved must be over already, so that it rules nothing.
            if moved != 0 or (s.time[g, i] > start and i != tail + OPENED):
                return 0
        due, was_due = s.time[g, tail + DUE], s.saved_time[depth, g, tail + DUE]
        if t.config[POLICY] > 0 and due - was_due != period:
            if due != was_due:
                return 0
            # An instruction that finds nothing to do moves no command's time, but asks for a refresh as it comes.
            reached = max(s.time[g, tail + LAST], s.host[CLOCK])
            left = min(left, (due - 1 - reached) // period)
    return max(left, 0)


@_step
def _leap(s: State, depth: int, times: int) -> None:
    """Move every time, row and count on as ``times`` more iterations would."""
    for g in range(s.time.shape[0]):
        for i in range(s.time.shape[1]):
            s.time[g, i] += (s.time[g, i] - s.saved_time[depth, g, i]) * times
        for i in range(s.rows.shape[1]):
            s.rows[g, i] += (s.rows[g, i] - s.saved_rows[depth, g, i]) * times
    for i in range(s.host.size):
        s.host[i] += (s.host[i] - s.saved_host[depth, i]) * times
    for i in range(s.total.size):
        s.total[i] += (s.total[i] - s.saved_total[depth, i]) * times


@_step
def _save(s: State, depth: int) -> None:
    """Keep the state at the end of an iteration, to be held against the next one's."""
    for g in range(s.time.shape[0]):
        for i in range(s.time.shape[1]):
            s.saved_time[depth, g, i] = s.time[g, i]
        for i in range(s.rows.shape[1]):
            s.saved_rows[depth, g, i] = s.rows[g, i]
    for i in range(s.total.size):
        s.saved_total[depth, i] = s.total[i]
    for i in range(s.host.size):
        s.saved_host[depth, i] = s.host[i]
    s.loop_seen[depth] = s.scalar[LABEL] + 1


@_step
def _commands_since(t: Tables, s: State, depth: int) -> int:
    """Commands of the last iteration, of all groups."""
    counts = s.total.size - s.time.shape[0] * TOTALS
    labels = counts // (s.time.shape[0] * t.config[COMMANDS] + 1)
    number = 0
    for i in range(labels * s.time.shape[0] * t.config[COMMANDS]):
        number += s.total[i] - s.saved_total[depth, i]
    return number


@_step
def end_of_iteration(t: Tables, s: State, table: Ints, leap: bool, log: Log) -> None:
    """Close an iteration: leap if the state has come round, then begin the next one or leave the loop."""
    pc = s.scalar[PC]
    depth = s.scalar[DEPTH] - 1
    s.loop_iteration[depth] += 1
    left = table[pc, P_COUNT] - s.loop_iteration[depth]
    if leap and left > 0 and table[pc, P_UNIFORM] == 1 and log.tick.size == 0:
        for g in range(s.time.shape[0]):
            catch_up(t, s, g, log)
            _turn_ring(t, s, g)
        if s.loop_seen[depth] == s.scalar[LABEL] + 1:
            before = s.scalar[ISSUED]
            # The last iteration is run, since a program may end with it, and no refresh follows its last command.
            more = _iterations_to_leap(t, s, depth, table[pc, P_ROW], left - 1, t.config[GRID])
            if more > 0:
                commands = _commands_since(t, s, depth)
                _leap(s, depth, more)
                s.scalar[ISSUED] = before + commands * more
                s.scalar[LEAPT] += commands * more
                s.loop_iteration[depth] += more
                left -= more
        _save(s, depth)
    if left > 0:
        s.scalar[PC] = s.loop_start[depth] + 1
    else:
        s.scalar[DEPTH] -= 1
        s.scalar[PC] += 1
