"""One door to the MIP solvers: typed options in, an honest report out.

Models are stated in PuLP; HiGHS solves them by default, CBC where asked. A wrapper's word is not trusted: the
status and the dual bound are HiGHS's own (PuLP calls a time-limited incumbent optimal), for CBC they are read
from its log, and "optimal" is only said when objective and bound meet. The caller checks the solution itself.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hw_configs.problems import bad_input
from mapping.deadline import running_budget

if TYPE_CHECKING:
    import pulp

__all__ = ["MEET_WITHIN", "SolveReport", "SolverOptions", "Status", "solve_model"]

Status = Literal["optimal", "feasible", "infeasible", "unbounded", "unknown"]

MEET_WITHIN: Final = 1e-6
"""Objective and bound meet within this share of the objective (or this much, below one)."""


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """What a solve may use. ``integrality`` is the tolerance for integers; big-M models need a small one.

    ``relative_gap``: the solver may stop so near the optimum; what it then leaves open is "feasible".

    ``warm_start``: the variables' initial values are a solution to start from (HiGHS only).
    """

    backend: Literal["highs", "cbc"] = "highs"
    time_limit_s: float | None = 60.0
    relative_gap: float = 0.0
    threads: int = 1
    seed: int = 0
    integrality: float = 1e-9
    warm_start: bool = False


@dataclass(frozen=True, slots=True)
class SolveReport:
    """What came of it. ``bound`` is the solver's proven bound on the objective, None without one.

    ``gap`` is the distance of objective and bound over the objective's magnitude (at least 1).
    """

    status: Status
    objective: float | None
    bound: float | None
    seconds: float
    backend: str
    version: str

    @property
    def has_solution(self) -> bool:
        """Whether the model's variables hold a solution."""
        return self.status in ("optimal", "feasible")

    @property
    def gap(self) -> float | None:
        """Relative gap, or None without a solution or a bound."""
        if self.objective is None or self.bound is None or not math.isfinite(self.bound):
            return None
        return abs(self.objective - self.bound) / max(1.0, abs(self.objective))


def solve_model(model: pulp.LpProblem, options: SolverOptions = SolverOptions()) -> SolveReport:
    """Solve a PuLP model; the solution, when there is one, stands in its variables.

    Raises ``InputError`` for an unknown backend or one that is not installed.
    """
    if options.backend == "highs":
        return _solve_highs(model, options)
    if options.backend == "cbc":
        return _solve_cbc(model, options)
    raise bad_input(f"found {options.backend!r}; expected 'highs' or 'cbc'", path="backend")


def _seconds(options: SolverOptions) -> float | None:
    """What is left of the option's time and of the solve around it."""
    budget = running_budget()
    around = None if budget is None else budget.seconds_left()
    limits = [seconds for seconds in (options.time_limit_s, around) if seconds is not None]
    return max(min(limits), 0.01) if limits else None


def _solve_highs(model: pulp.LpProblem, options: SolverOptions) -> SolveReport:
    import pulp

    if not pulp.HiGHS().available():
        raise bad_input("HiGHS is not installed (package highspy)", path="backend")
    import highspy

    budget = running_budget()

    def ask(_kind: Any, _text: str, _out: Any, wish: Any, _data: Any) -> None:
        if budget is not None and budget.stop[0]:
            wish.user_interrupt = True

    asked = highspy.cb.HighsCallbackType
    solver = pulp.HiGHS(
        msg=False,
        callbackTuple=None if budget is None else (ask, None),
        callbacksToActivate=None
        if budget is None
        else [
            asked.kCallbackMipInterrupt,
            asked.kCallbackSimplexInterrupt,
            asked.kCallbackIpmInterrupt,
        ],
        timeLimit=_seconds(options),
        gapRel=options.relative_gap,
        threads=options.threads,
        random_seed=options.seed,
        warmStart=options.warm_start,
        mip_feasibility_tolerance=max(options.integrality, 1e-10),
    )
    start = time.perf_counter()
    if budget is None:
        model.solve(solver)
    else:
        budget.call(model.solve, solver, long=True)
    seconds = time.perf_counter() - start
    engine: Any = model.solverModel
    info = engine.getInfo()
    state = engine.getModelStatus()
    sign = -1.0 if model.sense == pulp.LpMaximize else 1.0
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    integer = any(variable.cat == pulp.LpInteger for variable in model.variables())
    # PuLP hands a maximisation to HiGHS with all signs changed.
    objective = sign * info.objective_function_value if found else None
    raw = info.mip_dual_bound if integer else info.objective_function_value
    proved = state == highspy.HighsModelStatus.kOptimal
    bound = sign * raw if (integer or proved) and math.isfinite(raw) else None
    status = _status(
        objective, bound,
        infeasible=state == highspy.HighsModelStatus.kInfeasible,
        unbounded=state in (highspy.HighsModelStatus.kUnbounded, highspy.HighsModelStatus.kUnboundedOrInfeasible),
    )  # fmt: skip
    return SolveReport(status, objective, bound, seconds, "highs", engine.version())


def _solve_cbc(model: pulp.LpProblem, options: SolverOptions) -> SolveReport:
    import pulp

    with tempfile.TemporaryDirectory(prefix="offchip-cbc-") as folder:
        log = Path(folder) / "cbc.log"
        solver = pulp.COIN_CMD(
            path=_cbc_path(),
            msg=False,
            timeLimit=_seconds(options),
            gapRel=options.relative_gap,
            threads=options.threads,
            logPath=str(log),
            options=[f"randomSeed {options.seed + 1}", f"integerTolerance {max(options.integrality, 1e-9)}"],
        )
        if not solver.available():
            raise bad_input("CBC is not installed", path="backend")
        start = time.perf_counter()
        model.solve(solver)
        seconds = time.perf_counter() - start
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    version = _find(r"Version:\s*(\S+)", text) or "?"
    value = pulp.value(model.objective) if model.objective is not None else 0.0
    found = "Objective value:" in text and "No feasible solution" not in text
    objective = float(value) if found and value is not None else None
    proved = "Optimal solution found" in text and "Stopped on" not in text
    lower = _find(r"Lower bound:\s*(\S+)", text)
    bound = objective if proved else (float(lower) if lower is not None else None)
    # A time-out that CBC reports as infeasible proves nothing; only its own words without a stop do.
    infeasible = (
        "Problem proven infeasible" in text or "Problem is infeasible" in text
    ) and "Stopped on" not in text
    status = _status(objective, bound, infeasible=infeasible, unbounded="unbounded" in text)
    return SolveReport(status, objective, bound, seconds, "cbc", version)


def _cbc_path() -> str | None:
    """The CBC on the search path, else the one inside PuLP's wheel (gone in PuLP 4)."""
    import shutil

    from pulp.apis import coin_api

    return shutil.which("cbc") or getattr(coin_api, "pulp_cbc_path", None)


def _find(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def _status(objective: float | None, bound: float | None, *, infeasible: bool, unbounded: bool) -> Status:
    if objective is None:
        return "infeasible" if infeasible else "unbounded" if unbounded else "unknown"
    if bound is not None:
        distance = abs(objective - bound) / max(1.0, abs(objective))
        if distance <= MEET_WITHIN:
            return "optimal"
    return "feasible"
