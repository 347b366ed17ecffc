"""Config files as users hand them in: what is wrong is said whole, with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from workloads.dtypes import dtype_bits
from workloads.graph import Graph
from workloads.huggingface import IMPORTER
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}


def saved(folder: Path, config: Any) -> Path:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
    return path


def load(folder: Path, config: Any, **options: Any) -> Graph:
    path = saved(folder, config)
    return IMPORTER.load(path, WorkloadOptions(phase="decode", **options)).phases[0].graph


def problems(folder: Path, config: Any, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(folder, config, **options)
    return [str(problem) for problem in caught.value.problems]


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in LLAMA.items() if key not in names}


def test_a_missing_field_is_named_with_what_is_expected(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, without("hidden_size"))
    assert "config.json:1: hidden_size: missing field hidden_size; expected a whole number from 1 to" in line


def test_a_misspelt_field_is_suggested(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, {**without("vocab_size"), "vocab_sise": 1000})
    assert "vocab_size: missing field" in line
    assert "did you mean 'vocab_sise'?" in line


def test_every_problem_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    wrong = {
        **LLAMA,
        "hidden_size": -5,
        "num_hidden_layers": "two",
        "num_key_value_heads": 3,
        "vocab_size": 1e30,
    }
    found = problems(tmp_path, wrong)
    assert [line.split(": ")[1] for line in found] == [
        "hidden_size", "num_hidden_layers", "vocab_size", "num_key_value_heads",
    ]  # fmt: skip
    assert "config.json:3: hidden_size: found -5; expected a whole number from 1" in found[0]
    assert "config.json:5: num_hidden_layers: found 'two'; expected a whole number" in found[1]
    assert "found 3; expected a divisor of num_attention_heads (16)" in found[3]


def test_heads_must_divide_the_width(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, {**LLAMA, "hidden_size": 1000})
    assert "num_attention_heads: found 16; expected a divisor of the model width 1000" in line


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"num_hidden_layers": True}, "found True; expected a whole number"),
        ({"num_hidden_layers": 10**6}, "expected a whole number from 1 to 2000"),
        ({"hidden_size": 10**9}, "hidden_size: found 1000000000"),
        ({"tie_word_embeddings": "yes"}, "found 'yes'; expected true or false"),
        ({"hidden_act": "sillu"}, "did you mean 'silu'?"),
        ({"torch_dtype": "bfloat61"}, "did you mean 'bfloat16'?"),
        ({"torch_dtype": 16}, "torch_dtype: found 16; expected one of"),
        ({"attention_bias": None, "head_dim": 0}, "head_dim: found 0"),
        ({"quantization_config": []}, "quantization_config: found []; expected a mapping"),
        ({"quantization_config": {"quant_method": "gtpq"}}, "did you mean 'gptq'?"),
        ({"quantization_config": {}}, "missing field quant_method"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 9}},
            "found 9; expected a whole number from 2 to 8",
        ),
    ],
)
def test_wrong_values(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    (line,) = problems(tmp_path, {**LLAMA, **change})
    assert part in line


def test_an_unknown_family_lists_the_known_and_the_nearest(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, {**LLAMA, "model_type": "lama"})
    assert "config.json:2: model_type: unknown model_type 'lama'; known: " in line
    assert "deepseek_v3" in line
    assert "zamba2" in line or "youtu" in line, "the list is not cut"
    assert "did you mean 'llama'?" in line
    (line,) = problems(tmp_path, {"model_type": "no_such_family", "d_model": 512})
    assert "unknown model_type 'no_such_family'" in line


def test_a_missing_family_is_said_unless_the_architecture_tells(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, without("model_type"))
    assert "missing field model_type" in line
    graph = load(tmp_path, {**without("model_type"), "architectures": ["LlamaForCausalLM"]})
    assert graph.parameters() == load(tmp_path, LLAMA).parameters()


def test_broken_and_hostile_files(tmp_path: Path) -> None:
    assert (
        "config.json:3: not valid JSON"
        in problems(tmp_path, '{"model_type": "llama",\n"hidden_size": 8,\n')[0]
    )
    (line,) = problems(tmp_path, '{"model_type": "llama",\n"hidden_size": 8,\n"hidden_size": 16}')
    assert "config.json:3: hidden_size: duplicate key 'hidden_size'; the first stands on line 2" in line
    assert "found list; expected an object" in problems(tmp_path, "[1, 2]")[0]
    assert "the file is empty" in problems(tmp_path, "  ")[0]
    nan = json.dumps({**LLAMA, "hidden_size": float("nan"), "initializer_range": float("inf")})
    assert "hidden_size: found nan; expected a whole number" in problems(tmp_path, nan)[0]
    assert "nested too deeply" in problems(tmp_path, '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")[0]
    assert "not valid JSON" in problems(tmp_path, '{"hidden_size": ' + "9" * 10_000 + "}")[0]
    path = saved(tmp_path, '{"a": "' + "x" * 5_000_000 + '"}')
    with pytest.raises(InputError, match="expected at most 4194304 bytes"):
        IMPORTER.load(path, WorkloadOptions())
    path.write_bytes(b'{"model_type": "\xff\xfe"}')
    with pytest.raises(InputError, match="cannot be read"):
        IMPORTER.load(path, WorkloadOptions())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"num_experts_per_tok": 9}, "expected at most the number of experts (8)"),
        ({"num_local_experts": 0}, "num_local_experts: found 0"),
    ],
)
def test_experts_must_add_up(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    (line,) = problems(tmp_path, {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, **change})
    assert part in line


def test_layer_lists_must_fit(tmp_path: Path) -> None:
    config = {**LLAMA, "model_type": "gemma3_text", "layer_types": ["full_attention"] * 3}
    assert "layer_types: found 3 entries; expected 2, one per layer" in problems(tmp_path, config)[0]
    config["layer_types"] = ["full_attention", "slidding_attention"]
    assert "did you mean 'sliding_attention'?" in problems(tmp_path, config)[0]


def test_learned_positions_bound_the_context(tmp_path: Path) -> None:
    config = {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 1,
        "n_head": 4,
        "n_positions": 128,
        "vocab_size": 99,
    }
    (line,) = problems(tmp_path, config, prompt=100, generate=100)
    assert line == "--prompt: found 200 tokens; gpt2 has 128 learned positions"


def test_sizes_beyond_reason_are_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, LLAMA, batch=10**6, prompt=10**6)
    assert line.startswith("--batch: found 1000000 sequences of 1000000 tokens")
    with pytest.raises(InputError, match="--chunk"):
        IMPORTER.load(saved(tmp_path, LLAMA), WorkloadOptions(phase="train", chunk=8))


def test_a_nested_language_model_names_what_is_left_out(tmp_path: Path) -> None:
    nested = {"model_type": "llava", "text_config": LLAMA, "vision_config": {"hidden_size": 8}}
    workload = IMPORTER.load(saved(tmp_path, nested), WorkloadOptions(phase="decode"))
    assert workload.phases[0].graph.parameters() == load(tmp_path, LLAMA).parameters()
    assert workload.metadata["left_out"] == "vision tower"
    wrong = {"model_type": "llava", "text_config": {**LLAMA, "hidden_size": 0}}
    assert "config.json:5: text_config.hidden_size: found 0" in problems(tmp_path, wrong)[0]


def test_any_file_with_the_hub_s_keys_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "my-model.json"
    path.write_text(json.dumps(LLAMA))
    assert load_workload(path, WorkloadOptions(phase="decode")).metadata["family"] == "llama"
    assert IMPORTER.recognises(Path("config.json"), b"{")
    assert not IMPORTER.recognises(Path("graph.json"), b'{"operators": []}')
    assert not IMPORTER.recognises(Path("model.onnx"), b'"model_type"')


def bits(graph: Graph, name: str) -> float:
    tensor = graph.tensors[name]
    elements = 1
    for side in tensor.shape:
        elements *= side
    return tensor.size_bytes * 8 / elements


WEIGHT = "layers.0.mlp.gate_up.weight"


@pytest.mark.parametrize(
    ("scheme", "dtype", "arithmetic", "wanted"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8", 8 + 32 / 128**2),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", "bf16", 4 + 20 / 128 + 32 / 8192),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", "bf16", 4 + 20 / 64),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp4", "bf16", 4.5),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            "fp4", "bf16", 4 + (8 + 32 / 256) / 64,
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", "int8", 8 + 32 / 1024),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "nvfp4", 4.5),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {
                "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}}},
            "int4", "bf16", 4 + 16 / 128,
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {
                "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                "input_activations": {"num_bits": 8}}}},
            "fp8", "fp8", 8 + 16 / 1024,
        ),
    ],
)  # fmt: skip
def test_quantised_checkpoints(
    tmp_path: Path, scheme: dict[str, Any], dtype: str, arithmetic: str, wanted: float
) -> None:
    graph = load(tmp_path, {**LLAMA, "quantization_config": scheme})
    tensor, op = graph.tensors[WEIGHT], graph.operator_by_name["layers.0.mlp.gate_up"]
    assert (tensor.dtype, op.dtype) == (dtype, arithmetic)
    assert bits(graph, WEIGHT) == pytest.approx(wanted, rel=1e-5)
    assert op.work.weight_dtype == (dtype if dtype_bits(dtype) < dtype_bits(arithmetic) else "")
    assert graph.tensors["lm_head.weight"].dtype == "bf16"
    assert graph.tensors["layers.0.mlp_norm.weight"].dtype == "bf16"
    assert graph.parameters() == load(tmp_path, LLAMA).parameters()


@pytest.mark.parametrize(
    "pattern",
    ["self_attn", "model.layers.0.self_attn", "model.layers.*.self_attn", "re:.*self_attn.*"],
)
def test_modules_can_be_left_as_they_are(tmp_path: Path, pattern: str) -> None:
    scheme = {"quant_method": "fp8", "modules_to_not_convert": [pattern, "lm_head"]}
    graph = load(tmp_path, {**LLAMA, "quantization_config": scheme})
    assert graph.tensors["layers.0.attention.qkv.weight"].dtype == "bf16"
    assert graph.tensors[WEIGHT].dtype == "fp8"


def test_mxfp4_holds_the_experts_alone() -> None:
    path = Path(__file__).parents[1] / "reference" / "models" / "openai--gpt-oss-20b.json"
    graph = IMPORTER.load(path, WorkloadOptions(phase="decode")).phases[0].graph
    assert bits(graph, "layers.0.mlp.experts.down.weight") == 4.25
    assert graph.operator_by_name["layers.0.mlp.experts.down"].work.weight_dtype == "mxfp4"
    assert graph.tensors["layers.0.attention.qkv.weight"].dtype == "bf16"


@pytest.mark.parametrize(
    ("asked", "stored", "arithmetic", "activation"),
    [
        ("fp32", "fp32", "fp32", "fp32"),
        ("fp16", "fp16", "fp16", "fp16"),
        ("fp8", "fp8", "fp8", "bf16"),
        ("int8", "int8", "int8", "bf16"),
        ("int4", "int4", "bf16", "bf16"),
    ],
)
def test_a_user_s_element_type(
    tmp_path: Path, asked: str, stored: str, arithmetic: str, activation: str
) -> None:
    graph = load(tmp_path, LLAMA, dtype=asked)
    op = graph.operator_by_name["layers.0.mlp.gate_up"]
    assert (graph.tensors[WEIGHT].dtype, op.dtype) == (stored, arithmetic)
    assert graph.tensors[op.outputs[0]].dtype == activation
    assert graph.tensors["embedding.weight"].dtype == activation


def test_the_cache_has_a_type_of_its_own(tmp_path: Path) -> None:
    wide, narrow = load(tmp_path, LLAMA, prompt=64), load(tmp_path, LLAMA, prompt=64, kv_dtype="fp8")
    assert narrow.tensors["layers.0.attention.k_cache"].size_bytes * 2 == (
        wide.tensors["layers.0.attention.k_cache"].size_bytes
    )
    with pytest.raises(InputError, match="unknown element type 'fp88'"):
        load(tmp_path, LLAMA, kv_dtype="fp88")


def test_a_file_without_an_element_type_says_what_is_assumed(tmp_path: Path) -> None:
    workload = IMPORTER.load(saved(tmp_path, without("torch_dtype")), WorkloadOptions(phase="decode"))
    assert workload.metadata["notes"] == "the file names no element type; fp16 assumed"
