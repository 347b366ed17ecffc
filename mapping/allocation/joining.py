"""Joins buffers into blocks that waste nothing: the smaller problem's plans are plans of the whole one.

Where some buffers of one life end and others of one life begin, of as many bytes together, a plan can put the second
ones into the place of the first: both stacks become one block of the joint life. Undoing the cuts of a rectangle that
was cut from edge to edge is exactly this, from the smallest pieces up; what cannot be joined remains for the exact
searches, which meet a fraction of the buffers. A join may shut out the best plans, so a problem of blocks proves
nothing. Sums that few pieces make, and that others at the same moment do not make as well, are joined first; chance
decides between equals, so that another seed gives other blocks.

The idea is that of the blocks in container loading (M. Eley, "Solving container loading problems by block
arrangement", EJOR 141, 2002), here with fixed times.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.allocation.instance import Component, Instance

__all__ = ["Block", "can_join", "join", "offsets_of"]

Ints = NDArray[np.int64]

_MOST_SUMS: Final = 400
"""Stacks looked at in one group of equal lives."""

_CHANCE: Final = 8.0
"""How far chance may raise a doubt: the order of joins is what another seed changes."""


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of sections [begin, end) and ``size`` units: one buffer, or stacks one after the other.

    ``buffer`` is -1 for stacks; each stack holds blocks of one life from the bottom up.
    """

    begin: int
    end: int
    size: int
    buffer: int = -1
    stacks: tuple[tuple[Block, ...], ...] = ()


@dataclass(slots=True)
class _Match:
    """Two stacks of as many units that meet at a time; ``doubt`` grows with what else could have been meant."""

    doubt: float
    before: tuple[Block, ...]
    after: tuple[Block, ...]


class _Joining:
    """Blocks by the times at which they begin and end, while they are joined."""

    def __init__(self, blocks: Sequence[Block], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.ending: defaultdict[int, defaultdict[int, list[Block]]] = defaultdict(lambda: defaultdict(list))
        self.beginning: defaultdict[int, defaultdict[int, list[Block]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for block in blocks:
            self._add(block)

    def _add(self, block: Block) -> None:
        self.ending[block.end][block.begin].append(block)
        self.beginning[block.begin][block.end].append(block)

    def _remove(self, block: Block) -> None:
        self.ending[block.end][block.begin].remove(block)
        self.beginning[block.begin][block.end].remove(block)

    def blocks(self) -> list[Block]:
        """All blocks, by life."""
        return [
            block
            for begin in sorted(self.beginning)
            for end in sorted(self.beginning[begin])
            for block in self.beginning[begin][end]
        ]

    def match(self, time: int) -> _Match | None:
        """The least doubtful join at a time."""
        if time not in self.ending or time not in self.beginning:
            return None
        before, after = _sums(self.ending[time]), _sums(self.beginning[time])
        best: _Match | None = None
        for total in sorted(before.keys() & after.keys()):
            lefts, rights = before[total], after[total]
            left = min(lefts, key=len)
            right = min(rights, key=len)
            doubt = (
                len(lefts)
                * len(rights)
                * (len(left) + len(right) - 1)
                * (1 + _CHANCE * float(self._rng.random()))
            )
            if best is None or doubt < best.doubt:
                if len(lefts) > 1:
                    left = _one_of(lefts, len(left), self._rng)
                if len(rights) > 1:
                    right = _one_of(rights, len(right), self._rng)
                best = _Match(doubt, left, right)
        return best

    def apply(self, match: _Match) -> Block:
        """Put the block in the place of its pieces."""
        for block in (*match.before, *match.after):
            self._remove(block)
        size = sum(block.size for block in match.before)
        joint = Block(match.before[0].begin, match.after[0].end, size, -1, (match.before, match.after))
        self._add(joint)
        return joint


def _one_of(stacks: Sequence[tuple[Block, ...]], length: int, rng: np.random.Generator) -> tuple[Block, ...]:
    short = [stack for stack in stacks if len(stack) == length]
    return short[int(rng.integers(len(short)))]


def _sums(groups: dict[int, list[Block]]) -> dict[int, list[tuple[Block, ...]]]:
    """Stacks of blocks of one life by their units."""
    found: dict[int, list[tuple[Block, ...]]] = {}
    for group in groups.values():
        for stack in _stacks(group):
            found.setdefault(sum(block.size for block in stack), []).append(stack)
    return found


def _stacks(group: Sequence[Block]) -> Iterator[tuple[Block, ...]]:
    count = 0
    for length in range(1, len(group) + 1):
        for stack in combinations(group, length):
            yield stack
            count += 1
            if count >= _MOST_SUMS:
                return


def can_join(component: Component) -> bool:
    """Whether blocks of a component's buffers are buffers like them: no gaps, pins or alignments beyond its unit."""
    inst = component.instance
    return not component.windowed and bool((inst.align == 1).all()) and not bool((inst.fixed >= 0).any())


def join(instance: Instance, seed: int, stop: Ints) -> list[Block]:
    """Blocks that hold all buffers of an instance; :func:`can_join` must hold. Ends early once ``stop`` is set."""
    columns = (instance.first.tolist(), instance.last.tolist(), instance.size.tolist())
    blocks = [Block(first, last, size, i) for i, (first, last, size) in enumerate(zip(*columns, strict=True))]
    joining = _Joining(blocks, seed)
    waiting: list[tuple[float, int, int]] = []
    version: dict[int, int] = {}
    matches: dict[int, _Match] = {}

    def look(time: int) -> None:
        version[time] = version.get(time, 0) + 1
        match = joining.match(time)
        if match is not None:
            matches[time] = match
            heapq.heappush(waiting, (match.doubt, time, version[time]))

    for time in sorted(joining.ending):
        look(time)
    while waiting and not stop[0]:
        _, time, seen = heapq.heappop(waiting)
        if version[time] != seen:
            continue
        match = matches[time]
        joint = joining.apply(match)
        for moment in (time, joint.begin, joint.end):
            look(moment)
    return joining.blocks()


def offsets_of(blocks: Sequence[Block], bases: Sequence[int], count: int) -> Ints:
    """The offset of each of ``count`` buffers, for blocks that lie at ``bases``."""
    offsets = np.full(count, -1, np.int64)
    open_blocks = list(zip(blocks, bases, strict=True))
    while open_blocks:
        block, base = open_blocks.pop()
        if block.buffer >= 0:
            offsets[block.buffer] = base
        for stack in block.stacks:
            at = base
            for piece in stack:
                open_blocks.append((piece, at))
                at += piece.size
    return offsets
