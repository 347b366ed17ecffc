"""Seeded allocation problems of the kinds that are hard, each made so that what can be reached is known.

``cut``: a full rectangle cut by straight cuts, so that every moment is full and the height is the least peak.
``loose``: such pieces cut shorter and thinner, and some left out: the height can be reached, most live bytes perhaps
not. ``random``: lives and sizes at random. ``many``: short lives along a long time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import numpy as np

from mapping.allocation import AllocationProblem

__all__ = ["KINDS", "cut", "loose", "many", "random"]


def _pieces(count: int, width: int, height: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(begin, end, size) of the pieces of a rectangle; the largest piece is cut next, nearly always."""
    heap = [(-float(width * height), 0, 0, width, height)]
    done: list[tuple[int, int, int]] = []
    turn = 0
    while heap and len(heap) + len(done) < count:
        _, _, begin, end, size = heapq.heappop(heap)
        span = end - begin
        if span < 2 and size < 2:
            done.append((begin, end, size))
            continue
        # Never through the whole height: the parts would be problems of their own.
        in_time = size < 2 or (span >= 2 and size < height and rng.random() < 0.5)
        length = span if in_time else size
        at = min(max(int(length * rng.uniform(0.2, 0.8)), 1), length - 1)
        halves = ((begin, begin + at, size), (begin + at, end, size)) if in_time else (
            (begin, end, at), (begin, end, size - at)
        )  # fmt: skip
        for low, high, tall in halves:
            turn += 1
            # Areas are told apart by chance as well, so that pieces are of many sizes.
            heapq.heappush(heap, (-float((high - low) * tall) * rng.uniform(0.1, 1.0), turn, low, high, tall))
    return done + [(begin, end, size) for _, _, begin, end, size in heap]


def cut(count: int, seed: int, *, width: int = 400, height: int = 1 << 20) -> AllocationProblem:
    """A rectangle of ``width`` moments and ``height`` bytes in ``count`` pieces, in a random order."""
    rng = np.random.default_rng((1, count, seed))
    rows = np.array(_pieces(count, width, height, rng), dtype=np.int64)
    rows = rows[rng.permutation(len(rows))]
    return AllocationProblem.from_arrays(rows[:, 0], rows[:, 1], rows[:, 2], name=f"cut-{count}-{seed}")


def loose(count: int, seed: int, *, width: int = 120, height: int = 1 << 10) -> AllocationProblem:
    """Pieces of a rectangle of which some end early, some are thinner and one in twenty is left out."""
    rng = np.random.default_rng((2, count, seed))
    rows = np.array(_pieces(count, width, height, rng), dtype=np.int64)
    rows = rows[rng.random(len(rows)) > 0.05]
    span, size = rows[:, 1] - rows[:, 0], rows[:, 2]
    less = (span * rng.choice([0.0, 0.1, 0.3], len(rows), p=[0.7, 0.2, 0.1])).astype(np.int64)
    thin = (size * rng.choice([0.0, 0.05], len(rows), p=[0.7, 0.3])).astype(np.int64)
    rows = rows[:, :] - np.stack([less * 0, less, thin], axis=1)
    rows = rows[rng.permutation(len(rows))]
    return AllocationProblem.from_arrays(rows[:, 0], rows[:, 1], rows[:, 2], name=f"loose-{count}-{seed}")


def random(count: int, seed: int, *, steps: int = 100, largest: int = 1 << 16) -> AllocationProblem:
    """Lives that begin at any of ``steps`` moments and last up to a quarter of them; sizes up to ``largest``."""
    rng = np.random.default_rng((3, count, seed))
    lower = rng.integers(0, steps, count)
    upper = lower + rng.integers(1, 1 + steps // 4, count)
    return AllocationProblem.from_arrays(
        lower, upper, rng.integers(1, largest + 1, count), name=f"random-{count}-{seed}"
    )


def many(count: int, seed: int) -> AllocationProblem:
    """As many moments as buffers; lives of up to 100 moments, sizes of 1 to 4096 times 64 bytes."""
    rng = np.random.default_rng((4, count, seed))
    lower = rng.integers(0, count, count)
    upper = lower + rng.integers(1, 101, count)
    return AllocationProblem.from_arrays(
        lower, upper, 64 * rng.integers(1, 4097, count), name=f"many-{count}-{seed}"
    )


KINDS: Final[dict[str, Callable[[int, int], AllocationProblem]]] = {
    "cut": cut,
    "loose": loose,
    "random": random,
    "many": many,
}
"""Every kind by its name: (buffers, seed) to a problem."""
