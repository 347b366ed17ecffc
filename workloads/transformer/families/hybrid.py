"""Hybrid families: most layers carry a state, some attend; and models whose blocks were searched one by one.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from workloads.transformer.families.common import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    RMS,
    Heads,
    activation,
    grouped_attention,
    layer_kinds,
    read_heads,
    read_sizes,
    rotary_dim,
    tied,
    window,
)
from workloads.transformer.families.experts import EXPERT_READERS, count_and_active
from workloads.transformer.fields import REQUIRED, Fields
from workloads.transformer.shape import Decoder, Experts, FeedForward, Layer, Mixer, Recurrence

__all__ = ["READERS"]

DELTA_CHUNK: Final = 64
"""Tokens that kernels of the gated delta rule take at once (flash-linear-attention, FlashInfer)."""

SSM_CHUNK: Final = 256
"""Default of the ``chunk_size`` of Mamba-2's configurations."""


def read_qwen3_next(f: Fields, model_type: str) -> Decoder:
    """Qwen3-Next and Qwen3.5: gated delta rule in three layers of four, gated attention in the fourth."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=256, default_kv=2)
    bias = f.flag("attention_bias", default=False)
    attention = grouped_attention(
        heads, rotary_dim(f, heads.head_dim, default=0.25),
        q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
        q_norm=heads.head_dim, k_norm=heads.head_dim, gate=heads.heads * heads.head_dim,
        gate_bias=bias,
    )  # fmt: skip
    delta = _gated_delta(f)
    interval = f.integer("full_attention_interval", default=4)
    default = [
        "full_attention" if (index + 1) % interval == 0 else "linear_attention"
        for index in range(sizes.layers)
    ]
    kinds = layer_kinds(f, sizes.layers, default, ("full_attention", "linear_attention"))
    sparse = model_type in ("qwen3_next", "qwen3_5_moe_text")
    act = activation(f)
    width = f.integer("intermediate_size", default=5632 if sparse else REQUIRED, most=MAX_WIDTH)
    mlp = FeedForward(width, activation=act)
    experts = EXPERT_READERS["qwen2_moe"](f, sizes.layers, mlp) if sparse else {}
    layers = tuple(
        Layer(
            delta if kind == "linear_attention" else attention,
            None if index in experts else mlp,
            experts.get(index),
            mixer_norm=RMS,
            mlp_norm=RMS,
        )
        for index, kind in enumerate(kinds)
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), dtype="bf16")


def _gated_delta(f: Fields) -> Recurrence:
    """The gated delta rule under the keys of Qwen3-Next."""
    key_heads = f.integer("linear_num_key_heads", default=16, most=MAX_HEADS)
    value_heads = f.integer("linear_num_value_heads", default=32, most=MAX_HEADS)
    key_dim = f.integer("linear_key_head_dim", default=128, most=MAX_WIDTH)
    value_dim = f.integer("linear_value_head_dim", default=128, most=MAX_WIDTH)
    if value_heads % key_heads:
        f.problem(
            "linear_num_value_heads", f"found {value_heads}; expected a multiple of {key_heads} key heads"
        )
    return Recurrence(
        heads=value_heads, key_heads=key_heads, key_dim=key_dim, value_dim=value_dim,
        kernel=f.integer("linear_conv_kernel_dim", default=4, most=64),
        conv_channels=2 * key_heads * key_dim + value_heads * value_dim, gate=value_heads * value_dim,
        controls=2 * value_heads, vectors=2 * value_heads, norm=value_dim, rule="delta", chunk=DELTA_CHUNK,
    )  # fmt: skip


def read_lara_mini(f: Fields, model_type: str) -> Decoder:
    """Lara Mini: gated delta rule, local attention with rotary embedding and global attention without, by turns."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=128)
    bias = f.flag("attention_bias", default=False)
    local = grouped_attention(
        heads, rotary_dim(f, heads.head_dim), q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
        q_norm=heads.head_dim, k_norm=heads.head_dim, window=window(f, 512),
    )  # fmt: skip
    mixers: dict[str, Mixer] = {
        "linear_attention": _gated_delta(f),
        "sliding_attention": local,
        "full_attention": replace(local, rotary_dim=0, window=0),
    }
    pattern = [
        "linear_attention",
        "sliding_attention",
        "linear_attention",
        "full_attention",
        "sliding_attention",
    ]
    default = [pattern[index % len(pattern)] for index in range(sizes.layers)]
    mlp = FeedForward(
        f.integer("moe_intermediate_size", default=512, most=MAX_WIDTH), activation=activation(f)
    )
    experts = EXPERT_READERS["lara_mini"](f, sizes.layers, mlp)
    layers = tuple(
        Layer(mixers[kind], None, experts[index], mixer_norm=RMS, mlp_norm=RMS)
        for index, kind in enumerate(layer_kinds(f, sizes.layers, default, tuple(mixers)))
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, True), dtype="bf16")


_BLOCK_LETTERS: Final = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_BLOCK_NAMES: Final = {
    "mamba": "mamba", "linear_attention": "mamba", "attention": "attention", "full_attention": "attention",
    "mlp": "mlp", "moe": "moe",
}  # fmt: skip


def read_nemotron_h(f: Fields, model_type: str) -> Decoder:
    """Nemotron-H: every layer is one part alone: Mamba-2, attention without rotary, dense or experts."""
    hidden = f.integer("hidden_size", most=MAX_WIDTH)
    vocab = f.integer("vocab_size")
    kinds = _nemotron_kinds(f)
    heads = read_heads(f, hidden, default_head_dim=128)
    # The class declares biases of attention and ties, but has neither.
    f.flag("attention_bias", default=False)
    f.flag("tie_word_embeddings", default=False)
    attention = grouped_attention(heads, 0)
    mamba_heads = f.integer("mamba_num_heads", default=128, most=MAX_HEADS)
    head_dim = f.integer("mamba_head_dim", default=64, most=MAX_WIDTH)
    state = f.integer("ssm_state_size", default=128, most=MAX_WIDTH)
    groups = f.integer("n_groups", "mamba_n_groups", default=8, most=MAX_HEADS)
    inner = mamba_heads * head_dim
    mamba = Recurrence(
        heads=mamba_heads, key_heads=groups, key_dim=state, value_dim=head_dim,
        kernel=f.integer("conv_kernel", "mamba_d_conv", default=4, most=64),
        conv_channels=inner + 2 * groups * state, gate=inner, controls=mamba_heads, vectors=3 * mamba_heads,
        norm=inner, rule="decay",
        chunk=f.integer("chunk_size", "mamba_chunk_size", default=SSM_CHUNK, most=1 << 16),
        conv_bias=f.flag("use_conv_bias", "mamba_conv_bias", default=True),
        projection_bias=f.flag("use_bias", default=False), out_bias=f.flag("use_bias", default=False),
    )  # fmt: skip
    act = activation(f, "mlp_hidden_act", default="relu2")
    mlp_bias = f.flag("mlp_bias", default=False)
    mlp = None
    if "mlp" in kinds:
        mlp = FeedForward(f.integer("intermediate_size", most=MAX_WIDTH), False, act, mlp_bias, mlp_bias)
    experts = _nemotron_experts(f, act, mlp_bias) if "moe" in kinds else None
    parts = {
        "mamba": Layer(mamba, mixer_norm=RMS),
        "attention": Layer(attention, mixer_norm=RMS),
        "mlp": Layer(None, mlp, mlp_norm=RMS),
        "moe": Layer(None, None, experts, mlp_norm=RMS),
    }
    layers = tuple(parts[kind] for kind in kinds)
    return Decoder(model_type, hidden, vocab, layers, RMS, False, dtype="bf16")


def _nemotron_kinds(f: Fields) -> list[str]:
    """The kind of each layer: a list of names, or one letter each."""
    if f.has("layers_block_type"):
        names = f.words("layers_block_type", None, _BLOCK_NAMES) or []
        return [_BLOCK_NAMES[name] for name in names]
    pattern = f.word("hybrid_override_pattern").replace("|", "")
    wrong = sorted(set(pattern) - set(_BLOCK_LETTERS))
    if wrong or len(pattern) > MAX_LAYERS:
        f.problem(
            "hybrid_override_pattern", f"found {wrong or len(pattern)}; expected up to 2000 of M, *, - and E"
        )
        return []
    number = f.integer("num_hidden_layers", default=len(pattern), most=MAX_LAYERS)
    if pattern and number != len(pattern):
        f.problem(
            "hybrid_override_pattern", f"found {len(pattern)} layers; expected num_hidden_layers ({number})"
        )
    return [_BLOCK_LETTERS[letter] for letter in pattern]


def _nemotron_experts(f: Fields, act: str, bias: bool) -> Experts:
    count, active = count_and_active(f, ("n_routed_experts",), ("num_experts_per_tok",), (8, 2))
    wide = f.integer("moe_shared_expert_intermediate_size", default=7688, most=MAX_WIDTH)
    shared = FeedForward(wide, False, act, bias, bias)
    return Experts(
        count, active, f.integer("moe_intermediate_size", default=7688, most=MAX_WIDTH), False, act,
        latent_bias=bias, shared=shared if f.integer("n_shared_experts", default=1, least=0) else None,
        groups=f.integer("n_group", default=1), top_groups=f.integer("topk_group", default=1),
        latent=f.integer("moe_latent_size", default=0, least=0, most=MAX_WIDTH),
    )  # fmt: skip


def read_granite_hybrid(f: Fields, model_type: str) -> Decoder:
    """Granite 4: Mamba-2 or attention, then a shared feed-forward part, with experts beside it or not."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden)
    bias = f.flag("attention_bias", default=False)
    rope = f.word("position_embedding_type", default="rope") == "rope"
    attention = grouped_attention(
        heads, heads.head_dim if rope else 0, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias
    )
    count = f.integer("mamba_n_heads", default=128, most=MAX_HEADS)
    expanded = f.integer("mamba_expand", default=2, most=64) * sizes.hidden
    given = f.has("mamba_d_head") and f.value("mamba_d_head") != "auto"
    head_dim = f.integer("mamba_d_head", most=MAX_WIDTH) if given else max(expanded // count, 1)
    state = f.integer("mamba_d_state", default=256, most=MAX_WIDTH)
    groups = f.integer("mamba_n_groups", default=1, most=MAX_HEADS)
    inner = count * head_dim
    mamba = Recurrence(
        heads=count, key_heads=groups, key_dim=state, value_dim=head_dim,
        kernel=f.integer("mamba_d_conv", default=4, most=64),
        conv_channels=inner + 2 * groups * state, gate=inner,
        controls=count, vectors=3 * count, norm=inner, rule="decay",
        chunk=f.integer("chunk_size", "mamba_chunk_size", default=SSM_CHUNK, most=1 << 16),
        conv_bias=f.flag("mamba_conv_bias", default=True),
        projection_bias=f.flag("mamba_proj_bias", default=False),
        out_bias=f.flag("mamba_proj_bias", default=False),
    )  # fmt: skip
    kinds = f.words("layer_types", sizes.layers, _BLOCK_NAMES) or ["mamba"] * sizes.layers
    act = activation(f)
    shared = FeedForward(f.integer("shared_intermediate_size", default=1024, most=MAX_WIDTH), activation=act)
    experts = None
    if f.integer("num_local_experts", default=8, least=0, most=2**16):
        number, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (8, 2))
        width = f.integer("intermediate_size", most=MAX_WIDTH)
        experts = Experts(number, active, width, activation=act, shared=shared)
    layers = tuple(
        Layer(
            mamba if _BLOCK_NAMES[kind] == "mamba" else attention,
            shared if experts is None else None,
            experts,
            mixer_norm=RMS,
            mlp_norm=RMS,
        )
        for kind in kinds
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), dtype="bf16")


def read_nemotron_nas(f: Fields, model_type: str) -> Decoder:
    """Llama-Nemotron: heads and widths were searched block by block; parts may be missing."""
    sizes = read_sizes(f)
    heads = f.integer("num_attention_heads", most=MAX_HEADS)
    bias = f.flag("attention_bias", default=False)
    mlp_bias = f.flag("mlp_bias", default=False)
    act = activation(f)
    blocks = f.value("block_configs")
    if not isinstance(blocks, list) or len(blocks) != sizes.layers:
        found = f"{len(blocks)} entries" if isinstance(blocks, list) else repr(type(blocks).__name__)
        f.problem("block_configs", f"found {found}; expected a list of {sizes.layers}, one per layer")
        return Decoder(model_type, sizes.hidden, sizes.vocab, (), RMS, tied(f, False))
    layers = []
    for index, block in enumerate(blocks):
        g = Fields(block if isinstance(block, dict) else {}, f.file, f.line_of,
                   (*f.path, "block_configs", str(index)), f.problems)  # fmt: skip
        attention, ffn = g.section("attention"), g.section("ffn")
        if attention is None or ffn is None:
            g.problem("", "expected a mapping with attention and ffn")
            continue
        for part in (attention, ffn):
            if part.flag("replace_with_linear", default=False):
                part.problem(
                    "replace_with_linear", "found true; a block replaced by a linear layer is not modelled"
                )
        mixer = None
        if not attention.flag("no_op", default=False):
            group = attention.integer("n_heads_in_group", most=MAX_HEADS)
            head_dim = max(sizes.hidden // heads, 1)
            if heads % group:
                attention.problem("n_heads_in_group", f"found {group}; expected a divisor of {heads} heads")
            mixer = grouped_attention(
                Heads(heads, max(heads // group, 1), head_dim), head_dim,
                q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
            )  # fmt: skip
        mlp = None
        if not ffn.flag("no_op", default=False):
            width = int(2 * ffn.number("ffn_mult", least=0.001, most=100) * sizes.hidden / 3)
            mlp = FeedForward(-(-width // 256) * 256, activation=act, up_bias=mlp_bias, down_bias=mlp_bias)
        layers.append(
            Layer(mixer, mlp, mixer_norm=RMS if mixer else None, mlp_norm=RMS if mlp else None)
        )  # fmt: skip
    return Decoder(model_type, sizes.hidden, sizes.vocab, tuple(layers), RMS, tied(f, False))


READERS = {
    "lara_mini": read_lara_mini,
    "qwen3_next": read_qwen3_next,
    "qwen3_5_text": read_qwen3_next,
    "qwen3_5_moe_text": read_qwen3_next,
    "nemotron_h": read_nemotron_h,
    "granitemoehybrid": read_granite_hybrid,
    "nemotron-nas": read_nemotron_nas,
}
"""Readers by ``model_type``."""
