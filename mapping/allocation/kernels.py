"""Loads or compiles the kernels that a solve may call, before its clock starts.

Compilation happens once per installation and says nothing about the problem, so a limit of seconds is a limit on the
search. Each kernel is called once on a few buffers.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mapping.allocation.by_offset import search_by_offset
from mapping.allocation.engines import Prober
from mapping.allocation.greedy import improve, pack_by_start, pack_sparse, place_in_order
from mapping.allocation.instance import build_components, highest_offsets, section_ceilings
from mapping.allocation.pairwise import search_by_pairs
from mapping.allocation.problem import AllocationProblem, Buffer, Gap
from mapping.allocation.rules import Rules
from mapping.allocation.storage_model import groups_of, model_of
from mapping.allocation.storage_search import search
from mapping.deadline import Budget

__all__ = ["load_kernels"]


@cache
def load_kernels(*, windowed: bool = False, many: bool = False, ruled: bool = False) -> None:
    """Call what a problem needs: with gaps (``windowed``), for more buffers than are searched, under rules."""
    if ruled:
        pair = [Buffer("a", 0, 2, 2), Buffer("b", 1, 3, 2)]
        problem = AllocationProblem.of(pair, rules=Rules(boundary={0: 4}))
        search(model_of(problem, groups_of(problem)), 3, "auto", Budget(None, 10, outer=None))
    gaps = (Gap(1, 2, (0, 1)),) if windowed else ()
    buffers = [Buffer("a", 0, 4, 3, gaps=gaps), Buffer("b", 1, 3, 2), Buffer("c", 2, 5, 2)]
    (component,) = build_components(AllocationProblem.of(buffers))
    inst, stop = component.instance, np.zeros(1, np.int64)
    order = np.arange(len(inst.size))
    place_in_order(component, order)
    budget = Budget(None, 1000, outer=None)
    prober = Prober(component, budget, 0)
    for capacity in (6, 7):
        prober.probe(capacity, 64, 0)
    # A probe ends with the first engine that answers; the others may be asked by the next one.
    highest = highest_offsets(component, 6)
    ceiling = section_ceilings(inst, highest)
    search_by_offset(inst, highest, ceiling, order, 64, 1 << 10, stop)
    search_by_pairs(inst, highest, 64, stop)
    if windowed:
        return
    improve(inst, component.unit, component.true_size, order, 0, 1, 0, stop)
    if many:
        pack_by_start(inst.first, inst.last, inst.size, inst.align, True, stop)
        pack_sparse(inst, order, False, 2, stop)
