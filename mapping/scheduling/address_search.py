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

from typing import NamedTuple

import numpy as np

from hw_configs.compiled import compiled
from mapping.scheduling.layouts import (
    HELD,
    Offers,
    Window,
    begin_step,
    copy_block,
    end_step,
    entry,
    new_layouts,
    offer_all,
    take,
)

__all__ = ["Effort", "cost_of_layouts", "improve_layouts", "search_layouts"]


@compiled
def _beam(window, begin, width, stop, seen, trail):  # type: ignore[no-untyped-def]
    """(state, layers) of the best plan of a window from step ``begin``, of state 0 of generation 0.

    State -1: stopped, or no plan found before the trail's end.

    ``trail``: (parents, places) layer by layer, each state's parent in the layer before and the place of its piece.
    """
    g, x, end, goal = window.g, window.layouts, window.end, window.goal
    offers = window.offers
    parents, places = trail
    states, layer, now = 1, 0, 0
    table = len(seen)
    for s in range(begin, end):
        if stop[0] != 0:
            return -1, layer
        begin_step(g, x, now, states, s, end, goal)
        while True:
            found, unfinished = offer_all(window, now, states, s)
            if not unfinished:
                break
            if layer == len(parents):
                # Pieces were cleared and put down anew more often than there is room to remember.
                return -1, layer
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
                take(window, now, offers.state[c], other, kept, s, offers.place[c])
                kept += 1
                if kept == width:
                    break
            states, now = kept, other
            layer += 1
        end_step(g, x, now, states, s)
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
def _trace(window, begin, trail, reached, last_entry, plan):  # type: ignore[no-untyped-def]
    """Write what a beam ``reached`` (state, layers) into a plan: offset per entry, whether it stays until its next use.

    State 0 of generation 0 of ``x`` is what lies there at the beginning; ``last_entry``: of each tensor in it.
    """
    g, x, end, goal = window.g, window.layouts, window.end, window.goal
    state, layers = reached
    at, kept = plan
    parents, places = trail
    line = np.empty(layers, np.int64)
    for layer in range(layers - 1, -1, -1):
        line[layer] = places[layer, state]
        state = parents[layer, state]
    now, turn, n = 0, 0, len(g.need_at) - 1
    for s in range(begin, end):
        low, high = g.need_at[s], g.need_at[s + 1]
        begin_step(g, x, now, 1, s, end, goal)
        while x.pending[now, 0] != 0:
            if line[turn] != -1:
                take(window, now, 0, 1 - now, 0, s, line[turn])
                now = 1 - now
            turn += 1
        # Other states were not served yet when this one was.
        while turn < layers and line[turn] == -1:
            turn += 1
        for b in range(x.count[now, 0]):
            if x.mark[now, 0, b] != 0:
                j = entry(g, s, x.what[now, 0, b])
                at[j] = x.at[now, 0, b]
                if x.mark[now, 0, b] == HELD:
                    kept[last_entry[x.what[now, 0, b]]] = 1
        for j in range(low, high):
            if g.over[j] >= 0:
                at[j] = at[low + g.over[j]]
            kept[j] = 0
            last_entry[g.need[j]] = j
        end_step(g, x, now, 1, s)
    for b in range(x.count[now, 0]):
        t = x.what[now, 0, b]
        if goal[t] == x.at[now, 0, b] and x.until[now, 0, b] < n:
            kept[last_entry[t]] = 1


class Effort(NamedTuple):
    """How hard windows are searched.

    Layouts that go on, places tried for a piece, blocks that can lie side by side, steps of the longest window, and
    windows.
    """

    width: int
    branches: int
    most: int
    longest: int
    rounds: int


@compiled
def _workspace(width, branches, most, layers):  # type: ignore[no-untyped-def]
    table = 1
    while table < 4 * width:
        table *= 2
    room = width * max(branches, 1)
    offers = Offers(
        np.zeros(room), np.zeros(room, np.int64), np.zeros(room, np.int64), np.zeros(room, np.uint64)
    )
    trail = (np.full((layers, width), -1, np.int32), np.full((layers, width), -1, np.int64))
    return new_layouts(width, most), offers, np.zeros(table, np.uint64), trail


@compiled
def search_layouts(g, capacity, width, branches, most, style, seed, stop):  # type: ignore[no-untyped-def]
    """(cost or -1, offset per entry, whether it is kept until its next use) of the best plan that a beam finds.

    ``width``: layouts that go on; ``branches``: places tried for a piece; ``most``: blocks that can lie side by side.
    -1: stopped, or no plan is found.
    """
    np.random.seed(seed)
    n = len(g.need_at) - 1
    x, offers, seen, trail = _workspace(width, branches, most, 2 * len(g.need) + 1)
    goal = np.full(len(g.size), -1, np.int64)
    at, kept = np.zeros(len(g.need), np.int64), np.zeros(len(g.need), np.int8)
    window = Window(g, x, n, goal, capacity, branches, style, offers)
    state, layers = _beam(window, 0, width, stop, seen, trail)
    if state < 0:
        return np.int64(-1), at, kept
    x.count[0, 0] = 0
    _trace(window, 0, trail, (state, layers), np.full(len(g.size), -1, np.int64), (at, kept))
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
            copy_block(x, 0, 0, b - 1, 0, 0, b)
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
def improve_layouts(g, capacity, effort, at, kept, seed, stop):  # type: ignore[no-untyped-def]
    """Improve a plan in place, window by window; (its cost, rounds made). Ends early once ``stop`` is set."""
    width, branches, most, longest, rounds = effort
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
                    goal[g.need[j]] = at[entry(g, end, g.need[j])]
                new_kept[j] = 0 if j >= g.need_at[begin] else kept[j]
            if j < g.need_at[begin] and g.next_use[j] >= begin and g.next_use[j] < n:
                new_kept[j] = 0
        window = Window(g, x, end, goal, capacity, branches, style, offers)
        state, layers = _beam(window, begin, width, stop, seen, trail)
        if state >= 0:
            _load(g, x, begin, at, kept, written, last_entry)
            _trace(window, begin, trail, (state, layers), last_entry, (new_at, new_kept))
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
