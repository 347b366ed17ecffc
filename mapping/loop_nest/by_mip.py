"""A mapping by integer programming over prime factors, for comparison with the proven best.

The formulation is that of CoSA (Huang et al., ISCA 2021, doi:10.1109/ISCA52012.2021.00050): each prime factor of a dim
goes to the temporal loops of a level or to an axis; tiles and arrays are products and so sums of logarithms, under
capacities of which each operand of a level has an equal share. The objective is a weighted sum of logarithms: steps of
the units, and words that enter each level, reused over loops that do not index them at the level outside it alone. A
sum of logarithms is not an energy, so the answer has no bound of its own. The orders of loops, which CoSA puts into the
program for one level, are here the best ones for its factors.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from math import log
from typing import Any, Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import NoAnswerError
from hw_configs.spatial import OPERANDS, Operand
from mapping.loop_nest.search import MappingAnswer, best_mapping
from mapping.loop_nest.space import Fixed
from mapping.solver import SolverOptions, solve_model
from simulator.accelerator.loop_nest.nest import axis_allows
from workloads.einsum import Einsum

__all__ = ["mapping_by_mip", "prime_factors"]

_TIE: Final = 1e-3
"""Weight of what is not asked for."""
Slot = tuple[int, str]
"""A level, and an axis below it or "" for its temporal loops."""


def prime_factors(size: int) -> dict[int, int]:
    """Primes with their exponents.

    >>> prime_factors(360)
    {2: 3, 3: 2, 5: 1}
    """
    found: dict[int, int] = {}
    prime = 2
    while prime * prime <= size:
        while size % prime == 0:
            found[prime] = found.get(prime, 0) + 1
            size //= prime
        prime += 1
    if size > 1:
        found[size] = found.get(size, 0) + 1
    return found


def mapping_by_mip(
    device: SpatialAccelerator, layer: Einsum, metric: str = "energy", *, time_limit_s: float | None = None
) -> MappingAnswer:
    """The mapping that the program chooses, priced by the model; ``bound`` is that of the search, so ``gap`` is true.

    Raises ``NoAnswerError`` where the program has no solution in its time.
    """
    proven = best_mapping(device, layer, metric, time_limit_s=time_limit_s)
    started = time.perf_counter()
    fixed = _Program(device, layer, metric).solved(time_limit_s)
    found = best_mapping(device, layer, metric, fixed=fixed, time_limit_s=time_limit_s)
    seconds = time.perf_counter() - started
    best = found.value <= proven.bound * (1 + 1e-9)
    return replace(
        found,
        bound=min(proven.bound, found.value),
        status="optimal" if best else "feasible",
        seconds=seconds,
        nodes=0,
    )


class _Program:
    """The integer program of a layer on an accelerator."""

    def __init__(self, device: SpatialAccelerator, layer: Einsum, metric: str) -> None:
        import pulp

        self.pulp, self.device, self.layer = pulp, device, layer
        self.model = pulp.LpProblem("factors", pulp.LpMinimize)
        self.slots: list[Slot] = []
        for number, memory in enumerate(device.levels):
            self.slots += [(number, ""), *((number, axis.axis) for axis in memory.fanout)]
        axes = {axis.axis: axis for memory in device.levels for axis in memory.fanout}
        self.counts: dict[tuple[str, int, Slot], Any] = {}
        for d, (dim, size) in enumerate(layer.sizes.items()):
            for prime, times in prime_factors(size).items():
                allowed = [
                    slot for slot in self.slots if not slot[1] or axis_allows(axes[slot[1]], dim, layer)
                ]
                for s, slot in enumerate(self.slots):
                    if slot in allowed:
                        self.counts[dim, prime, slot] = self.model.add_variable(
                            f"n_{d}_{prime}_{s}", 0, times, cat=pulp.LpInteger
                        )
                self.model += pulp.lpSum(self.counts[dim, prime, slot] for slot in allowed) == times
        for number, memory in enumerate(device.levels):
            for axis in memory.fanout:
                self.model += self._logs([(number, axis.axis)], set(layer.sizes)) <= log(axis.size) + 1e-9
            for operand in memory.holds if memory.bounded else ():
                self.model += self._tile(operand, number) <= log(self._room(number, operand)) + 1e-9
        steps = self._logs([slot for slot in self.slots if not slot[1]], set(layer.sizes))
        weight = {"energy": (_TIE, 1.0), "latency": (1.0, _TIE), "edp": (1.0, 1.0)}[metric]
        self.model += weight[0] * steps + weight[1] * self._traffic()

    def solved(self, time_limit_s: float | None) -> Fixed:
        """The factors as decisions. Raises ``NoAnswerError``."""
        report = solve_model(self.model, SolverOptions(time_limit_s=time_limit_s))
        if not report.has_solution:
            raise NoAnswerError(f"the integer program of {self.layer.name} has no solution ({report.status})")
        temporal: dict[tuple[str, str], int] = {}
        spatial: dict[tuple[str, str], int] = {}
        for (dim, prime, (level, axis)), variable in self.counts.items():
            key = (axis, dim) if axis else (self.device.levels[level].name, dim)
            table = spatial if axis else temporal
            table[key] = table.get(key, 1) * prime ** round(variable.value() or 0)
        return Fixed(temporal, spatial, {})

    def _logs(self, slots: list[Slot], dims: set[str]) -> Any:
        return self.pulp.lpSum(
            log(prime) * variable
            for (dim, prime, slot), variable in self.counts.items()
            if slot in slots and dim in dims
        )

    def _tile(self, operand: Operand, level: int) -> Any:
        """Logarithm of the words of a tile at most: windows as products."""
        inside = [slot for slot in self.slots if slot[0] >= level]
        steps = sum(log(term.step) for axis in self.layer.operands[operand] if len(axis) > 1 for term in axis)
        return self._logs(inside, set(self.layer.indexed_by(operand))) + steps

    def _room(self, level: int, operand: Operand) -> float:
        """Words of an operand that a level's share holds, at least one."""
        memory = self.device.levels[level]
        size = (memory.capacities or {}).get(operand) or (memory.capacity or 0.0) / len(memory.holds)
        size /= memory.tile_copies
        return max(1.0, size / self.device.word_bits.bytes_of(operand))

    def _traffic(self) -> Any:
        """Logarithms of the words that enter each level, weighted by what a word costs on its way."""
        total = []
        costs = []
        axes = {axis.axis: axis for memory in self.device.levels for axis in memory.fanout}
        for operand in OPERANDS:
            free = set(self.layer.sizes) - self.layer.indexed_by(operand)
            holders = [n for n, memory in enumerate(self.device.levels) if operand in memory.holds]
            for parent, child in pairwise((*holders, len(self.device.levels))):
                outside = [slot for slot in self.slots if slot[0] < child]
                kept = [(parent, "")] if child < len(self.device.levels) else []
                kept += [
                    slot for slot in outside
                    if slot[1] and slot[0] >= parent and operand in (*axes[slot[1]].multicast, *axes[slot[1]].reduce)
                ]  # fmt: skip
                memory = self.device.levels[parent]
                cost = (memory.read_energy + memory.write_energy) * self.device.word_bits.bytes_of(operand)
                words = self._tile(operand, child) if child < len(self.device.levels) else 0
                total.append(
                    (cost, words + self._logs(outside, set(self.layer.sizes)) - self._logs(kept, free))
                )
                costs.append(cost)
        whole = sum(costs) or 1.0
        return self.pulp.lpSum(cost / whole * words for cost, words in total)
