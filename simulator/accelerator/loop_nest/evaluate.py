"""What a mapping costs: cycles and what bounds them, energy by level, how much of the array works.

A run lasts as long as its units work, or as the busiest instance of a memory level takes to hand out and take in its
bytes, through ports of their own or in turns. These overlap, but across a level that is filled between runs
(:func:`hw_configs.spatial.run_cycles`). Filling and draining the array cost no time, networks and leakage no energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import Operand, run_cycles, units_below
from simulator.accelerator.loop_nest.counts import Counts, Traffic, active_steps, count_words, instances_used
from simulator.accelerator.loop_nest.nest import LoopNest, breach, held_bytes, inner_extents
from simulator.accelerator.loop_nest.zeros import all_dense, check_zeros, spared_products, words_left
from workloads.einsum import Einsum

__all__ = ["Evaluation", "LevelUse", "evaluate", "units_of"]


@dataclass(frozen=True, slots=True)
class LevelUse:
    """A memory level under a mapping: bytes held by an instance, bytes of the busiest one, its cycles, all energy.

    ``traffic`` are words of a run without zeros; ``moved_bytes`` (read and written, over all instances) and what
    follows from it are what zeros leave.
    """

    name: str
    instances: int
    occupancy_bytes: float
    busiest_read_bytes: float
    busiest_write_bytes: float
    cycles: float
    energy_j: float
    traffic: Mapping[Operand, Traffic]
    occupancy_words: Mapping[Operand, int]
    moved_bytes: Mapping[Operand, tuple[float, float]]
    energy_by_operand_j: Mapping[Operand, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The cost of a mapping; cycles are unrounded."""

    macs: int
    compute_cycles: float
    latency_cycles: float
    bound_by: tuple[str, ...]
    utilisation: float
    spatial_utilisation: float
    mac_energy_j: float
    energy_j: float
    latency_s: float
    levels: tuple[LevelUse, ...]

    @property
    def edp(self) -> float:
        """Energy times delay, in joule seconds."""
        return self.energy_j * self.latency_s

    def to_json(self) -> dict[str, Any]:
        """Plain data, names with their units."""
        return {
            "macs": self.macs,
            "compute_cycles": self.compute_cycles,
            "latency_cycles": self.latency_cycles,
            "latency_s": self.latency_s,
            "bound_by": list(self.bound_by),
            "utilisation": self.utilisation,
            "energy_j": self.energy_j,
            "mac_energy_j": self.mac_energy_j,
            "edp_js": self.edp,
            "levels": {
                use.name: {
                    "instances": use.instances,
                    "occupancy_bytes": use.occupancy_bytes,
                    "cycles": use.cycles,
                    "energy_j": use.energy_j,
                    "words": {
                        operand: {
                            "reads_down": moved.reads_down, "fills": moved.fills, "updates": moved.updates,
                            "reads_up": moved.reads_up,
                        }
                        for operand, moved in use.traffic.items()
                    },
                    "read_bytes": {operand: moved[0] for operand, moved in use.moved_bytes.items()},
                    "written_bytes": {operand: moved[1] for operand, moved in use.moved_bytes.items()},
                    "energy_by_operand_j": dict(use.energy_by_operand_j),
                }
                for use in self.levels
            },
        }  # fmt: skip


def units_of(device: SpatialAccelerator) -> int:
    """Multiply-accumulate units of an accelerator."""
    return units_below(device.levels)


def evaluate(nest: LoopNest, device: SpatialAccelerator, layer: Einsum) -> Evaluation:
    """The cost of a legal mapping of a layer.

    Raises ``InputError`` with level, operand and bytes for one that is not legal.
    """
    broken = breach(nest, device, layer)
    if broken:
        raise bad_input(_words(broken, nest, device, layer), path="mapping")
    everywhere = count_words(nest, device, layer)
    busiest = count_words(nest, device, layer, busiest=True)
    return costed(nest, device, layer, everywhere, busiest)


def costed(
    nest: LoopNest, device: SpatialAccelerator, layer: Einsum, everywhere: Counts, busiest: Counts
) -> Evaluation:
    """The cost that follows from words, of all instances and of the busiest one of each level."""
    loops = nest.loops()
    dense = all_dense(device, layer)
    if not dense:
        check_zeros(device, layer, nest)
    levels = []
    instances = instances_used(nest, device, layer)
    for number, memory in enumerate(device.levels):
        extents = inner_extents(loops, number, layer)
        occupancy = {operand: layer.words(operand, extents) for operand in memory.holds}
        width = {operand: device.word_bits.bytes_of(operand) for operand in memory.holds}
        held = held_bytes(loops, number, device, layer)
        all_words, words = {}, {}
        for operand in memory.holds:
            kept, timed = (
                (_all_words, _all_words)
                if dense
                else (
                    words_left(nest, device, layer, (number, operand), timed=timed) for timed in (False, True)
                )
            )
            all_words[operand] = kept(everywhere[number, operand])
            words[operand] = timed(busiest[number, operand])
        read = sum(words[operand][0] * width[operand] for operand in memory.holds)
        written = sum(words[operand][1] * width[operand] for operand in memory.holds)
        energy = {
            operand: width[operand] * (out * memory.read_energy + into * memory.write_energy)
            for operand, (out, into) in all_words.items()
        }
        levels.append(
            LevelUse(
                memory.name, instances[number], sum(held.values()) * memory.tile_copies, read, written,
                memory.clocks(read, written),
                sum(energy.values()), {operand: everywhere[number, operand] for operand in memory.holds}, occupancy,
                {operand: (out * width[operand], into * width[operand]) for operand, (out, into) in all_words.items()},
                energy,
            )
        )  # fmt: skip
    taken = 1.0 if dense else spared_products(device, layer, timed=True)
    compute: float = active_steps(nest, device, layer)
    if taken < 1:
        compute *= taken
    latency = run_cycles(device.levels, [use.cycles for use in levels], float(compute))
    longest = max(float(compute), *(use.cycles for use in levels))
    bound = [use.name for use in levels if use.cycles == longest]
    if compute == longest:
        bound.append("compute")
    arithmetic = (
        layer.macs * device.mac_energy * (1.0 if dense else spared_products(device, layer, timed=False))
    )
    units = units_of(device)
    spread = prod(loop.count for loop in loops if loop.axis)
    return Evaluation(
        layer.macs, compute, latency, tuple(bound), layer.macs * taken / (units * latency), spread / units, arithmetic,
        arithmetic + sum(use.energy_j for use in levels), latency / device.clock, tuple(levels),
    )  # fmt: skip


def _all_words(words: Traffic) -> tuple[float, float]:
    return words.reads, words.writes


def _words(broken: str, nest: LoopNest, device: SpatialAccelerator, layer: Einsum) -> str:
    """A broken rule as a sentence."""
    rule, _, what = broken.partition(":")
    if rule == "cover":
        covered = nest.covered().get(what, 1)
        return f"the loops over {what!r} cover {covered} of {layer.sizes[what]}"
    if rule == "dim":
        dim, _, along = what.partition("@")
        return f"a loop over {dim!r} may not run along the axis {along!r}"
    for number, memory in enumerate(device.levels):
        if rule == "capacity" and memory.name == what:
            return memory.overflow(held_bytes(nest.loops(), number, device, layer))
        for axis in memory.fanout:
            if rule == "axis" and axis.axis == what:
                parts = prod(spread.count for spread in nest.levels[number].spatial if spread.axis == what)
                return f"{parts} parts along the axis {what!r}, which has {axis.size}"
    return broken
