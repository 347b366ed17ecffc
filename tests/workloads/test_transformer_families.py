"""Families read as their makers write them: defaults, nested sections, slips, layers of their own, new mechanisms."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from workloads.graph import Graph, Role, check_graph
from workloads.transformer import count_parameters, decoder_workload, read_decoder
from workloads.transformer.compressed import _pairs
from workloads.transformer.config import known_families
from workloads.transformer.families.defaults import declared
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Decoder
from workloads.transformer.step import Step
from workloads.workload import WorkloadOptions

FOLDER = Path(__file__).parents[1] / "reference" / "models"

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip


def read(config: dict[str, Any]) -> Decoder:
    return read_decoder(Fields(config, "config.json"), None, None)[0]


def parameters(config: dict[str, Any]) -> int:
    return count_parameters(*read_decoder(Fields(config), None, None))


def graph(config: dict[str, Any], **options: Any) -> Graph:
    decoder, precision = read_decoder(Fields(config), None, None)
    made = decoder_workload("model", decoder, precision, WorkloadOptions(**options)).phases[0].graph
    check_graph(made)
    return made


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        read(config)
    return str(caught.value)


def cached(config: dict[str, Any], context: int) -> int:
    return graph(config, phase="decode", prompt=context).bytes_by_role()[Role.KV_CACHE]


def defaults() -> list[tuple[str, int]]:
    with (FOLDER / "defaults.csv").open() as file:
        return [(row["model_type"], int(row["parameters"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize(("model_type", "count"), defaults())
def test_a_section_that_names_only_its_family_is_that_family_s_default(model_type: str, count: int) -> None:
    assert parameters({"model_type": "wrapper", "text_config": {"model_type": model_type}}) == count


def test_most_families_are_held_against_their_default() -> None:
    assert len(defaults()) > 100
    assert {name for name, _ in defaults()} <= set(known_families())


def test_a_file_must_state_its_sizes_itself() -> None:
    message = refusal({"model_type": "llama", "num_key_value_heads": 2})
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "intermediate_size",
    ):
        assert f"missing field {name}" in message


def test_a_key_that_is_not_there_has_its_class_s_default_and_a_null_the_family_s_rule() -> None:
    config = {**LLAMA, "model_type": "smollm3", "num_attention_heads": 8, "num_key_value_heads": 8}
    absent = {key: value for key, value in config.items() if key != "num_key_value_heads"}
    assert declared("smollm3")["num_key_value_heads"] == 4
    assert cached(absent, 10) * 2 == cached(config, 10) == cached(absent | {"num_key_value_heads": None}, 10)


def test_a_slip_of_a_key_that_is_read_is_an_error_with_the_nearest() -> None:
    config = {**LLAMA, "num_key_value_head": config_value(LLAMA, "num_key_value_heads")}
    del config["num_key_value_heads"]
    message = refusal(config)
    assert "num_key_value_head: unknown key" in message
    assert "did you mean 'num_key_value_heads'?" in message


def config_value(config: dict[str, Any], name: str) -> Any:
    return config[name]


def test_a_strange_key_is_named_and_a_harmless_one_is_not() -> None:
    assert read({**LLAMA, "frobnicate": 3, "rope_theta": 1e6, "bos_token_id": 1}).notes == (
        "keys not read: frobnicate",
    )
    nested = {"model_type": "x", "whatever": 1, "text_config": {**LLAMA, "frobnicate": 3}}
    assert read(nested).notes == ("keys not read in text_config: frobnicate", "keys not read: whatever")
    assert read(LLAMA).notes == ()


def test_a_key_beside_the_right_one_is_no_slip() -> None:
    assert read({**LLAMA, "num_key_value_head": 2}).notes == ("keys not read: num_key_value_head",)


@pytest.mark.parametrize(
    ("outer", "inner", "tied"),
    [(True, False, True), (False, True, False), (None, True, False), (None, False, False)],
)
def test_the_outer_file_says_whether_embeddings_are_tied(outer: object, inner: bool, tied: bool) -> None:
    config: dict[str, Any] = {"model_type": "llava", "text_config": {**LLAMA, "tie_word_embeddings": inner}}
    if outer is not None:
        config["tie_word_embeddings"] = outer
    assert read(config).tied is tied


def test_an_outer_family_s_default_ties_and_an_unknown_one_leaves_it_to_the_inner_file() -> None:
    assert read({"model_type": "mistral3", "text_config": LLAMA}).tied
    assert read({"model_type": "x", "text_config": {**LLAMA, "tie_word_embeddings": True}}).tied


def test_a_section_without_a_family_has_the_outer_one_s() -> None:
    section = {key: value for key, value in LLAMA.items() if key != "model_type"}
    assert read({"model_type": "qwen2_audio", "text_config": section}).model_type == "qwen2"


def test_layers_with_values_of_their_own() -> None:
    config = {**LLAMA, "per_layer_config": {"1": {"num_key_value_heads": 4, "intermediate_size": 32}}}
    plain, own = read(LLAMA), read(config)
    assert own.layers[0] == plain.layers[0]
    assert own.layers[1].mixer.kv_heads == 4
    assert own.layers[1].mlp.intermediate == 32
    assert "expected a layer from 0 to 1" in refusal({**LLAMA, "per_layer_config": {"2": {}}})
    wrong = refusal({**LLAMA, "per_layer_config": {"1": {"num_key_value_head": 4}}})
    assert "unknown key 'num_key_value_head' of a layer" in wrong


def test_a_published_class_is_found_behind_an_engine_s_own_name() -> None:
    assert read({**LLAMA, "model_type": "llama_ref", "architectures": ["LlamaForCausalLM"]}).layers


LATENT: dict[str, Any] = {
    **LLAMA, "model_type": "glm_moe_dsa", "num_hidden_layers": 5, "q_lora_rank": 24, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 6,
}  # fmt: skip


def test_layers_that_share_an_indexer_have_no_cache_and_no_weights_for_it() -> None:
    types = ["full", "full", "shared", "shared", "full"]
    context = 20
    whole, shared = cached(LATENT, context), cached({**LATENT, "indexer_types": types}, context)
    assert whole == context * 5 * (16 + 4 + 8) * 2
    assert whole - shared == context * 2 * 8 * 2
    indexer = 2 * 8 * 24 + 8 * 64 + 2 * 8 + 2 * 64
    assert parameters(LATENT) - parameters({**LATENT, "indexer_types": types}) == 2 * indexer
    made = graph({**LATENT, "indexer_types": types}, phase="decode", prompt=context)
    assert "layers.1.attention.indexer.topk.out" in made.operator_by_name["layers.3.attention.attend"].inputs
    assert "full one before it" in refusal({**LATENT, "indexer_types": ["shared", *types[1:]]})
    by_rule = {**LATENT, "index_topk_freq": 2, "index_skip_topk_offset": 2}
    assert [layer.mixer.indexer.of for layer in read(by_rule).layers] == [None, None, 1, None, 3]


COMPRESSED: dict[str, Any] = {
    "model_type": "deepseek_v4", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": 100, "head_dim": 16, "q_lora_rank": 24, "o_groups": 2, "o_lora_rank": 12, "sliding_window": 8,
    "moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "index_n_heads": 2,
    "index_head_dim": 8, "index_topk": 3, "hc_mult": 2, "compress_ratios": [0, 4, 128, 0],
    "compress_rates": {"heavily_compressed_attention": 16}, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("rate", [1, 3, 16])
@pytest.mark.parametrize("top_k", [0, 1, 4])
def test_compressed_pairs_against_counting_them(rate: int, top_k: int) -> None:
    for context in range(1, 70):
        for new in {1, context, (context + 1) // 2}:
            seen = [position // rate for position in range(context - new + 1, context + 1)]
            expected = sum(min(pieces, top_k) if top_k else pieces for pieces in seen)
            assert _pairs(Step(1, new, context, 100), rate, top_k) == expected


def test_the_cache_of_compressed_attention() -> None:
    """One key of 16 features in the window, one per piece behind it, and the open pieces."""
    context = 64
    windows = 3 * 8 * 16
    sparse = context // 4 * (16 + 8) + 2 * 4 * (2 * 16 + 2 * 8) + 2 * 4 * (16 + 8)
    heavy = context // 16 * 16 + 2 * 16 * 16
    assert cached(COMPRESSED, context) == 2 * (windows + sparse + heavy)


def test_decode_of_compressed_attention_reads_the_window_and_the_chosen() -> None:
    made = graph(COMPRESSED, phase="decode", prompt=64)
    near = made.operator_by_name["layers.1.attention.near"]
    far = made.operator_by_name["layers.1.attention.far"]
    assert near.flops == 2 * 4 * 8 * 32
    assert far.flops == 2 * 4 * 3 * 32
    assert made.operator_by_name["layers.2.attention.far"].flops == 2 * 4 * 4 * 32
    assert "layers.0.attention.far" not in made.operator_by_name
    for phase in ("prefill", "train"):
        assert graph(COMPRESSED, phase=phase, prompt=100).parameters() == made.parameters()


def test_compressed_attention_refuses_what_it_does_not_know() -> None:
    assert "expected 0, 4, 128" in refusal({**COMPRESSED, "compress_ratios": [0, 5, 128]})
    assert "expected 3, one per layer" in refusal({**COMPRESSED, "compress_ratios": [0, 4]})
    assert "o_groups: found 3; expected a divisor" in refusal({**COMPRESSED, "o_groups": 3})


def test_several_streams_are_read_and_written_around_each_block() -> None:
    made = graph(COMPRESSED, phase="decode", prompt=64, batch=3)
    mix = made.operator_by_name["layers.1.mlp_streams.mix"]
    assert mix.flops == 2 * 3 * (2 + 2) * 2 * (2 * 64)
    assert made.tensors["layers.1.mlp_streams.write.out"].shape == (3, 2 * 64)


def test_a_choice_of_blocks_bounds_what_a_query_reads() -> None:
    config = {
        **LLAMA, "model_type": "minimax_m3_vl_text", "head_dim": 16, "num_local_experts": 4,
        "dense_intermediate_size": 96, "shared_intermediate_size": 8, "num_experts_per_tok": 2, "index_n_heads": 2,
        "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 3,
        "layer_types": ["full_attention", "minimax_m3_sparse"],
    }  # fmt: skip
    made = graph(config, phase="decode", prompt=100)
    full = made.operator_by_name["layers.0.attention.attend"]
    chosen = made.operator_by_name["layers.1.attention.attend"]
    assert full.flops == 2 * 4 * 100 * 32
    assert chosen.flops == 2 * 4 * 12 * 32
    dense = cached({**config, "layer_types": ["full_attention"] * 2}, 100)
    assert cached(config, 100) - dense == 100 * 8 * 2
    old = {key: value for key, value in config.items() if key != "layer_types"}
    old |= {"sparse_attention_config": {"sparse_attention_freq": [0, 1]}}
    assert parameters(old) == parameters(config)


def test_experts_that_pass_a_token_on_do_no_work() -> None:
    config = {
        **LATENT, "model_type": "longcat_flash", "num_layers": 2, "ffn_hidden_size": 32, "moe_topk": 4,
        "expert_ffn_hidden_size": 8, "zero_expert_num": 4,
    }  # fmt: skip
    made = graph(config, phase="prefill", prompt=30)
    assert len(read(config).layers) == 4
    assert made.operator_by_name["layers.0.mlp.experts.down"].work.m == 30 * 4 // 2
    assert made.operator_by_name["layers.0.mlp.router"].work.n == 8


def test_a_null_flag_is_false_and_an_encoder_beside_the_decoder_is_refused() -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    assert "add_cross_attention: found true" in refusal({**gpt2, "add_cross_attention": True})
    assert read({**gpt2, "tie_word_embeddings": None}).tied is False
