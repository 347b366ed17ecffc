"""Loads or compiles every kernel that a solve may call, before its clock starts.

Compilation happens once per installation and can take longer than a whole time limit; it says nothing about the
problem. So a limit of seconds is a limit on the search, and a first run answers within it like any other.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mapping.allocation.kernels import load_kernels as load_allocation
from mapping.deadline import Budget, watching
from mapping.scheduling.address_search import Effort, improve_layouts, search_layouts
from mapping.scheduling.by_layout import address_tables
from mapping.scheduling.instance import build_instance, lists_of
from mapping.scheduling.order_beam import Aim
from mapping.scheduling.order_search import improve_order
from mapping.scheduling.orders import beam_of_orders, given_order, least_peak
from mapping.scheduling.problem import ScheduleOperator, ScheduleProblem, ScheduleTensor
from mapping.scheduling.residency_runs import RoomPrices, runs_of_order
from mapping.scheduling.search import NO_LIMIT, LayerSearch
from mapping.scheduling.stay_search import close_gaps
from mapping.scheduling.stays import find_addresses, stays_of

__all__ = ["load_kernels"]


@cache
def load_kernels(*, addresses_alone: bool = False) -> None:
    """Call each kernel once on small problems; later calls in the process do nothing.

    ``addresses_alone``: those of the allocation engine, which is all that a baseline needs.
    """
    # Whoever watches the solve to come has nothing to see here.
    with watching(lambda *_: None):
        _call_kernels(addresses_alone)


def _call_kernels(addresses_alone: bool) -> None:
    problem = _small()
    find_addresses(problem, stays_of(problem, given_order(problem)), None, max_nodes=100)
    load_allocation(many=True)
    if addresses_alone:
        return
    least_peak(problem, time_limit_s=None, max_states=100)
    beam_of_orders(build_instance(problem), Aim(8, 4, True, 0.1, 0), Budget())
    search = LayerSearch(problem, 8, Budget())
    search.look_ahead()
    search.run(NO_LIMIT, 64, max_states=100)
    wait_at, waits = lists_of([list(before) for before in problem.predecessors])
    order = np.arange(len(problem.operators), dtype=np.int64)
    improve_order(
        build_instance(problem).tables, order, wait_at, waits, 8, 10, 0, np.zeros(1, np.int64)
    )  # fmt: skip
    _call_layouts(problem)


def _call_layouts(problem: ScheduleProblem) -> None:
    order = given_order(problem)
    runs = runs_of_order(problem, order, 8)
    prices = RoomPrices(np.zeros(len(order) + 1), np.zeros(len(runs.gap_tensor)))
    tables = address_tables(runs, prices, order)
    assert tables is not None
    stop = np.zeros(1, np.int64)
    _, at, kept = search_layouts(tables, 8, 2, 2, 4, np.zeros(3), 0, stop)
    improve_layouts(tables, 8, Effort(2, 2, 4, 2, 1), at, kept, 0, stop)
    close_gaps(tables, 8, np.zeros(1, np.int64), 1, at, kept, 0, stop)


def _small() -> ScheduleProblem:
    tensors = tuple(
        ScheduleTensor(f"t{i}", size, i, readers, False)
        for i, (size, readers) in enumerate([(3, (1, 3)), (4, (2,)), (4, (3,)), (1, ())])
    )
    operators = (
        ScheduleOperator("a", (), (0,)),
        ScheduleOperator("b", (0,), (1,)),
        ScheduleOperator("c", (1,), (2,)),
        ScheduleOperator("d", (0, 2), (3,)),
    )
    return ScheduleProblem("small", operators, tensors)
