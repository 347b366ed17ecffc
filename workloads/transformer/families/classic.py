"""Decoders with layer norms and positions of their own: BioGPT, XGLM, CTRL, GPT, GPT-NeoX Japanese, Kosmos-2, CPM-Ant
and the decoder form of ModernBERT.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from workloads.transformer.families.common import (
    LAYER_NORM,
    MAX_WIDTH,
    RMS,
    activation,
    grouped_attention,
    layer_kinds,
    no_cross_attention,
    read_heads,
    read_sizes,
    rotary_dim,
    tied,
    window,
)
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Attention, Decoder, FeedForward, HeadTransform, Layer, Norm

__all__ = ["READERS"]


def _biased(f: Fields, hidden: int, name: str, inner: Norm | None = None) -> Attention:
    """Attention with biases on all four products; every query head has a key-value head of its own."""
    heads = read_heads(f, hidden, name, name)
    return grouped_attention(heads, 0, q_bias=True, k_bias=True, v_bias=True, out_bias=True, out_norm=inner)


def read_biogpt(f: Fields, model_type: str) -> Decoder:
    """BioGPT: learned positions with two rows more than there are."""
    sizes = read_sizes(f)
    no_cross_attention(f)
    mlp = FeedForward(
        f.integer("intermediate_size", most=MAX_WIDTH), False, activation(f, default="gelu"), True, True
    )
    attention = _biased(f, sizes.hidden, "num_attention_heads")
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM)
    positions = f.integer("max_position_embeddings", default=1024)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM, tied(f, True),
        positions=positions + 2, max_positions=positions,
    )  # fmt: skip


def read_xglm(f: Fields, model_type: str) -> Decoder:
    """XGLM: fixed sinusoids for positions."""
    sizes = read_sizes(f, "d_model", "num_layers")
    no_cross_attention(f)
    act = activation(f, "activation_function", default="gelu")
    mlp = FeedForward(f.integer("ffn_dim", most=MAX_WIDTH), False, act, True, True)
    attention = _biased(f, sizes.hidden, "attention_heads")
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM)
    return Decoder(model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM, tied(f, True))


def read_kosmos2(f: Fields, model_type: str) -> Decoder:
    """The language model of Kosmos-2: as XGLM, with a norm before each output projection."""
    sizes = read_sizes(f, "embed_dim", "layers")
    no_cross_attention(f)
    act = activation(f, "activation_function", default="gelu")
    mlp = FeedForward(f.integer("ffn_dim", most=MAX_WIDTH), False, act, True, True, LAYER_NORM)
    inner = LAYER_NORM if model_type == "kosmos_2_text_model" else None
    attention = _biased(f, sizes.hidden, "attention_heads", inner)
    # Kosmos-2.5 tells text from image rows by an embedding of two rows.
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM, tied(f, True),
        spare=0 if inner else 2 * sizes.hidden,
    )  # fmt: skip


def read_ctrl(f: Fields, model_type: str) -> Decoder:
    """CTRL: fixed sinusoids, a bias on the output projection."""
    sizes = read_sizes(f, "n_embd", "n_layer")
    mlp = FeedForward(f.integer("dff", most=MAX_WIDTH), False, "relu", True, True)
    attention = _biased(f, sizes.hidden, "n_head")
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM, tied(f, True),
        head_bias=True,
    )  # fmt: skip


def read_openai_gpt(f: Fields, model_type: str) -> Decoder:
    """The first GPT: the norm follows the residual addition."""
    sizes = read_sizes(f, "n_embd", "n_layer")
    mlp = FeedForward(4 * sizes.hidden, False, activation(f, "afn", default="gelu"), True, True)
    attention = _biased(f, sizes.hidden, "n_head")
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=True)
    positions = f.integer("n_positions", default=512)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, None, tied(f, True), positions=positions,
        max_positions=positions,
    )  # fmt: skip


def read_gpt_neox_japanese(f: Fields, model_type: str) -> Decoder:
    """GPT-NeoX Japanese: no biases but one, behind the attention of the last layer."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads")
    turned = rotary_dim(f, heads.head_dim, "rotary_pct", default=1.0)
    times = f.integer("intermediate_multiple_size", default=4, most=64)
    mlp = FeedForward(times * sizes.hidden, False, activation(f, default="gelu"))
    layers = tuple(
        Layer(
            grouped_attention(heads, turned, out_bias=index == sizes.layers - 1),
            mlp,
            mixer_norm=LAYER_NORM,
            mlp_norm=LAYER_NORM,
        )
        for index in range(sizes.layers)
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, LAYER_NORM, tied(f, True))


def read_cpmant(f: Fields, model_type: str) -> Decoder:
    """CPM-Ant: learned prompts beside the vocabulary, a table of biases by distance and segment."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads", default_head_dim=1)
    size = f.integer("dim_head", default=128, most=MAX_WIDTH)
    heads = type(heads)(heads.heads, heads.heads, size)
    mlp = FeedForward(f.integer("dim_ff", most=MAX_WIDTH), True, "gelu_erf")
    layer = Layer(grouped_attention(heads, 0), mlp, mixer_norm=RMS, mlp_norm=RMS)
    prompts = f.integer("prompt_types", default=32, least=0) * f.integer("prompt_length", default=32, least=0)
    segments = f.integer("segment_types", default=32)
    buckets = f.integer("position_bias_num_buckets", default=512)
    f.flag("tie_word_embeddings", default=True)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab + prompts, (layer,) * sizes.layers, RMS, False,
        head_vocab=sizes.vocab, spare=segments * sizes.hidden + (segments**2 + buckets) * heads.heads,
    )  # fmt: skip


def read_modernbert_decoder(f: Fields, model_type: str) -> Decoder:
    """ModernBERT as a decoder: no norm before the first attention, a product and a norm before the logits."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads")
    bias = f.flag("attention_bias", default=False)
    mlp_bias = f.flag("mlp_bias", default=False)
    norm = Norm("layer", bias=f.flag("norm_bias", default=False))
    mlp = FeedForward(
        f.integer("intermediate_size", most=MAX_WIDTH), True, activation(f, "hidden_activation", default="gelu"),
        mlp_bias, mlp_bias,
    )  # fmt: skip
    every = f.integer("global_attn_every_n_layers", default=3)
    default = ["sliding_attention" if i % every else "full_attention" for i in range(sizes.layers)]
    kinds = layer_kinds(f, sizes.layers, default)
    span = window(f) or f.integer("local_attention", default=128) // 2
    layers = tuple(
        Layer(
            grouped_attention(
                heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
                window=span if kind == "sliding_attention" else 0,
            ),
            mlp,
            mixer_norm=norm if index else None,
            mlp_norm=norm,
        )
        for index, kind in enumerate(kinds)
    )  # fmt: skip
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, layers, norm, tied(f, True), embedding_norm=norm,
        head_bias=f.flag("decoder_bias", default=True),
        transform=HeadTransform(sizes.hidden, norm=norm, bias=f.flag("classifier_bias", default=False)),
    )  # fmt: skip


READERS = {
    "biogpt": read_biogpt,
    "xglm": read_xglm,
    "kosmos_2_text_model": read_kosmos2,
    "kosmos_2_5_text_model": read_kosmos2,
    "ctrl": read_ctrl,
    "openai-gpt": read_openai_gpt,
    "gpt_neox_japanese": read_gpt_neox_japanese,
    "cpmant": read_cpmant,
    "modernbert-decoder": read_modernbert_decoder,
}
"""Readers by ``model_type``."""
