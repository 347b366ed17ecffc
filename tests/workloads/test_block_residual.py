"""Questions to Kimi K3's parts: are its residuals by blocks, its narrow experts and its gates counted and read?"""

import json

import pytest

from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

HIDDEN, LAYERS, HEADS, DIM, EXPERTS, VOCAB = 64, 7, 4, 16, 8, 256
LATENT, WIDTH, DENSE, Q_RANK, KV_RANK, NOPE, ROPE = 32, 24, 96, 40, 20, 16, 8


def config(tmp_path, **changes):
    text = {
        "model_type": "kimi_linear", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
        "intermediate_size": DENSE, "num_attention_heads": HEADS, "q_lora_rank": Q_RANK, "kv_lora_rank": KV_RANK,
        "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": NOPE, "num_experts": EXPERTS,
        "num_experts_per_token": 2, "num_shared_experts": 2, "moe_intermediate_size": WIDTH,
        "routed_expert_hidden_size": LATENT, "latent_moe_use_norm": True, "first_k_dense_replace": 1,
        "attn_res_block_size": 3, "mla_use_output_gate": True, "hidden_act": "situ", "dtype": "bfloat16",
        "linear_attn_config": {
            "num_heads": HEADS, "head_dim": DIM, "short_conv_kernel_size": 4, "use_full_rank_gate": True,
            "full_attn_layers": [4, 7], "kda_layers": [1, 2, 3, 5, 6],
        },
        **changes,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "kimi_k3", "text_config": text}))
    return path


def expected():
    """The parameters part by part, as Kimi K3's description has them."""
    inner = HEADS * DIM
    delta = (
        3 * HIDDEN * inner + 3 * 4 * inner  # queries, keys, values and their convolutions
        + HIDDEN * DIM + DIM * inner + inner + HEADS  # the decay: narrow, its bias, a factor per head
        + HIDDEN * HEADS + HIDDEN * inner  # beta, and a gate that is not narrow
        + DIM + inner * HIDDEN
    )  # fmt: skip
    latent = (
        HIDDEN * Q_RANK + Q_RANK + Q_RANK * HEADS * (NOPE + ROPE)
        + HIDDEN * (KV_RANK + ROPE) + KV_RANK + KV_RANK * HEADS * 2 * NOPE
        + 2 * HEADS * NOPE * HIDDEN  # output and its gate
    )  # fmt: skip
    sparse = (
        EXPERTS * 3 * LATENT * WIDTH
        + 2 * HIDDEN * LATENT
        + LATENT
        + HIDDEN * EXPERTS
        + 3 * HIDDEN * 2 * WIDTH
    )
    norms_and_queries = 2 * HIDDEN + 4 * HIDDEN
    return (
        5 * delta + 2 * latent + 3 * HIDDEN * DENSE + 6 * sparse + LAYERS * norms_and_queries
        + 2 * HIDDEN + HIDDEN + 2 * VOCAB * HIDDEN
    )  # fmt: skip


def test_every_part_is_counted(tmp_path):
    graph = load_workload(config(tmp_path), WorkloadOptions(prompt=8)).phases[0].graph
    assert graph.parameters() == expected()


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_part_reads_the_embedding_and_every_block_before_it(tmp_path, phase):
    graph = load_workload(config(tmp_path), WorkloadOptions(prompt=8, phase=phase)).phases[0].graph
    by_name = graph.operator_by_name
    sources = []
    for layer in range(LAYERS):
        read = by_name[f"layers.{layer}.attention_residual"], by_name[f"layers.{layer}.mlp_residual"]
        assert read[0].inputs[:-2] == read[1].inputs[:-2], "both parts of a layer read one set"
        sources.append(len(read[0].inputs) - 2)
    # The embedding; then the open block as well; a new source with every third layer.
    assert sources == [1, 2, 2, 2, 3, 3, 3]
    last = by_name["out_residual"]
    assert len(last.inputs) - 2 == 4, "the embedding, two whole blocks and an open one"
    moved = 8 if phase == "prefill" else 1
    assert last.read_bytes == 2 * HIDDEN * (4 * moved + 2)


def test_a_step_of_training_differentiates_through_the_blocks(tmp_path):
    (phase,) = load_workload(config(tmp_path), WorkloadOptions(prompt=8, phase="train")).phases
    made = {tensor for op in phase.graph.operators for tensor in op.outputs}
    gradients = [name for name in made if name.startswith("embedding.out") and "grad" in name]
    assert gradients, "the embedding gets a gradient from every part that read it"
