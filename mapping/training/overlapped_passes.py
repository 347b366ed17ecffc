"""A forward and a backward pass of one rank run together: while one exchanges, the other computes.

DualPipe cuts a pair of passes into attention, dispatch of tokens to experts, experts and combination, and lays them so
that exchanges and computation of the two pass each other (DeepSeek-V3, arXiv:2412.19437, section 3.2, figure 4). Here
both passes' pieces are put onto the rank's streams in one order: whatever piece can begin first comes first, its own
pass's pieces in their order, each with the wires to itself; of two at once the one that is more work away from its end.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from simulator.training.program import Block

__all__ = ["joined"]

Ints = NDArray[np.int64]


def joined(first: Block, second: Block) -> tuple[Block, Ints, Ints]:
    """Two passes as one block of tasks; and where each task of either stands in it."""
    order = _order((first, second))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    cut = len(first)
    names = [field.name for field in fields(Block) if field.name not in ("before", "after")]
    whole = {name: np.concatenate([getattr(first, name), getattr(second, name)])[order] for name in names}
    before = place[np.concatenate([first.before, second.before + cut])]
    after = place[np.concatenate([first.after, second.after + cut])]
    return Block(**whole, before=before, after=after), place[:cut], place[cut:]


def _order(blocks: tuple[Block, Block]) -> Ints:
    """Tasks of both blocks, numbered through, in the order of their beginnings."""
    counts = [len(block) for block in blocks]
    waits: list[list[list[int]]] = [[[] for _ in range(count)] for count in counts]
    for which, block in enumerate(blocks):
        for before, after in zip(block.before.tolist(), block.after.tolist(), strict=True):
            waits[which][after].append(before)
    rest = [np.cumsum(block.seconds[::-1])[::-1] for block in blocks]
    free: dict[int, float] = {}
    ends: list[list[float]] = [[], []]
    found: list[int] = []
    while len(found) < sum(counts):
        best: tuple[float, float, int] | None = None
        for which, block in enumerate(blocks):
            task = len(ends[which])
            if task == counts[which]:
                continue
            ready = max((ends[which][before] for before in waits[which][task]), default=0.0)
            begin = max(ready, free.get(int(block.stream[task]), 0.0))
            candidate = (begin, -float(rest[which][task]), which)
            best = candidate if best is None else min(best, candidate)
        assert best is not None
        begin, _, which = best
        task = len(ends[which])
        end = begin + float(blocks[which].seconds[task])
        free[int(blocks[which].stream[task])] = end
        ends[which].append(end)
        found.append(task + which * counts[0])
    return np.array(found, np.int64)
