"""An exact leap over the periodic steady state of a stream.

A stream that repeats itself a row further on, in a controller whose refreshes repeat as well, comes back to
the same state: the same requests in the same places, the same waits, rows and counters, all moved by a fixed
time and a fixed number of rows. From there everything repeats, so any number of such cycles can be added up
instead of stepped through. States are compared in full, never by hash alone; the engine then steps through
one whole cycle to learn what it adds, leaps, and steps through the rest. The result equals the plain run in
every figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from simulator.dram import state as at
from simulator.dram.channel_run import ChannelRun, Memory, RunOptions
from simulator.dram.channel_tables import ChannelTables
from simulator.dram.dealing import Dealer, Tally
from simulator.dram.state import Chunk, State
from workloads.memory_trace.generators import SyntheticTrace
from workloads.memory_trace.trace import MemoryTrace

__all__ = ["leap_over"]

MAX_PERIOD: Final = 1 << 20
WORTH: Final = 8
"""Periods a trace must have before looking for its cycle pays."""
MAX_STATES: Final = 20_000
CHUNK: Final = 1 << 16

Ints = npt.NDArray[np.int64]

_TIMES: Final = (
    at.NOW, at.OFFER, at.DEPART, at.DEADLINE, at.EXPIRY, at.PAIR_TICK,
    at.LAST_ACCEPT, at.LAST_WRITE, at.PROGRESS,
)  # fmt: skip
_IDLE: Final = (at.NOW, at.LAST_ACCEPT, at.PROGRESS)
"""Times that tell what was, not what comes: the last tick looked at may be any idle one."""
_PLAIN: Final = (
    at.MODE, at.READS, at.WRITES, at.ACTIVE, at.PRIORITY_COUNT, at.LIVE,
    at.LOCK_FROM, at.LOCK_CMD, at.PAIR_SCOPE, at.PAIR_BANK, at.DUE,
)  # fmt: skip
_SUMS: Final = (
    at.ACCEPTED, at.HITS, at.MISSES, at.CONFLICTS, at.READ_HITS, at.WRITE_HITS,
    at.FORWARDED, at.COALESCED, at.LATENCY_SUM, at.SERVED_READS, at.SERVED_WRITES,
)  # fmt: skip
_QUEUES: Final = (
    (at.SUM_READS, at.READS),
    (at.SUM_WRITES, at.WRITES),
    (at.SUM_PRIORITY, at.PRIORITY_COUNT),
)


@dataclass(frozen=True)
class _Rotation:
    """A symmetry of the stream that is one of the device as well: every ``turn`` requests, each bank's part
    is played by the next bank of its rank.

    Banks and bank groups of a rank are alike, so two states that differ by a rotation alone have the same
    future. ``visit`` is the place of each bank in the order in which the stream comes to them; ``length``
    turns make a period. Without such a symmetry a turn is a whole period and every bank keeps its part.
    """

    turn: int
    length: int
    step: int
    """Transactions by which a turn moves the stream."""
    visit: Ints

    def rounds(self, turns: int) -> Ints:
        """Per bank: how often the stream has left it behind after that many turns."""
        return -((self.visit - turns) // self.length)

    def order(self, turns: int, scope: Ints) -> Ints:
        """Banks in the order of the parts they play after that many turns, rank by rank."""
        return np.lexsort(((self.visit - turns) % self.length, scope))


def _rotation(run: ChannelRun, template: Chunk, row_shift: int, shift: int) -> _Rotation:
    """The rotation of a stream, verified on a whole period and on the tree of the device; or none."""
    channel, tables = run.channel, run.tables
    banks, p = channel.banks, int(template.transaction.size)
    none = _Rotation(p, 1, shift, np.zeros(banks, np.int64))
    scopes = tables.settings.scopes
    length = banks // scopes
    fine = channel.level_names[channel.level_names.index(channel.refresh_level) + 1 :]
    if channel.controller.refresh not in ("all-bank", "off") or p % max(length, 1) or length < 2:
        return none
    if any(rule.window > 1 and rule.level in fine for rule in channel.constraints):
        return none
    turn = p // length
    index = np.arange(p)
    visit = np.full(banks, -1, np.int64)
    visit[template.bank[::-1]] = index[::-1] // turn
    if (visit < 0).any() or (visit[template.bank] != index // turn).any():
        return none
    # The next bank: same rank, one place further on.
    following = np.full(banks, -1, np.int64)
    for scope in range(scopes):
        mine = np.flatnonzero(tables.bank_scope == scope)
        mine = mine[np.argsort(visit[mine])]
        if (visit[mine] != np.arange(length)).any():
            return none
        following[mine] = np.roll(mine, -1)
    group = tables.bank_group
    tree_kept = all(np.unique(group[following[group == g]]).size == 1 for g in np.unique(group))
    moved = template.transaction[turn:] - template.transaction[:-turn]
    same_parts = (following[template.bank[:-turn]] == template.bank[turn:]).all()
    same_rows = (template.row[turn:] == template.row[:-turn]).all()
    if not (tree_kept and same_parts and same_rows and (moved == moved[0]).all()):
        return none
    # The last turn leads into the first one of the next period, a row further on.
    if (
        template.transaction[:turn] + shift - template.transaction[-turn:] != moved[0]
    ).any() or row_shift < 1:
        return none
    return _Rotation(turn, length, int(moved[0]), visit)


@dataclass(frozen=True)
class _Stream:
    """One channel's share of a periodic stream: request i + p is request i some rows further on."""

    template: Chunk
    row_shift: int
    transaction_shift: int
    rows: int
    transactions: int
    rotation: _Rotation

    @property
    def period(self) -> int:
        """Requests of one period, p."""
        return int(self.template.transaction.size)

    def chunk(self, start: int, count: int) -> Chunk:
        """Requests ``start`` to ``start + count``."""
        t = self.template
        turn, at = np.divmod(np.arange(start, start + count, dtype=np.int64), self.period)
        transaction = (t.transaction[at] + turn * self.transaction_shift) % self.transactions
        row = ((t.row[at] + turn * self.row_shift) % self.rows).astype(np.int32)
        return Chunk(transaction, t.bank[at], row, t.write[at], t.arrival)


def leap_over(
    memory: Memory,
    dealer: Dealer,
    runs: list[ChannelRun],
    trace: MemoryTrace,
    options: RunOptions,
    tally: Tally,
) -> bool:
    """Run a periodic trace, leaping where it comes round. Returns False (and does nothing) for any other
    trace.
    """
    period = trace.period
    step = dealer.map.row_step()
    if not isinstance(trace, SyntheticTrace) or period is None or step is None or trace.count is None:
        return False
    if trace.geometry.transactions != dealer.map.transactions or options.outstanding:
        return False
    if memory.channel.controller.refresh == "paired-per-bank" or period.requests > MAX_PERIOD:
        return False
    shift = period.shift_bytes // memory.channel.transaction_bytes
    if shift % step or trace.count < WORTH * period.requests:
        return False
    whole, rest = divmod(trace.count, period.requests)
    first = trace.requests(0, period.requests)
    templates = dealer.deal(first)
    partial = dealer.deal(trace.requests(0, rest))
    try:
        for run, template, part in zip(runs, templates, partial, strict=True):
            stream = _Stream(
                template,
                shift // step,
                shift,
                memory.channel.rows,
                dealer.map.transactions,
                _rotation(run, template, shift // step, shift),
            )
            total = whole * template.transaction.size + part.transaction.size
            tally.leapt += _run_channel(run, stream, total, options)
    except KeyboardInterrupt:
        tally.interrupted = True
    tally.requests = trace.count
    tally.writes = whole * int(np.count_nonzero(first.write))
    tally.writes += int(np.count_nonzero(first.write[:rest]))
    return True


def _run_channel(run: ChannelRun, stream: _Stream, total: int, options: RunOptions) -> int:
    """Step until a state comes back, leap, and step to the end. Returns the requests leapt over."""
    if stream.period == 0:
        return 0
    v = run.state.scalar
    interval = int(run.tables.timer_period[0]) if run.tables.timer_period.size else 0
    # Look just before each refresh: there the states of a stream are few. Without refresh, after each period.
    size = CHUNK if interval else max(stream.period, CHUNK // 16 // stream.period * stream.period)
    seen: set[bytes] = set()
    start: _Snapshot | None = None
    searching, leapt = True, 0
    status, until = at.NEED, interval - 1
    chunk, end = stream.chunk(0, 0), 0
    while status != at.DONE:
        if status == at.NEED:
            count = min(size, total - end)
            chunk, end = stream.chunk(end, count), end + count
        if not (searching and interval):
            until = at.INF
        elif status == at.PAUSED:
            until += interval
        status = run.feed(chunk, end == total, until)
        now = until if interval else int(v[at.NOW])
        if searching and status == (at.PAUSED if interval else at.NEED):
            key = _signature(run, stream, now)
            if start is not None and key == start.key:
                leapt, searching = _leap(run, stream, start, now, total), False
                if leapt:
                    v[at.NEXT], end, status = 0, int(v[at.ACCEPTED]), at.NEED
            elif start is None and key in seen:
                start = _Snapshot.of(run.state, key, now)
            seen.add(key)
            searching = searching and len(seen) < MAX_STATES
        if options.progress is not None:
            options.progress(int(v[at.ACCEPTED]))
    return leapt


@dataclass(frozen=True)
class _Snapshot:
    """Sums at a moment, to learn what one cycle adds."""

    scalar: Ints
    counts: Ints
    outcome: Ints
    histogram: Ints
    scope_active: Ints
    bank_ticks: Ints
    key: bytes
    now: int

    @staticmethod
    def of(state: State, key: bytes, now: int) -> _Snapshot:
        return _Snapshot(
            state.scalar.copy(), state.counts.copy(), state.bank_outcome.copy(), state.histogram.copy(),
            state.scope_active.copy(), state.bank_ticks.copy(), key, now,
        )  # fmt: skip


def _signature(run: ChannelRun, stream: _Stream, now: int) -> bytes:
    """Everything the future depends on, relative to the tick ``now`` and to the stream's place."""
    s, p = run.state, run.tables
    v = s.scalar
    live = _live(s)
    order = live[np.argsort(s.slot_arrive[live], kind="stable")]
    place = np.zeros(s.slot_row.size, np.int64)
    place[s.actives[: v[at.ACTIVE]]] = 1
    for entry, mark in ((at.OPENING, 2), (at.LOCK, 4)):
        if v[entry] >= 0:
            place[v[entry]] += mark
    rotation = stream.rotation
    turns, phase = divmod(int(v[at.ACCEPTED]), rotation.turn)
    rows_moved = rotation.rounds(turns) * stream.row_shift
    parts_of = rotation.order(turns, p.bank_scope)
    part = np.argsort(parts_of)
    bank = s.slot_bank[order]
    requests = np.stack(
        [
            part[bank],
            (s.slot_row[order] - rows_moved[bank]) % stream.rows,
            (s.slot_address[order] - turns * rotation.step) % stream.transactions,
            s.slot_arrive[order] - now,
            s.slot_type[order],
            s.slot_counted[order],
            place[order],
        ]
    )
    held = s.bank_state == 1
    banks = np.stack(
        [
            s.bank_state,
            np.where(held, (s.bank_row - rows_moved) % stream.rows, -1),
            s.bank_active,
            s.bank_columns,
            s.bank_injected,
            s.bank_last - now
            if run.channel.controller.row_policy == "timeout"
            else np.zeros_like(held, np.int64),
        ]
    )[:, parts_of]
    queue = (v[at.PRIORITY_HEAD] + np.arange(v[at.PRIORITY_COUNT])) % s.priority_command.size
    parts = [
        np.array([phase]),
        v[list(_PLAIN)],
        np.maximum(v[[t for t in _TIMES if t not in _IDLE]] - now, -1),
        _waits(p, s.ready, parts_of, now),
        _history(p.window_rule, s.history, now),
        requests.ravel(),
        banks.ravel(),
        s.priority_command[queue],
        s.priority_object[queue],
        s.timer_next - now,
        s.timer_turn,
        s.scope_open,
    ]
    return np.concatenate([np.asarray(part, np.int64).ravel() for part in parts]).tobytes()


def _waits(tables: ChannelTables, ready: Ints, parts_of: Ints, now: int) -> Ints:
    """Ticks until each command is legal, groups and banks in the order of their parts."""
    c = tables.settings
    waits = np.maximum(ready - now, 0)
    # A group stands where its first bank stands.
    first = np.unique(tables.bank_group[parts_of], return_index=True)[1]
    by_group = waits[: c.bank_base].reshape(-1, c.groups)[:, np.argsort(first)]
    by_bank = waits[c.bank_base : c.object_base].reshape(-1, c.banks)[:, parts_of]
    return np.concatenate([by_group.ravel(), by_bank.ravel(), waits[c.object_base :]])


def _live(s: State) -> Ints:
    free = np.zeros(s.slot_row.size, bool)
    free[s.free_slots[: s.scalar[at.FREE]]] = True
    return np.flatnonzero(~free)


def _history(rules: npt.NDArray[np.void], history: Ints, now: int) -> Ints:
    """Rings of past issues, oldest first, relative; those too old to matter are all alike."""
    parts = []
    for base, depth in set(zip(rules["ring"].tolist(), rules["depth"].tolist(), strict=True)):
        longest = int(rules["ticks"][rules["ring"] == base].max())
        ring = np.roll(history[base + 1 : base + 1 + depth], -int(history[base]))
        parts.append((base, np.where((ring < 0) | (now - ring > longest), -(longest + 1), ring - now)))
    parts.sort(key=lambda part: part[0])
    return np.concatenate([part for _, part in parts]) if parts else np.zeros(0, np.int64)


def _leap(run: ChannelRun, stream: _Stream, before: _Snapshot, now: int, total: int) -> int:
    """Add as many whole cycles as the trace still holds. Returns the requests they stand for."""
    s = run.state
    v = s.scalar
    requests = int(v[at.ACCEPTED] - before.scalar[at.ACCEPTED])
    ticks = now - before.now
    if requests <= 0:
        return 0
    # So many cycles bring every bank back to its own part.
    rotation = stream.rotation
    turned = requests // rotation.turn
    together = rotation.length // math.gcd(turned, rotation.length)
    times = (total - int(v[at.ACCEPTED]) - 1) // (requests * together) * together
    if times <= 0:
        return 0
    moved, turns = times * ticks, times * requests // stream.period
    here = rotation.order(0, run.tables.bank_scope)
    outcome = (s.bank_outcome - before.outcome).reshape(-1, 3)
    for k in range(together):
        there = rotation.order(-k * turned, run.tables.bank_scope)
        s.bank_outcome.reshape(-1, 3)[there] += times // together * outcome[here]
    for total_entry, size in _QUEUES:
        held_then = before.scalar[total_entry] + before.scalar[size] * before.now
        held_now = v[total_entry] + v[size] * now
        v[total_entry] += times * (held_now - held_then) - v[size] * moved
    # As with queues: open banks at the end count on, those at the beginning did so before.
    once = s.bank_ticks - before.bank_ticks + s.scope_open * ticks
    np.add(s.bank_ticks, times * once - s.scope_open * moved, out=s.bank_ticks)
    for entry in _SUMS:
        v[entry] += times * (v[entry] - before.scalar[entry])
    for mine, then in (
        (s.counts, before.counts),
        (s.histogram, before.histogram),
        (s.scope_active, before.scope_active),
    ):
        mine += times * (mine - then)
    # A scope that was open all through counts only when it closes, from a moment that is moved on below.
    s.scope_active[(s.scope_open > 0) & (s.scope_since <= before.now)] += moved
    v[list(_TIMES)] += moved
    for ages in (s.ready, s.slot_arrive, s.bank_last, s.timer_next, s.scope_since):
        ages += moved
    rules = run.tables.window_rule
    for base, depth in set(zip(rules["ring"].tolist(), rules["depth"].tolist(), strict=True)):
        ring = s.history[base + 1 : base + 1 + depth]
        ring[ring >= 0] += moved
    live = _live(s)
    s.slot_row[live] = (s.slot_row[live] + turns * stream.row_shift) % stream.rows
    further = turns * stream.transaction_shift
    s.slot_address[live] = (s.slot_address[live] + further) % stream.transactions
    s.slot_index[live] += times * requests
    s.bank_row[:] = np.where(
        s.bank_state == 1, (s.bank_row + turns * stream.row_shift) % stream.rows, s.bank_row
    )
    at.rebuild_filter(s)
    return times * requests
