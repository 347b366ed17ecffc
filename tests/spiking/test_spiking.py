"""Spiking networks on meshes: every spike and every count against the plain way, the released memory, bad input."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from offchip.studies.spiking_memory import answered, memory, operate
from simulator.spiking.mesh import SPINNAKER, count_events, route
from simulator.spiking.network import Network, Neuron, Plasticity, Population, Projection
from simulator.spiking.run import run_network
from tests.spiking.plain import plain_counts, plain_spikes

CELL = Neuron(0.27, 3.0, 0.3, 3.0)
SMALL = replace(SPINNAKER, columns=3, rows=3, cores=2, neurons_per_core=2)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, dict[str, list[list[int]]], int]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    cells = st.builds(
        Neuron, st.sampled_from([0.14, 0.27]), st.sampled_from([0.5, 3.0]), st.just(0.3),
        st.sampled_from([2.0137, 3.0119]), st.integers(0, 2),
    )  # fmt: skip
    populations = [Population("given", draw(st.integers(3, 6)))]
    populations += [Population(f"p{n}", size, draw(cells)) for n, size in enumerate(sizes)]
    rules = st.none() | st.builds(
        Plasticity, st.floats(0, 40), st.floats(0, 40), st.sampled_from([1.0, 3.0]), st.just(6.0)
    )
    wires = []
    for _ in range(draw(st.integers(1, 7))):
        source, target = draw(st.sampled_from(populations)), draw(st.sampled_from(populations[1:]))
        patterns = ["all-to-all", "all-to-others"] + ["one-to-one"] * (source.size >= target.size)
        pattern: Any = draw(st.sampled_from(patterns))
        room = source.size - (target.size if pattern == "one-to-one" else 1)
        weight = draw(st.sampled_from([-6.13, 2.17, 5.71, 9.07]))
        rule = draw(rules) if weight > 0 else None
        delay, first = draw(st.integers(1, 3)), draw(st.integers(0, room))
        wires.append(Projection(source.name, target.name, pattern, weight, delay, first, rule))
    ticks = draw(st.integers(1, 25))
    trains = st.lists(st.integers(0, ticks - 1), max_size=8)
    shown = draw(st.lists(trains, min_size=populations[0].size, max_size=populations[0].size))
    return Network(tuple(populations), tuple(wires)), {"given": shown}, ticks


@settings(max_examples=60, deadline=None)
@given(networks())
def test_every_spike_and_every_count_is_that_of_the_plain_way(
    case: tuple[Network, dict[str, list[list[int]]], int],
) -> None:
    network, shown, ticks = case
    spikes = run_network(network, shown, ticks)
    names = [(p.name, n) for p in network.populations for n in range(p.size)]
    plain = plain_spikes(network, shown, ticks)
    assert [(int(t), *names[n]) for t, n in np.argwhere(spikes)] == plain
    counts = count_events(network, SMALL, spikes)
    found: Counter[tuple[object, ...]] = Counter()
    for tick in range(ticks):
        for name in ("spikes", "packets", "hops"):
            found[name, tick] = int(getattr(counts, name)[tick])
        for core in range(counts.events.shape[1]):
            found["events", tick, core] = int(counts.events[tick, core])
            found["received", tick, core] = int(counts.received[tick, core])
        for place, link in enumerate(counts.links):
            found["link", tick, link] = int(counts.link_packets[tick, place])
    assert +found == plain_counts(network, SMALL, plain)


def test_the_released_memory_answers_by_cue_and_by_bit() -> None:
    network = memory(5, 10)
    spikes = operate(network, [(0, (3, (4,), (7, 8, 9))), (20, (1, (4,), ())), (40, (1, (), (8,)))], 60)
    assert answered(network, spikes, "output content", 20, 40) == {7: [6], 8: [6], 9: [6]}
    assert answered(network, spikes, "output cue", 40, 60) == {4: [6]}


def test_a_core_or_a_link_with_too_much_to_do_breaks_real_time() -> None:
    network = Network(
        (Population("given", 1), Population("p", 100, CELL)), (Projection("given", "p", "all-to-all", 6.0),)
    )
    spikes = run_network(network, {"given": [[0]]}, 2)
    machine = replace(SPINNAKER, cores=1, neuron_clocks=100, packet_clocks=50, event_clocks=10)
    counts = count_events(network, machine, spikes)
    assert counts.busiest_core_s == pytest.approx((100 * 100 + 50 + 100 * 10) / 200e6)
    assert (counts.busiest_link, counts.real_time) == (1, True)
    for worse in ({"event_clocks": 2000}, {"link_packets_per_s": 999.0}):
        assert not count_events(network, replace(machine, **worse), spikes).real_time


@pytest.mark.parametrize(
    ("start", "end", "hops"), [((0, 0), (2, 1), 2), ((0, 2), (2, 0), 4), ((1, 1), (1, 1), 0)]
)
def test_routes_are_as_long_as_six_links_allow(
    start: tuple[int, int], end: tuple[int, int], hops: int
) -> None:
    assert len(route(start, end)) == hops


@pytest.mark.parametrize(
    "wire",
    [
        Projection("given", "nobody", "all-to-all", 1.0), Projection("p", "given", "all-to-all", 1.0),
        Projection("given", "p", "all-to-all", 1.0, 0), Projection("given", "p", "one-to-one", 1.0, 1, 1),
    ],
)  # fmt: skip
def test_projections_that_do_not_fit_are_refused(wire: Projection) -> None:
    with pytest.raises(InputError):
        Network((Population("given", 2), Population("p", 2, CELL)), (wire,))


def test_too_few_cores_and_spikes_outside_the_run_are_refused() -> None:
    network = Network((Population("given", 20),), ())
    with pytest.raises(InputError, match="expected 10"):
        count_events(network, replace(SMALL, columns=1, rows=1), np.zeros((1, 20), np.bool_))
    with pytest.raises(InputError, match="found tick 3"):
        run_network(network, {"given": [[3]] + [[]] * 19}, 3)
    with pytest.raises(InputError, match="expected more than 0"):
        replace(CELL, leak=0.0)
    for field, words in (("columns", "1 or more"), ("tick_s", "more than 0"), ("event_clocks", "0 or more")):
        wrong: Any = {field: -1}
        with pytest.raises(InputError, match=f"found -1; expected {words}"):
            replace(SMALL, **wrong)
