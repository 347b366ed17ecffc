"""Statistics of neuron use against draws, windows against a budget, and the plan that the mapper writes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import Flash
from hw_configs.library import load_device, load_system
from hw_configs.problems import InfeasibleError, InputError
from hw_configs.settings import read_settings
from mapping.caching.activation_statistics import (
    ActivationStatistics,
    counted_statistics,
    fitted_concentration,
)
from mapping.caching.cache_neurons import MAPPER, CacheNeuronsSettings
from mapping.caching.dram_budget import choose_window, sparse_model, window_choice
from mapping.mapper import MapperOptions
from offchip import api
from simulator.check import check
from simulator.rewrite.apply import rewrite
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions


def asked(**values: object) -> MapperOptions:
    return MapperOptions(settings=read_settings(CacheNeuronsSettings, values))


def drive() -> Flash:
    device = load_device("apple-ssd-1tb")
    assert isinstance(device, Flash)
    return device


def test_a_training_step_is_refused() -> None:
    with pytest.raises(InputError, match="backward pass"):
        MAPPER.plan(graph(phase="train"), load_system("laptop"), MapperOptions())


def graph(model: str = "opt-6.7b", phase: str = "decode") -> Graph:
    return load_workload(model, WorkloadOptions(phase=phase, batch=1, prompt=128)).phases[0].graph


@settings(max_examples=12, deadline=None)
@given(st.floats(0.03, 0.5), st.floats(0.3, 20.0), st.integers(1, 12), st.integers(0, 10**6))
def test_a_windows_share_is_that_of_drawn_neurons(mean: float, c: float, window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances = rng.beta(c * mean, c * (1 - mean), 40_000)
    used = rng.random((window + 1, len(chances))) < chances
    statistics = ActivationStatistics(mean, c)
    held = used[:window].any(axis=0)
    assert statistics.window_share(window) == pytest.approx(held.mean(), abs=0.015)
    assert statistics.loaded_share(window) == pytest.approx((used[window] & ~held).mean(), abs=0.015)


@given(st.floats(0.01, 0.6), st.floats(0.1, 50))
def test_windows_hold_more_and_load_less_as_they_grow(mean: float, c: float) -> None:
    statistics = ActivationStatistics(mean, c)
    held = [statistics.window_share(k) for k in range(20)]
    loaded = [statistics.loaded_share(k) for k in range(20)]
    assert held[0] == 0
    assert loaded[0] == pytest.approx(mean)
    assert all(a < b <= 1 for a, b in pairwise(held))
    assert all(a > b > 0 for a, b in pairwise(loaded))


@given(st.floats(0.02, 0.5), st.floats(0.2, 50), st.integers(2, 10))
def test_the_fit_finds_what_made_the_share(mean: float, c: float, window: int) -> None:
    share = ActivationStatistics(mean, c).window_share(window)
    found = fitted_concentration(mean, window, share)
    assert ActivationStatistics(mean, found).window_share(window) == pytest.approx(share)


def test_a_trace_gives_its_statistics() -> None:
    rng = np.random.default_rng(3)
    chances = rng.beta(0.2, 1.8, 5000)
    found = counted_statistics(rng.random((60, 5000)) < chances)
    assert found.predicted_share == pytest.approx(0.1, abs=0.01)
    assert found.concentration == pytest.approx(2.0, rel=0.1)
    with pytest.raises(InputError, match="at least 5 tokens"):
        counted_statistics([np.array([True, False])])


def test_shares_of_opt() -> None:
    """Embeddings 3, attention 32.3, predictors 1.25, 24 % of 64.62: 52.1 % of the model (arXiv:2312.11514)."""
    model = sparse_model(graph(), 128)
    shares = [model.embedding_bytes, model.attention_bytes, model.predictor_bytes, model.ffn_bytes]
    percent = [100 * part / model.bytes for part in shares]
    assert percent == pytest.approx([3.2, 32.3, 1.25, 64.6], abs=0.3)
    assert 100 * model.resident_bytes(0.24) / model.bytes == pytest.approx(52.1, abs=0.5)
    assert (model.row_bytes, model.matrices, model.neurons) == (8192, 2, 16384)
    gated = sparse_model(graph("llama-2-7b"))
    assert (gated.row_bytes, gated.matrices, gated.neurons) == (8192, 3, 11008)


def test_bundles_read_faster_and_the_second_point_follows_from_the_first() -> None:
    model, statistics = sparse_model(graph(), 128), ActivationStatistics(0.1, 2.0)
    apart, bundled = (window_choice(model, statistics, drive(), 4, bundled=b) for b in (False, True))
    assert apart.read_bandwidth == pytest.approx(1.25e9, rel=0.01)
    assert bundled.read_bandwidth == pytest.approx(2.25e9, rel=0.15)
    assert apart.loaded_bytes == bundled.loaded_bytes
    assert bundled.chunk_bytes == 2 * apart.chunk_bytes


@settings(max_examples=25, deadline=None)
@given(st.floats(0.4, 1.2))
def test_the_choice_is_the_best_that_fits(budget: float) -> None:
    model, statistics = sparse_model(graph(), 128), ActivationStatistics(0.1, 2.0)
    try:
        choice, all_of_them = choose_window(model, statistics, drive(), budget * model.bytes)
    except InfeasibleError:
        assert (
            window_choice(model, statistics, drive(), 0, bundled=True).resident_bytes > budget * model.bytes
        )
        return
    assert choice.resident_bytes <= budget * model.bytes
    better = [c for c in all_of_them if c.io_s < choice.io_s]
    assert all(c.resident_bytes > budget * model.bytes for c in better)


@pytest.mark.parametrize("model", ["opt-1.3b", "llama-2-7b", "falcon-7b"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_the_plan_holds_and_reads_what_the_notes_say(model: str, phase: str) -> None:
    system, source = load_system("laptop"), graph(model, phase)
    plan = MAPPER.plan(source, system, asked(budget="80%"))
    changed = rewrite(source, plan)
    assert check(plan, changed, system) == []
    read = sum(changed.tensors[t.tensor].size_bytes for t in plan.tasks if t.kind == "transfer")
    shape = sparse_model(source, 128)
    if phase == "decode":
        # Whole neurons are loaded, so that each layer may be off by half a one.
        half = shape.layers * shape.matrices * shape.row_bytes / 2
        assert read == pytest.approx(plan.notes.loaded_bytes_per_token, abs=half)
    else:
        assert read == pytest.approx(shape.ffn_bytes * (1 - plan.notes.window_share), rel=0.01)
    kept = sum(
        changed.tensors[n].size_bytes
        for n, h in plan.homes.items()
        if h[0].memory == "unified" and "mlp" in n
    )
    assert kept == pytest.approx(shape.ffn_bytes * plan.notes.window_share, rel=0.02)


def test_a_step_takes_its_reading_time() -> None:
    result = api.simulate("opt-6.7b", "laptop", phase="decode", prompt=128, mapper="cache-neurons",
                          settings={"window": "4", "budget": "60%"})  # fmt: skip
    system, source = load_system("laptop"), graph()
    notes = MAPPER.plan(
        source,
        system,
        asked(window="4", budget="60%"),
    ).notes
    assert notes.io_s_per_token < result.makespan_s < notes.io_s_per_token + 0.05
    assert sum(result.wires[w].bytes_forward for w in result.wires if "ssd" in w) == pytest.approx(
        notes.loaded_bytes_per_token, rel=0.01
    )


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("budget=x", 2, "budget: found 'x'"),
        ("budget=-5%", 2, "expected a size"),
        ("budget=20%", 3, "the budget is"),
        ("window=65", 2, "from 0 to 64"),
        ("bundle=perhaps", 2, "expected yes or no, or auto"),
        ("predicted=2", 2, "share above 0"),
        ("window-share=0.9", 2, "window-share: a window of 4 tokens"),
        ("budgt=50%", 2, "did you mean 'budget'"),
    ],
)
def test_what_cannot_be(cli: Callable[..., Any], setting: str, code: int, message: str) -> None:
    outcome = cli("simulate", "opt-1.3b", "--hw", "laptop", "--phase", "decode", "--mapper", "cache-neurons",
                  "--set", setting)  # fmt: skip
    assert outcome.code == code
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_a_generation_leaves_its_weights_where_they_are() -> None:
    result = api.simulate(
        "opt-1.3b", "laptop", prompt=32, generate=2, mapper="cache-neurons", settings={"budget": "60%"}
    )
    assert [phase.kind for phase in result.phases] == ["prefill", "decode", "decode"]
    assert result.warnings == ()
