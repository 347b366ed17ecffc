"""How many segments of each class take which column: an integer program, and what its bound proves.

Counts are integers; the step's seconds are at least the sum of all segments' own and at least what every device, wire
and port has to carry; memories hold what lives in them, what is live at once, and the fetches in flight. Everything
that is left out (hand-overs between segments, fetches that come late, contention) only makes a step longer, so the
dual bound holds for every placement of these columns. The same program with one capacity changed says what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from hw_configs.problems import InfeasibleError, NoAnswerError
from hw_configs.units import format_quantity
from mapping.placement.columns import Column
from mapping.solver import SolveReport, SolverOptions, solve_model

if TYPE_CHECKING:
    import pulp

__all__ = [
    "Beside", "Capacity", "Crossing", "Objective", "Program", "Root", "Solution", "bound_columns", "solve_columns",
]  # fmt: skip

Objective = Literal["time", "energy"]
NEAR_COLUMNS: Final = 40
"""Columns of a class among which whole counts are looked for."""
DEFAULT_OPTIONS: Final = SolverOptions()
NEGLIGIBLE: Final = 1e-7
"""A load below this share of a segment's own time bounds nothing and is left out."""


@dataclass(frozen=True)
class Capacity:
    """What a machine gives: bytes of each memory group, members of each, and rows of each PIM memory."""

    usable: Mapping[str, float]
    reserved: Mapping[str, float] = field(default_factory=dict)
    """Bytes of each memory that activations take at once."""
    members: Mapping[str, int] = field(default_factory=dict)
    """How many alike devices or wires stand behind one resource."""
    pim_rows: int = 0
    idle_w: float = 0.0
    filled: float = 1.0
    """Share of the time that wires, ports and devices can be busy; below one in placements with some rest."""
    beside: Mapping[str, Beside] = field(default_factory=dict)
    """By memory port: who works on it, and what else can use it while nobody does."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A device whose kernels fill a memory's port, and the share of the port that wires can fill without it."""

    device: str
    share: float


@dataclass(frozen=True)
class Crossing:
    """Seconds between two classes by the memory in which the first ends and that in which the second begins."""

    seconds: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Program:
    """Classes with how many segments each has and the columns these may take."""

    counts: tuple[int, ...]
    columns: tuple[Sequence[Column], ...]
    ahead: int
    """Fetches on a way for which there is room; 0 where room for fetches is left out of account."""
    objective: Objective = "time"
    latency_s: float | None = None
    """The step's seconds may not be more."""
    waits: tuple[tuple[int, ...], ...] = ()
    """Where segments do not run one after another: the classes, of one segment each, that each waits for."""
    crossing: Mapping[tuple[int, int], Crossing] = field(default_factory=dict)
    """What goes from one class to another that waits for it, where they do not run one after another."""
    entering: Mapping[str, float] = field(default_factory=dict)
    """By memory: seconds that a segment which begins there waits at least when the one before it ended elsewhere."""
    tidy: bool = False
    """Whether, within ``latency_s``, the least work of all resources together is wanted, and not the least time."""


@dataclass(frozen=True)
class Solution:
    """How many segments of each class take each column, with the program's seconds, and what the solver proved."""

    taken: tuple[Mapping[int, int], ...]
    seconds: float
    """With every resource at its full rate."""
    solved_s: float
    """With resources at the rate that the program was solved for."""
    report: SolveReport
    bottleneck: str = ""
    """What the seconds are made of: ``the chain of operators``, or the resource that is busy all the time."""


@dataclass(frozen=True)
class Root:
    """What counts that need not be whole say: seconds, the objective that bounds every placement, columns near it."""

    seconds: float
    bound: float
    near: tuple[tuple[int, ...], ...]
    report: SolveReport


def bound_columns(program: Program, capacity: Capacity, options: SolverOptions = DEFAULT_OPTIONS) -> Root:
    """The linear program; ``InfeasibleError`` with demand and supply where nothing fits.

    Its reduced costs say which columns are near being taken: whole counts are looked for among those.
    """
    model, taken, seconds = _state(program, capacity, relaxed=True)
    report = solve_model(model, options)
    if report.status == "infeasible":
        raise InfeasibleError(_why_not(program, capacity))
    if not report.has_solution or report.objective is None:
        raise NoAnswerError("no bound was found within the limit")
    near = tuple(tuple(_nearest(own)) for own in taken)
    return Root(seconds.value(), report.objective, near, report)


def solve_columns(
    program: Program,
    capacity: Capacity,
    near: Sequence[Sequence[int]],
    options: SolverOptions = DEFAULT_OPTIONS,
) -> Solution:
    """The best whole counts among near columns; ``InfeasibleError`` or ``NoAnswerError`` where there are none."""
    few = replace(
        program, columns=tuple([c[i] for i in own] for c, own in zip(program.columns, near, strict=True))
    )
    model, taken, seconds = _state(few, capacity, relaxed=False)
    report = solve_model(model, options)
    if report.status == "infeasible":
        raise InfeasibleError("no whole counts of the columns fit")
    if not report.has_solution:
        raise NoAnswerError("no placement was found within the limit")
    counts = tuple(
        {own[index]: count for index, count in found.items()}
        for own, found in zip(near, _counts(taken), strict=True)
    )
    predicted, bottleneck = _predicted(program, counts, capacity)
    return Solution(counts, predicted or seconds.value(), seconds.value(), report, bottleneck)


def _nearest(taken: Mapping[int, Any]) -> list[int]:
    """Columns of a class that would cost least to take."""
    ranked = sorted(taken, key=lambda i: (-(taken[i].value() or 0.0) > -1e-9, taken[i].dj or 0.0, i))
    return ranked[:NEAR_COLUMNS]


def _counts(taken: Sequence[Mapping[int, Any]]) -> tuple[dict[int, int], ...]:
    return tuple(
        {index: round(value) for index, variable in own.items() if (value := variable.value() or 0.0) > 0.5}
        for own in taken
    )


def _state(
    program: Program, capacity: Capacity, relaxed: bool, short: dict[str, Any] | None = None
) -> tuple[pulp.LpProblem, list[dict[int, Any]], Any]:
    """The model, counts and seconds. ``short``: filled with what each memory lacks, which is then what is least."""
    import pulp

    kind = "Continuous" if relaxed else "Integer"
    model = pulp.LpProblem("placement", pulp.LpMinimize)
    # In milliseconds and megabytes, so that coefficients are near one.
    step = model.add_variable("step", 0)
    taken: list[dict[int, Any]] = []
    chain: list[tuple[Any, float]] = []
    loads: dict[str, list[tuple[Any, float]]] = {}
    held: dict[str, list[tuple[Any, float]]] = {}
    fetched: dict[tuple[tuple[str, str], int], list[Any]] = {}
    wanted: dict[tuple[tuple[str, str], int], list[Any]] = {}
    rows: list[tuple[Any, float]] = []
    joules: list[tuple[Any, float]] = []
    busy: list[tuple[Any, float]] = []
    for place, (count, columns) in enumerate(zip(program.counts, program.columns, strict=True)):
        own = {i: model.add_variable(f"n_{place}_{i}", 0, count, kind) for i in range(len(columns))}
        taken.append(own)
        model += pulp.LpAffineExpression([(variable, 1.0) for variable in own.values()]) == count
        for index, variable in own.items():
            column = columns[index]
            chain.append((variable, column.seconds * 1e3))
            joules.append((variable, column.joules))
            busy.append((variable, sum(column.loads.values())))
            for name, load in column.loads.items():
                if load > NEGLIGIBLE * column.seconds:
                    share = capacity.members.get(name, 1) * capacity.filled
                    loads.setdefault(name, []).append((variable, load * 1e3 / share))
            for memory, size in column.held.items():
                held.setdefault(memory, []).append((variable, size / 1e6))
            for way, size in column.fetched.items():
                fetched.setdefault((way, size), []).append(variable)
            for memory, size in column.wanted.items():
                wanted.setdefault((("", memory), size), []).append(variable)
            if column.pim_rows:
                rows.append((variable, column.pim_rows))
    if program.waits:
        _along_paths(model, program, taken, step)
    else:
        model += pulp.LpAffineExpression(chain) + _entered(model, program, taken) <= step
    for name, terms in loads.items():
        model += _added(terms) + _added(_unused(name, program, capacity, taken)) <= step
    buffers = _buffers(model, "ahead", sum(program.counts), program.ahead, fetched, relaxed)
    at_once = _buffers(model, "wanted", sum(program.counts), min(program.ahead, 1), wanted, relaxed)
    for memory in sorted({*held, *buffers, *at_once}):
        used = pulp.LpAffineExpression(held.get(memory, []))
        free = capacity.usable[memory] - capacity.reserved.get(memory, 0.0)
        under_way = [(room, 1.0) for room in (*buffers.get(memory, ()), *at_once.get(memory, ()))]
        lacks: Any = 0.0
        if short is not None:
            lacks = short[memory] = model.add_variable(f"short_{len(short)}", 0)
        model += used + pulp.LpAffineExpression(under_way) <= free / 1e6 + lacks
    if rows:
        model += pulp.LpAffineExpression(rows) <= capacity.pim_rows
    if program.latency_s is not None:
        model += step <= program.latency_s * 1e3
    if short is not None:
        model.setObjective(_added((lacks, 1.0) for lacks in short.values()))
    elif program.tidy:
        work = [(variable, load * 1e3) for variable, load in busy]
        model.setObjective(pulp.LpAffineExpression(work))
    elif program.objective == "energy":
        model.setObjective(pulp.LpAffineExpression(joules) + capacity.idle_w * 1e-3 * step)
    else:
        model.setObjective(1.0 * step)
    return model, taken, _Scaled(step)


@dataclass(frozen=True)
class _Scaled:
    """A variable in milliseconds, read in seconds."""

    variable: Any

    def value(self) -> float:
        return float(self.variable.value() or 0.0) * 1e-3


def _added(terms: Iterable[tuple[Any, float]]) -> Any:
    """A sum of variables with their factors."""
    import pulp

    return pulp.LpAffineExpression(list(terms))


def _unused(
    port: str, program: Program, capacity: Capacity, taken: Sequence[Mapping[int, Any]]
) -> Iterator[tuple[Any, float]]:
    """Time of a port that nothing can use: while operators run elsewhere, wires fill only their share of it."""
    beside = capacity.beside.get(port)
    if beside is None or program.waits:
        return
    for own, columns in zip(taken, program.columns, strict=True):
        for index, variable in own.items():
            elsewhere = columns[index].seconds - columns[index].loads.get(f"run {beside.device}", 0.0)
            if elsewhere > 0:
                yield variable, elsewhere * 1e3 * (1.0 - beside.share)


def _entered(model: pulp.LpProblem, program: Program, taken: Sequence[Mapping[int, Any]]) -> Any:
    """What segments wait for whose predecessor ended in another memory.

    At most as many find theirs in the memory in which they begin as end there, and the first of all has none.
    """
    balance: dict[str, list[tuple[Any, float]]] = {}
    for own, columns in zip(taken, program.columns, strict=True):
        for index, variable in own.items():
            begins, ends = columns[index].begins_in, columns[index].ends_in
            if begins != ends:
                balance.setdefault(begins, []).append((variable, 1.0))
                balance.setdefault(ends, []).append((variable, -1.0))
    terms = []
    for number, (memory, ends_and_begins) in enumerate(sorted(balance.items(), key=lambda item: item[0])):
        if program.entering.get(memory, 0.0) > 0:
            crossed = model.add_variable(f"entered_{number}", 0)
            model += crossed >= _added(ends_and_begins) - 1
            terms.append((crossed, program.entering[memory] * 1e3))
    return _added(terms)


def _along_paths(
    model: pulp.LpProblem, program: Program, taken: Sequence[Mapping[int, Any]], step: Any
) -> None:
    """No path of segments that wait for each other is longer than the step."""
    import pulp

    ends = []
    for index, (own, columns) in enumerate(zip(taken, program.columns, strict=True)):
        end = model.add_variable(f"end_{index}", 0)
        took = pulp.LpAffineExpression([(variable, columns[i].seconds * 1e3) for i, variable in own.items()])
        ends.append((end, took))
        model += step >= end
    for index, before in enumerate(program.waits):
        end, took = ends[index]
        model += end >= took
        for other in before:
            model += end >= ends[other][0] + took + _crossed(model, program, taken, other, index)


def _crossed(
    model: pulp.LpProblem, program: Program, taken: Sequence[Mapping[int, Any]], before: int, after: int
) -> Any:
    """Time that an activation takes between two classes, if they stand in different memories."""
    import pulp

    crossing = program.crossing.get((before, after))
    if crossing is None:
        return 0.0
    ends, begins = (dict[str, list[tuple[Any, float]]]() for _ in range(2))
    for index, variable in taken[before].items():
        ends.setdefault(program.columns[before][index].ends_in, []).append((variable, 1.0))
    for index, variable in taken[after].items():
        begins.setdefault(program.columns[after][index].begins_in, []).append((variable, 1.0))
    late = model.add_variable(f"cross_{before}_{after}", 0)
    for (source, target), seconds in crossing.seconds.items():
        if source in ends and target in begins:
            both = pulp.LpAffineExpression([*ends[source], *begins[target]])
            model += late >= seconds * 1e3 * (both - 1)
    return late


def _buffers(
    model: pulp.LpProblem, name: str, most: int, times: int,
    fetched: Mapping[tuple[tuple[str, str], int], list[Any]], relaxed: bool,
) -> dict[str, list[Any]]:  # fmt: skip
    """Room for what is under way into each memory: the largest that a column in use brings each way, so many times."""
    import pulp

    rooms: dict[tuple[str, str], Any] = {}
    found: dict[str, list[Any]] = {}
    for number, ((way, size), variables) in enumerate(sorted(fetched.items(), key=lambda item: item[0])):
        if way not in rooms:
            rooms[way] = model.add_variable(f"{name}_{len(rooms)}", 0)
            found.setdefault(way[1], []).append(rooms[way])
        used = model.add_variable(f"{name}_used_{number}", 0, 1, "Continuous" if relaxed else "Binary")
        model += pulp.LpAffineExpression([(variable, 1.0) for variable in variables]) <= most * used
        model += rooms[way] >= times * size / 1e6 * used
    return found


def _predicted(program: Program, taken: Sequence[Mapping[int, int]], capacity: Capacity) -> tuple[float, str]:
    """Seconds of counts with every resource at its full rate, and what they are made of.

    0 seconds where segments do not run one after another: then the program's own seconds stand.
    """
    chain, loads, balance = 0.0, dict[str, float](), dict[str, int]()
    for columns, own in zip(program.columns, taken, strict=True):
        for index, count in own.items():
            column = columns[index]
            chain += column.seconds * count
            balance[column.begins_in] = balance.get(column.begins_in, 0) + count
            balance[column.ends_in] = balance.get(column.ends_in, 0) - count
            for name, load in column.loads.items():
                loads[name] = loads.get(name, 0.0) + load * count / capacity.members.get(name, 1)
    chain += sum(max(0, count - 1) * program.entering.get(memory, 0.0) for memory, count in balance.items())
    fullest = max(loads, key=loads.__getitem__, default="")
    devices = {name: load for name, load in loads.items() if name.startswith("run ")}
    slowest = max(devices, key=devices.__getitem__, default="").removeprefix("run ")
    in_turn = f"operators one after another, most of it on {slowest}" if slowest else ""
    if program.waits:
        return 0.0, in_turn if not fullest or fullest in devices else fullest
    busiest = loads.get(fullest, 0.0)
    return max(chain, busiest), in_turn if chain >= busiest * (1 - 1e-6) else fullest


def _why_not(program: Program, capacity: Capacity) -> str:
    """Constraint, demand and supply: the least bytes that everything together needs, or the bound on latency."""
    if program.latency_s is not None:
        try:
            free = bound_columns(replace(program, latency_s=None), capacity)
        except InfeasibleError as error:
            return str(error)
        fastest = format_quantity(free.seconds, "time")
        bound = format_quantity(program.latency_s, "time")
        return f"a step takes {fastest} at least, and the bound on its latency is {bound}"
    short: dict[str, Any] = {}
    model, _, _ = _state(program, capacity, relaxed=True, short=short)
    if not solve_model(model, DEFAULT_OPTIONS).has_solution:
        return "the rows of the PIM memories do not hold the caches"
    lacking = {memory: (found.value() or 0.0) * 1e6 for memory, found in short.items()}
    told = []
    for memory, size in sorted(lacking.items(), key=lambda item: -item[1]):
        if size > 0.5e6:
            usable = capacity.usable[memory]
            told.append(
                f"{memory} would have to hold {format_quantity(usable + size, 'size')} and has "
                f"{format_quantity(usable, 'size')}, short by {format_quantity(size, 'size')}"
            )
    return (
        f"weights, caches and what is live at once do not fit: {'; '.join(told)}. What could help: so much more "
        "there, a narrower element type (--dtype), a smaller batch or context, or other memories that may hold them"
    )
