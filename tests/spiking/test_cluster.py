"""Spikes between devices: messages one by one over groups and bridges, and the time of a step by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.spiking.cluster import Cluster, DeviceLoads, Exchange, direct, step_times, two_level

CLUSTER = Cluster(1e9, 1e9, 1e6, 1e-6, 1e-5, 100.0, 10.0, 2.0, 30.0, 4.0)


@st.composite
def spiking(draw: st.DrawFn) -> tuple[DeviceLoads, list[tuple[int, frozenset[int]]], int]:
    """Single spikes with the devices that each reaches, and the loads that they sum to."""
    devices, group = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    ends = st.frozensets(st.integers(0, devices - 1), max_size=5)
    spikes = draw(st.lists(st.tuples(st.integers(0, devices - 1), ends), max_size=20))
    near: Counter[tuple[int, int]] = Counter()
    far: Counter[tuple[int, int]] = Counter()
    for source, reached in spikes:
        near.update((source, end) for end in reached if end != source)
        far.update((source, to) for to in {end // group for end in reached} if to != source // group)
    parts: list[Any] = []
    for counts in (near, far):
        keys = sorted(counts)
        parts += [np.array([key[0] for key in keys], np.int64), np.array([key[1] for key in keys], np.int64)]
        parts.append(np.array([counts[key] for key in keys], np.float64))
    return DeviceLoads(np.ones(devices), np.zeros(devices), *parts), spikes, group


def sent(phases: list[Counter[tuple[int, int]]], devices: int) -> list[list[list[float]]]:
    """By phase: messages out and in, spikes out and in, of each device."""
    found = []
    for phase in phases:
        counts = [[0.0] * devices for _ in range(4)]
        for (one, other), spikes in phase.items():
            counts[0][one] += 1
            counts[1][other] += 1
            counts[2][one] += spikes
            counts[3][other] += spikes
        found.append(counts)
    return found


def counted(exchange: Exchange) -> list[list[list[float]]]:
    parts = (exchange.messages_out, exchange.messages_in, exchange.spikes_out, exchange.spikes_in)
    return [[part[phase].tolist() for part in parts] for phase in range(parts[0].shape[0])]


@settings(max_examples=150, deadline=None)
@given(spiking())
def test_each_message_is_that_of_a_walk(
    case: tuple[DeviceLoads, list[tuple[int, frozenset[int]]], int],
) -> None:
    loads, spikes, group = case
    devices = loads.neurons.size
    straight: Counter[tuple[int, int]] = Counter()
    gather: Counter[tuple[int, int]] = Counter()
    cross: Counter[tuple[int, int]] = Counter()
    deal: Counter[tuple[int, int]] = Counter()

    def bridge(home: int, away: int) -> int:
        members = [d for d in range(devices) if d // group == home]
        return members[away % len(members)]

    for source, reached in spikes:
        home = source // group
        for end in reached:
            straight[source, end] += 1
            if end // group == home:
                gather[source, end] += 1
            else:
                deal[bridge(end // group, home), end] += 1
        for away in {end // group for end in reached} - {home}:
            gather[source, bridge(home, away)] += 1
            cross[bridge(home, away), bridge(away, home)] += 1
    phases = [
        Counter({pair: n for pair, n in phase.items() if pair[0] != pair[1]})
        for phase in (straight, gather, cross, deal)
    ]
    assert counted(direct(loads)) == sent(phases[:1], devices)
    assert counted(two_level(loads, group)) == sent(phases[1:], devices)


def test_a_step_lasts_what_its_busiest_devices_do() -> None:
    one, two = np.array([0, 0, 1]), np.array([1, 2, 2])
    loads = DeviceLoads(
        np.array([1e3, 2e3, 0.0]), np.array([5e3, 0.0, 1e4]), one, two, np.array([100.0, 50.0, 7.0]), *(one[:0],) * 2,
        np.zeros(0),
    )  # fmt: skip
    times = step_times(loads, CLUSTER, direct(loads))
    assert times.arithmetic_s == pytest.approx(2e3 * 100 / 1e9)
    assert times.memory_s == pytest.approx(1e4 * 30 / 1e9)
    assert times.exchange_s == pytest.approx(1e-6 + 2e-5 + 150 * 4 / 1e6)
    assert times.seconds == pytest.approx(times.memory_s + times.exchange_s)
    with pytest.raises(InputError, match="expected more than 0"):
        replace(CLUSTER, link_bytes_per_s=0.0)


def test_groups_have_fewer_messages_where_all_reach_all() -> None:
    devices = 64
    one, two = (grid.ravel() for grid in np.meshgrid(np.arange(devices), np.arange(devices), indexing="ij"))
    apart = one != two
    far, to = (grid.ravel() for grid in np.meshgrid(np.arange(devices), np.arange(8), indexing="ij"))
    away = far // 8 != to
    loads = DeviceLoads(
        np.ones(devices), np.ones(devices), one[apart], two[apart], np.ones(int(apart.sum())), far[away], to[away],
        np.ones(int(away.sum())),
    )  # fmt: skip
    assert direct(loads).messages_out.sum(axis=0).max() == 63
    assert two_level(loads, 8).messages_out.sum(axis=0).max() <= 7 + 1 + 7
