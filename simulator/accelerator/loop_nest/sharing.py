"""The finer rule for layers with a sliding window: neighbouring tiles share what they have in common.

An instance takes only those words of a new tile that it does not hold yet, and a word that several children of one
parent want in the same step along multicast axes is read once, whichever loops they differ in. The steps are run one
by one, so this is for layers of moderate size; outputs have no windows, and for layers without one both rules agree.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import OPERANDS, Operand
from simulator.accelerator.loop_nest.counts import Traffic, count_words
from simulator.accelerator.loop_nest.evaluate import Evaluation, costed
from simulator.accelerator.loop_nest.nest import Loop, LoopNest
from simulator.accelerator.loop_nest.zeros import all_dense
from workloads.einsum import Einsum

__all__ = ["evaluate_sharing"]

MOST_MACS: Final = 100_000_000
"""Above that, step by step takes too long."""

_TIME, _PARENT, _GROUP, _MEMBER, _INSIDE = range(5)
"""What a loop does for a pair of levels: it steps, tells parents apart, or children served apart or together, or lies
within the tile."""


def evaluate_sharing(nest: LoopNest, device: SpatialAccelerator, layer: Einsum) -> Evaluation:
    """The cost of a legal mapping under the finer rule.

    Raises ``InputError`` for a layer with more than :data:`MOST_MACS` multiply-accumulates.
    """
    if not all_dense(device, layer):
        raise bad_input("shared words are counted of operands without zeros", path="density")
    if layer.macs > MOST_MACS:
        raise bad_input(
            f"{layer.name} has {layer.macs} multiply-accumulates; shared words are counted up to {MOST_MACS}",
            path="rule",
        )
    everywhere = dict(count_words(nest, device, layer))
    busiest = dict(count_words(nest, device, layer, busiest=True))
    for operand in OPERANDS:
        if operand == "O":
            continue
        holders = [level for level, memory in enumerate(device.levels) if operand in memory.holds]
        for level in holders:
            everywhere[level, operand] = busiest[level, operand] = Traffic()
        for parent, child in pairwise((*holders, len(device.levels))):
            found = _moved(nest, device, layer, operand, (parent, child))
            for counts, reads, fills in ((everywhere, found[0], found[1]), (busiest, found[2], found[3])):
                counts[parent, operand] = counts[parent, operand].plus(reads_down=reads)
                if child < len(device.levels):
                    counts[child, operand] = counts[child, operand].plus(fills=fills)
    return costed(nest, device, layer, everywhere, busiest)


def _moved(
    nest: LoopNest, device: SpatialAccelerator, layer: Einsum, operand: Operand, pair: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Words read by the parents and taken by the children of a pair of holders; then those of the first of each.

    Below the innermost holder the children are units, which keep nothing.
    """
    loops = nest.loops()
    dims = list(layer.sizes)
    roles = np.array([_role(loop, pair, device, operand) for loop in loops], np.int64)
    steps = np.ones(len(loops), np.int64)
    covered = dict.fromkeys(dims, 1)
    inside = np.ones(len(dims), np.int64)
    for index in range(len(loops) - 1, -1, -1):
        loop = loops[index]
        steps[index] = covered[loop.dim]
        covered[loop.dim] *= loop.count
        if roles[index] == _INSIDE:
            inside[dims.index(loop.dim)] *= loop.count
    axes = layer.operands[operand]
    step = np.zeros((len(axes), len(dims)), np.int64)
    for number, axis in enumerate(axes):
        for term in axis:
            step[number, dims.index(term.dim)] += term.step
    sizes = np.array([layer.sizes[dim] for dim in dims], np.int64)
    owner = np.array([dims.index(loop.dim) for loop in loops], np.int64)
    counts = np.array([loop.count for loop in loops], np.int64)
    keeps = pair[1] < len(device.levels)
    found = _run(counts, steps, owner, roles, sizes, inside, step, keeps)
    return int(found[0]), int(found[1]), int(found[2]), int(found[3])


def _role(loop: Loop, pair: tuple[int, int], device: SpatialAccelerator, operand: Operand) -> int:
    parent, child = pair
    if loop.level >= child:
        return _INSIDE
    if not loop.axis:
        return _TIME
    if loop.level < parent:
        return _PARENT
    axis = next(axis for axis in device.levels[loop.level].fanout if axis.axis == loop.axis)
    return _MEMBER if operand in axis.multicast else _GROUP


@compiled
def _run(
    counts: NDArray[np.int64],
    steps: NDArray[np.int64],
    owner: NDArray[np.int64],
    roles: NDArray[np.int64],
    sizes: NDArray[np.int64],
    inside: NDArray[np.int64],
    step: NDArray[np.int64],
    keeps: bool,
) -> NDArray[np.int64]:
    """All steps of all groups of children; a stamp per word says when it was read last."""
    axes, dims = step.shape
    length = np.ones(axes, np.int64)
    words = 1
    for a in range(axes):
        for d in range(dims):
            length[a] += step[a, d] * (sizes[d] - 1)
        words *= length[a]
    stamp = np.zeros(words, np.int64)
    total = np.ones(4, np.int64)
    for index in range(len(counts)):
        if roles[index] < _INSIDE:
            total[roles[index]] *= counts[index]
    members = total[_MEMBER]
    low = np.zeros((members, axes), np.int64)
    high = np.zeros((members, axes), np.int64)
    base = np.zeros(dims, np.int64)
    box_low = np.zeros(axes, np.int64)
    box_high = np.zeros(axes, np.int64)
    at = np.zeros(axes, np.int64)
    found = np.zeros(4, np.int64)
    now = 0
    for parent in range(total[_PARENT]):
        for group in range(total[_GROUP]):
            low[:] = 0
            high[:] = -1
            for moment in range(total[_TIME]):
                now += 1
                for member in range(members):
                    base[:] = 0
                    left = np.array([moment, parent, group, member])
                    for index in range(len(counts) - 1, -1, -1):
                        role = roles[index]
                        if role < _INSIDE:
                            base[owner[index]] += steps[index] * (left[role] % counts[index])
                            left[role] //= counts[index]
                    active = True
                    for d in range(dims):
                        if base[d] >= sizes[d]:
                            active = False
                    if not active:
                        continue
                    new, kept = 1, 1
                    for a in range(axes):
                        box_low[a] = 0
                        reach = 0
                        for d in range(dims):
                            box_low[a] += step[a, d] * base[d]
                            reach += step[a, d] * (min(inside[d], sizes[d] - base[d]) - 1)
                        box_high[a] = box_low[a] + reach
                        new *= reach + 1
                        kept *= max(
                            0, min(box_high[a], high[member, a]) - max(box_low[a], low[member, a]) + 1
                        )
                    new -= kept
                    found[1] += new
                    if parent == 0 and group == 0 and member == 0:
                        found[3] += new
                    if new > 0:
                        read = _unread(box_low, box_high, low[member], high[member], length, at, stamp, now)
                        found[0] += read
                        if parent == 0:
                            found[2] += read
                    if keeps:
                        for a in range(axes):
                            low[member, a] = box_low[a]
                            high[member, a] = box_high[a]
    return found


@compiled
def _unread(
    box_low: NDArray[np.int64],
    box_high: NDArray[np.int64],
    held_low: NDArray[np.int64],
    held_high: NDArray[np.int64],
    length: NDArray[np.int64],
    at: NDArray[np.int64],
    stamp: NDArray[np.int64],
    now: int,
) -> int:
    """Words of a box that are not held and that nobody of the group has read in this step."""
    axes = len(length)
    for a in range(axes):
        at[a] = box_low[a]
    read = 0
    while True:
        held = True
        place = 0
        for a in range(axes):
            if at[a] < held_low[a] or at[a] > held_high[a]:
                held = False
            place = place * length[a] + at[a]
        if not held and stamp[place] != now:
            stamp[place] = now
            read += 1
        a = axes - 1
        while a >= 0 and at[a] == box_high[a]:
            at[a] = box_low[a]
            a -= 1
        if a < 0:
            return read
        at[a] += 1
