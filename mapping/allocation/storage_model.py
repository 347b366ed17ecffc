"""A problem with rules as storages, pairs and slacks, which exact search and MIP work on.

Aliases are one storage: it lies at one offset and takes at each moment what its members take. An output as large as its
input, the only one that lies in it, joins its storage as well. What remains of in-place pairs is a slack: the output
starts between the input's offset and that many bytes above. A buffer that may move is one storage for each part of its
life, and the parts before and after a move share its moment. A pair of storages that may meet keeps one order, as the
format of gaps demands: ``up`` is the least distance when the first lies below, ``down`` when it lies above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input
from mapping.allocation.meetings import Spans, distances, most_apart
from mapping.allocation.problem import AllocationProblem, Span
from mapping.allocation.result import Explanation
from mapping.allocation.rules import above, root_of
from mapping.deadline import OutOfTimeError

__all__ = ["StorageModel", "groups_of", "model_of", "pins_that_clash"]

Ints = NDArray[np.int64]
MOST_PAIRS: Final = 3_000_000
"""Pairs that a model takes; it lists each (10^4 buffers, 300 at a time)."""


@dataclass(frozen=True)
class StorageModel:
    """Storages in units of ``unit`` bytes.

    ``members``: buffers of each storage. ``size``: bytes that count for the top (0: never in use); ``pair``: rows
    (a, b, up, down); ``slack``: rows (inner, outer, least, most) of offset differences inner - outer; ``step``: rows
    (storage, bytes, boundary); ``move``: rows (before, after, bytes, time) of parts of one buffer.
    """

    unit: int
    members: tuple[tuple[int, ...], ...]
    size: Ints
    align: Ints
    fixed: Ints
    pair: Ints
    slack: Ints
    step: Ints
    move: Ints
    bound: int

    def __len__(self) -> int:
        return len(self.members)

    def cost(self, offsets: Ints | None, capacity: int | None, move_cost: float) -> float:
        """What a plan costs: bytes moved below a capacity, else the peak and its moves; infinite without a plan."""
        if offsets is None:
            return math.inf
        before, after, size, _ = self.move.T
        moved = float(size[offsets[before] != offsets[after]].sum())
        top = self.top(offsets) * self.unit
        if capacity is None:
            return top + move_cost * moved
        return moved if top <= capacity else math.inf

    def top(self, offsets: Ints) -> int:
        """The highest end, in units."""
        used = self.size > 0
        return int((offsets + self.size)[used].max()) if used.any() else 0


def groups_of(problem: AllocationProblem) -> list[int]:
    """A representative per buffer, equal for those that must lie at one offset."""
    rules = problem.rules
    parent = list(range(len(problem)))
    for group in rules.alias:
        for i in group[1:]:
            _join(parent, group[0], i)
    # An output of its input's size lies where the input does; where it is the only one it may take the storage over.
    # Joining two storages never gives a third one more outputs, so that the order of the pairs does not matter.
    size = problem.size.tolist()
    pairs = [(out, into) for out, into in rules.inside if size[out] == size[into]]
    merged = True
    while merged:
        merged = False
        children: dict[int, set[int]] = {}
        for out, into in rules.inside:
            children.setdefault(root_of(parent, into), set()).add(out)
        for out, into in pairs:
            a, b = root_of(parent, out), root_of(parent, into)
            if a != b and all(root_of(parent, child) in (a, b) for child in children[b]):
                _join(parent, a, b)
                children[min(a, b)] = children.get(a, set())
                merged = True
    return [root_of(parent, i) for i in range(len(problem))]


def _join(parent: list[int], a: int, b: int) -> None:
    a, b = root_of(parent, a), root_of(parent, b)
    parent[max(a, b)] = min(a, b)


def pins_that_clash(problem: AllocationProblem, root: Sequence[int]) -> Explanation | None:
    """Two pins of one storage at different offsets."""
    seen: dict[int, int] = {}
    for i in np.flatnonzero(problem.fixed >= 0).tolist():
        other = seen.setdefault(root[i], i)
        if problem.fixed[i] != problem.fixed[other]:
            names = f"{problem.ids[other]!r} and {problem.ids[i]!r}"
            told = f"buffers {names} have one place and are pinned at {problem.fixed[other]} and {problem.fixed[i]}"
            return Explanation("pins", (other, i), told, True)
    for i in np.flatnonzero(problem.fixed < 0).tolist():
        pinned = seen.get(root[i])
        if pinned is not None and problem.fixed[pinned] % problem.alignment[i]:
            told = f"buffer {problem.ids[pinned]!r} is pinned at {problem.fixed[pinned]}, where {problem.ids[i]!r}"
            told += f" would not be aligned to {problem.alignment[i]}"
            return Explanation("pins", (pinned, i), told, True)
    return None


@dataclass(frozen=True)
class _Part:
    """A buffer, or a part of its life between moves."""

    buffer: int
    spans: tuple[Span, ...]


def model_of(
    problem: AllocationProblem, root: Sequence[int], moving: bool = True, stop: Ints | None = None
) -> StorageModel:
    """The model of a problem; ``root`` from :func:`groups_of`. Without ``moving`` no buffer moves.

    Raises ``OutOfTimeError`` once the flag ``stop`` is set, and ``InputError`` for more than :data:`MOST_PAIRS` pairs.
    """
    rules = problem.rules
    stop = np.zeros(1, np.int64) if stop is None else stop
    parts: list[list[_Part]] = []
    move: list[tuple[int, int, int, int]] = []
    of: dict[int, int] = {}
    for i in range(len(problem)):
        if stop[0]:
            raise OutOfTimeError
        times = rules.moves.get(i, ()) if moving and problem.fixed[i] < 0 else ()
        spans = problem.spans(i)
        if times and spans:
            begins = [int(problem.lower[i]), *times]
            ends = [*(time + 1 for time in times), int(problem.upper[i])]
            of[i] = len(parts)
            for k, (begin, end) in enumerate(zip(begins, ends, strict=True)):
                parts.append([_Part(i, (Span(begin, end, 0, int(problem.size[i])),))])
                if k:
                    move.append((len(parts) - 2, len(parts) - 1, int(problem.size[i]), times[k - 1]))
            continue
        if root[i] not in of:
            of[root[i]] = len(parts)
            parts.append([])
        of[i] = of[root[i]]
        parts[of[i]].append(_Part(i, tuple(spans)))
    members = tuple(tuple(part.buffer for part in listed) for listed in parts)
    size = [max((int(problem.size[p.buffer]) for p in listed if p.spans), default=0) for listed in parts]
    align = [
        math.lcm(*(int(problem.alignment[i]) for i in group if problem.fixed[i] < 0)) for group in members
    ]
    fixed = [max((int(problem.fixed[i]) for i in group), default=-1) for group in members]
    step = [
        (s, int(problem.size[i]), rules.boundary[i])
        for s, group in enumerate(members)
        for i in group
        if i in rules.boundary and problem.size[i] > 0
    ]
    slack = [
        (of[out], of[into], 0, int(problem.size[into] - problem.size[out]))
        for out, into in rules.inside
        if of[out] != of[into]
    ]
    nested = [(of[a], of[b]) for a, b in above(rules, root)]
    in_use = _spans(problem, parts, [*((a, b) for a, b, _, _ in move), *nested])
    pair = _pairs(problem, parts, in_use, stop)
    figures = [*size, *align, *(at for at in fixed if at >= 0), *(x for row in step for x in row[1:])]
    figures += [x for row in slack for x in row[2:]]
    unit = max(math.gcd(*figures, int(np.gcd.reduce(pair[:, 2:], axis=None, initial=0))), 1)
    bound = max(most_apart(in_use, stop), *size, 0)

    def table(rows: Sequence[tuple[int, ...]], width: int, kept: tuple[int, ...]) -> Ints:
        array = np.array(rows, np.int64).reshape(-1, width)
        for column in kept:
            array[:, column] //= unit
        return array

    return StorageModel(
        unit, members, np.array(size, np.int64) // unit, np.array(align, np.int64) // unit,
        np.array([at // unit if at >= 0 else -1 for at in fixed], np.int64),
        pair // np.array([1, 1, unit, unit]), table(slack, 4, (2, 3)), table(step, 3, (1, 2)), table(move, 4, ()),
        max(bound, max((at + s for at, s in zip(fixed, size, strict=True) if at >= 0 and s), default=0)),
    )  # fmt: skip


def _spans(
    problem: AllocationProblem, parts: Sequence[Sequence[_Part]], free: Sequence[tuple[int, int]]
) -> Spans:
    """What is in use when; ``free``: storages that may share bytes, as parts of one buffer at the moment of a copy."""
    rows = [
        (span.lower, span.upper, span.window_lower, span.window_upper, s, part.buffer)
        for s, listed in enumerate(parts)
        for part in listed
        for span in part.spans
    ]
    return Spans.of(rows, problem.rules.shared, free)


def _pairs(problem: AllocationProblem, parts: Sequence[Sequence[_Part]], spans: Spans, stop: Ints) -> Ints:
    """(a, b, up, down) of all storages that may meet; buffers kept apart meet with all their bytes."""
    where: dict[int, list[int]] = {}
    for s, listed in enumerate(parts):
        for part in listed:
            if part.spans:
                where.setdefault(part.buffer, []).append(s)
    extra = []
    for one, two in problem.rules.separate:
        for i, k, s, t in ((one, two, s, t) for s in where.get(one, ()) for t in where.get(two, ())):
            (a, low), (b, high) = sorted(((s, i), (t, k)))
            extra.append((a, b, int(problem.size[low]), int(problem.size[high])))
    rows = distances(spans, np.array(extra, np.int64).reshape(-1, 4), 2 * MOST_PAIRS, stop)
    if rows is None or len(rows) > MOST_PAIRS:
        told = f"more than {MOST_PAIRS} pairs of buffers meet, too many under boundaries, shares, places or moves"
        raise bad_input(told, path=problem.name or None)
    return rows
