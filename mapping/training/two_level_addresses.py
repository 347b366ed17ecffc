"""Addresses for a training step on two levels: one layer's pass first, then the model with layers as blocks.

Level one packs the transient blocks of each segment (a layer's forward or backward pass); equal segments are
solved once. Level two packs the blocks that cross segments together with one pseudo block per segment, as large
as the segment's peak, that lives as long as the segment runs (MEMO, arXiv:2407.12117, section 4.2). Both levels
are ordinary allocation problems, solved by :mod:`mapping.allocation`; small ones also as the published MIP.

As published, a pseudo block is a rectangle of the pass's peak. Here it is by default a staircase, as high at each
moment as the blocks inside it reach, which leaves the room above to blocks that cross (in problems too large for
the allocation engine's gaps it stays a rectangle). Two levels can still need
more than one level would. The packing of one level is therefore tried too where it is small enough to be solved
well, and the addresses that the caching allocator would have given are a third candidate: the plan is never worse
than what that allocator reserves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import PhysicsError
from mapping.allocation import AllocationProblem, Gap, check, solve
from mapping.allocation.instance import MOST_WINDOWED
from mapping.allocation.result import AllocationResult
from mapping.training.caching_allocator import CachingAllocator
from mapping.training.requests import RequestSequence, rounded

__all__ = ["AddressPlan", "plan_bilevel", "plan_memory", "plan_one_level"]

Ints = NDArray[np.int64]
Engine = Literal["auto", "greedy", "search", "mip"]

ONE_LEVEL_BLOCKS: Final = 60_000
"""More blocks than these are left to the two levels."""

NODES: Final = 200_000
"""Search nodes for each problem; makes the plan reproducible."""


@dataclass(frozen=True, eq=False)
class AddressPlan:
    """An offset per block. ``bound_bytes`` is the most that is live at once, which no plan can undercut.

    ``optimal`` says that the peak equals the bound. ``level_one_bytes`` are the peaks of the distinct segments,
    empty for a plan of one level; ``problems`` counts the allocation problems that were solved.
    """

    offsets: Ints
    peak_bytes: int
    bound_bytes: int
    method: str
    level_one_bytes: tuple[int, ...] = ()
    problems: int = 0
    seconds: float = 0.0

    @property
    def optimal(self) -> bool:
        """Whether no plan has a lower peak."""
        return self.peak_bytes == self.bound_bytes


def plan_memory(sequence: RequestSequence, *, seed: int = 0, engine: Engine = "auto") -> AddressPlan:
    """The best of the two-level plan, the one-level plan (where small) and the caching allocator's addresses."""
    if len(sequence) == 0:
        return AddressPlan(np.zeros(0, np.int64), 0, 0, "two levels")
    best = plan_bilevel(sequence, seed=seed, engine=engine)
    seconds = best.seconds
    if not best.optimal and len(sequence) <= ONE_LEVEL_BLOCKS:
        other = plan_one_level(sequence, seed=seed, engine=engine)
        seconds += other.seconds
        best = min(best, other, key=lambda plan: plan.peak_bytes)
    if not best.optimal:
        best = min(best, _as_cached(sequence, best.bound_bytes), key=lambda plan: plan.peak_bytes)
    wrong = check(_problem(sequence), best.offsets.tolist())
    if wrong:
        raise PhysicsError(f"the {best.method} plan of a training step does not hold: {wrong[0]}")
    return AddressPlan(
        best.offsets,
        best.peak_bytes,
        best.bound_bytes,
        best.method,
        best.level_one_bytes,
        best.problems,
        seconds,
    )


def plan_one_level(sequence: RequestSequence, *, seed: int = 0, engine: Engine = "auto") -> AddressPlan:
    """All blocks in one allocation problem."""
    answer = _solved(_problem(sequence), seed, engine)
    offsets = _offsets(answer)
    return AddressPlan(
        offsets, answer.peak_bytes or 0, answer.bound_bytes, "one level", (), 1, answer.seconds
    )  # fmt: skip


def plan_bilevel(
    sequence: RequestSequence, *, seed: int = 0, engine: Engine = "auto", staircase: bool = True
) -> AddressPlan:
    """Segments first, then the model; ``staircase`` False gives the rectangles that were published.

    The plan is not checked here.
    """
    size = rounded(sequence.size)
    offsets = np.zeros(len(sequence), np.int64)
    first, last = _spans(sequence)
    solved: dict[bytes, tuple[Ints, int]] = {}
    peaks = np.zeros(len(sequence.segments), np.int64)
    seconds, transient = 0.0, ~sequence.crossing
    members = _by_segment(sequence, transient)
    for number, blocks in enumerate(members):
        if not len(blocks):
            continue
        low, high = sequence.malloc[blocks] - first[number], sequence.free[blocks] - first[number]
        key = np.concatenate((low, high, size[blocks])).tobytes()
        if key not in solved:
            answer = _solved(AllocationProblem.from_arrays(low, high, size[blocks]), seed, engine)
            solved[key] = (_offsets(answer), int(answer.peak_bytes or 0))
            seconds += answer.seconds
        offsets[blocks], peaks[number] = solved[key]
    crossing = np.flatnonzero(sequence.crossing)
    passes = np.flatnonzero(peaks)
    gaps: dict[int, tuple[Gap, ...]] = {}
    if staircase:
        for number, segment in enumerate(passes.tolist()):
            gaps[len(crossing) + number] = _stairs(
                sequence, members[segment], offsets, first[segment], last[segment]
            )
    upper = _with_gaps(
        np.concatenate((sequence.malloc[crossing], first[passes])),
        np.concatenate((sequence.free[crossing], last[passes])),
        np.concatenate((size[crossing], peaks[passes])),
        gaps,
    )
    placed, more = _solve_in_parts(upper, seed, engine)
    offsets[crossing] = placed[: len(crossing)]
    base = np.zeros(len(sequence.segments), np.int64)
    base[passes] = placed[len(crossing) :]
    inside = np.flatnonzero(transient)
    offsets[inside] += base[sequence.segment[inside]]
    peak = int((offsets + size).max(initial=0))
    bound = int(sequence.live_bytes().max(initial=0))
    distinct = tuple(sorted({peak for _, peak in solved.values()}))
    return AddressPlan(
        offsets, peak, bound, "two levels", distinct, len(solved) + more[1], seconds + more[0]
    )  # fmt: skip


def _solve_in_parts(problem: AllocationProblem, seed: int, engine: Engine) -> tuple[Ints, tuple[float, int]]:
    """Offsets of a problem whose parts in time are often alike (micro-batches): equal parts are solved once."""
    offsets = np.zeros(len(problem), np.int64)
    order = np.lexsort((problem.upper, problem.lower))
    ends = np.maximum.accumulate(problem.upper[order])
    cuts = np.flatnonzero(problem.lower[order][1:] >= ends[:-1]) + 1
    known: dict[bytes, Ints] = {}
    seconds = 0.0
    for part in np.split(order, cuts):
        if not len(part):
            continue
        start = int(problem.lower[part].min())
        low, high = problem.lower[part] - start, problem.upper[part] - start
        gaps = {
            number: tuple(Gap(gap.lower - start, gap.upper - start, gap.window) for gap in problem.gaps[old])
            for number, old in enumerate(part.tolist())
            if old in problem.gaps and len(part) <= MOST_WINDOWED
        }
        key = np.concatenate((low, high, problem.size[part])).tobytes() + repr(gaps).encode()
        if key not in known:
            answer = _solved(_with_gaps(low, high, problem.size[part], gaps), seed, engine)
            known[key] = _offsets(answer)
            seconds += answer.seconds
        offsets[part] = known[key]
    return offsets, (seconds, len(known))


def _stairs(sequence: RequestSequence, blocks: Ints, offsets: Ints, first: int, last: int) -> tuple[Gap, ...]:
    """How high the blocks of a segment reach, as windows of its pseudo block; none where they fill it."""
    size = rounded(sequence.size)
    tops = offsets[blocks] + size[blocks]
    moments = np.unique(np.concatenate((sequence.malloc[blocks], sequence.free[blocks], [first, last])))
    moments = moments[(moments >= first) & (moments <= last)]
    peak = int(tops.max())
    gaps: list[Gap] = []
    for begin, end in zip(moments[:-1].tolist(), moments[1:].tolist(), strict=True):
        live = (sequence.malloc[blocks] <= begin) & (sequence.free[blocks] >= end)
        top = int(tops[live].max(initial=0))
        if top == peak:
            continue
        window = (0, top) if top else None
        if gaps and gaps[-1].upper == begin and gaps[-1].window == window:
            gaps[-1] = Gap(gaps[-1].lower, end, window)
        else:
            gaps.append(Gap(begin, end, window))
    return tuple(gaps)


def _with_gaps(low: Ints, high: Ints, size: Ints, gaps: dict[int, tuple[Gap, ...]]) -> AllocationProblem:
    plain = AllocationProblem.from_arrays(low, high, size)
    return replace(plain, gaps=gaps) if gaps else plain


def _solved(problem: AllocationProblem, seed: int, engine: Engine) -> AllocationResult:
    if engine == "mip":
        return solve(problem, time_limit_s=60.0, engine="mip", seed=seed)
    return solve(problem, max_nodes=NODES, engine=engine, seed=seed)


def _offsets(answer: AllocationResult) -> Ints:
    if answer.offsets is None:
        raise PhysicsError("the allocation engine gave no plan for a problem without a capacity")
    return answer.offsets


def _problem(sequence: RequestSequence) -> AllocationProblem:
    return AllocationProblem.from_arrays(
        sequence.malloc, sequence.free, rounded(sequence.size), ids=sequence.names
    )


def _spans(sequence: RequestSequence) -> tuple[Ints, Ints]:
    """First instruction of each segment, and one past its last."""
    count = len(sequence.segments)
    first = np.full(count, sequence.instructions, np.int64)
    last = np.zeros(count, np.int64)
    np.minimum.at(first, sequence.segment, sequence.malloc)
    np.maximum.at(last, sequence.segment, sequence.malloc + 1)
    ended = sequence.free < sequence.instructions
    np.minimum.at(first, sequence.end_segment[ended], sequence.free[ended])
    np.maximum.at(last, sequence.end_segment[ended], sequence.free[ended] + 1)
    return first, np.maximum(first, last)


def _by_segment(sequence: RequestSequence, chosen: NDArray[np.bool_]) -> list[Ints]:
    blocks = np.flatnonzero(chosen)
    order = blocks[np.argsort(sequence.segment[blocks], kind="stable")]
    cuts = np.searchsorted(sequence.segment[order], np.arange(1, len(sequence.segments)))
    return list(np.split(order, cuts))


def _as_cached(sequence: RequestSequence, bound: int) -> AddressPlan:
    """The addresses that a caching allocator without a limit gives; its segments lie side by side."""
    allocator = CachingAllocator()
    offsets = np.zeros(len(sequence), np.int64)
    for number in sequence.order().tolist():
        if number > 0:
            offsets[number - 1] = allocator.malloc(int(sequence.size[number - 1]))
        else:
            allocator.free(int(offsets[-number - 1]))
    peak = int((offsets + rounded(sequence.size)).max(initial=0))
    return AddressPlan(offsets, peak, bound, "addresses of the caching allocator")
