"""Kernel: what stays, what leaves and where each tensor lies, for operators in one order: beams over layouts.

A layout is what lies where in the scratchpad before an operator. What the operator lacks is put down piece by piece,
largest first, at every edge of a hole or of something that may leave; whatever lies there leaves. Of all layouts so
made the best go on. A layout is judged by what it has moved so far and by what its tensors will cost: each either its
price (fetched again, and written if it is not) or the room that it takes until its next use, whichever is less. The
price of room at each step is the dual of the programme of residency (:mod:`mapping.scheduling.residency_runs`), so that
by bytes the judgement is the Lagrangian bound of what is still to come, and only addresses are left to chance.

A whole plan comes from one beam over all steps. It is then improved window by window: a beam over some steps starts
from what lies there before them, and what the plan keeps across their end it has to leave in its place or pay for.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled, inlined

__all__ = ["MOST_NEEDED", "AddressTables", "cost_of_layouts", "improve_layouts", "search_layouts"]

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

MOST_NEEDED: Final = 60
"""Pieces of one operator that the search can put down: bits of a word."""

_CLEAR: Final = -2
"""A place that stands for: everything leaves, and the piece lies at the bottom."""
_PUT: Final = 1
_HELD: Final = 2
"""Marks of a block while an operator that needs it is served: put down for it, or there before."""


class AddressTables(NamedTuple):
    """An order as the kernel reads it; sizes, offsets and prices in units.

    Entries ``need_at[s]`` to ``need_at[s + 1]`` are the pieces of step s, largest first: the tensor ``need``, its
    ``next_use`` (the number of steps when there is none), the ``price`` of dropping it before that when it was never
    written, the ``credit`` of it having been written, whether the operator ``made`` it, and ``over``, the place in the
    step's list of what it is written over (-1: nothing). ``potential[s]``: a unit of room from step s to the end.
    """

    need_at: Ints
    need: Ints
    next_use: Ints
    price: Reals
    credit: Reals
    made: Ints
    over: Ints
    size: Ints
    copy_free: Ints
    potential: Reals


class _Layouts(NamedTuple):
    """Two generations of layouts, ``[generation, state, block]`` by rising offset, and what each has cost."""

    what: Any
    at: Any
    until: Any
    price: Any
    written: Any
    mark: Any
    count: Any
    pending: Any
    paid: Any
    moved: Any
    value: Any


class _Offers(NamedTuple):
    """Places offered for the next pieces of all layouts: the judgement, whose it is, the offset, the layout's hash."""

    value: Any
    state: Any
    place: Any
    hash: Any


@inlined
def _mix(t: Any, at: Any) -> Any:
    x = (
        np.uint64(t) * np.uint64(0x9E3779B97F4A7C15)
        + np.uint64(at) * np.uint64(0xC2B2AE3D27D4EB4F)
        + np.uint64(1)
    )
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    return x


@compiled
def _new_layouts(width, most):  # type: ignore[no-untyped-def]
    return _Layouts(
        np.zeros((2, width, most), np.int64), np.zeros((2, width, most), np.int64),
        np.zeros((2, width, most), np.int64), np.zeros((2, width, most)), np.zeros((2, width, most), np.int64),
        np.zeros((2, width, most), np.int64), np.zeros((2, width), np.int64), np.zeros((2, width), np.int64),
        np.zeros((2, width)), np.zeros((2, width), np.int64), np.zeros((2, width)),
    )  # fmt: skip


@inlined
def _entry(g, s, t):  # type: ignore[no-untyped-def]
    """The entry of a tensor at a step, or -1."""
    for j in range(g.need_at[s], g.need_at[s + 1]):
        if g.need[j] == t:
            return j
    return -1


@inlined
def _burden(g, s, end, goal, t, at, until, price):  # type: ignore[no-untyped-def]
    """What a block will cost from a step on: its room or its price. Across the window's end only the goal counts."""
    if until >= end and end < len(g.need_at) - 1:
        return 0.0 if goal[t] == at else price
    return min(g.size[t] * (g.potential[s] - g.potential[until]), price)


@inlined
def _dies(g, s, t):  # type: ignore[no-untyped-def]
    """Whether a tensor is needed at a step for the last time, and its bytes by nobody else."""
    j = _entry(g, s, t)
    dies = j >= 0 and g.next_use[j] >= len(g.need_at) - 1
    for made in range(g.need_at[s], g.need_at[s + 1]):
        if g.over[made] == j - g.need_at[s]:
            dies = False
    return dies


@compiled
def _begin_step(g, x, now, states, s, end, goal):  # type: ignore[no-untyped-def]
    """What each layout lacks, and its value."""
    low, high = g.need_at[s], g.need_at[s + 1]
    for w in range(states):
        missing = np.int64(0)
        for j in range(low, high):
            if g.over[j] < 0:
                missing |= np.int64(1) << (j - low)
        burden = 0.0
        for b in range(x.count[now, w]):
            t = x.what[now, w, b]
            x.mark[now, w, b] = 0
            if x.until[now, w, b] == s:
                missing &= ~(np.int64(1) << (_entry(g, s, t) - low))
                x.mark[now, w, b] = _HELD
            else:
                burden += _burden(g, s, end, goal, t, x.at[now, w, b], x.until[now, w, b], x.price[now, w, b])
        x.pending[now, w] = missing
        x.value[now, w] = x.paid[now, w] + burden


@inlined
def _next_piece(pending):  # type: ignore[no-untyped-def]
    bit = 0
    while (pending >> bit) & 1 == 0:
        bit += 1
    return bit


@compiled
def _offer_places(g, x, now, w, s, end, goal, capacity, branches, style, offers, found):  # type: ignore[no-untyped-def]
    """The best places of the next piece of one layout, appended to the offers; their number then.

    ``style``: what a hole left beside it costs, what a neighbour of another stay costs, and how much chance counts.
    """
    what, at, until, mark = x.what[now, w], x.at[now, w], x.until[now, w], x.mark[now, w]
    count, pending = x.count[now, w], x.pending[now, w]
    j = g.need_at[s] + _next_piece(pending)
    last = (pending & (pending - 1)) == 0
    t = g.need[j]
    size, mine = g.size[t], g.next_use[j]
    all_hash = np.uint64(0)
    for b in range(count):
        # A step's last piece: what is read no more makes no difference from here on.
        if not (last and mark[b] != 0 and _dies(g, s, what[b])):
            all_hash ^= _mix(what[b], at[b])
    begin = found
    for side in range(2):
        first = 0
        for e in range(-1, count):
            if side == 0:
                place = np.int64(0) if e < 0 else at[e] + g.size[what[e]]
            else:
                place = at[e + 1] - size if e + 1 < count else capacity - size
            if place < 0 or place + size > capacity:
                continue
            while first < count and at[first] + g.size[what[first]] <= place:
                first += 1
            b, cost, free, hash_of = first, 0.0, True, all_hash
            while b < count and at[b] < place + size:
                if mark[b] == _PUT:
                    free = False
                    break
                price = x.price[now, w, b]
                cost += price
                if mark[b] == 0:
                    cost -= _burden(g, s, end, goal, what[b], at[b], until[b], price)
                if not (last and mark[b] != 0 and _dies(g, s, what[b])):
                    hash_of ^= _mix(what[b], at[b])
                b += 1
            if not free:
                continue
            below = place - (at[first - 1] + g.size[what[first - 1]] if first > 0 else 0)
            above = (at[b] if b < count else capacity) - place - size
            rough = style[0] * ((below > 0) + (above > 0))
            if style[1] > 0:
                if first > 0 and below == 0:
                    rough += style[1] * abs(np.log((until[first - 1] - s + 1.0) / (mine - s + 1.0)))
                if b < count and above == 0:
                    rough += style[1] * abs(np.log((until[b] - s + 1.0) / (mine - s + 1.0)))
            score = x.value[now, w] + cost + rough + style[2] * np.random.random()
            if not (last and mine >= len(g.need_at) - 1):
                hash_of ^= _mix(t, place)
            p = found
            if found - begin == branches:
                if score >= offers.value[found - 1]:
                    continue
                p = found - 1
            else:
                found += 1
            while p > begin and offers.value[p - 1] > score:
                offers.value[p] = offers.value[p - 1]
                offers.place[p] = offers.place[p - 1]
                offers.hash[p] = offers.hash[p - 1]
                p -= 1
            offers.value[p] = score
            offers.place[p] = place
            offers.hash[p] = hash_of
    offers.state[begin:found] = w
    return found


@compiled
def _offer_all(g, x, now, states, s, end, goal, capacity, branches, style, offers):  # type: ignore[no-untyped-def]
    """(offers, whether any layout still lacks a piece) of all layouts."""
    unfinished, found = False, 0
    for w in range(states):
        if x.pending[now, w] != 0:
            unfinished = True
            found = _offer_places(g, x, now, w, s, end, goal, capacity, branches, style, offers, found)
            continue
        code = np.uint64(0)
        for b in range(x.count[now, w]):
            if not (x.mark[now, w, b] != 0 and _dies(g, s, x.what[now, w, b])):
                code ^= _mix(x.what[now, w, b], x.at[now, w, b])
        offers.value[found] = x.value[now, w]
        offers.state[found] = w
        offers.place[found] = -1
        offers.hash[found] = code
        found += 1
    if unfinished and found == 0:
        # Too scattered: everything leaves, and the pieces are put down anew, from the ends inwards.
        for w in range(states):
            offers.value[w] = x.value[now, w]
            offers.state[w] = w
            offers.place[w] = _CLEAR
            offers.hash[w] = w
        found = states
    return found, unfinished


@inlined
def _copy_block(x, now, w, b, other, v, to):  # type: ignore[no-untyped-def]
    x.what[other, v, to] = x.what[now, w, b]
    x.at[other, v, to] = x.at[now, w, b]
    x.until[other, v, to] = x.until[now, w, b]
    x.price[other, v, to] = x.price[now, w, b]
    x.written[other, v, to] = x.written[now, w, b]
    x.mark[other, v, to] = x.mark[now, w, b]


@inlined
def _put_block(g, x, other, v, to, j, s, place):  # type: ignore[no-untyped-def]
    t = g.need[j]
    x.what[other, v, to] = t
    x.at[other, v, to] = place
    x.until[other, v, to] = s
    x.price[other, v, to] = g.size[t]
    # What is fetched has a copy off-chip.
    x.written[other, v, to] = 1 if g.made[j] == 0 else g.copy_free[t]
    x.mark[other, v, to] = _PUT


@compiled
def _take(g, x, now, w, other, v, s, end, goal, place):  # type: ignore[no-untyped-def]
    """The layout after an offer, as state ``v`` of the other generation; the tensor put down, or -1."""
    k, low = x.count[now, w], g.need_at[s]
    x.paid[other, v] = x.paid[now, w]
    x.moved[other, v] = x.moved[now, w]
    x.value[other, v] = x.value[now, w]
    x.pending[other, v] = x.pending[now, w]
    if place == -1:
        for b in range(k):
            _copy_block(x, now, w, b, other, v, b)
        x.count[other, v] = k
        return -1
    clear = place == _CLEAR
    begin = np.int64(0) if clear else place
    bit = _next_piece(x.pending[now, w])
    j = low + bit
    until = begin + g.size[g.need[j]]
    x.pending[other, v] &= ~(np.int64(1) << bit)
    to, put = 0, False
    for b in range(k):
        t, at, mark = x.what[now, w, b], x.at[now, w, b], x.mark[now, w, b]
        if clear or (at < until and begin < at + g.size[t]):
            if mark != 0:
                x.pending[other, v] |= np.int64(1) << (_entry(g, s, t) - low)
            if mark != _PUT:
                # What was put down for this very operator goes as if it had not been.
                price = x.price[now, w, b]
                x.paid[other, v] += price
                x.value[other, v] += price
                if mark == 0:
                    x.value[other, v] -= _burden(g, s, end, goal, t, at, x.until[now, w, b], price)
                x.moved[other, v] += g.size[t] * (1 if x.written[now, w, b] != 0 else 2)
            continue
        if not put and at >= until:
            _put_block(g, x, other, v, to, j, s, begin)
            to += 1
            put = True
        _copy_block(x, now, w, b, other, v, to)
        to += 1
    if not put:
        _put_block(g, x, other, v, to, j, s, begin)
        to += 1
    x.count[other, v] = to
    return g.need[j]


@compiled
def _end_step(g, x, now, states, s):  # type: ignore[no-untyped-def]
    """The operator has run: what is read no more leaves, the rest waits for its next use."""
    n = len(g.need_at) - 1
    for w in range(states):
        to = 0
        for b in range(x.count[now, w]):
            if x.mark[now, w, b] != 0:
                j = _entry(g, s, x.what[now, w, b])
                for made in range(g.need_at[s], g.need_at[s + 1]):
                    if g.over[made] == j - g.need_at[s]:
                        # Written over: the bytes are the output's from here on.
                        j = made
                        x.what[now, w, b] = g.need[j]
                        x.written[now, w, b] = g.copy_free[g.need[j]]
                        break
                if g.next_use[j] >= n:
                    continue
                x.until[now, w, b] = g.next_use[j]
                if x.written[now, w, b] != 0:
                    x.price[now, w, b] = g.size[g.need[j]]
                    x.paid[now, w] += g.credit[j]
                else:
                    x.price[now, w, b] = g.price[j]
            _copy_block(x, now, w, b, now, w, to)
            to += 1
        x.count[now, w] = to


@compiled
def _beam(g, x, begin, end, goal, capacity, width, branches, style, stop, offers, seen, trail):  # type: ignore[no-untyped-def]
    """(state, layers) of the best plan of steps ``begin`` to ``end`` from state 0 of generation 0; state -1: stopped.

    ``trail``: (parents, places) layer by layer, each state's parent in the layer before and the place of its piece.
    """
    parents, places = trail
    states, layer, now = 1, 0, 0
    table = len(seen)
    for s in range(begin, end):
        if stop[0] != 0:
            return -1, layer
        _begin_step(g, x, now, states, s, end, goal)
        while True:
            found, unfinished = _offer_all(g, x, now, states, s, end, goal, capacity, branches, style, offers)
            if not unfinished:
                break
            by_value = np.argsort(offers.value[:found])
            seen[:] = 0
            other, kept = 1 - now, 0
            for c in by_value:
                code = offers.hash[c] | np.uint64(1)
                slot = np.int64((code >> np.uint64(20)) & np.uint64(table - 1))
                while seen[slot] != 0 and seen[slot] != code:
                    slot = (slot + 1) & (table - 1)
                if seen[slot] == code:
                    continue
                seen[slot] = code
                parents[layer, kept] = offers.state[c]
                places[layer, kept] = offers.place[c]
                _take(g, x, now, offers.state[c], other, kept, s, end, goal, offers.place[c])
                kept += 1
                if kept == width:
                    break
            states, now = kept, other
            layer += 1
        _end_step(g, x, now, states, s)
    best, least = 0, np.int64(1) << 62
    for w in range(states):
        cost = x.moved[now, w]
        for b in range(x.count[now, w]):
            # What cannot be left where the plan goes on with it leaves here.
            if goal[x.what[now, w, b]] != x.at[now, w, b]:
                cost += g.size[x.what[now, w, b]] * (1 if x.written[now, w, b] != 0 else 2)
        if cost < least:
            best, least = w, cost
    return best, layer


@compiled
def _trace(g, x, begin, end, goal, trail, state, layers, last_entry, at, kept):  # type: ignore[no-untyped-def]
    """Write the plan of a beam into ``at`` (offset per entry) and ``kept`` (whether it stays until its next use).

    State 0 of generation 0 of ``x`` is what lies there at the beginning; ``last_entry``: of each tensor in it.
    """
    parents, places = trail
    line = np.empty(layers, np.int64)
    for layer in range(layers - 1, -1, -1):
        line[layer] = places[layer, state]
        state = parents[layer, state]
    now, turn, n = 0, 0, len(g.need_at) - 1
    for s in range(begin, end):
        low, high = g.need_at[s], g.need_at[s + 1]
        _begin_step(g, x, now, 1, s, end, goal)
        while x.pending[now, 0] != 0:
            if line[turn] != -1:
                _take(g, x, now, 0, 1 - now, 0, s, end, goal, line[turn])
                now = 1 - now
            turn += 1
        # Other states were not served yet when this one was.
        while turn < layers and line[turn] == -1:
            turn += 1
        for b in range(x.count[now, 0]):
            if x.mark[now, 0, b] != 0:
                j = _entry(g, s, x.what[now, 0, b])
                at[j] = x.at[now, 0, b]
                if x.mark[now, 0, b] == _HELD:
                    kept[last_entry[x.what[now, 0, b]]] = 1
        for j in range(low, high):
            if g.over[j] >= 0:
                at[j] = at[low + g.over[j]]
            kept[j] = 0
            last_entry[g.need[j]] = j
        _end_step(g, x, now, 1, s)
    for b in range(x.count[now, 0]):
        t = x.what[now, 0, b]
        if goal[t] == x.at[now, 0, b] and x.until[now, 0, b] < n:
            kept[last_entry[t]] = 1


@compiled
def _workspace(width, branches, most, layers):  # type: ignore[no-untyped-def]
    table = 1
    while table < 4 * width:
        table *= 2
    room = width * max(branches, 1)
    offers = _Offers(
        np.zeros(room), np.zeros(room, np.int64), np.zeros(room, np.int64), np.zeros(room, np.uint64)
    )
    trail = (np.full((layers, width), -1, np.int32), np.full((layers, width), -1, np.int64))
    return _new_layouts(width, most), offers, np.zeros(table, np.uint64), trail


@compiled
def search_layouts(g, capacity, width, branches, most, style, seed, stop):  # type: ignore[no-untyped-def]
    """(cost or -1, offset per entry, whether it is kept until its next use) of the best plan that a beam finds.

    ``width``: layouts that go on; ``branches``: places tried for a piece; ``most``: blocks that can lie side by side.
    -1: stopped.
    """
    np.random.seed(seed)
    n = len(g.need_at) - 1
    x, offers, seen, trail = _workspace(width, branches, most, 2 * len(g.need) + 1)
    goal = np.full(len(g.size), -1, np.int64)
    at, kept = np.zeros(len(g.need), np.int64), np.zeros(len(g.need), np.int8)
    state, layers = _beam(g, x, 0, n, goal, capacity, width, branches, style, stop, offers, seen, trail)
    if state < 0:
        return np.int64(-1), at, kept
    x.count[0, 0] = 0
    _trace(g, x, 0, n, goal, trail, state, layers, np.full(len(g.size), -1, np.int64), at, kept)
    return cost_of_layouts(g, kept), at, kept


@compiled
def cost_of_layouts(g, kept):  # type: ignore[no-untyped-def]
    """Units that a plan moves: what is not kept until its next use is fetched, and written once."""
    n = len(g.need_at) - 1
    dropped = np.zeros(len(g.size), np.int8)
    cost = np.int64(0)
    for j in range(len(g.need)):
        if g.next_use[j] < n and kept[j] == 0:
            t = g.need[j]
            cost += g.size[t]
            if dropped[t] == 0 and g.copy_free[t] == 0:
                cost += g.size[t]
            dropped[t] = 1
    return cost


@compiled
def _load(g, x, begin, at, kept, written, last_entry):  # type: ignore[no-untyped-def]
    """What a plan has in the scratchpad before step ``begin``, as state 0 of generation 0."""
    k = 0
    for j in range(g.need_at[begin]):
        if kept[j] == 0 or g.next_use[j] < begin:
            continue
        t, b = g.need[j], k
        while b > 0 and x.at[0, 0, b - 1] > at[j]:
            _copy_block(x, 0, 0, b - 1, 0, 0, b)
            b -= 1
        x.what[0, 0, b] = t
        x.at[0, 0, b] = at[j]
        x.until[0, 0, b] = g.next_use[j]
        x.written[0, 0, b] = written[j]
        x.price[0, 0, b] = g.size[t] if written[j] != 0 else g.price[j]
        x.mark[0, 0, b] = 0
        last_entry[t] = j
        k += 1
    x.count[0, 0] = k
    x.paid[0, 0] = 0.0
    x.moved[0, 0] = 0


@compiled
def _mark_written(g, kept, written, gone):  # type: ignore[no-untyped-def]
    """Per entry, whether its tensor has a copy off-chip from there on without a drop that follows."""
    gone[:] = 0
    for j in range(len(g.need)):
        t = g.need[j]
        written[j] = 1 if g.copy_free[t] != 0 or gone[t] != 0 else 0
        if kept[j] == 0:
            gone[t] = 1


@compiled
def improve_layouts(g, capacity, width, branches, most, longest, rounds, at, kept, seed, stop):  # type: ignore[no-untyped-def]
    """Improve a plan in place, window by window; (its cost, rounds made). Ends early once ``stop`` is set."""
    np.random.seed(seed)
    n = len(g.need_at) - 1
    pieces = 0
    for s in range(n):
        pieces = max(pieces, g.need_at[min(s + longest, n)] - g.need_at[s])
    x, offers, seen, trail = _workspace(width, branches, most, 2 * pieces + 1)
    goal = np.full(len(g.size), -1, np.int64)
    last_entry = np.full(len(g.size), -1, np.int64)
    written, gone = np.zeros(len(g.need), np.int8), np.zeros(len(g.size), np.int8)
    new_at, new_kept = at.copy(), kept.copy()
    typical = g.size[g.need].mean()
    cost, made = cost_of_layouts(g, kept), 0
    style = np.zeros(3)
    while made < rounds and cost > 0 and stop[0] == 0:
        made += 1
        length = np.random.randint(2, longest + 1)
        begin = np.random.randint(0, max(n - length, 0) + 1)
        end = min(begin + length, n)
        style[0] = typical * np.random.random() ** 4
        style[1] = 0.5 * typical * np.random.random() ** 4 if np.random.random() < 0.5 else 0.0
        style[2] = typical * np.random.random() ** 3
        _mark_written(g, kept, written, gone)
        _load(g, x, begin, at, kept, written, last_entry)
        for j in range(g.need_at[end]):
            if g.next_use[j] < n and g.next_use[j] >= end:
                goal[g.need[j]] = at[j] if kept[j] != 0 else -1
                if g.next_use[j] == end and kept[j] == 0:
                    goal[g.need[j]] = at[_entry(g, end, g.need[j])]
                new_kept[j] = 0 if j >= g.need_at[begin] else kept[j]
            if j < g.need_at[begin] and g.next_use[j] >= begin and g.next_use[j] < n:
                new_kept[j] = 0
        state, layers = _beam(
            g, x, begin, end, goal, capacity, width, branches, style, stop, offers, seen, trail
        )
        if state >= 0:
            _load(g, x, begin, at, kept, written, last_entry)
            _trace(g, x, begin, end, goal, trail, state, layers, last_entry, new_at, new_kept)
            found = cost_of_layouts(g, new_kept)
        else:
            found = cost + 1
        if found <= cost:
            cost = found
            kept[: g.need_at[end]] = new_kept[: g.need_at[end]]
            at[g.need_at[begin] : g.need_at[end]] = new_at[g.need_at[begin] : g.need_at[end]]
        else:
            new_kept[: g.need_at[end]] = kept[: g.need_at[end]]
            new_at[g.need_at[begin] : g.need_at[end]] = at[g.need_at[begin] : g.need_at[end]]
        for j in range(g.need_at[end]):
            if g.next_use[j] >= end:
                goal[g.need[j]] = -1
    return cost, made
