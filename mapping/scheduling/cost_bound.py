"""Kernel: a lower bound on what a state has still to pay.

An operator still to come needs room. The tensors certainly alive beside it that do not fit must be dropped, the
cheapest bytes first: one transfer for what has a copy off-chip, two for the rest. And every way to the end passes a
step at which so many bytes are alive (:mod:`mapping.scheduling.down_sets`); what is out already may be out then.
"""

from __future__ import annotations

from typing import Any, Final

from mapping.scheduling.instance import WORD_BITS
from mapping.scheduling.state_bits import COST_SCALE, NO_LIMIT, inlined

__all__ = ["cost_ahead"]

_LOOKED: Final = 48
"""The bound looks at so many of the next operators that may not fit."""


@inlined
def _holds(words: Any, bit: int) -> Any:
    """Whether a bit of a single bit set is set."""
    return (words[bit // WORD_BITS] >> (bit % WORD_BITS)) & 1 != 0


@inlined
def _peak_bound(g: Any, child: Any, limits: Any, peak_ahead: int) -> Any:
    """At some step ahead so many bytes are alive; what is out now may be out then, the rest must be dropped."""
    excess = peak_ahead - limits.capacity
    if excess <= 0:
        return 0
    cheap = 0
    for t in range(len(g.size)):
        left, began = False, False
        for w in range(g.readers.shape[1]):
            if g.readers[t, w] & ~child.done[w] != 0:
                left = True
            if g.readers[t, w] & child.done[w] != 0:
                began = True
        if not left:
            continue
        p = g.producer[t]
        exists = began if p < 0 else _holds(child.done, p)
        if exists and not _holds(child.held, t):
            excess -= g.size[t]
        elif g.copy_free[t] != 0 or _holds(child.written, t):
            cheap += g.size[t]
    if excess <= 0:
        return 0
    excess = (excess + limits.unit - 1) // limits.unit * limits.unit
    return (excess if excess <= cheap else 2 * excess - cheap) * COST_SCALE + 1


@inlined
def cost_ahead(g: Any, pressure: Any, child: Any, limits: Any, enough: int, peak_ahead: int) -> Any:
    """A lower bound on what is still to pay from a state (scaled); stops once it reaches ``enough``.

    ``g``, ``pressure``: ``Tables`` and ``Pressure`` of the instance; ``child``: the state's bit sets;
    ``peak_ahead``: so many bytes are alive at some step to come.
    """
    best = _peak_bound(g, child, limits, peak_ahead)
    if best >= enough:
        return best
    looked = 0
    for c in range(len(pressure.operators)):
        o = pressure.operators[c]
        if _holds(child.done, o):
            continue
        looked += 1
        if looked > _LOOKED:
            break
        value = _pressure_bound(g, pressure, child, limits, c)
        if value > best:
            best = value
            if best >= enough:
                return best
    return best


@inlined
def _pressure_bound(g: Any, pressure: Any, child: Any, limits: Any, c: int) -> Any:
    """What the need of the c-th operator that may not fit costs at least, by the tensors alive beside it."""
    o = pressure.operators[c]
    excess = g.least[o] - limits.capacity
    cheap = 0
    least = NO_LIMIT
    for i in range(pressure.at[c], pressure.at[c + 1]):
        t = pressure.tensor[i]
        p = g.producer[t]
        exists = False
        if p >= 0:
            exists = _holds(child.done, p)
        else:
            for w in range(len(child.done)):
                if g.readers[t, w] & child.done[w] != 0:
                    exists = True
        if not exists and not pressure.sure[i]:
            continue
        excess += g.size[t]
        single = g.copy_free[t] != 0 or _holds(child.written, t)
        if exists and not _holds(child.held, t):
            # Out already and paid for; it may stay out unless something before o reads it.
            between = False
            for w in range(len(child.done)):
                if g.readers[t, w] & g.ancestors[o, w] & ~child.done[w] != 0:
                    between = True
            if not between:
                excess -= g.size[t]
                continue
            single = True
        if single:
            cheap += g.size[t]
        price = g.size[t] if single else 2 * g.size[t]
        if price < least:
            least = price
    if excess <= 0:
        return 0
    excess = (excess + limits.unit - 1) // limits.unit * limits.unit
    value = excess if excess <= cheap else 2 * excess - cheap
    if value < least and least < NO_LIMIT:
        value = least
    return value * COST_SCALE + 1
