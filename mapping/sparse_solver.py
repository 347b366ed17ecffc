"""Linear and integer programmes as arrays, for models too large to be stated term by term; HiGHS solves them.

:mod:`mapping.solver` is the door for models in PuLP. This one takes a matrix as it is, because stating a hundred
thousand terms one by one takes longer than solving them. Clock and interrupt are those of the solve around it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input
from mapping.deadline import running_budget

__all__ = ["SparseModel", "SparseReport", "solve_sparse"]

Reals = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SparseModel:
    """Minimise ``cost . x`` for ``lower <= x <= upper`` and ``row_lower <= A x <= row_upper``.

    A is given by the coordinates of its entries (``row``, ``column``, ``value``); equal coordinates add up.
    ``whole`` marks variables that take whole values.
    """

    cost: Reals
    lower: Reals
    upper: Reals
    row_lower: Reals
    row_upper: Reals
    row: Ints
    column: Ints
    value: Reals
    whole: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class SparseReport:
    """``bound`` is proven, None where nothing is; ``values`` are feasible, None where no point was found.

    ``row_prices``: what a unit more on each row's right-hand side costs (duals); of linear models solved to their end.
    """

    bound: float | None
    objective: float | None
    values: Reals | None
    seconds: float
    row_prices: Reals | None = None


def solve_sparse(
    model: SparseModel, *, seconds: float | None, relative_gap: float = 0.0, seed: int = 0
) -> SparseReport:
    """Solve a model; a linear one has a bound only when it was solved to its end.

    Raises ``InputError`` when HiGHS is not installed.
    """
    try:
        import highspy
    except ImportError:
        raise bad_input("HiGHS is not installed (package highspy)", path="backend") from None
    budget = running_budget()
    limits = [s for s in (seconds, None if budget is None else budget.seconds_left()) if s is not None]
    engine: Any = highspy.Highs()
    engine.setOptionValue("output_flag", False)
    engine.setOptionValue("threads", 1)
    engine.setOptionValue("random_seed", seed)
    engine.setOptionValue("mip_rel_gap", relative_gap)
    if limits:
        engine.setOptionValue("time_limit", max(min(limits), 0.01))
    engine.passModel(_stated(highspy, model))
    start = time.perf_counter()
    if budget is None:
        engine.run()
    else:

        def ask(_kind: Any, _text: str, _out: Any, wish: Any, _data: Any) -> None:
            if budget.stop[0]:
                wish.user_interrupt = True

        asked = highspy.cb.HighsCallbackType
        engine.setCallback(ask, None)
        for kind in (
            asked.kCallbackMipInterrupt,
            asked.kCallbackSimplexInterrupt,
            asked.kCallbackIpmInterrupt,
        ):
            engine.startCallback(kind)
        budget.call(engine.run, long=True)
    info = engine.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    solved = engine.getModelStatus() == highspy.HighsModelStatus.kOptimal
    raw = info.objective_function_value if model.whole is None else info.mip_dual_bound
    bound = float(raw) if (model.whole is not None or solved) and math.isfinite(raw) else None
    solution = engine.getSolution()
    values = np.asarray(solution.col_value, np.float64) if found else None
    linear = model.whole is None and solved
    prices = np.asarray(solution.row_dual, np.float64) if linear else None
    objective = float(info.objective_function_value) if found else None
    return SparseReport(bound, objective, values, time.perf_counter() - start, prices)


def _stated(highspy: Any, model: SparseModel) -> Any:
    """The model in the solver's own form: columns one after another."""
    columns, rows = len(model.cost), len(model.row_lower)
    by_column = np.lexsort((model.row, model.column))
    row, column, value = model.row[by_column], model.column[by_column], model.value[by_column]
    fresh = np.ones(len(row), bool)
    fresh[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    at = np.flatnonzero(fresh)
    stated = highspy.HighsLp()
    stated.num_col_, stated.num_row_ = columns, rows
    stated.col_cost_, stated.col_lower_, stated.col_upper_ = model.cost, model.lower, model.upper
    stated.row_lower_, stated.row_upper_ = model.row_lower, model.row_upper
    stated.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    stated.a_matrix_.start_ = np.searchsorted(column[at], np.arange(columns + 1)).astype(np.int32)
    stated.a_matrix_.index_ = row[at].astype(np.int32)
    stated.a_matrix_.value_ = np.add.reduceat(value, at) if len(at) else value
    if model.whole is not None:
        kinds = highspy.HighsVarType
        stated.integrality_ = [
            kinds.kInteger if whole else kinds.kContinuous for whole in model.whole.tolist()
        ]
    return stated
