"""Populations onto devices: spikes on the way against a plain count, moves against every single one, bad input."""

from __future__ import annotations

from itertools import product
from math import ceil, exp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.partition.populations import device_loads, evenly, gathered, in_turn, traffic
from workloads.graph_data.uneven import PopulationGraph, divided, uneven_populations

SLACK = 0.3


@st.composite
def graphs(draw: st.DrawFn, most: int = 7) -> PopulationGraph:
    size = draw(st.integers(2, most))
    neurons = draw(st.lists(st.floats(1, 50), min_size=size, max_size=size))
    partners = [draw(st.sets(st.integers(0, size - 1), max_size=size)) for _ in range(size)]
    targets = [end for ends in partners for end in sorted(ends)]
    synapses = draw(st.lists(st.floats(0, 4), min_size=len(targets), max_size=len(targets)))
    offsets = np.concatenate([[0], np.cumsum([len(ends) for ends in partners])]).astype(np.int64)
    return PopulationGraph(
        np.array(neurons), offsets, np.array(targets, np.int64), np.array(synapses, np.float64)
    )


def edges_of(graph: PopulationGraph) -> list[tuple[int, int, float]]:
    found = []
    for one in range(graph.neurons.size):
        for edge in range(int(graph.offsets[one]), int(graph.offsets[one + 1])):
            found.append((one, int(graph.targets[edge]), float(graph.synapses[edge])))
    return found


def plain_reach(graph: PopulationGraph, placed: list[int]) -> dict[tuple[int, int], float]:
    """Neurons of a population with a synapse on a device, by both."""
    synapses: dict[tuple[int, int], float] = {}
    for one, other, each in edges_of(graph):
        synapses[one, placed[other]] = synapses.get((one, placed[other]), 0.0) + each
    return {key: graph.neurons[key[0]] * (1 - exp(-each)) for key, each in synapses.items()}


def plain_traffic(graph: PopulationGraph, placed: list[int]) -> float:
    return sum(n for (one, device), n in plain_reach(graph, placed).items() if placed[one] != device)


def plain_held(graph: PopulationGraph, placed: list[int], devices: int) -> list[float]:
    held = [0.0] * devices
    for one, other, each in edges_of(graph):
        held[placed[other]] += float(graph.neurons[one]) * each
    return held


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_moves_stop_where_none_helps(graph: PopulationGraph, devices: int, random) -> None:  # type: ignore[no-untyped-def]
    size = graph.neurons.size
    devices = min(devices, size)
    start = [random.randrange(devices) for _ in range(size)]
    found = gathered(graph, devices, SLACK, np.array(start)).tolist()
    total = plain_traffic(graph, found)
    assert traffic(graph, np.array(found), devices) == pytest.approx(total, abs=1e-9)
    assert total <= plain_traffic(graph, start) + 1e-9
    most = (1 + SLACK) * sum(plain_held(graph, found, devices)) / devices
    for device, held in enumerate(plain_held(graph, found, devices)):
        assert held <= max(most, plain_held(graph, start, devices)[device]) + 1e-6
    partners = {(one, other) for one, other, _ in edges_of(graph)}
    for one, device in product(range(size), range(devices)):
        moved = [*found[:one], device, *found[one + 1 :]]
        near = any(
            found[other] == device and ((one, other) in partners or (other, one) in partners)
            for other in range(size)
        )
        if near and plain_held(graph, moved, devices)[device] <= most - 1e-6:
            assert plain_traffic(graph, moved) >= total - 1e-6
    best = min(plain_traffic(graph, list(way)) for way in product(range(devices), repeat=size))
    assert total >= best - 1e-9


def plain_moves(graph: PopulationGraph, devices: int, placed: list[int]) -> list[int]:
    """Sweeps over the populations, each to the best device of a partner, with everything counted anew each time."""
    edges, moved = edges_of(graph), True
    most = (1 + SLACK) * sum(plain_held(graph, placed, devices)) / devices
    while moved:
        moved = False
        for one in range(len(placed)):
            near = [a if b == one else b for a, b, _ in edges if one in (a, b)]
            ways = {placed[one]: plain_traffic(graph, placed)}
            for device in {placed[other] for other in near} - {placed[one]}:
                way = [*placed[:one], device, *placed[one + 1 :]]
                if plain_held(graph, way, devices)[device] <= most:
                    ways[device] = plain_traffic(graph, way)
            best = min(ways, key=lambda device: ways[device])
            if ways[best] < ways[placed[one]] - 1e-9:
                placed, moved = [*placed[:one], best, *placed[one + 1 :]], True
    return placed


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 14), st.integers(2, 4), st.integers(0, 10**6))
def test_moves_are_those_of_plain_sweeps(size: int, devices: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    graph = uneven_populations(size, 50, 6.0, max(1, size // 3), spread=0.5, seed=seed)
    start = draw.integers(0, devices, size)
    found = gathered(graph, devices, SLACK, start)
    assert found.tolist() == plain_moves(graph, devices, start.tolist())


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 5), st.integers(1, 3), st.floats(0, 1))
def test_loads_are_those_of_a_plain_count(
    graph: PopulationGraph, devices: int, group: int, fires: float
) -> None:
    devices = min(devices, graph.neurons.size)
    placed = evenly(graph, devices).tolist()
    loads = device_loads(graph, np.array(placed), devices, fires, group)
    near: dict[tuple[int, int], float] = {}
    for (one, device), neurons in plain_reach(graph, placed).items():
        if placed[one] != device:
            near[placed[one], device] = near.get((placed[one], device), 0.0) + fires * neurons
    far: dict[tuple[int, int], float] = {}
    for (one, to), neurons in plain_reach(graph, [device // group for device in placed]).items():
        if placed[one] // group != to:
            far[placed[one], to] = far.get((placed[one], to), 0.0) + fires * neurons
    pairs = zip(loads.senders.tolist(), loads.takers.tolist(), strict=True)
    assert dict(zip(pairs, loads.spikes, strict=True)) == pytest.approx(near)
    pairs = zip(loads.group_senders.tolist(), loads.group_takers.tolist(), strict=True)
    assert dict(zip(pairs, loads.group_spikes, strict=True)) == pytest.approx(far)
    served = [fires * held for held in plain_held(graph, placed, devices)]
    assert loads.events.tolist() == pytest.approx(served)
    residents = [sum(n for n, d in zip(graph.neurons, placed, strict=True) if d == x) for x in range(devices)]
    assert loads.neurons.tolist() == pytest.approx(residents)


def test_an_uneven_graph_is_spread_as_asked_and_even_placement_evens_it() -> None:
    graph = uneven_populations(400, 1000, 100.0, 20, seed=3)
    assert graph.neurons.sum() == pytest.approx(400_000)
    assert graph.stored_synapses().sum() == pytest.approx(400_000 * 100)
    assert np.std(np.log(graph.neurons)) == pytest.approx(1.0, abs=0.15)
    flat = uneven_populations(400, 1000, 100.0, 20, spread=0.0, seed=3)
    assert set(np.diff(flat.offsets)) == {20}
    assert np.ptp(flat.neurons) < 1e-6

    def worst(placed: Any) -> float:
        held = np.bincount(placed, graph.stored_synapses())
        return float(held.max() / held.mean())

    turn, even, near = in_turn(graph, 16), evenly(graph, 16), gathered(graph, 16)
    assert worst(even) < worst(turn)
    assert worst(near) <= max(1.1 + 1e-9, worst(even))
    assert traffic(graph, near, 16) < 0.9 * traffic(graph, even, 16)


@settings(max_examples=60, deadline=None)
@given(graphs(5), st.floats(20, 200))
def test_parts_of_populations_hold_what_the_whole_did(graph: PopulationGraph, most: float) -> None:
    stored = graph.stored_synapses().tolist()
    parts = [max(1, ceil(each / most)) for each in stored]
    owner = [one for one, count in enumerate(parts) for _ in range(count)]
    found = divided(graph, most)
    assert found.neurons.tolist() == pytest.approx([graph.neurons[one] / parts[one] for one in owner])
    whole = {(one, other): each for one, other, each in edges_of(graph)}
    plain = {
        (x, y): whole[one, other] / parts[other]
        for x, one in enumerate(owner)
        for y, other in enumerate(owner)
        if (one, other) in whole
    }
    assert {(x, y): each for x, y, each in edges_of(found)} == pytest.approx(plain)
    assert max(found.stored_synapses()) <= most * (1 + 1e-9)
    assert sum(found.stored_synapses()) == pytest.approx(sum(stored))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="out of range"):
        uneven_populations(10, 5, 1.0, 11)
    graph = uneven_populations(10, 5, 1.0, 2)
    for devices in (0, 11):
        with pytest.raises(InputError, match="expected 1 to 10"):
            evenly(graph, devices)
    with pytest.raises(InputError, match="expected more than 0"):
        divided(graph, 0.0)
    with pytest.raises(InputError, match="edges would come"):
        divided(graph, 1e-6)
    with pytest.raises(InputError, match="does not fit"):
        PopulationGraph(graph.neurons, graph.offsets, graph.targets + 9, graph.synapses)
