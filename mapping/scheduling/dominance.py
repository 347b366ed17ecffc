"""Kernel: leaves out states that another state of the same operators done makes superfluous.

State b is no better than a when a can become b for the difference of their costs: drop what b does not hold, and
write the copies that b has. What b holds and a does not, a has paid to retrieve already.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from hw_configs.compiled import compiled
from mapping.scheduling.instance import WORD_BITS
from mapping.scheduling.state_bits import COST_SCALE, drop_cost, has_bit, same_row

__all__ = ["prune_dominated"]

_COMPARED: Final = 48
"""A state is compared with so many of the cheapest and of the next cheaper ones of its group."""


@compiled
def prune_dominated(count: int, layer: Any, g: Any, alive: Any, stop: Any) -> None:
    """Clears ``alive`` of states that another one with the same operators done makes superfluous.

    ``layer``: a ``Layer`` of ``count`` states or more; ``g``: the ``Tables`` of the instance. Ends early once
    ``stop`` is set, which leaves superfluous states alive and loses none.
    """
    done, held, written = layer.done, layer.held, layer.written
    size, copy_free = g.size, g.copy_free
    words, held_words = done.shape[1], held.shape[1]
    key = np.zeros(count, np.int64)
    for s in range(count):
        h = np.int64(1469598103934665603)
        for w in range(words):
            h = (h ^ done[s, w]) * np.int64(1099511628211)
            h ^= (h >> np.int64(29)) & np.int64(0x7FFFFFFFF)
        key[s] = h
    by_cost = np.argsort(layer.cost[:count], kind="mergesort")
    order = by_cost[np.argsort(key[by_cost], kind="mergesort")]
    start = 0
    while start < count:
        end = start + 1
        while end < count and key[order[end]] == key[order[start]]:
            end += 1
        for i in range(start + 1, end):
            if (i & 255) == 0 and stop[0] != 0:
                return
            b = order[i]
            first = max(start, i - _COMPARED) if i - start > 2 * _COMPARED else start
            for j in range(start, i):
                if j >= start + _COMPARED and j < first:
                    continue
                a = order[j]
                if not alive[a] or not same_row(done, a, done[b]):
                    continue
                extra = 0
                slack = layer.cost[b] - layer.cost[a]
                for w in range(held_words):
                    # a drops what b does not hold, and writes copies that b has; what b holds and a does not,
                    # a has paid to retrieve already.
                    more = held[a, w] & ~held[b, w]
                    unwritten = written[b, w] & ~written[a, w] & held[a, w] & held[b, w]
                    bits = more | unwritten
                    t = w * WORD_BITS
                    while bits != 0 and extra <= slack:
                        if bits & 1:
                            if more & 1:
                                extra += drop_cost(size[t], copy_free[t] != 0 or has_bit(written, a, t))
                            else:
                                extra += size[t] * COST_SCALE + 1
                        bits >>= 1
                        more >>= 1
                        t += 1
                if extra <= slack:
                    alive[b] = False
                    break
        start = end
