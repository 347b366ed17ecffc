"""Plans of operators in one order with the addresses in them, for graphs of hundreds to thousands.

A plan made by bytes alone often finds no addresses: the room is full at most steps, and in pieces. So the order is
run over layouts of the scratchpad (:mod:`mapping.scheduling.address_search`), guided by what the programme of residency
says that room is worth at each step. Wider beams follow narrow ones as time allows; then the plan is improved window by
window, and stay by stay (:mod:`mapping.scheduling.stay_search`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.scheduling.address_search import Effort, cost_of_layouts, improve_layouts, search_layouts
from mapping.scheduling.layouts import MOST_NEEDED, AddressTables
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.residency_runs import ResidencyRuns, RoomPrices, price_room, runs_of_order
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stay_search import close_gaps
from mapping.scheduling.stays import Stays

__all__ = ["LayoutSearch", "address_tables", "layouts_of_stays", "most_blocks", "stays_of_layouts", "unit_of"]

Ints = NDArray[np.int64]

_WIDTHS: Final = (8, 64, 256)
_BRANCHES: Final = 8
_WINDOW_WIDTH: Final = 64
_WINDOW_STEPS: Final = 40
_MOST_CELLS: Final = 40_000_000
"""Pieces times layouts of one beam, at most: what is remembered of it takes twelve bytes for each."""
_ROUNDS_WITHOUT_CLOCK: Final = 60
_ROUNDS_WITH_CLOCK: Final = 1 << 40
_CHANCE: Final = 0.1
_LEAST_PART: Final = 0.1
"""Of the time for improvements, for that of the two ways which has brought less."""
_PRICES_S: Final = 20.0


class LayoutSearch:
    """The search over layouts of one order: its tables, made once, and the seeds that are next."""

    def __init__(self, run: SolverRun, order: Sequence[int]) -> None:
        self.run = run
        self.order = tuple(order)
        self.unit = unit_of(run.problem)
        self._turn = 0
        self._windows_share = 0.5
        left = run.budget.seconds_left()
        seconds = _PRICES_S if left is None else min(_PRICES_S, 0.2 * max(left, 0.0))
        runs = runs_of_order(run.problem, order, run.capacity)
        _, _, prices = price_room(runs, order, seconds, run.seed)
        self.tables = None if prices is None else address_tables(runs, prices, order)

    def beams(self, share: float) -> None:
        """Offer whole plans of wider and wider beams, in a share of the time that is left."""
        run, tables = self.run, self.tables
        if tables is None:
            return
        most = most_blocks(tables, run.capacity // self.unit)
        style = np.array([0.0, 0.0, _CHANCE])
        with run.share_of_time(share):
            for width in _WIDTHS:
                if run.budget.spent or width * len(tables.need) > _MOST_CELLS:
                    return
                before = run.budget.elapsed
                cost, at, kept = run.budget.call(
                    search_layouts, tables, run.capacity // self.unit, width, _BRANCHES, most, style, run.seed,
                    run.budget.stop, long=True,
                )  # fmt: skip
                run.budget.nodes += width
                if cost < 0:
                    return
                self._offer(at, kept, f"layouts/{width}")
                left = run.budget.seconds_left()
                if left is not None and left < 4 * (run.budget.elapsed - before):
                    return

    def improve(self, share: float) -> bool:
        """Improve the best plan of the run, which must be of this order, in a share of the time; whether it was."""
        run, tables = self.run, self.tables
        if tables is None or run.best is None or run.problem.has_in_place:
            return False
        cost, stays, offsets = run.best
        at, kept = layouts_of_stays(run.problem, tables, stays, offsets)
        before = int(cost_of_layouts(tables, kept))
        room = run.capacity // self.unit
        rounds = _ROUNDS_WITHOUT_CLOCK if run.budget.seconds_left() is None else _ROUNDS_WITH_CLOCK
        most = most_blocks(tables, room)
        self._turn += 1
        with run.share_of_time(share):
            with run.share_of_time(self._windows_share):
                found, made = run.budget.call(
                    improve_layouts, tables, room, Effort(_WINDOW_WIDTH, _BRANCHES, most, _WINDOW_STEPS, rounds), at,
                    kept, run.seed + self._turn, run.budget.stop, long=True,
                )  # fmt: skip
                run.budget.nodes += int(made) * _WINDOW_WIDTH
            self._offer(at, kept, "layouts/windows")
            least, made = run.budget.call(
                close_gaps, tables, room, self._short_first(), 10 * rounds, at, kept, run.seed + self._turn,
                run.budget.stop, long=True,
            )  # fmt: skip
            run.budget.nodes += int(made)
            self._offer(at, kept, "layouts/stays")
        # What brought more for its time gets more of it.
        by_windows = max(before - int(found), 0) / self._windows_share
        by_stays = (int(found) - int(least)) / (1 - self._windows_share)
        if by_windows + by_stays > 0:
            part = by_windows / (by_windows + by_stays)
            self._windows_share = min(max(part, _LEAST_PART), 1 - _LEAST_PART)
        return run.cost < cost

    def _short_first(self) -> Ints:
        """Entries with a gap after them, those that take the least time first."""
        assert self.tables is not None
        step = np.searchsorted(self.tables.need_at, np.arange(len(self.tables.need)), side="right") - 1
        life = self.tables.next_use - step
        gaps = np.flatnonzero(self.tables.next_use < len(self.order))
        return np.asarray(gaps[np.argsort(life[gaps], kind="stable")], np.int64)

    def _offer(self, at: Ints, kept: NDArray[np.int8], engine: str) -> None:
        assert self.tables is not None
        stays, offsets = stays_of_layouts(self.run.problem, self.order, self.tables, at, kept)
        self.run.offer(stays, engine, offsets)


def unit_of(problem: ScheduleProblem) -> int:
    """The greatest common divisor of all sizes."""
    sizes = [tensor.size_bytes for tensor in problem.tensors] + [
        op.workspace_bytes for op in problem.operators
    ]
    return max(int(np.gcd.reduce(np.array(sizes, np.int64))), 1)


def address_tables(runs: ResidencyRuns, prices: RoomPrices, order: Sequence[int]) -> AddressTables | None:
    """The order of a programme as the kernel reads it; None where an operator has more pieces than it can put down.

    Workspaces are pieces too: the number of tensors plus the step. Tensors without bytes are none.
    """
    problem, n = runs.problem, len(order)
    unit, m = unit_of(problem), len(runs.problem.tensors)
    size = np.array([tensor.size_bytes for tensor in problem.tensors], np.int64) // unit
    work = np.array([problem.operators[o].workspace_bytes for o in order], np.int64) // unit
    free = np.array([tensor.copy_free for tensor in problem.tensors], np.int64)
    step = np.empty(n, np.int64)
    step[list(order)] = np.arange(n)
    following: dict[tuple[int, int], int] = {}
    drop: dict[tuple[int, int], float] = {}
    gain: dict[tuple[int, int], float] = {}
    share = _shares(runs, prices, step)
    for t, tensor in enumerate(problem.tensors):
        uses = sorted(step[list(tensor.consumers)].tolist())
        if tensor.producer >= 0:
            uses.insert(0, int(step[tensor.producer]))
        later = 0.0
        for this, after in reversed(list(itertools.pairwise(uses))):
            following[t, this] = after
            room = float(prices.potential[this + 1] - prices.potential[after])
            drop[t, this] = (2.0 - later) * size[t]
            gain[t, this] = (max(room - 1.0, 0.0) - max(room - 1.0 - share.get((t, after), 0.0), 0.0)) * size[
                t
            ]
            later = min(later + gain[t, this] / max(size[t], 1), 1.0)
    at, need, next_use, price, credit, made, over = [0], [], [], [], [], [], []
    for s, o in enumerate(order):
        op = problem.operators[o]
        pieces = [t for t in dict.fromkeys((*op.inputs, *op.outputs)) if size[t] > 0]
        pieces.sort(key=lambda t: (-size[t], t))
        if work[s] > 0:
            pieces.append(m + s)
        if len(pieces) > MOST_NEEDED:
            return None
        place = {t: i for i, t in enumerate(pieces)}
        outputs = set(op.outputs)
        written = {}
        for pair in op.in_place:
            ending = [t for t in pair.inputs if (t, s) not in following]
            if ending and size[pair.output]:
                written[pair.output] = place[min(ending, key=lambda t: (size[t], t))]
        for t in pieces:
            need.append(t)
            next_use.append(following.get((t, s), n))
            price.append(drop.get((t, s), 0.0))
            credit.append(gain.get((t, s), 0.0))
            made.append(int(t in outputs))
            over.append(written.get(t, -1))
        at.append(len(need))
    return AddressTables(
        _whole(at), _whole(need), _whole(next_use), np.array(price), np.array(credit), _whole(made), _whole(over),
        np.concatenate((size, work)), np.concatenate((free, np.ones(n, np.int64))), prices.potential,
    )  # fmt: skip


def _whole(values: Sequence[int]) -> Ints:
    return np.array(values, np.int64)


def _shares(runs: ResidencyRuns, prices: RoomPrices, step: Ints) -> dict[tuple[int, int], float]:
    """Per tensor and step of the use that ends a gap, the gap's share of the write."""
    return {
        (int(t), int(step[o])): float(share)
        for t, o, share in zip(runs.gap_tensor, runs.gap_next, prices.written, strict=True)
        if share > 0
    }


def most_blocks(tables: AddressTables, capacity: int) -> int:
    """Pieces that can lie side by side in so many units, at most."""
    sizes = np.sort(tables.size[np.unique(tables.need)])
    return int(np.searchsorted(np.cumsum(sizes), capacity, side="right")) + 1


def layouts_of_stays(
    problem: ScheduleProblem, tables: AddressTables, stays: Stays, offsets: Sequence[int]
) -> tuple[Ints, NDArray[np.int8]]:
    """(offset per entry, whether it is kept until its next use) of stays whose addresses are known."""
    unit, m, n = unit_of(problem), len(problem.tensors), len(stays.order)
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for (t, start, end), offset in zip(stays.spans, offsets[: len(stays.spans)], strict=True):
        spans.setdefault(t, []).append((start, end, int(offset) // unit))
    workspaces = iter(offsets[len(stays.spans) :])
    at, kept = np.zeros(len(tables.need), np.int64), np.zeros(len(tables.need), np.int8)
    for s in range(n):
        for j in range(int(tables.need_at[s]), int(tables.need_at[s + 1])):
            t, until = int(tables.need[j]), int(tables.next_use[j])
            if t >= m:
                at[j] = int(next(workspaces)) // unit
                continue
            at[j], kept[j] = next(
                (offset, until < n and end > until) for start, end, offset in spans[t] if start <= s < end
            )
    return at, kept


def stays_of_layouts(
    problem: ScheduleProblem, order: Sequence[int], tables: AddressTables, at: Ints, kept: NDArray[np.int8]
) -> tuple[Stays, list[int]]:
    """Stays and offsets of a plan that the kernel made."""
    unit, m = unit_of(problem), len(problem.tensors)
    step = {o: s for s, o in enumerate(order)}
    spans: list[tuple[int, int, int, int]] = []
    workspaces: list[int] = []
    begun: dict[int, int] = {}
    ends = tables.need_at.tolist()
    for s in range(len(order)):
        for j in range(ends[s], ends[s + 1]):
            t = int(tables.need[j])
            if t >= m:
                workspaces.append(int(at[j]) * unit)
                continue
            begun.setdefault(t, s)
            if not kept[j]:
                spans.append((t, begun.pop(t), s + 1, int(at[j]) * unit))
    for t, tensor in enumerate(problem.tensors):
        uses = [step[o] for o in (*((tensor.producer,) if tensor.producer >= 0 else ()), *tensor.consumers)]
        if tensor.size_bytes == 0 and uses:
            spans.append((t, min(uses), max(uses) + 1, 0))
    spans.sort(key=lambda span: (span[1], span[0]))
    stays = Stays(tuple(order), tuple((t, start, end) for t, start, end, _ in spans))
    return stays, [offset for *_, offset in spans] + workspaces
