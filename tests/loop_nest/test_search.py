"""The best mapping: against every mapping of small layers, reference optima, and what a user fixes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InfeasibleError, InputError
from mapping.loop_nest.search import METRICS, best_mapping
from mapping.loop_nest.space import Fixed
from offchip import solve_mapping
from offchip.reference_rows import validate
from offchip.solving.mapping_input import read_accelerator
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.layers import layers_of
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread, axis_allows, breach
from tests.loop_nest import strategies
from workloads.einsum import Einsum, read_einsum
from workloads.models import build
from workloads.workload import WorkloadOptions

REFERENCE = Path(__file__).parent.parent / "reference" / "loopnest"
PRODUCT = {"I": [[["M", 1]], [["K", 1]]], "W": [[["K", 1]], [["N", 1]]], "O": [[["M", 1]], [["N", 1]]]}


def every_mapping(device: SpatialAccelerator, layer: Einsum) -> Iterator[LoopNest]:
    """All exact factorisations over all slots, in all orders: nothing is left out, nothing is clever."""
    slots = [
        (number, axis)
        for number, memory in enumerate(device.levels)
        for axis in ("", *(a.axis for a in memory.fanout))
    ]
    by_name = {axis.axis: axis for memory in device.levels for axis in memory.fanout}

    def factors(size: int, places: int) -> Iterator[tuple[int, ...]]:
        if places == 1:
            yield (size,)
            return
        for first in range(1, size + 1):
            if size % first == 0:
                for rest in factors(size // first, places - 1):
                    yield (first, *rest)

    choices = []
    for dim, size in layer.sizes.items():
        allowed = [slot for slot in slots if not slot[1] or axis_allows(by_name[slot[1]], dim, layer)]
        choices.append([dict(zip(allowed, found, strict=True)) for found in factors(size, len(allowed))])
    dims = list(layer.sizes)
    for chosen in itertools.product(*choices):
        temporal = [
            [
                (dim, own.get((n, ""), 1))
                for dim, own in zip(dims, chosen, strict=True)
                if own.get((n, ""), 1) > 1
            ]
            for n in range(len(device.levels))
        ]
        spatial = [
            tuple(
                Spread(dim, axis.axis, own[n, axis.axis])
                for axis in memory.fanout
                for dim, own in zip(dims, chosen, strict=True)
                if own.get((n, axis.axis), 1) > 1
            )
            for n, memory in enumerate(device.levels)
        ]
        for orders in itertools.product(*(itertools.permutations(loops) for loops in temporal)):
            yield LoopNest(tuple(NestLevel(t, s) for t, s in zip(orders, spatial, strict=True)))


def least(device: SpatialAccelerator, layer: Einsum, metric: str) -> float:
    best = float("inf")
    for nest in every_mapping(device, layer):
        if not breach(nest, device, layer):
            found = evaluate(nest, device, layer)
            cycles, energy = found.latency_cycles, found.energy_j
            best = min(best, {"energy": energy, "latency": cycles, "edp": energy * cycles}[metric])
    return best


@st.composite
def small_layers(draw: Any) -> Einsum:
    size = st.sampled_from((1, 2, 3, 4))
    if draw(st.booleans()):
        return read_einsum({"name": "p", "dims": {d: draw(size) for d in "MNK"}, "tensors": PRODUCT}, "test")
    stride = draw(st.integers(1, 2))
    tensors = {
        "I": [[["C", 1]], [["P", stride], ["R", 1]]], "W": [[["C", 1]], [["R", 1]]], "O": [[["C", 1]], [["P", 1]]],
    }  # fmt: skip
    return read_einsum({"name": "d", "dims": {"C": draw(st.sampled_from((1, 2))), "P": draw(size), "R": 2},
                        "tensors": tensors}, "test")  # fmt: skip


def insist_on_best(device: SpatialAccelerator, layer: Einsum, metric: str) -> None:
    """The answer is proven, holds, and is that of every mapping; none where none is legal."""
    best = least(device, layer, metric)
    if best == float("inf"):
        with pytest.raises(InfeasibleError):
            best_mapping(device, layer, metric)
        return
    answer = best_mapping(device, layer, metric)
    assert answer.status == "optimal"
    assert answer.bound == answer.value
    assert answer.value == pytest.approx(best, rel=1e-9)
    assert not breach(answer.best[0].nest, device, layer)


@settings(max_examples=40, deadline=None)
@given(strategies.accelerators(), small_layers(), st.sampled_from(METRICS))
def test_no_mapping_is_better(device: SpatialAccelerator, layer: Einsum, metric: str) -> None:
    insist_on_best(device, layer, metric)


@st.composite
def larger_layers(draw: Any) -> Einsum:
    size = st.sampled_from((2, 4, 6, 8, 12))
    if draw(st.booleans()):
        return read_einsum({"name": "p", "dims": {d: draw(size) for d in "MNK"}, "tensors": PRODUCT}, "test")
    tensors = {
        "I": [[["C", 1]], [["P", 1], ["R", 1]]], "W": [[["K", 1]], [["C", 1]], [["R", 1]]],
        "O": [[["K", 1]], [["P", 1]]],
    }  # fmt: skip
    sizes = {"C": draw(size), "K": draw(size), "P": draw(size), "R": draw(st.sampled_from((1, 3)))}
    return read_einsum({"name": "d", "dims": sizes, "tensors": tensors}, "test")


@settings(max_examples=300, deadline=None)
@given(strategies.accelerators(3, 4), larger_layers(), st.sampled_from(METRICS))
def test_leaving_beaten_siblings_out_loses_nothing(
    device: SpatialAccelerator, layer: Einsum, metric: str
) -> None:
    """Two mappings are kept only where every sibling is looked into."""
    try:
        both = best_mapping(device, layer, metric, top=2)
    except InfeasibleError:
        return
    assert best_mapping(device, layer, metric).value == pytest.approx(both.value, rel=1e-9)


@pytest.mark.parametrize("machine", ["eyeriss-v2-array", "nvdla-small-array", "mtia-v1-array"])
@pytest.mark.parametrize("metric", METRICS)
def test_leaving_beaten_siblings_out_loses_nothing_of_real_layers(machine: str, metric: str) -> None:
    device = read_accelerator(machine, {})
    graph = build("resnet-50", WorkloadOptions(dtype="int8")).phases[0].graph
    for name in ("stage4.0.conv3", "stage4.1.conv2", "classifier"):
        (layer,) = layers_of(graph.operator_by_name[name])
        both = best_mapping(device, layer, metric, top=2)
        assert best_mapping(device, layer, metric).value == pytest.approx(both.value, rel=1e-9)


def test_comparing_with_every_mapping_notices_a_floor_that_is_too_high(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mapping.loop_nest import search

    device, layer = _machine(), _layer(4, 4, 4)
    exact = search.floors
    monkeypatch.setattr(
        search, "floors", lambda space: exact(space)._replace(inside=exact(space).inside * 1.5)
    )
    assert best_mapping(device, layer, "energy").value > least(device, layer, "energy") * (1 + 1e-9)


def test_reference_optima_are_reached_and_proven() -> None:
    found = validate("loopnest", REFERENCE, "op*")
    assert [row.id for row in found.rows if row.verdict != "ok"] == []
    assert len(found.rows) == 43


def _machine(**inner: Any) -> SpatialAccelerator:
    axes = [("X", 4, "any", ("I", "W"), ("O",)), ("Y", 2, "out", ("I", "W"), ())]
    return strategies.accelerator(
        [
            {"holds": ("I", "W", "O"), "read": 100.0, "write": 100.0},
            {"holds": ("I", "W", "O"), "capacity": 64, "axes": axes},
            {"holds": ("I", "W", "O"), "capacity": 8, **inner},
        ]
    )


def _layer(m: int, n: int, k: int) -> Einsum:
    return read_einsum({"name": "p", "dims": {"M": m, "N": n, "K": k}, "tensors": PRODUCT}, "test")


def test_what_is_fixed_stays_and_costs_no_less() -> None:
    device, layer = _machine(), _layer(8, 8, 8)
    free = best_mapping(device, layer, "energy")
    fixed = Fixed({("L1", "M"): 2}, {("X", "K"): 4}, {"L0": ("K", "M", "N")})
    found = best_mapping(device, layer, "energy", fixed=fixed)
    assert found.value >= free.value
    nest = found.best[0].nest
    assert ("M", 2) in nest.levels[1].temporal
    assert Spread("K", "X", 4) in nest.levels[1].spatial
    outer = [dim for dim, _count in nest.levels[0].temporal]
    assert outer == [dim for dim in ("K", "M", "N") if dim in outer]


@pytest.mark.parametrize(
    ("fixed", "says"),
    [
        (Fixed({("L7", "M"): 2}), "no level 'L7'"),
        (Fixed({("L1", "Q"): 2}), "'Q' is no dim"),
        (Fixed({("L1", "M"): 3}), "3 does not divide M = 8"),
        (Fixed(spatial={("Z", "M"): 2}), "no axis 'Z'"),
        (Fixed(order={"L9": ("M",)}), "no level 'L9'"),
    ],
)
def test_what_cannot_be_fixed_is_told(fixed: Fixed, says: str) -> None:
    with pytest.raises(InputError, match=says):
        best_mapping(_machine(), _layer(8, 8, 8), "energy", fixed=fixed)


def test_an_impossible_constraint_is_infeasible_not_a_wrong_mapping() -> None:
    with pytest.raises(InfeasibleError, match="exceeds its 2"):
        best_mapping(_machine(), _layer(8, 8, 8), "energy", fixed=Fixed(spatial={("Y", "M"): 4}))
    with pytest.raises(InfeasibleError, match="cannot hold one word of each"):
        best_mapping(_machine(capacity=2), _layer(8, 8, 8), "energy")
    tiles = Fixed({("L2", "M"): 8, ("L2", "N"): 8})
    with pytest.raises(InfeasibleError, match="leaves tiles that no level can hold"):
        best_mapping(_machine(), _layer(8, 8, 8), "energy", fixed=tiles)


def test_the_best_ten_are_ten_in_order() -> None:
    device, layer = _machine(), _layer(8, 8, 8)
    found = best_mapping(device, layer, "energy", top=10)
    energies = [one.evaluation.energy_j for one in found.best]
    assert len({one.nest for one in found.best}) == len(found.best) > 1
    assert energies == sorted(energies)
    assert energies[0] == pytest.approx(found.value)


def test_out_of_time_keeps_the_best_with_a_true_bound() -> None:
    machine = strategies.accelerator(
        [
            {"holds": ("I", "W", "O"), "read": 50.0, "write": 50.0},
            {"holds": ("I", "W", "O"), "capacity": 1 << 16,
             "axes": [("X", 14, "any", ("I", "W"), ("O",)), ("Y", 12, "any", ("I", "W"), ("O",))]},
            {"holds": ("I",), "capacity": 24}, {"holds": ("W",), "capacity": 448}, {"holds": ("O",), "capacity": 48},
        ]
    )  # fmt: skip
    sizes = {"K": 64, "C": 64, "P": 14, "Q": 14, "R": 3, "S": 3}
    window = [[["P", 1], ["R", 1]], [["Q", 1], ["S", 1]]]
    layer = read_einsum(
        {"name": "c", "dims": sizes, "tensors": {
            "I": [[["C", 1]], *window], "W": [[["K", 1]], [["C", 1]], [["R", 1]], [["S", 1]]],
            "O": [[["K", 1]], [["P", 1]], [["Q", 1]]]}}, "test"
    )  # fmt: skip
    best_mapping(_machine(), _layer(2, 2, 2))  # kernels are there
    cut, whole = (best_mapping(machine, layer, "latency", time_limit_s=limit) for limit in (0.2, None))
    assert cut.seconds < 2
    assert cut.status == "feasible"
    assert whole.status == "optimal"
    assert 0 < cut.bound <= whole.value <= cut.value


def test_one_level_alone() -> None:
    device = strategies.accelerator(
        [{"holds": ("I", "W", "O"), "axes": [("X", 4, "any", ("I", "W"), ("O",))]}]
    )
    layer = _layer(4, 2, 2)
    assert best_mapping(device, layer, "latency").value == pytest.approx(least(device, layer, "latency"))


def test_a_model_is_solved_layer_by_layer() -> None:
    found = solve_mapping("alexnet", "gemmini", objective="latency")
    assert len(found.layers) == 8
    assert all(item.answer is not None for item in found.layers)
    assert found.latency_s == pytest.approx(sum(i.count * i.best.evaluation.latency_s for i in found.layers))
    assert dict(found.unmapped)["pool"] == 3


def test_a_mapping_written_is_priced_the_same(tmp_path: Path) -> None:
    layer = tmp_path / "layer.json"
    layer.write_text(json.dumps({"name": "p", "dims": {"M": 64, "N": 64, "K": 64}, "tensors": PRODUCT}))
    found = solve_mapping(layer, "gemmini", objective="energy")
    nest = tmp_path / "nest.json"
    nest.write_text(json.dumps(found.layers[0].best.nest.to_json(found.device)))
    again = solve_mapping(layer, "gemmini", evaluate=nest)
    assert again.energy_j == pytest.approx(found.energy_j, rel=1e-12)
    nest.write_text(nest.read_text().replace("64", "32"))
    with pytest.raises(InputError, match="cover 32 of 64"):
        solve_mapping(layer, "gemmini", evaluate=nest)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fix": ["scratchpad"]}, "expected LEVEL.DIM=COUNT"),
        ({"fix": ["scratchpad.M=x"]}, "expected a count"),
        ({"objective": "speed"}, "expected energy, latency, edp"),
        ({"top": 0}, "expected 1 to"),
        ({"time_limit": -1.0}, "seconds above zero"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    layer = tmp_path / "layer.json"
    layer.write_text(json.dumps({"name": "p", "dims": {"M": 4, "N": 4, "K": 4}, "tensors": PRODUCT}))
    with pytest.raises(InputError, match=says):
        solve_mapping(layer, "gemmini", **options)


def test_a_device_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="of kind 'gpu'; expected one of kind 'spatial'"):
        solve_mapping("alexnet", "a100-80gb")


def test_ten_kept_are_the_first_of_fifty() -> None:
    device, layer = _machine(), _layer(8, 8, 8)
    ten, fifty = (best_mapping(device, layer, "energy", top=count) for count in (10, 50))
    assert len(ten.best) == 10
    assert len(fifty.best) == 50
    energies = [[one.evaluation.energy_j for one in found.best] for found in (ten, fifty)]
    assert energies[0] == pytest.approx(energies[1][:10])
