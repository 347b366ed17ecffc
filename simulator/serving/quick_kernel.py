"""Steps of several engines in one compiled function, in the order of time: schedule, price, deliver, note.

It does what :class:`simulator.serving.service_loop.ServiceLoop` does of its workers while nothing comes from outside,
and leaves the same columns to the last bit. It stops at the first instant in which somebody outside has something to
do. It knows engines by rules (:class:`~simulator.serving.engine.Engine`) and the pricer from tables without drafts,
adapters or copies.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.serving.crew import state_of, tables_of
from simulator.serving.passes import complete, schedule
from simulator.serving.step_kernel import price_step

__all__ = [
    "CLERK",
    "CLOCK",
    "FULL",
    "HOST",
    "MORE",
    "PENDING",
    "STEP",
    "STOPPED",
    "Desk",
    "advance_crew",
    "begin_step",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PENDING: Final = 0
"""No step under way ends by the horizon."""
STOPPED: Final = 1
"""Steps have ended in the instant ``now`` in which somebody outside has something to do; none has begun in it."""
FULL: Final = 2
"""The columns have to grow first."""
MORE: Final = 3
"""As many steps as were asked for."""
TRIES: Final = 64
"""As the workers of the loop have it: preemptions in a row without a step."""
PREFILL: Final = 1
"""Role of a worker whose steps begin and end before the eyes of somebody outside."""
DECODE: Final = 2

CLERK: Final = np.dtype(
    [("now", "f8")] + [(n, "i8") for n in ("rows", "gaps", "ended", "over", "admitted", "made", "moved")]
)
"""Time of the last instant; how much stands in the columns and lists of :class:`Desk`; steps begun so far; whether room
may have come free in the instant before."""
CLOCK: Final = np.dtype(
    [("end", "f8")] + [(n, "i8") for n in ("step", "row", "made", "role", "over", "brought")]
)
"""Of a worker: the end of the step under way (``step`` 1), its row and its number; what the worker does; whether its
step has just ended; requests here whose caches were brought."""
HOST: Final = np.dtype([
    (name, "f8") for name in (
        "step_us", "sequence_us", "chunk_token_us", "launch_us", "kernel_factor", "prefill_factor", "overlap"
    )
])  # fmt: skip
STEP: Final = np.dtype([
    ("replica", "i8"), ("start_s", "f8"), ("seconds", "f8"), ("device_s", "f8"), ("host_s", "f8"),
    ("communication_s", "f8"), ("joules", "f8"), ("tokens", "i8"), ("prefill_tokens", "i8"), ("sequences", "i8"),
    ("waiting", "i8"), ("running", "i8"), ("free_blocks", "i8"), ("delivered", "i8"), ("lost", "i8"),
])  # fmt: skip
"""A row of the steps' columns, by their names."""


class Desk(NamedTuple):
    """What workers write on. Of all requests: the first seven, an entry each; ``clock`` and ``host``: of all workers.

    ``ended`` and ``admitted`` list requests since the last look at them (those admitted by decode workers alone),
    ``over`` the workers whose steps ended in the last instant, in order. The last five are for one step.
    """

    first_s: Floats
    last_s: Floats
    scheduled_s: Floats
    produced: Ints
    delivered: Ints
    counts: Ints
    """Preemptions, prompt tokens cached, tokens that were brought and are not yet run past, 1 where the first token
    waits for the second: a row each."""
    clock: Any
    host: Any
    clerk: Any
    steps: Any
    gap_s: Floats
    gap_count: Ints
    ended: Ints
    ended_by: Ints
    admitted: Ints
    over: Ints
    tokens: Ints
    context: Ints
    drafts: Ints
    got: Ints
    out: Floats


@compiled
def advance_crew(crew, desk, horizon, most, ends, watch):
    """Run steps that end by the horizon (seconds), at most ``most``; a code says why it stopped.

    ``ends``: stop where a request ends. ``watch``: stop at the instant after one in which a decode worker may have
    got room. An instant on the horizon is stopped at in any case. Workers whose ``over`` is set begin a step first,
    in the instant ``now``.
    """
    clerk = desk.clerk[0]
    workers = len(desk.clock)
    left = most
    while True:
        if clerk.rows + workers > len(desk.steps) or clerk.gaps + workers * len(desk.tokens) > len(
            desk.gap_s
        ):
            return FULL
        if clerk.admitted + workers * len(desk.tokens) > len(desk.admitted):
            return FULL
        for w in range(workers):
            if desk.clock[w].over != 0:
                left -= 1
                begin_step(crew, desk, w)
        first = np.inf
        for w in range(workers):
            if desk.clock[w].step != 0 and desk.clock[w].end < first:
                first = desk.clock[w].end
        if first > horizon or first == np.inf:
            return PENDING
        if left <= 0:
            return MORE
        clerk.now = first
        stop = first == horizon or (watch and clerk.moved != 0)
        clerk.moved = 0
        before = clerk.ended
        stop = _end_steps(crew, desk) or stop
        if stop or (ends and clerk.ended > before):
            for w in range(workers):
                desk.clock[w].over = 0
            return STOPPED


@compiled
def _end_steps(crew, desk):
    """Deliver what ends now, in the order in which it began; whether somebody outside wants to see it."""
    clerk = desk.clerk[0]
    seen = False
    clerk.over = 0
    while True:
        next_one = -1
        for w in range(len(desk.clock)):
            c = desk.clock[w]
            if c.step != 0 and c.end == clerk.now and (next_one < 0 or c.made < desk.clock[next_one].made):
                next_one = w
        if next_one < 0:
            return seen
        for g in range(crew.first[next_one], crew.first[next_one + 1]):
            _deliver(state_of(crew, g), desk, next_one)
        desk.over[clerk.over] = next_one
        clerk.over += 1
        desk.clock[next_one].step = 0
        desk.clock[next_one].over = 1
        if desk.clock[next_one].role == PREFILL:
            seen = True


@compiled
def begin_step(crew, desk, worker):
    """Schedule and price a worker's next step now, of all its groups; whether there is one."""
    clock = desk.clock[worker]
    clerk = desk.clerk[0]
    clock.over = 0
    low, high = crew.first[worker], crew.first[worker + 1]
    row = desk.steps[clerk.rows]
    _begin_row(row, worker, clerk.now)
    tries = 0
    while tries < TRIES:
        scheduled, preempted = 0, 0
        for g in range(low, high):
            state = state_of(crew, g)
            _schedule(state, desk, worker)
            scheduled += state.engine[0].entries
            preempted += state.engine[0].preempted
            n = _entries(state, desk, clock)
            if n > 0:
                _price(state, tables_of(crew, g), desk, worker, n, row)
        if row.sequences > 0:
            _end_row(crew, desk, worker, row)
            return True
        for g in range(low, high):
            complete(state_of(crew, g), desk.drafts, desk.got, desk.ended[clerk.ended :])
        if scheduled > 0:
            continue
        if preempted == 0:
            return False
        tries += 1
    return False


@compiled(_nrt=False)
def _schedule(state, desk, worker):
    """Schedule a group's step at the clock's time, and note whom it admits and preempts."""
    e = state.engine[0]
    clerk = desk.clerk[0]
    clock = desk.clock[worker]
    schedule(state)
    for k in range(e.preempted):
        desk.counts[0, state.preempted[k]] += 1
        if desk.counts[2, state.preempted[k]] > 0:
            desk.counts[2, state.preempted[k]] = 0
            clock.brought -= 1
    for k in range(e.admitted):
        note = state.admitted[k]
        if np.isnan(desk.scheduled_s[note.request]):
            desk.scheduled_s[note.request] = clerk.now
            desk.counts[1, note.request] = note.hit
        if clock.role == DECODE:
            desk.admitted[clerk.admitted] = note.request
            clerk.admitted += 1
    if e.preempted + e.admitted > 0:
        clerk.moved = 1


@compiled(_nrt=False)
def _begin_row(row, worker, now):
    row.replica = worker
    row.start_s = now
    row.seconds = -1.0
    row.joules = 0.0
    row.tokens = 0
    row.prefill_tokens = 0
    row.sequences = 0
    row.delivered = 0
    row.lost = 0


@compiled
def _end_row(crew, desk, worker, row):
    """Sums over the groups, and when the step ends."""
    clock = desk.clock[worker]
    clerk = desk.clerk[0]
    low, high = crew.first[worker], crew.first[worker + 1]
    row.waiting = 0
    row.running = 0
    row.free_blocks = 0
    for g in range(low, high):
        e = state_of(crew, g).engine[0]
        row.waiting += e.waiting
        row.running += e.running
        row.free_blocks += e.free
    if high - low > 1:
        row.joules /= high - low
    clock.row = clerk.rows
    clock.end = clerk.now + row.seconds
    clock.step = 1
    clerk.rows += 1
    clerk.made += 1
    clock.made = clerk.made


@compiled(_nrt=False)
def _entries(state, desk, clock):
    """Copy what a step computes, without tokens that were brought; how many entries that leaves."""
    e = state.engine[0]
    n = 0
    for k in range(e.entries):
        entry = state.entries[k]
        tokens, context = entry.tokens, entry.context
        if clock.brought > 0:
            brought = desk.counts[2, entry.request]
            if brought > 0:
                skip = min(brought - context, tokens)
                if skip > 0:
                    tokens -= skip
                    context += skip
                if context + tokens >= brought:
                    desk.counts[2, entry.request] = 0
                    clock.brought -= 1
            if tokens == 0:
                continue
        desk.tokens[n] = tokens
        desk.context[n] = context
        # Of each entry that is left, where it stood: what it samples and whose it is.
        desk.got[n] = k
        n += 1
    return n


@compiled
def _price(state, tables, desk, worker, n, row):
    """Price the group's step that is scheduled into a row, which lasts as long as the longest group's."""
    sampled, decoded, whole = 0, 0, 0
    for k in range(n):
        entry = state.entries[desk.got[k]]
        whole += desk.tokens[k]
        if entry.samples != 0:
            sampled += 1
            if desk.tokens[k] == 1 and desk.produced[entry.request] > 0:
                decoded += 1
    out = desk.out
    price_step(tables, desk.tokens[:n], desk.context[:n], desk.drafts[:n], float(sampled), out)
    host = desk.host[worker]
    launched = host.launch_us * out[3]
    took = 1e-6 * (host.step_us + host.sequence_us * out[4] + host.chunk_token_us * out[5] + launched)
    factor = host.prefill_factor if out[5] != 0.0 else host.kernel_factor
    device = out[0] * factor
    beside = host.overlap * min(device, took)
    seconds = device + took - beside
    if seconds > row.seconds:
        row.seconds = seconds
        row.device_s = device
        row.host_s = took
        row.communication_s = out[1] * factor
    row.joules += out[2]
    row.tokens += whole
    row.prefill_tokens += whole - decoded
    row.sequences += n


@compiled(_nrt=False)
def _deliver(state, desk, worker):
    """The step under way has ended: tokens go to clients."""
    e = state.engine[0]
    clock = desk.clock[worker]
    clerk = desk.clerk[0]
    n = e.entries
    for k in range(n):
        # The numbers of requests: complete() forgets the entries.
        desk.tokens[k] = state.entries[k].request
    ended = complete(state, desk.drafts[:n], desk.got, desk.ended[clerk.ended :])
    delivered, zeros = 0, 0
    before, same = 0.0, 0
    for k in range(n):
        if desk.got[k] < 0:
            continue
        request = desk.tokens[k]
        desk.produced[request] += desk.got[k]
        if desk.counts[3, request] != 0 and clock.role == PREFILL:
            continue
        had = desk.delivered[request]
        new = desk.produced[request] - had
        if had == 0:
            desk.first_s[request] = clerk.now
        else:
            gap = clerk.now - desk.last_s[request]
            if same > 0 and gap == before:
                same += 1
            else:
                if same > 0:
                    _gap(desk, before, same)
                before, same = gap, 1
        zeros += new - 1
        desk.delivered[request] += new
        delivered += new
        desk.last_s[request] = clerk.now
    if same > 0:
        _gap(desk, before, same)
    if zeros > 0:
        _gap(desk, 0.0, zeros)
    for k in range(ended):
        desk.ended_by[clerk.ended + k] = worker
    clerk.ended += ended
    if ended > 0:
        clerk.moved = 1
    desk.steps[clock.row].delivered += delivered


@compiled(_nrt=False)
def _gap(desk, seconds, times):
    clerk = desk.clerk[0]
    desk.gap_s[clerk.gaps] = seconds
    desk.gap_count[clerk.gaps] = times
    clerk.gaps += 1
