"""The master problem with no-good cuts, for the rare plan that has no addresses (logic-based Benders).

The master decides the step of every operator and which tensors stay from step to step, under the bytes of the
scratchpad alone; OR-tools CP-SAT solves it (the extra ``cpsat``). The stays of its optimum go to the allocation
engine. When they do not fit, the engine names a set of stays that cannot lie together; a cut forbids that set
at those steps, and the master is solved again. Every master optimum is a proven bound; the first whose stays fit
is optimal for the whole. CP-SAT is also a second opinion where the layered search does not finish.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from mapping.deadline import running_budget
from mapping.scheduling.instance import WORD_BITS, build_instance
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.search import COST_SCALE
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import Stays, find_addresses

__all__ = ["MASTER_OPERATORS", "Master", "has_cp_sat", "solve_with_cuts"]

MASTER_OPERATORS: Final = 64
"""The model grows with the square of the operators; beyond so many it is not stated."""

_MOST_CUTS: Final = 400
_CUTS_WITHOUT_CLOCK: Final = 40
_DETERMINISTIC_S: Final = 60.0


def has_cp_sat() -> bool:
    """Whether OR-tools is installed."""
    return find_spec("ortools") is not None


def solve_with_cuts(run: SolverRun, most_seconds: float | None) -> None:
    """Solve the master, cut off what has no addresses, until the optimum is proved or the time is over.

    ``most_seconds`` limits one solve of the master. A run without a clock (one that ends by its states) counts
    CP-SAT's own deterministic seconds instead.
    """
    if not has_cp_sat() or len(run.problem.operators) > MASTER_OPERATORS or run.problem.has_in_place:
        # The model knows no outputs written over inputs: its bound would not hold for them.
        return
    master = Master(run.problem, run.capacity, run.seed)
    if run.best is not None:
        master.hint(run.best[1])
    for _ in range(_MOST_CUTS if run.budget.seconds is not None else _CUTS_WITHOUT_CLOCK):
        if run.budget.spent:
            return
        left = run.budget.seconds_left()
        limits = [seconds for seconds in (left, most_seconds) if seconds is not None]
        bound, stays = master.solve(min(limits, default=_DETERMINISTIC_S), clock=left is not None)
        run.raise_bound(bound * COST_SCALE)
        if run.proved or stays is None:
            return
        if run.offer(stays, "cp-sat"):
            if run.proved:
                return
            continue
        found = find_addresses(
            run.problem, stays, run.capacity, seconds=run.budget.seconds_left(), explain=True
        )
        if found.status != "infeasible":
            # Neither addresses nor a proof that there are none: the cut would not be sound.
            return
        blamed = found.explanation.buffers if found.explanation is not None else None
        master.forbid(stays, range(len(stays.spans)) if blamed is None else blamed)


class Master:
    """The CP-SAT model: ``x[o, s]`` operator o runs at step s, ``held[t, s]``, ``kept[t, s]`` from s - 1 to s."""

    def __init__(self, problem: ScheduleProblem, capacity: int, seed: int = 0) -> None:
        from ortools.sat.python import cp_model

        self.problem, self.seed = problem, seed
        self.model: Any = cp_model.CpModel()
        n = len(problem.operators)
        instance = build_instance(problem)
        count = [[sum(int(word).bit_count() for word in row) for row in rows.tolist()]
                 for rows in (instance.ancestors, instance.descendants)]  # fmt: skip
        assert WORD_BITS < 63
        self.windows = [range(count[0][o], n - count[1][o]) for o in range(n)]
        self.x: dict[tuple[int, int], Any] = {
            (o, s): self.model.new_bool_var(f"x{o}_{s}") for o in range(n) for s in self.windows[o]
        }
        self.held: dict[tuple[int, int], Any] = {}
        self.kept: dict[tuple[int, int], Any] = {}
        self.tracked = instance.tracked.tolist()
        self._order(n)
        self._residency(n)
        self._capacity(n, capacity)

    def _order(self, n: int) -> None:
        for o in range(n):
            self.model.add_exactly_one(self.x[o, s] for s in self.windows[o])
        for s in range(n):
            self.model.add_exactly_one(self.x[o, s] for o in range(n) if s in self.windows[o])
        for o, waits in enumerate(self.problem.predecessors):
            for w in waits:
                for s in self.windows[o]:
                    self.model.add(self._done(w, s - 1) >= self.x[o, s])

    def _done(self, o: int, s: int) -> Any:
        return sum(self.x[o, k] for k in self.windows[o] if k <= s)

    def _at(self, operators: Any, s: int) -> Any:
        return sum(self.x[o, s] for o in operators if s in self.windows[o])

    def _residency(self, n: int) -> None:
        cost: list[Any] = []
        for t in self.tracked:
            tensor = self.problem.tensors[t]
            fetches = []
            written = self.model.new_bool_var(f"w{t}") if not tensor.copy_free else None
            for s in range(n):
                held = self.held[t, s] = self.model.new_bool_var(f"h{t}_{s}")
                kept = self.kept[t, s] = self.model.new_bool_var(f"k{t}_{s}") if s else 0
                fetch = self.model.new_bool_var(f"f{t}_{s}")
                made = self._at([tensor.producer], s) if tensor.producer >= 0 else 0
                uses = self._at(tensor.consumers, s)
                self.model.add(held == kept + fetch + made)
                self.model.add(fetch <= uses)
                self.model.add(held >= uses)
                if s:
                    self.model.add_implication(kept, self.held[t, s - 1])
                if written is not None:
                    self.model.add_implication(fetch, written)
                fetches.append(fetch)
            # The first fetch of what starts off-chip is compulsory.
            free = 1 if tensor.producer < 0 else 0
            cost.append(tensor.size_bytes * (sum(fetches) - free))
            if written is not None:
                cost.append(tensor.size_bytes * written)
        self.model.minimize(sum(cost))

    def _capacity(self, n: int, capacity: int) -> None:
        tracked = set(self.tracked)
        size = [tensor.size_bytes for tensor in self.problem.tensors]
        rest = [
            op.workspace_bytes + sum(size[t] for t in (*op.inputs, *op.outputs) if t not in tracked)
            for op in self.problem.operators
        ]
        for s in range(n):
            used = [size[t] * self.held[t, s] for t in self.tracked]
            used += [rest[o] * self.x[o, s] for o in range(n) if s in self.windows[o] and rest[o]]
            self.model.add(sum(used) <= capacity)

    def hint(self, stays: Stays) -> None:
        """Start from a known schedule."""
        step = {o: s for s, o in enumerate(stays.order)}
        for (o, s), variable in self.x.items():
            self.model.add_hint(variable, int(step[o] == s))
        inside = {(t, s) for t, start, end in stays.spans for s in range(start, end)}
        for key, variable in self.held.items():
            self.model.add_hint(variable, int(key in inside))

    def forbid(self, stays: Stays, blamed: Any) -> None:
        """No schedule may hold all the blamed stays (indices as in the allocation problem) at these steps."""
        workers = [o for o in stays.order if self.problem.operators[o].workspace_bytes > 0]
        step = {o: s for s, o in enumerate(stays.order)}
        literals: list[Any] = []
        tracked = set(self.tracked)
        for b in blamed:
            if b >= len(stays.spans):
                o = workers[b - len(stays.spans)]
                literals.append(self.x[o, step[o]])
                continue
            t, start, end = stays.spans[b]
            if t in tracked:
                literals.append(self.held[t, start])
                literals += [self.kept[t, s] for s in range(start + 1, end)]
            else:
                literals.append(self.x[stays.order[start], start])
        self.model.add_bool_or([literal.negated() for literal in literals])

    def solve(self, seconds: float, clock: bool = True) -> tuple[int, Stays | None]:
        """(proven bound in bytes, stays of the optimum); no stays when the optimum was not proved in the time."""
        from ortools.sat.python import cp_model

        solver: Any = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = self.seed
        if clock:
            solver.parameters.max_time_in_seconds = max(seconds, 0.01)
        else:
            solver.parameters.max_deterministic_time = seconds
        budget = running_budget()
        if budget is None:
            status = solver.solve(self.model)
        else:
            with budget.stopping(solver.stop_search):
                status = budget.call(solver.solve, self.model, long=True)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return 0, None
        bound = max(round(solver.best_objective_bound), 0)
        n = len(self.problem.operators)
        order = [0] * n
        for (o, s), variable in self.x.items():
            if solver.value(variable):
                order[s] = o
        spans = []
        for t in self.tracked:
            start = -1
            for s in range(n + 1):
                held = s < n and bool(solver.value(self.held[t, s]))
                kept = held and s > 0 and bool(solver.value(self.kept[t, s]))
                if start >= 0 and not kept:
                    spans.append((t, start, s))
                    start = -1
                if held and start < 0:
                    start = s
        tracked = set(self.tracked)
        step = {o: s for s, o in enumerate(order)}
        for t, tensor in enumerate(self.problem.tensors):
            if t not in tracked:
                uses = [step[o] for o in (tensor.producer, *tensor.consumers) if o >= 0]
                spans += [(t, min(uses), max(uses) + 1)] if uses else []
        spans.sort(key=lambda span: (span[1], span[0]))
        return bound, _shortened(self.problem, Stays(tuple(order), tuple(spans)))


def _shortened(problem: ScheduleProblem, stays: Stays) -> Stays:
    """Every stay ends with its last use: what the master holds longer for no reason only takes room."""
    step = {o: s for s, o in enumerate(stays.order)}
    spans = []
    for t, start, end in stays.spans:
        tensor = problem.tensors[t]
        uses = [step[o] for o in (tensor.producer, *tensor.consumers) if o >= 0 and start <= step[o] < end]
        spans.append((t, start, max(uses) + 1))
    return Stays(stays.order, tuple(spans))
