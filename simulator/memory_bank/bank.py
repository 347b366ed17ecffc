"""A hierarchical bank under contexts that change: hits by level, bytes fetched, and the time until a context is there.

The first half of the contexts fills the cache; what is counted is the second half. One pass over the contexts gives
the hits of every cache size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.problems import PhysicsError, bad_input
from hw_configs.system import System
from simulator.memory_bank.fetch import Fetcher, Route, route_of
from simulator.memory_bank.result import BankResult, CachePoint, LevelResult
from simulator.memory_bank.stack_distance import FIRST_USE, stack_bytes
from workloads.memory_bank import HierarchicalBank
from workloads.memory_bank.contexts import block_trace, leaves_of

__all__ = ["BankOptions", "simulate_bank"]

Bools = npt.NDArray[np.bool_]
SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Caches of the table, as shares of the bank (none that does not hold a context)."""


@dataclass(frozen=True, slots=True)
class BankOptions:
    """``contexts`` come, on a machine with so many ``drives``."""

    contexts: int = 4000
    drives: int = 1
    seed: int = 1


def simulate_bank(bank: HierarchicalBank, system: System, options: BankOptions) -> BankResult:
    """Let contexts come and count.

    Raises ``InfeasibleError`` where the bank does not fit, ``InputError`` where the machine lacks its place.
    """
    route = route_of(bank, system, options.drives)
    leaves = leaves_of(bank, options.contexts, options.seed)
    if len(leaves) < 2:
        raise bad_input("expected two contexts or more: the first half fills the cache", path="--contexts")
    trace = block_trace(bank, leaves)
    levels = len(bank.levels)
    distances = stack_bytes(np.asarray(trace.object), np.asarray(trace.size)).reshape(-1, levels)
    counted = distances[len(leaves) // 2 :]
    fetcher = Fetcher(bank, system, route, options.drives, options.seed)
    caches = sorted({int(bank.cache), *_caches(bank)})
    points = [_point(bank, _missed(bank, counted, cache), cache) for cache in caches]
    timed = [point.timed(_times(_missed(bank, counted, point.cache_bytes), fetcher)) for point in points]
    return _result(bank, system, route, _missed(bank, counted, int(bank.cache)), timed, len(leaves))


def _caches(bank: HierarchicalBank) -> list[int]:
    """Cache sizes of the table."""
    sizes = [int(share * bank.bank_bytes) for share in SHARES]
    return [size for size in sizes if size == 0 or size >= bank.context_bytes]


def _missed(bank: HierarchicalBank, distances: npt.NDArray[np.int64], cache: int) -> Bools:
    """Which blocks of each context are fetched; everything is there in a bank beside the model."""
    if bank.place == "gpu":
        return np.zeros(distances.shape, np.bool_)
    if not cache:
        # Without a cache the last context's blocks stay until the next one's come over them.
        cache = bank.context_bytes
    missed: Bools = (distances == FIRST_USE) | (distances > cache)
    return missed


def _times(missed: Bools, fetcher: Fetcher) -> npt.NDArray[np.float64]:
    return np.array([fetcher.seconds(tuple(pattern)) for pattern in missed.tolist()])


def _point(bank: HierarchicalBank, missed: Bools, cache: int) -> CachePoint:
    sizes = np.array([bank.block_bytes(level) for level in bank.levels], np.float64)
    fetched = float((missed * sizes).sum(axis=1).mean())
    return CachePoint(cache, float(1 - missed.mean()), 1 - fetched / bank.context_bytes, fetched)


def _result(
    bank: HierarchicalBank,
    system: System,
    route: Route,
    missed: Bools,
    points: list[CachePoint],
    contexts: int,
) -> BankResult:
    levels = tuple(
        LevelResult(number, level.blocks, bank.block_bytes(level), 1 - float(miss.mean()))
        for number, (level, miss) in enumerate(zip(bank.levels, missed.T, strict=True), start=1)
    )
    point = next(point for point in points if point.cache_bytes == int(bank.cache))
    fetched = sum((1 - level.hit_rate) * level.block_bytes for level in levels)
    if abs(fetched - point.fetched_bytes) > 1e-6 * bank.context_bytes:
        raise PhysicsError(f"levels fetch {fetched} bytes a context, contexts {point.fetched_bytes}")
    weights = -(-bank.bank_bytes * bank.anchor_parameters // bank.bank_parameters)
    return BankResult(
        bank=bank.name, machine=system.name, place=bank.place, source=route.source, worker=route.worker,
        bank_bytes=bank.bank_bytes, context_bytes=bank.context_bytes, anchor_bytes=weights,
        contexts=contexts, tokens=bank.tokens, token_s=(weights + bank.context_bytes) / route.worker_bytes_per_s,
        levels=levels, point=point, caches=tuple(points),
    )  # fmt: skip
