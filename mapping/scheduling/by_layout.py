"""Plans of operators in one order with the addresses in them, for graphs of hundreds to thousands.

A plan made by bytes alone often finds no addresses: the room is full at most steps, and in pieces. So the order is
run over layouts of the scratchpad (:mod:`mapping.scheduling.address_search`), guided by what the programme of residency
says that room is worth at each step. Wider beams follow narrow ones as time allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.scheduling.address_search import MOST_NEEDED, AddressTables
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.residency_runs import ResidencyRuns, RoomPrices
from mapping.scheduling.stays import Stays

__all__ = ["address_tables", "most_blocks", "stays_of_layouts", "unit_of"]

Ints = NDArray[np.int64]


def unit_of(problem: ScheduleProblem) -> int:
    """The greatest common divisor of all sizes."""
    sizes = [tensor.size_bytes for tensor in problem.tensors] + [op.workspace_bytes for op in problem.operators]
    return max(int(np.gcd.reduce(np.array(sizes, np.int64))), 1)


def address_tables(runs: ResidencyRuns, prices: RoomPrices, order: Sequence[int]) -> AddressTables | None:
    """The order of a programme as the kernel reads it; None where an operator has more pieces than it can put down.

    Workspaces are pieces with numbers from the number of tensors on, plus the step. Tensors without bytes are no pieces.
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
            gain[t, this] = (max(room - 1.0, 0.0) - max(room - 1.0 - share.get((t, after), 0.0), 0.0)) * size[t]
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
    whole = lambda values: np.array(values, np.int64)  # noqa: E731
    return AddressTables(
        whole(at), whole(need), whole(next_use), np.array(price), np.array(credit), whole(made), whole(over),
        np.concatenate((size, work)), np.concatenate((free, np.ones(n, np.int64))), prices.potential,
    )  # fmt: skip


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
