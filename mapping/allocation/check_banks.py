"""The independent checker of a plan in several banks, and what such a plan costs.

The banks are laid end to end, each at a multiple of all alignments and boundaries; what is left to see is one arena for
:func:`mapping.allocation.check.check`. Bank names, capacities, pins and costs are looked at here, in plain Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mapping.allocation.check import check
from mapping.allocation.problem import NO_OFFSET, AllocationProblem
from mapping.allocation.result import Move
from mapping.allocation.violation import Violation

if TYPE_CHECKING:
    from mapping.allocation.banks import Bank

__all__ = ["check_banks", "cost_in_banks"]

_Stay = tuple[int, int, str, int]
"""From time, to time (moments of copies counted once), bank, offset."""


def _stays(
    problem: AllocationProblem, bank: Sequence[str], offsets: Sequence[int], moves: Sequence[Move]
) -> list[list[_Stay]]:
    """Where each buffer lies, and when."""
    found: list[list[_Stay]] = []
    for i in range(len(problem)):
        begin, at = int(problem.lower[i]), (bank[i], int(offsets[i]))
        own: list[_Stay] = []
        for move in sorted((move for move in moves if move.buffer == i), key=lambda move: move.time):
            own.append((begin, move.time, *at))
            begin, at = move.time, (move.bank, move.offset)
        found.append([*own, (begin, int(problem.upper[i]), *at)])
    return found


def check_banks(
    problem: AllocationProblem,
    capacity: Mapping[str, int],
    bank: Sequence[str],
    offsets: Sequence[int],
    moves: Sequence[Move] = (),
) -> list[Violation]:
    """Everything that is wrong with a plan in banks (``capacity`` by name); an empty list means that it holds.

    ``bank`` and ``offsets``: where each buffer lies first. Two buffers of ``apart`` are never in one bank, also not one
    after the other.
    """
    rules, ids = problem.rules, problem.ids
    found: list[Violation] = []
    stays = _stays(problem, bank, offsets, moves)
    ends = dict.fromkeys(capacity, 0)
    for i, own in enumerate(stays):
        for _, _, name, offset in own:
            top = offset + int(problem.size[i])
            if name not in capacity or name not in rules.banks.get(i, capacity):
                found.append(Violation("bank", (i,), f"buffer {ids[i]!r} may not go to the bank {name!r}"))
                continue
            ends[name] = max(ends[name], top)
            if offset < 0 or (top > capacity[name] and problem.spans(i)):
                found.append(
                    Violation("capacity", (i,), f"buffer {ids[i]!r} lies outside {name!r}: {offset} to {top}")
                )
            if problem.fixed[i] >= 0 and offset != problem.fixed[i]:
                found.append(Violation("pin", (i,), f"buffer {ids[i]!r} is pinned at {problem.fixed[i]}"))
    for a, b in rules.apart:
        if {stay[2] for stay in stays[a]} & {stay[2] for stay in stays[b]}:
            found.append(Violation("apart", (a, b), f"buffers {ids[a]!r} and {ids[b]!r} go to one bank"))
    if found:
        return found
    pinned = problem.fixed >= 0
    alignment = np.where(pinned, 1, problem.alignment)
    step = math.lcm(*map(int, alignment), *rules.boundary.values())
    base: dict[str, int] = {}
    at = 0
    for name, end in ends.items():
        base[name] = at
        at += -(-end // step) * step
    one = replace(
        problem,
        alignment=alignment,
        fixed=np.full(len(problem), NO_OFFSET, np.int64),
        rules=replace(rules, banks={}, apart=(), pools={}),
    )
    laid = [base[name] + int(offset) for name, offset in zip(bank, offsets, strict=True)]
    return check(one, laid, moves=[replace(move, offset=base[move.bank] + move.offset) for move in moves])


def cost_in_banks(
    problem: AllocationProblem,
    banks: Sequence[Bank],
    bank: Sequence[str],
    offsets: Sequence[int],
    moves: Sequence[Move] = (),
    move_cost: float = 0.0,
) -> float:
    """What a plan costs: bytes placed, by the share of a buffer's life in each bank; sizes of banks; bytes moved."""
    by_name = {one.name: one for one in banks}
    peak = dict.fromkeys(by_name, 0)
    total = move_cost * sum(int(problem.size[move.buffer]) for move in moves)
    for i, own in enumerate(_stays(problem, bank, offsets, moves)):
        size = int(problem.size[i])
        for begin, end, name, offset in own:
            share = (end - begin) / (own[-1][1] - own[0][0]) if len(own) > 1 else 1.0
            total += by_name[name].cost_per_byte * size * share
            if problem.spans(i):
                peak[name] = max(peak[name], offset + size)
    return total + sum(one.cost_per_size_byte * peak[one.name] for one in banks)
