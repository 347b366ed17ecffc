"""A time step of a spiking network on a cluster of devices: arithmetic, memory, and spikes from device to device.

Each device updates its neurons and serves the synapses of the spikes that reach it, from its memory; then the spikes go
out. Directly, a device sends one message to every device that it reaches. In two levels (Du et al., IEEE Network 36(2),
2022) devices stand in groups; for every other group one member of a group is the bridge: it takes in what its group
sends there, passes it on as one message to the bridge of the other group, and that one deals it out. A spike then
crosses to a group once, however many devices of it it reaches, and a device has far fewer messages.

A phase lasts the latency and what the busiest device has to send or to take in; phases and parts follow one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem

__all__ = ["Cluster", "DeviceLoads", "Exchange", "StepTimes", "direct", "step_times", "two_level"]

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A device's rates, what a neuron and a synaptic event ask of it, and its way to the others, in both directions."""

    flops_per_s: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    latency_s: float
    message_s: float
    """Of the device's host, for each message that it sends or takes in."""
    neuron_flops: float
    neuron_bytes: float
    event_flops: float
    event_bytes: float
    spike_bytes: float

    def __post_init__(self) -> None:
        rates = ("flops_per_s", "memory_bytes_per_s", "link_bytes_per_s")
        found = [
            Problem(
                f"found {getattr(self, name)}; expected {'more than 0' if name in rates else '0 or more'}",
                path=name,
            )
            for name in self.__dataclass_fields__
            if not (getattr(self, name) > 0 if name in rates else getattr(self, name) >= 0)
        ]
        if found:
            raise InputError(found)


@dataclass(frozen=True, eq=False)
class DeviceLoads:
    """Neurons of each device, synaptic events that it serves in a step, and spikes between devices.

    Spikes from ``senders`` to ``takers``: each pair of devices once. ``group_spikes``: from ``group_senders`` to any
    device of a group ``group_takers``, each counted once.
    """

    neurons: Floats
    events: Floats
    senders: Longs
    takers: Longs
    spikes: Floats
    group_senders: Longs
    group_takers: Longs
    group_spikes: Floats


@dataclass(frozen=True, eq=False)
class Exchange:
    """Messages and spikes that each device sends and takes in, phase by phase ``[phase, device]``."""

    messages_out: Longs
    messages_in: Longs
    spikes_out: Floats
    spikes_in: Floats

    def seconds(self, cluster: Cluster) -> float:
        """Of all phases."""
        byte_s = cluster.spike_bytes / cluster.link_bytes_per_s
        out = self.messages_out * cluster.message_s + self.spikes_out * byte_s
        taken = self.messages_in * cluster.message_s + self.spikes_in * byte_s
        busiest = np.maximum(out.max(axis=1), taken.max(axis=1))
        return float((busiest + cluster.latency_s * (busiest > 0)).sum())


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of the busiest device with arithmetic and with its memory (beside each other), and of the exchange."""

    arithmetic_s: float
    memory_s: float
    exchange_s: float
    local_s: float
    """Of the device for which the longer of both is longest."""

    @property
    def seconds(self) -> float:
        """Of the step."""
        return self.local_s + self.exchange_s


def _phase(
    devices: int, senders: Longs, takers: Longs, spikes: Floats
) -> tuple[Longs, Longs, Floats, Floats]:
    """Messages and spikes by device, of pairs that may come up several times: one message each."""
    keys, place = np.unique(senders * devices + takers, return_inverse=True)
    summed = np.bincount(place, spikes, minlength=keys.size)
    one, other = keys // devices, keys % devices
    sent, taken = (np.bincount(end, minlength=devices).astype(np.int64) for end in (one, other))
    out, come = (np.bincount(end, summed, minlength=devices).astype(np.float64) for end in (one, other))
    return sent, taken, out, come


def _exchange(devices: int, phases: list[tuple[Longs, Longs, Floats]]) -> Exchange:
    found = []
    for senders, takers, spikes in phases:
        apart = senders != takers
        found.append(_phase(devices, senders[apart], takers[apart], spikes[apart]))
    return Exchange(*(np.stack(parts) for parts in zip(*found, strict=True)))


def direct(loads: DeviceLoads) -> Exchange:
    """A message from each device to each that it reaches."""
    return _exchange(loads.neurons.size, [(loads.senders, loads.takers, loads.spikes)])


def two_level(loads: DeviceLoads, group: int) -> Exchange:
    """Groups of so many devices in their order; the bridge of a group for the n-th group is its member n modulo group.

    Spikes within a group go with the first phase. The last group may be smaller; its members take turns as well.
    """
    devices = loads.neurons.size
    near = loads.senders // group == loads.takers // group

    def bridge(of: Longs, to: Longs) -> Longs:
        members = np.minimum(group, devices - of * group)
        return of * group + to % members

    home = loads.group_senders // group
    far = home != loads.group_takers
    home, away, spikes = home[far], loads.group_takers[far], loads.group_spikes[far]
    bridges = bridge(home, away)
    gather = (
        np.concatenate([loads.senders[near], loads.group_senders[far]]),
        np.concatenate([loads.takers[near], bridges]),
        np.concatenate([loads.spikes[near], spikes]),
    )
    cross = (bridges, bridge(away, home), spikes)
    deal = (
        bridge(loads.takers // group, loads.senders // group)[~near],
        loads.takers[~near],
        loads.spikes[~near],
    )
    return _exchange(devices, [gather, cross, deal])


def step_times(loads: DeviceLoads, cluster: Cluster, exchange: Exchange) -> StepTimes:
    """The time of a step by parts."""
    flops = loads.neurons * cluster.neuron_flops + loads.events * cluster.event_flops
    moved = loads.neurons * cluster.neuron_bytes + loads.events * cluster.event_bytes
    arithmetic, memory = flops / cluster.flops_per_s, moved / cluster.memory_bytes_per_s
    return StepTimes(
        float(arithmetic.max()), float(memory.max()), exchange.seconds(cluster),
        float(np.maximum(arithmetic, memory).max()),
    )  # fmt: skip
