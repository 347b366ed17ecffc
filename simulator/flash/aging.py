"""Preconditioning: the drive is aged by what ages it, writes and collection, without their time.

Pages are written and victims collected by the same rules as in the engine, one after the other, so that what
comes out (valid pages of every block, erase counts, free blocks) is what such a history leaves behind and no
distribution from a model of it.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM110
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, arg-type, var-annotated"

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hw_configs.compiled import compiled
from hw_configs.problems import NoAnswerError, bad_input
from simulator.flash.ftl import (
    block_of,
    first_page,
    gc_page,
    give_back_block,
    invalidate,
    new_user_frontier,
    plane_of,
    room,
    user_page,
    victim_of,
)
from simulator.flash.layout import DriveState
from simulator.flash.pointer import block_at, drive_in, pointer_to, word_at
from simulator.flash.records import VICTIM, Flash, Memory
from simulator.flash.scheduler import random_below
from simulator.flash.step import step

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


@step
def _collect_now(f, plane, pressed):
    """Move what is valid out of a victim and erase it; False when there is no victim worth it."""
    d = f.drive
    victim = victim_of(d, plane, pressed)
    if victim == 0:
        return False
    block = block_at(d, victim)
    valid = d.pages - block.invalid
    if valid > room(d, plane):
        return False
    block.state = VICTIM
    plane.need += valid
    d.gc_runs += 1
    d.gc_moves += valid
    first = first_page(d, block)
    for page in range(first, first + d.pages):
        lpn = f.to_logical[page] - 1
        if lpn >= 0 and f.to_physical[lpn] == page + 1:
            ppn = gc_page(d, plane)
            _settle(f, lpn, ppn)
            if d.spare != 0:
                word_at(d, d.spare_areas + ppn).value = word_at(d, d.spare_areas + page).value
        if d.spare != 0:
            word_at(d, d.spare_areas + page).value = 0
    give_back_block(d, plane, block)
    return True


@step
def _settle(f, lpn, ppn):
    """A logical page lies in a physical one from now on."""
    f.to_logical[ppn] = lpn + 1
    f.to_physical[lpn] = ppn + 1
    block_of(f.drive, ppn).programmed = ppn % f.drive.pages + 1


@step
def write_now(f, lpn):
    """Write a page without time; False when its plane has no room left."""
    d = f.drive
    plane = plane_of(d, lpn)
    while plane.free < d.gc_threshold and _collect_now(f, plane, False):
        pass
    while plane.user_block == 0:
        new_user_frontier(d, plane)
        if plane.user_block == 0 and not _collect_now(f, plane, True):
            return False
    old = f.to_physical[lpn] - 1
    ppn = user_page(d, plane)
    if old >= 0:
        invalidate(d, old)
    _settle(f, lpn, ppn)
    d.write_sequence += 1
    if d.partial != 0:
        f.held[lpn] |= 0xFFFF
    if d.spare != 0:
        word_at(d, d.spare_areas + ppn).value = d.write_sequence
    return True


@step
def _stride(count, shuffled):
    """A step without a divisor in common with ``count``, so that every page is visited once; 1 if not shuffled."""
    if not shuffled:
        return 1
    stride = int(count * 0.6180339887) | 1
    while _common(stride, count) != 1:
        stride += 2
    return stride


@step
def _common(a, b):
    while b != 0:
        a, b = b, a % b
    return a


@compiled
def _age(memory, filled, overwrites, shuffled):
    """Fill the drive and write it over; False when a plane runs out of room. ``memory``: :class:`Memory`."""
    d = drive_in(memory.m)
    f = Flash(d, pointer_to(memory.to_physical), pointer_to(memory.to_logical), pointer_to(memory.held))
    for page in range(d.map_pages):
        if not write_now(f, d.logical + page):
            return False
    stride = _stride(filled, shuffled)
    at = 0
    for _ in range(filled):
        if not write_now(f, at):
            return False
        at += stride
        if at >= filled:
            at -= filled
    for _ in range(overwrites):
        if not write_now(f, random_below(d, filled)):
            return False
    return True


def age(state: DriveState, history: History) -> None:
    """Put an empty drive through a history. Raises ``NoAnswerError`` when a plane runs out of room."""
    filled = int(state.drive.logical_pages * history.occupancy)
    overwrites = int(filled * history.overwrites)
    done = _age(Memory(*state.arrays), filled, overwrites, history.order == "random")
    # What the drive did before the run is history, not part of its counts.
    state.record.gc_runs = state.record.gc_moves = 0
    if not done:
        raise NoAnswerError("a plane of the drive ran full while it was aged; give it more spare blocks")
