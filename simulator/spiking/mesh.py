"""A mesh of chips with small cores, a spiking network placed on it, and what each tick asks of cores and links.

A spike is one packet. It goes diagonally while it can, then along a row or column, and branches on the way, so that the
routes of a neuron are a tree. Each core with targets gets it once and does one synaptic event per synapse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem
from simulator.spiking.network import Network
from simulator.spiking.run import synapses

__all__ = ["SPINNAKER", "MeshCounts", "SpikingMesh", "count_events", "placed", "route"]

Link = tuple[int, int, int, int]
"""Column and row that it leaves, column and row that it comes to."""
Counts = npt.NDArray[np.int64]
MOST_CELLS = 50_000_000


@dataclass(frozen=True, slots=True)
class SpikingMesh:
    """Chips in columns and rows with six links each, no wrap-around; clocks of a core for each kind of work."""

    columns: int
    rows: int
    cores: int
    """Of a chip, for neurons."""
    neurons_per_core: int
    tick_s: float
    clock_hz: float
    neuron_clocks: float
    packet_clocks: float
    event_clocks: float
    link_packets_per_s: float

    def __post_init__(self) -> None:
        least = {"neuron_clocks": 0, "packet_clocks": 0, "event_clocks": 0}
        whole = ("columns", "rows", "cores", "neurons_per_core")
        above = ("tick_s", "clock_hz", "link_packets_per_s")
        told = {
            name: getattr(self, name) >= bound for name, bound in (least | dict.fromkeys(whole, 1)).items()
        }
        told |= {name: getattr(self, name) > 0 for name in above}
        found = [
            Problem(
                f"found {getattr(self, name)}; expected "
                + ("1 or more" if name in whole else "more than 0" if name in above else "0 or more"),
                path=name,
            )
            for name, holds in told.items()
            if not holds
        ]
        if found:
            raise InputError(found)


SPINNAKER: Final = SpikingMesh(
    columns=2, rows=2, cores=16, neurons_per_core=256, tick_s=1e-3, clock_hz=200e6, neuron_clocks=400,
    packet_clocks=400, event_clocks=40, link_packets_per_s=250e6 / 40,
)  # fmt: skip
"""Four SpiNNaker chips. 18 ARM968 cores at 200 MHz a chip, 16 of them for neurons, packets of 40 bits at 250 Mbit/s:
encyclopedia articles on SpiNNaker, second-hand. 256 neurons a core and the clocks of each kind of work are assumptions.
"""


@dataclass(frozen=True, eq=False)
class MeshCounts:
    """Counts per tick: ``spikes``, ``packets`` (spikes with any target), ``hops`` (links that they take), and for each
    core in use its received packets, its synaptic events and its seconds; for each link its packets.
    """

    machine: SpikingMesh
    spikes: Counts
    packets: Counts
    hops: Counts
    received: Counts
    events: Counts
    core_s: npt.NDArray[np.float64]
    links: tuple[Link, ...]
    link_packets: Counts

    @property
    def busiest_core_s(self) -> float:
        """Seconds of the core that has most to do in one tick."""
        return float(self.core_s.max())

    @property
    def busiest_link(self) -> int:
        """Packets of the link that carries most in one tick."""
        return int(self.link_packets.max(initial=0))

    @property
    def real_time(self) -> bool:
        """Whether every core and link is done with every tick before the next."""
        tick = self.machine.tick_s
        return self.busiest_core_s <= tick and self.busiest_link <= tick * self.machine.link_packets_per_s


def route(start: tuple[int, int], end: tuple[int, int]) -> list[Link]:
    """Links from chip to chip: diagonal while both coordinates go the same way, then columns, then rows.

    >>> route((0, 0), (2, 1))
    [(0, 0, 1, 1), (1, 1, 2, 1)]
    """
    (x, y), links = start, []
    while (x, y) != end:
        dx, dy = int(np.sign(end[0] - x)), int(np.sign(end[1] - y))
        if dx * dy < 0:
            dy = 0
        links.append((x, y, x + dx, y + dy))
        x, y = x + dx, y + dy
    return links


def placed(network: Network, machine: SpikingMesh) -> Counts:
    """Core of each neuron: populations in order, each on cores of its own, chips filled along the rows.

    Raises ``InputError`` where the machine has too few cores.
    """
    cores, used = [], 0
    for population in network.populations:
        own = np.arange(population.size) // machine.neurons_per_core + used
        used = int(own[-1]) + 1
        cores.append(own)
    there = machine.columns * machine.rows * machine.cores
    if used > there:
        raise InputError([Problem(f"found {there} cores; expected {used} or more", path="machine")])
    return np.concatenate(cores)


def count_events(
    network: Network, machine: SpikingMesh, spikes: npt.NDArray[np.bool_], cores: Counts | None = None
) -> MeshCounts:
    """What spikes ``[tick, neuron]`` of a network ask of a machine, tick by tick; ``cores`` of neurons or as placed.

    Spikes that are given come from a core as others do, but cost it no update.
    """
    cores = placed(network, machine) if cores is None else cores
    used, neurons = int(cores.max()) + 1, network.neurons
    if neurons * used > MOST_CELLS:
        raise InputError(
            [Problem(f"found {neurons} neurons on {used} cores; expected a product up to {MOST_CELLS}")]
        )
    fan = np.zeros((neurons, used), np.int64)
    for wire in network.projections:
        ends = synapses(network, wire)
        np.add.at(fan, (ends[:, 0], cores[ends[:, 1]]), 1)
    reached = fan > 0
    trees = [_tree(int(cores[n]), np.flatnonzero(reached[n]), machine) for n in range(neurons)]
    links = tuple(sorted(set().union(*trees)))
    number = {link: place for place, link in enumerate(links)}
    taken = np.zeros((neurons, len(links)), np.int64)
    for neuron, tree in enumerate(trees):
        taken[neuron, [number[link] for link in tree]] = 1
    fired = spikes.astype(np.int64)
    received, events, link_packets = fired @ reached.astype(np.int64), fired @ fan, fired @ taken
    driven = np.concatenate([np.full(p.size, p.neuron is not None) for p in network.populations])
    updates = np.bincount(cores[driven], minlength=used)
    clocks = (
        updates * machine.neuron_clocks + received * machine.packet_clocks + events * machine.event_clocks
    )
    return MeshCounts(
        machine, fired.sum(axis=1), fired @ reached.any(axis=1).astype(np.int64), link_packets.sum(axis=1), received,
        events, clocks / machine.clock_hz, links, link_packets,
    )  # fmt: skip


def _chip(core: int, machine: SpikingMesh) -> tuple[int, int]:
    chip = core // machine.cores
    return chip % machine.columns, chip // machine.columns


def _tree(core: int, targets: Counts, machine: SpikingMesh) -> set[Link]:
    """Links of a packet from one core to all its targets."""
    start = _chip(core, machine)
    ends = {_chip(int(target), machine) for target in targets}
    return {link for end in ends for link in route(start, end)}
