"""Populations of neurons onto devices: synapses even, and few spikes on the way from device to device.

A spike goes once to each device on which its neuron has a synapse. So what a population sends to a device does not add
up over the populations there: of neurons with k synapses there on average, 1 - exp(-k) have any (ends are random).

Three ways: ``in_turn`` fills devices in the populations' order with as many populations each; ``evenly`` gives the
largest first to the device that holds least; ``gathered`` starts there and moves single populations to devices of their
partners, as long as that lowers the spikes on the way and leaves no device above its share by more than a slack.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.problems import bad_input
from simulator.spiking.cluster import DeviceLoads
from workloads.graph_data.uneven import PopulationGraph

__all__ = ["device_loads", "evenly", "gathered", "in_turn", "reach", "traffic"]

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MOST_CELLS = 50_000_000
"""Populations times devices, for the table that ``gathered`` keeps."""


def in_turn(graph: PopulationGraph, devices: int) -> Longs:
    """Device of each population: runs of as many populations, in their order."""
    _fits(graph, devices)
    return np.arange(graph.neurons.size) * devices // graph.neurons.size


def evenly(graph: PopulationGraph, devices: int) -> Longs:
    """Device of each population: most synapses first, to the device that holds fewest."""
    _fits(graph, devices)
    loads, placed = graph.stored_synapses(), np.zeros(graph.neurons.size, np.int64)
    held = np.zeros(devices)
    for one in np.argsort(-loads, kind="stable"):
        placed[one] = np.argmin(held)
        held[placed[one]] += loads[one]
    return placed


def gathered(
    graph: PopulationGraph, devices: int, slack: float = 0.1, start: Longs | None = None, sweeps: int = 50
) -> Longs:
    """Device of each population after moves from ``start`` (``evenly`` without it).

    No device comes to hold more than ``1 + slack`` times the mean by a move. Raises ``InputError`` where the table is
    too large.
    """
    _fits(graph, devices)
    if graph.neurons.size * devices > MOST_CELLS:
        raise bad_input(
            f"found {graph.neurons.size} populations on {devices} devices; expected a product up to {MOST_CELLS}",
            path="devices",
        )
    placed = (evenly(graph, devices) if start is None else start).astype(np.int64).copy()
    loads = graph.stored_synapses()
    order = np.argsort(graph.targets, kind="stable")
    into = np.concatenate([[0], np.cumsum(np.bincount(graph.targets, minlength=graph.neurons.size))])
    table = np.zeros((graph.neurons.size, devices))
    np.add.at(table, (graph.sources, placed[graph.targets]), graph.synapses)
    absent = np.exp(-table)
    held = np.bincount(placed, loads, minlength=devices)
    most = (1 + slack) * loads.sum() / devices
    edges = (graph.offsets, graph.targets, into, graph.sources[order], graph.synapses[order])
    for _ in range(sweeps):
        if not _sweep(edges, graph.neurons, loads, placed, table, absent, held, most):
            break
    return placed


@compiled
def _sweep(
    edges: tuple[Longs, Longs, Longs, Longs, Floats], sizes: Floats, loads: Floats, placed: Longs, table: Floats,
    absent: Floats, held: Floats, most: float,
) -> int:  # fmt: skip
    """Try each population once on each device of a partner; returns how many moved.

    ``table`` holds the synapses that a neuron of each population has on each device, ``absent`` exp of less that.
    """
    offsets, targets, into, sources, weights = edges
    moved = 0
    tried = np.full(held.size, -1, np.int64)
    for one in range(sizes.size):
        old = placed[one]
        first, last = into[one], into[one + 1]
        # Spikes that no longer go to the old device, whichever the new one is.
        own, saved = 0.0, 0.0
        for edge in range(first, last):
            other, weight = sources[edge], weights[edge]
            if other == one:
                own += weight
            elif placed[other] != old:
                saved += sizes[other] * (np.exp(-(table[other, old] - weight)) - absent[other, old])
        stays = np.exp(-(table[one, old] - own))
        tried[old] = one
        best, gain = old, 1e-9
        for number in range(last - first + offsets[one + 1] - offsets[one]):
            if number < last - first:
                new = placed[sources[first + number]]
            else:
                new = placed[targets[offsets[one] + number - (last - first)]]
            if tried[new] == one or held[new] + loads[one] > most:
                continue
            tried[new] = one
            # Its own spikes to the old device come, those to the new one go.
            less = saved + sizes[one] * (stays - absent[one, new])
            for edge in range(first, last):
                other = sources[edge]
                if other != one and placed[other] != new:
                    less += sizes[other] * absent[other, new] * np.expm1(-weights[edge])
            if less > gain:
                best, gain = new, less
        if best == old:
            continue
        for edge in range(first, last):
            other = sources[edge]
            table[other, old] -= weights[edge]
            table[other, best] += weights[edge]
            absent[other, old] = np.exp(-table[other, old])
            absent[other, best] = np.exp(-table[other, best])
        held[old] -= loads[one]
        held[best] += loads[one]
        placed[one] = best
        moved += 1
    return moved


def reach(graph: PopulationGraph, placed: Longs, devices: int) -> tuple[Longs, Longs, Floats]:
    """(population, device, neurons of it that have a synapse there), for every device that it reaches."""
    keys = graph.sources * devices + placed[graph.targets]
    known, place = np.unique(keys, return_inverse=True)
    synapses = np.bincount(place, graph.synapses, minlength=known.size)
    sources = known // devices
    return sources, known % devices, graph.neurons[sources] * -np.expm1(-synapses)


def traffic(graph: PopulationGraph, placed: Longs, devices: int) -> float:
    """Neurons times other devices that they reach: spikes on the way if each neuron fires once."""
    sources, ends, neurons = reach(graph, placed, devices)
    return float(neurons[placed[sources] != ends].sum())


def device_loads(
    graph: PopulationGraph, placed: Longs, devices: int, fires: float, group: int
) -> DeviceLoads:
    """What a step asks of devices if a share ``fires`` of the neurons fires in it; ``group`` devices form a group."""
    near, ends, neurons = reach(graph, placed, devices)
    pairs = _between(placed[near], ends, neurons, devices)
    groups = -(-devices // group)
    near, ends, neurons = reach(graph, placed // group, groups)
    to_groups = _between(placed[near], ends, neurons, groups, group)
    served = fires * np.bincount(
        placed[graph.targets], graph.synapses * graph.neurons[graph.sources], minlength=devices
    )
    held = np.bincount(placed, graph.neurons, minlength=devices).astype(np.float64)
    return DeviceLoads(
        held,
        served.astype(np.float64),
        pairs[0],
        pairs[1],
        fires * pairs[2],
        *to_groups[:2],
        fires * to_groups[2],
    )


def _between(
    senders: Longs, takers: Longs, neurons: Floats, count: int, group: int = 1
) -> tuple[Longs, Longs, Floats]:
    """Neurons by sender and taker, those within left out; takers are groups of so many devices."""
    apart = senders // group != takers
    known, place = np.unique(senders[apart] * count + takers[apart], return_inverse=True)
    return (
        known // count,
        known % count,
        np.bincount(place, neurons[apart], minlength=known.size).astype(np.float64),
    )


def _fits(graph: PopulationGraph, devices: int) -> None:
    if not 1 <= devices <= graph.neurons.size:
        raise bad_input(
            f"found {devices}; expected 1 to {graph.neurons.size}, the populations", path="devices"
        )
