"""What zeros save: against a run over random arrays, against every mapping, and by hand."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InputError
from hw_configs.spatial import StoredAs
from mapping.loop_nest.search import METRICS, best_mapping
from offchip import solve_mapping
from simulator.accelerator.loop_nest import zeros
from simulator.accelerator.loop_nest.counts import count_words
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.formats import moved_share
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, breach
from simulator.accelerator.loop_nest.zeros import spared_products, words_left
from tests.loop_nest import strategies
from tests.loop_nest.literal_zeros import ZeroRun
from tests.loop_nest.test_search import PRODUCT, _machine, insist_on_best, least, small_layers
from workloads.density import NofM, Uniform
from workloads.einsum import Einsum, read_einsum

RUNS = 150


@st.composite
def sparse_machines(draw: Any, *, formats: bool) -> SpatialAccelerator:
    device = draw(strategies.accelerators())
    saving = st.sampled_from((None, "gating", "skipping"))
    reads = {operand: draw(saving) for operand in ("I", "W")}
    begins = {operand: draw(st.integers(0, len(device.levels) - 1)) for operand in reads}
    kinds = st.sampled_from(("bitmask", "run-length", "coordinate", "csr"))
    levels = []
    for number, memory in enumerate(device.levels):
        cut = {o: s for o, s in reads.items() if s is not None and number >= begins[o] and o in memory.holds}
        stored = {}
        if formats:
            for operand in memory.holds:
                if draw(st.booleans()):
                    stored[operand] = StoredAs(
                        kind=draw(kinds), bits=4, confidence=draw(st.sampled_from((1.0, 0.9)))
                    )
        levels.append(memory.model_copy(update={"zero_reads": cut or None, "formats": stored or None}))
    products = {operand: draw(saving) for operand in ("I", "W")}
    return device.model_copy(
        update={
            "levels": tuple(levels),
            "zero_products": {o: s for o, s in products.items() if s is not None} or None,
        }
    )


@st.composite
def sparse_products(draw: Any, *, structured: bool = True) -> Einsum:
    sizes = {dim: draw(st.sampled_from((1, 2, 3, 4))) for dim in "MN"} | {"K": draw(st.sampled_from((2, 4)))}
    density: dict[str, Any] = {}
    share = st.sampled_from((0.2, 0.5, 0.8, 1.0))
    for operand in ("I", "W", "O"):
        if draw(st.booleans()):
            density[operand] = draw(share)
    if structured and draw(st.booleans()):
        density["W"] = {"n": 1, "of": 2, "along": "K"}
    return read_einsum({"name": "p", "dims": sizes, "tensors": PRODUCT, "density": density}, "test")


def masks(layer: Einsum, rng: np.random.Generator) -> dict[str, Any]:
    """Nonzero words of I and W with the structure that the layer states."""
    found = {}
    for operand in ("I", "W"):
        shape = [layer.sizes[axis[0].dim] for axis in layer.operands[operand]]
        density = layer.densities.get(operand, Uniform(1.0))
        if isinstance(density, NofM):
            along = [axis[0].dim for axis in layer.operands[operand]].index(density.along)
            rest = [size for place, size in enumerate(shape) if place != along]
            groups = shape[along] // density.of
            order = rng.random((*rest, groups, density.of)).argsort(axis=-1)
            found[operand] = np.moveaxis((order < density.n).reshape(*rest, -1), -1, along)
        else:
            found[operand] = rng.random(shape) < density.share
    return found


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_shares_are_the_means_of_runs_over_random_arrays(data: st.DataObject) -> None:
    device = data.draw(sparse_machines(formats=False))
    layer = data.draw(sparse_products())
    nest = data.draw(strategies.nests(device, layer, exact=True))
    timed = data.draw(st.booleans())
    run = ZeroRun(device, layer, nest, timed=timed)
    rng = np.random.default_rng(1)
    found = defaultdict(list)
    for _ in range(RUNS):
        own = run.counts(masks(layer, rng))
        for place in ("products", "added", "begun"):
            found[-1, "O", place].append(own.get((-1, "O", place), 0.0))
        for place, *_rest in run.tiles:
            found[place].append(own.get(place, 0.0))
    words = count_words(nest, device, layer)
    structured = isinstance(layer.densities.get("W"), NofM)
    inner = max(n for n, memory in enumerate(device.levels) if "O" in memory.holds)
    lanes = zeros.lanes_of(nest.loops(), device, layer, "O", (inner, len(device.levels))).together
    share = spared_products(device, layer, timed=timed)
    expected = {(-1, "O", "products"): layer.macs * share}
    if not structured:
        added = words[inner, "O"].updates
        begun = added - words[inner, "O"].reads_down
        expected[-1, "O", "added"] = added * zeros.some_product(share, lanes)
        expected[-1, "O", "begun"] = begun * zeros.some_product(share, added * lanes / begun)
    for (level, operand), traffic in words.items():
        if operand == "O":
            continue
        read, written = words_left(nest, device, layer, (level, operand), timed=timed)(traffic)
        expected[level, operand, "reads"] = read
        if level:
            expected[level, operand, "writes"] = written
    for place, mean in expected.items():
        own = np.array(found[place])
        spread = max(own.std(), mean * 0.02 + 0.05) / np.sqrt(RUNS)
        assert abs(own.mean() - mean) < 5 * spread + 1e-9, (place, mean, own.mean())


@st.composite
def sparse_layers(draw: Any) -> Einsum:
    """Products, and layers with a window."""
    if draw(st.booleans()):
        return draw(sparse_products())
    share = st.sampled_from((0.2, 0.5, 1.0))
    density = {operand: Uniform(draw(share)) for operand in ("I", "W", "O")}
    return replace(draw(small_layers()), densities={o: d for o, d in density.items() if d.share < 1})


@settings(max_examples=100, deadline=None)
@given(sparse_machines(formats=True), sparse_layers(), st.sampled_from(METRICS))
def test_no_mapping_is_better_with_zeros(device: SpatialAccelerator, layer: Einsum, metric: str) -> None:
    insist_on_best(device, layer, metric)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_density_of_one_is_a_dense_run_to_the_last_digit(data: st.DataObject) -> None:
    device = data.draw(sparse_machines(formats=True))
    layer = data.draw(strategies.layers())
    nest = data.draw(strategies.nests(device, layer, exact=True))
    plain = device.model_copy(
        update={
            "zero_products": None,
            "levels": tuple(
                m.model_copy(update={"formats": None, "zero_reads": None}) for m in device.levels
            ),
        }
    )
    axes = {o: [[list(term) for term in axis] for axis in layer.operands[o]] for o in ("I", "W", "O")}
    ones = read_einsum(
        {
            "name": layer.name,
            "dims": dict(layer.sizes),
            "tensors": axes,
            "density": {"I": 1.0, "W": 1, "O": 1},
        },
        "",
    )
    if breach(nest, plain, layer):
        assert breach(nest, device, ones) == breach(nest, plain, layer)
        return
    assert evaluate(nest, device, ones) == evaluate(nest, plain, layer)


def _conv() -> dict[str, Any]:
    return {"name": "p", "dims": {"M": 8, "N": 4, "K": 8}, "tensors": PRODUCT}


def _layer(**density: Any) -> Einsum:
    return read_einsum(_conv() | {"density": density}, "test")


def _store(kind: str, operand: str, **more: Any) -> SpatialAccelerator:
    device = strategies.accelerator([{"holds": ("I", "W", "O")}, {"holds": ("I", "W", "O")}])
    outer = device.levels[0].model_copy(update={"formats": {operand: StoredAs(kind=kind, **more)}})
    return device.model_copy(update={"levels": (outer, device.levels[1])})


def entries(mask: Any, bits: int) -> int:
    """Entries of a run-length code, written word by word."""
    count = run = 0
    for word in mask.ravel():
        if word or run == 2**bits - 1:
            count, run = count + 1, 0
        else:
            run += 1
    return count


def test_run_lengths_of_a_band_are_counted_exactly() -> None:
    for below, above, bits in itertools.product((0, 1, 3), (0, 2), (1, 2, 3)):
        layer = read_einsum(
            {"name": "p", "dims": {"M": 12, "N": 4, "K": 9}, "tensors": PRODUCT,
             "density": {"I": {"rows": "M", "columns": "K", "below": below, "above": above}}}, "test"
        )  # fmt: skip
        offset = np.arange(9)[None, :] - np.arange(12)[:, None]
        mask = (offset >= -below) & (offset <= above)
        assert layer.densities["I"].share == mask.mean()
        last = np.flatnonzero(mask)[-1] + 1  # zeros after the last word are not stored
        expected = entries(mask.ravel()[:last], bits) * (8 + bits) / (8 * mask.size)
        assert moved_share(_store("run-length", "I", bits=bits), layer, 0, "I") == pytest.approx(expected)


def test_run_lengths_of_uniform_zeros_are_the_mean() -> None:
    rng = np.random.default_rng(0)
    for share, bits in ((0.1, 2), (0.3, 5), (0.7, 1)):
        mask = rng.random(200_000) < share
        expected = entries(mask, bits) * (8 + bits) / (8 * mask.size)
        found = moved_share(_store("run-length", "I", bits=bits), _layer(I=share), 0, "I")
        assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "more", "share"),
    [
        ("bitmask", {}, (1 + 0.5 * 8) / 8),
        ("run-length", {"bits": 3}, 0.5 * 11 / 8),
        ("coordinate", {}, 0.5 * (8 + 3) / 8),
        ("csr", {}, (0.5 * (8 + 3) + 6 / 8) / 8),
    ],
)
def test_formats_of_two_in_four_by_hand(kind: str, more: dict[str, Any], share: float) -> None:
    # Rows of 8 along K: places of 3 bits; 32 of 64 words other than zero: rows begin at 6 bits.
    layer = _layer(I={"n": 2, "of": 4, "along": "K"})
    assert moved_share(_store(kind, "I", **more), layer, 0, "I") == pytest.approx(share)


def test_a_tile_of_two_in_four_takes_its_own_room() -> None:
    device = _store("coordinate", "I")
    inner = device.levels[1].model_copy(
        update={"formats": {"I": StoredAs(kind="coordinate")}, "capacity": 45.0}
    )
    device = device.model_copy(update={"levels": (device.levels[0], inner)})
    nest = LoopNest((NestLevel((("M", 2), ("N", 4))), NestLevel((("M", 4), ("K", 8)))))
    # I 16 words of 11 bits, W 8 bytes, O 4 words of 2.
    assert not breach(nest, device, _layer(I={"n": 2, "of": 4, "along": "K"}))
    assert breach(nest, device, _layer(I=0.5)) == "capacity:L1"


def test_gating_saves_energy_and_skipping_time_too() -> None:
    device = strategies.accelerator([{"holds": ("I", "W", "O")}])
    layer, dense = _layer(I=0.25), _layer()
    nest = LoopNest((NestLevel((("M", 8), ("N", 4), ("K", 8))),))

    def priced(saving: str, of: Einsum) -> Any:
        level = device.levels[0].model_copy(update={"zero_reads": {"W": saving}})
        machine = device.model_copy(update={"zero_products": {"I": saving}, "levels": (level,)})
        return evaluate(nest, machine, of)

    plain, gated, skipped = priced("gating", dense), priced("gating", layer), priced("skipping", layer)
    assert gated.energy_j == skipped.energy_j < plain.energy_j
    assert gated.latency_cycles == plain.latency_cycles > skipped.latency_cycles
    assert skipped.compute_cycles == 256 * 0.25
    assert gated.mac_energy_j == plain.mac_energy_j * 0.25
    assert 0 < skipped.utilisation <= 1


def test_a_floor_that_is_too_high_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from mapping.loop_nest import search

    device, layer = _machine(), _layer(I=0.25)
    level = device.levels[0].model_copy(update={"formats": {"I": StoredAs(kind="bitmask")}})
    device = device.model_copy(
        update={"zero_products": {"I": "gating"}, "levels": (level, *device.levels[1:])}
    )
    exact = search.floors
    monkeypatch.setattr(search, "floors", lambda space: exact(space)._replace(inside=exact(space).inside * 2))
    assert best_mapping(device, layer, "energy").value > least(device, layer, "energy") * (1 + 1e-9)


@pytest.mark.parametrize(
    ("density", "says"),
    [
        ({"I": 0}, "share above 0"),
        ({"I": 1.5}, "share above 0"),
        ({"X": 0.5}, "densities of I, W, O"),
        ({"W": {"n": 2, "of": 3, "along": "K"}}, "3 does not divide K = 8"),
        ({"W": {"n": 5, "of": 4, "along": "K"}}, "1 <= n <= of"),
        ({"W": {"n": 2, "of": 4, "along": "M"}}, "by itself: K, N"),
        ({"W": {"rows": "K", "columns": "K", "below": 1, "above": 1}}, "the same dim"),
        ({"W": {"rows": "K", "columns": "N", "below": -1, "above": 1}}, "a whole number"),
        ({"W": "half"}, "expected a share"),
    ],
)
def test_a_density_that_does_not_read_is_refused(density: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _layer(**density)


def test_what_cannot_be_counted_is_refused() -> None:
    device = strategies.accelerator([{"holds": ("I", "W", "O")}])
    level = device.levels[0].model_copy(update={"zero_reads": {"W": "skipping"}})
    device = device.model_copy(update={"levels": (level,)})
    nest = LoopNest((NestLevel((("M", 8), ("N", 4), ("K", 8))),))
    band = _layer(I={"rows": "M", "columns": "K", "below": 1, "above": 1})
    with pytest.raises(InputError, match="cannot be cut by a banded I"):
        evaluate(nest, device, band)
    with pytest.raises(InputError, match="multiply to its size"):
        evaluate(LoopNest((NestLevel((("M", 9), ("N", 4), ("K", 8))),)), device, _layer(I=0.5))
    with pytest.raises(InputError, match="more than 1 bits of a run"):
        moved_share(_store("run-length", "I", bits=1), _layer(I={"n": 1, "of": 4, "along": "K"}), 0, "I")


def test_eyeriss_on_alexnet_moves_what_was_published_of_each_layer() -> None:
    """MB over the pins for a batch of four: JSSC 52(1), 2017, table V."""
    published = {"conv1": 5.0, "conv2": 4.0, "conv3": 3.0, "conv4": 2.1, "conv5": 1.3}
    share_of_zeros = {"conv2": 0.387, "conv3": 0.725, "conv4": 0.793, "conv5": 0.776}
    said = [f"{name}.I={1 - share}" for name, share in share_of_zeros.items()]
    after = [*share_of_zeros.values(), share_of_zeros["conv5"]]
    said += [f"{name}.O={1 - share}" for name, share in zip(published, after, strict=True)]
    found = solve_mapping("alexnet-two-towers", "eyeriss", batch=4, density=said)
    layers = {item.layer.name: item.best.evaluation for item in found.layers if item.layer.name in published}
    moved = {
        name: sum(sum(both) for both in one.levels[0].moved_bytes.values()) for name, one in layers.items()
    }
    for name, megabytes in published.items():
        assert moved[name] / 1e6 == pytest.approx(megabytes, rel=0.1), name
    assert sum(moved.values()) == pytest.approx(15.70e6, rel=1e-3)  # published 15.4
    words = sum(moved.values()) / 2 / sum(one.macs for one in layers.values())
    assert words == pytest.approx(0.00295, rel=2e-3)  # published 0.0029
