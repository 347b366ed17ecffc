"""Small graphs are placed exactly: as good as the best of all placements, each run by the simulator."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_configs.system import System
from mapping.placement import exact
from mapping.placement.co_place import CoPlaceSettings, co_place
from mapping.placement.columns import Scope
from mapping.placement.exact import operator_choices, placed_so
from mapping.placement.machine import Machine
from mapping.placement.trial import try_plan
from tests.placement.machines import products, three_devices
from workloads.graph import Graph


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    return three_devices(Path(tmp_path_factory.mktemp("three")))


def tried_all(graph: Graph, machine: Machine, ahead: int) -> float:
    """Every device and every home for every operator, run one by one."""
    ways = [operator_choices(graph, machine, op, Scope()) for op in graph.operators]
    best = float("inf")
    for choices in itertools.product(*ways):
        best = min(best, try_plan(graph, machine, placed_so(graph, machine, choices, ahead, 0.0)).seconds)
    return best


@st.composite
def small_graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 3))
    width = st.sampled_from([64, 512, 4096])
    sizes = [(draw(st.sampled_from([1, 64])), draw(width), draw(width)) for _ in range(count)]
    wiring = [
        tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=2)))) if i else () for i in range(count)
    ]
    return products(sizes, wiring)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=small_graphs())
def test_no_placement_is_better(system: System, graph: Graph) -> None:
    machine = Machine(system)
    found = co_place(graph, machine, CoPlaceSettings(ahead=2, compare=False))
    assert found.notes.status == "optimal"
    assert found.trial.seconds == pytest.approx(tried_all(graph, machine, 2), rel=1e-9)


def test_nine_operators_on_three_devices_are_placed_exactly(system: System) -> None:
    sizes = [(64, 512, 512)] * 9
    wiring: list[tuple[int, ...]] = [(), (), (0,), (1,), (2, 3), (4,), (4,), (5, 6), (7,)]
    found = co_place(products(sizes, wiring), Machine(system), CoPlaceSettings(compare=False))
    assert found.notes.status == "optimal"
    assert found.notes.gap == 0.0


def test_a_search_that_cuts_too_much_is_seen(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard trips: with tails too long and choices in a bad order, the best is cut off."""
    graph = products([(64, 4096, 4096), (64, 4096, 4096), (64, 64, 64)], [(), (), (0, 1)])
    machine = Machine(system)
    true = exact._Search._tails
    monkeypatch.setattr(
        exact._Search, "_tails", lambda self: {name: 1e3 + tail for name, tail in true(self).items()}
    )
    monkeypatch.setattr(exact._Search, "_alone", lambda self, op, choice: -ord(choice.device[0]))
    found = exact.place_exactly(graph, machine, Scope(), 2, 0.0)
    assert found.trial.seconds > tried_all(graph, machine, 2)
