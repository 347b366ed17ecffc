"""Preconditioning: the drive is aged by what ages it, writes and collection, without their time.

Pages are written and victims collected by the same rules as in the engine, one after the other, so that what
comes out (valid pages of every block, erase counts, free blocks) is what such a history leaves behind and no
distribution from a model of it.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM110
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hw_configs.compiled import compiled
from hw_configs.problems import NoAnswerError, bad_input
from simulator.flash.ftl import (
    block_of,
    gc_page,
    give_back_block,
    invalidate,
    new_user_frontier,
    room,
    user_page,
    victim_of,
)
from simulator.flash.layout import (
    AT_BLOCK,
    AT_ORDER,
    AT_SPARE,
    B_INVALID,
    B_PROGRAMMED,
    B_SIZE,
    B_STATE,
    B_WRITES,
    FULL,
    GC_MOVES,
    GC_RUNS,
    GC_THRESHOLD,
    LOGICAL,
    MAP_PAGES,
    P_FREE,
    P_NEED,
    P_USER,
    PAGES,
    PARTIAL,
    PLANES,
    SPARE,
    VICTIM,
    WRITE_SEQUENCE,
    DriveState,
)
from simulator.flash.pointer import pointer_to
from simulator.flash.scheduler import random_below

__all__ = ["History", "age", "write_now"]


@dataclass(frozen=True, slots=True)
class History:
    """What a drive went through: a fill of ``occupancy`` of it, then random ``overwrites`` of what it holds.

    ``overwrites`` counts capacities of the filled part. ``order`` is that of the fill.
    """

    occupancy: float = 1.0
    overwrites: float = 0.0
    order: Literal["sequential", "random"] = "sequential"

    def __post_init__(self) -> None:
        if not 0 <= self.occupancy <= 1 or not 0 <= self.overwrites <= 1000:
            raise bad_input("a history needs an occupancy from 0 to 1 and 0 to 1000 overwrites")
        if self.order not in ("sequential", "random"):
            raise bad_input(f"found order {self.order!r}; known: sequential, random")


@compiled
def _collect_now(m, l2p, p2l, plane, pressed):
    """Move what is valid out of a victim and erase it; False when there is no victim worth it."""
    block = victim_of(m, plane, pressed)
    if block == 0 or m[block + B_STATE] != FULL or m[block + B_WRITES] != 0:
        return False
    valid = m[PAGES] - m[block + B_INVALID]
    if valid > room(m, plane):
        return False
    m[block + B_STATE] = VICTIM
    m[plane + P_NEED] += valid
    m[GC_RUNS] += 1
    m[GC_MOVES] += valid
    first = (block - m[AT_BLOCK]) // B_SIZE * m[PAGES]
    for page in range(first, first + m[PAGES]):
        lpn = p2l[page] - 1
        if lpn >= 0 and l2p[lpn] == page + 1:
            ppn = gc_page(m, plane)
            p2l[ppn] = lpn + 1
            l2p[lpn] = ppn + 1
            m[block_of(m, ppn) + B_PROGRAMMED] = ppn % m[PAGES] + 1
            if m[SPARE] != 0:
                m[m[AT_SPARE] + ppn] = m[m[AT_SPARE] + page]
        if m[SPARE] != 0:
            m[m[AT_SPARE] + page] = 0
    give_back_block(m, plane, block)
    return True


@compiled
def write_now(m, l2p, p2l, aux, lpn):
    """Write a page without time; False when its plane has no room left."""
    plane = m[m[AT_ORDER] + lpn % m[PLANES]]
    while m[plane + P_FREE] < m[GC_THRESHOLD] and _collect_now(m, l2p, p2l, plane, False):
        pass
    while m[plane + P_USER] == 0:
        new_user_frontier(m, plane)
        if m[plane + P_USER] == 0 and not _collect_now(m, l2p, p2l, plane, True):
            return False
    old = l2p[lpn] - 1
    ppn = user_page(m, plane)
    if old >= 0:
        invalidate(m, old)
    l2p[lpn] = ppn + 1
    p2l[ppn] = lpn + 1
    m[block_of(m, ppn) + B_PROGRAMMED] = ppn % m[PAGES] + 1
    m[WRITE_SEQUENCE] += 1
    if m[PARTIAL] != 0:
        aux[lpn] |= 0xFFFF
    if m[SPARE] != 0:
        m[m[AT_SPARE] + ppn] = m[WRITE_SEQUENCE]
    return True


@compiled
def _age(state, l2p_map, p2l_map, auxiliary, filled, overwrites, shuffled):
    m, l2p, p2l, aux = pointer_to(state), pointer_to(l2p_map), pointer_to(p2l_map), pointer_to(auxiliary)
    for page in range(m[MAP_PAGES]):
        if not write_now(m, l2p, p2l, aux, m[LOGICAL] + page):
            return False
    # A step without a divisor in common with the number of pages visits each of them once.
    step = 1
    if shuffled:
        step = int(filled * 0.6180339887) | 1
        while _common(step, filled) != 1:
            step += 2
    at = 0
    for _ in range(filled):
        if not write_now(m, l2p, p2l, aux, at):
            return False
        at += step
        if at >= filled:
            at -= filled
    for _ in range(overwrites):
        if not write_now(m, l2p, p2l, aux, random_below(m, filled)):
            return False
    return True


@compiled
def _common(a, b):
    while b != 0:
        a, b = b, a % b
    return a


def age(state: DriveState, history: History) -> None:
    """Put an empty drive through a history. Raises ``NoAnswerError`` when a plane runs out of room."""
    filled = int(state.drive.logical_pages * history.occupancy)
    overwrites = int(filled * history.overwrites)
    done = _age(
        state.m, state.to_physical, state.to_logical, state.auxiliary, filled, overwrites,
        history.order == "random",
    )  # fmt: skip
    # What the drive did before the run is history, not part of its counts.
    state.m[[GC_RUNS, GC_MOVES]] = 0
    if not done:
        raise NoAnswerError("a plane of the drive ran full while it was aged; give it more spare blocks")
