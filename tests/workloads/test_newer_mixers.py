"""Parts of recent families against figures worked out by hand: pools, gates, routed heads, convolutions, loops."""

from __future__ import annotations

from typing import Any

import pytest

from hw_configs.problems import InputError
from workloads.graph import Graph, Role, check_graph
from workloads.transformer import read_decoder
from workloads.transformer.fields import Fields
from workloads.transformer.phases import step_graph
from workloads.transformer.step import Step

SMALL = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 100, "intermediate_size": 96, "moe_intermediate_size": 32,
}  # fmt: skip
LATENT = {
    **SMALL, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 20, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 12, "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "index_n_heads": 2, "index_head_dim": 8, "index_topk": 8,
}  # fmt: skip
INKLING = {
    **SMALL, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 16, "d_rel": 3,
    "rel_extent": 32, "sliding_window_size": 6, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "layer_types": ["hybrid", "hybrid_sliding", "hybrid", "hybrid_sliding"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "axk2": {**LATENT, "gated_norm_rank": 5},
    "glm5_next_text": {**LATENT, "index_kpool": 4, "linear_num_heads": 4, "linear_head_dim": 8, "qk_rope_head_dim": 0},
    "jetmoe": {**SMALL, "num_attention_heads": 4, "kv_channels": 16, "num_local_experts": 3, "head_dim": None},
    "inkling_text": INKLING,
    "hrm_text": {**SMALL, "num_hidden_layers": 2, "H_cycles": 2, "L_cycles": 3},
    "dory": {**SMALL, "n_input_layers": 1, "n_output_layers": 1, "n_recurrent_loops": 3},
    "lara_mini": {**SMALL, "num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32},
}  # fmt: skip


def graph(family: str, step: Step, fused: bool = True, **changed: Any) -> Graph:
    fields = Fields({"model_type": family, "torch_dtype": "bfloat16", **CONFIGS[family], **changed})
    decoder, precision = read_decoder(fields, None, None)
    return check_graph(step_graph("model", decoder, precision, step, fused=fused))


def prefill(tokens: int, batch: int = 1) -> Step:
    return Step(batch, tokens, tokens, tokens, decode=False)


def decode(context: int, batch: int = 1) -> Step:
    return Step(batch, 1, context, context, decode=True)


def flops(found: Graph, ending: str) -> list[float]:
    return [op.flops for op in found.operators if op.name.endswith(ending)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", CONFIGS)
def test_no_operator_moves_more_than_its_tensors(family: str, fused: bool) -> None:
    counts = set()
    for step in (prefill(24, 2), decode(24, 2), decode(1)):
        found = graph(family, step, fused)
        counts.add(found.parameters())
        for op in found.operators:
            size = {name: found.tensors[name].size_bytes for name in (*op.inputs, *op.outputs, *op.updates)}
            assert op.read_bytes <= sum(size[name] for name in {*op.inputs, *op.updates}), op.name
            assert op.write_bytes <= sum(size[name] for name in (*op.outputs, *op.updates)), op.name
    assert len(counts) == 1


def test_pools_are_scored_in_place_of_tokens() -> None:
    # Four tokens a pool: 32 cached tokens are 8 pools, each scored by two heads of eight features.
    found = graph("glm5_next_text", decode(32))
    scored = flops(found, "attention.indexer.score")
    assert scored == [2 * 2 * 8 * 8 + 3 * 8 * 2]
    cache = next(t for t in found.tensors.values() if t.name.endswith("indexer.k_cache"))
    assert cache.shape == (1, 32, 2 * 8 + 1)
    plain = flops(graph("glm5_next_text", decode(32), index_kpool=1), "attention.indexer.score")
    assert plain == [2 * 2 * 8 * 32 + 3 * 32 * 2]


def test_a_pool_must_divide_the_choice() -> None:
    with pytest.raises(InputError, match="index_topk: found 8; expected a multiple of index_kpool"):
        graph("glm5_next_text", decode(8), index_kpool=3)


def test_a_gate_that_comes_with_the_queries_doubles_the_latent() -> None:
    found = graph("axk2", prefill(10))
    # From both forms of the latent: four heads of 8 + 4 features of a query and 12 of a gate.
    assert flops(found, "attention.q_b")[0] == 2 * 10 * (2 * 24) * 4 * (8 + 4 + 12)
    down = flops(found, "norm.gate_down")
    # Before attention in every layer, before the experts in all but the first.
    assert down == [2 * 10 * 64 * 5] * (4 + 3)


def test_routed_heads_are_computed_for_the_chosen_experts() -> None:
    found = graph("jetmoe", prefill(10))
    wide = 2 * 16
    assert flops(found, "attention.input_linear")[0] == 2 * 10 * 2 * 64 * wide
    assert flops(found, "attention.output_linear")[0] == 2 * 10 * 2 * 64 * wide
    attend = next(op for op in found.operators if op.name.endswith("attention.attend"))
    assert (attend.work.heads, attend.work.kv_heads) == (4, 2)  # type: ignore[attr-defined]
    cached = sum(t.shape[1] * t.shape[3] for t in found.tensors.values() if t.role is Role.KV_CACHE)
    assert cached == 4 * 2 * wide


def test_keys_values_and_blocks_pass_short_convolutions() -> None:
    found = graph("inkling_text", prefill(10))
    # A multiply-add per tap, feature and token; keys, then values.
    assert flops(found, "attention.k_conv") == [2 * 4 * 10 * n * 16 for n in (2, 4, 2, 4)]
    assert flops(found, "attention_conv") == [2 * 4 * 10 * 64] * 4
    assert flops(found, "mlp_conv") == [2 * 4 * 10 * 64] * 4
    # A profile of as many distances as the layer reaches, for every head and token.
    assert flops(found, "attention.profile") == [2 * 10 * 4 * 3 * reach for reach in (32, 6, 32, 6)]
    states = [t.shape for t in found.tensors.values() if t.name.endswith("conv_state")]
    assert sorted(states) == sorted([(1, 32, 3)] * 4 + [(1, 64, 3)] * (4 + 8))


def test_blocks_that_run_again_have_their_weights_once_and_caches_of_their_own() -> None:
    for family, runs, stored in (("hrm_text", 2 * (3 + 1) * 2, 2 * 2), ("dory", 2 + 2 * 3, 4)):
        found = graph(family, decode(8))
        names = [t.name for t in found.tensors.values()]
        assert sum(name.endswith("attention.k_cache") for name in names) == runs
        assert sum(name.endswith("attention.out.weight") for name in names) == stored


def test_a_local_layer_of_lfm2_attends() -> None:
    config = {
        **SMALL, "model_type": "lfm2", "layer_types": ["sliding_attention", "conv", "full_attention", "conv"],
        "torch_dtype": "bfloat16", "block_auto_adjust_ff_dim": False,
    }  # fmt: skip
    decoder, _ = read_decoder(Fields({**config, "sliding_window": 5}), None, None)
    assert [getattr(layer.mixer, "window", None) for layer in decoder.layers] == [5, None, 0, None]
    with pytest.raises(InputError, match="sliding_window: missing"):
        read_decoder(Fields(config), None, None)
