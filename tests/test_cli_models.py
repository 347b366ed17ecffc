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
