"""A brain's spiking network on a cluster of GPUs: what a time step waits for, and what placement and routing change.

Lu et al., Digital Twin Brain, arXiv:2308.01241. Sizes are those of the group's later abstract; the connectome, the
cluster and the costs of a neuron and an event are not public, so populations are made by rule and costs are assumed.
"""

from __future__ import annotations

from functools import cache
from math import isqrt
from typing import Final

import numpy as np

from hw_configs.device import Gpu
from hw_configs.library import load_device, load_link
from mapping.partition.populations import device_loads, evenly, gathered, in_turn
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, apart, compare
from simulator.spiking.cluster import Cluster, DeviceLoads, StepTimes, direct, step_times, two_level
from workloads.graph_data.uneven import PopulationGraph, divided, uneven_populations

__all__ = ["STUDY", "brain", "step"]

NEURONS: Final = 86e9 / 14012
"""Of a GPU: 86 billion on 14,012 (abstract of the later paper)."""
SYNAPSES: Final = 47.8e12 / 86e9
"""Of a neuron, by the same abstract."""
TICK: Final = 1e-3
FIRES: Final = 7.0 * TICK
"""Spikes of a neuron in a step; 7 Hz is an assumption."""
POPULATIONS: Final = 8
"""Of a device, and 60 partners each in the median: assumptions, as all of the connectome."""
PARTNERS: Final = 60
DEVICES: Final = (16, 64, 256, 1024)
MOST: Final = DEVICES[-1]
GPU, LINK = "v100-16gb", "ib-hdr"
GPUS_PER_PORT: Final = 4
PART: Final = 0.25
"""Of a mean device's synapses, the most that a part of a population stores where populations are divided."""
PLACEMENTS: Final = {
    "in turn": (in_turn, False), "evenly": (evenly, False), "evenly, in parts": (evenly, True),
    "gathered, in parts": (gathered, True),
}  # fmt: skip
ROUTINGS: Final = ("direct", "two levels")
SPREAD_OVER: Final = 256
"""GPUs of the table of spreads."""
_PAPER: Final = "arXiv:2308.01241, abstract"
_PAGES: Final = "dtb-open.readthedocs.io, first page"


@cache
def cluster() -> Cluster:
    """GPUs with a quarter of a port each; what neurons and events cost is assumed."""
    gpu, link = load_device(GPU), load_link(LINK)
    assert isinstance(gpu, Gpu)
    assert gpu.memory is not None
    return Cluster(
        flops_per_s=gpu.compute.vector["fp32"], memory_bytes_per_s=gpu.memory.bandwidth,
        link_bytes_per_s=link.bandwidth / GPUS_PER_PORT, latency_s=link.latency, message_s=2e-6, neuron_flops=100,
        neuron_bytes=200, event_flops=4, event_bytes=68, spike_bytes=4,
    )  # fmt: skip


@cache
def brain(devices: int, spread: float = 1.0) -> PopulationGraph:
    """Populations for so many devices, all of a mean device's size together."""
    count = devices * POPULATIONS
    return uneven_populations(
        count, NEURONS / POPULATIONS, SYNAPSES, min(PARTNERS, count // 2), spread, seed=7
    )


@cache
def _loads(devices: int, placement: str, spread: float) -> tuple[DeviceLoads, float]:
    """What devices have to do, and the synapses of the fullest over the mean."""
    place, in_parts = PLACEMENTS[placement]
    graph = brain(devices, spread)
    mean = float(graph.stored_synapses().sum()) / devices
    if in_parts:
        graph = divided(graph, PART * mean)
    placed = place(graph, devices)
    held = np.bincount(placed, graph.stored_synapses(), minlength=devices)
    return device_loads(graph, placed, devices, FIRES, _group(devices)), float(held.max()) / mean


def _group(devices: int) -> int:
    """Devices of a group: about the root, so that a device has as many messages within as its group has without."""
    return max(2, isqrt(devices))


@cache
def step(devices: int, placement: str, routing: str, spread: float = 1.0) -> StepTimes:
    """The times of a step."""
    loads, _ = _loads(devices, placement, spread)
    exchange = two_level(loads, _group(devices)) if routing == "two levels" else direct(loads)
    return step_times(loads, cluster(), exchange)


def _claims() -> list[ClaimResult]:
    def claim(id: str, statement: str, published: float | str, source: str = _PAPER) -> Claim:
        unit = "x" if isinstance(published, float) else ""
        return Claim(id, statement, published, unit, source, "published", "construction")

    ways = [(placement, routing) for placement in PLACEMENTS for routing in ROUTINGS]
    way = min(ways, key=lambda one: step(MOST, *one).seconds)
    best, naive = step(MOST, *way), ("in turn", "direct")
    scenario = f"{MOST} {GPU}; the quickest way: populations {way[0]}, spikes sent {way[1]}."
    assumed = (
        "What a neuron and an event cost in operations and bytes, how often neurons fire and the connectome are "
        "assumptions, from which this follows."
    )
    longer = {
        words: step(MOST, *one).seconds / step(MOST, *one, 0.0).seconds
        for words, one in (("quickest", way), ("naive", naive))
    }
    return [
        compare(claim("memory", "memory accesses against arithmetic", "longer"),
                "longer" if best.memory_s > best.arithmetic_s else "shorter", scenario,
                f"{assumed} {best.memory_s / best.arithmetic_s:.0f} times as long."),
        compare(claim("communication", "communication against arithmetic", "longer"),
                "longer" if best.exchange_s > best.arithmetic_s else "shorter", scenario,
                f"{assumed} {best.exchange_s / best.arithmetic_s:.0f} times as long."),
        compare(claim("unevenness", "what sparse, uneven connections change", "essential, no figure"), None,
                f"A step of {MOST} devices with uneven populations over one with even ones: {longer['quickest']:.2f} "
                f"times as long the quickest way; whole populations in turn, spikes direct, {longer['naive']:.2f}.",
                "The abstract has no figure."),
        apart(claim("slowdown", "time of a step over the time that it models, 10,000 GPUs", 560.0, _PAGES),
              best.seconds / TICK, scenario,
              "GPUs, network, step and rate of the published run are not known here, and far fewer GPUs were run."),
    ]  # fmt: skip


def _table() -> StudyTable:
    rows: list[tuple[str | float, ...]] = []
    for devices in DEVICES:
        for placement in PLACEMENTS:
            loads, fullest = _loads(devices, placement, 1.0)
            ways = (direct(loads), two_level(loads, _group(devices)))
            times = step_times(loads, cluster(), ways[0])
            rows.append(
                (float(devices), placement, fullest, 1e-6 * float(loads.spikes.sum()),
                 *(float(way.messages_out.sum(axis=0).max()) for way in ways), 1e3 * times.arithmetic_s,
                 1e3 * times.memory_s, *(1e3 * way.seconds(cluster()) for way in ways))
            )  # fmt: skip
    columns = (
        "GPUs", "placed", "synapses of the fullest over the mean", "spikes on the way, million",
        "messages of the busiest, direct", "two levels", "arithmetic, ms", "memory, ms", "exchange direct, ms",
        "two levels, ms",
    )  # fmt: skip
    title = f"A step of {1e3 * TICK:.0f} ms by placement, {NEURONS / 1e6:.1f} million neurons a GPU"
    return StudyTable(title, columns, tuple(rows))


def _spreads() -> StudyTable:
    ways = (
        ("in turn", "direct"),
        *((name, way) for name in list(PLACEMENTS)[1:] for way in ("direct", "two levels")),
    )
    rows: list[tuple[str | float, ...]] = [
        (spread, *(1e3 * step(SPREAD_OVER, *way, spread).seconds for way in ways))
        for spread in (0.0, 0.5, 1.0, 1.5)
    ]
    columns = ("spread of logarithms", *(f"{placement}; {way}" for placement, way in ways))
    return StudyTable(f"A step of {SPREAD_OVER} GPUs by unevenness, ms", columns, tuple(rows))


def _run() -> Outcome:
    return Outcome(_claims(), [_table(), _spreads()])


STUDY: Final = Study(
    "digital-twin-brain",
    "Digital Twin Brain: a spiking network on a cluster of GPUs",
    "Lu et al., Digital Twin Brain: a simulation and assimilation platform for whole human brain, arXiv:2308.01241",
    "Sparse populations of uneven sizes on 16 to 1024 GPUs, placed in turn, evenly, or in parts by their connections; "
    "spikes sent directly or over bridges between groups. Costs and connectome are assumptions.",
    _run,
    slow=True,
)
