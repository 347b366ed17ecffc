"""``offchip models`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data" / "onnx"


def test_the_list_names_every_kind_of_model_with_its_parameters(cli):
    outcome = cli("models", "list", "--json")
    rows = {row["name"]: row for row in json.loads(outcome.out)["models"]}
    assert rows["resnet-50"]["parameters"] == 25_557_032
    assert rows["bert-base-uncased"]["modality"] == "encoder"
    assert rows["llama-3-8b"]["modality"] == "language"
    assert all(row["parameters"] > 0 and row["source"] for row in rows.values())
    plain = cli("models", "list")
    assert plain.code == 0
    assert "25,557,032" in plain.out


def test_a_vision_model_is_shown_by_kind_and_by_role(cli):
    facts = json.loads(cli("models", "show", "resnet-50", "--batch", 2, "--json").out)
    (phase,) = facts["phases"]
    assert facts["parameters"] == 25_557_032
    assert phase["bytes_by_role"]["weight"] == 2 * 25_557_032
    kinds = {row["kind"]: row for row in phase["by_kind"]}
    assert (kinds["conv"]["operators"], kinds["conv"]["flops"]) == (53, 2 * 2 * (4_089_184_256 - 2_048_000))
    assert sum(row["flops"] for row in phase["by_kind"]) == phase["flops"]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_kv_cache_of_a_token_is_that_of_the_grouped_heads(cli, phase, batch):
    outcome = cli("models", "show", "llama-3-8b", "--phase", phase, "--batch", batch, "--json")
    assert json.loads(outcome.out)["kv_bytes_per_token"] == 32 * 2 * 8 * 128 * 2


def test_a_file_is_shown_like_a_builtin_model(cli):
    pytest.importorskip("onnx", reason="needs the extra offchip[onnx]")
    path = DATA / "encoder-dynamo.onnx"
    outcome = cli("models", "show", path, "--dim", "sequence=32", "--batch", 2)
    assert outcome.code == 0
    assert "195,944" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("resnet-51",), "unknown model 'resnet-51'"),
        (("resnet-50", "--dim", "height"), "--dim: found 'height'; expected name=value, as in batch=1"),
        (("resnet-50", "--batch", "0"), "--batch: found 0; expected 1 or more"),
        (("none.onnx",), "none.onnx: no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(cli, arguments, expected):
    outcome = cli("models", "show", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(expected)
    assert outcome.err.count("\n") == 1


HYBRID = {
    "model_type": "qwen3_next", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 1024, "vocab_size": 1000, "num_experts": 8,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128,
    "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4, "full_attention_interval": 4, "torch_dtype": "bfloat16", "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
}  # fmt: skip


@pytest.mark.parametrize("prompt", [1, 512, 5000])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_hybrid_has_a_cache_per_token_and_a_state_per_sequence(cli, tmp_path, prompt, phase):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HYBRID))
    facts = json.loads(cli("models", "show", path, "--prompt", prompt, "--phase", phase, "--json").out)
    assert facts["kv_bytes_per_token"] == 2 * 2 * 64 * 2
    channels = 2 * 4 * 32 + 8 * 32
    assert facts["state_bytes_per_sequence"] == 3 * (8 * 32 * 32 * 4 + channels * 3 * 2)
    assert facts["window_bytes_per_sequence"] == 0
    idle = 4 * 6 * 3 * 512 * 128
    assert facts["active_parameters_per_token"] == facts["parameters"] - idle
    assert "multi-token prediction layers" in facts["left_out"]


@pytest.mark.parametrize("prompt", [100, 4096, 100_000])
def test_windows_hold_no_more_than_they_see(cli, prompt):
    facts = json.loads(
        cli("models", "show", "gpt-oss-20b", "--prompt", prompt, "--phase", "decode", "--json").out
    )
    row = 2 * 8 * 64 * 2
    assert facts["kv_bytes_per_token"] == 12 * row
    assert (facts["window_bytes_per_sequence"], facts["window_context"]) == (
        12 * row * min(prompt, 128),
        prompt,
    )
    shown = cli("models", "show", "gpt-oss-20b", "--prompt", prompt, "--phase", "decode").out
    assert "window layers per sequence" in shown
    assert "mxfp4 weights, bf16 activations, bf16 cache" in shown
