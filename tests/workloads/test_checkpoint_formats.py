"""Formats by module: bytes of published checkpoints, every way of saying it, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.dtypes import dtype_bits
from workloads.graph import Graph
from workloads.huggingface import IMPORTER
from workloads.importers import load_workload
from workloads.transformer.module_names import kind_of, module_set
from workloads.workload import WorkloadOptions

SAMPLES = Path(__file__).parents[1] / "reference" / "models" / "formats"

QWEN: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 1000, "torch_dtype": "float16",
    "tie_word_embeddings": False,
}  # fmt: skip
MOE: dict[str, Any] = {
    "model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1000, "torch_dtype": "bfloat16", "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 512, "intermediate_size": 512, "tie_word_embeddings": False,
}  # fmt: skip


def loaded(folder: Path, config: dict[str, Any], side: dict[str, Any] | None = None, **options: Any) -> Any:
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    if side is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(side))
    return load_workload(folder, WorkloadOptions(phase="decode", **options))


def graph_of(folder: Path, config: dict[str, Any], scheme: dict[str, Any], **options: Any) -> Graph:
    graph: Graph = loaded(folder, {**config, "quantization_config": scheme}, **options).phases[0].graph
    return graph


def types(graph: Graph, layer: int = 0) -> dict[str, str]:
    """Element types of a layer's weights and of the two tables, by short name."""
    start = f"layers.{layer}."
    return {
        name.removeprefix(start).removesuffix(".weight"): tensor.dtype
        for name, tensor in graph.tensors.items()
        if tensor.is_weight and name.endswith(".weight")
        and (name.startswith(start) or not name.startswith("layers."))
    }  # fmt: skip


@pytest.mark.parametrize(
    "row", list(csv.DictReader((SAMPLES / "weights.csv").open())), ids=lambda row: row["name"]
)
def test_bytes_of_published_checkpoints(row: dict[str, str]) -> None:
    """By the table's rule: types without scales of their own count without scales."""
    graph = load_workload(SAMPLES / row["name"], WorkloadOptions(phase="decode")).phases[0].graph
    weights = [tensor for tensor in graph.tensors.values() if tensor.is_weight]
    plain = sum(prod(tensor.shape) * dtype_bits(tensor.dtype) / 8 for tensor in weights)
    assert plain / 1e9 == pytest.approx(float(row["weight_gb"]), rel=0.001)
    assert sum(tensor.size_bytes for tensor in weights) >= int(plain)


def test_the_side_file_and_the_cache(tmp_path: Path) -> None:
    side = {
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    }
    workload = loaded(tmp_path, QWEN, side)
    assert types(workload.phases[0].graph)["mlp.down"] == "fp8"
    assert workload.metadata["kv_dtype"] == "fp8"
    assert loaded(tmp_path, QWEN, side, kv_dtype="fp16").metadata["kv_dtype"] == "fp16"


def test_groups_by_target(tmp_path: Path) -> None:
    scheme = {
        "quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*layers\\.1\\.mlp.*"],
        "kv_cache_scheme": {"num_bits": 8, "type": "int"},
        "config_groups": {
            "a": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}, "targets": ["re:.*self_attn.*"]},
            "b": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64},
                  "targets": ["Linear"]},
        },
    }  # fmt: skip
    workload = loaded(tmp_path, {**QWEN, "quantization_config": scheme})
    first, second = (types(workload.phases[0].graph, layer) for layer in (0, 1))
    assert (first["attention.qkv"], first["attention.out"], first["mlp.gate_up"]) == ("int8", "int8", "int4")
    assert (second["attention.qkv"], second["mlp.gate_up"], second["lm_head"]) == ("int8", "fp16", "fp16")
    assert workload.metadata["kv_dtype"] == "int8"


def test_a_fused_product_of_two_formats_is_two_products(tmp_path: Path) -> None:
    scheme = {"quant_method": "fp8", "modules_to_not_convert": ["self_attn.k_proj", "self_attn.v_proj"]}
    graph = graph_of(tmp_path, QWEN, scheme)
    ops = graph.operator_by_name
    parts = [ops[f"layers.0.attention.qkv.{name}"] for name in ("q_proj", "k_proj")]
    assert [op.dtype for op in parts] == ["fp8", "fp16"]
    assert [graph.tensors[op.outputs[0]].shape[1] for op in parts] == [1024, 512]
    whole = graph_of(tmp_path, QWEN, {"quant_method": "fp8"})
    assert graph.parameters() == whole.parameters()
    # The quantisation of inputs is shared, so products alone compare.
    assert sum(op.flops for op in parts) == whole.operator_by_name["layers.0.attention.qkv"].flops


MODELOPT = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
    "model.language_model.layers.0.mlp.experts.0.gate_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
    "model.language_model.layers.0.mlp.experts.0.up_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
    "model.language_model.layers.0.self_attn.o_proj": {"quant_algo": "FP8"},
    "lm_head": {"quant_algo": "NVFP4"},
}}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "scheme", "wanted"),
    [
        (MOE, MODELOPT, {"mlp.experts.gate_up": "nvfp4", "mlp.experts.down": "bf16", "attention.out": "fp8",
                         "lm_head": "nvfp4", "attention.qkv": "bf16", "mlp.router": "bf16"}),
        (MOE, {"bits": 4, "group_size": 64, "model.layers.0.mlp.gate": {"bits": 8, "group_size": 64},
               "lm_head": False},
         {"embedding": "int4", "mlp.router": "int8", "lm_head": "bf16", "mlp.experts.down": "int4"}),
        (MOE, {"quant_method": "mxfp4"}, {"mlp.experts.down": "mxfp4", "attention.out": "bf16"}),
        (MOE, {"quant_method": "fp8", "quant_algo": "MIXED_PRECISION", "moe_quant_algo": "NVFP4",
               "quantized_layers": {"layers.0.ffn.experts": {"quant_algo": "NVFP4"}}, "ignore": ["*.attn.*"]},
         {"mlp.experts.down": "nvfp4", "attention.out": "fp8"}),
        (QWEN, {"quant_method": "gptq", "bits": 3, "dynamic": {"-:.*attn.*": {}, "+:.*down_proj.*": {"bits": 8}},
                "lm_head": True},
         {"attention.out": "fp16", "mlp.gate_up": "int3", "mlp.down": "int8", "lm_head": "int3"}),
        (QWEN, {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["mlp.down_proj"]]},
         {"mlp.down": "int4", "mlp.gate_up": "fp16"}),
        (QWEN, {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["layers.0.mlp"]},
         {"mlp.down": "fp16", "attention.out": "int4"}),
        (QWEN, {"quant_method": "auto-round", "bits": 2, "group_size": 32, "sym": True,
                "extra_config": {"model.layers.0.mlp.down_proj": {"bits": 16}, ".*o_proj": {"bits": 8}}},
         {"mlp.down": "fp16", "attention.out": "int8", "mlp.gate_up": "int2"}),
        (QWEN, {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3, "group_size": 64}}},
         {"mlp.down": "int3"}),
        (QWEN, {"quant_method": "hqq", "quant_config": {"mlp.down_proj": {"weight_quant_params": {"nbits": 2}}}},
         {"mlp.down": "int2", "attention.out": "fp16"}),
        (QWEN, {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}, {"mlp.down": "int2"}),
        (QWEN, {"quant_method": "torchao", "quant_type": {"default": {
            "_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}}}, {"mlp.down": "int4"}),
        (QWEN, {"quant_method": "torchao", "quant_type": "int8_weight_only", "include_input_output_embeddings": True},
         {"mlp.down": "int8", "embedding": "int8", "lm_head": "int8"}),
        (QWEN, {"quant_method": "torchao", "quant_type": {"default": {"_type": "ModuleFqnToConfig", "_data": {
            "module_fqn_to_config": {"_default": {"_type": "Int8WeightOnlyConfig", "_data": {}},
                                     "layers.0.mlp.down_proj": {"_type": "Int4WeightOnlyConfig", "_data": {}}}}}}},
         {"mlp.down": "int4", "attention.out": "int8"}),
        (QWEN, {"quant_method": "quark", "global_quant_config": {
            "weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}},
            "layer_quant_config": {"*.self_attn.*": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_channel"}}},
            "exclude": ["lm_head"]}, {"mlp.down": "mxfp4", "attention.out": "fp8"}),
        (QWEN, {"quant_method": "quanto", "weights": "int4"}, {"mlp.down": "int4"}),
        (QWEN, {"load_in_4bit": True}, {"mlp.down": "fp4"}),
        (QWEN, {"producer": {"name": "modelopt"}, "quant_algo": "W4A8_AWQ"}, {"mlp.down": "int4"}),
    ],
)  # fmt: skip
def test_every_way_of_saying_it(
    tmp_path: Path, config: dict[str, Any], scheme: dict[str, Any], wanted: dict[str, str]
) -> None:
    found = types(graph_of(tmp_path, config, scheme))
    assert {name: found[name] for name in wanted} == wanted


def test_mlx_under_its_own_key(tmp_path: Path) -> None:
    graph = loaded(tmp_path, {**QWEN, "quantization": {"group_size": 64, "bits": 4}}).phases[0].graph
    table = graph.tensors["embedding.weight"]
    assert table.size_bytes == 1000 * 1024 // 2 + 1000 * 1024 // 64 * 4
    # A row of the table moves with its scales.
    assert graph.operator_by_name["embedding"].reads[1] == pytest.approx(table.size_bytes / 1000, abs=4)


@pytest.mark.parametrize(
    ("scheme", "part"),
    [
        ({"quant_method": "aqlm"}, "unknown quant_method 'aqlm'; known: fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP3"}, "unknown quant_algo 'FP3'; known: FP8"),
        ({"quant_method": "compressed-tensors", "config_groups": {
            "a": {"weights": {"num_bits": 8}, "targets": ["Lineal"]}}}, "unknown class of modules 'Lineal'"),
        ({"quant_method": "compressed-tensors", "config_groups": {
            "a": {"weights": {"num_bits": 8}, "targets": ["re:(a+)+b"]}}}, "repeats a repetition"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["re:["]}, "is not a regular expression"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}, "config_groups": {
            "a": {"weights": {"num_bits": 8}, "targets": ["Linear"]}}}, "expected dense"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 3, "type": "float"},
          "config_groups": {"a": {"weights": {"num_bits": 8}}}}, "expected 4, 8 or 16 for a cache"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
            "layers.0.mlp.experts.0.up_proj": {"quant_algo": "FP8"},
            "layers.0.mlp.experts.1.up_proj": {"quant_algo": "NVFP4"}}}, "have different formats"),
        ({"quant_method": "torchao", "quant_type": "int9_weight_only"}, "unknown torchao configuration"),
        ({"bits": 7, "group_size": 64}, "found 7; expected one of 2, 3"),
        ({"quant_method": "bitnet", "quantization_mode": "sometimes"}, "expected one of offline, online"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(tmp_path: Path, scheme: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=re.escape(part)):
        graph_of(tmp_path, QWEN, scheme)


def test_unknown_keys_are_noted(tmp_path: Path) -> None:
    workload = loaded(
        tmp_path, {**QWEN, "quantization_config": {"quant_method": "fp8", "kernel_mood": "blue"}}
    )
    assert "kernel_mood" in str(workload.metadata["notes"])


def test_experts_of_two_formats_in_one_product(tmp_path: Path) -> None:
    scheme = {"quant_method": "fp8", "modules_to_not_convert": ["re:.*experts\\.\\d+\\.up_proj$"]}
    with pytest.raises(InputError, match="different formats in one product of experts"):
        graph_of(tmp_path, MOE, scheme)


def test_a_router_s_pattern_is_not_a_dense_part_s() -> None:
    for pattern in ("*block_sparse_moe.gate*", "*mlp.gate.*", "*router*", "re:.*mlp\\.gate$"):
        assert "model.layers.0.mlp.gate_proj" not in module_set([pattern]), pattern
        assert "model.layers.0.mlp.experts.gate_proj" not in module_set([pattern]), pattern
    assert "model.layers.0.mlp.gate" in module_set(["*block_sparse_moe.gate*"])
    assert "model.layers.0.linear_attn.out_proj" not in module_set(["re:.*self_attn.*"])


MODULES = st.builds(
    lambda layer, leaf: f"model.layers.{layer}.{leaf}", st.integers(0, 40),
    st.sampled_from(["self_attn.q_proj", "mlp.down_proj", "mlp.experts.up_proj", "mlp.gate", "linear_attn.out_proj"]),
)  # fmt: skip


@settings(deadline=None)
@given(
    MODULES,
    MODULES,
    st.sampled_from(["model.", "model.language_model.", "language_model.model.", "backbone.", ""]),
)
def test_names_against_plain_comparison(one: str, other: str, prefix: str) -> None:
    """A whole name under any prefix means that module; its start with a star means what begins so."""
    tail = other.removeprefix("model.")
    assert (one in module_set([prefix + tail])) == (one == other)
    block = prefix + tail.rpartition(".")[0]
    begins = one.removeprefix("model.").startswith(tail.rpartition(".")[0])
    assert (one in module_set([block + "*"])) == begins
    assert (one in module_set(["re:" + re.escape(prefix + tail)])) == (one == other)
    assert kind_of(one) == kind_of(one.replace("model.", prefix))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([
    "quant_method", "bits", "group_size", "config_groups", "ignore", "quant_algo", "quantized_layers", "quant_type",
    "dynamic", "extra_config", "global_quant_config", "quant_config", "kv_cache_scheme", "modules_to_not_convert",
    "weight_block_size", "producer", "load_in_4bit", "modules_in_block_to_quantize",
]), st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.sampled_from(
        ["gptq", "awq", "modelopt", "mlx", "torchao", "quark", "hqq", "auto-round", "compressed-tensors", "fp8", "re:(",
         "FP8", "NVFP4", "MIXED_PRECISION", "*", "Linear", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["weights", "targets", "num_bits", "type", "default", "_type", "_data", "nbits", "weight"]),
        inner, max_size=3),
    max_leaves=8,
)))  # fmt: skip
def test_no_section_makes_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, scheme: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps({**QWEN, "quantization_config": scheme}))
    try:
        IMPORTER.load(path, WorkloadOptions(phase="decode"))
    except InputError:
        return
