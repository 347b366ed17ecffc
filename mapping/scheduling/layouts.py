"""Kernel: layouts of the scratchpad, what lies where before an operator, and what may follow them.

What an operator lacks is put down piece by piece, largest first, at every edge of a hole or of something that may
leave; whatever lies there leaves. A layout is judged by what it has moved so far and by what its tensors will cost:
each either its price (fetched again, and written if it is not) or the room that it takes until its next use, whichever
is less.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled, inlined

__all__ = [
    "HELD", "MOST_NEEDED", "AddressTables", "Layouts", "Offers", "Window", "begin_step", "copy_block", "end_step",
    "entry", "new_layouts", "offer_all", "take",
]  # fmt: skip

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

MOST_NEEDED: Final = 60
"""Pieces of one operator that the search can put down: bits of a word."""

_CLEAR: Final = -2
"""A place that stands for: everything leaves, and the piece lies at the bottom."""
_PUT: Final = 1
HELD: Final = 2
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


class Window(NamedTuple):
    """What a search over layouts works on: the order ``g``, the ``layouts`` of the beam, and what it is asked.

    Steps before ``end`` are served, below ``capacity``; ``goal``: where a tensor has to lie at the end, or -1.
    ``branches``: places tried for a piece. ``style``: what a hole left beside a piece costs, what a neighbour of
    another stay costs, and how much chance counts.
    """

    g: Any
    layouts: Any
    end: Any
    goal: Any
    capacity: Any
    branches: Any
    style: Any
    offers: Any


class Layouts(NamedTuple):
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


class Offers(NamedTuple):
    """Places offered for the next pieces of all layouts: the judgement, whose it is, the offset, the layout's hash."""

    value: Any
    state: Any
    place: Any
    hash: Any


@inlined
def mix(t: Any, at: Any) -> Any:
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
def new_layouts(width, most):  # type: ignore[no-untyped-def]
    """Room for ``width`` layouts of at most so many blocks, in two generations; the first one is empty."""
    return Layouts(
        np.zeros((2, width, most), np.int64), np.zeros((2, width, most), np.int64),
        np.zeros((2, width, most), np.int64), np.zeros((2, width, most)), np.zeros((2, width, most), np.int64),
        np.zeros((2, width, most), np.int64), np.zeros((2, width), np.int64), np.zeros((2, width), np.int64),
        np.zeros((2, width)), np.zeros((2, width), np.int64), np.zeros((2, width)),
    )  # fmt: skip


@inlined
def entry(g, s, t):  # type: ignore[no-untyped-def]
    """The entry of a tensor at a step, or -1."""
    for j in range(g.need_at[s], g.need_at[s + 1]):
        if g.need[j] == t:
            return j
    return -1


@inlined
def burden_of(g, s, end, goal, t, at, until, price):  # type: ignore[no-untyped-def]
    """What a block will cost from a step on: its room or its price. Across the window's end only the goal counts."""
    if until >= end and end < len(g.need_at) - 1:
        return 0.0 if goal[t] == at else price
    return min(g.size[t] * (g.potential[s] - g.potential[until]), price)


@inlined
def dies(g, s, t):  # type: ignore[no-untyped-def]
    """Whether a tensor is needed at a step for the last time, and its bytes by nobody else."""
    j = entry(g, s, t)
    dies = j >= 0 and g.next_use[j] >= len(g.need_at) - 1
    for made in range(g.need_at[s], g.need_at[s + 1]):
        if g.over[made] == j - g.need_at[s]:
            dies = False
    return dies


@compiled
def begin_step(g, x, now, states, s, end, goal):  # type: ignore[no-untyped-def]
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
                missing &= ~(np.int64(1) << (entry(g, s, t) - low))
                x.mark[now, w, b] = HELD
            else:
                burden += burden_of(
                    g, s, end, goal, t, x.at[now, w, b], x.until[now, w, b], x.price[now, w, b]
                )
        x.pending[now, w] = missing
        x.value[now, w] = x.paid[now, w] + burden


@inlined
def next_piece(pending):  # type: ignore[no-untyped-def]
    bit = 0
    while (pending >> bit) & 1 == 0:
        bit += 1
    return bit


@compiled
def offer_places(window, now, w, s, found):  # type: ignore[no-untyped-def]
    """The best places of the next piece of one layout, appended to the offers; their number then."""
    g, x, end, goal, capacity, branches, style, offers = window
    what, at, until, mark = x.what[now, w], x.at[now, w], x.until[now, w], x.mark[now, w]
    count, pending = x.count[now, w], x.pending[now, w]
    j = g.need_at[s] + next_piece(pending)
    last = (pending & (pending - 1)) == 0
    t = g.need[j]
    size, mine = g.size[t], g.next_use[j]
    all_hash = np.uint64(0)
    for b in range(count):
        # A step's last piece: what is read no more makes no difference from here on.
        if not (last and mark[b] != 0 and dies(g, s, what[b])):
            all_hash ^= mix(what[b], at[b])
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
                    cost -= burden_of(g, s, end, goal, what[b], at[b], until[b], price)
                if not (last and mark[b] != 0 and dies(g, s, what[b])):
                    hash_of ^= mix(what[b], at[b])
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
                hash_of ^= mix(t, place)
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
def offer_all(window, now, states, s):  # type: ignore[no-untyped-def]
    """(offers, whether any layout still lacks a piece) of all layouts."""
    g, x, offers = window.g, window.layouts, window.offers
    unfinished, found = False, 0
    for w in range(states):
        if x.pending[now, w] != 0:
            unfinished = True
            found = offer_places(window, now, w, s, found)
            continue
        code = np.uint64(0)
        for b in range(x.count[now, w]):
            if not (x.mark[now, w, b] != 0 and dies(g, s, x.what[now, w, b])):
                code ^= mix(x.what[now, w, b], x.at[now, w, b])
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
def copy_block(x, now, w, b, other, v, to):  # type: ignore[no-untyped-def]
    """Copy block ``b`` of state ``w`` of a generation to place ``to`` of state ``v`` of another."""
    x.what[other, v, to] = x.what[now, w, b]
    x.at[other, v, to] = x.at[now, w, b]
    x.until[other, v, to] = x.until[now, w, b]
    x.price[other, v, to] = x.price[now, w, b]
    x.written[other, v, to] = x.written[now, w, b]
    x.mark[other, v, to] = x.mark[now, w, b]


@inlined
def put_block(g, x, other, v, to, j, s, place):  # type: ignore[no-untyped-def]
    t = g.need[j]
    x.what[other, v, to] = t
    x.at[other, v, to] = place
    x.until[other, v, to] = s
    x.price[other, v, to] = g.size[t]
    # What is fetched has a copy off-chip.
    x.written[other, v, to] = 1 if g.made[j] == 0 else g.copy_free[t]
    x.mark[other, v, to] = _PUT


@compiled
def take(window, now, w, other, v, s, place):  # type: ignore[no-untyped-def]
    """The layout after an offer, as state ``v`` of the other generation; the tensor put down, or -1."""
    g, x, end, goal = window.g, window.layouts, window.end, window.goal
    k, low = x.count[now, w], g.need_at[s]
    x.paid[other, v] = x.paid[now, w]
    x.moved[other, v] = x.moved[now, w]
    x.value[other, v] = x.value[now, w]
    x.pending[other, v] = x.pending[now, w]
    if place == -1:
        for b in range(k):
            copy_block(x, now, w, b, other, v, b)
        x.count[other, v] = k
        return -1
    clear = place == _CLEAR
    begin = np.int64(0) if clear else place
    bit = next_piece(x.pending[now, w])
    j = low + bit
    until = begin + g.size[g.need[j]]
    x.pending[other, v] &= ~(np.int64(1) << bit)
    to, put = 0, False
    for b in range(k):
        t, at, mark = x.what[now, w, b], x.at[now, w, b], x.mark[now, w, b]
        if clear or (at < until and begin < at + g.size[t]):
            if mark != 0:
                x.pending[other, v] |= np.int64(1) << (entry(g, s, t) - low)
            if mark != _PUT:
                # What was put down for this very operator goes as if it had not been.
                price = x.price[now, w, b]
                x.paid[other, v] += price
                x.value[other, v] += price
                if mark == 0:
                    x.value[other, v] -= burden_of(g, s, end, goal, t, at, x.until[now, w, b], price)
                x.moved[other, v] += g.size[t] * (1 if x.written[now, w, b] != 0 else 2)
            continue
        if not put and at >= until:
            put_block(g, x, other, v, to, j, s, begin)
            to += 1
            put = True
        copy_block(x, now, w, b, other, v, to)
        to += 1
    if not put:
        put_block(g, x, other, v, to, j, s, begin)
        to += 1
    x.count[other, v] = to
    return g.need[j]


@compiled
def end_step(g, x, now, states, s):  # type: ignore[no-untyped-def]
    """The operator has run: what is read no more leaves, the rest waits for its next use."""
    n = len(g.need_at) - 1
    for w in range(states):
        to = 0
        for b in range(x.count[now, w]):
            if x.mark[now, w, b] != 0:
                j = entry(g, s, x.what[now, w, b])
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
            copy_block(x, now, w, b, now, w, to)
            to += 1
        x.count[now, w] = to
