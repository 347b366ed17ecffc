"""Static memory allocation: an address for every buffer, with what was proved."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, bad_input, nearest
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.units import format_quantity
from offchip.keywords import from_keywords
from offchip.solving.bank_allocation import BankAllocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mapping.allocation import AllocationProblem, AllocationResult
    from mapping.allocation.banks import Bank

__all__ = ["AllocOptions", "Allocation", "BankAllocation", "solve_alloc"]

SHOWN_ROWS: Final = 30
_PROOF_S: Final = 0.1
"""Where the search for a plan took all the time, a proof that there is none still gets so much."""
USUAL_SECONDS: Final = 60.0
"""The limit when neither seconds nor nodes are given."""


@dataclass(frozen=True, slots=True)
class AllocOptions:
    """What is asked of an allocation: ``capacity``, ``minimize``, or memories (``bank``, ``arena``).

    ``capacity``: bytes, or a size with its unit. ``bank``: NAME=BYTES[@COST], several memories. ``near``: an earlier
    plan whose offsets are kept where possible. ``engine``: auto, greedy, search or mip. ``max_nodes`` makes the answer
    reproducible. ``device_index`` chooses a device of a memory snapshot, ``memory_space`` one of an XLA dump's,
    ``pack_index`` a pack of IREE's text, ``model`` the model that a profile of ONNX Runtime is of. ``no_pins`` plans
    afresh where the file gives offsets. ``alignment`` and ``boundary`` (bytes, or a size with its unit) hold for every
    buffer. ``arena``: NAME[@COST], memories whose size is a decision; ``objective``: what the cost of a ``bank``
    counts, ``bytes`` placed there or its ``size``. ``move_cost``: what a moved byte costs in bytes of peak, and
    in the units of the costs of banks where there are any.
    ``out_format``: the form of ``out`` where its ending does not tell. ``out``: a file for the plan as CSV; ``plot``:
    a picture of the packing.
    """

    capacity: str | int | None = None
    minimize: bool = False
    time_limit: float | None = None
    max_nodes: int | None = None
    engine: str = "auto"
    seed: int = 0
    near: str | Path | None = None
    bank: Sequence[str] | None = None
    device_index: int | None = None
    memory_space: int | None = None
    pack_index: int | None = None
    model: str | Path | None = None
    no_pins: bool = False
    alignment: str | int | None = None
    boundary: str | int | None = None
    arena: Sequence[str] | None = None
    objective: str = "bytes"
    move_cost: float = 0.0
    out_format: str | None = None
    out: str | Path | None = None
    plot: str | Path | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        if (self.capacity is not None) + self.minimize + bool(self.bank or self.arena) != 1:
            raise bad_input("expected exactly one of --capacity, --minimize, and --bank or --arena")
        if self.objective not in ("bytes", "size"):
            raise bad_input(
                f"found {self.objective!r}; expected bytes or size", path="--objective",
                suggestion=nearest(self.objective, ("bytes", "size")),
            )  # fmt: skip
        if not 0 <= self.move_cost <= 1e9:
            raise bad_input(f"found {self.move_cost:g}; expected 0 to 1e9", path="--move-cost")
        if self.time_limit is not None and not self.time_limit > 0:
            raise bad_input(f"found {self.time_limit:g}; expected seconds above zero", path="--time-limit")
        if self.max_nodes is not None and self.max_nodes < 1:
            raise bad_input(f"found {self.max_nodes}; expected at least 1", path="--max-nodes")
        for name in ("device_index", "memory_space", "pack_index"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise bad_input(f"found {value}; expected at least 0", path=f"--{name.replace('_', '-')}")
        if self.plot is not None and Path(self.plot).suffix.lower() not in (".svg", ".png"):
            found = f"found {Path(self.plot).suffix!r}; expected a file that ends in .svg or .png"
            raise bad_input(found, path="--plot")
        if self.plot is not None and (self.bank or self.arena):
            raise bad_input("a picture shows one arena; leave out --bank and --arena", path="--plot")

    @property
    def seconds(self) -> float | None:
        """The limit in seconds; None when nodes bound the search."""
        given = self.time_limit is not None or self.max_nodes is not None
        return self.time_limit if given else USUAL_SECONDS


class AllocChoices(TypedDict, total=False):
    """The fields of :class:`AllocOptions`, as keywords."""

    capacity: str | int | None
    minimize: bool
    time_limit: float | None
    max_nodes: int | None
    engine: str
    seed: int
    near: str | Path | None
    bank: Sequence[str] | None
    device_index: int | None
    memory_space: int | None
    pack_index: int | None
    model: str | Path | None
    no_pins: bool
    alignment: str | int | None
    boundary: str | int | None
    arena: Sequence[str] | None
    objective: str
    move_cost: float
    out_format: str | None
    out: str | Path | None
    plot: str | Path | None


@dataclass(frozen=True)
class Allocation(Shown):
    """A plan with its proof, for the buffers it is of; ``spills`` would make an infeasible problem fit."""

    title: str
    problem: AllocationProblem
    result: AllocationResult
    spills: tuple[dict[str, Any], ...] = field(default=())

    def offsets(self) -> dict[str, int]:
        """Byte offsets by buffer id; empty without a plan."""
        found = self.result.offsets
        if found is None:
            return {}
        return {str(self.problem.ids[i]): int(found[i]) for i in range(len(self.problem))}

    def own_peak(self) -> int | None:
        """The peak of the plan that the file itself brings as hints, where that plan is whole and holds."""
        from mapping.allocation import check, peak_of

        hints = self.problem.hint.tolist()
        if not hints or min(hints) < 0 or check(self.problem, hints, limit=1):
            return None
        return peak_of(self.problem, hints)

    def as_json(self) -> dict[str, Any]:
        """The answer as plain data; offsets by buffer id."""
        problem, result = self.problem, self.result
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
        if problem.rules.moves:
            answer |= {
                "moves": [
                    {"id": str(problem.ids[m.buffer]), "time": m.time, "offset": m.offset}
                    for m in result.moves
                ],
                "moved_bytes": result.moved_bytes,
                "cost": result.cost,
                "cost_bound": result.cost_bound,
            }
        own = self.own_peak()
        if own is not None:
            answer["peak_of_the_file"] = own
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
        return answer | ({"spill": list(self.spills)} if self.spills else {})

    def shown_tables(self) -> tuple[Table, ...]:
        """The proof, and the plan's first rows."""
        problem, result = self.problem, self.result

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
        if problem.rules.moves and result.offsets is not None:
            lines.append(("moved", f"{size(result.moved_bytes)} in {len(result.moves)} moves"))
            if result.cost is not None:
                label = "cost of peak and moves" if result.capacity_bytes is None else "least bytes moved"
                lines.append((label, f"{result.cost:g}, lower bound {result.cost_bound:g}"))
        own = self.own_peak()
        if own is not None:
            lines.append(("peak of the file's own plan", size(own)))
        proof = Table(f"solve alloc {self.title}", ("", ""), tuple(lines))
        if result.status not in ("optimal", "feasible") or result.offsets is None:
            return (proof,)
        import numpy as np

        order = np.lexsort((problem.upper, problem.lower))
        rows = [
            (
                problem.ids[int(i)],
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
        plan = Table(f"plan{shown}", ("id", "lower", "upper", "size", "offset"), tuple(rows))
        if not result.moves:
            return (proof, plan)
        moves = tuple(
            (problem.ids[move.buffer], move.time, move.offset) for move in result.moves[:SHOWN_ROWS]
        )
        return (proof, plan, Table("moves", ("id", "at time", "to offset"), moves))

    def insist(self) -> None:
        """Raise ``InfeasibleError`` or ``NoAnswerError`` where there is no plan as asked for."""
        result, spills = self.result, self.spills
        if result.status == "infeasible":
            words = [f"infeasible (proved): no plan{_below(result.capacity_bytes)}"]
            if result.explanation is not None:
                words.append(result.explanation.message)
            if spills:
                names = ", ".join(str(item["id"]) for item in spills[:10]) + (
                    ", ..." if len(spills) > 10 else ""
                )
                words.append(
                    f"it fits without {len(spills)} buffers, {sum(s['bytes'] for s in spills)} bytes: {names}"
                )
            raise InfeasibleError("; ".join(words))
        if result.status == "unknown":
            best = "none" if result.peak_bytes is None else f"peak {result.peak_bytes}"
            raise NoAnswerError(
                f"no plan{_below(result.capacity_bytes)} was found within the limit, and none was excluded; "
                f"best plan: {best}, lower bound {result.bound_bytes}"
            )


def solve_alloc(buffers: str | Path, **options: Unpack[AllocChoices]) -> Allocation | BankAllocation:
    """Give every buffer an address, below a capacity or with the least peak, and say what was proved.

    ``buffers`` is a MiniMalloc CSV, a malloc/free trace, a PyTorch memory snapshot, an XLA dump, a TensorFlow Lite
    model, IREE's text before its slices are laid out, an ExecuTorch programme, a profile of ONNX Runtime, TVM's buffer
    infos, or an arena plan;
    options are the fields of :class:`AllocOptions`. An answer without a plan says so in its status;
    :meth:`Allocation.insist` raises for it.
    Raises ``InputError`` for bad input.
    """
    from mapping.allocation import solve
    from mapping.allocation.importers import Part, read_problem

    chosen = from_keywords(AllocOptions, options)
    limit = None if chosen.capacity is None else _limit(str(chosen.capacity))
    part = Part(chosen.device_index, chosen.memory_space, chosen.pack_index, _path(chosen.model))
    problem = _with_wishes(read_problem(Path(buffers), part), chosen)
    if chosen.out is not None:
        from mapping.allocation.plan_forms import form_of

        form_of(Path(chosen.out), chosen.out_format, Path(buffers))
    if chosen.bank or chosen.arena:
        return _in_banks(problem, chosen, Path(buffers))
    if chosen.near is not None:
        from mapping.allocation.replan import replan

        result = replan(
            problem, _earlier(Path(chosen.near)), limit, time_limit_s=chosen.seconds, max_nodes=chosen.max_nodes,
            seed=chosen.seed,
        ).result  # fmt: skip
    else:
        result = solve(
            problem, limit, time_limit_s=chosen.seconds, max_nodes=chosen.max_nodes,
            engine=chosen.engine, seed=chosen.seed, move_cost=chosen.move_cost,  # type: ignore[arg-type]
        )  # fmt: skip
    if result.status in ("optimal", "feasible") and result.offsets is not None:
        _write(problem, result, chosen, Path(buffers))
    return Allocation(Path(buffers).name, problem, result, tuple(_spills(problem, result)))


def _path(text: str | Path | None) -> Path | None:
    return None if text is None else Path(text)


def _with_wishes(problem: AllocationProblem, chosen: AllocOptions) -> AllocationProblem:
    """What holds for every buffer: alignment, boundary, and that no offset of the file is kept."""
    from mapping.allocation.wishes import aligned, unpinned, within_boundary

    if chosen.no_pins:
        problem = unpinned(problem)
    if chosen.alignment is not None:
        problem = aligned(problem, _limit(str(chosen.alignment), "--alignment", 1))
    if chosen.boundary is not None:
        problem = within_boundary(problem, _limit(str(chosen.boundary), "--boundary", 1))
    if chosen.near is not None and problem.rules.moves:
        raise bad_input("buffers that move have several places; an earlier plan has one", path="--near")
    if chosen.move_cost > 0 and not problem.rules.moves:
        raise bad_input("no buffer may move; expected a column 'moves'", path="--move-cost")
    return problem


def _in_banks(problem: AllocationProblem, chosen: AllocOptions, source: Path) -> BankAllocation:
    from mapping.allocation.banks import parse_arena, parse_bank, solve_banks

    banks = [parse_bank(text, problem.rules.pools) for text in chosen.bank or ()]
    if chosen.objective == "size":
        banks = [replace(bank, cost_per_byte=0.0, cost_per_size_byte=bank.cost_per_byte) for bank in banks]
    banks += [parse_arena(text) for text in chosen.arena or ()]
    if chosen.near is not None:
        raise bad_input("an earlier plan is kept in one arena only; found --bank or --arena", path="--near")
    start = time.perf_counter()
    plan = solve_banks(
        problem, banks, time_limit_s=chosen.seconds, max_nodes=chosen.max_nodes, seed=chosen.seed,
        move_cost=chosen.move_cost,
    )  # fmt: skip
    if plan is None:
        limit = chosen.seconds
        left = None if limit is None else max(limit - (time.perf_counter() - start), _PROOF_S)
        _insist_on_room(problem, banks, chosen, left)
        raise NoAnswerError("no assignment of the buffers to the banks was found; none was excluded")
    found = BankAllocation(problem, tuple(banks), plan)
    if chosen.out is not None:
        from mapping.allocation.plan_forms import Plan, write_plan

        names = tuple(banks[b].name for b in plan.bank)
        whole = Plan(problem, tuple(plan.offsets.tolist()), names, plan.moves)
        write_plan(Path(chosen.out), chosen.out_format, whole, source)
    return found


def _below(capacity: int | None) -> str:
    """What a plan had to stay below; of the least peak nothing but the pins can be in the way."""
    return "" if capacity is None else f" below {capacity} bytes"


def _insist_on_room(
    problem: AllocationProblem, banks: Sequence[Bank], chosen: AllocOptions, seconds: float | None
) -> None:
    """Raise ``InfeasibleError`` where it is proved that no plan exists. One bank is an allocation below a capacity."""
    from mapping.allocation import solve
    from mapping.allocation.banks import why_infeasible

    limits = {"time_limit_s": seconds, "max_nodes": chosen.max_nodes, "seed": chosen.seed}
    if len(banks) == 1 and not (problem.rules.banks or problem.rules.apart):
        result = solve(problem, banks[0].capacity, **limits)  # type: ignore[arg-type]
        Allocation(banks[0].name, problem, result, tuple(_spills(problem, result))).insist()
        return
    told = why_infeasible(problem, banks, **limits)  # type: ignore[arg-type]
    if told is not None:
        raise InfeasibleError(f"infeasible (proved): {told}")


def _limit(text: str, option: str = "--capacity", least: int = 0) -> int:
    from hw_configs.units import UnitError, parse_quantity
    from hw_configs.whole_number import is_whole

    plain = text.strip().replace("_", "")
    try:
        value = (
            int(plain) if is_whole(plain[plain[:1] in ("+", "-") :]) else int(parse_quantity(text, "size"))
        )
    except (UnitError, ValueError) as error:
        raise bad_input(str(error), path=option) from None
    if not least <= value <= 2**60:
        raise bad_input(f"found {value}; expected {least} to 2**60 bytes", path=option)
    return value


def _earlier(path: Path) -> dict[str, int]:
    from mapping.allocation.importers import read_problem

    plan = read_problem(path)
    if len(plan) and not (plan.fixed >= 0).any():
        raise bad_input("has no column 'offset'; expected a plan written by --out", file=str(path))
    return {str(plan.ids[i]): int(plan.fixed[i]) for i in range(len(plan)) if plan.fixed[i] >= 0}


def _spills(problem: AllocationProblem, result: AllocationResult) -> list[dict[str, Any]]:
    # What may share bytes does not count once each, so that spilling by live bytes would mislead.
    if result.status != "infeasible" or result.capacity_bytes is None or problem.rules:
        return []
    from mapping.allocation.spill import suggest_spills

    return [
        {"id": str(problem.ids[i]), "bytes": int(problem.size[i])}
        for i in suggest_spills(problem, result.capacity_bytes).buffers
    ]


def _write(problem: AllocationProblem, result: AllocationResult, chosen: AllocOptions, source: Path) -> None:
    assert result.offsets is not None
    if chosen.out is not None:
        from mapping.allocation.plan_forms import Plan, write_plan

        plan = Plan(problem, tuple(result.offsets.tolist()), (), result.moves, chosen.pack_index)
        write_plan(Path(chosen.out), chosen.out_format, plan, source)
    if chosen.plot is not None:
        from mapping.allocation.picture import draw

        shown, offsets = _as_placed(problem, result)
        draw(shown, offsets, Path(chosen.plot), capacity=result.capacity_bytes)


def _as_placed(problem: AllocationProblem, result: AllocationResult) -> tuple[AllocationProblem, list[int]]:
    """What a picture shows: each place of a buffer that moves as a buffer of its own."""
    from mapping.allocation import AllocationProblem, Buffer
    from mapping.allocation.check_rules import places_of

    assert result.offsets is not None
    offsets = result.offsets.tolist()
    if not result.moves:
        return problem, offsets
    rows = [
        (i, place) for i in range(len(problem)) for place in places_of(problem, i, offsets[i], result.moves)
    ]
    parts = [Buffer(str(problem.ids[i]), begin, end, high - low) for i, (begin, end, low, high) in rows]
    return AllocationProblem.of(parts, problem.name), [place[2] for _, place in rows]
