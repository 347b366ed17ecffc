"""Static memory allocation: an address for every buffer, with what was proved."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, bad_input
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.units import format_quantity
from offchip.keywords import from_keywords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mapping.allocation import AllocationProblem, AllocationResult
    from mapping.allocation.banks import Bank, BankPlan

__all__ = ["AllocOptions", "Allocation", "BankAllocation", "solve_alloc"]

SHOWN_ROWS: Final = 30
USUAL_SECONDS: Final = 60.0
"""The limit when neither seconds nor nodes are given."""


@dataclass(frozen=True, slots=True)
class AllocOptions:
    """What is asked of an allocation: exactly one of ``capacity``, ``minimize`` and ``bank``.

    ``capacity``: bytes, or a size with its unit. ``bank``: NAME=BYTES[@COST], several memories. ``near``: an earlier
    plan whose offsets are kept where possible. ``engine``: auto, greedy, search or mip. ``max_nodes`` makes the answer
    reproducible. ``device_index`` chooses a device of a memory snapshot, ``memory_space`` one of an XLA dump's,
    ``pack_index`` a pack of IREE's text.
    ``out``: a file for the plan as CSV; ``plot``: a picture of the packing.
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
    out: str | Path | None = None
    plot: str | Path | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        if (self.capacity is not None) + self.minimize + bool(self.bank) != 1:
            raise bad_input("expected exactly one of --capacity, --minimize and --bank")
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
        return (proof, Table(f"plan{shown}", ("id", "lower", "upper", "size", "offset"), tuple(rows)))

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


@dataclass(frozen=True)
class BankAllocation(Shown):
    """A plan over several memories, with its cost and the bound on it."""

    problem: AllocationProblem
    banks: tuple[Bank, ...]
    plan: BankPlan

    def rows(self) -> tuple[tuple[str, str, int, int], ...]:
        """Buffer, bank, offset and bytes of each buffer."""
        p, plan = self.problem, self.plan
        return tuple(
            (str(p.ids[i]), self.banks[plan.bank[i]].name, int(plan.offsets[i]), int(p.size[i]))
            for i in range(len(p))
        )

    def as_json(self) -> dict[str, Any]:
        """The answer as plain data."""
        peaks = self.plan.peaks(list(self.banks))
        return {
            "status": self.plan.status,
            "cost": self.plan.cost,
            "bound": self.plan.bound,
            "banks": {bank.name: {"capacity": bank.capacity, "peak": peak} for bank, peak in peaks},
            "placement": {name: {"bank": bank, "offset": offset} for name, bank, offset, _ in self.rows()},
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """The banks, and the plan's first rows."""
        plan = self.plan
        title = f"banks: {plan.status}, cost {plan.cost:g}, lower bound {plan.bound:g}"
        peaks = tuple((b.name, b.capacity, peak, b.cost_per_byte) for b, peak in plan.peaks(list(self.banks)))
        return (
            Table(title, ("bank", "capacity", "peak", "cost per byte"), peaks),
            Table("plan", ("id", "bank", "offset", "size"), self.rows()[:SHOWN_ROWS]),
        )

    def insist(self) -> None:
        """There is a plan, or there would be no answer."""


def solve_alloc(buffers: str | Path, **options: Unpack[AllocChoices]) -> Allocation | BankAllocation:
    """Give every buffer an address, below a capacity or with the least peak, and say what was proved.

    ``buffers`` is a MiniMalloc CSV, a malloc/free trace, a PyTorch memory snapshot, an XLA dump, a TensorFlow Lite
    model, IREE's text before its slices are laid out, or an arena plan;
    options are the fields of :class:`AllocOptions`. An answer without a plan says so in its status;
    :meth:`Allocation.insist` raises for it.
    Raises ``InputError`` for bad input.
    """
    from mapping.allocation import solve
    from mapping.allocation.importers import Part, read_problem

    chosen = from_keywords(AllocOptions, options)
    limit = None if chosen.capacity is None else _limit(str(chosen.capacity))
    problem = read_problem(Path(buffers), Part(chosen.device_index, chosen.memory_space, chosen.pack_index))
    if chosen.bank:
        return _in_banks(problem, chosen)
    if chosen.near is not None:
        from mapping.allocation.replan import replan

        result = replan(
            problem, _earlier(Path(chosen.near)), limit, time_limit_s=chosen.seconds, max_nodes=chosen.max_nodes,
            seed=chosen.seed,
        ).result  # fmt: skip
    else:
        result = solve(
            problem, limit, time_limit_s=chosen.seconds, max_nodes=chosen.max_nodes,
            engine=chosen.engine, seed=chosen.seed,  # type: ignore[arg-type]
        )  # fmt: skip
    if result.status in ("optimal", "feasible") and result.offsets is not None:
        _write(problem, result, chosen)
    return Allocation(Path(buffers).name, problem, result, tuple(_spills(problem, result)))


def _in_banks(problem: AllocationProblem, chosen: AllocOptions) -> BankAllocation:
    from mapping.allocation.banks import parse_bank, solve_banks

    banks = [parse_bank(text) for text in chosen.bank or ()]
    plan = solve_banks(
        problem, banks, time_limit_s=chosen.seconds, max_nodes=chosen.max_nodes, seed=chosen.seed
    )
    if plan is None:
        _insist_on_room(problem, banks, chosen)
        raise NoAnswerError("no assignment of the buffers to the banks was found; none was excluded")
    found = BankAllocation(problem, tuple(banks), plan)
    if chosen.out is not None:
        from mapping.allocation.csv_format import write_text

        lines = "".join(f"{a},{b},{c},{d}\n" for a, b, c, d in found.rows())
        write_text(Path(chosen.out), "id,bank,offset,size\n" + lines)
    return found


def _below(capacity: int | None) -> str:
    """What a plan had to stay below; of the least peak nothing but the pins can be in the way."""
    return "" if capacity is None else f" below {capacity} bytes"


def _insist_on_room(problem: AllocationProblem, banks: Sequence[Bank], chosen: AllocOptions) -> None:
    """Raise ``InfeasibleError`` where it is proved that the banks are too small.

    One bank is an allocation below its capacity. Of several no proof is tried but two: a buffer that is larger than
    every bank, and more live bytes at once than all banks together.
    """
    from mapping.allocation import solve

    if len(banks) == 1:
        capacity = banks[0].capacity
        result = solve(
            problem, capacity, time_limit_s=chosen.seconds, max_nodes=chosen.max_nodes, seed=chosen.seed
        )
        Allocation(banks[0].name, problem, result, tuple(_spills(problem, result))).insist()
        return
    largest = max(bank.capacity for bank in banks)
    for i in range(len(problem)):
        if int(problem.size[i]) > largest and problem.spans(i):
            needs = f"buffer {problem.ids[i]!r} has {int(problem.size[i])} bytes"
            raise InfeasibleError(f"infeasible (proved): {needs}, the largest bank {largest}")
    most, together = _most_live(problem), sum(bank.capacity for bank in banks)
    if most > together:
        raise InfeasibleError(
            f"infeasible (proved): {most} bytes are live at once, all banks together have {together}"
        )


def _most_live(problem: AllocationProblem) -> int:
    """Most bytes in use at once, whatever their addresses."""
    change: dict[int, int] = {}
    for i in range(len(problem)):
        for span in problem.spans(i):
            height = span.window_upper - span.window_lower
            change[span.lower] = change.get(span.lower, 0) + height
            change[span.upper] = change.get(span.upper, 0) - height
    return max(accumulate(change[time] for time in sorted(change)), default=0)


def _limit(text: str) -> int:
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


def _write(problem: AllocationProblem, result: AllocationResult, chosen: AllocOptions) -> None:
    assert result.offsets is not None
    if chosen.out is not None:
        from mapping.allocation.csv_format import to_csv, write_text

        write_text(Path(chosen.out), to_csv(problem, result.offsets.tolist()))
    if chosen.plot is not None:
        from mapping.allocation.picture import draw

        draw(problem, result.offsets.tolist(), Path(chosen.plot), capacity=result.capacity_bytes)
