"""Step after step of one engine in one compiled function: schedule, price, deliver, note.

It does what :mod:`simulator.serving.cluster` does of a worker between two events from outside, and leaves the same
columns to the last bit. It knows engines by rules (:class:`~simulator.serving.engine.Engine`) and the pricer from
tables without drafts, adapters or copies.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.serving.passes import complete, schedule
from simulator.serving.step_kernel import price_step

__all__ = ["CLOCK", "FULL", "HOST", "IDLE", "PENDING", "STEP", "Desk", "advance_engine"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PENDING: Final = 0
"""A step is under way that ends after the horizon."""
IDLE: Final = 1
"""Nothing can run until a request comes."""
FULL: Final = 2
"""The buffers have to be emptied first."""
TRIES: Final = 64
"""As the workers of the loop have it: preemptions in a row without a step."""

CLOCK: Final = np.dtype(
    [
        ("now", "f8"),
        ("end", "f8"),
        ("step", "i8"),
        ("rows", "i8"),
        ("gaps", "i8"),
        ("ended", "i8"),
        ("worker", "i8"),
    ]
)
"""Time of the last event; end of the step under way (``step`` 1); what stands in the buffers; the worker's number."""
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
    """What a worker writes on. Of all requests: the first four; of this worker: the rest."""

    first_s: Floats
    last_s: Floats
    scheduled_s: Floats
    counts: Ints
    """Delivered tokens, preemptions, cached prompt tokens, last worker: a row each, a column a request."""
    host: Any
    clock: Any
    steps: Any
    gap_s: Floats
    gap_count: Ints
    ended: Ints
    tokens: Ints
    context: Ints
    drafts: Ints
    got: Ints
    out: Floats


@compiled
def advance_engine(state, tables, desk, horizon):
    """Run until the horizon (seconds; steps that end on it are completed), or as far as the buffers go."""
    clock = desk.clock[0]
    while True:
        if clock.step != 0:
            if clock.end > horizon:
                return PENDING
            if clock.gaps + len(desk.tokens) >= len(desk.gap_s):
                return FULL
            clock.now = clock.end
            clock.step = 0
            _deliver(state, desk)
            if clock.now >= horizon:
                return IDLE
        if clock.rows >= len(desk.steps):
            return FULL
        if not _begin(state, desk):
            return IDLE
        _price(state, tables, desk)


@compiled(_nrt=False)
def _begin(state, desk):
    """Schedule a step at the clock's time; whether there is one."""
    e = state.engine[0]
    clock = desk.clock[0]
    if e.running + e.waiting == 0:
        return False
    tries = 0
    while True:
        schedule(state)
        for k in range(e.preempted):
            desk.counts[1, state.preempted[k]] += 1
        for k in range(e.admitted):
            note = state.admitted[k]
            if np.isnan(desk.scheduled_s[note.request]):
                desk.scheduled_s[note.request] = clock.now
                desk.counts[2, note.request] = note.hit
        if e.entries > 0:
            break
        some = e.preempted > 0
        complete(state, desk.drafts, desk.got, desk.ended[clock.ended :])
        tries += 1
        if not some or tries >= TRIES:
            return False
    return True


@compiled
def _price(state, tables, desk):
    """Price the step that is scheduled, and write its row."""
    e = state.engine[0]
    clock = desk.clock[0]
    n = e.entries
    sampled, decoded, whole = 0, 0, 0
    for k in range(n):
        entry = state.entries[k]
        desk.tokens[k] = entry.tokens
        desk.context[k] = entry.context
        whole += entry.tokens
        if entry.samples != 0:
            sampled += 1
            if entry.tokens == 1 and desk.counts[0, entry.request] > 0:
                decoded += 1
    out = desk.out
    price_step(tables, desk.tokens[:n], desk.context[:n], desk.drafts[:n], float(sampled), out)
    host = desk.host[0]
    launched = host.launch_us * out[3]
    took = 1e-6 * (host.step_us + host.sequence_us * out[4] + host.chunk_token_us * out[5] + launched)
    factor = host.prefill_factor if out[5] != 0.0 else host.kernel_factor
    device = out[0] * factor
    beside = host.overlap * min(device, took)
    row = desk.steps[clock.rows]
    row.replica = clock.worker
    row.start_s = clock.now
    row.seconds = device + took - beside
    row.device_s = device
    row.host_s = took
    row.communication_s = out[1] * factor
    row.joules = out[2]
    row.tokens = whole
    row.prefill_tokens = whole - decoded
    row.sequences = n
    row.waiting = e.waiting
    row.running = e.running
    row.free_blocks = e.free
    row.delivered = 0
    row.lost = 0
    clock.end = clock.now + row.seconds
    clock.step = 1


@compiled(_nrt=False)
def _deliver(state, desk):
    """The step under way has ended: tokens go to clients."""
    e = state.engine[0]
    clock = desk.clock[0]
    n = e.entries
    for k in range(n):
        # The numbers of requests: complete() forgets the entries.
        desk.tokens[k] = state.entries[k].request
    ended = complete(state, desk.drafts[:n], desk.got, desk.ended[clock.ended :])
    delivered = 0
    before, same = 0.0, 0
    for k in range(n):
        if desk.got[k] < 0:
            continue
        request = desk.tokens[k]
        if desk.counts[0, request] == 0:
            desk.first_s[request] = clock.now
        else:
            gap = clock.now - desk.last_s[request]
            if same > 0 and gap == before:
                same += 1
            else:
                if same > 0:
                    desk.gap_s[clock.gaps] = before
                    desk.gap_count[clock.gaps] = same
                    clock.gaps += 1
                before, same = gap, 1
        desk.counts[0, request] += desk.got[k]
        delivered += desk.got[k]
        desk.last_s[request] = clock.now
    if same > 0:
        desk.gap_s[clock.gaps] = before
        desk.gap_count[clock.gaps] = same
        clock.gaps += 1
    for k in range(ended):
        desk.counts[3, desk.ended[clock.ended + k]] = clock.worker
    clock.ended += ended
    desk.steps[clock.rows].delivered = delivered
    clock.rows += 1
