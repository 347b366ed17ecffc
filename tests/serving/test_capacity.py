"""Cache of a replica against hand sums."""

from __future__ import annotations

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError
from simulator.serving.capacity import cache_need, capacity_of, weight_bytes
from simulator.serving.settings import EngineSettings, Layout
from tests.serving.plain_pricing import served


def test_weights_and_cache_of_llama_by_hand() -> None:
    model = served("llama-3-8b")
    assert weight_bytes(model, Layout()) == pytest.approx(2 * 8_030_261_248, rel=1e-3)
    assert weight_bytes(model, Layout(tp=2)) == pytest.approx(8_030_261_248, rel=1e-2)
    need = cache_need(model.decoder, "bf16", Layout())
    assert need.token_bytes == 2 * 2 * 8 * 128 * 32
    assert cache_need(model.decoder, "fp8", Layout(tp=8)).token_bytes == need.token_bytes / 16


def test_latent_and_windowed_caches() -> None:
    latent = cache_need(served("deepseek-v3").decoder, "bf16", Layout(tp=8))
    assert latent.token_bytes == 61 * (512 + 64) * 2
    windows = cache_need(served("gpt-oss-20b").decoder, "bf16", Layout())
    assert windows.token_bytes == 12 * 2 * 8 * 64 * 2
    assert windows.sequence_bytes == 12 * 2 * 8 * 64 * 2 * 128


def test_capacity_is_what_weights_leave_and_says_what_is_missing() -> None:
    system, settings = load_system("dgx-h100"), EngineSettings()
    found = capacity_of(served("llama-3-8b"), system, Layout(), settings)
    assert found.weights + found.activations + found.reserve + found.cache == pytest.approx(found.usable)
    assert found.space.blocks * found.space.block_bytes <= found.cache
    assert (found.space.blocks + 1) * found.space.block_bytes > found.cache
    narrow = capacity_of(served("llama-3-8b", kv_dtype="fp8"), system, Layout(), settings)
    assert narrow.space.blocks >= 2 * found.space.blocks
    with pytest.raises(InfeasibleError, match=r"does not fit on gpu0 .* short by .*GiB"):
        capacity_of(served("llama-3.1-405b"), system, Layout(tp=2), settings)


def test_adapters_take_memory_from_the_cache() -> None:
    model, system, settings = served("llama-3-8b"), load_system("h100-sxm"), EngineSettings()
    without, with_them = (capacity_of(model, system, Layout(), settings, size) for size in (0.0, 20 * 2**30))
    assert without.cache - with_them.cache == 20 * 2**30
    assert "all of them resident" in with_them.describe()["adapters"]
    split = capacity_of(model, load_system("dgx-h100"), Layout(tp=2), settings, 20 * 2**30)
    assert split.adapters == 10 * 2**30
    with pytest.raises(InfeasibleError, match="adapters 80 GiB"):
        capacity_of(model, system, Layout(), settings, 80 * 2**30)


def test_engines_divide_memory_in_their_own_ways() -> None:
    """vLLM's share is of the whole, TensorRT-LLM's of what the rest leaves free, SGLang's of weights and cache."""
    system, model = load_system("dgx-h100"), served("llama-3-8b")
    total = float(system.memories["gpu0"].usable_bytes)
    whole = float(system.memories["gpu0"].capacity_bytes)
    found = {
        engine: capacity_of(
            model, system, Layout(), EngineSettings(engine=engine, gpu_memory_utilization=0.8)
        )
        for engine in ("vllm", "trtllm", "sglang")
    }
    own = found["vllm"]
    rest = own.weights + own.activations + own.reserve
    assert own.cache == pytest.approx(0.8 * whole - rest)
    assert found["trtllm"].cache == pytest.approx(0.8 * (total - rest))
    assert found["sglang"].cache == pytest.approx(0.8 * whole - own.weights)
