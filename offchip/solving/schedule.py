"""Operator order, addresses and replacement on a scratchpad, with a proof."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.board import as_board
from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, Problem, bad_input, nearest
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.units import format_quantity
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent
from workloads.workload import WorkloadOptions

if TYPE_CHECKING:
    from mapping.scheduling import ScheduleProblem, ScheduleResult
    from mapping.scheduling.baselines import Baseline
    from workloads.graph import Graph

__all__ = ["ScheduleOptions", "ScheduleSolution", "solve_schedule"]

SHOWN_ROWS: Final = 24


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """What is asked of a schedule.

    ``scratchpad``: bytes, or a size with its unit; or ``bank``: NAME=BYTES, several scratchpads; or the size of the
    machine ``hw``, which the objective time needs too. ``weights``: stream (past the scratchpad) or resident.
    ``method``: auto, ilp, decompose, divide, given-order (exact by bytes), or a baseline by name.
    ``objective``: bytes, peak or time.
    ``max_states`` instead of seconds makes the answer reproducible. ``compare`` runs the baselines beside it. ``out``:
    a file for the schedule; ``plot``: a picture of addresses over steps.
    From ``phase`` on: what the graph is of. ``in_place``: outputs of element-wise operators may take the bytes of an
    input that nobody needs any more.
    """

    scratchpad: str | int | None = None
    bank: Sequence[str] | None = None
    weights: str = "stream"
    method: str = "auto"
    objective: str = "bytes"
    hw: str | None = None
    time_limit: float = 60.0
    max_states: int | None = None
    compare: bool = False
    seed: int = 0
    out: str | Path | None = None
    plot: str | Path | None = None
    phase: str | None = None
    batch: int = 1
    prompt: int = 512
    dtype: str | None = None
    fused: bool = True
    dims: Mapping[str, int] = field(default_factory=dict)
    in_place: bool = False

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not problems:
            problems = list(_problems(self))
        if problems:
            raise InputError(problems)

    @property
    def workload(self) -> WorkloadOptions:
        """What is run."""
        return WorkloadOptions(
            phase=self.phase, batch=self.batch, prompt=self.prompt, dtype=self.dtype, fused=self.fused,
            dims=self.dims,
        )  # fmt: skip


class ScheduleChoices(TypedDict, total=False):
    """The fields of :class:`ScheduleOptions`, as keywords."""

    scratchpad: str | int | None
    bank: Sequence[str] | None
    weights: str
    method: str
    objective: str
    hw: str | None
    time_limit: float
    max_states: int | None
    compare: bool
    seed: int
    out: str | Path | None
    plot: str | Path | None
    phase: str | None
    batch: int
    prompt: int
    dtype: str | None
    fused: bool
    dims: Mapping[str, int]
    in_place: bool


@dataclass(frozen=True)
class ScheduleSolution(Shown):
    """A schedule with its proof, for the problem it is of, and the baselines beside it where they were asked for."""

    problem: ScheduleProblem
    result: ScheduleResult
    baselines: tuple[tuple[str, int | None, int | None, int | None], ...] | None = None
    """Name, cost in bytes, transfers and peak of each."""

    def as_json(self) -> dict[str, Any]:
        """The answer as plain data, with the schedule as its file holds it."""
        from mapping.scheduling.schedule_file import schedule_json

        problem, result = self.problem, self.result
        answer: dict[str, Any] = {
            "graph": problem.name,
            "operators": len(problem.operators),
            "tensors": len(problem.tensors),
            "weights": problem.weights,
            "scratchpad_bytes": result.scratchpad_bytes,
            "least_budget_bytes": problem.least_budget,
            "status": result.status,
            "objective": result.objective,
            "method": result.method,
            "cost_bytes": result.cost_bytes,
            "bound_bytes": result.bound_bytes,
            "gap": result.gap,
            "transfers": result.transfer_count,
            "peak_bytes": result.peak_bytes,
            "ties_proven": result.ties_proven,
            "compulsory_bytes": None if result.schedule is None else result.schedule.compulsory_bytes,
            "time_s": result.time_s,
            "bound_time_s": result.bound_time_s,
            "engine": result.engine,
            "version": result.version,
            "states": result.nodes,
            "seconds": round(result.seconds, 6),
            "seed": result.seed,
            "explanation": result.explanation,
            "schedule": None,
        }
        if result.schedule is not None:
            answer["schedule"] = schedule_json(problem, result)
        if self.baselines is not None:
            answer["baselines"] = [
                {"name": row[0], "cost_bytes": row[1], "transfers": row[2], "peak_bytes": row[3]}
                for row in self.baselines
            ]
        return answer

    def shown_tables(self) -> tuple[Table, ...]:
        """The proof, the transfers beyond the compulsory, and the baselines."""
        problem, result, rows = self.problem, self.result, self.baselines or ()

        def size(value: int | None) -> str:
            return "-" if value is None else f"{value} ({format_quantity(value, 'size')})"

        proof = ", fewest transfers and lowest peak proved" if result.ties_proven else ""
        lines: list[tuple[str, object]] = [
            ("status", result.status + proof),
            ("operators, tensors", f"{len(problem.operators)}, {len(problem.tensors)}"),
            ("scratchpad", size(result.scratchpad_bytes)),
            ("largest operator (M_R)", size(problem.least_budget)),
            ("non-compulsory traffic", size(result.cost_bytes)),
            (
                "lower bound" + (" on the peak" if result.objective == "peak" else ""),
                size(result.bound_bytes),
            ),
            ("gap", "-" if result.gap is None else f"{100 * result.gap:.3g} %"),
            ("spills and retrieves", "-" if result.transfer_count is None else result.transfer_count),
            ("peak", size(result.peak_bytes)),
        ]
        if result.schedule is not None:
            lines.append(("compulsory traffic", size(result.schedule.compulsory_bytes)))
        if result.time_s is not None and result.bound_time_s is not None:
            lines.append(("time", format_quantity(result.time_s, "time")))
            lines.append(("lower bound of the time", format_quantity(result.bound_time_s, "time")))
        engine = f"{result.method}: {result.engine}{' ' + result.version if result.version else ''}"
        lines.append(
            ("engine", f"{engine}, {result.nodes} states, {result.seconds:.3g} s, seed {result.seed}")
        )
        lines += [(key, value) for key, value in result.notes.items()]
        if result.status == "feasible" and result.explanation:
            lines.append(("", result.explanation))
        tables = [Table(f"solve schedule {problem.name}", ("", ""), tuple(lines))]
        moves = [move for move in result.transfers if move.kind in ("spill", "retrieve")]
        if moves:
            order = result.order
            shown = [
                (m.step, order[m.step] if m.step < len(order) else "(end)", m.kind, m.tensor, m.size_bytes)
                for m in moves[:SHOWN_ROWS]
            ]
            title = "transfers beyond the compulsory"
            if len(moves) > SHOWN_ROWS:
                title += f", the first {SHOWN_ROWS} of {len(moves)} (--out or --json: all)"
            columns = ("step", "before operator", "what", "tensor", "bytes")
            tables.append(Table(title, columns, tuple(shown)))
        if rows:
            names = ("order/replacement", "bytes", "transfers", "peak")
            tables.append(Table("baselines", names, tuple(rows)))
        return tuple(tables)

    def insist(self) -> None:
        """Raise ``InfeasibleError`` or ``NoAnswerError`` where there is no schedule."""
        result = self.result
        if result.status == "infeasible":
            raise InfeasibleError(f"infeasible (proved): {result.explanation}")
        if result.status == "unknown":
            raise NoAnswerError(result.explanation or "no schedule was found within the limit")


def solve_schedule(
    model: str | Path, *, progress: Reporter = silent, **options: Unpack[ScheduleChoices]
) -> ScheduleSolution:
    """Order operators and place tensors so that the fewest non-compulsory bytes cross the chip's edge.

    ``model`` is a built-in name, a graph JSON, an ``.onnx`` file or a ``config.json``; options are the fields of
    :class:`ScheduleOptions`. An answer without a schedule says so in its status;
    :meth:`ScheduleSolution.insist` raises for it. Raises ``InputError`` for bad input.

    >>> found = solve_schedule("resnet-18", dtype="int8", scratchpad="1 MiB", method="given/belady")
    >>> found.result.peak_bytes <= 2**20
    True
    """
    from mapping.scheduling import problem_from_graph
    from workloads.importers import load_workload

    chosen = from_keywords(ScheduleOptions, options)
    text = None if chosen.scratchpad is None else str(chosen.scratchpad)
    size = _size(text, list(chosen.bank or ()), chosen.hw)
    graph = load_workload(model, chosen.workload).phases[0].graph
    problem = problem_from_graph(graph, chosen.weights, str(model), in_place=chosen.in_place)  # type: ignore[arg-type]
    with progress("scheduling", 0):
        result = _solve(problem, graph, size, chosen)
    rows = tuple(_baselines(problem, size, chosen.time_limit)) if chosen.compare else None
    if result.schedule is not None:
        _write(problem, result, chosen)
    return ScheduleSolution(problem, result, rows)


def _problems(chosen: ScheduleOptions) -> list[Problem]:
    from mapping.scheduling import BASELINES
    from mapping.scheduling.solving import METHODS, OBJECTIVES

    problems = []
    for value, known, path in (
        (chosen.method, (*METHODS, *BASELINES), "--method"),
        (chosen.objective, OBJECTIVES, "--objective"),
        (chosen.weights, ("stream", "resident"), "--weights"),
    ):
        if value not in known:
            message = f"found {value!r}; expected one of {', '.join(known)}"
            problems.append(Problem(message, path=path, suggestion=nearest(value, known)))
    if chosen.plot is not None and Path(chosen.plot).suffix.lower() not in (".svg", ".png"):
        message = f"found {Path(chosen.plot).suffix!r}; expected a file that ends in .svg or .png"
        problems.append(Problem(message, path="--plot"))
    if chosen.objective == "time" and chosen.hw is None:
        problems.append(Problem("the objective time needs a machine: --hw SYSTEM", path="--objective"))
    if chosen.objective == "time" and chosen.bank:
        problems.append(Problem("the objective time takes one scratchpad, not banks", path="--bank"))
    if not chosen.time_limit > 0:
        message = f"found {chosen.time_limit:g}; expected seconds above zero"
        problems.append(Problem(message, path="--time-limit"))
    if chosen.max_states is not None and chosen.max_states < 1:
        problems.append(Problem(f"found {chosen.max_states}; expected at least 1", path="--max-states"))
    if chosen.method in BASELINES and (chosen.objective != "bytes" or chosen.bank):
        problems.append(Problem("a baseline knows neither banks nor other objectives", path="--method"))
    return problems


def _size(text: str | None, bank: list[str] | None, hw: str | None) -> int:
    """Bytes of the scratchpad: as given, the sum of the banks, or the machine's."""
    from hw_configs.units import UnitError, parse_quantity
    from hw_configs.whole_number import is_whole

    if (text is not None) + bool(bank) > 1 or (text is None and not bank and hw is None):
        raise bad_input("expected exactly one of --scratchpad and --bank (or the size of --hw)")
    if bank:
        from mapping.allocation.banks import parse_bank

        return sum(parse_bank(entry).capacity for entry in bank)
    if text is None:
        from hw_configs.library import load_system

        system = as_board(load_system(str(hw)))
        from mapping.scheduling.lowering import scratchpad_of

        node, _ = scratchpad_of(system)
        return int(system.memories[node.memory or node.name].usable_bytes)
    plain = text.strip().replace("_", "")
    try:
        value = (
            int(plain) if is_whole(plain[plain[:1] in ("+", "-") :]) else int(parse_quantity(text, "size"))
        )
    except (UnitError, ValueError) as error:
        raise bad_input(str(error), path="--scratchpad") from None
    if not 0 <= value <= 2**60:
        raise bad_input(f"found {value}; expected 0 to 2**60 bytes", path="--scratchpad")
    return value


def _solve(problem: ScheduleProblem, graph: Graph, size: int, chosen: ScheduleOptions) -> ScheduleResult:
    from mapping.scheduling import BASELINES, ScheduleResult, solve

    seconds = None if chosen.max_states else chosen.time_limit
    if chosen.method in BASELINES:
        found = _within(seconds, BASELINES[chosen.method], problem, size)
        return found or ScheduleResult(
            "unknown", "baseline", chosen.method, size, None, None, 0, None, chosen.time_limit,
            explanation=f"the baseline did not end within {chosen.time_limit:g} s (--time-limit)",
        )  # fmt: skip
    if chosen.objective == "time":
        from hw_configs.library import load_system
        from mapping.scheduling.timed import solve_timed

        system = as_board(load_system(str(chosen.hw)))
        return solve_timed(problem, graph, system, size, time_limit_s=seconds, seed=chosen.seed)
    if chosen.bank:
        from mapping.allocation.banks import parse_bank
        from mapping.scheduling.banks import solve_in_banks

        return solve_in_banks(
            problem, [parse_bank(entry) for entry in chosen.bank], time_limit_s=seconds,
            max_states=chosen.max_states, seed=chosen.seed,
        )  # fmt: skip
    return solve(
        problem, size, method=chosen.method, objective=chosen.objective,  # type: ignore[arg-type]
        time_limit_s=seconds, max_states=chosen.max_states, seed=chosen.seed,
    )  # fmt: skip


def _within(
    seconds: float | None, run: Baseline, problem: ScheduleProblem, size: int
) -> ScheduleResult | None:
    """What a baseline gives within so many seconds, None where it does not end."""
    from mapping.deadline import Budget, OutOfTimeError
    from mapping.scheduling.kernels import load_kernels

    load_kernels(addresses_alone=True)
    found: ScheduleResult | None = None
    with Budget(seconds).running(), contextlib.suppress(OutOfTimeError):
        found = run(problem, size)
    return found


def _baselines(problem: ScheduleProblem, size: int, seconds: float) -> list[tuple[Any, ...]]:
    """Name, cost, transfers and peak of each; those that do not end have none."""
    from mapping.scheduling import BASELINES

    if size < problem.least_budget:
        return []
    rows: list[tuple[Any, ...]] = []
    for name, run in BASELINES.items():
        found = _within(seconds / len(BASELINES), run, problem, size)
        known = (None,) * 3 if found is None else (found.cost_bytes, found.transfer_count, found.peak_bytes)
        rows.append((name, *known))
    return rows


def _write(problem: ScheduleProblem, result: ScheduleResult, chosen: ScheduleOptions) -> None:
    if chosen.out is not None:
        from mapping.scheduling import write_schedule

        write_schedule(problem, result, Path(chosen.out))
    if chosen.plot is not None:
        from mapping.scheduling.picture import draw_schedule

        draw_schedule(problem, result, Path(chosen.plot))
