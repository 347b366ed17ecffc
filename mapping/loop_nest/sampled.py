"""The best of so many random mappings: what a search without bounds finds, for comparison with the proven best.

Each prime factor of a dim goes to a place of equal chance, the temporal loops of a level or an axis that allows the
dim; orders are random. What does not fit counts as a sample.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import numpy as np

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import NoAnswerError, bad_input
from mapping.loop_nest.by_mip import prime_factors
from mapping.loop_nest.search import BestMapping, MappingAnswer, best_mapping
from simulator.accelerator.loop_nest.bulk import MappingTable, prices
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread, axis_allows
from workloads.einsum import Einsum

__all__ = ["mapping_by_sampling", "random_mappings"]

_AT_ONCE: Final = 100_000
MOST_SAMPLES: Final = 1_000_000_000


def random_mappings(
    device: SpatialAccelerator, layer: Einsum, count: int, rng: np.random.Generator
) -> MappingTable:
    """So many mappings whose factors multiply to the sizes; capacities and lengths of axes may be broken."""
    dims = list(layer.sizes)
    axes = [axis for memory in device.levels for axis in memory.fanout]
    levels = len(device.levels)
    temporal = np.ones((count, levels, len(dims)), np.int32)
    spatial = np.ones((count, len(axes), len(dims)), np.int32)
    rows = np.arange(count)
    for d, dim in enumerate(dims):
        places = [
            *range(levels),
            *(levels + a for a, axis in enumerate(axes) if axis_allows(axis, dim, layer)),
        ]
        for prime, times in prime_factors(layer.sizes[dim]).items():
            for _ in range(times):
                place = rng.choice(places, count)
                inside = place < levels
                temporal[rows[inside], place[inside], d] *= prime
                spatial[rows[~inside], place[~inside] - levels, d] *= prime
    order = rng.random((count, levels, len(dims))).argsort(axis=2).astype(np.int32)
    return MappingTable(temporal, order, spatial)


def mapping_by_sampling(
    device: SpatialAccelerator,
    layer: Einsum,
    metric: str = "energy",
    *,
    samples: int,
    seed: int = 0,
    time_limit_s: float | None = None,
) -> MappingAnswer:
    """The best of ``samples`` random mappings; ``bound`` is that of the search, so ``gap`` is true.

    Raises ``NoAnswerError`` where none of them is legal, ``InputError`` for layers with zeros.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise bad_input(f"found {samples}; expected 1 to {MOST_SAMPLES}", path="--samples")
    proven = best_mapping(device, layer, metric, time_limit_s=time_limit_s)
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    best: tuple[float, LoopNest] | None = None
    done = 0
    while done < samples:
        table = random_mappings(device, layer, min(_AT_ONCE, samples - done), rng)
        found = prices(device, layer, table)
        values = {
            "energy": found.energy_j, "latency": found.latency_cycles, "edp": found.energy_j * found.latency_cycles,
        }[metric]  # fmt: skip
        place = int(np.argmin(np.where(found.legal, values, np.inf)))
        if found.legal[place] and (best is None or values[place] < best[0]):
            best = float(values[place]), _nest(table, place, device, layer)
        done += len(table.temporal)
    if best is None:
        raise NoAnswerError(f"none of {samples} random mappings of {layer.name} is legal")
    value, nest = best
    return replace(
        proven, best=(BestMapping(nest, evaluate(nest, device, layer)),), value=value, bound=min(proven.bound, value),
        status="optimal" if value <= proven.bound * (1 + 1e-9) else "feasible",
        seconds=time.perf_counter() - started, nodes=samples,
    )  # fmt: skip


def _nest(table: MappingTable, place: int, device: SpatialAccelerator, layer: Einsum) -> LoopNest:
    dims = list(layer.sizes)
    levels, first = [], 0
    for number, memory in enumerate(device.levels):
        temporal = tuple(
            (dims[d], int(table.temporal[place, number, d]))
            for d in table.order[place, number]
            if table.temporal[place, number, d] > 1
        )
        spatial = tuple(
            Spread(dims[d], axis.axis, int(table.spatial[place, first + a, d]))
            for a, axis in enumerate(memory.fanout)
            for d in range(len(dims))
            if table.spatial[place, first + a, d] > 1
        )
        first += len(memory.fanout)
        levels.append(NestLevel(temporal, spatial))
    return LoopNest(tuple(levels))
