"""State-space families: Mamba and Mamba-2 alone, beside attention, and with shared transformer blocks.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0). Where a file gives a size twice
(width of the states, and heads times their width) both must agree, as the published code asks.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Final

from workloads.transformer.families.common import (
    MAX_HEADS,
    MAX_WIDTH,
    RMS,
    Heads,
    Sizes,
    activation,
    grouped_attention,
    read_heads,
    read_sizes,
    rotary_dim,
    tied,
)
from workloads.transformer.families.experts import count_and_active
from workloads.transformer.fields import Fields
from workloads.transformer.shape import (
    Attention,
    Decoder,
    Experts,
    FeedForward,
    Layer,
    Recurrence,
    SelectiveScan,
    SharedBlock,
)

__all__ = ["READERS", "mamba2"]

SSM_CHUNK: Final = 256
"""Default of the ``chunk_size`` of Mamba-2's configurations."""
MAMBA: Final = ("linear_attention", "mamba")
_PLAIN_KINDS: Final = ("linear_attention", "mamba", "mamba2", "hybrid")


def mamba2(
    f: Fields, inner: int, heads: int, head_dim: int, state: int, groups: int, kernel: int, chunk: int
) -> Recurrence:
    """A Mamba-2 mixer of ``heads`` states of ``state`` x ``head_dim``, with B and C in ``groups``; no biases.

    ``inner`` is the width that the file gives beside heads and their width.
    """
    if heads * head_dim != inner:
        f.problem(
            "", f"found {heads} Mamba heads of {head_dim}; expected a product of {inner}, the states' width"
        )
    if heads % groups or inner % groups:
        f.problem("", f"found {groups} Mamba groups; expected a divisor of {heads} heads and of {inner}")
    return Recurrence(
        heads=heads, key_heads=groups, key_dim=state, value_dim=head_dim, kernel=kernel,
        conv_channels=inner + 2 * groups * state, gate=inner, controls=heads, vectors=3 * heads, norm=inner,
        rule="decay", chunk=chunk,
    )  # fmt: skip


def _expanded(f: Fields, name: str, hidden: int) -> int:
    return int(f.number(name, default=2, least=1 / 64, most=64) * hidden)


def _step_rank(f: Fields, name: str, hidden: int) -> int:
    """Features of the step sizes; ``auto`` is a sixteenth of the width."""
    if f.values.get(name, "auto") == "auto":
        return ceil(hidden / 16)
    return f.integer(name, most=MAX_WIDTH)


def _language_model(
    f: Fields, model_type: str, sizes: Sizes, layers: tuple[Layer, ...], tied_by_default: bool
) -> Decoder:
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, tied_by_default), dtype="bf16")


def read_mamba(f: Fields, model_type: str) -> Decoder:
    """Mamba and Falcon-Mamba: a selective scan in every layer and nothing else."""
    sizes = read_sizes(f, "hidden_size", "num_hidden_layers")
    bias = f.flag("use_bias", default=False)
    scan = SelectiveScan(
        f.integer("intermediate_size", default=_expanded(f, "expand", sizes.hidden), most=MAX_WIDTH),
        f.integer("state_size", default=16, most=MAX_WIDTH),
        f.integer("conv_kernel", default=4, most=64), _step_rank(f, "time_step_rank", sizes.hidden),
        conv_bias=f.flag("use_conv_bias", default=True), projection_bias=bias,
    )  # fmt: skip
    activation(f)
    layers = (Layer(scan, mixer_norm=RMS),) * sizes.layers
    return _language_model(f, model_type, sizes, layers, True)


def read_mamba2(f: Fields, model_type: str) -> Decoder:
    """Mamba-2: a state-space duality layer each."""
    sizes = read_sizes(f)
    bias = f.flag("use_bias", default=False)
    heads = f.integer("num_heads", default=128, most=MAX_HEADS)
    mixer = mamba2(
        f, _expanded(f, "expand", sizes.hidden), heads, f.integer("head_dim", default=64, most=MAX_WIDTH),
        f.integer("state_size", default=128, most=MAX_WIDTH), f.integer("n_groups", default=8, most=MAX_HEADS),
        f.integer("conv_kernel", default=4, most=64), f.integer("chunk_size", default=SSM_CHUNK, most=1 << 16),
    )  # fmt: skip
    mixer = replace(
        mixer, conv_bias=f.flag("use_conv_bias", default=True), projection_bias=bias, out_bias=bias
    )
    activation(f)
    return _language_model(f, model_type, sizes, (Layer(mixer, mixer_norm=RMS),) * sizes.layers, False)


def _mamba2_of(f: Fields, inner: int, out_bias: bool, norm: bool = True) -> Recurrence:
    """Mamba-2 under the names that hybrids give its fields (``mamba_...``)."""
    heads = f.integer("mamba_n_heads", default=128, most=MAX_HEADS)
    given = f.values.get("mamba_d_head", "auto") not in ("auto", None)
    head_dim = f.integer("mamba_d_head", most=MAX_WIDTH) if given else max(inner // heads, 1)
    mixer = mamba2(
        f, inner, heads, head_dim, f.integer("mamba_d_state", default=256, most=MAX_WIDTH),
        f.integer("mamba_n_groups", default=1, most=MAX_HEADS), f.integer("mamba_d_conv", default=4, most=64),
        f.integer("mamba_chunk_size", default=SSM_CHUNK, most=1 << 16),
    )  # fmt: skip
    return replace(
        mixer, conv_bias=f.flag("mamba_conv_bias", default=True), out_bias=out_bias,
        projection_bias=f.flag("mamba_proj_bias", default=False), norm=inner if norm else 0,
    )  # fmt: skip


def read_falcon_h1(f: Fields, model_type: str) -> Decoder:
    """Falcon-H1: attention and Mamba-2 side by side on one normed input, then a dense part."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden)
    bias = f.flag("attention_bias", default=False)
    attention = grouped_attention(heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias)
    inner = f.integer("mamba_d_ssm", default=0, least=0, most=MAX_WIDTH) or _expanded(
        f, "mamba_expand", sizes.hidden
    )
    mixer = _mamba2_of(
        f, inner, f.flag("projectors_bias", default=False), f.flag("mamba_rms_norm", default=False)
    )
    mlp_bias = f.flag("mlp_bias", default=False)
    width = f.integer("intermediate_size", default=14336, most=MAX_WIDTH)
    mlp = FeedForward(width, activation=activation(f), up_bias=mlp_bias, down_bias=mlp_bias)
    layer = Layer(attention, mlp, mixer_norm=RMS, mlp_norm=RMS, beside_mixer=mixer)
    return _language_model(f, model_type, sizes, (layer,) * sizes.layers, False)


def read_bamba(f: Fields, model_type: str) -> Decoder:
    """Bamba: Mamba-2, with attention in the layers that ``attn_layer_indices`` names, and a dense part each."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_kv=8)
    bias = f.flag("attention_bias", default=False)
    attention = grouped_attention(
        heads,
        rotary_dim(f, heads.head_dim, default=0.5),
        q_bias=bias,
        k_bias=bias,
        v_bias=bias,
        out_bias=bias,
    )
    proj_bias = f.flag("mamba_proj_bias", default=False)
    mixer = _mamba2_of(f, _expanded(f, "mamba_expand", sizes.hidden), proj_bias)
    mlp_bias = f.flag("mlp_bias", default=False)
    width = f.integer("intermediate_size", default=14336, most=MAX_WIDTH)
    mlp = FeedForward(width, activation=activation(f), up_bias=mlp_bias, down_bias=mlp_bias)
    attending = set(f.integers("attn_layer_indices", most=sizes.layers - 1) or ())
    layers = tuple(
        Layer(attention if index in attending else mixer, mlp, mixer_norm=RMS, mlp_norm=RMS)
        for index in range(sizes.layers)
    )
    return _language_model(f, model_type, sizes, layers, False)


def _periodic(f: Fields, what: str, layers: int, period: int, offset: int) -> list[bool]:
    """Layers that come once in a period."""
    step = f.integer(f"{what}_layer_period", default=period)
    first = f.integer(f"{what}_layer_offset", default=offset, least=0)
    if first >= step:
        f.problem(f"{what}_layer_offset", f"found {first}; expected less than {what}_layer_period ({step})")
    return [index % step == first for index in range(layers)]


def read_jamba(f: Fields, model_type: str) -> Decoder:
    """Jamba: a selective scan with normed vectors, attention once in a period, experts in every other layer."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_kv=8)
    attention = grouped_attention(heads, 0)
    bias = f.flag("mamba_proj_bias", default=False)
    scan = SelectiveScan(
        _expanded(f, "mamba_expand", sizes.hidden), f.integer("mamba_d_state", default=16, most=MAX_WIDTH),
        f.integer("mamba_d_conv", default=4, most=64), _step_rank(f, "mamba_dt_rank", sizes.hidden),
        conv_bias=f.flag("mamba_conv_bias", default=True), projection_bias=bias, norms=True,
    )  # fmt: skip
    act = activation(f)
    mlp = FeedForward(f.integer("intermediate_size", default=14336, most=MAX_WIDTH), activation=act)
    count = f.integer("num_experts", default=16, most=2**16)
    experts = None
    if count > 1:
        number, active = count_and_active(f, ("num_experts",), ("num_experts_per_tok",), (16, 2))
        experts = Experts(number, active, mlp.intermediate, activation=act)
    attends = _periodic(f, "attn", sizes.layers, 8, 4)
    routed = _periodic(f, "expert", sizes.layers, 2, 1)
    layers = tuple(
        Layer(
            attention if attends[index] else scan,
            None if routed[index] and experts else mlp,
            experts if routed[index] else None,
            mixer_norm=RMS,
            mlp_norm=RMS,
        )
        for index in range(sizes.layers)
    )
    return _language_model(f, model_type, sizes, layers, False)


def _zamba_kinds(f: Fields, layers: int, default: list[str]) -> list[bool]:
    """Which layers have a shared block before them."""
    named = f.words("layers_block_type", None, _PLAIN_KINDS) or f.words("layer_types", None, _PLAIN_KINDS)
    kinds = named or default
    if named and len(kinds) != layers:
        f.problem("layers_block_type", f"found {len(kinds)} layers; expected num_hidden_layers ({layers})")
    return [kind == "hybrid" for kind in kinds]


def read_zamba(f: Fields, model_type: str) -> Decoder:
    """Zamba: a selective scan in every layer, and one transformer block that some of them share."""
    sizes = read_sizes(f)
    inner = _expanded(f, "mamba_expand", sizes.hidden)
    parts = f.integer("n_mamba_heads", default=2, most=MAX_HEADS)
    if inner % parts:
        f.problem("n_mamba_heads", f"found {parts}; expected a divisor of the states' width {inner}")
    scan = SelectiveScan(
        inner, f.integer("mamba_d_state", default=16, most=MAX_WIDTH),
        f.integer("mamba_d_conv", default=4, most=64), _step_rank(f, "mamba_dt_rank", sizes.hidden), parts,
        f.flag("mamba_conv_bias", default=True), f.flag("mamba_proj_bias", default=False),
    )  # fmt: skip
    heads = f.integer("num_attention_heads", default=16, most=MAX_HEADS)
    attention = _wide_attention(
        f, sizes.hidden, heads, f.integer("attention_head_dim", default=0, least=0), False
    )
    _check_width(f, sizes.hidden)
    mlp = FeedForward(
        f.integer("intermediate_size", default=4 * sizes.hidden, most=MAX_WIDTH), activation=activation(f)
    )
    period = f.integer("attn_layer_period", default=6)
    offset = f.integer("attn_layer_offset", default=4, least=0)
    default = ["linear_attention", "linear_attention", "hybrid"] + [
        "hybrid" if index % period == offset else "linear_attention" for index in range(sizes.layers - 3)
    ]
    shared = _zamba_kinds(f, sizes.layers, default[: sizes.layers])
    once = tied(f, True)
    layers = tuple(
        # The published code shares the block by the same rule that ties the embeddings.
        Layer(
            scan, mixer_norm=RMS, shared=SharedBlock(0 if once else index, attention, mlp) if here else None
        )
        for index, here in enumerate(shared)
    )
    return _language_model(f, model_type, sizes, layers, True)


def _check_width(f: Fields, hidden: int) -> None:
    given = f.integer("attention_hidden_size", default=2 * hidden, most=MAX_WIDTH)
    if given != 2 * hidden:
        f.problem("attention_hidden_size", f"found {given}; expected twice hidden_size ({2 * hidden})")


def _wide_attention(f: Fields, hidden: int, heads: int, head_dim: int, rotary: bool) -> Attention:
    """Attention over stream and embeddings side by side, back to the model's width."""
    kv = f.integer("num_key_value_heads", default=heads, most=MAX_HEADS)
    if heads % kv:
        f.problem("num_key_value_heads", f"found {kv}; expected a divisor of num_attention_heads ({heads})")
    size = head_dim or max(2 * hidden // heads, 1)
    return grouped_attention(Heads(heads, kv, size), size if rotary else 0, out=hidden)


def read_zamba2(f: Fields, model_type: str) -> Decoder:
    """Zamba2: Mamba-2 in every layer, and a few transformer blocks that some share in turn, each with adapters."""
    sizes = read_sizes(f)
    inner = _expanded(f, "mamba_expand", sizes.hidden)
    count = f.integer("n_mamba_heads", default=8, most=MAX_HEADS)
    bias = f.flag("add_bias_linear", default=False)
    mixer = mamba2(
        f, inner, count, f.integer("mamba_headdim", default=max(inner // count, 1), most=MAX_WIDTH),
        f.integer("mamba_d_state", default=64, most=MAX_WIDTH),
        f.integer("mamba_ngroups", default=1, most=MAX_HEADS), f.integer("mamba_d_conv", default=4, most=64),
        f.integer("chunk_size", default=SSM_CHUNK, most=1 << 16),
    )  # fmt: skip
    mixer = replace(mixer, conv_bias=True, projection_bias=bias, out_bias=bias)
    if f.flag("use_shared_attention_adapter", default=False):
        f.problem("use_shared_attention_adapter", "found true; adapters in shared attention are not modelled")
    heads = f.integer("num_attention_heads", default=32, most=MAX_HEADS)
    _check_width(f, sizes.hidden)
    head_dim = f.integer("attention_head_dim", default=0, least=0, most=MAX_WIDTH)
    attention = _wide_attention(f, sizes.hidden, heads, head_dim, f.flag("use_mem_rope", default=False))
    width = f.integer("intermediate_size", default=4 * sizes.hidden, most=MAX_WIDTH)
    mlp = FeedForward(width, activation=activation(f, default="gelu"), up_bias=bias, down_bias=bias)
    rank = f.integer("adapter_rank", default=128, most=MAX_WIDTH)
    groups = f.integer("num_mem_blocks", default=1, most=MAX_HEADS)
    plain = "linear_attention"
    default = [plain] + ([plain] * 5 + ["hybrid"]) * 7 + [plain] * 4 + ["hybrid"] + [plain] * 3 + ["hybrid"]
    shared = _zamba_kinds(f, sizes.layers, [*default, plain, plain])
    if not tied(f, True):
        f.problem("tie_word_embeddings", "found false; shared blocks without shared weights are not modelled")
    layers: list[Layer] = []
    for here in shared:
        number = sum(layer.shared is not None for layer in layers)
        block = SharedBlock(number % groups, attention, mlp, rank) if here else None
        layers.append(Layer(mixer, mixer_norm=RMS, shared=block))
    return _language_model(f, model_type, sizes, tuple(layers), True)


READERS = {
    "mamba": read_mamba,
    "falcon_mamba": read_mamba,
    "mamba2": read_mamba2,
    "falcon_h1": read_falcon_h1,
    "bamba": read_bamba,
    "jamba": read_jamba,
    "zamba": read_zamba,
    "zamba2": read_zamba2,
}
"""Readers by ``model_type``."""
