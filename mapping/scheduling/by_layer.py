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
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hw_configs.compiled import compiled
from mapping.scheduling.cost_bound import cost_ahead
from mapping.scheduling.dominance import prune_dominated
from mapping.scheduling.down_sets import find_down_set
from mapping.scheduling.instance import WORD_BITS
from mapping.scheduling.state_bits import COST_SCALE, NO_LIMIT, drop_cost, flip_bit, has_bit, same_row

__all__ = ["COST_SCALE", "NO_LIMIT", "search_by_layer"]


@compiled
def _ready(done: Any, s: int, o: int, before: Any) -> bool:
    if has_bit(done, s, o):
        return False
    for w in range(before.shape[1]):  # noqa: SIM110 (numba)
        if before[o, w] & ~done[s, w] != 0:
            return False
    return True


@compiled
def _dies(done: Any, s: int, o: int, t: int, readers: Any) -> bool:
    """Whether operator o is the last to read tensor t."""
    for w in range(readers.shape[1]):
        left = readers[t, w] & ~done[s, w]
        if w == o // WORD_BITS:
            left &= ~(1 << (o % WORD_BITS))
        if left != 0:
            return False
    return True


@compiled
def _is_safe(
    done: Any, held: Any, written: Any, s: int, o: int, resident: int, capacity: int,
    need: Any, size: Any, copy_free: Any, input_at: Any, inputs: Any, output_at: Any, outputs: Any,
    readers: Any, used: Any,
) -> bool:  # fmt: skip
    """Whether running o now is as good as running it later (see the module's first lines)."""
    bytes_in = 0
    for i in range(input_at[o], input_at[o + 1]):
        t = inputs[i]
        used[i - input_at[o]] = 0
        if not has_bit(held, s, t):
            return False
        bytes_in += size[t]
    if resident - bytes_in + need[o] > capacity:
        return False
    for k in range(output_at[o], output_at[o + 1]):
        b = outputs[k]
        cost = drop_cost(size[b], copy_free[b] != 0)
        best = -1
        for i in range(input_at[o], input_at[o + 1]):
            a = inputs[i]
            if used[i - input_at[o]] or size[a] < size[b] or not _dies(done, s, o, a, readers):
                continue
            if drop_cost(size[a], copy_free[a] != 0 or has_bit(written, s, a)) < cost:
                continue
            if best < 0 or size[a] < size[inputs[best]]:
                best = i
        if best < 0:
            return False
        used[best - input_at[o]] = 1
    return True


@compiled
def _hash(done: Any, held: Any, written: Any) -> Any:
    h = np.int64(1469598103934665603)
    for w in range(len(done)):
        h = (h ^ done[w]) * np.int64(1099511628211)
        h ^= (h >> np.int64(29)) & np.int64(0x7FFFFFFFF)
    for w in range(len(held)):
        h = (h ^ held[w]) * np.int64(1099511628211)
        h ^= (h >> np.int64(31)) & np.int64(0x1FFFFFFFF)
        h = (h ^ written[w]) * np.int64(6364136223846793005)
        h ^= (h >> np.int64(27)) & np.int64(0x1FFFFFFFFF)
    return h


@compiled
def _grown(array: Any, rows: int) -> Any:
    wider = np.zeros((rows, array.shape[1]), np.int64)
    wider[: array.shape[0]] = array
    return wider


@compiled
def search_by_layer(
    need: Any, size: Any, producer: Any, copy_free: Any, input_at: Any, inputs: Any, output_at: Any,
    outputs: Any, before: Any, ancestors: Any, readers: Any,
    tight: Any, beside_at: Any, beside: Any, sure: Any,
    down_sets: Any, peaks: Any, down_table: Any, rank: Any, capacity: int, unit: int, below: int, width: int,
    may_drop: bool, max_states: int, max_layer: int, stop: Any,
) -> Any:  # fmt: skip
    """The cheapest schedule that costs less than ``below``, in scaled cost.

    Returns (cost or -1, order, dropped bit set per step, missed, states, overflow). ``missed`` is the least
    bound among states that a cut to ``width`` (or ``stop``, ``max_states``, ``max_layer``) removed: no schedule
    outside what was searched costs less; NO_LIMIT when nothing was cut. ``overflow`` is the least number of bytes
    above the capacity that an operator would have needed where no drop was allowed. ``rank`` breaks ties.
    """
    n, m = len(need), len(size)
    words = before.shape[1]
    held_words = max((m + WORD_BITS - 1) // WORD_BITS, 1)
    missed = NO_LIMIT
    overflow = NO_LIMIT
    states = 0

    # One layer: bit sets, and info columns cost, resident bytes, bound.
    done = np.zeros((1, words), np.int64)
    held = np.zeros((1, held_words), np.int64)
    written = np.zeros((1, held_words), np.int64)
    info = np.zeros((1, 3), np.int64)
    count = 1
    # Every layer's way back: parent, operator, dropped bits.
    trail = np.zeros((1024, 2 + held_words), np.int64)
    trail_count = 1
    layer_start = 0

    most_inputs = 1
    for o in range(n):
        most_inputs = max(most_inputs, input_at[o + 1] - input_at[o])
    used = np.zeros(most_inputs, np.int64)
    keep = np.zeros(m + 1, np.int64)
    chosen = np.zeros(m + 2, np.int64)
    child_done = np.zeros(words, np.int64)
    child_held = np.zeros(held_words, np.int64)
    child_written = np.zeros(held_words, np.int64)
    dropped = np.zeros(held_words, np.int64)

    for _depth in range(n):
        room = max(64, 2 * count)
        next_done = np.zeros((room, words), np.int64)
        next_held = np.zeros((room, held_words), np.int64)
        next_written = np.zeros((room, held_words), np.int64)
        next_info = np.zeros((room, 3), np.int64)
        next_trail = np.zeros((room, 2 + held_words), np.int64)
        slots = 256
        while slots < 4 * room:
            slots *= 2
        table = np.full(slots, -1, np.int64)
        made = 0
        for s in range(count):
            if (s & 63) == 0 and (stop[0] != 0 or states > max_states or made > max_layer):
                for rest in range(s, count):
                    missed = min(missed, info[rest, 2])
                break
            only = -1
            for r in range(n):
                o = rank[r]
                if _ready(done, s, o, before) and _is_safe(
                    done, held, written, s, o, info[s, 1], capacity, need, size, copy_free, input_at,
                    inputs, output_at, outputs, readers, used,
                ):  # fmt: skip
                    only = o
                    break
            for r in range(n):
                o = rank[r]
                if only >= 0 and o != only:
                    continue
                if only < 0 and not _ready(done, s, o, before):
                    continue
                bytes_in = 0
                for i in range(input_at[o], input_at[o + 1]):
                    if has_bit(held, s, inputs[i]):
                        bytes_in += size[inputs[i]]
                excess = info[s, 1] - bytes_in + need[o] - capacity
                kept = 0
                peak_ahead = 0
                if len(peaks) > 0:
                    for w in range(words):
                        child_done[w] = done[s, w]
                    flip_bit(child_done, o)
                    peak_ahead = peaks[find_down_set(child_done, down_sets, down_table)]
                if excess > 0:
                    overflow = min(overflow, excess)
                    if not may_drop:
                        continue
                    for t in range(m):
                        if not has_bit(held, s, t):
                            continue
                        touched = False
                        for i in range(input_at[o], input_at[o + 1]):
                            if inputs[i] == t:
                                touched = True
                        if not touched:
                            keep[kept] = t
                            kept += 1
                    for i in range(1, kept):  # by size, the largest first
                        t = keep[i]
                        j = i - 1
                        while j >= 0 and size[keep[j]] < size[t]:
                            keep[j + 1] = keep[j]
                            j -= 1
                        keep[j + 1] = t
                # Minimal sets to drop, depth first over the sorted list; `chosen` is the stack of positions.
                depth = 0
                freed = 0
                paid = 0
                position = 0
                while True:
                    complete = freed >= excess
                    if complete:
                        # ---- one child ----
                        for w in range(words):
                            child_done[w] = done[s, w]
                        for w in range(held_words):
                            child_held[w] = held[s, w]
                            child_written[w] = written[s, w]
                            dropped[w] = 0
                        resident = info[s, 1] - freed
                        for i in range(depth):
                            t = keep[chosen[i]]
                            flip_bit(child_held, t)
                            flip_bit(dropped, t)
                            if copy_free[t] == 0 and not has_bit(written, s, t):
                                flip_bit(child_written, t)
                        for i in range(input_at[o], input_at[o + 1]):
                            t = inputs[i]
                            inside = has_bit(held, s, t)
                            if _dies(done, s, o, t, readers):
                                if inside:
                                    flip_bit(child_held, t)
                                    resident -= size[t]
                                if has_bit(written, s, t):
                                    flip_bit(child_written, t)
                            elif not inside:
                                flip_bit(child_held, t)
                                resident += size[t]
                        for k in range(output_at[o], output_at[o + 1]):
                            flip_bit(child_held, outputs[k])
                            resident += size[outputs[k]]
                        flip_bit(child_done, o)
                        cost = info[s, 0] + paid
                        ahead = cost_ahead(
                            child_done, child_held, child_written, capacity, unit, below - cost, need, size,
                            copy_free, producer, readers, ancestors, tight, beside_at, beside, sure, peak_ahead,
                        )  # fmt: skip
                        if cost + ahead < below:
                            at = _hash(child_done, child_held, child_written) & (slots - 1)
                            place = table[at]
                            while place >= 0 and not (
                                same_row(next_done, place, child_done)
                                and same_row(next_held, place, child_held)
                                and same_row(next_written, place, child_written)
                            ):
                                at = (at + 1) & (slots - 1)
                                place = table[at]
                            fresh = place < 0
                            if fresh:
                                if made == room:
                                    room *= 2
                                    next_done = _grown(next_done, room)
                                    next_held = _grown(next_held, room)
                                    next_written = _grown(next_written, room)
                                    next_info = _grown(next_info, room)
                                    next_trail = _grown(next_trail, room)
                                place = made
                                made += 1
                                states += 1
                                table[at] = place
                                for w in range(words):
                                    next_done[place, w] = child_done[w]
                                for w in range(held_words):
                                    next_held[place, w] = child_held[w]
                                    next_written[place, w] = child_written[w]
                                next_info[place, 1] = resident
                            if fresh or cost < next_info[place, 0]:
                                next_info[place, 0] = cost
                                next_info[place, 2] = max(cost + ahead, info[s, 2])
                                next_trail[place, 0] = layer_start + s
                                next_trail[place, 1] = o
                                for w in range(held_words):
                                    next_trail[place, 2 + w] = dropped[w]
                            if 2 * made >= slots:
                                slots *= 2
                                table = np.full(slots, -1, np.int64)
                                for q in range(made):
                                    at = _hash(next_done[q], next_held[q], next_written[q]) & (slots - 1)
                                    while table[at] >= 0:
                                        at = (at + 1) & (slots - 1)
                                    table[at] = q
                        if excess <= 0:
                            break
                    # ---- next set to drop ----
                    if not complete and position < kept:
                        t = keep[position]
                        price = drop_cost(size[t], copy_free[t] != 0 or has_bit(written, s, t))
                        if info[s, 0] + paid + price < below:
                            chosen[depth] = position
                            depth += 1
                            freed += size[t]
                            paid += price
                        position += 1
                        continue
                    if depth == 0:
                        break
                    depth -= 1
                    t = keep[chosen[depth]]
                    freed -= size[t]
                    paid -= drop_cost(size[t], copy_free[t] != 0 or has_bit(written, s, t))
                    position = chosen[depth] + 1
        if made == 0:
            return -1, np.zeros(0, np.int64), np.zeros((0, held_words), np.int64), missed, states, overflow
        alive = np.ones(made, np.bool_)
        if may_drop:
            prune_dominated(made, next_done, next_held, next_written, next_info, size, copy_free, alive)
        left = np.flatnonzero(alive)
        if len(left) > width:
            bounds = next_info[left, 2]
            by_bound = np.argsort(bounds * 1, kind="mergesort")
            # Among equal bounds the state that has paid more is nearer to a schedule of that cost; then the
            # one that holds fewer bytes.
            cut = bounds[by_bound[width]]
            better = np.flatnonzero(bounds < cut)
            equal = np.flatnonzero(bounds == cut)
            tied = np.argsort(next_info[left[equal], 1], kind="mergesort")
            missed = min(missed, cut)
            left = np.concatenate((left[better], left[equal[tied[: width - len(better)]]]))
        count = len(left)
        done = next_done[left]
        held = next_held[left]
        written = next_written[left]
        info = next_info[left]
        while trail_count + count > trail.shape[0]:
            trail = _grown(trail, 2 * trail.shape[0])
        layer_start = trail_count
        trail[trail_count : trail_count + count] = next_trail[left]
        trail_count += count

    best = 0
    for s in range(1, count):
        if info[s, 0] < info[best, 0]:
            best = s
    order = np.zeros(n, np.int64)
    drops = np.zeros((n, held_words), np.int64)
    at = layer_start + best
    for step in range(n - 1, -1, -1):
        order[step] = trail[at, 1]
        drops[step] = trail[at, 2:]
        at = trail[at, 0]
    return info[best, 0], order, drops, missed, states, overflow
