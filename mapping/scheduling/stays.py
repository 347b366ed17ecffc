"""From an order and the gaps in which tensors are dropped to stays, addresses and a whole schedule.

A tensor kept between two uses stays; one dropped there leaves right after the first use and comes back right
before the second, which never takes more room than anything else. With the stays known, addresses are a static
allocation problem.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mapping.allocation import AllocationProblem
from mapping.allocation import solve as allocate
from mapping.allocation.result import AllocationResult
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import Residence, Schedule, Transfer

__all__ = [
    "Stays",
    "allocation_of",
    "assemble",
    "fetched_for_each_use",
    "find_addresses",
    "joins_of",
    "peak_bytes_of",
    "spread",
    "stays_of",
]

ADDRESS_NODES: Final = 200_000


@dataclass(frozen=True)
class Stays:
    """An order of operator indices and every stay (tensor index, first step, step after the last)."""

    order: tuple[int, ...]
    spans: tuple[tuple[int, int, int], ...]

    def cost(self, problem: ScheduleProblem) -> tuple[int, int]:
        """(non-compulsory bytes, transfers)."""
        count: dict[int, int] = {}
        for t, _, _ in self.spans:
            count[t] = count.get(t, 0) + 1
        moved = transfers = 0
        for t, stays in count.items():
            tensor = problem.tensors[t]
            times = stays - 1 + (stays > 1 and not tensor.copy_free)
            moved += times * tensor.size_bytes
            transfers += times if tensor.size_bytes else 0
        return moved, transfers

    def least_peak(self, problem: ScheduleProblem) -> int:
        """The most bytes in use at one step; no addresses lie lower."""
        live = [0] * (len(self.order) + 1)
        for t, start, end in self.spans:
            live[start] += problem.tensors[t].size_bytes
            live[end] -= problem.tensors[t].size_bytes
        for i in joins_of(problem, self):
            # What is written in place takes bytes of its own from the step after on.
            t, start, _ = self.spans[i]
            live[start] -= problem.tensors[t].size_bytes
            live[start + 1] += problem.tensors[t].size_bytes
        most = now = 0
        for step, o in enumerate(self.order):
            now += live[step]
            most = max(most, now + problem.operators[o].workspace_bytes)
        return most


def joins_of(problem: ScheduleProblem, stays: Stays) -> dict[int, int]:
    """Stays that begin in place: index of the output's stay to that of the input's, which ends with the operator.

    Of several inputs whose stays end there, the smallest is taken: it leaves the fewest bytes over.
    """
    if not problem.has_in_place:
        return {}
    ending = {(t, end): i for i, (t, _, end) in enumerate(stays.spans)}
    beginning = {(t, start): i for i, (t, start, _) in enumerate(stays.spans)}
    joined: dict[int, int] = {}
    for step, o in enumerate(stays.order):
        for pair in problem.operators[o].in_place:
            over = [ending[t, step + 1] for t in pair.inputs if (t, step + 1) in ending]
            made = beginning.get((pair.output, step))
            if over and made is not None:
                joined[made] = min(over, key=lambda i: (problem.tensors[stays.spans[i][0]].size_bytes, i))
    return joined


def stays_of(
    problem: ScheduleProblem, order: Sequence[int], dropped: Mapping[int, Iterable[int]] | None = None
) -> Stays:
    """The stays of an order, in which ``dropped[step]`` are tensors dropped before the operator of a step.

    A tensor that an operator uses at the very step of its drop is moved: it leaves and comes back there.
    """
    step_of = {o: step for step, o in enumerate(order)}
    drops: dict[int, list[int]] = {}
    for step, tensors in (dropped or {}).items():
        for t in tensors:
            drops.setdefault(t, []).append(step)
    spans = []
    for t, tensor in enumerate(problem.tensors):
        uses = [step_of[tensor.producer]] if tensor.producer >= 0 else []
        uses += sorted(step_of[c] for c in tensor.consumers)
        if not uses:
            continue
        start = uses[0]
        for this, following in itertools.pairwise(uses):
            if any(this < step <= following for step in drops.get(t, ())):
                spans.append((t, start, this + 1))
                start = following
        spans.append((t, start, uses[-1] + 1))
    return Stays(tuple(order), tuple(sorted(spans, key=lambda span: (span[1], span[0]))))


def fetched_for_each_use(problem: ScheduleProblem) -> tuple[Stays, list[int]]:
    """The operators as listed, every tensor there for its uses alone, and offsets: fits wherever a schedule does."""
    order = range(len(problem.operators))
    spans = [
        (t, step, step + 1)
        for t, tensor in enumerate(problem.tensors)
        for step in (*((tensor.producer,) if tensor.producer >= 0 else ()), *tensor.consumers)
    ]
    spans.sort(key=lambda span: (span[1], span[0]))
    stays = Stays(tuple(order), tuple(spans))
    joined = joins_of(problem, stays)
    top = [0] * len(order)
    offsets = [-1] * len(spans)
    for i, (t, step, _) in enumerate(spans):
        if i not in joined:
            offsets[i] = top[step]
            top[step] += problem.tensors[t].size_bytes
    for made, over in joined.items():
        offsets[made] = offsets[over]
    offsets += [top[o] for o in order if problem.operators[o].workspace_bytes > 0]
    return stays, offsets


def rows_of(problem: ScheduleProblem, stays: Stays) -> list[int]:
    """For each stay the row of :func:`allocation_of` that it lies in: stays in place of one another share one."""
    joined = joins_of(problem, stays)
    row, rows = [-1] * len(stays.spans), 0
    for i in range(len(row)):
        if i not in joined:
            row[i] = rows
            rows += 1
    for i in sorted(joined, key=lambda i: stays.spans[i][1]):
        row[i] = row[joined[i]]
    return row


def allocation_of(problem: ScheduleProblem, stays: Stays) -> AllocationProblem:
    """Buffers of the stays in their order, then one per operator with a workspace, in order of steps.

    Stays in place of one another are one buffer, as large as the first of them.
    """
    row = rows_of(problem, stays)
    rows = [(len(stays.order), 0, 0)] * (max(row, default=-1) + 1)
    for r, (t, start, end) in zip(row, stays.spans, strict=True):
        low, high, size = rows[r]
        rows[r] = (min(low, start), max(high, end), max(size, problem.tensors[t].size_bytes))
    for step, o in enumerate(stays.order):
        if problem.operators[o].workspace_bytes > 0:
            rows.append((step, step + 1, problem.operators[o].workspace_bytes))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return AllocationProblem.from_arrays(columns[:, 0], columns[:, 1], columns[:, 2])


def find_addresses(
    problem: ScheduleProblem, stays: Stays, capacity: int | None, *, seconds: float | None = None,
    max_nodes: int = ADDRESS_NODES, explain: bool = False,
) -> AllocationResult:  # fmt: skip
    """Offsets of all stays and workspaces below the capacity, or with the least peak when it is None."""
    found = allocate(
        allocation_of(problem, stays), capacity, time_limit_s=seconds, max_nodes=max_nodes, explain=explain
    )
    if not problem.has_in_place or found.offsets is None:
        return found
    return replace(found, offsets=spread(problem, stays, found.offsets))


def spread(problem: ScheduleProblem, stays: Stays, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets per row of :func:`allocation_of` as offsets per stay, then per workspace."""
    row = np.array(rows_of(problem, stays), np.int64)
    rows = int(row.max()) + 1 if len(row) else 0
    return np.concatenate((offsets[row], offsets[rows:]))


def assemble(problem: ScheduleProblem, stays: Stays, offsets: Sequence[int] | Any) -> Schedule:
    """The whole schedule of stays whose offsets are given, and then those of workspaces in order of steps."""
    steps = len(stays.order)
    residences = tuple(
        Residence(problem.tensors[t].name, start, end, int(offsets[i]), problem.tensors[t].size_bytes)
        for i, (t, start, end) in enumerate(stays.spans)
    )
    workspaces: dict[str, int] = {}
    for o in stays.order:
        if problem.operators[o].workspace_bytes > 0:
            workspaces[problem.operators[o].name] = int(offsets[len(stays.spans) + len(workspaces)])
    by_tensor: dict[int, list[tuple[int, int]]] = {}
    for t, start, end in stays.spans:
        by_tensor.setdefault(t, []).append((start, end))
    overwritten = {stays.spans[i] for i in joins_of(problem, stays).values()}
    moves: list[tuple[int, int, int, Transfer]] = []
    for t, spans in by_tensor.items():
        tensor = problem.tensors[t]
        # What is written over has to be off-chip before the operator runs.
        leaves = min(spans[0][1], steps) - ((t, *spans[0]) in overwritten)
        if tensor.is_output and tensor.producer >= 0:
            moves.append((leaves, 0, t, Transfer(tensor.name, leaves, tensor.size_bytes, "store")))
        elif len(spans) > 1 and not tensor.copy_free and tensor.size_bytes:
            moves.append((leaves, 0, t, Transfer(tensor.name, leaves, tensor.size_bytes, "spill")))
        elif len(spans) > 1 and not tensor.copy_free:
            moves.append((leaves, 0, t, Transfer(tensor.name, leaves, 0, "spill")))
        if tensor.producer < 0:
            start = spans[0][0]
            moves.append((start, 1, t, Transfer(tensor.name, start, tensor.size_bytes, "load")))
        for start, _ in spans[1:]:
            moves.append((start, 1, t, Transfer(tensor.name, start, tensor.size_bytes, "retrieve")))
    moves.sort(key=lambda move: move[:3])
    return Schedule(
        tuple(problem.operators[o].name for o in stays.order),
        residences,
        workspaces,
        tuple(move[3] for move in moves),
    )


def peak_bytes_of(problem: ScheduleProblem, schedule: Schedule) -> int:
    """The highest address in use."""
    tops = [stay.offset + stay.size_bytes for stay in schedule.residences if stay.size_bytes]
    work = {op.name: op.workspace_bytes for op in problem.operators}
    tops += [at + work[name] for name, at in schedule.workspaces.items()]
    return max(tops, default=0)
