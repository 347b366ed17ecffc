"""Parameter counts: config files and built-in models against published checkpoints, to the last weight."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from workloads import models
from workloads.graph import Role
from workloads.huggingface import IMPORTER
from workloads.transformer import read_decoder
from workloads.transformer.fields import Fields
from workloads.transformer.phases import count_parameters
from workloads.workload import WorkloadOptions

FOLDER = Path(__file__).parents[1] / "reference" / "models"

FILES = {
    "Qwen--Qwen3-0.6B": "qwen3-0.6b",
    "Qwen--Qwen3-8B": "qwen3-8b",
    "Qwen--Qwen3-30B-A3B": "qwen3-30b-a3b",
    "deepseek-ai--DeepSeek-V3": "deepseek-v3",
    "meta-llama--Meta-Llama-3.1-8B": "llama-3.1-8b",
    "meta-llama--Meta-Llama-3.1-70B": "llama-3.1-70b",
    "mistralai--Mixtral-8x7B-v0.1": "mixtral-8x7b-v0.1",
}

BUILT_IN = {"mistral-7b-v0.1": "mistral-7b", "mixtral-8x7b-v0.1": "mixtral-8x7b"}

PUBLISHED = {
    "bloom-176b": 176_247_271_424,
    "deepseek-v2-lite": 15_706_484_224,
    "falcon-7b": 6_921_720_704,
    "gemma-2-9b": 9_241_705_984,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "mixtral-8x22b": 140_620_634_112,
    "opt-350m": 331_196_416,
    "qwen2-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-32b": 32_762_123_264,
    "qwen3.5-397b-a17b": 396_346_350_336,
    "minimax-m2.5": 228_689_748_992,
    "qwen3-235b-a22b": 235_093_634_560,
}
"""Totals that the hub states for checkpoints beyond parameters.csv."""


def reference() -> dict[str, int]:
    with (FOLDER / "parameters.csv").open() as file:
        return {row["model"]: int(row["parameters"]) for row in csv.DictReader(file)}


def families() -> dict[str, dict[str, object]]:
    return json.loads((FOLDER / "families.json").read_text())


@pytest.mark.parametrize("stem", sorted(FILES))
def test_config_files_have_the_published_count(stem: str) -> None:
    workload = IMPORTER.load(FOLDER / f"{stem}.json", WorkloadOptions(phase="decode"))
    assert workload.phases[0].graph.parameters() == reference()[FILES[stem]]


@pytest.mark.parametrize("name", sorted(set(reference()) & set(models._configs()) | set(BUILT_IN)))
def test_built_in_language_models_have_the_reference_count(name: str) -> None:
    assert models.describe(BUILT_IN.get(name, name)).parameters == reference()[name]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_built_in_language_models_have_the_published_count(name: str) -> None:
    assert models.describe(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(families()))
def test_every_family_has_the_count_of_a_published_checkpoint(name: str) -> None:
    entry = families()[name]
    fields = Fields({**entry["config"], "torch_dtype": "bfloat16"})
    assert count_parameters(*read_decoder(fields, None, None)) == entry["parameters"]


@pytest.mark.parametrize("name", sorted(models._configs()))
def test_every_form_of_a_model_holds_the_same_weights(name: str) -> None:
    """Fused or not, prefill or decode: the weights are counted in different tensors but never change."""
    wanted = models.describe(name).parameters
    for options in (
        WorkloadOptions(phase="prefill", prompt=64),
        WorkloadOptions(phase="prefill", prompt=64, fused=False),
        WorkloadOptions(phase="decode", prompt=64, fused=False),
    ):
        assert models.build(name, options).phases[0].graph.parameters() == wanted


def test_tied_embeddings_are_stored_once() -> None:
    graph = models.build("gpt2", WorkloadOptions(phase="decode")).phases[0].graph
    head = graph.operator_by_name["lm_head"]
    assert "embedding.weight" in head.inputs
    assert not [t for t in graph.tensors.values() if t.name == "lm_head.weight" and t.role is Role.WEIGHT]
