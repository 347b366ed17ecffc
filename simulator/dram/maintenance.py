"""Refreshes and the row policy: what the controller asks for by itself, through the priority queue."""

# A kernel reads as the specification does, rule by rule; its conditions stay apart on purpose.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numpy import uint64 as u

from hw_configs.compiled import compiled, inlined
from simulator.dram.bank_lists import legal
from simulator.dram.channel_tables import CAPPED, TIMEOUT
from simulator.dram.machine import PREPB, REFPB
from simulator.dram.state import INF

__all__ = ["close_rows", "first_timer", "plan_row_policy", "send_refreshes", "wants_to_close"]

_rare = compiled(_nrt=False)
"""A step that is seldom taken: called, not put into its caller."""


@inlined
def _ask(c, v, k, command, target):
    """Put a command at the end of the priority queue; the caller has looked for room."""
    tail = (v.priority_head + v.priority_count) % c.priority_queue
    k.priority_command[u(tail)] = command
    k.priority_object[u(tail)] = target
    v.priority_count += 1


@inlined
def first_timer(c, v, k, now):
    """When the next refresh is due."""
    if c.paired == 1:
        return v.paired_next if v.paired_pending == 0 else now + 1
    soonest = INF
    for i in range(c.timers):
        soonest = min(soonest, k.timer_next[u(i)])
    return soonest


@_rare
def send_refreshes(c, v, w, k, now):
    """Ask for the refreshes that are due. False: the priority queue is full, refreshes cannot keep up."""
    arrived = v.priority_count
    if c.paired == 1:
        _send_pair(c, v, w, k, now)
    else:
        w.timer = INF
        for i in range(c.timers):
            if k.timer_next[u(i)] == now:
                if v.priority_count >= c.priority_queue:
                    return False
                start = k.timer_start[u(i)]
                _ask(c, v, k, k.timer_command[u(i)], k.timer_object[u(start + k.timer_turn[u(i)])])
                k.timer_next[u(i)] += k.timer_period[u(i)]
                k.timer_turn[u(i)] += 1
                if start + k.timer_turn[u(i)] == k.timer_start[u(i + 1)]:
                    k.timer_turn[u(i)] = 0
            w.timer = min(w.timer, k.timer_next[u(i)])
    if arrived == 0:
        w.priority_dirty = True
    v.priority_occupied -= (v.priority_count - arrived) * now
    return True


@inlined
def _send_pair(c, v, w, k, now):
    """HBM3: the same bank of all pseudo-channels is refreshed together, one asked for per tick."""
    if v.paired_pending == 0 and now >= v.paired_next:
        allowed = now
        for pc in range(c.paired_pcs):
            allowed = max(allowed, k.paired_allowed[u(pc * c.paired_sids + v.paired_sid)])
        if allowed > now:
            v.paired_next = allowed
        else:
            v.paired_flat = v.paired_bank
            v.paired_set = v.paired_sid
            v.paired_pending = c.paired_pcs
            v.paired_bank += 1
            if v.paired_bank == c.paired_banks:
                v.paired_bank = 0
                v.paired_sid = (v.paired_sid + 1) % c.paired_sids
            v.paired_next += c.paired_period
    if v.paired_pending > 0 and v.priority_count < c.priority_queue:
        pc = c.paired_pcs - v.paired_pending
        which = pc * c.paired_sids + v.paired_set
        _ask(c, v, k, REFPB, which * c.paired_banks + v.paired_flat)
        v.paired_pending -= 1
        k.paired_count[u(which)] += 1
        if k.paired_count[u(which)] == c.paired_banks:
            k.paired_count[u(which)] = 0
            k.paired_allowed[u(which)] = now + c.paired_recovery
    w.timer = now + 1 if v.paired_pending > 0 else max(v.paired_next, now + 1)


@inlined
def _closes_at(c, v, t, q, b):
    """When the row policy wants a bank closed; INF: not as things stand."""
    bank = q.bank[u(b)]
    if bank.injected != 0:
        return INF
    if c.policy == CAPPED:
        return legal(c, t, PREPB, b) if v.due > 0 and bank.columns >= c.cap else INF
    if bank.state == 1 and bank.hit[u(0)] < 0 and bank.hit[u(1)] < 0 and bank.active == 0:
        return max(legal(c, t, PREPB, b), bank.last + c.timeout)
    return INF


@inlined
def wants_to_close(c, v):
    """Whether the row policy may want a bank closed, now or later."""
    return c.policy == TIMEOUT or v.due > 0


@_rare
def close_rows(c, v, w, t, q, k, now):
    """Ask for the precharges that the row policy wants in this tick."""
    before = v.priority_count
    for b in range(c.banks):
        if _closes_at(c, v, t, q, b) <= now and v.priority_count < c.priority_queue:
            _ask(c, v, k, PREPB, b)
            q.bank[u(b)].injected = 1
            if c.policy == CAPPED:
                v.due -= 1
    if before == 0:
        w.priority_dirty = True
    v.priority_occupied -= (v.priority_count - before) * now
    w.policy_event = INF


@_rare
def plan_row_policy(c, v, w, t, q, now):
    """Find when the row policy wants to close a row next."""
    w.policy_event = INF
    for b in range(c.banks):
        w.policy_event = min(w.policy_event, max(_closes_at(c, v, t, q, b), now + 1))
