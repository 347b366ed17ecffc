"""Attention: roofs, growth with work, and the mechanisms that the documentation names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu.constants import shipped_constants
from simulator.gpu.rows import Prediction, Request, predict
from simulator.gpu.sheet import GpuSheet
from tests.gpu.sheets import NAMES, attention, scaled, sheet
from workloads.graph import Operator

gpus = st.sampled_from(NAMES)
batches = st.integers(1, 256)
groups = st.sampled_from([(32, 32), (32, 8), (64, 8), (16, 2), (8, 1)])
lengths = st.integers(1, 16384)


def run(operator: Operator, on: GpuSheet, timing: str = "default") -> Prediction:
    constants = shipped_constants()
    return predict([Request(operator, on, constants.setup(timing))], constants)[0]


def changed(operator: Operator, **fields: int | bool | str) -> Operator:
    return replace(operator, work=replace(operator.work, **fields))


@settings(max_examples=150, deadline=None)
@given(batches, groups, lengths, st.booleans(), st.booleans(), gpus)
def test_never_faster_than_a_roof(
    batch: int, heads: tuple[int, int], length: int, decode: bool, causal: bool, gpu: str
) -> None:
    on = sheet(gpu)
    operator = attention(batch, *heads, 1 if decode else length, length, causal=causal)
    took = run(operator, on).kernel_s
    assert took >= operator.flops / (on.rate("bf16") * on.sms * on.clock) * (1 - 1e-9)
    assert took >= (operator.read_bytes + operator.write_bytes) / on.bandwidth * (1 - 1e-9)


@settings(max_examples=100, deadline=None)
@given(batches, groups, lengths, st.booleans(), gpus)
def test_more_hardware_is_never_slower(
    batch: int, heads: tuple[int, int], length: int, decode: bool, gpu: str
) -> None:
    base = scaled(sheet(gpu))
    operator = attention(batch, *heads, 1 if decode else length, length)
    before = run(operator, base).kernel_s
    for more in (scaled(base, sms=2.0), scaled(base, clock=1.3), scaled(base, bandwidth=1.5)):
        assert run(operator, more).kernel_s <= before * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(batches, groups, lengths, gpus)
def test_longer_caches_take_longer(batch: int, heads: tuple[int, int], length: int, gpu: str) -> None:
    short, long = attention(batch, *heads, 1, length), attention(batch, *heads, 1, 2 * length)
    assert run(long, sheet(gpu)).kernel_s >= run(short, sheet(gpu)).kernel_s * (1 - 1e-9)


def test_causal_prefill_costs_half_of_full() -> None:
    on = sheet("h100-sxm")
    causal = run(attention(4, 32, 8, 8192, 8192), on).kernel_s
    full = run(attention(4, 32, 8, 8192, 8192, causal=False), on).kernel_s
    assert 1.7 < full / causal < 2.1


def test_long_decode_splits_its_keys() -> None:
    constants = shipped_constants()
    on = sheet("h100-sxm")
    operator = attention(1, 32, 8, 1, 65536)
    unsplit = changed(operator, split_kv=False)
    assert run(operator, on).kernel_s < run(unsplit, on).kernel_s / 4
    assert constants.setup("default").launch_us["attention_alone"] > 0


def test_shared_kv_heads_are_read_once() -> None:
    on = sheet("h100-sxm")
    grouped, single = run(attention(64, 32, 8, 1, 8192), on), run(attention(64, 32, 32, 1, 8192), on)
    assert single.dram_bytes == pytest.approx(4 * grouped.dram_bytes, rel=0.02)
    assert single.kernel_s > 2.5 * grouped.kernel_s


def test_a_window_bounds_the_work() -> None:
    on = sheet("h100-sxm")
    full = run(attention(8, 32, 8, 1, 65536), on).kernel_s
    window = run(changed(attention(8, 32, 8, 1, 65536), window=1024), on).kernel_s
    assert window < full / 5
    long = run(attention(1, 32, 8, 16384, 16384), on).kernel_s
    slid = run(changed(attention(1, 32, 8, 16384, 16384), window=1024), on).kernel_s
    assert slid < long / 3


def test_small_pages_cost_a_little() -> None:
    on = sheet("a100-80gb")
    plain = run(attention(1, 32, 8, 1, 32768), on).kernel_s
    paged = run(changed(attention(1, 32, 8, 1, 32768), page=16), on).kernel_s
    assert plain < paged < 1.2 * plain


def test_benchmarks_that_repeat_find_a_small_cache_in_the_l2() -> None:
    on = sheet("rtx-4090")
    operator = attention(16, 32, 8, 1, 512)
    assert run(replace(operator, residency="hot"), on).dram_bytes < 0.2 * run(operator, on).dram_bytes


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), groups, st.integers(64, 8192), st.sampled_from([64, 128, 256]), gpus)
def test_exponentials_are_a_roof_of_their_own(
    batch: int, heads: tuple[int, int], length: int, dim: int, gpu: str
) -> None:
    """A matrix unit a hundred times as fast leaves 16 exponentials per cycle and multiprocessor."""
    base = sheet(gpu)
    rates = {name: 100 * rate for name, rate in base.matrix_rate.items()}
    on = replace(base, matrix_rate=rates, tdp=float("inf"))
    operator = attention(batch, *heads, length, length, dim)
    exponentials = batch * heads[0] * (length * (length + 1) / 2)
    assert run(operator, on).kernel_s >= exponentials / (16 * on.sms * on.clock) * (1 - 1e-9)


def test_a_latent_cache_is_read_once_for_keys_and_values() -> None:
    on = sheet("h100-sxm")
    whole = changed(attention(64, 16, 1, 1, 32768, dim=576), v_head_dim=512)
    latent = changed(whole, latent=True)
    share = run(latent, on).dram_bytes / run(whole, on).dram_bytes
    assert share == pytest.approx(576 / (576 + 512), rel=0.02)
    assert run(latent, on).kernel_s <= run(whole, on).kernel_s
