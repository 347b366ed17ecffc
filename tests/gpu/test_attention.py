"""Attention: roofs, growth with work, and the mechanisms that the documentation names."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator.gpu.attention import causal_blocks
from simulator.gpu.attention_lines import attention_kernel_of
from simulator.gpu.constants import shipped_constants
from simulator.gpu.request import Prediction, Request
from simulator.gpu.rows import predict
from simulator.gpu.sheet import GpuSheet
from tests.gpu.sheets import ALL, NAMES, attention, scaled, sheet
from workloads.graph import Operator

gpus = st.sampled_from(NAMES)
every_gpu = st.sampled_from(ALL)
timings = st.sampled_from(["default", "graph-mean", "kernel"])
batches = st.integers(1, 256)
groups = st.sampled_from([(32, 32), (32, 8), (64, 8), (16, 2), (8, 1)])
lengths = st.integers(1, 16384)


def run(operator: Operator, on: GpuSheet, timing: str = "default") -> Prediction:
    constants = shipped_constants()
    return predict([Request(operator, on, constants.setup(timing))], constants)[0]


def changed(operator: Operator, residency: str = "", **fields: int | bool | str) -> Operator:
    return replace(operator, residency=residency, work=replace(operator.work, **fields))


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


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Decoding or prefill behind a past, with all that a kernel may be told."""
    q_len = draw(st.one_of(st.just(1), st.integers(2, 9000)))
    kv_heads = draw(st.sampled_from([1, 2, 8, 32]))
    return {
        "batch": draw(st.integers(1, 128)), "heads": kv_heads * draw(st.integers(1, 8)), "kv_heads": kv_heads,
        "q_len": q_len, "kv_len": q_len + draw(st.integers(0, 40000)), "dim": draw(st.sampled_from([64, 128, 256])),
        "causal": draw(st.booleans()), "window": draw(st.sampled_from([0, 0, 64, 1000, 4096])),
        "page": draw(st.sampled_from([0, 16])), "split_kv": draw(st.booleans()),
        "residency": draw(st.sampled_from(["cold", "hot"])),
    }  # fmt: skip


def of(shape: dict[str, Any]) -> Operator:
    sizes = ("batch", "heads", "kv_heads", "q_len", "kv_len", "dim", "causal")
    operator = attention(*(shape[name] for name in sizes))
    return changed(operator, **{name: value for name, value in shape.items() if name not in sizes})


@settings(max_examples=150, deadline=None)
@given(shapes(), every_gpu, timings, st.floats(1.0, 4.0))
def test_more_hardware_is_never_slower(shape: dict[str, Any], gpu: str, timing: str, more: float) -> None:
    board, operator = sheet(gpu), of(shape)
    # More bandwidth helps under any limit of power; a clock is rated with the energy per operation that it takes.
    fast = replace(board, bandwidth=board.bandwidth * more)
    assert run(operator, fast, timing).kernel_s <= run(operator, board, timing).kernel_s * (1 + 1e-9)
    base = scaled(board)
    before = run(operator, base, timing).kernel_s
    for richer in (scaled(base, sms=round(more * base.sms) / base.sms), scaled(base, clock=more)):
        assert run(operator, richer, timing).kernel_s <= before * (1 + 1e-9)


@settings(max_examples=400, deadline=None)
@given(
    shapes(), every_gpu, timings, st.sampled_from(["batch", "heads", "all heads", "kv_len", "q_len"]),
    st.one_of(st.integers(1, 300), st.floats(1.0, 3.0)),
)  # fmt: skip
def test_time_grows_with_work(shape: dict[str, Any], gpu: str, timing: str, axis: str, more: float) -> None:
    """Along every axis; new queries stand behind the same past, and queries that share KV heads stay sharing.

    (With the number of keys fixed, more causal queries may do less: those of a tile see keys up to its last one.)
    """

    def longer(size: int) -> int:
        return size + more if isinstance(more, int) else int(size * more) + 1

    large = dict(shape)
    if axis == "heads":
        assume(shape["heads"] > shape["kv_heads"])
        large["heads"] += shape["kv_heads"]
    elif axis == "all heads":
        large.update(heads=2 * shape["heads"], kv_heads=2 * shape["kv_heads"])
    elif axis == "q_len":
        assume(shape["q_len"] > 1)
        large["q_len"] = longer(shape["q_len"])
        large["kv_len"] += large["q_len"] - shape["q_len"]
    else:
        large[axis] = longer(shape[axis])
    before, after = (run(of(s), sheet(gpu), timing).kernel_s for s in (shape, large))
    assert after >= before * (1 - 1e-9)


@pytest.mark.parametrize("gpu", ALL)
def test_every_further_block_of_a_cache_takes_as_long_or_longer(gpu: str) -> None:
    """Also where the number of blocks meets the number of parts that keys are split into."""
    constants, on = shipped_constants(), sheet(gpu)
    for batch, heads, kv_heads in ((1, 32, 8), (4, 8, 1), (64, 32, 8), (2, 32, 32)):
        requests = [
            Request(attention(batch, heads, kv_heads, 1, kv), on, constants.setup("default"))
            for kv in range(32, 9000, 32)
        ]
        times = [p.kernel_s for p in predict(requests, constants)]
        assert all(b >= a * (1 - 1e-9) for a, b in pairwise(times))


def test_more_query_heads_are_quicker_only_where_flashattention_2_starts_to_split() -> None:
    """Its variable-length kernel splits keys only where query heads share a KV head."""
    alone, shared = attention(1, 8, 8, 1, 32768), attention(1, 16, 8, 1, 32768)
    for name in ("a100-80gb", "rtx-4090"):
        assert run(shared, sheet(name)).kernel_s < run(alone, sheet(name)).kernel_s / 4
    for name in ("h100-sxm", "b200"):
        assert run(shared, sheet(name)).kernel_s >= run(alone, sheet(name)).kernel_s


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


def latent(batch: int, heads: int, kv_len: int, cache: str = "") -> Operator:
    """A decode step over latents of 512 and 64 elements."""
    return changed(
        attention(batch, heads, 1, 1, kv_len, dim=576), v_head_dim=512, latent=True, kv_dtype=cache
    )


def expanded(batch: int, heads: int, q_len: int, kv_len: int, cache: str = "") -> Operator:
    return changed(attention(batch, heads, heads, q_len, kv_len, dim=192), v_head_dim=128, kv_dtype=cache)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 256), st.sampled_from([2, 16, 64, 128]), lengths, st.integers(1, 20000), every_gpu, timings,
    st.booleans(), st.sampled_from(["", "fp8"]),
)  # fmt: skip
def test_longer_contexts_of_latents_never_take_less(
    batch: int, heads: int, length: int, more: int, gpu: str, timing: str, decode: bool, cache: str
) -> None:
    if decode:
        before, after = latent(batch, heads, length, cache), latent(batch, heads, length + more, cache)
    else:
        before, after = (expanded(batch, heads, 64, 64 + past, cache) for past in (length, length + more))
    took = run(before, sheet(gpu), timing).kernel_s
    assert run(after, sheet(gpu), timing).kernel_s >= took * (1 - 1e-9)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 512), st.sampled_from([2, 16, 64, 128]), lengths, every_gpu, st.booleans())
def test_narrower_latents_never_take_longer(
    batch: int, heads: int, length: int, gpu: str, decode: bool
) -> None:
    wide, narrow = (
        run(
            latent(batch, heads, length, cache) if decode else expanded(batch, heads, length, length, cache),
            sheet(gpu),
        )
        for cache in ("", "fp8")
    )
    assert narrow.kernel_s <= wide.kernel_s * (1 + 1e-9)


@settings(max_examples=400, deadline=None)
@given(shapes(), every_gpu)
def test_a_narrower_cache_never_takes_longer_in_the_same_kernel(shape: dict[str, Any], gpu: str) -> None:
    """Ampere and Ada have another kernel over 8-bit caches, which measurements show slower in prefill."""
    wide = of(shape)
    narrow = changed(wide, residency=shape["residency"], kv_dtype="fp8")
    requests = [Request(op, sheet(gpu), shipped_constants().setup("default")) for op in (wide, narrow)]
    assume(attention_kernel_of(requests[0]).calibrated_as == attention_kernel_of(requests[1]).calibrated_as)
    assert run(narrow, sheet(gpu)).kernel_s <= run(wide, sheet(gpu)).kernel_s * (1 + 1e-9)


@pytest.mark.parametrize("gpu", ALL)
@pytest.mark.parametrize("heads", [(32, 8), (64, 4)])
def test_a_cache_of_half_the_bytes_makes_a_large_decode_quicker(gpu: str, heads: tuple[int, int]) -> None:
    wide = attention(128, *heads, 1, 16384)
    narrow = run(changed(wide, kv_dtype="fp8"), sheet(gpu))
    bound = 0.75 if narrow.bound_by == "memory" else 1.0  # boards with little arithmetic are bound by that
    assert narrow.kernel_s < bound * run(wide, sheet(gpu)).kernel_s


@settings(deadline=None)
@given(
    st.integers(0, 3000),
    st.integers(1, 600),
    st.integers(1, 8),
    st.sampled_from([16, 64, 128]),
    st.integers(0, 3),
)
def test_blocks_of_a_causal_prefill_equal_a_count_tile_by_tile(
    before: int, q: int, group: int, keys: int, tile: int
) -> None:
    rows = (16, 64, 128, 192)[tile]
    turns = -(-q * group // rows)
    total = sum(-(-min(before + -(-(i + 1) * rows // group), before + q) // keys) for i in range(turns))
    blocks = -(-(before + q) // keys)
    assert causal_blocks(before, blocks, turns, keys, rows, group) == total


def test_flashattention_2_neither_groups_nor_splits_under_a_window() -> None:
    """However long the window is: each query head walks over the keys by itself."""
    for name in ("a100-80gb", "l40s"):
        grouped = attention(4, 32, 4, 1, 4096)
        windowed = changed(grouped, window=1 << 20)
        assert run(windowed, sheet(name)).kernel_s > 1.8 * run(grouped, sheet(name)).kernel_s
    for name in ("h100-sxm", "b200"):
        grouped = attention(4, 32, 4, 1, 4096)
        assert (
            run(changed(grouped, window=1 << 20), sheet(name)).kernel_s == run(grouped, sheet(name)).kernel_s
        )


def test_a_kernel_that_does_not_split_latents_takes_as_long_as_its_longest_sequence() -> None:
    """TensorRT-LLM on Ampere and Ada: measured times of one and of sixteen sequences are equal."""
    for name in ("a100-80gb", "l40s"):
        few, many = (run(latent(batch, 32, 16384), sheet(name)).kernel_s for batch in (1, 16))
        assert many < 1.1 * few
    few, many = (run(latent(batch, 32, 65536), sheet("h100-sxm")).kernel_s for batch in (1, 64))
    assert many > 8 * few
