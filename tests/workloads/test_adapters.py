"""Low-rank adapters: published counts, work by hand, every way of naming targets, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.importers import load_workload
from workloads.transformer.adapters import read_adapter
from workloads.workload import WorkloadOptions

QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
TINY: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip
SIZES = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64), "gate_proj": (128, 64),
         "up_proj": (128, 64), "down_proj": (64, 128)}  # fmt: skip
"""Outputs and inputs of TINY's products."""


def adapter(folder: Path, name: str = "one", **config: Any) -> str:
    place = folder / name
    place.mkdir(exist_ok=True)
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": QKVO, **config}
    (place / "adapter_config.json").write_text(json.dumps(content))
    return str(place)


def tiny(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**TINY, **changes}))
    return path


def loaded(model: str | Path, *adapters: str, phase: str = "decode", **options: Any) -> Any:
    return load_workload(model, WorkloadOptions(phase=phase, adapters=adapters, **options))


def counted(model: str | Path, *adapters: str) -> int:
    return int(loaded(model, *adapters).metadata["adapter_parameters"])


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        # As PEFT prints for Llama-3-8B at rank 16, as trainable parameters.
        ({"r": 16}, 13_631_488),
        ({"r": 16, "target_modules": "all-linear"}, 41_943_040),
        ({"r": 8, "target_modules": ["q_proj", "v_proj"]}, 3_407_872),
    ],
)
def test_published_counts(tmp_path: Path, config: dict[str, Any], wanted: int) -> None:
    assert counted("llama-3-8b", adapter(tmp_path, **config)) == wanted


def by_hand(names: list[str], rank: int, layers: int = 3) -> int:
    return layers * sum(rank * sum(SIZES[name]) for name in names)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"target_modules": ["down_proj"]}, by_hand(["down_proj"], 4)),
        ({"target_modules": ["self_attn.q_proj"]}, by_hand(["q_proj"], 4)),
        ({"target_modules": ["model.layers.1.mlp.up_proj"]}, by_hand(["up_proj"], 4, 1)),
        ({"target_modules": r".*\.layers\.[01]\.self_attn\.(q|v)_proj"}, by_hand(["q_proj", "v_proj"], 4, 2)),
        ({"layers_to_transform": [0, 2]}, by_hand(QKVO, 4, 2)),
        ({"layers_to_transform": 1}, by_hand(QKVO, 4, 1)),
        ({"exclude_modules": ["k_proj"]}, by_hand(["q_proj", "v_proj", "o_proj"], 4)),
        ({"rank_pattern": {"q_proj": 16}}, by_hand(["k_proj", "v_proj", "o_proj"], 4) + by_hand(["q_proj"], 16)),
        ({"rank_pattern": {r"layers\.0\.self_attn\.(k|v)_proj": 1}},
         by_hand(QKVO, 4) - 3 * sum(sum(SIZES[name]) for name in ("k_proj", "v_proj"))),
        ({"use_dora": True}, by_hand(QKVO, 4) + 3 * sum(SIZES[name][0] for name in QKVO)),
        ({"lora_bias": True}, by_hand(QKVO, 4) + 3 * sum(SIZES[name][0] for name in QKVO)),
        ({"use_rslora": True}, by_hand(QKVO, 4)),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, by_hand(QKVO, 4) + 2 * 100 * 64),
        # One way down for a product that the checkpoint has fused.
        ({"target_modules": ["gate_up_proj"]}, 3 * 4 * (64 + 256)),
    ],
)  # fmt: skip
def test_every_way_of_naming_targets(tmp_path: Path, config: dict[str, Any], wanted: int) -> None:
    assert counted(tiny(tmp_path), adapter(tmp_path, **config)) == wanted


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("fused", [True, False])
def test_the_work_beside_a_product_by_hand(tmp_path: Path, phase: str, fused: bool) -> None:
    """Per target 2 m r (k + n) FLOPs of products and 2 m n of scaling and adding."""
    model, path = tiny(tmp_path), adapter(tmp_path, r=4)
    plain = loaded(model, phase=phase, prompt=10, batch=3, fused=fused).phases[0].graph
    graph = loaded(model, path, phase=phase, prompt=10, batch=3, fused=fused).phases[0].graph
    m = 3 * (10 if phase == "prefill" else 1)
    wanted = 3 * sum(2 * m * 4 * (n + k) + 2 * m * n for n, k in (SIZES[name] for name in QKVO))
    assert graph.flops - plain.flops == wanted
    assert graph.parameters() - plain.parameters() == by_hand(QKVO, 4)


def test_merged_is_the_model_alone(tmp_path: Path) -> None:
    model, path = tiny(tmp_path), adapter(tmp_path)
    merged = loaded(model, path, merge_adapters=True)
    assert merged.phases[0].graph == loaded(model).phases[0].graph
    assert merged.metadata["adapters_are"] == "merged"
    assert merged.metadata["adapter_parameters"] == by_hand(QKVO, 4)


def test_several_adapters(tmp_path: Path) -> None:
    """Alike they are one grouped product, of which a step reads no more than its sequences use."""
    model = tiny(tmp_path)
    folders = [adapter(tmp_path, name, r=4) for name in "abc"] + [adapter(tmp_path, "d", r=2)]
    workload = loaded(model, *folders, batch=2)
    graph = workload.phases[0].graph
    assert graph.parameters() - loaded(model).phases[0].graph.parameters() == 3 * by_hand(QKVO, 4) + by_hand(
        QKVO, 2
    )
    down = graph.operator_by_name["layers.0.attention.out.o_proj.lora0.down"]
    assert (down.work.groups, down.work.active) == (3, 1)
    assert down.reads[1] == 2 * 4 * 64 * 2
    assert str(workload.metadata["adapters"]).count("rank 4") == 3


def test_one_beside_the_config_is_found(tmp_path: Path) -> None:
    model = tiny(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "target_modules": ["q_proj"]}))
    assert loaded(model).metadata["adapter_parameters"] == by_hand(["q_proj"], 4)


def test_experts_and_their_shared_one(tmp_path: Path) -> None:
    moe = {"model_type": "qwen3_moe", "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
           "moe_intermediate_size": 32}  # fmt: skip
    model = tiny(tmp_path, **moe)
    assert counted(model, adapter(tmp_path, target_modules=["down_proj"])) == 3 * 4 * 4 * (32 + 64)
    graph = loaded(model, adapter(tmp_path, target_modules=["down_proj"])).phases[0].graph
    assert graph.operator_by_name["layers.0.mlp.experts.combine"].inputs[0].endswith("adapted.out")


def test_latent_attention_is_merged_or_left_alone(tmp_path: Path) -> None:
    latent = {"model_type": "deepseek_v2", "n_routed_experts": None, "q_lora_rank": None,
              "kv_lora_rank": 32, "qk_nope_head_dim": 16,
              "qk_rope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 0}  # fmt: skip
    model, path = tiny(tmp_path, **latent), adapter(tmp_path, target_modules=["kv_b_proj"])
    with pytest.raises(InputError, match="absorbed into others"):
        loaded(model, path)
    merged = loaded(model, path, merge_adapters=True)
    assert merged.metadata["adapter_parameters"] == 3 * 4 * (32 + 4 * (16 + 16))


def test_quantised_weights_keep_plain_adapters(tmp_path: Path) -> None:
    model = tiny(tmp_path, quantization_config={"load_in_4bit": True})
    graph = loaded(model, adapter(tmp_path)).phases[0].graph
    assert graph.tensors["layers.0.attention.qkv.q_proj.lora0.up.weight"].dtype == "bf16"
    assert graph.tensors["layers.0.attention.qkv.weight"].dtype == "fp4"


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"peft_type": "IA3"}, "found 'IA3'; expected LORA"),
        ({"target_modules": ["no_such"]}, "stands beside no module"),
        ({"target_modules": None}, "missing field target_modules"),
        ({"target_modules": "(a+)+"}, "repeats a repetition"),
        ({"target_modules": ["embed_tokens"]}, "adapter on an embedding's table"),
        (
            {"target_parameters": ["mlp.experts.gate_up_proj"]},
            "an adapter on bare parameters is not modelled",
        ),
        ({"r": 0}, "r: found 0; expected a whole number from 1"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern.q_proj: found -1"),
        ({"layers_to_transform": "all"}, "layers_to_transform: found 'all'"),
        ({"use_dora": "yes"}, "expected true or false"),
    ],
)
def test_what_is_refused(tmp_path: Path, config: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=re.escape(part)):
        loaded(tiny(tmp_path), adapter(tmp_path, **config))


def test_where_adapters_have_no_place(tmp_path: Path) -> None:
    path = adapter(tmp_path)
    with pytest.raises(InputError, match="a training step makes its own adapters"):
        loaded(tiny(tmp_path), path, phase="train")
    with pytest.raises(InputError, match="need a language model"):
        load_workload("resnet-50", WorkloadOptions(adapters=(path,)))
    with pytest.raises(InputError, match="an adapter alone"):
        load_workload(path, WorkloadOptions())


def test_targets_that_nothing_meets_are_told(tmp_path: Path) -> None:
    workload = loaded(tiny(tmp_path), adapter(tmp_path, target_modules=["q_proj", "in_proj_z"]))
    assert workload.metadata["adapter_notes"] == "adapter one: no module for in_proj_z"


def test_the_factor_on_an_adapter(tmp_path: Path) -> None:
    assert read_adapter(adapter(tmp_path, r=16, lora_alpha=32)).scaling == 2
    assert read_adapter(adapter(tmp_path, r=16, lora_alpha=32, use_rslora=True)).scaling == 8


def test_serving_counts_the_same_elements(tmp_path: Path) -> None:
    from simulator.serving.pricing import Adapters, ServedModel
    from workloads.huggingface import read_config

    model = tiny(tmp_path)
    served = ServedModel("tiny", *read_config(model, WorkloadOptions()))
    for targets in (QKVO, [*QKVO, "up_proj", "gate_proj", "down_proj"]):
        ours = Adapters.of(served, read_adapter(adapter(tmp_path, r=8, target_modules=targets)))
        assert ours == Adapters.on(served, 8, targets)


def test_the_commands_take_adapters(cli: Any, tmp_path: Path) -> None:
    model, one = tiny(tmp_path), adapter(tmp_path)
    facts = json.loads(cli("models", "show", model, "--adapter", one, "--json").out)
    assert facts["adapter_parameters"] == by_hand(QKVO, 4)
    assert facts["parameters"] == loaded(model).phases[0].graph.parameters()
    for extra in ((), ("--merge-adapters",), ("--adapter", one)):
        outcome = cli("simulate", model, "--hw", "h100-sxm", "--phase", "decode", "--adapter", one, *extra)
        assert outcome.code == 0, outcome.err
    outcome = cli("simulate", model, "--hw", "dgx-a100", "--tp", 2, "--phase", "decode", "--adapter", one)
    assert outcome.code == 0, outcome.err


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([
    "peft_type", "r", "lora_alpha", "target_modules", "rank_pattern", "modules_to_save", "layers_to_transform",
    "exclude_modules", "use_dora", "lora_bias",
]), st.recursive(st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.sampled_from(
    ["q_proj", "all-linear", "LORA", "re:(", ".*", "((", "embed_tokens", ""]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["q_proj", "(", ".*"]), inner, max_size=2),
    max_leaves=5)))  # fmt: skip
def test_no_adapter_makes_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "fuzzed.json"
    path.write_text(json.dumps(config))
    try:
        loaded(tiny(folder), str(path))
    except InputError:
        return
