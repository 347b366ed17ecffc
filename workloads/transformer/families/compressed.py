"""DeepSeek-V4: attention over a window and compressed tokens, experts in every layer, several residual streams.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from typing import Final

from workloads.transformer.families.common import (
    MAX_HEADS,
    MAX_WIDTH,
    RMS,
    activation,
    read_sizes,
    rotary_dim,
    tied,
    window,
)
from workloads.transformer.families.experts import count_and_active
from workloads.transformer.fields import REQUIRED, Fields
from workloads.transformer.shape import (
    CompressedAttention,
    Decoder,
    Experts,
    FeedForward,
    HyperConnection,
    Indexer,
    Layer,
)

__all__ = ["READERS"]

SPARSE: Final = "compressed_sparse_attention"
HEAVY: Final = "heavily_compressed_attention"
NEAR: Final = "sliding_attention"

RATES: Final = {NEAR: 0, SPARSE: 4, HEAVY: 128}
"""Tokens of a compressed one, by kind of layer, where the file does not say."""


def read_deepseek_v4(f: Fields, model_type: str) -> Decoder:
    """DeepSeek-V4 (Flash and Pro)."""
    sizes = read_sizes(f)
    kinds = _kinds(f, sizes.layers)
    indexer = Indexer(
        f.integer("index_n_heads", most=MAX_HEADS),
        f.integer("index_head_dim", most=MAX_WIDTH),
        f.integer("index_topk"),
    )
    attention = {
        kind: _attention(f, rate, indexer if kind == SPARSE else None)
        for kind, rate in _rates(f).items()
        if kind in kinds
    }
    act = activation(f)
    bias = f.flag("mlp_bias", default=False)
    count, active = count_and_active(f, ("n_routed_experts",), ("num_experts_per_tok",), (REQUIRED, REQUIRED))
    width = f.integer("moe_intermediate_size", most=MAX_WIDTH)
    # The hash of the first layers replaces the choice of experts, not the scores that weigh them. The class has one
    # shared expert whatever n_shared_experts says.
    number = f.integer("n_shared_experts", default=1, least=0)
    if number != 1:
        f.problem("n_shared_experts", f"found {number}; expected 1, as the family has it")
    f.words("mlp_layer_types", sizes.layers, ("hash_moe", "moe"))
    f.integer("num_hash_layers", default=3, least=0)
    experts = Experts(count, active, width, activation=act, shared=FeedForward(width, True, act, bias, bias))
    streams = f.integer("hc_mult", default=4, most=64)
    hyper = HyperConnection(streams, (2 + streams) * streams, 3)
    layers = tuple(
        Layer(attention[kind], None, experts, mixer_norm=RMS, mlp_norm=RMS, hyper=hyper) for kind in kinds
    )
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), merges_streams=True, dtype="bf16"
    )


def _attention(f: Fields, rate: int, indexer: Indexer | None) -> CompressedAttention:
    heads = f.integer("num_attention_heads", most=MAX_HEADS)
    dim = f.integer("head_dim", most=MAX_WIDTH)
    groups = f.integer("o_groups", most=MAX_HEADS)
    if heads * dim % groups and f.sound("o_groups", "num_attention_heads", "head_dim"):
        f.problem("o_groups", f"found {groups}; expected a divisor of {heads * dim} attended features")
    if f.has("attention_bias") and f.flag("attention_bias"):
        f.problem("attention_bias", "found true; the family's published code has no such biases")
    turned = f.integer("qk_rope_head_dim", default=rotary_dim(f, dim, default=64 / 512), most=dim)
    return CompressedAttention(
        heads,
        dim,
        turned,
        f.integer("q_lora_rank", most=MAX_WIDTH),
        window(f, 128),
        groups,
        f.integer("o_lora_rank", most=MAX_WIDTH),
        rate,
        indexer,
    )


def _rates(f: Fields) -> dict[str, int]:
    """Tokens of a compressed one by kind of layer."""
    rates = dict(RATES)
    section = f.section("compress_rates")
    for kind, legacy in ((SPARSE, "compress_rate_csa"), (HEAVY, "compress_rate_hca")):
        if section is not None:
            rates[kind] = section.integer(kind, default=rates[kind], most=2**16)
        rates[kind] = f.integer(legacy, default=rates[kind], most=2**16)
    return rates


def _kinds(f: Fields, layers: int) -> list[str]:
    """The kind of each layer: by name, by the rate of its compression, or heavy first and then by turns."""
    given = f.words("layer_types", None, tuple(RATES))
    if given is None:
        ratios = f.integers("compress_ratios", least=0, most=2**16)
        by_rate = {rate: kind for kind, rate in RATES.items()}
        strange = [ratio for ratio in ratios or [] if ratio not in by_rate]
        if strange:
            f.problem("compress_ratios", f"found {strange[0]}; expected {', '.join(map(str, by_rate))}")
            return [NEAR] * layers
        given = [by_rate[ratio] for ratio in ratios] if ratios else None
    if given is None:
        turns = [SPARSE if index % 2 else HEAVY for index in range(max(layers - 2, 0))]
        given = [HEAVY] * min(layers, 2) + turns
    if len(given) < layers:
        name = "layer_types" if f.has("layer_types") else "compress_ratios"
        f.problem(name, f"found {len(given)} entries; expected {layers}, one per layer")
        return [NEAR] * layers
    # A further entry is that of the multi-token prediction layer.
    return given[:layers]


READERS = {"deepseek_v4": read_deepseek_v4}
"""Readers by ``model_type``."""
