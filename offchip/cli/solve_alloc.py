"""``offchip solve alloc``: static memory allocation with a proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, Problem, bad_input

if TYPE_CHECKING:
    from mapping.allocation import AllocationProblem, AllocationResult

SHOWN_ROWS = 30


def alloc(
    buffers: Annotated[
        Path,
        typer.Argument(
            metavar="BUFFERS", help="MiniMalloc CSV, malloc/free trace, memory snapshot or arena plan."
        ),
    ],
    capacity: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Find a plan below this: 1048576, or with a unit: 1MiB."),
    ] = None,
    minimize: Annotated[bool, typer.Option("--minimize", help="Find the least peak.")] = False,
    time_limit: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds; 60 if nothing is given.")
    ] = None,
    max_nodes: Annotated[
        int | None, typer.Option(help="Search nodes; makes the answer reproducible.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, greedy, search or mip.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    near: Annotated[
        Path | None,
        typer.Option(metavar="PLAN.csv", help="Keep offsets of this earlier plan where possible."),
    ] = None,
    bank: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BYTES[@COST]", help="Several memories with capacity and cost per byte."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan as CSV with offsets.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the packing (.svg or .png).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Give every buffer an address, below a capacity or with the least peak, and say what was proved.

    Exit codes: 0 done; 2 bad input; 3 infeasible (proved); 4 no answer within the limit.
    """
    from mapping.allocation import solve
    from mapping.allocation.importers import read_problem

    limit = _limit(capacity)
    if (limit is not None) + minimize + bool(bank) != 1:
        raise bad_input("expected exactly one of --capacity, --minimize and --bank")
    if time_limit is not None and not time_limit > 0:
        raise InputError([Problem(f"found {time_limit:g}; expected seconds above zero", path="--time-limit")])
    if max_nodes is not None and max_nodes < 1:
        raise InputError([Problem(f"found {max_nodes}; expected at least 1", path="--max-nodes")])
    if plot is not None and plot.suffix.lower() not in (".svg", ".png"):
        raise bad_input(f"found {plot.suffix!r}; expected a file that ends in .svg or .png", path="--plot")
    problem = read_problem(buffers)
    seconds = time_limit if time_limit is not None or max_nodes is not None else 60.0
    if bank:
        _banks(problem, bank, seconds, max_nodes, seed, out, as_json)
        return
    if near is not None:
        from mapping.allocation.replan import replan

        result = replan(
            problem, _earlier(near), limit, time_limit_s=seconds, max_nodes=max_nodes, seed=seed
        ).result
    else:
        result = solve(problem, limit, time_limit_s=seconds, max_nodes=max_nodes, engine=engine, seed=seed)  # type: ignore[arg-type]
    spills = _spills(problem, result)
    if result.status in ("optimal", "feasible") and result.offsets is not None:
        _write(problem, result, out, plot)
    if as_json:
        from offchip.cli.output import print_json

        print_json(to_json(problem, result) | ({"spill": spills} if spills else {}))
    else:
        _print(buffers.name, problem, result)
    _leave(result, spills)


def to_json(problem: AllocationProblem, result: AllocationResult) -> dict[str, Any]:
    """A result as one JSON object; offsets by buffer id."""
    answer: dict[str, Any] = {
        "status": result.status,
        "capacity": result.capacity_bytes,
        "peak": result.peak_bytes,
        "bound": result.bound_bytes,
        "gap": result.gap,
        "engine": result.engine,
        "nodes": result.nodes,
        "seconds": round(result.seconds, 6),
        "seed": result.seed,
        "interrupted": result.interrupted,
        "offsets": None,
    }
    if result.offsets is not None:
        answer["offsets"] = {str(problem.ids[i]): int(result.offsets[i]) for i in range(len(problem))}
    why = result.explanation
    if why is not None:
        answer["explanation"] = {
            "kind": why.kind,
            "message": why.message,
            "buffers": [str(problem.ids[i]) for i in why.buffers],
            "minimal": why.minimal,
            "time": None if why.lower is None else [why.lower, why.upper],
            "live_bytes": why.live_bytes,
        }
    return answer


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    from hw_configs.units import UnitError, parse_quantity
    from hw_configs.whole_number import is_whole

    plain = text.strip().replace("_", "")
    try:
        value = (
            int(plain) if is_whole(plain[plain[:1] in ("+", "-") :]) else int(parse_quantity(text, "size"))
        )
    except (UnitError, ValueError) as error:
        raise bad_input(str(error), path="--capacity") from None
    if not 0 <= value <= 2**60:
        raise bad_input(f"found {value}; expected 0 to 2**60 bytes", path="--capacity")
    return value


def _earlier(path: Path) -> dict[str, int]:
    from mapping.allocation.importers import read_problem

    plan = read_problem(path)
    if len(plan) and not (plan.fixed >= 0).any():
        raise bad_input("has no column 'offset'; expected a plan written by --out", file=str(path))
    return {str(plan.ids[i]): int(plan.fixed[i]) for i in range(len(plan)) if plan.fixed[i] >= 0}


def _spills(problem: AllocationProblem, result: AllocationResult) -> list[dict[str, Any]]:
    if result.status != "infeasible" or result.capacity_bytes is None:
        return []
    from mapping.allocation.spill import suggest_spills

    return [
        {"id": str(problem.ids[i]), "bytes": int(problem.size[i])}
        for i in suggest_spills(problem, result.capacity_bytes).buffers
    ]


def _write(problem: AllocationProblem, result: AllocationResult, out: Path | None, plot: Path | None) -> None:
    assert result.offsets is not None
    if out is not None:
        from mapping.allocation.csv_format import to_csv, write_text

        write_text(out, to_csv(problem, result.offsets.tolist()))
    if plot is not None:
        from mapping.allocation.picture import draw

        draw(problem, result.offsets.tolist(), plot, capacity=result.capacity_bytes)


def _print(title: str, problem: AllocationProblem, result: AllocationResult) -> None:
    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    def size(value: int | None) -> str:
        return "-" if value is None else f"{value} ({format_quantity(value, 'size')})"

    lines = [
        ("status", result.status + (", interrupted" if result.interrupted else "")),
        ("buffers", len(problem)),
        ("capacity", size(result.capacity_bytes)),
        ("peak", size(result.peak_bytes)),
        ("lower bound", size(result.bound_bytes)),
        ("gap", "-" if result.gap is None else f"{100 * result.gap:.3f} %"),
        ("engine", f"{result.engine}, {result.nodes} nodes, {result.seconds:.3g} s, seed {result.seed}"),
    ]
    print_table(f"solve alloc {title}", ("", ""), lines)
    if result.status not in ("optimal", "feasible") or result.offsets is None:
        return
    order = sorted(range(len(problem)), key=lambda i: (int(problem.lower[i]), int(problem.upper[i])))
    rows = [
        (
            problem.ids[i],
            int(problem.lower[i]),
            int(problem.upper[i]),
            int(problem.size[i]),
            int(result.offsets[i]),
        )
        for i in order[:SHOWN_ROWS]
    ]
    shown = (
        f", the first {SHOWN_ROWS} of {len(problem)} (--out or --json: all)"
        if len(problem) > SHOWN_ROWS
        else ""
    )
    print_table(f"plan{shown}", ("id", "lower", "upper", "size", "offset"), rows)


def _leave(result: AllocationResult, spills: list[dict[str, Any]]) -> None:
    if result.status == "infeasible":
        words = [f"infeasible (proved): no plan below {result.capacity_bytes} bytes"]
        if result.explanation is not None:
            words.append(result.explanation.message)
        if spills:
            names = ", ".join(str(item["id"]) for item in spills[:10]) + (", ..." if len(spills) > 10 else "")
            words.append(
                f"it fits without {len(spills)} buffers, {sum(s['bytes'] for s in spills)} bytes: {names}"
            )
        raise InfeasibleError("; ".join(words))
    if result.status == "unknown":
        best = "none" if result.peak_bytes is None else f"peak {result.peak_bytes}"
        raise NoAnswerError(
            f"no plan below {result.capacity_bytes} bytes was found within the limit, and none was excluded; "
            f"best plan: {best}, lower bound {result.bound_bytes}"
        )


def _banks(
    problem: AllocationProblem,
    texts: list[str],
    seconds: float | None,
    max_nodes: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from mapping.allocation.banks import parse_bank, solve_banks
    from offchip.cli.output import print_json, print_table

    banks = [parse_bank(text) for text in texts]
    plan = solve_banks(problem, banks, time_limit_s=seconds, max_nodes=max_nodes, seed=seed)
    if plan is None:
        raise NoAnswerError("no assignment of the buffers to the banks was found; none was excluded")
    rows = [
        (str(problem.ids[i]), banks[plan.bank[i]].name, int(plan.offsets[i]), int(problem.size[i]))
        for i in range(len(problem))
    ]
    if out is not None:
        from mapping.allocation.csv_format import write_text

        write_text(out, "id,bank,offset,size\n" + "".join(f"{a},{b},{c},{d}\n" for a, b, c, d in rows))
    if as_json:
        print_json(
            {
                "status": plan.status,
                "cost": plan.cost,
                "bound": plan.bound,
                "banks": {
                    bank.name: {"capacity": bank.capacity, "peak": peak} for bank, peak in plan.peaks(banks)
                },
                "placement": {name: {"bank": where, "offset": offset} for name, where, offset, _ in rows},
            }
        )
        return
    lines = [(bank.name, bank.capacity, peak, bank.cost_per_byte) for bank, peak in plan.peaks(banks)]
    title = f"banks: {plan.status}, cost {plan.cost:g}, lower bound {plan.bound:g}"
    print_table(title, ("bank", "capacity", "peak", "cost per byte"), lines)
    print_table("plan", ("id", "bank", "offset", "size"), rows[:SHOWN_ROWS])
