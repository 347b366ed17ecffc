"""A proven lower bound on the peak of one component: the most live bytes."""

from __future__ import annotations

import numpy as np

from mapping.allocation.greedy import section_totals
from mapping.allocation.instance import Component
from mapping.allocation.state import allowed

__all__ = ["most_live"]


def most_live(component: Component) -> int:
    """Most live bytes; only the topmost buffer of a section counts with its true instead of its rounded size."""
    inst, unit = component.instance, component.unit
    totals = section_totals(inst) * unit
    excess = inst.size * unit - component.true_size
    if component.searchable and excess.any():
        totals = totals - np.maximum.reduceat(excess[inst.member], inst.member_ptr[:-1])
    else:
        totals = totals - int(excess.max())
    alone = max(
        int(allowed(inst, i, 0)) * unit + int(component.true_size[i])
        for i in (range(len(inst.size)) if (inst.fixed >= 0).any() else [int(component.true_size.argmax())])
    )
    return max(int(totals.max()), alone)
