"""A spiking network tick by tick: currents come in, neurons fire, spikes go out, plastic weights change.

Within a tick: spikes that arrive are added to the currents, potentials follow exactly, those at the threshold fire;
then each plastic synapse of a neuron that fired takes its summed changes, and carries the new weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem
from simulator.spiking.network import Network, Projection

__all__ = ["run_network", "synapses"]

MOST_TICKS = 1_000_000
Floats = npt.NDArray[np.float64]


def synapses(network: Network, wire: Projection) -> npt.NDArray[np.int64]:
    """Rows of (source, target) by number in the network, for one projection."""
    begins, sizes = network.begins(), {p.name: p.size for p in network.populations}
    pairs = wire.pairs(sizes[wire.source], sizes[wire.target])
    offsets = np.array((begins[wire.source], begins[wire.target]))
    ends: npt.NDArray[np.int64] = np.array(pairs, np.int64).reshape(-1, 2) + offsets
    return ends


@dataclass(eq=False)
class _Wires:
    """A projection as it runs: weights, and for plastic ones traces of both ends and changes to come."""

    rule: Projection
    ends: npt.NDArray[np.int64]
    weights: Floats
    pending: Floats
    before: Floats
    after: Floats

    def learn(self, fired: npt.NDArray[np.bool_], delayed: npt.NDArray[np.bool_]) -> None:
        """Changes of one tick: spikes of now, and spikes that were a delay ago."""
        rule = self.rule.plasticity
        if rule is None:
            return
        source, target = self.ends.T
        fade = exp(-1 / rule.decay)
        self.before *= fade
        self.after *= fade
        self.pending += np.where(delayed[target], rule.gain * self.before[source], 0)
        self.after += delayed
        now = fired[source]
        self.pending[now] -= rule.loss * self.after[target[now]]
        self.weights[now] = np.clip(self.weights[now] + self.pending[now], 0, rule.most)
        self.pending[now] = 0
        self.before += fired


def run_network(
    network: Network, given: Mapping[str, Sequence[Sequence[int]]], ticks: int
) -> npt.NDArray[np.bool_]:
    """Which neuron fires in which tick, ``[tick, neuron]``; ``given``: ticks of each neuron of the given populations.

    Raises ``InputError`` for too many ticks and for given spikes that do not fit.
    """
    spikes = _given_spikes(network, given, ticks)
    neurons = network.neurons
    driven = np.zeros(neurons, np.bool_)
    scale, fade, kept, gain, threshold = (np.zeros(neurons) for _ in range(5))
    refractory = np.zeros(neurons, np.int64)
    for population, begin in zip(network.populations, network.begins().values(), strict=True):
        if (cell := population.neuron) is not None:
            part = slice(begin, begin + population.size)
            driven[part] = True
            fade[part] = exp(-1 / cell.current_decay)
            scale[part] = cell.current_decay * (1 - fade[part])
            kept[part] = exp(-1 / cell.leak)
            gain[part] = cell.leak / cell.capacity * (1 - kept[part])
            threshold[part], refractory[part] = cell.threshold, cell.refractory
    wires = []
    for rule in network.projections:
        ends = synapses(network, rule)
        count = len(ends)
        wires.append(
            _Wires(
                rule, ends, np.full(count, rule.weight), np.zeros(count), np.zeros(neurons), np.zeros(neurons)
            )
        )
    slots = max((rule.delay for rule in network.projections), default=1) + 1
    arriving = np.zeros((slots, neurons))
    current, potential, resting = np.zeros(neurons), np.zeros(neurons), np.zeros(neurons, np.int64)
    for tick in range(ticks):
        current += scale * arriving[tick % slots]
        arriving[tick % slots] = 0
        active = driven & (resting == 0)
        potential = np.where(active, kept * potential + gain * current, potential)
        resting = np.maximum(resting - 1, 0)
        current *= fade
        fires = active & (potential >= threshold)
        potential[fires] = 0
        resting[fires] = refractory[fires]
        spikes[tick] |= fires
        for wire in wires:
            ago = tick - wire.rule.delay
            wire.learn(spikes[tick], spikes[ago] if ago >= 0 else np.zeros(neurons, np.bool_))
            now = spikes[tick][wire.ends[:, 0]]
            np.add.at(arriving[(tick + wire.rule.delay) % slots], wire.ends[now, 1], wire.weights[now])
    return spikes


def _given_spikes(
    network: Network, given: Mapping[str, Sequence[Sequence[int]]], ticks: int
) -> npt.NDArray[np.bool_]:
    """The spikes that are not the network's own; checked."""
    if not 0 < ticks <= MOST_TICKS or ticks * network.neurons > 10**9:
        raise InputError(
            [Problem(f"found {ticks}; expected up to {MOST_TICKS}, with neurons a billion", path="ticks")]
        )
    spikes = np.zeros((ticks, network.neurons), np.bool_)
    sizes = {p.name: p.size for p in network.populations if p.neuron is None}
    begins, found = network.begins(), []
    for name, trains in given.items():
        if len(trains) != sizes.get(name):
            found.append(
                Problem(f"found {len(trains)} trains; expected {sizes.get(name, 'none')}", path=name)
            )
            continue
        for neuron, train in enumerate(trains):
            for tick in train:
                if not 0 <= tick < ticks:
                    found.append(
                        Problem(f"found tick {tick}; expected 0 to {ticks - 1}", path=f"{name}[{neuron}]")
                    )
                else:
                    spikes[tick, begins[name] + neuron] = True
    if found:
        raise InputError(found)
    return spikes
