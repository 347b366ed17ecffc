"""Kernel: a search over operator orders, each judged by what Belady's rule moves in it, counted in bytes.

A move lets two neighbouring runs of operators change places where none of the second waits for one of the first.
What is no dearer is kept; what is dearer, with a chance that falls as the search goes on (simulated annealing). The
judgement drops the tensor whose next use lies farthest, for its price per byte; it is a few per cent above the least
bytes of the order, which the programme of residency (:mod:`mapping.scheduling.residency`) finds afterwards.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from hw_configs.compiled import compiled, inlined

__all__ = ["bytes_in_order", "improve_order"]

_LONGEST_RUN: Final = 24
_FAR: Final = 1 << 60


@inlined
def _price(g: Any, written: Any, t: int) -> Any:
    return g.size[t] if g.copy_free[t] != 0 or written[t] != 0 else 2 * g.size[t]


@compiled
def bytes_in_order(g: Any, order: Any, capacity: int, give_up_at: int, scratch: Any) -> Any:
    """Non-compulsory bytes that Belady's rule moves in an order; stops above ``give_up_at``.

    ``g``: the ``Tables`` of an instance; ``scratch``: room for seven rows of as many numbers as there are tensors,
    inputs or outputs, whichever is most.
    """
    n, m = len(order), len(g.size)
    later, input_next, output_next, coming, slot, held, written = scratch
    for t in range(m):
        later[t] = _FAR
        slot[t] = -1
        written[t] = 0
    for s in range(n - 1, -1, -1):
        o = order[s]
        for k in range(g.output_at[o], g.output_at[o + 1]):
            output_next[k] = later[g.outputs[k]]
        for i in range(g.input_at[o], g.input_at[o + 1]):
            input_next[i] = later[g.inputs[i]]
            later[g.inputs[i]] = s
    count, resident, cost = 0, 0, 0
    for s in range(n):
        o = order[s]
        inside = 0
        for i in range(g.input_at[o], g.input_at[o + 1]):
            t = g.inputs[i]
            coming[t] = -1
            if slot[t] >= 0:
                inside += g.size[t]
        excess = resident - inside + g.need[o] - capacity
        for p in range(g.pair_at[o], g.pair_at[o + 1]):
            # An input whose readers are not known to end here may still be fetched again; that is not judged.
            saved = False
            for k in range(g.over_at[p], g.over_at[p + 1]):
                for i in range(g.input_at[o], g.input_at[o + 1]):
                    if g.inputs[i] == g.over[k] and input_next[i] >= _FAR:
                        saved = True
            if saved:
                excess -= g.pair_bytes[p]
        while excess > 0:
            best, best_score = -1, -1.0
            for p in range(count):
                t = held[p]
                if coming[t] < 0:
                    continue
                score = (coming[t] - s) * (2.0 if g.copy_free[t] != 0 or written[t] != 0 else 1.0)
                if score > best_score:
                    best, best_score = t, score
            if best < 0:
                # Only inputs are left: some of them are overwritten and fetched again.
                cost += excess
                break
            cost += _price(g, written, best)
            if cost > give_up_at:
                return cost
            written[best] = 1
            excess -= g.size[best]
            resident -= g.size[best]
            count -= 1
            held[slot[best]] = held[count]
            slot[held[count]] = slot[best]
            slot[best] = -1
        for i in range(g.input_at[o], g.input_at[o + 1]):
            t = g.inputs[i]
            coming[t] = input_next[i]
            if slot[t] < 0 and input_next[i] < _FAR:
                slot[t] = count
                held[count] = t
                count += 1
                resident += g.size[t]
            elif slot[t] >= 0 and input_next[i] >= _FAR:
                count -= 1
                held[slot[t]] = held[count]
                slot[held[count]] = slot[t]
                slot[t] = -1
                resident -= g.size[t]
        for k in range(g.output_at[o], g.output_at[o + 1]):
            t = g.outputs[k]
            coming[t] = output_next[k]
            slot[t] = count
            held[count] = t
            count += 1
            resident += g.size[t]
    return cost


@compiled
def _scratch(g: Any) -> Any:
    rows = max(len(g.size), len(g.inputs), len(g.outputs)) + 1
    return (
        np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int64),
        np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int64),
    )  # fmt: skip


@compiled
def improve_order(
    g: Any, order: Any, wait_at: Any, waits: Any, capacity: int, rounds: int, seed: int, stop: Any
) -> Any:
    """(order, its bytes by Belady's rule, rounds made) of the best order seen in so many rounds.

    ``waits[wait_at[o] : wait_at[o + 1]]``: operators that o waits for. Ends early once ``stop`` is set.
    """
    np.random.seed(seed)
    n = len(order)
    scratch = _scratch(g)
    now = order.copy()
    cost = bytes_in_order(g, now, capacity, _FAR, scratch)
    best, best_cost = now.copy(), cost
    place = np.zeros(n, np.int64)
    for s in range(n):
        place[now[s]] = s
    run = np.zeros(2 * _LONGEST_RUN, np.int64)
    made = 0
    while made < rounds and n > 1 and best_cost > 0 and stop[0] == 0:
        made += 1
        heat = 0.01 * best_cost * (1.0 - made / rounds) ** 2
        first = np.random.randint(0, n - 1)
        a = 1 + min(np.random.geometric(0.3) - 1, _LONGEST_RUN - 1, n - 2 - first)
        b = 1 + min(np.random.geometric(0.15) - 1, _LONGEST_RUN - 1, n - 1 - first - a)
        if np.random.random() < 0.5 and first + b + a <= n and b + a <= n - first:
            a, b = b, a
        free = True
        for s in range(first + a, first + a + b):
            o = now[s]
            for w in range(wait_at[o], wait_at[o + 1]):
                if first <= place[waits[w]] < first + a:
                    free = False
        if not free:
            continue
        _exchange(now, place, run, first, a, b)
        limit = cost + np.int64(-heat * np.log(1.0 - np.random.random())) if heat >= 1 else cost
        found = bytes_in_order(g, now, capacity, limit, scratch)
        if found <= limit:
            cost = found
            if cost < best_cost:
                best_cost = cost
                best[:] = now
        else:
            _exchange(now, place, run, first, b, a)
    return best, best_cost, made


@inlined
def _exchange(now: Any, place: Any, run: Any, first: int, a: int, b: int) -> None:
    """Let the runs of a and b operators from ``first`` on change places."""
    for i in range(a + b):
        run[i] = now[first + i]
    for i in range(a + b):
        o = run[a + i] if i < b else run[i - b]
        now[first + i] = o
        place[o] = first + i
