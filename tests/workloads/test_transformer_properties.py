"""Properties of random decoders of every kind of layer: valid graphs, real traffic, monotone in context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.graph import Graph, Role, check_graph
from workloads.transformer import decoder_workload, read_decoder
from workloads.transformer.feed_forward import expected_experts
from workloads.transformer.fields import Fields
from workloads.workload import Workload, WorkloadOptions

FOLDER = Path(__file__).parents[1] / "reference" / "models"
PUBLISHED = [entry["config"] for entry in json.loads((FOLDER / "families.json").read_text()).values()]
FILES = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*--*.json"))]

TP = {"column", "row", "head", "split", "vocab", "sum", "replicated"}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A valid config of one of the families that between them have every kind of layer."""
    family = draw(
        st.sampled_from(
            ["llama", "mistral", "qwen3", "olmo2", "gemma3_text", "mixtral", "qwen2_moe", "glm4_moe",
             "cohere2",
             "gpt_oss", "llama4_text", "gemma4_text", "deepseek_v2", "deepseek_v3", "glm_moe_dsa",
             "hy_v4", "deepseek_v4", "minimax_m3_vl_text", "gemma3n_text", "afmoe", "bitnet",
             "opt", "falcon", "qwen3_next", "qwen3_5_text", "nemotron_h"]
        )
    )  # fmt: skip
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 4))
    head_dim = 2 * draw(st.integers(1, 16))
    layers = draw(st.integers(1, 5))
    experts = draw(st.integers(1, 9))
    config: dict[str, Any] = {
        "model_type": family,
        "hidden_size": heads * head_dim,
        "intermediate_size": draw(st.integers(1, 64)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": draw(st.integers(1, 500)),
        "tie_word_embeddings": draw(st.booleans()),
        "torch_dtype": draw(st.sampled_from(["bfloat16", "float16", "float32"])),
        "sliding_window": draw(st.integers(1, 40)),
        "num_experts_per_tok": draw(st.integers(1, experts)),
    }
    if family == "falcon":
        config |= {"new_decoder_architecture": draw(st.booleans()), "num_kv_heads": kv_heads}
    if family == "opt":
        config |= {"ffn_dim": 32, "do_layer_norm_before": draw(st.booleans())}
    if family in ("mixtral", "gpt_oss", "llama4_text"):
        config |= {"num_local_experts": experts, "attention_chunk_size": draw(st.integers(1, 40))}
    if family == "qwen2_moe":
        config |= {
            "num_experts": experts,
            "moe_intermediate_size": 8,
            "decoder_sparse_step": draw(st.integers(1, 2)),
        }
    if family == "deepseek_v4":
        config |= {
            "head_dim": head_dim, "q_lora_rank": 12, "o_groups": heads, "o_lora_rank": 3, "hc_mult": 2,
            "moe_intermediate_size": 8, "n_routed_experts": experts, "index_n_heads": 2, "index_head_dim": 8,
            "index_topk": draw(st.integers(1, 9)), "compress_rate_hca": draw(st.integers(1, 20)),
            "num_key_value_heads": 1,
        }  # fmt: skip
    if family == "minimax_m3_vl_text":
        config |= {
            "num_local_experts": experts, "head_dim": head_dim, "dense_intermediate_size": 16,
            "shared_intermediate_size": draw(st.integers(0, 9)), "index_n_heads": 2, "index_head_dim": 8,
            "index_block_size": draw(st.integers(1, 9)), "index_topk_blocks": draw(st.integers(1, 4)),
            "layer_types": draw(
                st.lists(st.sampled_from(["full_attention", "minimax_m3_sparse"]), min_size=layers,
                         max_size=layers)
            ),
        }  # fmt: skip
    if family == "gemma3n_text":
        config |= {
            "head_dim": head_dim, "altup_num_inputs": draw(st.integers(2, 4)), "laurel_rank": 3,
            "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 50, "num_kv_shared_layers": 0,
        }  # fmt: skip
    if family == "afmoe":
        config |= {"num_experts": experts, "moe_intermediate_size": 8, "head_dim": head_dim}
    if family in ("qwen3_next", "qwen3_5_text"):
        config |= {
            "num_experts": experts, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6,
            "linear_value_head_dim": 8, "full_attention_interval": draw(st.integers(1, 4)),
            "head_dim": head_dim,
        }  # fmt: skip
    if family == "nemotron_h":
        config |= {
            "hybrid_override_pattern": "".join(draw(st.sampled_from("M*-E")) for _ in range(layers)),
            "n_routed_experts": experts, "moe_intermediate_size": 8, "moe_shared_expert_intermediate_size": 8,
            "mamba_num_heads": 4, "mamba_head_dim": 6, "ssm_state_size": 8, "n_groups": 2,
            "moe_latent_size": draw(st.sampled_from([None, 6])),
        }  # fmt: skip
    if family == "gemma4_text":
        config |= {
            "attention_k_eq_v": draw(st.booleans()), "num_global_key_value_heads": 1,
            "enable_moe_block": draw(st.booleans()), "num_experts": experts,
            "top_k_experts": config["num_experts_per_tok"], "moe_intermediate_size": 8,
            "hidden_size_per_layer_input": draw(st.sampled_from([0, 4])), "vocab_size_per_layer_input": 50,
            "num_kv_shared_layers": 2 if layers == 5 else 0,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention",
                            "full_attention"][:layers],
        }  # fmt: skip
    if family in ("deepseek_v2", "deepseek_v3", "glm_moe_dsa", "glm4_moe"):
        config |= {
            "n_routed_experts": experts, "n_shared_experts": draw(st.integers(0, 2)),
            "moe_intermediate_size": 8,
            "first_k_dense_replace": draw(st.integers(0, layers)), "kv_lora_rank": 16, "qk_nope_head_dim": 8,
            "n_group": 1, "topk_group": 1,
            "qk_rope_head_dim": 4, "v_head_dim": 6, "q_lora_rank": draw(st.sampled_from([None, 12])),
            "index_n_heads": 2, "index_head_dim": 8, "index_topk": draw(st.integers(1, 50)),
        }  # fmt: skip
        if family != "glm_moe_dsa":
            config.pop("index_topk")
    return config


def workload(config: dict[str, Any], **options: Any) -> Workload:
    asked = WorkloadOptions(**options)
    decoder, precision = read_decoder(Fields(config), asked.dtype, asked.kv_dtype)
    return decoder_workload("random", decoder, precision, asked)


def traffic(graph: Graph) -> int:
    return sum(op.read_bytes + op.write_bytes for op in graph.operators)


@given(
    configs(),
    st.integers(1, 60),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([None, "fp8", "int4", "fp32"]),
)
@settings(max_examples=120, deadline=None)
def test_graphs_are_valid_and_move_no_more_than_there_is(
    config: dict[str, Any], prompt: int, batch: int, fused: bool, dtype: str | None
) -> None:
    for phase in ("prefill", "decode", "train"):
        if phase == "train" and dtype is not None:
            continue
        run = workload(config, phase=phase, prompt=prompt, batch=batch, fused=fused, dtype=dtype)
        graph = check_graph(run.phases[0].graph)
        for op in graph.operators:
            assert op.place.axis in TP
            assert isinstance(op.place.layer, int)
            assert op.read_bytes > 0
            sizes = {name: graph.tensors[name].size_bytes for name in (*op.inputs, *op.outputs, *op.updates)}
            assert op.read_bytes <= sum(sizes[name] for name in {*op.inputs, *op.updates})
            assert op.write_bytes <= sum(sizes[name] for name in (*op.outputs, *op.updates))
        used = {name for op in graph.operators for name in (*op.inputs, *op.outputs, *op.updates)}
        assert used == set(graph.tensors)


@given(configs(), st.integers(1, 40), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_a_longer_context_never_costs_less(config: dict[str, Any], prompt: int, more: int) -> None:
    graphs = [
        workload(config, phase="decode", prompt=length).phases[0].graph for length in (prompt, prompt + more)
    ]
    chunked = config["model_type"] == "llama4_text"  # the first token of a chunk sees itself alone
    if not chunked:
        assert graphs[0].flops <= graphs[1].flops
        assert traffic(graphs[0]) <= traffic(graphs[1])
    caches = [graph.bytes_by_role()[Role.KV_CACHE] for graph in graphs]
    assert caches[0] <= caches[1]


@given(configs(), st.integers(2, 40), st.integers(1, 39))
@settings(max_examples=40, deadline=None)
def test_chunked_prefill_does_the_same_attention(config: dict[str, Any], prompt: int, chunk: int) -> None:
    if config["model_type"] in ("glm_moe_dsa",):
        return
    whole = workload(config, phase="prefill", prompt=prompt)
    parts = workload(config, phase="prefill", prompt=prompt, chunk=chunk)
    attention = [
        sum(
            op.flops
            for phase in run.phases
            for op in phase.graph.operators
            # Each chunk rounds the compressed keys that its tokens see on average up to whole ones.
            if op.kind == "attention" and not op.name.endswith("attention.far")
        )
        for run in (whole, parts)
    ]
    assert attention[0] == attention[1]
    for phase in parts.phases:
        check_graph(phase.graph)


@given(configs(), st.integers(1, 30), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_weights_do_not_depend_on_the_phase(config: dict[str, Any], prompt: int, batch: int) -> None:
    counts = {
        workload(config, phase=phase, prompt=prompt, batch=batch, fused=fused).phases[0].graph.parameters()
        for phase in ("prefill", "decode", "train")
        for fused in (True, False)
    }
    assert len(counts) == 1


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 200))
def test_expected_experts_against_their_bounds(count: int, active: int, tokens: int) -> None:
    active = min(active, count)
    touched = expected_experts(count, active, tokens)
    assert active - 1e-9 <= touched <= min(count, active * tokens) + 1e-9
    assert touched <= expected_experts(count, active, tokens + 1) + 1e-9


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-2, 40), st.floats(allow_nan=False),
    st.text(max_size=5), st.lists(st.one_of(st.integers(-3, 3), st.text(max_size=3), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_spoilt_config_is_read_or_refused_in_words(data: st.DataObject) -> None:
    """Whatever stands in a field, the answer is a model or an InputError, never another exception."""
    config = dict(data.draw(st.sampled_from(PUBLISHED + FILES)))
    inner = config.get("text_config")
    target = dict(inner) if isinstance(inner, dict) else config
    for key in data.draw(st.lists(st.sampled_from(sorted(target)), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            target.pop(key, None)
        else:
            target[key] = data.draw(JUNK)
    if target is not config:
        config["text_config"] = target
    try:
        decoder, precision = read_decoder(Fields(config), None, None)
    except InputError:
        return
    if len(decoder.layers) < 150:
        options = WorkloadOptions(phase="decode", prompt=8)
        check_graph(decoder_workload("spoilt", decoder, precision, options).phases[0].graph)


def test_every_field_of_every_family_with_junk_in_it() -> None:
    """One field at a time, through every published config: a model or an InputError, never anything else."""
    junk = [
        None,
        True,
        False,
        0,
        -1,
        1,
        7,
        2**80,
        1.5,
        1e308,
        "",
        "x",
        [],
        [1],
        ["x"],
        [None],
        [[1]],
        {},
        {"a": 1},
    ]
    refused = 0
    for config in PUBLISHED + FILES:
        inner = config.get("text_config")
        for key in inner if isinstance(inner, dict) else config:
            for value in junk:
                spoilt = (
                    {**config, key: value}
                    if inner is None
                    else {**config, "text_config": {**inner, key: value}}
                )
                try:
                    read_decoder(Fields(spoilt), None, None)
                except InputError:
                    refused += 1
    assert refused > 1000
