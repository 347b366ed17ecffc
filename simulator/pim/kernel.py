"""The hot loop of the PIM engine: runs a flat program from command to command, and leaps over what repeats.

The host decodes one instruction a clock and hands its commands to the queues of the channels it names; a full
queue and an instruction that returns data hold the host up. A channel serves its queue in order: it closes and
opens the rows a command needs, switches modes, and takes one command a clock, each at the first tick that
every rule allows. Refresh goes before waiting commands once it is due.

Two leaps change nothing but the time a run takes. A run of equal commands is paced by the rules between them
alone, so its last tick follows from its first. A loop whose iteration has moved every time by one period, and
every row by one stride, will do so again until a refresh falls due, so whole iterations are skipped.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return, call-overload, call-arg"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.pim.channel import (
    aligned,
    catch_up,
    issue,
    ready,
    refresh,
    refresh_goes_first,
    serve,
    switch_first,
    totals,
)
from simulator.pim.loops import end_of_iteration
from simulator.pim.machine import (
    ALIGN,
    BANKS,
    COMMANDS,
    FAW,
    HISTORY,
    KIND,
    LATENCY,
    LONGEST,
    POLICY,
    PRECHARGE,
    QUEUE,
    SLOTS,
    WINDOW,
    Tables,
)
from simulator.pim.program import BANK as P_BANK
from simulator.pim.program import BLOCKING as P_BLOCKING
from simulator.pim.program import CODE as P_CODE
from simulator.pim.program import COL as P_COL
from simulator.pim.program import COUNT as P_COUNT
from simulator.pim.program import END, EOC, LOOP, PHASE, WAIT
from simulator.pim.program import KIND as P_KIND
from simulator.pim.program import LINK as P_LINK
from simulator.pim.program import MASK as P_MASK
from simulator.pim.program import ROW as P_ROW
from simulator.pim.state import (
    CLOCK,
    DEPART,
    DEPTH,
    DONE,
    DUE,
    ENDED,
    ISSUED,
    LABEL,
    LAST,
    MODE_NOW,
    NEWEST,
    OPEN_BANKS,
    OPEN_TICKS,
    OPENED,
    PAST,
    PAUSED,
    PC,
    PHASE_START,
    TIME_EXTRAS,
    TOTALS,
    Access,
    Log,
    State,
)

__all__ = ["run_program", "settle"]

Ints = npt.NDArray[np.int64]

# Without reference counts: nothing is allocated here, and counting every array at every call is dear.
_step = compiled(_nrt=False)


@_step
def _host_instruction(t: Tables, s: State, code: int, n: int, label: int, log: Log) -> None:
    """WAIT, SYNC, EOC and PHASE: the host alone."""
    tail = s.time.shape[1] - TIME_EXTRAS
    clock = s.host[CLOCK]
    if code == WAIT:
        s.host[CLOCK] = clock + n
    elif code == PHASE:
        _book_phase(t, s)
        s.scalar[LABEL] = label
    else:
        end = clock + 1
        for g in range(s.time.shape[0]):
            time = s.time[g]
            tick = max(time[tail + LAST] + 1, clock + 1)
            # A mark waits for no row, so a refresh that is due need not spare any.
            first = refresh_goes_first(t, s, g, tick, tick)
            while first != PAST:
                refresh(t, s, g, first, log)
                tick = max(time[tail + LAST] + 1, clock + 1)
                first = refresh_goes_first(t, s, g, tick, tick)
            end = max(end, tick + 1, time[tail + DEPART])
        s.host[CLOCK] = end
        if code == EOC:
            s.scalar[ENDED] = 1


@_step
def _book_phase(t: Tables, s: State) -> None:
    """Book the time since the last mark under the present label."""
    tail = s.time.shape[1] - TIME_EXTRAS
    now = s.host[CLOCK]
    for g in range(s.time.shape[0]):
        now = max(now, s.time[g, tail + LAST])
    labels = (s.total.size - s.time.shape[0] * TOTALS) // (s.time.shape[0] * t.config[COMMANDS] + 1)
    s.total[labels * s.time.shape[0] * t.config[COMMANDS] + s.scalar[LABEL]] += now - s.host[PHASE_START]
    s.host[PHASE_START] = now


@_step
def run_program(t: Tables, table: Ints, steps: Ints, s: State, leap: bool, budget: int, log: Log) -> int:
    """Run on from where the state stands until the end, or until ``budget`` commands were issued."""
    groups = s.time.shape[0]
    tail = s.time.shape[1] - TIME_EXTRAS
    queue = t.config[SLOTS] + t.config[HISTORY] + 4
    goal = s.scalar[ISSUED] + budget
    while s.scalar[PC] < table.shape[0] and s.scalar[ENDED] == 0:
        pc = s.scalar[PC]
        code = table[pc, P_CODE]
        if code == END:
            end_of_iteration(t, s, table, leap, log)
            continue
        if code == LOOP:
            if table[pc, P_COUNT] == 0:
                s.scalar[PC] = table[pc, P_LINK] + 1
                continue
            depth = s.scalar[DEPTH]
            s.loop_start[depth], s.loop_iteration[depth], s.loop_seen[depth] = pc, 0, 0
            s.scalar[DEPTH] += 1
            s.scalar[PC] += 1
            continue
        if code < 0:
            _host_instruction(t, s, code, table[pc, P_COUNT], table[pc, P_LINK], log)
            s.scalar[PC] += 1
            continue
        row, col, bank = table[pc, P_ROW], table[pc, P_COL], table[pc, P_BANK]
        for k in range(s.scalar[DEPTH]):
            turn = s.loop_iteration[s.scalar[DEPTH] - 1 - k]
            row += steps[pc, 0, k] * turn
            col += steps[pc, 1, k] * turn
            bank += steps[pc, 2, k] * turn
        arrival = s.host[CLOCK]
        sent = arrival
        back = arrival
        for g in range(groups):
            if table[pc, P_MASK] >> g & 1:
                n = table[pc, P_COUNT]
                serve(t, s, g, Access(code, table[pc, P_KIND] + bank, row, col), n, arrival, leap, log)
                # The last request entered the queue when the one a queue's length before it had left.
                newest = s.rows[g, t.config[BANKS] + NEWEST]
                sent = max(sent, s.time[g, queue + (newest + t.config[QUEUE]) % (t.config[QUEUE] + 1)])
                back = max(back, s.time[g, tail + LAST] + t.command[code, LATENCY])
        s.host[CLOCK] = max(sent + 1, back) if table[pc, P_BLOCKING] == 1 else sent + 1
        s.scalar[PC] += 1
        if s.scalar[ISSUED] > goal:
            return PAUSED
    return DONE


@_step
def _to_rest(t: Tables, s: State, g: int, log: Log) -> int:
    """Bring a group to the state before a run: rows closed, memory mode, timers over, no refresh owed."""
    time = s.time[g]
    tail = time.size - TIME_EXTRAS
    banks = t.config[BANKS]
    clock = s.host[CLOCK]
    while True:
        command = t.config[PRECHARGE]
        target = t.command[command, KIND]
        tick = max(time[tail + LAST] + 1, clock + 1, ready(t, time, command, target))
        tick = aligned(tick, t.command[command, ALIGN])
        rest = s.rows[g, banks + OPEN_BANKS] == 0 and s.rows[g, banks + MODE_NOW] == 0
        if not rest:
            first = refresh_goes_first(t, s, g, tick, clock)
            if first != PAST:
                refresh(t, s, g, first, log)
            elif not switch_first(t, s, g, 0, tick, log):
                issue(t, s, g, Access(command, target, -1, -1), tick, log)
            continue
        end = max(clock, time[tail + DEPART], time[tail + LAST])
        for c in range(t.config[COMMANDS]):
            end = max(end, time[tail - t.config[COMMANDS] + c] + t.command[c, LONGEST] - 1)
        if t.config[WINDOW] > 0:
            end = max(end, time[t.config[SLOTS] + t.config[HISTORY]] + t.config[FAW] - 1)
        if t.config[POLICY] == 0 or time[tail + DUE] > end:
            return end
        refresh(t, s, g, time[tail + DUE], log)


@_step
def settle(t: Tables, s: State, close: bool, log: Log) -> int:
    """End a run: close all rows if asked, book the last phase; the tick at which everything has ended."""
    tail = s.time.shape[1] - TIME_EXTRAS
    banks = t.config[BANKS]
    end = s.host[CLOCK]
    for g in range(s.time.shape[0]):
        if close:
            end = max(end, _to_rest(t, s, g, log))
        end = max(end, s.time[g, tail + DEPART], s.time[g, tail + LAST])
    s.host[CLOCK] = end
    for g in range(s.time.shape[0]):
        catch_up(t, s, g, log)
        if s.rows[g, banks + OPEN_BANKS] > 0:
            s.total[totals(s, g) + OPEN_TICKS] += end + 1 - s.time[g, tail + OPENED]
            s.time[g, tail + OPENED] = end + 1
    _book_phase(t, s)
    return end
