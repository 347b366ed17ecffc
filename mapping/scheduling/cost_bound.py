"""Kernel: a lower bound on what a state has still to pay.

An operator still to come needs room. The tensors certainly alive beside it that do not fit must be dropped, the
cheapest bytes first: one transfer for what has a copy off-chip, two for the rest. And every way to the end passes a
step at which so many bytes are alive (:mod:`mapping.scheduling.down_sets`); what is out already may be out then.
"""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from mapping.scheduling.instance import WORD_BITS
from mapping.scheduling.state_bits import COST_SCALE, NO_LIMIT

__all__ = ["cost_ahead"]

_LOOKED: Final = 48
"""The bound looks at so many of the next operators that may not fit."""


@compiled
def _peak_bound(
    done: Any, held: Any, written: Any, capacity: int, unit: int, size: Any, copy_free: Any, producer: Any,
    readers: Any, peak_ahead: int,
) -> int:  # fmt: skip
    """At some step ahead so many bytes are alive; what is out now may be out then, the rest must be dropped."""
    excess = peak_ahead - capacity
    if excess <= 0:
        return 0
    cheap = 0
    for t in range(len(size)):
        left, began = False, False
        for w in range(readers.shape[1]):
            if readers[t, w] & ~done[w] != 0:
                left = True
            if readers[t, w] & done[w] != 0:
                began = True
        if not left:
            continue
        p = producer[t]
        exists = began if p < 0 else (done[p // WORD_BITS] >> (p % WORD_BITS)) & 1 != 0
        if exists and (held[t // WORD_BITS] >> (t % WORD_BITS)) & 1 == 0:
            excess -= size[t]
        elif copy_free[t] != 0 or (written[t // WORD_BITS] >> (t % WORD_BITS)) & 1 != 0:
            cheap += size[t]
    if excess <= 0:
        return 0
    excess = (excess + unit - 1) // unit * unit
    return (excess if excess <= cheap else 2 * excess - cheap) * COST_SCALE + 1


@compiled
def cost_ahead(
    done: Any, held: Any, written: Any, capacity: int, unit: int, enough: int, need: Any, size: Any,
    copy_free: Any, producer: Any, readers: Any, ancestors: Any,
    tight: Any, beside_at: Any, beside: Any, sure: Any, peak_ahead: int,
) -> Any:  # fmt: skip
    """A lower bound on what is still to pay; stops once it reaches ``enough``."""
    best = _peak_bound(done, held, written, capacity, unit, size, copy_free, producer, readers, peak_ahead)
    if best >= enough:
        return best
    words = readers.shape[1]
    looked = 0
    for c in range(len(tight)):
        o = tight[c]
        if (done[o // WORD_BITS] >> (o % WORD_BITS)) & 1 != 0:
            continue
        looked += 1
        if looked > _LOOKED:
            break
        excess = need[o] - capacity
        cheap = 0
        least = NO_LIMIT
        for i in range(beside_at[c], beside_at[c + 1]):
            t = beside[i]
            p = producer[t]
            exists = False
            if p >= 0:
                exists = (done[p // WORD_BITS] >> (p % WORD_BITS)) & 1 != 0
            else:
                for w in range(words):
                    if readers[t, w] & done[w] != 0:
                        exists = True
            if not exists and not sure[i]:
                continue
            excess += size[t]
            single = copy_free[t] != 0 or (written[t // WORD_BITS] >> (t % WORD_BITS)) & 1 != 0
            if exists and (held[t // WORD_BITS] >> (t % WORD_BITS)) & 1 == 0:
                # Out already and paid for; it may stay out unless something before o reads it.
                between = False
                for w in range(words):
                    if readers[t, w] & ancestors[o, w] & ~done[w] != 0:
                        between = True
                if not between:
                    excess -= size[t]
                    continue
                single = True
            if single:
                cheap += size[t]
            price = size[t] if single else 2 * size[t]
            if price < least:
                least = price
        if excess <= 0:
            continue
        excess = (excess + unit - 1) // unit * unit
        value = excess if excess <= cheap else 2 * excess - cheap
        if value < least and least < NO_LIMIT:
            value = least
        value = value * COST_SCALE + 1
        if value > best:
            best = value
            if best >= enough:
                return best
    return best
