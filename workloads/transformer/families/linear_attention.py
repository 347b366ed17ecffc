"""Families of linear attention, gated recurrences and short convolutions, alone or beside attention.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Final

from workloads.transformer.families.common import (
    LAYER_NORM,
    MAX_HEADS,
    MAX_WIDTH,
    RMS,
    Heads,
    activation,
    grouped_attention,
    read_heads,
    read_sizes,
    rotary_dim,
    tied,
    window,
)
from workloads.transformer.families.experts import count_and_active
from workloads.transformer.families.hybrid import DELTA_CHUNK
from workloads.transformer.fields import REQUIRED, Fields
from workloads.transformer.shape import (
    Attention,
    BlockResidual,
    Decoder,
    DeltaMix,
    Experts,
    FeedForward,
    GatedLru,
    LatentAttention,
    Layer,
    Norm,
    Recurrence,
    ShortConvolution,
    TimeMix,
)

__all__ = ["READERS", "delta_channels"]

KINDS: Final = ("full_attention", "linear_attention")
CONVOLUTION_KINDS: Final = ("full_attention", "sliding_attention", "conv", "short_conv")


def _kinds(f: Fields, layers: int, default: list[str], known: tuple[str, ...] = KINDS) -> list[str]:
    return f.words("layer_types", layers, known) or default


def read_recurrent_gemma(f: Fields, model_type: str) -> Decoder:
    """RecurrentGemma: RG-LRU twice, then local attention, and a gated part of half the stated width."""
    sizes = read_sizes(f)
    heads = f.integer("num_attention_heads", default=10, most=MAX_HEADS)
    kv = f.integer("num_key_value_heads", default=heads, most=MAX_HEADS)
    if kv > heads or heads % kv:
        f.problem("num_key_value_heads", f"found {kv}; expected a divisor of num_attention_heads ({heads})")
    head_dim = f.integer("head_dim", default=max(sizes.hidden // heads, 1), most=MAX_WIDTH)
    bias = f.flag("attention_bias", default=False)
    attention = grouped_attention(
        Heads(heads, kv, head_dim), rotary_dim(f, head_dim, default=0.5), q_bias=bias, k_bias=bias, v_bias=bias,
        out_bias=True, window=window(f, 2048, "attention_window_size"),
    )  # fmt: skip
    width = f.integer("lru_width", default=sizes.hidden, most=MAX_WIDTH)
    for name, size in (("num_attention_heads", sizes.hidden), ("lru_width", width)):
        if size % heads:
            f.problem(name, f"found {heads} heads; expected a divisor of a width of {size}")
    lru = GatedLru(width, heads, f.integer("conv1d_width", default=4, most=64))
    act = activation(f, "hidden_activation", default="gelu_pytorch_tanh")
    intermediate = f.integer("intermediate_size", default=7680, most=MAX_WIDTH) // 2
    mlp = FeedForward(intermediate, activation=act, up_bias=True, down_bias=True)
    pattern = f.words("block_types", None, ("recurrent", "attention")) or [
        "recurrent",
        "recurrent",
        "attention",
    ]
    layers = tuple(
        Layer(
            attention if pattern[index % len(pattern)] == "attention" else lru, mlp, mixer_norm=RMS, mlp_norm=RMS
        )
        for index in range(sizes.layers)
    )  # fmt: skip
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, True), dtype="bf16")


def _lfm2_width(f: Fields) -> int:
    """Two thirds of the stated width, scaled and rounded up, unless the file says it is exact."""
    width = f.integer("block_ff_dim", "intermediate_size", default=12288, most=MAX_WIDTH)
    if not f.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = 2 * width // 3
    if not f.has("block_ffn_dim_multiplier") and "block_ffn_dim_multiplier" in f.values:
        return width
    width = int(f.number("block_ffn_dim_multiplier", default=1.0, most=1000) * width)
    step = f.integer("block_multiple_of", default=256, most=MAX_WIDTH)
    return -(-width // step) * step


def read_lfm2(f: Fields, model_type: str) -> Decoder:
    """LFM2: gated short convolutions, grouped-query attention in some layers; dense or with experts."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_kv=8)
    attention = grouped_attention(heads, heads.head_dim, q_norm=heads.head_dim, k_norm=heads.head_dim)
    conv = ShortConvolution(f.integer("conv_L_cache", default=3, most=64), f.flag("conv_bias", default=False))
    indices = f.integers("full_attn_idxs", most=sizes.layers - 1)
    attending = range(sizes.layers) if indices is None else indices
    default = ["full_attention" if index in attending else "conv" for index in range(sizes.layers)]
    kinds = _kinds(f, sizes.layers, default, CONVOLUTION_KINDS)
    local = (
        replace(attention, window=f.integer("sliding_window")) if "sliding_attention" in kinds else attention
    )
    mixers: dict[str, Attention | ShortConvolution] = {
        "full_attention": attention, "sliding_attention": local, "conv": conv, "short_conv": conv,
    }  # fmt: skip
    experts, dense = None, sizes.layers
    if model_type == "lfm2_moe":
        count, active = count_and_active(f, ("num_experts",), ("num_experts_per_tok",), (32, 4))
        experts = Experts(count, active, f.integer("moe_intermediate_size", default=1792, most=MAX_WIDTH))
        dense = f.integer("num_dense_layers", default=2, least=0)
        mlp = FeedForward(f.integer("intermediate_size", default=7168, most=MAX_WIDTH))
    else:
        mlp = FeedForward(_lfm2_width(f))
    layers = tuple(
        Layer(
            mixers[kind],
            mlp if index < dense else None,
            experts if index >= dense else None,
            mixer_norm=RMS,
            mlp_norm=RMS,
        )
        for index, kind in enumerate(kinds)
    )
    is_tied = f.flag("tie_embedding", "tie_word_embeddings", default=True)
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, is_tied, dtype="bf16")


def read_lfm3(f: Fields, model_type: str) -> Decoder:
    """LFM3: short convolutions, local and global attention with a gate per head, norms before and after."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=128, default_kv=4)
    bias = f.flag("attention_bias", default=False)
    gate = heads.heads if f.flag("use_attention_gate", default=True) else 0
    attention = grouped_attention(
        heads, heads.head_dim, q_norm=heads.head_dim, k_norm=heads.head_dim, gate=gate, q_bias=bias, k_bias=bias,
        v_bias=bias, out_bias=bias,
    )  # fmt: skip
    local = replace(attention, window=window(f, 256))
    conv = ShortConvolution(f.integer("conv_L_cache", default=7, most=64), f.flag("conv_bias", default=False))
    default = [
        "full_attention" if index % 4 == 2 else "sliding_attention" if index % 4 == 0 and index else "conv"
        for index in range(sizes.layers)
    ]
    mixers: dict[str, Attention | ShortConvolution] = {
        "full_attention": attention,
        "sliding_attention": local,
        "conv": conv,
        "short_conv": conv,
    }
    after = RMS if f.flag("use_sandwich_norm", default=True) else None
    mlp = FeedForward(f.integer("intermediate_size", default=7680, most=MAX_WIDTH))
    layers = tuple(
        Layer(mixers[kind], mlp, mixer_norm=RMS, mlp_norm=RMS, mixer_out_norm=after, mlp_out_norm=after)
        for kind in _kinds(f, sizes.layers, default, CONVOLUTION_KINDS)
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, True), dtype="bf16")


def read_minimax(f: Fields, model_type: str) -> Decoder:
    """MiniMax-Text-01 and M1: lightning attention (decay fixed per head) and softmax attention, experts in all."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_kv=8)
    attention = grouped_attention(heads, rotary_dim(f, heads.head_dim))
    inner = heads.heads * heads.head_dim
    lightning = Recurrence(
        heads=heads.heads, key_heads=heads.heads, key_dim=heads.head_dim, value_dim=heads.head_dim, kernel=0,
        conv_channels=3 * inner, gate=inner, controls=0, vectors=0, norm=inner, rule="decay",
        chunk=f.integer("block_size", default=256, most=1 << 16),
    )  # fmt: skip
    default = ["linear_attention" if index % 2 else "full_attention" for index in range(sizes.layers)]
    types = f.integers("attn_type_list", sizes.layers, most=1)
    if types is not None:
        default = ["full_attention" if kind else "linear_attention" for kind in types]
    count, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (8, 2))
    width = f.integer("intermediate_size", default=14336, most=MAX_WIDTH)
    shared = f.integer("shared_intermediate_size", default=0, least=0)
    if shared:
        f.problem(
            "shared_intermediate_size", f"found {shared}; a shared expert in this family is not modelled"
        )
    experts = Experts(count, active, width, activation=activation(f))
    layers = tuple(
        Layer(
            attention if kind == "full_attention" else lightning, None, experts, mixer_norm=RMS, mlp_norm=RMS
        )
        for kind in _kinds(f, sizes.layers, default)
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), dtype="bf16")


def read_olmo_hybrid(f: Fields, model_type: str) -> Decoder:
    """OLMo hybrid: gated delta rule normed before, attention normed after with normed queries and keys."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden)
    bias = f.flag("attention_bias", default=False)
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
        q_norm=heads.heads * heads.head_dim, k_norm=heads.kv_heads * heads.head_dim,
    )  # fmt: skip
    key_heads = f.integer("linear_num_key_heads", default=heads.heads, most=MAX_HEADS)
    value_heads = f.integer("linear_num_value_heads", default=heads.heads, most=MAX_HEADS)
    if value_heads % key_heads:
        f.problem(
            "linear_num_value_heads", f"found {value_heads}; expected a multiple of {key_heads} key heads"
        )
    key_dim = f.integer(
        "linear_key_head_dim", default=max(int(0.75 * sizes.hidden / key_heads), 1), most=MAX_WIDTH
    )
    value_dim = f.integer("linear_value_head_dim", default=2 * key_dim, most=MAX_WIDTH)
    delta = Recurrence(
        heads=value_heads, key_heads=key_heads, key_dim=key_dim, value_dim=value_dim,
        kernel=f.integer("linear_conv_kernel_dim", default=4, most=64),
        conv_channels=2 * key_heads * key_dim + value_heads * value_dim, gate=value_heads * value_dim,
        controls=2 * value_heads, vectors=2 * value_heads, norm=value_dim, rule="delta", chunk=DELTA_CHUNK,
    )  # fmt: skip
    default = ["full_attention" if index % 4 == 3 else "linear_attention" for index in range(sizes.layers)]
    if "full_attention" not in default:
        default[-1] = "full_attention"
    kinds = _kinds(f, sizes.layers, default)
    if len(set(kinds)) == 1:
        f.problem("layer_types", f"found {kinds[0]} in every layer; expected both kinds")
    mlp = FeedForward(f.integer("intermediate_size", default=11008, most=MAX_WIDTH), activation=activation(f))
    layers = tuple(
        Layer(attention, mlp, mixer_out_norm=RMS, mlp_out_norm=RMS)
        if kind == "full_attention"
        else Layer(delta, mlp, mixer_norm=RMS, mlp_norm=RMS)
        for kind in kinds
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), dtype="bf16")


def read_rwkv(f: Fields, model_type: str) -> Decoder:
    """RWKV-4: time mixing and channel mixing."""
    hidden, layers, vocab = (
        f.integer("hidden_size", most=MAX_WIDTH), f.integer("num_hidden_layers", most=2000), f.integer("vocab_size"),
    )  # fmt: skip
    width = f.integer("attention_hidden_size", default=hidden, most=MAX_WIDTH)
    mlp = FeedForward(
        f.integer("intermediate_size", default=4 * hidden, most=MAX_WIDTH), True, "relu2", token_mix=True
    )
    layer = Layer(TimeMix(width), mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM)
    return Decoder(
        model_type, hidden, vocab, (layer,) * layers, LAYER_NORM, tied(f, False), embedding_norm=LAYER_NORM
    )


def read_rwkv7(f: Fields, model_type: str) -> Decoder:
    """RWKV-7 in the fields of flash-linear-attention (MIT): a delta rule per head, channel mixing without a gate."""
    hidden = f.integer("hidden_size", most=MAX_WIDTH)
    count = f.integer("num_hidden_layers", most=2000)
    dim = f.integer("head_dim", default=64, most=MAX_WIDTH)
    if hidden % dim:
        f.problem("head_dim", f"found {dim}; expected a divisor of hidden_size ({hidden})")
    for name in ("attn", "attention_hidden_size", "value_dim"):
        if f.values.get(name) not in (None, hidden) and not _all_equal(f.values[name], hidden):
            f.problem(name, f"found {f.values[name]!r}; this variant of the family is not modelled")
    ratio = f.number("hidden_ratio", default=4.0, most=64)
    width = f.integer("intermediate_size", default=int(hidden * ratio), most=MAX_WIDTH)
    norm = Norm("layer", bias=f.flag("norm_bias", default=True))
    ranks = {
        part: f.integer(f"{part}_low_rank_dim", default=least, most=MAX_WIDTH)
        for part, least in (("decay", 64), ("a", 64), ("v", 32), ("gate", 128))
    }
    mixer = DeltaMix(
        max(hidden // dim, 1), dim, ranks["decay"], ranks["a"], ranks["v"], ranks["gate"], DELTA_CHUNK
    )
    mlp = FeedForward(width, False, "relu2", token_mix=True)
    layers = tuple(
        Layer(mixer if index else replace(mixer, value_rank=0), mlp, mixer_norm=norm, mlp_norm=norm)
        for index in range(count)
    )
    return Decoder(
        model_type, hidden, f.integer("vocab_size"), layers, norm, tied(f, False),
        embedding_norm=norm if f.flag("norm_first", default=True) else None, dtype="bf16",
    )  # fmt: skip


def _all_equal(value: object, wanted: int) -> bool:
    return isinstance(value, list) and all(item == wanted for item in value)


def _multiple(size: float, step: int) -> int:
    return int(step * ceil(int(size) / step)) if size == int(size) else int(step * ceil(size / step))


def read_xlstm(f: Fields, model_type: str) -> Decoder:
    """xLSTM-7B: mLSTM cells with gates of exponentials per head, and a gated part."""
    hidden = f.integer("hidden_size", "embedding_dim", default=4096, most=MAX_WIDTH)
    if f.has("embedding_dim") and f.integer("embedding_dim") != hidden:
        f.problem("embedding_dim", f"found {f.integer('embedding_dim')}; expected hidden_size ({hidden})")
    layers = f.integer("num_hidden_layers", "num_blocks", default=32, most=2000)
    if f.has("num_blocks"):
        layers = f.integer("num_blocks", most=2000)
    if f.flag("use_bias", default=False):
        f.problem("use_bias", "found true; biases in this family are not modelled")
    heads = f.integer("num_heads", default=8, most=MAX_HEADS)
    keys = _multiple(hidden * f.number("qk_dim_factor", default=0.5, most=64), 64)
    values = _multiple(hidden * f.number("v_dim_factor", default=1.0, most=64), 64)
    if keys % heads or values % heads:
        f.problem("num_heads", f"found {heads}; expected a divisor of {keys} key and {values} value features")
    if values != hidden:
        f.problem("v_dim_factor", f"found {values} value features; expected hidden_size ({hidden})")
    cell = Recurrence(
        heads=heads, key_heads=heads, key_dim=max(keys // heads, 1), value_dim=max(values // heads, 1), kernel=0,
        conv_channels=2 * keys + values, gate=values, controls=2 * heads, vectors=0, norm=values, rule="decay",
        chunk=f.integer("chunk_size", default=64, most=1 << 16), control_bias=True, normaliser=True,
    )  # fmt: skip
    step = f.integer("ffn_round_up_to_multiple_of", default=64, most=MAX_WIDTH)
    mlp = FeedForward(_multiple(hidden * f.number("ffn_proj_factor", default=2.667, most=64), step))
    layer = Layer(cell, mlp, mixer_norm=RMS, mlp_norm=RMS)
    vocab = f.integer("vocab_size", default=50304)
    return Decoder(model_type, hidden, vocab, (layer,) * layers, RMS, tied=False, dtype="bf16")


def _latent(f: Fields, gate: int) -> LatentAttention:
    return LatentAttention(
        f.integer("num_attention_heads", default=32, most=MAX_HEADS),
        f.integer("q_lora_rank", most=MAX_WIDTH) if f.has("q_lora_rank") else None,
        f.integer("kv_lora_rank", default=512, most=MAX_WIDTH),
        f.integer("qk_nope_head_dim", default=128, most=MAX_WIDTH),
        f.integer("qk_rope_head_dim", default=64, most=MAX_WIDTH),
        f.integer("v_head_dim", default=128, most=MAX_WIDTH),
        f.flag("attention_bias", default=False),
        gate=gate,
    )


def delta_channels(heads: int, dim: int, kernel: int, narrow: bool) -> Recurrence:
    """Kimi Delta Attention: a decay for every key channel; decay and gate through ``dim`` features if narrow."""
    inner = heads * dim
    return Recurrence(
        heads=heads, key_heads=heads, key_dim=dim, value_dim=dim, kernel=kernel, conv_channels=3 * inner,
        gate=inner, controls=heads, vectors=inner + heads, norm=dim, rule="delta", chunk=DELTA_CHUNK,
        gate_rank=dim if narrow else 0, decay=inner, decay_rank=dim if narrow else 0,
    )  # fmt: skip


def _kimi_experts(f: Fields) -> Experts:
    count, active = count_and_active(
        f, ("num_experts", "num_local_experts"), ("num_experts_per_token", "num_experts_per_tok"), (256, 8)
    )
    width = f.integer("moe_intermediate_size", default=1024, most=MAX_WIDTH)
    shared = f.integer("num_shared_experts", "n_shared_experts", default=1, least=1, most=2**10)
    groups = f.integer("num_expert_group", "n_group", default=1)
    top = f.integer("topk_group", default=1)
    if count % groups:
        f.problem("num_expert_group", f"found {groups}; expected a divisor of the {count} experts")
    return Experts(count, active, width, groups=groups, top_groups=top, shared=FeedForward(width * shared))


def _sparse_layers(f: Fields, layers: int, dense: int) -> list[bool]:
    named = f.words("mlp_layer_types", layers, ("dense", "sparse"))
    if named:
        return [kind == "sparse" for kind in named]
    first = f.integer("first_k_dense_replace", default=dense, least=0)
    return [index >= first for index in range(layers)]


def read_kimi_linear(f: Fields, model_type: str) -> Decoder:
    """Kimi Linear: delta attention with a decay per channel in three layers of four, latent attention in the fourth.

    Kimi K3 adds residuals by blocks of layers, experts in a narrower width, a gate on latent attention and a gate of
    delta attention that is not narrow.
    """
    sizes = read_sizes(f)
    inner = f.section("linear_attn_config")
    g = inner if inner is not None else f
    prefix = "" if inner is not None else "linear_"
    kernel = "short_conv_kernel_size" if inner is not None else "linear_conv_kernel_dim"
    delta = delta_channels(
        g.integer(f"{prefix}num_heads", default=32, most=MAX_HEADS),
        g.integer(f"{prefix}head_dim", default=128, most=MAX_WIDTH), g.integer(kernel, default=4, most=64), True,
    )  # fmt: skip
    if g.flag("use_full_rank_gate", default=False):
        delta = replace(delta, gate_rank=0)
    latent = _latent(f, 0)
    if f.flag("mla_use_output_gate", default=False):
        latent = replace(latent, gate=latent.heads * latent.v_head_dim)
    default = [
        "full_attention" if index and index % 4 == 0 else "linear_attention" for index in range(sizes.layers)
    ]
    if inner is not None and (full := inner.integers("full_attn_layers", least=1, most=sizes.layers)):
        default = [
            "full_attention" if index + 1 in full else "linear_attention" for index in range(sizes.layers)
        ]
    return _kimi(f, model_type, delta, latent, default, 1)


def read_bailing_hybrid(f: Fields, model_type: str) -> Decoder:
    """Ling hybrid: as Kimi Linear, with full-width decay and gate, and a gate per head on latent attention."""
    heads = f.integer("num_attention_heads", default=32, most=MAX_HEADS)
    latent = _latent(f, heads)
    delta = delta_channels(
        f.integer("linear_num_heads", default=heads, most=MAX_HEADS),
        f.integer("linear_head_dim", "head_dim", default=128, most=MAX_WIDTH),
        f.integer("linear_conv_kernel_dim", "short_conv_kernel_size", default=4, most=64),
        narrow=False,
    )
    layers = f.integer("num_hidden_layers", most=2000)
    step = f.integer("layer_group_size", default=6)
    default = ["linear_attention" if (index + 1) % step else "full_attention" for index in range(layers)]
    return _kimi(f, model_type, delta, latent, default, 2)


def _kimi(
    f: Fields, model_type: str, delta: Recurrence, latent: LatentAttention, default: list[str], dense: int
) -> Decoder:
    sizes = read_sizes(f)
    act = activation(f)
    mlp = FeedForward(f.integer("intermediate_size", default=REQUIRED, most=MAX_WIDTH), activation=act)
    experts = replace(_kimi_experts(f), activation=act)
    if f.has("routed_expert_hidden_size"):
        width = f.integer("routed_expert_hidden_size", most=MAX_WIDTH)
        norm = RMS if f.flag("latent_moe_use_norm", default=False) else None
        experts = replace(experts, latent=width, latent_norm=norm)
    block = f.integer("attn_res_block_size", default=0, least=0, most=2000)
    residual = BlockResidual(block) if block else None
    sparse = _sparse_layers(f, sizes.layers, dense)
    layers = tuple(
        Layer(
            latent if kind == "full_attention" else delta,
            None if sparse[index] else mlp,
            experts if sparse[index] else None,
            mixer_norm=RMS,
            mlp_norm=RMS,
            residual=residual,
        )
        for index, kind in enumerate(_kinds(f, sizes.layers, default))
    )
    omitted = ("multi-token prediction layers",) if f.values.get("num_nextn_predict_layers") else ()
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, False, dtype="bf16", omitted=omitted)


READERS = {
    "recurrent_gemma": read_recurrent_gemma,
    "lfm2": read_lfm2,
    "lfm2_moe": read_lfm2,
    "lfm3": read_lfm3,
    "minimax": read_minimax,
    "minimax_text_01": read_minimax,
    "minimax_m1": read_minimax,
    "olmo_hybrid": read_olmo_hybrid,
    "rwkv": read_rwkv,
    "rwkv7": read_rwkv7,
    "xlstm": read_xlstm,
    "kimi_linear": read_kimi_linear,
    "bailing_hybrid": read_bailing_hybrid,
}
"""Readers by ``model_type``."""
