"""FLOPs, cache and traffic of decoders against closed forms written down independently of the builder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workloads import models
from workloads.graph import Graph, Role, check_graph
from workloads.operators import Attention
from workloads.transformer import count_parameters, decoder_workload, read_decoder
from workloads.transformer.fields import Fields
from workloads.transformer.step import Step
from workloads.workload import WorkloadOptions

FOLDER = Path(__file__).parents[1] / "reference" / "models"
PRODUCTS = ("matmul", "grouped_matmul", "attention")


def graph_of(name: str, **options: object) -> Graph:
    return models.build(name, WorkloadOptions(**options)).phases[0].graph


def product_flops(graph: Graph) -> float:
    return sum(op.flops for op in graph.operators if op.kind in PRODUCTS)


def cache_bytes(graph: Graph) -> int:
    return graph.bytes_by_role()[Role.KV_CACHE]


@pytest.mark.parametrize("batch", [1, 3])
def test_prefill_of_llama_is_two_flops_per_weight_and_token_plus_attention(batch: int) -> None:
    prompt, layers, heads, dim, hidden, vocab = 300, 32, 32, 128, 4096, 128256
    graph = graph_of("llama-3-8b", phase="prefill", prompt=prompt, batch=batch)
    embeddings, norms = 2 * vocab * hidden, (2 * layers + 1) * hidden
    blocks = graph.parameters() - embeddings - norms
    causal = layers * heads * 4 * dim * prompt * (prompt + 1) / 2
    head = 2 * vocab * hidden
    assert product_flops(graph) == batch * (2 * blocks * prompt + causal + head)


def test_scores_of_an_unfused_prefill_are_the_whole_rectangle() -> None:
    prompt, layers, heads, dim = 256, 32, 32, 128
    fused = graph_of("llama-2-7b", phase="prefill", prompt=prompt)
    apart = graph_of("llama-2-7b", phase="prefill", prompt=prompt, fused=False)
    extra = layers * heads * 4 * dim * (prompt * prompt - prompt * (prompt + 1) / 2)
    assert product_flops(apart) - product_flops(fused) == extra
    scores = apart.tensors["layers.0.attention.qk_matmul.out"]
    assert scores.size_bytes == 2 * heads * prompt * prompt
    names = [op.name for op in apart.operators if op.name.startswith("layers.5.attention.")]
    assert [name.removeprefix("layers.5.attention.") for name in names] == [
        "q", "k", "v", "q_rotary", "k_rotary", "qk_matmul", "softmax", "sv_matmul", "out",
    ]  # fmt: skip


def test_the_published_layer_of_llama_2_on_a_roofline() -> None:
    """LLM-Viewer (arXiv:2402.16363): q_proj of Llama-2-7B at 2048 tokens, 68.7 GOP and 67.1 MB."""
    prefill = graph_of("llama-2-7b", phase="prefill", prompt=2048, fused=False)
    decode = graph_of("llama-2-7b", phase="decode", prompt=2048, fused=False)
    op = prefill.operator_by_name["layers.0.attention.q"]
    assert op.flops == 2 * 2048 * 4096 * 4096
    assert op.read_bytes + op.write_bytes == pytest.approx(67.1e6, rel=1e-3)
    op = decode.operator_by_name["layers.0.attention.q"]
    assert op.flops == 2 * 4096 * 4096
    assert op.read_bytes + op.write_bytes == pytest.approx(33.6e6, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("llama-2-7b", 2 * 32 * 32 * 128 * 2),
        ("llama-3-8b", 2 * 32 * 8 * 128 * 2),
        ("opt-13b", 2 * 40 * 5120 * 2),
        ("falcon-7b", 2 * 32 * 1 * 64 * 2),
        ("deepseek-v3", 61 * (512 + 64) * 2),
        ("kimi-k2", 61 * (512 + 64) * 2),
        ("glm-5", 78 * (512 + 64 + 128) * 2),
        ("deepseek-v2-lite", 27 * (512 + 64) * 2),
    ],
)
def test_cache_bytes_per_token(name: str, per_token: int) -> None:
    graph = graph_of(name, phase="decode", prompt=100, batch=2)
    assert cache_bytes(graph) == 2 * 100 * per_token


def test_local_layers_keep_only_their_window() -> None:
    context, layers, heads, dim = 10_000, 24, 8, 64
    graph = graph_of("gpt-oss-20b", phase="decode", prompt=context)
    per_layer = 2 * heads * dim * 2
    assert cache_bytes(graph) == per_layer * (layers // 2 * 128 + layers // 2 * context)
    local = graph.operator_by_name["layers.0.attention.attend"]
    full = graph.operator_by_name["layers.1.attention.attend"]
    query = 64 * 64 * 2
    sinks = 64 * 2
    assert isinstance(local.work, Attention)
    assert local.work.sink_logits
    assert local.read_bytes == query + sinks + 128 * per_layer
    assert full.read_bytes == query + sinks + context * per_layer


def test_a_chunk_of_llama_4_ends_at_its_border() -> None:
    step = Step(batch=1, new=1, context=8193, capacity=9000)
    assert step.seen(chunk=8192) == 1
    assert step.pairs(chunk=8192) == 1
    graph = graph_of("llama-4-scout", phase="decode", prompt=8193)
    assert graph.operator_by_name["layers.0.attention.attend"].work.chunk == 8192
    assert graph.operator_by_name["layers.3.attention.attend"].work.chunk == 0
    near = graph.operator_by_name["layers.0.attention.attend"].read_bytes
    far = graph.operator_by_name["layers.3.attention.attend"].read_bytes
    assert far - near == 8192 * 2 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("window", "chunk"), [(0, 0), (1, 0), (3, 0), (8, 0), (100, 0), (0, 1), (0, 4), (0, 50)]
)
def test_visible_pairs_against_counting_them(window: int, chunk: int) -> None:
    for context in range(1, 20):
        for new in range(1, context + 1):
            step = Step(1, new, context, 64)
            visible = [
                (query, key)
                for query in range(context - new, context)
                for key in range(query + 1)
                if (not window or query - key < window) and (not chunk or query // chunk == key // chunk)
            ]
            assert step.pairs(window, chunk) == len(visible)
            assert step.seen(window, chunk) == len({key for _, key in visible})


def test_a_decode_step_reads_every_dense_weight_once() -> None:
    graph = graph_of("llama-3-8b", phase="decode", prompt=1000, batch=4)
    weights = {n for n, t in graph.tensors.items() if t.role is Role.WEIGHT and n != "embedding.weight"}
    read = sum(op.read_bytes for op in graph.operators)
    stored = sum(graph.tensors[name].size_bytes for name in weights)
    cache = 4 * 1000 * 2 * 32 * 8 * 128 * 2
    assert stored + cache < read < (stored + cache) * 1.01


@pytest.mark.parametrize(("batch", "expected"), [(1, 2.0), (2, 3.5), (1000, 8.0)])
def test_a_mixture_reads_the_experts_its_tokens_reach(batch: int, expected: float) -> None:
    graph = graph_of("mixtral-8x7b", phase="decode", batch=batch)
    op = graph.operator_by_name["layers.0.mlp.experts.gate_up"]
    weight = graph.tensors["layers.0.mlp.experts.gate_up.weight"].size_bytes
    inputs = sum(graph.tensors[name].size_bytes for name in op.inputs if not name.endswith("weight"))
    assert (op.read_bytes - inputs) / weight * 8 == pytest.approx(expected, rel=1e-6)
    assert op.flops == 2 * batch * 2 * (2 * 14336) * 4096


def test_absorbed_decode_reads_one_latent_per_token() -> None:
    context, heads = 4096, 128
    graph = graph_of("deepseek-v3", phase="decode", prompt=context)
    op = graph.operator_by_name["layers.0.attention.attend"]
    assert op.read_bytes == (heads * 576 + context * 576) * 2
    assert op.flops == 2 * context * heads * (576 + 512)
    assert op.work.kv_heads == 1
    prefill = graph_of("deepseek-v3", phase="prefill", prompt=context)
    op = prefill.operator_by_name["layers.0.attention.attend"]
    assert op.flops == heads * context * (context + 1) * (192 + 128)


def test_sparse_attention_reads_only_the_chosen_tokens() -> None:
    graph = graph_of("glm-5", phase="decode", prompt=100_000)
    op = graph.operator_by_name["layers.0.attention.attend"]
    assert op.flops == 2 * 2048 * 64 * (576 + 512)
    assert op.read_bytes < 2 * (64 * 576 + 2049 * 576) + 3 * 2048 * 4
    score = graph.operator_by_name["layers.0.attention.indexer.score"]
    assert score.read_bytes > 99_999 * 128 * 2


def test_a_generation_is_a_prefill_and_a_step_per_token() -> None:
    workload = models.build("llama-3-8b", WorkloadOptions(prompt=50, generate=5, batch=2))
    assert [phase.name for phase in workload.phases] == ["prefill", *(f"decode[{i}]" for i in range(5))]
    contexts = [phase.graph.metadata["context"] for phase in workload.phases]
    assert contexts == [50, 51, 52, 53, 54, 55]
    assert {cache_bytes(phase.graph) for phase in workload.phases} == {2 * 55 * 131072}
    steps = [phase.graph for phase in workload.phases[1:]]
    assert len({graph.structure for graph in steps}) == 1
    for graph in steps:
        assert [op.name for op in graph.operators] == [op.name for op in steps[0].operators]
        assert all(a is b for a, b in zip(graph.tensors.values(), steps[0].tensors.values(), strict=True))
    names = [op.name for op in workload.phases[0].graph.operators]
    assert names == [op.name for op in steps[0].operators]


@pytest.mark.parametrize(
    "name", ["llama-3-8b", "gpt-oss-20b", "deepseek-v2-lite", "glm-5", "gemma-4-26b-a4b"]
)
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_of_a_generation_is_the_step_built_alone(name: str, fused: bool) -> None:
    """What the template reuses must not differ from a graph built for that context from nothing."""
    options = WorkloadOptions(prompt=40, generate=6, batch=2, fused=fused)
    step = models.build(name, options).phases[4].graph
    alone = models.build(name, WorkloadOptions(phase="decode", prompt=44, generate=2, batch=2, fused=fused))
    built = alone.phases[0].graph
    assert step.operators == built.operators
    assert step.tensors == built.tensors


@pytest.mark.parametrize("name", ["llama-3-8b", "gemma-2-9b", "qwen3-30b-a3b"])
def test_chunks_do_the_work_of_the_whole_prefill(name: str) -> None:
    whole = models.build(name, WorkloadOptions(phase="prefill", prompt=1000))
    chunks = models.build(name, WorkloadOptions(phase="prefill", prompt=1000, chunk=300))
    assert [phase.name for phase in chunks.phases] == [f"prefill[{i}]" for i in range(4)]
    assert sum(phase.graph.metadata["new_tokens"] for phase in chunks.phases) == 1000
    attend = [
        sum(op.flops for phase in work.phases for op in phase.graph.operators if op.kind == "attention")
        for work in (whole, chunks)
    ]
    assert attend[0] == attend[1]
    assert [phase.tokens for phase in chunks.phases] == [0, 0, 0, 1]


def test_latent_chunks_expand_the_past_again() -> None:
    chunks = models.build("deepseek-v3", WorkloadOptions(phase="prefill", prompt=1000, chunk=500)).phases
    assert chunks[1].graph.operator_by_name["layers.0.attention.k_up"].work.m == 1000


@pytest.mark.parametrize("name", sorted(models._configs()))
def test_every_model_builds_valid_graphs(name: str) -> None:
    workload = models.build(name, WorkloadOptions(prompt=20, generate=2))
    for phase in workload.phases:
        graph = check_graph(phase.graph)
        for op in graph.operators:
            assert op.place.axis in ("column", "row", "head", "split", "vocab", "sum", "replicated")
            assert op.read_bytes > 0
            assert op.write_bytes > 0
            assert -1 <= op.place.layer <= workload.metadata["layers"]


def published(name: str, **options: object) -> Graph:
    config = json.loads((FOLDER / "families.json").read_text())[name]["config"]
    asked = WorkloadOptions(**options)
    decoder, precision = read_decoder(Fields({**config, "torch_dtype": "bfloat16"}), None, None)
    return decoder_workload(name, decoder, precision, asked).phases[0].graph


def test_a_state_does_not_grow_with_the_context() -> None:
    """Qwen3-Next: 36 layers keep 32 states of 128 x 128 in fp32 and 3 inputs of the convolution."""
    short, long = (published("qwen3-next-80b-a3b", phase="decode", prompt=n) for n in (100, 10_000))
    state = 36 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)
    attention = 12 * 2 * 2 * 256 * 2
    assert cache_bytes(short) == state + 100 * attention
    assert cache_bytes(long) == state + 10_000 * attention
    step = short.operator_by_name["layers.0.attention.attend"]
    assert step.kind == "linear_attention"
    assert step.read_bytes > 32 * 128 * 128 * 4
    assert step.flops == 7 * 32 * 128 * 128
    first = published("qwen3-next-80b-a3b", phase="prefill", prompt=64)
    assert "layers.0.attention.state" in first.operator_by_name["layers.0.attention.attend"].updates


def test_a_gate_on_attention_comes_with_the_queries() -> None:
    graph = published("qwen3-next-80b-a3b", phase="decode")
    assert graph.operator_by_name["layers.3.attention.qkv"].work.n == (2 * 16 + 2 * 2) * 256
    assert graph.operator_by_name["layers.3.attention.gated"].flops == 5 * 16 * 256


def test_a_layer_can_be_one_part_alone() -> None:
    graph = published("nemotron-3-nano-30b-a3b", phase="decode")
    kinds = {name.split(".")[2] for name in graph.operator_by_name if name.startswith("layers.0.")}
    assert kinds == {"attention_norm", "attention"}
    kinds = {name.split(".")[2] for name in graph.operator_by_name if name.startswith("layers.1.")}
    assert kinds == {"mlp_norm", "mlp"}


def test_shared_caches_are_read_and_not_written() -> None:
    """Gemma 4's small models: the last layers read the keys and values of an earlier layer of their kind."""
    config = {
        "model_type": "gemma4_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
        "vocab_size": 500, "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 3, "sliding_window": 4, "use_double_wide_mlp": True,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    }  # fmt: skip
    decoder, precision = read_decoder(Fields(config), None, None)
    workload = decoder_workload("small", decoder, precision, WorkloadOptions(phase="decode", prompt=10))
    graph = check_graph(workload.phases[0].graph)
    assert "layers.3.attention.k_cache" not in graph.tensors
    reader = graph.operator_by_name["layers.5.attention.attend"]
    assert reader.updates == ()
    assert "layers.2.attention.k_cache" in reader.inputs
    assert graph.tensors["layers.4.attention.qkv.weight"].shape == (4 * 16, 64)
    assert graph.tensors["layers.3.mlp.gate_up.weight"].shape == (2 * 2 * 96, 64)
    per_layer = 300 * 6 * 8 + 6 * 8 * 64 + 8 + 6 * (2 * 64 * 8 + 64)
    plain = Fields({**config, "hidden_size_per_layer_input": 0})
    assert graph.parameters() - count_parameters(*read_decoder(plain, None, None)) == per_layer


def test_parallel_blocks_and_post_norms_have_their_operators() -> None:
    falcon = graph_of("falcon-7b", phase="decode")
    assert "layers.0.mlp_norm" not in falcon.operator_by_name
    assert falcon.operator_by_name["layers.1.attention_norm"].work.adds == 2
    gemma = graph_of("gemma-2-9b", phase="decode")
    assert "layers.0.attention_out_norm" in gemma.operator_by_name
    assert graph_of("opt-350m", phase="decode").operator_by_name["project_in"].work.k == 512
    assert graph_of("bloom-176b", phase="decode").operator_by_name["embedding_norm"].kind == "norm"


def test_a_decode_step_is_quick_to_build() -> None:
    """A step of 32 layers under 5 ms; measured as the best of several, other work on the machine aside."""
    from time import perf_counter

    phases = models.build("llama-3-8b", WorkloadOptions(prompt=100, generate=20)).phases
    phases[1]
    seconds = []
    for index in range(2, 12):
        start = perf_counter()
        phases[index]
        seconds.append(perf_counter() - start)
    assert min(seconds) < 0.005


def test_chunks_of_a_latent_prefill_read_the_past_from_the_cache() -> None:
    """No bytes of no tensor: keys and values are expanded from the cache's latents and the new ones."""
    options = WorkloadOptions(phase="prefill", prompt=256, chunk=128)
    first, later = (phase.graph for phase in models.build("deepseek-v3", options).phases)
    cache = "layers.0.attention.latent_cache"
    for part in ("k_up", "v_up"):
        plain, past = (graph.operator_by_name[f"layers.0.attention.{part}"] for graph in (first, later))
        assert cache not in plain.inputs
        assert past.reads[past.inputs.index(cache)] == 512 * 128 * 2
        assert past.beside_read == 0
