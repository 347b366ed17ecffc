"""A problem as the search kernels read it: flat arrays over compressed times, in the largest common unit.

Times become section numbers. A section is a piece of time in which the set of buffers in use does not change;
one whose set is contained in a neighbour's says nothing new and is merged into it.

Offsets and sizes are counted in ``unit`` bytes. The unit is the greatest common divisor of sizes, alignments,
windows and fixed offsets. When all buffers share one alignment, that is a unit too, and sizes are rounded up to
it: whatever lies above a buffer starts at a multiple anyway. Only the topmost buffer of a section meets the
capacity with its true size, so the capacity enters as the highest offset of each buffer
(:func:`highest_offsets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from hw_configs.problems import bad_input
from mapping.allocation.problem import AllocationProblem

__all__ = ["Component", "Instance", "build_components", "highest_offsets", "section_ceilings"]

Ints = NDArray[np.int64]

MOST_BUFFERS = 8000
MOST_CELLS = 20_000_000
MOST_WINDOWED = 3000
"""Beyond these a component is placed greedily only; the tables grow with the square of the buffers."""


class Instance(NamedTuple):
    """Buffers 0..n-1 over sections 0..S-1. A ragged table is a pointer array with flat columns."""

    size: Ints
    first: Ints  # first section of the life
    last: Ints  # one past the last section of the life
    align: Ints
    fixed: Ints  # offset, or -1
    span_ptr: Ints  # the parts of a life in use: sections and window of bytes
    span_lo: Ints
    span_hi: Ints
    window_lo: Ints
    window_hi: Ints
    near_ptr: Ints  # conflicting buffers
    near: Ints
    above: Ints  # least distance of offsets when that neighbour lies above
    member_ptr: Ints  # buffers in use in a section, with the lower end of their window
    member: Ints
    member_lo: Ints
    barred_ptr: Ints  # open intervals of offsets that fixed neighbours forbid, sorted and disjoint
    barred_lo: Ints
    barred_hi: Ints
    twin: Ints  # an identical buffer that must lie below this one, or -1


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a problem that shares no time with the rest; ``index`` maps its buffers to the problem's."""

    index: Ints
    instance: Instance
    unit: int
    true_size: Ints
    windowed: bool
    searchable: bool
    """False for a component too large for the exact engines; its ``member`` and ``near`` tables are empty."""

    @property
    def complete_by_offset(self) -> bool:
        """Whether placing buffers by rising offset reaches every packing (no distance is zero or less)."""
        return not self.windowed or bool((self.instance.above > 0).all())


def highest_offsets(component: Component, capacity: int) -> Ints:
    """The highest offset, in units, at which each buffer stays below the capacity in bytes."""
    return (capacity - component.true_size) // component.unit


def section_ceilings(instance: Instance, highest: Ints) -> Ints:
    """Per section, a height in units that the tops of its buffers cannot exceed."""
    tops = highest + instance.size
    return np.maximum.reduceat(tops[instance.member], instance.member_ptr[:-1])


def build_components(problem: AllocationProblem) -> list[Component]:
    """The independent parts of a problem, in order of time. Buffers of size 0 or without life are in none.

    Buffers inside a component are ordered by their content, so that the order of the rows has no influence.
    """
    spans = _Spans.of(problem)
    if not len(spans.owner):
        return []
    unit, size = _unit(problem, spans)
    section_lo, section_hi, count = _sections(spans)
    n = len(problem)
    first = np.full(n, count, np.int64)
    last = np.zeros(n, np.int64)
    np.minimum.at(first, spans.owner, section_lo)
    np.maximum.at(last, spans.owner, section_hi)
    used = np.flatnonzero(first < last)
    order = used[_content_order(problem, used, first, last)]
    lives = _Lives(first, last, section_lo, section_hi)
    return [
        _component(problem, spans, lives, indices, start, unit, size)
        for indices, start in _split(order, first, last)
    ]


class _Lives(NamedTuple):
    """Sections of each buffer's life, and of each part of a life in use (``lo`` to ``hi``)."""

    first: Ints
    last: Ints
    lo: Ints
    hi: Ints


@dataclass(frozen=True, slots=True)
class _Spans:
    """The parts of all lives in use, as columns; sorted by owner."""

    owner: Ints
    lower: Ints
    upper: Ints
    window_lo: Ints
    window_hi: Ints

    @classmethod
    def of(cls, problem: AllocationProblem) -> _Spans:
        plain = (problem.size > 0) & (problem.upper > problem.lower)
        if problem.gaps:
            plain[list(problem.gaps)] = False
        owner = np.flatnonzero(plain)
        columns = [
            owner,
            problem.lower[owner],
            problem.upper[owner],
            np.zeros_like(owner),
            problem.size[owner],
        ]
        if problem.gaps:
            rows = [
                (index, span.lower, span.upper, span.window_lower, span.window_upper)
                for index in sorted(problem.gaps)
                for span in problem.spans(index)
            ]
            extra = np.array(rows, dtype=np.int64).reshape(-1, 5)
            columns = [np.concatenate([column, extra[:, k]]) for k, column in enumerate(columns)]
            order = np.lexsort((columns[1], columns[0]))
            columns = [column[order] for column in columns]
        return cls(*columns)


def _unit(problem: AllocationProblem, spans: _Spans) -> tuple[int, Ints]:
    """The unit in bytes and all sizes in units."""
    used = np.unique(spans.owner)
    size, align, fixed = problem.size[used], problem.alignment[used], problem.fixed[used]
    pins = fixed[fixed >= 0]
    common = int(align[0])
    uniform = bool((align == common).all()) and not problem.gaps and not np.any(pins % common)
    if uniform:
        rounded = -(-problem.size // common)
        shared = int(np.gcd.reduce(np.concatenate([rounded[used], pins // common])))
        return common * shared, rounded // shared
    windows = np.concatenate([spans.window_lo, spans.window_hi])
    unit = int(np.gcd.reduce(np.concatenate([size, align, pins, windows])))
    return unit, problem.size // unit


def _sections(spans: _Spans) -> tuple[Ints, Ints, int]:
    times = np.unique(np.concatenate([spans.lower, spans.upper]))
    low = np.searchsorted(times, spans.lower)
    high = np.searchsorted(times, spans.upper)
    starts = np.bincount(low, minlength=len(times)) > 0
    ends = np.bincount(high, minlength=len(times)) > 0
    merged = _merge(starts, ends)
    return merged[low], merged[high - 1] + 1, int(merged[-1]) + 1


@compiled
def _merge(starts, ends):  # type: ignore[no-untyped-def]
    """A new section begins only where a start follows an end: sets that only grow or only shrink are nested."""
    merged = np.zeros(len(starts) - 1, np.int64)
    current = 0
    ended = False
    for s in range(1, len(starts) - 1):
        ended = ended or ends[s]
        if starts[s] and ended:
            current += 1
            ended = False
        merged[s] = current
    return merged


def _content_order(problem: AllocationProblem, used: Ints, first: Ints, last: Ints) -> Ints:
    columns = (problem.fixed, problem.alignment, problem.upper, problem.lower, problem.size, last, first)
    order = np.lexsort(tuple(column[used] for column in columns))
    rows = used[order]
    same = np.ones(len(rows), dtype=bool)
    for column in columns:
        same[1:] &= column[rows][1:] == column[rows][:-1]
    same[:1] = False
    if same.any():
        # Identical rows are told apart by their gaps and names; the lexicographic sort above did the rest.
        group = np.cumsum(~same)
        listed = rows.tolist()
        twins = np.flatnonzero(same | np.append(same[1:], False))
        keys = {
            i: (int(group[i]), repr(problem.gaps.get(listed[i], ())), str(problem.ids[listed[i]]))
            for i in twins.tolist()
        }
        order = order.copy()
        order[twins] = order[np.array(sorted(keys, key=keys.__getitem__), dtype=np.int64)]
    return order


def _split(order: Ints, first: Ints, last: Ints) -> list[tuple[Ints, int]]:
    """Runs of buffers between times that no life crosses; ``order`` is sorted by first section."""
    reach = np.maximum.accumulate(last[order])
    starts = np.flatnonzero(np.concatenate([[True], first[order][1:] >= reach[:-1]]))
    parts = np.split(order, starts[1:])
    return [(part, int(first[part[0]])) for part in parts]


def _component(
    problem: AllocationProblem,
    spans: _Spans,
    lives: _Lives,
    index: Ints,
    start: int,
    unit: int,
    size: Ints,
) -> Component:
    """The part made of the buffers ``index``, whose sections begin with ``start``; ``size`` in units."""
    n = len(index)
    begin = np.searchsorted(spans.owner, index)
    end = np.searchsorted(spans.owner, index, side="right")
    counts = end - begin
    ptr = np.concatenate([[0], np.cumsum(counts)])
    rows = np.repeat(begin - ptr[:-1], counts) + np.arange(ptr[-1])
    span_lo, span_hi = lives.lo[rows] - start, lives.hi[rows] - start
    true_size = problem.size[index]
    windowed = bool(problem.gaps) and any(int(i) in problem.gaps for i in index)
    if windowed:
        window_lo, window_hi = spans.window_lo[rows] // unit, spans.window_hi[rows] // unit
    else:
        window_lo, window_hi = np.zeros(n, np.int64), size[index].copy()
    life_lo, life_hi = lives.first[index] - start, lives.last[index] - start
    sections = int(life_hi.max())
    searchable = int((span_hi - span_lo).sum()) <= MOST_CELLS and n <= MOST_BUFFERS
    if searchable:
        member_ptr, member, member_lo = _members(sections, ptr, span_lo, span_hi, window_lo)
    else:
        member_ptr, member, member_lo = np.zeros(sections + 1, np.int64), *np.empty((2, 0), np.int64)
    if windowed and n > MOST_WINDOWED:
        raise bad_input(
            f"{n} buffers with gaps share one part of time; at most {MOST_WINDOWED} can be solved"
        )
    if not searchable:
        near_ptr, near, above = np.zeros(n + 1, np.int64), *np.empty((2, 0), np.int64)
    elif windowed:
        near_ptr, near, above = _windowed_pairs(n, ptr, span_lo, span_hi, window_lo, window_hi)
    else:
        near_ptr, near, above = _plain_pairs(life_lo, life_hi, size[index])
    fixed = np.where(problem.fixed[index] >= 0, problem.fixed[index] // unit, -1)
    align = np.maximum(problem.alignment[index] // unit, 1)
    barred = _barred(fixed, near_ptr, near, above)
    keys = np.stack([life_lo, life_hi, true_size, align], axis=1)
    twin = np.full(n, -1, np.int64)
    if n > 1 and not windowed:
        same = (keys[1:] == keys[:-1]).all(axis=1) & (fixed[1:] < 0) & (fixed[:-1] < 0)
        twin[1:][same] = np.arange(n - 1)[same]
    instance = Instance(
        size[index].copy(), life_lo, life_hi, align, fixed, ptr, span_lo, span_hi, window_lo, window_hi,
        near_ptr, near, above, member_ptr, member, member_lo, *barred, twin,
    )  # fmt: skip
    return Component(index, instance, unit, true_size, windowed, searchable)


@compiled
def _members(sections, span_ptr, span_lo, span_hi, window_lo):  # type: ignore[no-untyped-def]
    n = len(span_ptr) - 1
    ptr = np.zeros(sections + 1, np.int64)
    for p in range(span_ptr[n]):
        for s in range(span_lo[p], span_hi[p]):
            ptr[s + 1] += 1
    for s in range(sections):
        ptr[s + 1] += ptr[s]
    fill = ptr[:-1].copy()
    member = np.empty(ptr[sections], np.int64)
    member_lo = np.empty(ptr[sections], np.int64)
    for i in range(n):
        for p in range(span_ptr[i], span_ptr[i + 1]):
            for s in range(span_lo[p], span_hi[p]):
                member[fill[s]] = i
                member_lo[fill[s]] = window_lo[p]
                fill[s] += 1
    return ptr, member, member_lo


@compiled
def _plain_pairs(first, last, size):  # type: ignore[no-untyped-def]
    """Neighbours of buffers without gaps; the rows come sorted by first section."""
    n = len(first)
    ptr = np.zeros(n + 1, np.int64)
    for i in range(n):
        for k in range(i + 1, n):
            if first[k] >= last[i]:
                break
            ptr[i + 1] += 1
            ptr[k + 1] += 1
    for i in range(n):
        ptr[i + 1] += ptr[i]
    fill = ptr[:-1].copy()
    near = np.empty(ptr[n], np.int64)
    above = np.empty(ptr[n], np.int64)
    for i in range(n):
        for k in range(i + 1, n):
            if first[k] >= last[i]:
                break
            near[fill[i]] = k
            above[fill[i]] = size[i]
            fill[i] += 1
            near[fill[k]] = i
            above[fill[k]] = size[k]
            fill[k] += 1
    return ptr, near, above


@compiled
def _windowed_pairs(n, span_ptr, span_lo, span_hi, window_lo, window_hi):  # type: ignore[no-untyped-def]
    """Neighbours and distances of buffers with gaps: the largest reach of one into the other over all time."""
    far = np.int64(-(2**62))
    distance = np.full((n, n), far, np.int64)
    for i in range(n):
        for k in range(n):
            if i == k:
                continue
            for p in range(span_ptr[i], span_ptr[i + 1]):
                for q in range(span_ptr[k], span_ptr[k + 1]):
                    if max(span_lo[p], span_lo[q]) < min(span_hi[p], span_hi[q]):
                        distance[i, k] = max(distance[i, k], window_hi[p] - window_lo[q])
    ptr = np.zeros(n + 1, np.int64)
    for i in range(n):
        ptr[i + 1] = ptr[i] + (distance[i] != far).sum()
    near = np.empty(ptr[n], np.int64)
    above = np.empty(ptr[n], np.int64)
    at = 0
    for i in range(n):
        for k in range(n):
            if distance[i, k] != far:
                near[at] = k
                above[at] = distance[i, k]
                at += 1
    return ptr, near, above


def _barred(fixed: Ints, near_ptr: Ints, near: Ints, above: Ints) -> tuple[Ints, Ints, Ints]:
    """Open intervals of offsets at which a free buffer would meet a fixed neighbour."""
    n = len(fixed)
    ptr = np.zeros(n + 1, np.int64)
    if not (fixed >= 0).any():
        return ptr, np.empty(0, np.int64), np.empty(0, np.int64)
    reach = {
        (i, int(near[p])): int(above[p])
        for i in range(n)
        for p in range(int(near_ptr[i]), int(near_ptr[i + 1]))
    }
    lows: list[int] = []
    highs: list[int] = []
    for i in range(n):
        found = []
        if fixed[i] < 0:
            for p in range(int(near_ptr[i]), int(near_ptr[i + 1])):
                k = int(near[p])
                if fixed[k] >= 0:
                    low, high = int(fixed[k]) - int(above[p]), int(fixed[k]) + reach[k, i]
                    if low + 1 < high:
                        found.append((low, high))
        merged: list[list[int]] = []
        for low, high in sorted(found):
            # Open intervals join only when they share an integer; a single free offset between them stays.
            if merged and low + 1 < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        lows += [low for low, _ in merged]
        highs += [high for _, high in merged]
        ptr[i + 1] = len(lows)
    return ptr, np.array(lows, dtype=np.int64), np.array(highs, dtype=np.int64)
