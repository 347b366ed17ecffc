"""``offchip solve schedule``: operator order, addresses and replacement on a scratchpad, with a proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, Problem, bad_input, nearest

if TYPE_CHECKING:
    from mapping.scheduling import ScheduleProblem, ScheduleResult

__all__ = ["schedule", "to_json"]

SHOWN_ROWS = 24


def schedule(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="built-in name, graph JSON, .onnx, config.json")
    ],
    scratchpad: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Scratchpad size: 1048576, or with a unit: 1MiB.")
    ] = None,
    bank: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BYTES", help="Several scratchpads; no tensor lies across two."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="stream (past the scratchpad) or resident (whole, while their operator runs).")
    ] = "stream",
    method: Annotated[
        str, typer.Option(help="auto, ilp, decompose, divide, or a baseline by name.")
    ] = "auto",
    objective: Annotated[
        str, typer.Option(help="bytes (off-chip), peak (footprint) or time (with --hw).")
    ] = "bytes",
    hw: Annotated[
        str | None, typer.Option("--hw", help="scratchpad machine, for the objective time and its size")
    ] = None,
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds.")] = 60.0,
    max_states: Annotated[
        int | None, typer.Option(help="Search states instead of seconds; makes the answer reproducible.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show the baselines beside it.")] = False,
    phase: Annotated[str | None, typer.Option(help="prefill, decode or train")] = None,
    batch: Annotated[int, typer.Option(help="sequences or images at once")] = 1,
    prompt: Annotated[int, typer.Option(help="tokens of the prompt")] = 512,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    unfused: Annotated[
        bool, typer.Option("--unfused", help="every projection an operator of its own")
    ] = False,
    dim: Annotated[list[str] | None, typer.Option(help="NAME=SIZE of a symbolic ONNX dimension")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="PLAN.json", help="Write the schedule for 'simulate --plan'.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw addresses over steps (.svg or .png).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Order operators and place tensors so that the fewest non-compulsory bytes cross the chip's edge.

    Exit codes: 0 done; 2 bad input; 3 infeasible (proved); 4 no answer within the limit.
    """
    from mapping.scheduling import problem_from_graph
    from offchip.cli.models import named_sizes
    from workloads.importers import load_workload
    from workloads.workload import WorkloadOptions

    _check_options(method, objective, weights, plot, hw, time_limit, max_states, bank)
    size = _size(scratchpad, bank, hw)
    options = WorkloadOptions(
        phase=phase, batch=batch, prompt=prompt, dtype=dtype, fused=not unfused, dims=named_sizes(dim or [])
    )
    workload = load_workload(model, options)
    graph = workload.phases[0].graph
    problem = problem_from_graph(graph, weights, model)  # type: ignore[arg-type]
    result = _solve(
        problem,
        graph,
        size,
        method,
        objective,
        hw,
        bank,
        None if max_states else time_limit,
        max_states,
        seed,
    )
    rows = _baselines(problem, size) if compare else []
    if result.schedule is not None:
        _write(problem, result, out, plot)
    if as_json:
        from offchip.cli.output import print_json

        answer = to_json(problem, result)
        if compare:
            answer["baselines"] = [
                {"name": row[0], "cost_bytes": row[1], "transfers": row[2], "peak_bytes": row[3]}
                for row in rows
            ]
        print_json(answer)
    else:
        _print(problem, result, rows)
    _leave(result)


def to_json(problem: ScheduleProblem, result: ScheduleResult) -> dict[str, Any]:
    """A result as one JSON object, with the schedule as its file holds it."""
    from mapping.scheduling.schedule_file import schedule_json

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
    return answer


def _check_options(
    method: str,
    objective: str,
    weights: str,
    plot: Path | None,
    hw: str | None,
    time_limit: float,
    max_states: int | None,
    bank: list[str] | None,
) -> None:
    from mapping.scheduling import BASELINES
    from mapping.scheduling.solving import METHODS, OBJECTIVES

    problems = []
    for value, known, path in (
        (method, (*METHODS, *BASELINES), "--method"),
        (objective, OBJECTIVES, "--objective"),
        (weights, ("stream", "resident"), "--weights"),
    ):
        if value not in known:
            message = f"found {value!r}; expected one of {', '.join(known)}"
            problems.append(Problem(message, path=path, suggestion=nearest(value, known)))
    if plot is not None and plot.suffix.lower() not in (".svg", ".png"):
        message = f"found {plot.suffix!r}; expected a file that ends in .svg or .png"
        problems.append(Problem(message, path="--plot"))
    if objective == "time" and hw is None:
        problems.append(Problem("the objective time needs a machine: --hw SYSTEM", path="--objective"))
    if objective == "time" and bank:
        problems.append(Problem("the objective time takes one scratchpad, not banks", path="--bank"))
    if not time_limit > 0:
        problems.append(Problem(f"found {time_limit:g}; expected seconds above zero", path="--time-limit"))
    if max_states is not None and max_states < 1:
        problems.append(Problem(f"found {max_states}; expected at least 1", path="--max-states"))
    if method in BASELINES and (objective != "bytes" or bank):
        problems.append(Problem("a baseline knows neither banks nor other objectives", path="--method"))
    if problems:
        raise InputError(problems)


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
        from mapping.scheduling.lowering import scratchpad_of
        from offchip import api

        system = api.load_system(str(hw))
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


def _solve(
    problem: ScheduleProblem,
    graph: Any,
    size: int,
    method: str,
    objective: str,
    hw: str | None,
    bank: list[str] | None,
    seconds: float | None,
    max_states: int | None,
    seed: int,
) -> ScheduleResult:
    from mapping.scheduling import BASELINES, solve
    from offchip.cli.output import progress

    with progress("scheduling", 0):
        if method in BASELINES:
            return BASELINES[method](problem, size)
        if objective == "time":
            from mapping.scheduling.timed import solve_timed
            from offchip import api

            return solve_timed(
                problem, graph, api.load_system(str(hw)), size, time_limit_s=seconds, seed=seed
            )
        if bank:
            from mapping.allocation.banks import parse_bank
            from mapping.scheduling.banks import solve_in_banks

            return solve_in_banks(
                problem,
                [parse_bank(entry) for entry in bank],
                time_limit_s=seconds,
                max_states=max_states,
                seed=seed,
            )
        return solve(
            problem, size, method=method, objective=objective,  # type: ignore[arg-type]
            time_limit_s=seconds, max_states=max_states, seed=seed,
        )  # fmt: skip


def _baselines(problem: ScheduleProblem, size: int) -> list[tuple[Any, ...]]:
    from mapping.scheduling import BASELINES

    if size < problem.least_budget:
        return []
    rows: list[tuple[Any, ...]] = []
    for name, run in BASELINES.items():
        found = run(problem, size)
        rows.append((name, found.cost_bytes, found.transfer_count, found.peak_bytes))
    return rows


def _write(problem: ScheduleProblem, result: ScheduleResult, out: Path | None, plot: Path | None) -> None:
    if out is not None:
        from mapping.scheduling import write_schedule

        write_schedule(problem, result, out)
    if plot is not None:
        from mapping.scheduling.picture import draw_schedule

        draw_schedule(problem, result, plot)


def _print(problem: ScheduleProblem, result: ScheduleResult, rows: list[tuple[Any, ...]]) -> None:
    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    def size(value: int | None) -> str:
        return "-" if value is None else f"{value} ({format_quantity(value, 'size')})"

    proof = ", fewest transfers and lowest peak proved" if result.ties_proven else ""
    lines: list[tuple[str, object]] = [
        ("status", result.status + proof),
        ("operators, tensors", f"{len(problem.operators)}, {len(problem.tensors)}"),
        ("scratchpad", size(result.scratchpad_bytes)),
        ("largest operator (M_R)", size(problem.least_budget)),
        ("non-compulsory traffic", size(result.cost_bytes)),
        ("lower bound" + (" on the peak" if result.objective == "peak" else ""), size(result.bound_bytes)),
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
    lines.append(("engine", f"{engine}, {result.nodes} states, {result.seconds:.3g} s, seed {result.seed}"))
    lines += [(key, value) for key, value in result.notes.items()]
    if result.status == "feasible" and result.explanation:
        lines.append(("", result.explanation))
    print_table(f"solve schedule {problem.name}", ("", ""), lines)
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
        print_table(title, ("step", "before operator", "what", "tensor", "bytes"), shown)
    if rows:
        print_table("baselines", ("order/replacement", "bytes", "transfers", "peak"), rows)


def _leave(result: ScheduleResult) -> None:
    if result.status == "infeasible":
        raise InfeasibleError(f"infeasible (proved): {result.explanation}")
    if result.status == "unknown":
        raise NoAnswerError(result.explanation or "no schedule was found within the limit")
