"""What partial mappings and floors have in common: how tiles divide, who holds an operand, and what enters a level.

Tiles are nodes of the lattice of :mod:`mapping.loop_nest.space`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import inlined
from mapping.loop_nest.space import Space

__all__ = [
    "EDP",
    "ENERGY",
    "LATENCY",
    "OUTPUTS",
    "SLACK",
    "begun",
    "bound_share",
    "by_units",
    "entering",
    "finals",
    "fits_in",
    "free_share",
    "holder_of",
    "left",
    "most_first_sums",
    "most_sharing",
    "node_between",
    "objective",
    "port_clocks",
    "run_floor",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ENERGY: Final = 0
LATENCY: Final = 1
EDP: Final = 2
OUTPUTS: Final = 2
"""Index of the outputs among the operands."""
SLACK: Final = 1.0 - 1e-12
"""Branches within rounding of the best are not looked into."""


@inlined
def objective(metric: int, energy: float, cycles: float) -> float:
    """What is minimised: joules, clocks, or their product."""
    if metric == ENERGY:
        return energy
    if metric == LATENCY:
        return cycles
    return energy * cycles


@inlined
def port_clocks(space: Space, level: int, read: float, written: float) -> float:
    """Clocks that an instance takes to hand out and take in so many bytes."""
    out: float = read / space.read_width[level]
    into: float = written / space.write_width[level]
    return out + into if space.one_port[level] else max(out, into)


@inlined
def run_floor(space: Space, ports: Floats, inside: float, upto: int) -> float:
    """No fewer clocks take the ports of the levels before ``upto``, and what is inside them.

    ``ports``: (L, 2) bytes handed out and taken in. What lies outside a level that is filled between runs takes its
    time beside that of the units.
    """
    outside, longest = 0.0, inside
    for busy in range(upto):
        clocks = port_clocks(space, busy, ports[busy, 0], ports[busy, 1])
        longest = max(longest, clocks)
        if busy < space.first_single:
            outside = max(outside, clocks)
    return max(longest, outside + space.least_clocks) if space.first_single < len(space.single) else longest


@inlined
def fits_in(space: Space, tile: int, inner: int) -> bool:
    """Whether a tile divides another."""
    for d in range(space.place.shape[1]):  # noqa: SIM110
        if space.quotient[d, space.place[tile, d], space.place[inner, d]] < 0:
            return False
    return True


@inlined
def node_between(space: Space, tile: int, inner: int) -> int:
    """The node that a tile is over one that divides it."""
    node: int = 0
    for d in range(space.place.shape[1]):
        node += space.quotient[d, space.place[tile, d], space.place[inner, d]] * space.stride[d]
    return node


@inlined
def holder_of(space: Space, level: int, operand: int) -> int:
    """The innermost level, from one outwards, that holds an operand."""
    while not space.holds[level, operand]:
        level -= 1
    return level


@inlined
def free_share(space: Space, operand: int, tile: int, inner: int) -> float:
    """Iterations between two tiles over dims that leave an operand alone."""
    share = 1.0
    for d in range(space.extent.shape[1]):
        if space.free[operand, d]:
            share *= space.extent[tile, d] / space.extent[inner, d]
    return share


@inlined
def bound_share(space: Space, operand: int, tile: int, inner: int) -> float:
    """Iterations between two tiles over dims that index an operand."""
    share = 1.0
    for d in range(space.extent.shape[1]):
        if not space.free[operand, d]:
            share *= space.extent[tile, d] / space.extent[inner, d]
    return share


@inlined
def entering(
    space: Space,
    operand: int,
    levels: tuple[int, int],
    taken: float,
    read: float,
    distinct: tuple[float, float],
) -> float:
    """Joules of the words that enter a level: ``taken`` by it, ``read`` of its parent; of O so many are new.

    ``levels`` are parent and child; ``distinct`` the new words as the child and as the parent counts them.
    """
    parent, child = levels
    if operand == OUTPUTS:
        energy: float = taken * space.read_j[child, operand] + read * space.write_j[parent, operand]
        energy += max(0.0, taken - distinct[0]) * space.write_j[child, operand]
        energy += max(0.0, read - distinct[1]) * space.read_j[parent, operand]
        return energy
    entering: float = taken * space.write_j[child, operand] + read * space.read_j[parent, operand]
    return entering


@inlined
def finals(
    space: Space,
    levels: tuple[int, int],
    taken: float,
    read: float,
    distinct: tuple[float, float],
    exact: bool,
) -> float:
    """Joules that O saves as :func:`entering` counts it, because its words are compressed when they leave at last.

    Where ``distinct`` is not ``exact`` it is at least what it stands for.
    """
    parent, child = levels
    of_child, of_parent = space.zeros.final_read_j[child], space.zeros.final_write_j[parent]
    if not exact:
        of_child, of_parent = max(0.0, of_child), max(0.0, of_parent)
    saved: float = min(taken, distinct[0]) * of_child + min(read, distinct[1]) * of_parent
    return saved


@inlined
def left(space: Space, which: int, parent: int, operand: int, tile: int, times: float) -> float:
    """The share of a parent's reads of a tile that zeros leave, if it meets ``times`` tiles of the other input.

    ``which`` is 0 for energy, 1 for time. The share grows with ``times``, the share over ``times`` falls.
    """
    if operand == OUTPUTS or not space.zeros.cuts[which, parent, operand]:
        return 1.0
    other = 1 - operand
    words = space.words[other, tile] * times
    d = space.zeros.along[other]
    if d < 0:
        share: float = 1.0 - (1.0 - space.zeros.share[other]) ** words
        return share
    rows = words / space.extent[tile, d]
    some: float = 1.0
    for place in range(space.zeros.empty.shape[2]):
        chance, often = space.zeros.empty[other, space.place[tile, d], place]
        some -= often * chance**rows
    return float(some)


@inlined
def by_units(space: Space, which: int, operand: int, lanes: float) -> float:
    """The share of units' accesses to an operand that zeros leave, if an access serves so many."""
    if operand != OUTPUTS:
        return float(left(space, which, space.innermost[operand], operand, 0, lanes))
    if space.zeros.products[which] == 1.0:
        return 1.0
    share: float = 1.0 - (1.0 - space.zeros.products[which]) ** lanes
    return share


@inlined
def begun(space: Space, which: int, first: float) -> float:
    """Sums that begin at the holder of O, of ``first`` words over all of its instances."""
    begun_sums: float = first * by_units(space, which, OUTPUTS, space.size[len(space.size) - 1] / first)
    return begun_sums


@inlined
def most_first_sums(space: Space) -> float:
    """Words of which a sum can begin at the holder of O: all of them at each instance that sums apart."""
    last = space.fits.shape[1] - 1
    first: float = bound_share(space, OUTPUTS, last, 0)
    for level in range(space.innermost[OUTPUTS]):
        first *= space.most_shared[level, OUTPUTS]
    return first


@inlined
def most_sharing(space: Space, operand: int, level: int, tile: int) -> float:
    """The most units that one access can serve, by what lies in the tile and by the axes from a level inwards."""
    along: float = 1.0
    for inner in range(level, space.fits.shape[0]):
        along *= space.most_shared[inner, operand]
    return float(min(along, free_share(space, operand, tile, 0)))
