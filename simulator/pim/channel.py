"""One PIM channel: the first tick of a command, what it changes, and the serving of requests in order.

A channel closes and opens the rows a request needs, switches modes, and takes one command a clock, each at the
first tick that every rule allows. Refresh goes before waiting commands once it is due. A run of equal commands
is paced by the rules between them alone, so its last tick follows from its first.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return, call-overload, call-arg"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled, inlined
from simulator.pim.machine import (
    ALIGN,
    AUTO,
    BANKS,
    CLOSE,
    CLOSER,
    COLUMN,
    COMMANDS,
    EFFECT,
    FAW,
    HISTORY,
    INTERVAL,
    KIND,
    LATENCY,
    LEVELS,
    NEEDS_MODE,
    OPEN,
    OPENER,
    POLICY,
    PRECHARGE,
    QUEUE,
    REFRESH_CMD,
    RUN_PACE,
    SLOTS,
    STAGED,
    SWITCH,
    WEIGHT,
    WINDOW,
    Tables,
)
from simulator.pim.state import (
    CLOCK,
    COLUMNS,
    DEPART,
    DUE,
    ISSUED,
    LABEL,
    LAST,
    LEAPT,
    LOGGED,
    MAX_POSTPONED,
    MISSES,
    MODE_NOW,
    NEWEST,
    OPEN_BANKS,
    OPEN_TICKS,
    OPENED,
    PAST,
    TIME_EXTRAS,
    TOTALS,
    Access,
    Log,
    State,
)

__all__ = [
    "aligned",
    "catch_up",
    "issue",
    "ready",
    "refresh",
    "refresh_goes_first",
    "serve",
    "switch_first",
    "totals",
]

Ints = npt.NDArray[np.int64]

# Without reference counts: nothing is allocated here, and counting every array at every call is dear.
_step = compiled(_nrt=False)


@inlined
def ready(t: Tables, time: Ints, command: int, target: int) -> int:
    """First tick that every rule allows a command at a target."""
    earliest = PAST
    levels = t.config[LEVELS]
    for i in range(t.check_ptr[command], t.check_ptr[command + 1]):
        place = target * levels + t.check[i, 0]
        base = t.check[i, 1]
        for j in range(t.node_ptr[place], t.node_ptr[place + 1]):
            slot = time[base + t.node[j]]
            if slot > earliest:
                earliest = slot
    if t.config[WINDOW] > 0 and t.command[command, EFFECT] == OPEN:
        # The banks this opens and those of the window together may not exceed it.
        oldest = t.config[WINDOW] - t.command[command, WEIGHT]
        slot = time[t.config[SLOTS] + t.config[HISTORY] + oldest] + t.config[FAW]
        if slot > earliest:
            earliest = slot
    return earliest


@inlined
def aligned(tick: int, grid: int) -> int:
    """The first tick from here on the command's clock edge; edges are the odd ticks."""
    if grid > 1:
        over = (tick - 1) % grid
        if over:
            return tick + grid - over
    return tick


@inlined
def totals(s: State, g: int) -> int:
    """Where a group's totals begin in ``State.total``."""
    return s.total.size - s.time.shape[0] * TOTALS + g * TOTALS


@_step
def issue(t: Tables, s: State, g: int, access: Access, tick: int, log: Log) -> None:
    """Send a command: move the slots it rules over, the rows and the counts."""
    command, target, row, col = access
    time, rows = s.time[g], s.rows[g]
    levels = t.config[LEVELS]
    for i in range(t.rule_ptr[command], t.rule_ptr[command + 1]):
        place = target * levels + t.rule[i, 0]
        base, latency, window = t.rule[i, 1], t.rule[i, 2], t.rule[i, 3]
        for j in range(t.node_ptr[place], t.node_ptr[place + 1]):
            since = tick
            if window > 1:
                at = t.config[SLOTS] + t.rule[i, 4] + t.node[j] * window
                for k in range(window - 1, 0, -1):
                    time[at + k] = time[at + k - 1]
                time[at] = tick
                since = time[at + window - 1]
            slot = base + t.node[j]
            if since + latency > time[slot]:
                time[slot] = since + latency
    effect = t.command[command, EFFECT]
    tail = time.size - TIME_EXTRAS
    banks = t.config[BANKS]
    closes = effect == CLOSE or (effect == COLUMN and t.command[command, AUTO] == 1)
    if effect == OPEN or closes:
        was = rows[banks + OPEN_BANKS]
        for j in range(t.bank_ptr[target], t.bank_ptr[target + 1]):
            bank = t.bank[j, 0]
            if closes:
                rows[banks + OPEN_BANKS] -= rows[bank] >= 0
                rows[bank] = -1
            else:
                rows[banks + OPEN_BANKS] += rows[bank] < 0
                rows[bank] = row
        now = rows[banks + OPEN_BANKS]
        if was == 0 and now > 0:
            time[tail + OPENED] = tick
        elif was > 0 and now == 0:
            s.total[totals(s, g) + OPEN_TICKS] += tick - time[tail + OPENED]
    if effect == OPEN and t.config[WINDOW] > 0:
        at = t.config[SLOTS] + t.config[HISTORY]
        weight = t.command[command, WEIGHT]
        for k in range(3, weight - 1, -1):
            time[at + k] = time[at + k - weight]
        for k in range(min(weight, 4)):
            time[at + k] = tick
    if command == t.config[SWITCH]:
        rows[banks + MODE_NOW] ^= 1
    time[tail + LAST] = tick
    time[tail - t.config[COMMANDS] + command] = tick
    s.total[(s.scalar[LABEL] * s.time.shape[0] + g) * t.config[COMMANDS] + command] += 1
    s.scalar[ISSUED] += 1
    at = s.scalar[LOGGED]
    if at < log.tick.size:
        log.tick[at], log.group[at], log.command[at] = tick, g, command
        log.target[at], log.row[at], log.column[at] = target, row, col
    s.scalar[LOGGED] += 1


@inlined
def switch_first(t: Tables, s: State, g: int, mode: int, tick: int, log: Log) -> bool:
    """Switch modes in the command's stead; True when it did."""
    banks = t.config[BANKS]
    if t.config[SWITCH] < 0 or s.rows[g, banks + MODE_NOW] == mode:
        return False
    switch = t.config[SWITCH]
    tick = max(tick, ready(t, s.time[g], switch, t.command[switch, KIND]))
    access = Access(switch, t.command[switch, KIND], -1, -1)
    issue(t, s, g, access, aligned(tick, t.command[switch, ALIGN]), log)
    return True


@_step
def refresh(t: Tables, s: State, g: int, earliest: int, log: Log) -> None:
    """One all-bank refresh, as early as it can go: mode for memory, all rows closed, refresh."""
    time = s.time[g]
    tail = time.size - TIME_EXTRAS
    banks = t.config[BANKS]
    done = False
    while not done:
        command = t.config[PRECHARGE] if s.rows[g, banks + OPEN_BANKS] > 0 else t.config[REFRESH_CMD]
        target = t.command[command, KIND]
        tick = max(earliest, time[tail + LAST] + 1, ready(t, time, command, target))
        tick = aligned(tick, t.command[command, ALIGN])
        if not switch_first(t, s, g, 0, tick, log):
            issue(t, s, g, Access(command, target, -1, -1), tick, log)
            done = command == t.config[REFRESH_CMD]
    time[tail + DUE] += t.config[INTERVAL]


@inlined
def refresh_goes_first(t: Tables, s: State, g: int, tick: int, arrival: int) -> int:
    """From when on a refresh is served before a command that could go at a tick and was there at ``arrival``;
    PAST when the command goes first.
    """
    time = s.time[g]
    tail = time.size - TIME_EXTRAS
    due = time[tail + DUE]
    policy = t.config[POLICY]
    if policy == 0 or tick < due:
        return PAST
    nobody_waits = arrival + 1 > max(due, time[tail + LAST] + 1)
    if policy == 1 or nobody_waits or s.rows[g, t.config[BANKS] + OPEN_BANKS] == 0:
        return due
    forced = due + MAX_POSTPONED * t.config[INTERVAL]
    return forced if tick >= forced else PAST


@inlined
def needed(t: Tables, s: State, g: int, command: int, target: int, row: int) -> tuple[int, int]:
    """The command to send next so that a request can be served, and its target; -1 when there is none."""
    effect = t.command[command, EFFECT]
    rows = s.rows[g]
    if effect == CLOSE:
        for j in range(t.bank_ptr[target], t.bank_ptr[target + 1]):
            if rows[t.bank[j, 0]] >= 0:
                return command, target
        return -1, target
    if effect != COLUMN and effect != OPEN:
        return command, target
    right = wrong = closed = 0
    for j in range(t.bank_ptr[target], t.bank_ptr[target + 1]):
        held = rows[t.bank[j, 0]]
        if held == row:
            right += 1
        elif held < 0:
            closed += 1
        else:
            wrong += 1
    if wrong == 0 and closed == 0:
        return (command if effect == COLUMN else -1), target
    opener = t.command[command, OPENER]
    staged = t.command[opener, STAGED]
    mixed = right > 0 and staged < 0
    if wrong == 0 and staged >= 0:
        for i in range(t.stage_ptr[target], t.stage_ptr[target + 1]):
            part = t.stage[i, 0]
            shut = held_open = 0
            for j in range(t.bank_ptr[part], t.bank_ptr[part + 1]):
                if rows[t.bank[j, 0]] < 0:
                    shut += 1
                else:
                    held_open += 1
            if shut > 0 and held_open > 0:
                mixed = True
                break
            if shut > 0:
                return staged, part
    if wrong > 0 or mixed:
        closer = t.command[command, CLOSER]
        at = t.command[closer, KIND]
        # A closer that covers as much as the command closes the command's own banks, a wider one all.
        if t.command[closer, WEIGHT] == t.command[command, WEIGHT]:
            at += target - t.command[command, KIND]
        return closer, at
    return opener, target


@_step
def serve(t: Tables, s: State, g: int, access: Access, n: int, arrival: int, leap: bool, log: Log) -> None:
    """Serve the n requests of one instruction in one group of channels; ``access`` is the first of them."""
    command, target, row, col = access
    time = s.time[g]
    tail = time.size - TIME_EXTRAS
    queue = t.config[SLOTS] + t.config[HISTORY] + 4
    depth = t.config[QUEUE] + 1
    place = totals(s, g)
    mode = t.command[command, NEEDS_MODE]
    pace = t.command[command, RUN_PACE]
    column = t.command[command, EFFECT] == COLUMN
    acted = False
    k = 0
    while k < n:
        opened = False
        # A request is there once the host has decoded it and the queue has had room for it.
        newest = s.rows[g, t.config[BANKS] + NEWEST]
        there = max(arrival, time[queue + (newest + depth - 2) % depth])
        while True:
            step, at = needed(t, s, g, command, target, row)
            if step < 0:
                # Nothing is to be done, unless a refresh that fell due before has closed the rows.
                first = PAST
                if there > time[tail + LAST]:
                    first = refresh_goes_first(t, s, g, there, there)
                if first == PAST:
                    break
                refresh(t, s, g, first, log)
                continue
            tick = max(time[tail + LAST] + 1, there + 1, ready(t, time, step, at))
            tick = aligned(tick, t.command[step, ALIGN])
            first = refresh_goes_first(t, s, g, tick, there)
            if first != PAST:
                refresh(t, s, g, first, log)
                continue
            if switch_first(t, s, g, mode, tick, log):
                continue
            acted = True
            effect = t.command[step, EFFECT]
            opened = opened or effect == OPEN
            shown = row if effect in (OPEN, COLUMN) else -1
            shown_column = col + k if step == command and column else -1
            issue(t, s, g, Access(step, at, shown, shown_column), tick, log)
            if step == command:
                break
        served = max(time[tail + LAST], there)
        if column:
            s.total[place + MISSES] += opened
            s.total[place + COLUMNS] += 1
        newest = (newest + depth - 1) % depth
        time[queue + newest] = served
        s.rows[g, t.config[BANKS] + NEWEST] = newest
        k += 1
        # From here on only the rule between two of these commands counts, until a refresh falls due.
        if leap and pace > 0 and k < n and log.tick.size == 0:
            more = n - k
            if t.config[POLICY] > 0:
                more = min(more, (time[tail + DUE] - 1 - served) // pace)
            if more > 1:
                end = served + more * pace
                issue(t, s, g, Access(command, target, row, col + k + more - 1), end, log)
                s.total[(s.scalar[LABEL] * s.time.shape[0] + g) * t.config[COMMANDS] + command] += more - 1
                s.scalar[ISSUED] += more - 1
                s.scalar[LEAPT] += more - 1
                if column:
                    s.total[place + COLUMNS] += more
                newest = (newest + depth - more % depth) % depth
                for j in range(min(more, depth)):
                    time[queue + (newest + j) % depth] = end - j * pace
                s.rows[g, t.config[BANKS] + NEWEST] = newest
                k += more
    if acted:
        time[tail + DEPART] = max(time[tail + DEPART], time[tail + LAST] + t.command[command, LATENCY])


@_step
def catch_up(t: Tables, s: State, g: int, log: Log) -> None:
    """Serve refreshes that fell due while a channel had nothing to do."""
    time = s.time[g]
    tail = time.size - TIME_EXTRAS
    while t.config[POLICY] > 0 and time[tail + DUE] <= s.host[CLOCK] and time[tail + LAST] < s.host[CLOCK]:
        refresh(t, s, g, time[tail + DUE], log)
