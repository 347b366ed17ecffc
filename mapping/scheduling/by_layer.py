"""Kernel: search over (operators done, tensors resident, copies written), one operator deeper at each layer.

A schedule is a path through states. Dropping a live tensor costs its retrieve and, the first time, its write;
both are charged at the drop, so that a state's cost is final. Nothing is lost by dropping only when an operator
does not fit, and then only a minimal set. Equal states keep the cheaper path. Three rules cut the rest:

* bound: what is still to pay at least (:mod:`mapping.scheduling.cost_bound`);
* dominance: another state can become this one for less (:mod:`mapping.scheduling.dominance`);
* a safe operator runs at once: it fits without a drop, and each tensor it leaves behind replaces one it frees
  that is no smaller and no cheaper to drop.

A layer may be cut to a width; then the least bound that was cut off is reported, and is a proven lower bound
on what was missed. Costs are ``bytes * 2**20 + transfers``, so that transfers break ties.

An operator that may write in place (:class:`mapping.scheduling.instance.Instance`) does so wherever an input is read
for the last time; where none is, dropping one with the operator is one more way to make room.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.scheduling.cost_bound import cost_ahead
from mapping.scheduling.dominance import prune_dominated
from mapping.scheduling.down_sets import DownSetTables, find_down_set
from mapping.scheduling.instance import WORD_BITS, Pressure, Tables
from mapping.scheduling.layers import (
    Trail,
    add_state,
    new_child,
    new_layer,
    new_table,
    rehashed,
    remembered,
    selected,
    slot_of,
    wider,
)
from mapping.scheduling.state_bits import COST_SCALE, NO_LIMIT, Limits, drop_cost, flip_bit, has_bit, inlined

__all__ = ["COST_SCALE", "NO_LIMIT", "Limits", "Question", "search_by_layer"]

Ints = NDArray[np.int64]
_WALK = np.dtype(
    [(name, np.int64) for name in ("excess", "kept", "depth", "freed", "paid", "position", "steps", "cut")],
    align=True,
)
"""A walk over the minimal sets that free ``excess`` bytes, out of ``kept`` tensors that may be dropped: how many
are chosen, their bytes and scaled cost, and which may be chosen next; its steps, and whether it was cut short."""
_STEPS_PER_ROW: Final = 256
"""A walk may take so many steps for each state that a layer keeps; what it leaves out counts as missed."""


class Question(NamedTuple):
    """What is searched, and how far. ``rank``: the operators in the order in which ties are broken."""

    tables: Tables
    pressure: Pressure
    ahead: DownSetTables
    limits: Limits
    rank: Ints


class _Scratch(NamedTuple):
    """Room for one state's work: inputs used up, tensors that may be dropped, the chosen ones' positions, a walk.

    ``frees``: bytes that a drop gives the operator. ``pair``: the operator's in-place pair for which an input is
    dropped with it and not before it; -1 for other tensors.
    """

    used: Ints
    keep: Ints
    frees: Ints
    pair: Ints
    chosen: Ints
    walk: Any


@compiled
def _new_scratch(g: Any) -> Any:
    most_inputs = 1
    for o in range(len(g.need)):
        most_inputs = max(most_inputs, g.input_at[o + 1] - g.input_at[o])
    m = len(g.size)
    return _Scratch(
        np.zeros(most_inputs, np.int64),
        np.zeros(m + 1, np.int64),
        np.zeros(m + 1, np.int64),
        np.zeros(m + 1, np.int64),
        np.zeros(m + 2, np.int64),
        np.zeros(1, _WALK),
    )


@inlined
def _ready(done: Any, s: int, o: int, before: Any) -> bool:
    if has_bit(done, s, o):
        return False
    for w in range(before.shape[1]):  # noqa: SIM110 (numba)
        if before[o, w] & ~done[s, w] != 0:
            return False
    return True


@inlined
def _dies(done: Any, s: int, o: int, t: int, readers: Any) -> bool:
    """Whether operator o is the last to read tensor t."""
    for w in range(readers.shape[1]):
        left = readers[t, w] & ~done[s, w]
        if w == o // WORD_BITS:
            left &= ~(1 << (o % WORD_BITS))
        if left != 0:
            return False
    return True


@inlined
def _price(g: Any, layer: Any, s: int, t: int) -> Any:
    """Scaled cost of dropping a tensor of a state."""
    return drop_cost(g.size[t], g.copy_free[t] != 0 or has_bit(layer.written, s, t))


@inlined
def _saves(done: Any, s: int, o: int, p: int, g: Any) -> bool:
    """Whether an output is written over an input that operator o is the last to read."""
    for k in range(g.over_at[p], g.over_at[p + 1]):  # noqa: SIM110 (numba)
        if _dies(done, s, o, g.over[k], g.readers):
            return True
    return False


@inlined
def _excess(g: Any, layer: Any, s: int, o: int, capacity: int) -> Any:
    """Bytes above the capacity that operator o would need in a state; 0 or less: it fits."""
    bytes_in = 0
    for i in range(g.input_at[o], g.input_at[o + 1]):
        if has_bit(layer.held, s, g.inputs[i]):
            bytes_in += g.size[g.inputs[i]]
    excess = layer.resident[s] - bytes_in + g.need[o] - capacity
    for p in range(g.pair_at[o], g.pair_at[o + 1]):
        if _saves(layer.done, s, o, p, g):
            excess -= g.pair_bytes[p]
    return excess


@inlined
def _is_safe(g: Any, layer: Any, s: int, o: int, capacity: int, used: Any) -> bool:
    """Whether running o now is as good as running it later (see the module's first lines)."""
    for i in range(g.input_at[o], g.input_at[o + 1]):
        used[i - g.input_at[o]] = 0
        if not has_bit(layer.held, s, g.inputs[i]):
            return False
    if _excess(g, layer, s, o, capacity) > 0:
        return False
    for k in range(g.output_at[o], g.output_at[o + 1]):
        b = g.outputs[k]
        cost = drop_cost(g.size[b], g.copy_free[b] != 0)
        best = -1
        for i in range(g.input_at[o], g.input_at[o + 1]):
            a = g.inputs[i]
            if used[i - g.input_at[o]] or g.size[a] < g.size[b] or not _dies(layer.done, s, o, a, g.readers):
                continue
            if _price(g, layer, s, a) < cost:
                continue
            if best < 0 or g.size[a] < g.size[g.inputs[best]]:
                best = i
        if best < 0:
            return False
        used[best - g.input_at[o]] = 1
    return True


@inlined
def _safe_operator(q: Any, layer: Any, s: int, used: Any) -> Any:
    """The first operator that may run at once; -1 when there is none."""
    g = q.tables
    for r in range(len(q.rank)):
        o = q.rank[r]
        if _ready(layer.done, s, o, g.before) and _is_safe(g, layer, s, o, q.limits.capacity, used):
            return o
    return -1


@inlined
def _peak_ahead(q: Any, layer: Any, s: int, o: int, child: Any) -> Any:
    """The least peak still to come once o has run too; 0 when there is no table. Uses ``child.done``."""
    if len(q.ahead.peak_ahead) == 0:
        return 0
    for w in range(len(child.done)):
        child.done[w] = layer.done[s, w]
    flip_bit(child.done, o)
    return q.ahead.peak_ahead[find_down_set(child.done, q.ahead.done, q.ahead.table)]


@inlined
def _begin_walk(g: Any, layer: Any, s: int, o: int, excess: int, scratch: Any) -> None:
    """List what may be dropped so that o fits, what frees most first, and choose none of it."""
    keep, frees, pair, kept = scratch.keep, scratch.frees, scratch.pair, 0
    if excess > 0:
        for t in range(len(g.size)):
            if not has_bit(layer.held, s, t):
                continue
            touched = False
            for i in range(g.input_at[o], g.input_at[o + 1]):
                if g.inputs[i] == t:
                    touched = True
            if not touched:
                keep[kept] = t
                frees[kept] = g.size[t]
                pair[kept] = -1
                kept += 1
        for p in range(g.pair_at[o], g.pair_at[o + 1]):
            if not _saves(layer.done, s, o, p, g):
                for k in range(g.over_at[p], g.over_at[p + 1]):
                    keep[kept] = g.over[k]
                    frees[kept] = g.pair_bytes[p]
                    pair[kept] = p
                    kept += 1
        for i in range(1, kept):
            t, size, p = keep[i], frees[i], pair[i]
            j = i - 1
            while j >= 0 and frees[j] < size:
                keep[j + 1], frees[j + 1], pair[j + 1] = keep[j], frees[j], pair[j]
                j -= 1
            keep[j + 1], frees[j + 1], pair[j + 1] = t, size, p
    walk = scratch.walk[0]
    walk.excess = excess
    walk.kept = kept
    walk.depth = 0
    walk.freed = 0
    walk.paid = 0
    walk.position = 0
    walk.steps = 0
    walk.cut = 0


@inlined
def _pair_chosen(scratch: Any, position: int) -> bool:
    """Whether another input is chosen already for the output that this one would make room for."""
    p = scratch.pair[position]
    if p < 0:
        return False
    for i in range(scratch.walk[0].depth):  # noqa: SIM110 (numba)
        if scratch.pair[scratch.chosen[i]] == p:
            return True
    return False


@inlined
def _next_set(g: Any, layer: Any, s: int, limits: Any, scratch: Any, stop: Any) -> bool:
    """Go to the next minimal set that frees enough, depth first, and costs less than ``limits.below``.

    False at the end, and where the walk has to be cut short; then ``cut`` is set.
    """
    walk = scratch.walk[0]
    below = limits.below
    while True:
        walk.steps += 1
        late = (walk.steps & 255) == 0 and stop[0] != 0
        if late or walk.steps > _STEPS_PER_ROW * limits.width:
            walk.cut = 1
            return False
        if walk.freed < walk.excess and walk.position < walk.kept:
            t = scratch.keep[walk.position]
            price = _price(g, layer, s, t)
            walk.position += 1
            if layer.cost[s] + walk.paid + price < below and not _pair_chosen(scratch, walk.position - 1):
                scratch.chosen[walk.depth] = walk.position - 1
                walk.depth += 1
                walk.freed += scratch.frees[walk.position - 1]
                walk.paid += price
                if walk.freed >= walk.excess:
                    return True
            continue
        if walk.depth == 0:
            return False
        walk.depth -= 1
        t = scratch.keep[scratch.chosen[walk.depth]]
        walk.freed -= scratch.frees[scratch.chosen[walk.depth]]
        walk.paid -= _price(g, layer, s, t)
        walk.position = scratch.chosen[walk.depth] + 1


@inlined
def _run(g: Any, layer: Any, s: int, o: int, scratch: Any, child: Any) -> Any:
    """Drop what the walk has chosen and run o: the state after it goes to ``child``; the bytes that it holds."""
    for w in range(len(child.done)):
        child.done[w] = layer.done[s, w]
    for w in range(len(child.held)):
        child.held[w] = layer.held[s, w]
        child.written[w] = layer.written[s, w]
        child.dropped[w] = 0
    walk = scratch.walk[0]
    resident = layer.resident[s]
    for i in range(walk.depth):
        t = scratch.keep[scratch.chosen[i]]
        flip_bit(child.dropped, t)
        if scratch.pair[scratch.chosen[i]] < 0:
            flip_bit(child.held, t)
            resident -= g.size[t]
        if g.copy_free[t] == 0 and not has_bit(layer.written, s, t):
            flip_bit(child.written, t)
    for i in range(g.input_at[o], g.input_at[o + 1]):
        t = g.inputs[i]
        inside = has_bit(layer.held, s, t)
        if _dies(layer.done, s, o, t, g.readers):
            if inside:
                flip_bit(child.held, t)
                resident -= g.size[t]
            if has_bit(layer.written, s, t):
                flip_bit(child.written, t)
        elif (child.dropped[t // WORD_BITS] >> (t % WORD_BITS)) & 1 != 0:
            # Overwritten by an output: it goes with the operator, and comes back later.
            if inside:
                flip_bit(child.held, t)
                resident -= g.size[t]
        elif not inside:
            flip_bit(child.held, t)
            resident += g.size[t]
    for k in range(g.output_at[o], g.output_at[o + 1]):
        flip_bit(child.held, g.outputs[k])
        resident += g.size[g.outputs[k]]
    flip_bit(child.done, o)
    return resident


@compiled
def _narrowed(layer: Any, left: Any, width: int) -> Any:
    """The rows of least bound, ``width`` of ``left``; and the least bound of the others.

    Among equal bounds the state that has paid more is nearer to a schedule of that cost; then the one that holds
    fewer bytes.
    """
    bounds = layer.bound[left]
    by_bound = np.argsort(bounds, kind="mergesort")
    cut = bounds[by_bound[width]]
    better = np.flatnonzero(bounds < cut)
    equal = np.flatnonzero(bounds == cut)
    tied = np.argsort(layer.resident[left[equal]], kind="mergesort")
    return np.concatenate((left[better], left[equal[tied[: width - len(better)]]])), cut


@compiled
def _way_back(trail: Any, at: int, n: int) -> Any:
    """Order and dropped bit sets of the steps that lead to a row of the trail."""
    order = np.zeros(n, np.int64)
    drops = np.zeros((n, trail.dropped.shape[1]), np.int64)
    for step in range(n - 1, -1, -1):
        order[step] = trail.operator[at]
        drops[step] = trail.dropped[at]
        at = trail.parent[at]
    return order, drops


@compiled
def search_by_layer(q: Any, stop: Any) -> Any:
    """The cheapest schedule that costs less than ``q.limits.below``, in scaled cost; ``q``: :class:`Question`.

    Returns (cost or -1, order, dropped bit set per step, missed, states, overflow). ``missed`` is the least
    bound among states that a cut to the width (or ``stop``, the most states or the largest layer) removed: no
    schedule outside what was searched costs less; NO_LIMIT when nothing was cut. ``overflow`` is the least number
    of bytes above the capacity that an operator would have needed where no drop was allowed.
    """
    g, limits = q.tables, q.limits
    n, words = g.before.shape
    held_words = max((len(g.size) + WORD_BITS - 1) // WORD_BITS, 1)
    missed = overflow = NO_LIMIT
    states = 0
    layer = new_layer(1, words, held_words)
    trail = Trail(np.zeros(1024, np.int64), np.zeros(1024, np.int64), np.zeros((1024, held_words), np.int64))
    trail_count, layer_start = 1, 0
    scratch, child = _new_scratch(g), new_child(words, held_words)
    most_made = 2 * limits.max_layer

    for _depth in range(n):
        count = len(layer.cost)
        following = new_layer(max(64, 2 * count), words, held_words)
        table = new_table(len(following.cost))
        made = 0
        for s in range(count):
            if (s & 63) == 0 and (stop[0] != 0 or states > limits.max_states or made > limits.max_layer):
                missed = min(missed, layer.bound[s:].min())
                break
            only = _safe_operator(q, layer, s, scratch.used)
            for r in range(n):
                o = q.rank[r]
                if o != only if only >= 0 else not _ready(layer.done, s, o, g.before):
                    continue
                excess = _excess(g, layer, s, o, limits.capacity)
                if excess > 0:
                    overflow = min(overflow, excess)
                    if not limits.may_drop:
                        continue
                peak_ahead = _peak_ahead(q, layer, s, o, child)
                _begin_walk(g, layer, s, o, excess, scratch)
                more = excess <= 0 or _next_set(g, layer, s, limits, scratch, stop)
                while more:
                    resident = _run(g, layer, s, o, scratch, child)
                    cost = layer.cost[s] + scratch.walk[0].paid
                    ahead = cost_ahead(g, q.pressure, child, limits, limits.below - cost, peak_ahead)
                    if cost + ahead < limits.below:
                        at = slot_of(following, table, child)
                        row = table[at]
                        fresh = row < 0
                        if fresh:
                            if made == len(following.cost):
                                following = wider(following)
                            row = made
                            made += 1
                            states += 1
                            table[at] = row
                            add_state(following, row, child, resident)
                        if fresh or cost < following.cost[row]:
                            following.cost[row] = cost
                            following.bound[row] = max(cost + ahead, layer.bound[s])
                            following.parent[row] = layer_start + s
                            following.operator[row] = o
                            for w in range(held_words):
                                following.dropped[row, w] = child.dropped[w]
                        if 2 * made >= len(table):
                            table = rehashed(following, made, 2 * len(table))
                    more = excess > 0 and made <= most_made and _next_set(g, layer, s, limits, scratch, stop)
                if scratch.walk[0].cut != 0 or made > most_made:
                    missed = min(missed, layer.bound[s])
                if stop[0] != 0:
                    break
        if stop[0] != 0:
            missed = min(missed, layer.bound.min())
        if made == 0 or stop[0] != 0:
            return -1, np.zeros(0, np.int64), np.zeros((0, held_words), np.int64), missed, states, overflow
        alive = np.ones(made, np.bool_)
        if limits.may_drop:
            prune_dominated(made, following, g, alive, stop)
        left = np.flatnonzero(alive)
        if len(left) > limits.width:
            left, cut = _narrowed(following, left, limits.width)
            missed = min(missed, cut)
        layer = selected(following, left)
        layer_start = trail_count
        trail = remembered(trail, trail_count, layer)
        trail_count += len(left)

    best = np.argmin(layer.cost)
    order, drops = _way_back(trail, layer_start + int(best), n)
    return layer.cost[best], order, drops, missed, states, overflow
