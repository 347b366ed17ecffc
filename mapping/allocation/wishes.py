"""What is asked of every buffer at once: an alignment, a boundary, and that a file's own offsets are forgotten."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hw_configs.problems import bad_input
from mapping.allocation.problem import NO_OFFSET, AllocationProblem

__all__ = ["aligned", "unpinned", "within_boundary"]


def aligned(problem: AllocationProblem, size_bytes: int) -> AllocationProblem:
    """The same buffers, each at a multiple of ``size_bytes`` and of its own alignment; pins stay where they are.

    Raises ``InputError`` where the two have no multiple below 2**60.
    """
    both = [math.lcm(int(own), size_bytes) for own in problem.alignment]
    if max(both, default=1) > 2**60:
        raise bad_input(
            f"found {size_bytes}; with the buffers' own alignments it is beyond 2**60", path="--alignment"
        )
    return replace(problem, alignment=np.array(both, np.int64))


def within_boundary(problem: AllocationProblem, size_bytes: int) -> AllocationProblem:
    """The same buffers, none across a multiple of ``size_bytes``; one with a boundary of its own keeps that.

    Raises ``InputError`` for a buffer that is larger than the boundary.
    """
    everywhere = dict.fromkeys(range(len(problem)), size_bytes)
    boundary = everywhere | dict(problem.rules.boundary)
    return replace(problem, rules=replace(problem.rules, boundary=boundary))


def unpinned(problem: AllocationProblem) -> AllocationProblem:
    """The same buffers without pins; the offsets become hints, which no engine uses."""
    hint = np.where(problem.fixed >= 0, problem.fixed, problem.hint)
    return replace(problem, fixed=np.full(len(problem), NO_OFFSET, np.int64), hint=hint)
