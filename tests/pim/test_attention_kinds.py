"""Attention that sees less than all, or whose keys are wide: windows, chunks, sinks and latents in PIM memories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads
from hw_configs.problems import InfeasibleError
from offchip.api import load_system, simulate
from simulator.pim.recipes import _visible, cache_slots, refused_attention
from workloads.operators import Attention

SYSTEM = load_system("gpu-pim")
SMALL = {
    "gemma-2-2b": {"num_hidden_layers": 2, "vocab_size": 512},
    "gpt-oss-20b": {
        "num_hidden_layers": 2, "vocab_size": 512, "num_local_experts": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "llama-4-scout": {"num_hidden_layers": 4, "vocab_size": 512, "num_local_experts": 2},
    "deepseek-v2-lite": {"num_hidden_layers": 2, "vocab_size": 512, "n_routed_experts": 8},
    "glm-5": {"num_hidden_layers": 1, "vocab_size": 512, "n_routed_experts": 8},
    "qwen3-30b-a3b": {"num_hidden_layers": 2, "vocab_size": 512, "num_experts": 8},
}  # fmt: skip


def small(name: str, folder: Path) -> Path:
    """A built-in model with few layers and experts."""
    config = json.loads((Path(workloads.__file__).parent / "models" / f"{name}.json").read_text())
    config = config.get("text_config", config) | SMALL[name]
    for key in ("no_rope_layers", "moe_layers"):
        if isinstance(config.get(key), list):
            config[key] = config[key][: config["num_hidden_layers"]]
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def attention_seconds(path: Path, prompt: int, **more):
    options = {"phase": "decode", "batch": 4, "mapper": "pim-attention", **more}
    result = simulate(path, SYSTEM, prompt=prompt, **options)
    line = result.timeline
    return [
        end - start
        for kind, device, start, end in zip(
            line.operator_kind, line.device, line.start, line.end, strict=True
        )
        if kind == "attention" and device == "pim0"
    ]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_all_tokens_see_adds_up_to_the_pairs_of_the_mask(data):
    tokens = data.draw(st.integers(1, 300))
    kind = data.draw(st.sampled_from(["all", "window", "chunk", "sinks"]))
    size = data.draw(st.integers(1, 320))
    fields = {
        "all": {},
        "window": {"window": size},
        "chunk": {"chunk": size},
        "sinks": {"window": size, "sink_tokens": data.draw(st.integers(1, 8))},
    }
    work = Attention(
        batch=1, heads=1, kv_heads=1, head_dim=8, q_len=tokens, kv_len=tokens, causal=True, **fields[kind]
    )
    seen = [_visible(work, position) for position in range(tokens)]
    assert sum(seen) == work.pairs
    assert max(seen) <= cache_slots(work, tokens)


@pytest.mark.parametrize("fidelity", ["event", "cycle"])
def test_a_window_layer_stops_growing_and_a_whole_one_does_not(tmp_path, fidelity):
    path = small("gemma-2-2b", tmp_path)
    near, far = (attention_seconds(path, prompt, fidelity=fidelity) for prompt in (4097, 8200))
    assert near[0] == pytest.approx(far[0], rel=1e-6)
    assert far[1] > 1.5 * near[1]


def test_a_chunk_begins_anew(tmp_path):
    path = small("llama-4-scout", tmp_path)
    before, after = attention_seconds(path, 8192), attention_seconds(path, 8200)
    assert after[0] < before[0] / 4
    assert after[3] == pytest.approx(before[3], rel=0.05)


def test_the_logits_of_sinks_stand_beside_every_memory(tmp_path):
    result = simulate(
        small("gpt-oss-20b", tmp_path), SYSTEM, phase="decode", batch=4, prompt=300, mapper="pim-attention"
    )
    # Keys and values of two layers (a window of 128 and all) and 64 logits a layer.
    kept = 8 * 64 * 2 * 2 * (128 + 300)
    assert {use.resident_bytes for name, use in result.memories.items() if name.startswith("pim")} == {
        kept + 2 * 64 * 2
    }


@pytest.mark.parametrize("prompt", [40, 1000])
def test_latents_wider_than_a_row(tmp_path, prompt):
    """576 elements a token, 512 a row: the engine counts what the layout says (or the run ends in an error)."""
    path = small("deepseek-v2-lite", tmp_path)
    assert min(attention_seconds(path, prompt, fidelity="cycle")) > 0


def test_an_indexer_that_leaves_keys_out_is_refused(tmp_path):
    path = small("glm-5", tmp_path)
    assert attention_seconds(path, 200)
    with pytest.raises(InfeasibleError, match="an indexer picks 2048 of 4000 keys"):
        attention_seconds(path, 4000)


def test_a_share_of_channels_is_refused():
    work = Attention(batch=1, heads=1, kv_heads=1, head_dim=8, q_len=1, kv_len=9, causal=True, kept=0.5)
    assert "share" in refused_attention(work)
