"""A step of continuous batching: what runs goes on, then what waits is admitted.

The rules are those of vLLM 0.32.0's ``vllm/v1/core/sched/scheduler.py``, which other policies share in large parts;
where they differ they say so in :class:`simulator.serving.rules.Rules`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from hw_configs.compiled import compiled
from simulator.serving.blocks import demand, fits, look_up, release, rewind, take
from simulator.serving.line import pull, push_back, start_running, stop_running, take_out
from simulator.serving.records import AWAY, RUNNING
from simulator.serving.rules import Reserve

__all__ = ["complete", "drop", "schedule"]

_KNOWN = int(Reserve.KNOWN)
_WHOLE = int(Reserve.WHOLE)
_ALL, _PROMPTS, _ANSWERS = 0, 1, 2


@compiled(_nrt=False)
def schedule(s):
    """Decide a step: its entries stand in ``entries``, preempted and admitted requests in theirs."""
    e = s.engine[0]
    e.tokens_left = e.budget
    e.inputs_left = e.budget
    e.entries = 0
    e.preempted = 0
    e.admitted = 0
    inside = e.running + e.waiting
    e.cap = e.threshold if inside > 1 else 0
    if e.cap > 0 and e.adaptive != 0:
        e.cap = max(e.cap, e.budget // inside)
    idle = e.running == 0
    _running_pass(s, _PROMPTS if e.alone != 0 else _ALL)
    if e.preempted == 0 and (idle or e.gate == 0):
        _waiting_pass(s)
    if e.alone != 0 and e.entries == 0 and e.preempted == 0:
        _running_pass(s, _ANSWERS)
    for k in range(e.entries):
        q = s.requests[s.entries[k].request]
        q.computed += s.entries[k].tokens
        q.prefill = q.computed < q.known


@compiled(_nrt=False)
def _room(e):
    return min(e.tokens_left, e.inputs_left - e.draft_slots)


@compiled(_nrt=False)
def _capped(e, n):
    return e.cap if 0 < e.cap < n else n


@compiled(_nrt=False)
def _top(e, tokens):
    """Tokens for which there must be blocks when ``tokens`` are computed."""
    return min(tokens + e.lookahead, e.max_len)


@compiled(_nrt=False)
def _put(s, r, n, first, padded):
    """Schedule a request with ``n`` tokens."""
    e = s.engine[0]
    q = s.requests[r]
    entry = s.entries[e.entries]
    entry.request = r
    entry.tokens = n
    entry.context = q.computed
    entry.drafts = max(0, n + q.computed - q.known)
    entry.samples = q.computed + n >= q.known
    entry.padded = padded
    entry.first = first
    q.entry = e.entries
    q.drafts = 0
    e.entries += 1
    e.tokens_left -= n
    e.inputs_left -= n + e.draft_slots


@compiled(_nrt=False)
def _running_pass(s, whom):
    e = s.engine[0]
    place = 0
    while place < e.running and e.tokens_left > 0 and e.inputs_left > e.draft_slots:
        r = s.running[place]
        q = s.requests[r]
        if whom != _ALL and (q.outputs > 0 and q.known - q.computed == 1) != (whom == _ANSWERS):
            place += 1
            continue
        n = min(_capped(e, q.known + q.drafts - q.computed), _room(e), e.max_len - q.computed - 1)
        top = _top(e, q.computed + n)
        while q.state == RUNNING and not fits(s, r, q.computed, top, 0, 0, 0):
            victim = _victim(s)
            if _unschedule(s, s.running[victim]) and victim < place:
                place -= 1
            _preempt(s, victim)
        if q.state != RUNNING:
            break
        first = q.held
        take(s, r, q.computed, top, 0, min(q.computed + n, q.known))
        _put(s, r, n, first, 0)
        place += 1


@compiled(_nrt=False)
def _victim(s):
    """Place in the running list of the request to preempt."""
    e = s.engine[0]
    worst = e.running - 1
    if e.priority != 0:
        worst = 0
        for k in range(1, e.running):
            a = s.requests[s.running[k]]
            b = s.requests[s.running[worst]]
            if a.order > b.order or (a.order == b.order and a.arrival > b.arrival):
                worst = k
    return worst


@compiled(_nrt=False)
def _unschedule(s, r):
    """Take a victim out of the step, if it stands there already; its budget comes back."""
    e = s.engine[0]
    k = s.requests[r].entry
    if k < 0 or k >= e.entries or s.entries[k].request != r:
        return False
    e.tokens_left += s.entries[k].tokens
    e.inputs_left += s.entries[k].tokens + e.draft_slots
    e.entries -= 1
    for j in range(k, e.entries):
        s.entries[j] = s.entries[j + 1]
        s.requests[s.entries[j].request].entry = j
    return True


@compiled(_nrt=False)
def _preempt(s, place):
    """Send a running request back to the queue, its blocks given up or, with ``swap``, moved to a slower memory."""
    e = s.engine[0]
    r = s.running[place]
    q = s.requests[r]
    moved = demand(s, q.computed, q.computed) if e.swap != 0 else 0
    q.kept = 0
    if 0 < moved <= e.host_free:
        q.kept = q.computed
        e.host_free -= moved
        e.host_out += moved
        e.host_states_out += 1
        q.tier = 0
    elif 0 < moved <= e.drive_free:
        q.kept = q.computed
        e.drive_free -= moved
        e.drive_out += moved
        e.drive_states_out += 1
        q.tier = 1
    release(s, r)
    stop_running(s, place)
    q.computed = 0
    q.drafts = 0
    q.resumed = 1
    q.entry = -1
    push_back(s, r)
    s.preempted[e.preempted] = r
    e.preempted += 1


@compiled(_nrt=False)
def _quiet(s):
    """Whether none of the requests that run in this step computed a part of its prompt when it ran last."""
    inside = 0
    for k in range(s.engine[0].entries):
        inside += s.requests[s.entries[k].request].prefill
    return inside == 0


@compiled(_nrt=False)
def _promised(s):
    """Blocks that running requests do not hold yet and come to hold by their last token."""
    total = 0
    for k in range(s.engine[0].running):
        q = s.requests[s.running[k]]
        total += max(0, q.peak - q.held)
    return total


@compiled(_nrt=False)
def _whole(s, r):
    """Blocks that must be there before a request is admitted, hits included; 0: no more than it takes."""
    e = s.engine[0]
    q = s.requests[r]
    if e.reserve == _WHOLE:
        return q.peak + _promised(s)
    if e.reserve == _KNOWN:
        known = min(q.known, e.max_len)
        return demand(s, known - 1, known) if e.paged == 0 else -(-known // e.block)
    return 0


@compiled(_nrt=False)
def _waiting_pass(s):
    e = s.engine[0]
    ran = e.entries
    quiet = _quiet(s) if e.drafts > 0 else False
    while e.tokens_left > 0 and e.waiting > 0 and e.inputs_left > e.draft_slots and e.running < e.max_seqs:
        r = s.queue[0]
        q = s.requests[r]
        hits = look_up(s, r) if q.kept == 0 else 0
        base = hits * e.block if q.kept == 0 else q.kept
        n = q.known - base
        padded = 0
        if e.drafts > 0 and n == 1 and quiet and (ran > 0 or base > 0) and base + e.drafts + 2 <= e.max_len:
            if 1 + e.drafts > _room(e):
                break
            n = 1 + e.drafts
            padded = 1
        n = _capped(e, n)
        if e.chunked == 0 and n > _room(e):
            break
        n = min(n, _room(e))
        top = _top(e, base + n)
        if e.take == _WHOLE:
            top = max(top, _top(e, q.prompt + q.end - 1 + e.drafts))
        elif e.take == _KNOWN:
            top = max(top, _top(e, q.known))
        watermark = e.watermark if e.running > 0 else 0
        if not fits(s, r, base, top, hits, watermark, _whole(s, r)):
            break
        _admit(s, r, base, hits)
        take(s, r, base, top, hits, min(base + n, q.known))
        _put(s, r, n, 0, padded)


@compiled(_nrt=False)
def _admit(s, r, base, hits):
    """Move the head of the queue to the end of the running list, with ``base`` tokens computed."""
    e = s.engine[0]
    q = s.requests[r]
    note = s.admitted[e.admitted]
    note.request = r
    note.hit = hits * e.block
    note.resumed = q.resumed
    e.admitted += 1
    take_out(s, 0)
    start_running(s, r)
    if q.kept > 0:
        rewind(s, r)
        moved = _leave_tier(s, r)
        if q.tier == 0:
            e.host_in += moved
            e.host_states_in += 1
        else:
            e.drive_in += moved
            e.drive_states_in += 1
        q.kept = 0
    q.computed = base
    q.entered = hits


@compiled(_nrt=False)
def _leave_tier(s, r):
    """Free the places of a request in the slower memory that it was moved to; returns how many."""
    e = s.engine[0]
    q = s.requests[r]
    moved = demand(s, q.kept, q.kept)
    if q.tier == 0:
        e.host_free += moved
    else:
        e.drive_free += moved
    return moved


@compiled(_nrt=False)
def complete(s, accepted, got, finished):
    """The step has run. Fills ``got`` (tokens of each entry, -1: none) and ``finished``; returns how many ended."""
    e = s.engine[0]
    ended = 0
    for k in range(e.entries):
        got[k] = -1
        entry = s.entries[k]
        if entry.request < 0:
            continue
        q = s.requests[entry.request]
        q.entry = -1
        right = 0 if entry.padded != 0 else accepted[k]
        q.computed -= entry.drafts - right
        if entry.samples == 0:
            continue
        new = min(1 + right, q.end - q.outputs, e.max_len - q.known)
        q.known += new
        q.outputs += new
        got[k] = new
        if q.outputs >= q.end or q.known >= e.max_len:
            release(s, entry.request)
            q.state = AWAY
            finished[ended] = entry.request
            ended += 1
        elif q.prefill == 0:
            q.drafts = e.drafts
    e.entries = 0
    if ended > 0:
        _sweep(s)
    return ended


@compiled(_nrt=False)
def _sweep(s):
    """Take what has ended out of the running list."""
    e = s.engine[0]
    kept = 0
    for k in range(e.running):
        r = s.running[k]
        if s.requests[r].state == RUNNING:
            s.running[kept] = r
            kept += 1
        else:
            s.rows[e.rows] = s.requests[r].row
            e.rows += 1
    e.running = kept


@compiled(_nrt=False)
def drop(s, r):
    """Forget a request wherever it stands; its part in a step that runs is void."""
    e = s.engine[0]
    q = s.requests[r]
    if q.state == RUNNING:
        place = 0
        while s.running[place] != r:
            place += 1
        release(s, r)
        stop_running(s, place)
        if 0 <= q.entry < e.entries and s.entries[q.entry].request == r:
            s.entries[q.entry].request = -1
    elif q.state != AWAY:
        pull(s, r)
        if q.kept > 0:
            _leave_tier(s, r)
    q.kept = 0
    q.entry = -1
