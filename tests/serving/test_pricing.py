"""The pricer against the graph route, and what no price may do."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from simulator.serving.pricing import Adapters, Pricer, make_pricer
from simulator.serving.settings import EngineSettings, Layout, Speculation
from simulator.serving.step import ScheduledStep
from tests.serving.plain_pricing import graph_seconds, pricer, served

EXACT = 1e-9
"""Relative error at points of the tables."""
BETWEEN = 0.02
"""Relative error that interpolation may make between them, and that monotony may miss by."""

known = cache(pricer)


def step(entries: list[tuple[int, int, int]], samples: bool = True, adapter: int = -1) -> ScheduledStep:
    """Entries of tokens, context and drafts."""
    tokens, context, drafts = (np.array([e[i] for e in entries], np.int64) for i in range(3))
    n = len(entries)
    return ScheduledStep(
        np.arange(n), tokens, context, drafts, np.full(n, samples), np.full(n, adapter, np.int64)
    )


def device_seconds(priced: Pricer, entries: list[tuple[int, int, int]]) -> float:
    done = priced.price(step(entries))
    factor = (
        priced.engine.prefill_factor
        if any(t > 1 or not c for t, c, _ in entries)
        else priced.engine.kernel_factor
    )
    return done.device_s / factor


CASES = [
    ("llama-3-8b", "dgx-h100", 1, None), ("llama-3-8b", "dgx-h100", 4, None), ("gpt-oss-20b", "dgx-h100", 2, None),
    ("qwen3-30b-a3b", "dgx-h100", 1, "fp8"), ("deepseek-v2-lite", "dgx-h100", 1, None),
]  # fmt: skip


@pytest.mark.parametrize(("model", "system", "tp", "dtype"), CASES)
@pytest.mark.parametrize(("batch", "context"), [(1, 512), (16, 2000), (64, 1000), (100, 700)])
def test_a_uniform_decode_step_is_that_of_the_graph(
    model: str, system: str, tp: int, dtype: str | None, batch: int, context: int
) -> None:
    whole = graph_seconds(model, system, "decode", batch, context, tp, dtype)
    ours = device_seconds(known(model, system, tp, dtype), [(1, context - 1, 0)] * batch)
    # 100 lies between two points of the tables; the others are points.
    assert ours == pytest.approx(whole, rel=BETWEEN if batch == 100 else EXACT)


@pytest.mark.parametrize(("model", "system", "tp", "dtype"), CASES)
@pytest.mark.parametrize("prompt", [128, 1000, 8192])
def test_a_prefill_is_that_of_the_graph(
    model: str, system: str, tp: int, dtype: str | None, prompt: int
) -> None:
    whole = graph_seconds(model, system, "prefill", 1, prompt, tp, dtype)
    ours = device_seconds(known(model, system, tp, dtype), [(prompt, 0, 0)])
    assert ours == pytest.approx(whole, rel=BETWEEN if prompt == 1000 else EXACT)


lists = st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 30000)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lists, st.integers(1, 2000))
def test_longer_contexts_and_more_requests_are_never_cheaper(
    entries: list[tuple[int, int]], more: int
) -> None:
    priced = known("llama-3-8b")
    own = [(1 if context else tokens, context, 0) for tokens, context in entries]
    base = device_seconds(priced, own)
    deeper = [(tokens, context + more if context else 0, 0) for tokens, context, _ in own]
    assert device_seconds(priced, deeper) >= base * (1 - BETWEEN)
    assert device_seconds(priced, [*own, (1, more, 0)]) >= base * (1 - BETWEEN)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 8000), st.integers(1, 8000))
def test_more_prefill_tokens_are_never_cheaper(tokens: int, more: int) -> None:
    priced = known("llama-3-8b")
    assert device_seconds(priced, [(tokens + more, 0, 0)]) >= device_seconds(priced, [(tokens, 0, 0)]) * (
        1 - BETWEEN
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 64), st.integers(100, 20000))
def test_a_narrower_cache_is_never_dearer(batch: int, context: int) -> None:
    entries = [(1, context, 0)] * batch
    wide, narrow = known("llama-3-8b"), known("llama-3-8b", kv_dtype="fp8")
    assert device_seconds(narrow, entries) <= device_seconds(wide, entries) * (1 + 1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lists)
def test_no_step_is_quicker_than_bytes_and_operations_allow(entries: list[tuple[int, int]]) -> None:
    own = [(1 if context else tokens, context, 0) for tokens, context in entries]
    system = load_system("dgx-h100")
    gpu = system.nodes["gpu0"]
    parameters = 8.03e9 - 128256 * 4096
    tokens = sum(t for t, _, _ in own)
    cache_bytes = sum(2 * 2 * 8 * 128 * 32 * c for _, c, _ in own)
    least = max(
        (2 * parameters + cache_bytes) / system.memories["gpu0"].read_bandwidth,
        2 * (parameters - 128256 * 4096) * tokens / dict(gpu.device.compute.matrix)["bf16"],
    )  # fmt: skip
    assert device_seconds(known("llama-3-8b"), own) >= 0.999 * least


def test_fewer_devices_are_never_quicker_on_large_steps() -> None:
    entries = [(1, 4000, 0)] * 128
    assert device_seconds(known("llama-3-8b", tp=1), entries) > device_seconds(
        known("llama-3-8b", tp=4), entries
    )


def test_adapters_drafts_copies_and_eager_launches_cost() -> None:
    model, system = served("llama-3-8b"), load_system("dgx-h100")
    plain = known("llama-3-8b")
    one = step([(1, 1000, 0)] * 8)
    with_adapters = make_pricer(
        model, system, Layout(), EngineSettings(), adapters=Adapters.on(model), collectives="wires"
    )
    assert with_adapters.price(one).seconds == plain.price(one).seconds
    assert with_adapters.price(one._replace(adapter=np.zeros(8, np.int64))).seconds > plain.price(one).seconds
    drafting = make_pricer(
        model,
        system,
        Layout(),
        EngineSettings(speculation=Speculation(method="mtp", tokens=2)),
        collectives="wires",
    )
    verified = step([(3, 1000, 2)] * 8)
    assert drafting.price(verified).device_s > plain.price(verified).device_s > plain.price(one).device_s
    assert plain.price(one._replace(copied_in_bytes=1e9)).device_s > plain.price(one).device_s + 0.01
    eager = make_pricer(model, system, Layout(), EngineSettings(cuda_graphs=False), collectives="wires")
    assert eager.price(one).host_s > plain.price(one).host_s + 1e-3


def test_energy_grows_with_work_and_stays_under_the_power_limit() -> None:
    priced = known("llama-3-8b")
    few, many = priced.price(step([(1, 1000, 0)] * 4)), priced.price(step([(4000, 0, 0)]))
    assert 0 < few.joules < many.joules
    assert many.joules <= 700 * many.device_s * 1.05


def test_groups_with_schedulers_of_their_own_take_what_an_even_step_takes() -> None:
    """Equal groups are the step whose requests lie evenly on them; one with more to do holds the others up."""
    model, system = served("qwen3-30b-a3b", "fp8"), load_system("dgx-h100")
    pricer = make_pricer(model, system, Layout(tp=1, attention_dp=4, moe_tp=1, moe_ep=4), EngineSettings())
    one, even = step([(1, 999, 0)] * 8), step([(1, 999, 0)] * 32)
    assert pricer.price_groups([one] * 4).device_s == pytest.approx(pricer.price(even).device_s)
    assert pricer.price_groups([one] * 4).joules == pytest.approx(pricer.price(even).joules)
    assert pricer.price_groups([even, one, one, one]).device_s > pricer.price_groups([one] * 4).device_s


def test_experts_apart_and_groups_of_attention() -> None:
    model, system = served("qwen3-30b-a3b", "fp8"), load_system("dgx-h100")
    together = make_pricer(model, system, Layout(tp=4), EngineSettings())
    apart = make_pricer(model, system, Layout(tp=4, moe_tp=1, moe_ep=4), EngineSettings())
    groups = make_pricer(model, system, Layout(tp=1, attention_dp=4, moe_tp=1, moe_ep=4), EngineSettings())
    decode = step([(1, 8000, 0)] * 256)
    times = [p.price(decode).device_s for p in (together, apart, groups)]
    assert max(times) < 3 * min(times)
    assert groups.price(decode).communication_s != together.price(decode).communication_s
    with pytest.raises(InputError, match="moe_tp 3"):
        make_pricer(model, system, Layout(tp=4, moe_tp=3, moe_ep=1), EngineSettings())


def test_the_description_names_every_constant_and_its_rows() -> None:
    told = known("llama-3-8b").describe()
    assert {"tables", "attention", "step_us", "overlap", "kernel_factor"} <= set(told)
    assert "rows" in told["step_us"]


def test_copies_pass_the_wire_and_the_drives() -> None:
    """By hand: 57.2 GB/s to the host of a DGX H100, a drive of 2 GB/s read and 1 GB/s written."""
    model, system = served("llama-3-8b"), load_system("dgx-h100")
    priced = make_pricer(model, system, Layout(), EngineSettings(), drive=(2e9, 1e9, "a drive"))
    one = step([(1, 1000, 0)])
    wire = priced.copies.host
    assert 50e9 < wire < 64e9
    base = priced.copies.seconds(one)
    assert base == 0.0
    for changes, seconds in (
        ({"copied_in_bytes": 1e9}, 1e9 / wire), ({"copied_out_bytes": 2e9, "copied_in_bytes": 1e9}, 2e9 / wire),
        ({"drive_in_bytes": 1e9}, 0.5), ({"drive_out_bytes": 1e9}, 1.0),
        ({"drive_in_bytes": 1e9, "drive_out_bytes": 1e9}, 1.0),
        ({"copied_in_bytes": 100e9, "drive_in_bytes": 1e9}, 101e9 / wire),
    ):  # fmt: skip
        assert priced.copies.seconds(one._replace(**changes)) == pytest.approx(seconds)
    assert "1 GB/s written (a drive)" in priced.describe()["drive copies"]


def test_adapters_follow_rank_and_targets() -> None:
    """Llama-3-8B by hand: 4,096 wide, 4,096 of queries, 1,024 of keys and of values, 14,336 inside, 32 layers."""
    model, system = served("llama-3-8b"), load_system("h100-sxm")
    small, attention = Adapters.on(model, 8), 4 * 4096 + 2 * 4096 + 2 * 1024
    assert small.elements == 32 * 8 * attention
    every = Adapters.on(
        model, 64, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
    assert every.elements == 32 * 64 * (attention + 3 * (4096 + 14336))
    assert every.size_bytes == 2 * every.elements
    adapted = step([(1, 1000, 0)] * 8)._replace(adapter=np.arange(8))
    times = [
        make_pricer(model, system, Layout(), EngineSettings(), adapters=one).price(adapted).device_s
        for one in (small, Adapters.on(model, 64), every)
    ]
    assert times == sorted(times)
    assert times[2] > 1.05 * times[0]
    with pytest.raises(InputError, match="has no down_proj, gate_proj, up_proj of attention"):
        Adapters.on(served("qwen3-30b-a3b"), 8, ("gate_proj", "up_proj", "down_proj"))
