"""Layers with spikes: accumulations spike by spike, traffic step by step, against a plain walk."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.spiking.layers import (
    LayerCounts,
    Order,
    Prices,
    SpikingLayer,
    accumulations,
    dense_counts,
    joules,
    layers_of,
    spiking_counts,
)
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions


@st.composite
def shapes(draw: st.DrawFn) -> SpikingLayer:
    groups = draw(st.integers(1, 2))
    kernel, stride, padding = (
        (draw(st.integers(least, 3)), draw(st.integers(least, 3))) for least in (1, 1, 0)
    )
    sides = [draw(st.integers(k, 6)) for k in kernel]
    out = [(side + 2 * p - k) // s + 1 for side, p, k, s in zip(sides, padding, kernel, stride, strict=True)]
    channels, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    return SpikingLayer(
        "l", channels, sides[0], sides[1], outputs, out[0], out[1], kernel, stride, padding, groups,
        outputs * channels // groups * kernel[0] * kernel[1],
    )  # fmt: skip


def reached(layer: SpikingLayer, row: int, column: int) -> int:
    """Windows that hold a place, times the outputs of its group."""
    windows = sum(
        0 <= row - (y * layer.stride[0] - layer.padding[0]) < layer.kernel[0]
        and 0 <= column - (x * layer.stride[1] - layer.padding[1]) < layer.kernel[1]
        for y in range(layer.out_height)
        for x in range(layer.out_width)
    )
    return windows * layer.outputs // layer.groups


@settings(max_examples=80, deadline=None)
@given(shapes(), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_each_spike_reaches_the_windows_that_hold_it(layer: SpikingLayer, steps: int, seed: int) -> None:
    spikes = np.random.default_rng(seed).random((steps, layer.channels, layer.height, layer.width)) < 0.4
    plain = sum(reached(layer, y, x) for _, _, y, x in np.argwhere(spikes).tolist())
    assert accumulations(layer, spikes) == plain
    assert accumulations(layer, np.ones_like(spikes)) == steps * layer.synapses


def walked(layers: list[SpikingLayer], steps: int, order: str, event: bool) -> list[Counter[str]]:
    """Bytes of an inference in which all inputs fire in every step, moved one thing after another."""
    counts: list[Counter[str]] = [Counter() for _ in layers]
    visits = [(t, n) for t in range(steps) for n in range(len(layers))]
    if order == "layer":
        visits.sort(key=lambda visit: (visit[1], visit[0]))
    held: set[int] = set()
    before = None
    for step, n in visits:
        layer, count = layers[n], counts[n]
        stays = before == n and order == "layer"
        before = n
        if n == 0 and step == 0:
            count["multiplied"] += layer.synapses
            count["activity"] += 4 * layer.inputs
            count["weights"] += 4 * (layer.synapses if event else layer.weights)
            if steps > 1 and order == "step":
                count["state"] += 4 * layer.neurons
        elif n == 0:
            count["state"] += 0 if stays else 4 * layer.neurons
        else:
            count["added"] += layer.synapses
            count["activity"] += -(-layer.inputs // 8)
            if event:
                count["weights"] += 4 * layer.synapses
            elif not stays:
                count["weights"] += 4 * layer.weights
        if n in held:
            count["state"] += 4 * layer.neurons
            held.discard(n)
        if step < steps - 1 and order == "step":
            count["state"] += 4 * layer.neurons
            held.add(n)
        count["activity"] += -(-layer.neurons // 8)
    assert not held
    return counts


@settings(max_examples=80, deadline=None)
@given(
    st.lists(shapes(), min_size=1, max_size=4), st.integers(1, 6), st.sampled_from(["step", "layer"]), st.booleans()
)  # fmt: skip
def test_traffic_is_that_of_a_walk_through_steps_and_layers(
    layers: list[SpikingLayer], steps: int, order: Any, event: bool
) -> None:
    found = spiking_counts(layers, steps, [1.0] * len(layers), order, "event" if event else "pass")
    for count, plain in zip(found, walked(layers, steps, order, event), strict=True):
        assert count.multiply_adds == plain["multiplied"]
        assert count.accumulations == plain["added"]
        assert count.weight_bytes == plain["weights"]
        assert count.state_bytes == plain["state"]
        assert count.activity_bytes == plain["activity"]


def test_one_step_moves_no_potential_and_fewer_spikes_add_less() -> None:
    graph = load_workload("vgg-16", WorkloadOptions(dtype="fp32")).phases[0].graph
    layers = layers_of(graph)
    assert len(layers) == 16
    assert sum(layer.weights for layer in layers) == pytest.approx(138.3e6, rel=1e-3)
    dense = dense_counts(layers)
    assert sum(c.multiply_adds for c in dense) == pytest.approx(15.47e9, rel=0.04), "edges have fewer"
    orders: tuple[Order, ...] = ("step", "layer")
    for order in orders:
        one = spiking_counts(layers, 1, [0.2] * 16, order)
        assert all(c.state_bytes == 0 for c in one)
        assert one[5].accumulations == pytest.approx(0.2 * dense[5].multiply_adds)


def test_joules_are_counts_times_prices() -> None:
    found = joules([LayerCounts("l", 2.0, 3.0, 5.0, 7.0, 11.0)], Prices(1.0, 10.0, 100.0, 1000.0))
    assert found == {"arithmetic": 32.0, "weights": 500.0, "potentials": 7000.0, "activity": 11000.0}


def test_what_does_not_fit_is_refused() -> None:
    layer = SpikingLayer("l", 1, 2, 2, 1, 2, 2, weights=1)
    for steps, rates in ((0, [0.1]), (1, [1.5]), (1, [0.1, 0.1])):
        with pytest.raises(InputError):
            spiking_counts([layer], steps, rates)
    with pytest.raises(InputError, match="expected"):
        accumulations(replace(layer, channels=2), np.zeros((1, 1, 2, 2), np.bool_))
    graph = load_workload("vgg-11", WorkloadOptions(dtype="fp32", batch=2)).phases[0].graph
    with pytest.raises(InputError, match="expected 1"):
        layers_of(graph)
