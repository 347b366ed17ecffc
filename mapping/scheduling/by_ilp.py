"""Order, residency and addresses as one integer programme, as COSMA states it, in PuLP.

Li, Gupta, Malik, arXiv:2311.18246 (the equations as a public re-implementation quotes them). Tensor a at step t
is created C, preserved P, spilled S or retrieved R; L is its address; u and d say which of two residents lies
above. The model has the size of tensors squared times steps and is for small graphs: it is the reference for the
production path. Beside the published constraints stand what they leave open, each marked "open" below:

* no state before the first step, and exactly one operator to a step;
* no preserving beyond the last use, without which pairs must not be left out by liveness;
* what starts off-chip may be used at the step of its own first load;
* sizes in units of their greatest common divisor, and an integrality tolerance of 1e-9, because a big-M times a
  tolerance may hide an overlap of small tensors;
* addresses end below the capacity whether or not the tensor is resident (gating weakens the relaxation).

As published, a tensor cannot be moved between two adjacent steps: a spill takes a step in which it is away. Where
only a move gives room, the optimum of this model is above that of the problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from hw_configs.problems import PhysicsError, bad_input
from mapping.scheduling.baselines import BASELINES
from mapping.scheduling.check import check
from mapping.scheduling.instance import build_instance
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import Schedule, ScheduleResult, Status
from mapping.scheduling.stays import Stays, assemble, find_addresses, peak_bytes_of
from mapping.solver import SolverOptions, solve_model

__all__ = ["MOST_OPERATORS", "solve_by_ilp"]

MOST_OPERATORS: Final = 40
"""More operators make a model that no free solver gets anywhere with."""


def solve_by_ilp(
    problem: ScheduleProblem, scratchpad_bytes: int, *, time_limit_s: float | None = 60.0, seed: int = 0
) -> ScheduleResult:
    """The optimum of COSMA's programme, or the best schedule in the time with the solver's own bound.

    The scratchpad holds at least the problem's least budget. Starts from the cheapest baseline
    that the model can express. Raises
    ``InputError`` for more than :data:`MOST_OPERATORS` operators.
    """
    if len(problem.operators) > MOST_OPERATORS:
        raise bad_input(
            f"found {len(problem.operators)} operators; the integer programme takes at most {MOST_OPERATORS}: "
            "use the method auto",
            path="--method",
        )
    if problem.has_in_place:
        raise bad_input(
            "the integer programme knows no outputs that are written over inputs: use the method auto",
            path="--method",
        )
    starts = sorted(
        (run(problem, scratchpad_bytes) for run in BASELINES.values()),
        key=lambda result: (result.cost_bytes or 0, result.transfer_count or 0),
    )
    start = starts[0]
    model = _Model(problem, scratchpad_bytes)
    for candidate in starts:
        if candidate.schedule is not None and not model.started:
            model.warm_start(candidate.schedule)
    report = solve_model(
        model.model, SolverOptions(time_limit_s=time_limit_s, seed=seed, warm_start=model.started)
    )
    schedule, engine = start.schedule, f"baseline {start.engine}"
    if report.has_solution:
        found = _placed(problem, model, scratchpad_bytes)
        if found is not None and (schedule is None or _rank(found) <= _rank(schedule)):
            schedule, engine = found, report.backend
    bound = (
        max(math.ceil(report.bound * model.unit - 1e-6 * model.unit), 0) if report.bound is not None else 0
    )
    if schedule is None:
        status: Status = "unknown"
        return ScheduleResult(
            status, "ilp", report.backend, scratchpad_bytes, None, None, bound, None, report.seconds, 0, seed,
            version=report.version, explanation="the integer programme found no schedule in the time",
        )  # fmt: skip
    cost = schedule.cost_bytes
    bound = min(bound, cost)
    return ScheduleResult(
        "optimal" if bound == cost else "feasible", "ilp", engine, scratchpad_bytes, schedule, cost, bound,
        peak_bytes_of(problem, schedule), report.seconds, 0, seed, version=f"{report.backend} {report.version}",
        explanation=None if bound == cost else f"not proved optimal in the time: at least {bound} bytes must move",
    )  # fmt: skip


def _rank(schedule: Schedule) -> tuple[int, int]:
    return schedule.cost_bytes, schedule.transfer_count


def _placed(problem: ScheduleProblem, model: _Model, capacity: int) -> Schedule | None:
    """The solution as a schedule that holds.

    Where the capacity in units is so large that even the least tolerance times it hides an overlap, the addresses
    come from the allocation engine instead; None when it finds none.
    """
    stays, offsets = model.plan()
    schedule = assemble(problem, stays, offsets)
    if not check(problem, schedule, capacity):
        return schedule
    found = find_addresses(problem, stays, capacity)
    if found.status not in ("optimal", "feasible") or found.offsets is None:
        return None
    schedule = assemble(problem, stays, found.offsets.tolist())
    wrong = check(problem, schedule, capacity)
    if wrong:
        raise PhysicsError(f"the integer programme made a schedule that does not hold: {wrong[0]}")
    return schedule


class _Model:
    """The programme of one problem; variables are kept by (tensor or operator, step)."""

    def __init__(self, problem: ScheduleProblem, capacity: int) -> None:
        import pulp

        self.problem = problem
        self.model = pulp.LpProblem("cosma", pulp.LpMinimize)
        self.integer = pulp.LpInteger
        instance = build_instance(problem)
        n = len(problem.operators)
        self.steps = n
        ahead = [sum(int(word).bit_count() for word in row) for row in instance.ancestors.tolist()]
        behind = [sum(int(word).bit_count() for word in row) for row in instance.descendants.tolist()]
        self.window = [range(ahead[o], n - behind[o]) for o in range(n)]
        sizes = [t.size_bytes for t in problem.tensors] + [op.workspace_bytes for op in problem.operators]
        self.unit = math.gcd(*sizes) or 1
        # Addresses are multiples of the unit; what is left of the capacity above the last one is no use.
        self.capacity = capacity // self.unit
        self.size = [t.size_bytes // self.unit for t in problem.tensors]
        self.x = {(o, s): self._bit(f"x{o}_{s}") for o in range(n) for s in self.window[o]}
        self.state: dict[tuple[str, int, int], Any] = {}
        self.address: dict[tuple[int, int], Any] = {}
        self.apart: dict[tuple[int, int, int], tuple[Any, Any]] = {}
        self.started = False
        self._order()
        for t in range(len(problem.tensors)):
            self._tensor(t)
        self._inputs()
        self._room()
        self._objective()

    def _bit(self, name: str) -> Any:
        return self.model.add_variable(name, 0, 1, self.integer)

    def _sum(self, terms: Any) -> Any:
        import pulp

        return pulp.lpSum(terms)

    def _ran(self, o: int, steps: range) -> Any:
        return self._sum(self.x[o, s] for s in self.window[o] if s in steps)

    def _order(self) -> None:
        for o in range(self.steps):
            self.model += self._ran(o, range(self.steps)) == 1  # (7)
        for s in range(self.steps):
            # open: one operator to a step
            self.model += self._sum(self.x[o, s] for o in range(self.steps) if s in self.window[o]) == 1
        for o, waits in enumerate(self.problem.predecessors):
            for w in waits:
                for s in self.window[o]:
                    self.model += self._ran(w, range(s)) >= self.x[o, s]

    def life(self, t: int) -> range:
        """Steps at which a tensor may be resident in some order."""
        tensor = self.problem.tensors[t]
        users = [o for o in (tensor.producer, *tensor.consumers) if o >= 0]
        if not users:
            return range(0)
        return range(min(self.window[o].start for o in users), max(self.window[o].stop for o in users))

    def get(self, kind: str, t: int, s: int) -> Any:
        """A state variable; 0 outside the tensor's life, which is the base case (open)."""
        return self.state.get((kind, t, s), 0)

    def resident(self, t: int, s: int) -> Any:
        """C + P + R."""
        return self.get("C", t, s) + self.get("P", t, s) + self.get("R", t, s)

    def _tensor(self, t: int) -> None:
        tensor = self.problem.tensors[t]
        life = self.life(t)
        for s in life:
            if tensor.producer >= 0:
                if s in self.window[tensor.producer]:
                    self.state["C", t, s] = self.x[tensor.producer, s]  # (6)
            else:
                self.state["C", t, s] = self._bit(f"C{t}_{s}")
            if s > life.start:
                self.state["P", t, s] = self._bit(f"P{t}_{s}")
                self.state["R", t, s] = self._bit(f"R{t}_{s}")
                if not tensor.copy_free:
                    self.state["S", t, s] = self._bit(f"S{t}_{s}")
            self.address[t, s] = self.model.add_variable(
                f"L{t}_{s}", 0, self.capacity - self.size[t], self.integer
            )  # (9)
        if tensor.producer < 0 and life:
            self.model += self._sum(self.get("C", t, s) for s in life) == 1  # (7)
        for s in life:
            c, p, sp, r = (self.get(kind, t, s) for kind in "CPSR")
            self.model += c + p + sp + r <= 1  # (1)
            if s == life.start:
                continue
            self.model += p <= self.resident(t, s - 1)  # (2)
            if not tensor.copy_free:
                self.model += sp <= self.get("C", t, s - 1) + self.get("P", t, s - 1)  # (3)
                self.model += r <= self._sum(self.get("S", t, k) for k in range(life.start, s))  # (4)
            else:
                self.model += r <= self._sum(self.get("C", t, k) for k in range(life.start, s))  # (4)
            # open: nothing is preserved beyond its last use
            later = range(s, self.steps)
            self.model += p <= self._sum(self._ran(c, later) for c in tensor.consumers)
            top = self.capacity
            self.model += self.address[t, s] - self.address[t, s - 1] <= top * (1 - p)  # (11)
            self.model += self.address[t, s - 1] - self.address[t, s] <= top * (1 - p)
        if not tensor.copy_free:
            self.model += self._sum(self.get("S", t, s) for s in life) <= 1  # (8)

    def _inputs(self) -> None:
        for o, op in enumerate(self.problem.operators):
            for t in op.inputs:
                first = self.problem.tensors[t].producer < 0
                for s in self.window[o]:
                    there = self.get("P", t, s) + self.get("R", t, s)
                    # (5); open: what starts off-chip may be loaded first at this very step
                    self.model += self.x[o, s] <= there + (self.get("C", t, s) if first else 0)

    def _room(self) -> None:
        """(10) for every pair that may be resident together; a workspace is a resident of its operator's step."""
        workspaces = [o for o, op in enumerate(self.problem.operators) if op.workspace_bytes > 0]
        count = len(self.problem.tensors)
        for s in range(self.steps):
            here = [(t, self.size[t], self.resident(t, s)) for t in range(count) if (t, s) in self.address]
            for o in workspaces:
                if s in self.window[o]:
                    need = self.problem.operators[o].workspace_bytes // self.unit
                    self.address[count + o, s] = self.model.add_variable(
                        f"W{o}_{s}", 0, self.capacity - need, self.integer
                    )
                    here.append((count + o, need, self.x[o, s]))
            self.model += self._sum(size * there for _, size, there in here) <= self.capacity
            for i, (a, size_a, in_a) in enumerate(here):
                for b, size_b, in_b in here[i + 1 :]:
                    if size_a and size_b and not (a >= count and b >= count):
                        self._apart(a, b, s, size_a, size_b, in_a, in_b)

    def _apart(self, a: int, b: int, s: int, size_a: int, size_b: int, in_a: Any, in_b: Any) -> None:
        above, below = self._bit(f"u{a}_{b}_{s}"), self._bit(f"d{a}_{b}_{s}")
        la, lb, top = self.address[a, s], self.address[b, s], self.capacity
        self.model += la >= lb + size_b - top * (1 - above)
        self.model += lb >= la + size_a - top * (1 - below)
        self.model += above + below >= in_a + in_b - 1
        self.apart[a, b, s] = (above, below)

    def _objective(self) -> None:
        moved = [
            self.size[t] * variable for (kind, t, _), variable in self.state.items() if kind in ("S", "R")
        ]
        self.model.setObjective(self._sum(moved))  # (12)

    def warm_start(self, schedule: Schedule) -> None:
        """Values of a known schedule for every variable; none when the model cannot express it."""
        problem = self.problem
        step = {name: s for s, name in enumerate(schedule.order)}
        for (o, s), variable in self.x.items():
            variable.setInitialValue(int(step[problem.operators[o].name] == s))
        values: dict[Any, int] = {key: 0 for key, variable in self.state.items() if key[0] != "C"}
        values |= {key: 0 for key in self.state if key[0] == "C" and problem.tensors[key[1]].producer < 0}
        place: dict[tuple[int, int], int] = {}
        ends: dict[int, int] = {}
        for stay in schedule.residences:
            t = problem.tensor_index[stay.tensor]
            tensor = problem.tensors[t]
            if stay.offset % self.unit:
                return
            last = max((step[problem.operators[c].name] for c in tensor.consumers), default=-1)
            end = min(stay.end, max(last, stay.start) + 1)
            for s in range(stay.start, end):
                place[t, s] = stay.offset // self.unit
                if s > stay.start:
                    values["P", t, s] = 1
            made = tensor.producer >= 0 and step[problem.operators[tensor.producer].name] == stay.start
            if t in ends:
                if stay.start <= ends[t]:
                    return  # a move between adjacent steps
                values["R", t, stay.start] = 1
                if not tensor.copy_free and not any(values.get(("S", t, s)) for s in self.life(t)):
                    values["S", t, ends[t]] = 1
            elif not made:
                values["C", t, stay.start] = 1
            ends[t] = end
        if any(key not in self.state for key, value in values.items() if value):
            return
        for key, value in values.items():
            self.state[key].setInitialValue(value)
        self._warm_addresses(schedule, place)
        self.started = True

    def _warm_addresses(self, schedule: Schedule, place: dict[tuple[int, int], int]) -> None:
        problem, count = self.problem, len(self.problem.tensors)
        for s, name in enumerate(schedule.order):
            if name in schedule.workspaces:
                place[count + problem.operator_index[name], s] = schedule.workspaces[name] // self.unit
        last: dict[int, int] = {}
        for t, s in sorted(self.address):
            last[t] = place.get((t, s), 0)
            self.address[t, s].setInitialValue(last[t])
        size = [*self.size, *(op.workspace_bytes // self.unit for op in problem.operators)]
        for (a, b, s), (above, below) in self.apart.items():
            la, lb = place.get((a, s)), place.get((b, s))
            both = la is not None and lb is not None
            above.setInitialValue(int(both and la >= lb + size[b]))  # type: ignore[operator]
            below.setInitialValue(int(both and lb >= la + size[a]))  # type: ignore[operator]

    def plan(self) -> tuple[Stays, Sequence[int]]:
        """The solution as stays and offsets."""

        def on(variable: Any) -> bool:
            return not isinstance(variable, int) and round(variable.value()) == 1

        order = [0] * self.steps
        for (o, s), variable in self.x.items():
            if on(variable):
                order[s] = o
        step = {o: s for s, o in enumerate(order)}
        spans: list[tuple[int, int, int, int]] = []
        for t, tensor in enumerate(self.problem.tensors):
            uses = {step[o] for o in (tensor.producer, *tensor.consumers) if o >= 0}
            start = -1
            for s in range(self.steps + 1):
                kept = on(self.get("P", t, s))
                if start >= 0 and not kept:
                    end = max((use for use in uses if start <= use < s), default=-1) + 1
                    # A stay without a use (a first load long before it is needed) is no stay.
                    if end:
                        at = round(self.address[t, start].value()) * self.unit
                        spans.append((t, start, end, at))
                    start = -1
                if start < 0 and (on(self.get("C", t, s)) or on(self.get("R", t, s))):
                    start = s
        spans.sort(key=lambda span: (span[1], span[0]))
        offsets = [span[3] for span in spans]
        count = len(self.problem.tensors)
        for s, o in enumerate(order):
            if self.problem.operators[o].workspace_bytes > 0:
                offsets.append(round(self.address[count + o, s].value()) * self.unit)
        return Stays(tuple(order), tuple((t, a, b) for t, a, b, _ in spans)), offsets
