"""Families of the Llama line with something beside: cross-attention to images, experts in a narrower space, scales.

Cross-attention layers run with an image alone: their weights are counted and lie in memory, a text passes them by.
Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from workloads.transformer.families.common import (
    MAX_HEADS,
    MAX_WIDTH,
    RMS,
    activation,
    grouped_attention,
    layer_kinds,
    read_heads,
    read_sizes,
    tied,
    window,
)
from workloads.transformer.families.experts import count_and_active
from workloads.transformer.fields import REQUIRED, Fields
from workloads.transformer.shape import Decoder, Experts, FeedForward, Layer, Norm, RoutedAttention

__all__ = ["READERS"]

CROSS = "cross-attention to images (weights counted, not run)"
PLAIN = Norm("rms", weight=False)


def read_doge(f: Fields, model_type: str) -> Decoder:
    """Doge: a learned mask made of the values, scales on both residual streams."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden)
    bias, mlp_bias = f.flag("attention_bias", default=False), f.flag("mlp_bias", default=False)
    if f.flag("is_moe", default=False):
        f.problem("is_moe", "found true; experts that are rows of a table are not modelled")
    # A product of the values with one column per key-value head, an exponent each, and two scales of the stream.
    mask = heads.kv_heads * (heads.kv_heads * heads.head_dim + 1 + bias)
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, q_norm=heads.head_dim,
        k_norm=heads.head_dim, vectors=mask + 2 * sizes.hidden, window=window(f),
    )  # fmt: skip
    size = f.integer("intermediate_size", most=MAX_WIDTH)
    mlp = FeedForward(size, activation=activation(f), up_bias=mlp_bias, down_bias=mlp_bias)
    layer = Layer(attention, mlp, mixer_norm=RMS, mlp_norm=RMS)
    return Decoder(model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, RMS, tied(f, False))


def read_muse_spark(f: Fields, model_type: str) -> Decoder:
    """Muse Spark: gated attention, experts between products to a narrower space and back, gated residual streams."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=64)
    bias = f.flag("attention_bias", default=False)
    default = [
        "sliding_attention" if (sizes.layers - 1 - index) % 4 else "full_attention"
        for index in range(sizes.layers)
    ]
    kinds = layer_kinds(f, sizes.layers, default)
    span = window(f, 2048)
    local, full = (
        grouped_attention(
            heads, heads.head_dim if near else 0, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
            gate=heads.heads * heads.head_dim, plain_norm=True, window=span if near else 0,
            vectors=2 * sizes.hidden,
        )
        for near in (True, False)
    )  # fmt: skip
    act = activation(f)
    mlp = FeedForward(f.integer("intermediate_size", most=MAX_WIDTH), activation=act)
    count, active = count_and_active(
        f, ("num_local_experts",), ("num_experts_per_tok",), (REQUIRED, REQUIRED)
    )
    latent = f.integer("moe_hidden_size", most=MAX_WIDTH)
    experts = Experts(
        count, active, f.integer("moe_intermediate_size", most=MAX_WIDTH), activation=act, latent=latent,
        vectors=2 * latent,
    )  # fmt: skip
    types = f.words("mlp_layer_types", sizes.layers, ("dense", "sparse")) or ["sparse"] * sizes.layers
    layers = tuple(
        Layer(
            local if kind == "sliding_attention" else full,
            mlp if part == "dense" else None,
            experts if part == "sparse" else None,
            mixer_norm=RMS, mixer_out_norm=PLAIN, mlp_norm=RMS, mlp_out_norm=RMS,
        )
        for kind, part in zip(kinds, types, strict=True)
    )  # fmt: skip
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False))


def read_mllama(f: Fields, model_type: str) -> Decoder:
    """Llama 3.2 Vision: some layers attend to the image instead of the text."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_kv=8)
    size = f.integer("intermediate_size", most=MAX_WIDTH)
    at = f.integers("cross_attention_layers", most=10**4)
    cross = sorted({index for index in (at or []) if index < sizes.layers})
    if at is None:
        cross = list(range(3, sizes.layers, 5))
    mlp = FeedForward(size, activation=activation(f))
    layer = Layer(grouped_attention(heads, heads.head_dim), mlp, mixer_norm=RMS, mlp_norm=RMS)
    wide, narrow = heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim
    # Four products, norms of queries and keys, a feed-forward part, two norms and two gates.
    idle = (2 * wide + 2 * narrow + 3 * size + 2) * sizes.hidden + 2 * heads.head_dim + 2
    return Decoder(
        model_type, sizes.hidden, sizes.vocab + 8, (layer,) * (sizes.layers - len(cross)), RMS, tied(f, False),
        head_vocab=sizes.vocab, spare=len(cross) * idle, omitted=(CROSS,) if cross else (),
    )  # fmt: skip


def read_idefics(f: Fields, model_type: str) -> Decoder:
    """IDEFICS: gated cross-attention before every so many layers of Llama."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads")
    size = f.integer("intermediate_size", most=MAX_WIDTH)
    mlp = FeedForward(size, activation=activation(f))
    normed = f.flag("qk_layer_norms", default=False)
    if normed or f.flag("use_resampler", default=False):
        f.problem(
            "use_resampler", "norms of queries and the resampler of images are not read from this family"
        )
    layer = Layer(grouped_attention(heads, heads.head_dim), mlp, mixer_norm=RMS, mlp_norm=RMS)
    vision = f.section("vision_config")
    image = 768 if vision is None else vision.integer("embed_dim", default=768, most=MAX_WIDTH)
    every = f.integer("cross_layer_interval", default=1)
    gate = sizes.hidden if f.word("alpha_type", default="float", known=("float", "vector")) == "vector" else 1
    idle = 2 * sizes.hidden * (sizes.hidden + image) + (3 * size + 2) * sizes.hidden + 2 * gate
    rows = f.integer("additional_vocab_size", default=0, least=0)
    own = tied(f, False)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab + rows, (layer,) * sizes.layers, RMS, own,
        spare=sizes.layers // every * idle, omitted=(CROSS,),
    )  # fmt: skip


def read_jetmoe(f: Fields, model_type: str) -> Decoder:
    """JetMoe: experts in the attention as in the feed-forward part, as many of each."""
    sizes = read_sizes(f)
    count, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (8, 2))
    heads = f.integer("num_key_value_heads", default=16, most=MAX_HEADS)
    dim = f.integer("kv_channels", "head_dim", default=128, most=MAX_WIDTH)
    if f.has("num_attention_heads") and f.integer("num_attention_heads", most=2**24) != heads * active:
        f.problem(
            "num_attention_heads", f"expected {heads * active}: num_key_value_heads times num_experts_per_tok"
        )
    act = activation(f, "activation_function")
    width = f.integer("intermediate_size", most=MAX_WIDTH)
    experts = Experts(count, active, width, activation=act, out_bias=True)
    layer = Layer(RoutedAttention(count, active, heads, dim), None, experts, mixer_norm=RMS, mlp_norm=RMS)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, RMS, tied(f, True), dtype="bf16"
    )


ADAPTIVE_RANK = 32
"""Width between the two products that make a scale of the delay (Voxtral Realtime); fixed in the published code."""


def read_voxtral_realtime(f: Fields, model_type: str) -> Decoder:
    """The language model of Voxtral Realtime: a scale behind each second norm, made once per session of its delay."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=128, default_kv=8)
    mlp = FeedForward(f.integer("intermediate_size", most=MAX_WIDTH), activation=activation(f))
    attention = grouped_attention(heads, heads.head_dim, window=window(f, 8192))
    layer = Layer(attention, mlp, mixer_norm=RMS, mlp_norm=RMS)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, RMS, tied(f, True),
        spare=sizes.layers * 2 * ADAPTIVE_RANK * sizes.hidden,
    )  # fmt: skip


READERS = {
    "jetmoe": read_jetmoe,
    "voxtral_realtime_text": read_voxtral_realtime,
    "doge": read_doge,
    "muse_spark_text": read_muse_spark,
    "mllama_text_model": read_mllama,
    "idefics": read_idefics,
}
"""Readers by ``model_type``."""
