"""Miss-ratio curves: one pass where the policy is a stack, else a run for each size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from hw_configs.problems import InputError
from simulator.cache.distances import ReuseDistances
from simulator.cache.hierarchy import Level
from simulator.cache.objects import Objects
from simulator.cache.optimal_stack import optimal_hits
from simulator.cache.replacement.policy import Policy
from simulator.cache.result import Curve, CurvePoint
from simulator.cache.running import RunningCache
from simulator.cache.simulate import Hierarchy, simulate_caches, whole_trace
from workloads.cache_trace.trace import CacheTrace

__all__ = ["curve_of", "lru_curve", "point_sizes"]

POINTS: Final = 16
"""Sizes of a curve for which each takes a run."""
MOST_STEPS: Final = 4e9
"""Requests times objects up to which Belady's curve is made in one pass."""


def lru_curve(distances: ReuseDistances) -> Curve:
    """LRU of all sizes, from reuse distances. With sizes it holds from the largest object's size on."""
    points = tuple(
        CurvePoint(
            int(e), distances.miss_ratio(int(e)), distances.byte_miss_ratio(int(e)), distances.error(int(e))
        )
        for e in distances.edges()
    )
    method = (
        "one pass" if distances.rate >= 1 else f"one pass over {100 * distances.rate:.3g} % of the objects"
    )
    return Curve("lru", method, points)


def point_sizes(distinct_bytes: int, least: int) -> list[int]:
    """Sizes from ``least`` to all that a trace asks for, evenly in their logarithm."""
    return sorted({int(s) for s in np.geomspace(max(least, 1), max(distinct_bytes, least, 1), POINTS)})


def curve_of(
    trace: CacheTrace, level: Level, distances: ReuseDistances, sizes: Sequence[int], seed: int = 1
) -> Curve:
    """The curve of a level's policy with its settings. Sizes that the policy cannot work with are left out."""
    policy: Policy = level.policy
    if policy.name == "lru":
        return lru_curve(distances)
    if (
        policy.name == "belady"
        and distances.requests * max(distances.objects, 1) <= MOST_STEPS
        and distances.rate >= 1
    ):
        found = _optimal(trace)
        if found is not None:
            return found
    hierarchies = []
    for size in sizes:
        candidate = Level(level.name, size, policy, level.settings)
        if _works(candidate):
            hierarchies.append(Hierarchy(str(size), (candidate,)))
    result = simulate_caches(trace, hierarchies, seed=seed)
    points = tuple(CurvePoint(run.levels[0].size, run.miss_ratio, run.byte_miss_ratio) for run in result.runs)
    return Curve(policy.name, "a run for each size", points)


def _works(level: Level) -> bool:
    """Whether the policy can work with the level's size."""
    try:
        RunningCache(level.policy, level.size, level.settings)
    except InputError:
        return False
    return True


def _optimal(trace: CacheTrace) -> Curve | None:
    """Belady of all sizes in one pass, for objects of one size."""
    for chunk in whole_trace(trace):
        size = int(chunk.size[0])
        if (chunk.size != size).any():
            return None
        hits = np.cumsum(optimal_hits(Objects().nodes_of(chunk.object)))
        total = len(chunk.object)
        depths = np.unique(np.geomspace(1, max(len(hits) - 1, 1), 64).astype(np.int64))
        ratios = [(int(d) * size, 1 - float(hits[min(d, len(hits) - 1)]) / total) for d in depths]
        return Curve("belady", "one pass", tuple(CurvePoint(s, r, r) for s, r in ratios))
    return None
