"""Families with multi-head latent attention: DeepSeek, Kimi, GLM-5 and others, in one table of what sets each apart.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0); DeepSeek-V2
(arXiv:2405.04434) and DeepSeek-V3 (arXiv:2412.19437).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from workloads.transformer.families.common import (
    MAX_HEADS,
    MAX_WIDTH,
    RMS,
    activation,
    layer_kinds,
    read_sizes,
    tied,
    window,
)
from workloads.transformer.families.experts import EXPERT_READERS
from workloads.transformer.families.linear_attention import delta_channels
from workloads.transformer.fields import Fields
from workloads.transformer.shape import (
    Decoder,
    Experts,
    FeedForward,
    HyperConnection,
    Indexer,
    LatentAttention,
    Layer,
    Mixer,
    Norm,
)

__all__ = ["READERS", "read_indexers"]

KINDS: Final = ("full_attention", "indexed_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Traits:
    """What sets a family apart from DeepSeek-V3.

    ``experts``: what reads its mixture, "" for none. ``indexer``: always there, or only where the file has
    ``index_topk``. ``gate``: a gate on the attended values, full or one per head (heads). ``scales``: the norms and
    learned scales of Mistral Large 4, and layers without rotary embedding. ``hyper``: the residual streams are several
    (``hc_mult``). ``index_every``: every so many layers have an indexer of their own where the file does not say.
    ``local_but``: all layers but the first two and every so many have a window where the file does not say.
    ``joint_gate``: the gate comes with the queries. ``gated_norms``: the norms before attention and before experts have
    a gate through ``gated_norm_rank`` features.
    """

    experts: str = "deepseek"
    tied: bool = False
    indexer: bool = False
    gate: str = ""
    rope_norm: bool = False
    sinks: bool = False
    scales: bool = False
    hyper: bool = False
    mlp_bias: bool = False
    index_every: int = 1
    local_but: int = 0
    joint_gate: bool = False
    gated_norms: bool = False


FAMILIES: Final[dict[str, Traits]] = {
    "deepseek_v2": Traits(),
    "deepseek_v3": Traits(),
    "kimi_k2": Traits(),
    "mistral4": Traits(),
    "deepseek_v32": Traits(experts="deepseek_types", indexer=True),
    "glm_moe_dsa": Traits(experts="deepseek_types", indexer=True),
    "glm4_moe_lite": Traits(experts="deepseek_types_1"),
    "axk1": Traits(experts="axk"),
    "axk2": Traits(experts="deepseek_types_1", indexer=True, gate="full", joint_gate=True, gated_norms=True),
    "youtu": Traits(experts="", tied=True),
    "minicpm3": Traits(experts="", tied=True, mlp_bias=True),
    "dots3_note_text": Traits(experts="dots3_note", indexer=True, gate="heads", rope_norm=True, local_but=4),
    "mistral_large4_text": Traits(experts="deepseek_types", indexer=True, scales=True),
    "hy_v4": Traits(
        experts="deepseek_types_1", indexer=True, gate="full", sinks=True, hyper=True, index_every=4
    ),
    "hy_v4_vl_text": Traits(
        experts="deepseek_types_1", indexer=True, gate="full", sinks=True, hyper=True, index_every=4
    ),
}


def read_latent(f: Fields, model_type: str) -> Decoder:
    """The decoder in a config file of one of :data:`FAMILIES`."""
    traits = FAMILIES[model_type]
    sizes = read_sizes(f)
    every = traits.local_but
    default = [
        "sliding_attention" if every and index > 1 and index % every != 1 else "indexed_attention"
        for index in range(sizes.layers)
    ]
    kinds = layer_kinds(f, sizes.layers, default, KINDS)
    indexers = read_indexers(f, sizes.layers, traits.indexer, traits.index_every)
    if traits.scales:
        indexers = [item and replace(item, norm_input=True, vectors=2 * item.heads) for item in indexers]
    span = window(f, 512) if "sliding_attention" in kinds else 0
    attention = _attention(f, traits, sizes.hidden)
    local = _local(f, attention) if traits.local_but and not f.has("per_layer_config") else attention
    turns = _turns(f, traits, sizes.layers)
    bias = traits.mlp_bias and f.flag("mlp_bias", default=False)
    size = f.integer("intermediate_size", most=MAX_WIDTH)
    mlp = FeedForward(size, activation=activation(f), up_bias=bias, down_bias=bias)
    experts: dict[int, Experts] = {}
    if traits.experts:
        experts = EXPERT_READERS[traits.experts](f, sizes.layers, mlp)
    hyper = None
    if traits.hyper:
        streams = f.integer("hc_mult", default=4, most=64)
        hyper = HyperConnection(streams, 2 * streams, 2)
    norm = RMS
    if traits.gated_norms:
        norm = Norm("rms", gate_rank=f.integer("gated_norm_rank", default=16, most=MAX_WIDTH))
    layers = tuple(
        Layer(
            _of_layer(
                local if kind == "sliding_attention" else attention, kind, span, indexers[index], turns[index]
            ),
            None if index in experts else mlp,
            experts.get(index),
            mixer_norm=norm,
            mlp_norm=norm if index in experts else RMS,
            hyper=hyper,
        )
        for index, kind in enumerate(kinds)
    )
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, traits.tied), merges_streams=traits.hyper,
        spare=attention.rope_dim // 2 if traits.scales else 0,
    )  # fmt: skip


def _attention(f: Fields, traits: Traits, hidden: int) -> LatentAttention:
    heads = f.integer("num_attention_heads", most=MAX_HEADS)
    values = f.integer("v_head_dim", default=max(hidden // heads, 1), most=MAX_WIDTH)
    return LatentAttention(
        heads,
        f.integer("q_lora_rank", most=MAX_WIDTH) if f.has("q_lora_rank") else None,
        f.integer("kv_lora_rank", most=MAX_WIDTH),
        f.integer("qk_nope_head_dim", most=MAX_WIDTH),
        f.integer("qk_rope_head_dim", least=0, most=MAX_WIDTH),
        values,
        f.flag("attention_bias", default=False),
        gate={"": 0, "heads": heads, "full": heads * values}[traits.gate],
        rope_norm=traits.rope_norm,
        sinks=traits.sinks,
        vectors=2 * heads if traits.scales else 0,
        joint_gate=traits.joint_gate,
    )


def _local(f: Fields, attention: LatentAttention) -> LatentAttention:
    """Attention of layers with a window, whose sizes have keys of their own (dots3-note)."""
    heads = f.integer("swa_num_attention_heads", default=64, most=MAX_HEADS)
    nope = f.integer("swa_qk_nope_head_dim", default=192, most=MAX_WIDTH)
    whole = f.integer("swa_head_dim", default=256, most=MAX_WIDTH)
    return replace(
        attention,
        heads=heads,
        q_rank=f.integer("swa_q_lora_rank", default=1024, most=MAX_WIDTH),
        kv_rank=f.integer("swa_kv_lora_rank", default=1024, most=MAX_WIDTH),
        nope_dim=nope,
        rope_dim=f.integer("swa_qk_rope_head_dim", default=max(whole - nope, 1), most=MAX_WIDTH),
        v_head_dim=f.integer("swa_v_head_dim", default=128, most=MAX_WIDTH),
        gate=heads,
    )


def _of_layer(
    attention: LatentAttention, kind: str, span: int, indexer: Indexer | None, turns: bool
) -> LatentAttention:
    """The attention of one layer: without rotary embedding all features of a key come from the latent."""
    if not turns:
        wide = attention.nope_dim + attention.rope_dim
        attention = replace(attention, nope_dim=wide, rope_dim=0)
    if kind == "sliding_attention":
        return replace(attention, window=span)
    return replace(attention, indexer=indexer)


def _turns(f: Fields, traits: Traits, layers: int) -> list[bool]:
    """Which layers have rotary embedding."""
    if not traits.scales:
        return [True] * layers
    given = f.integers("no_rope_layers", layers, most=1)
    every = f.integer("no_rope_layer_interval", default=4)
    return [bool(flag) for flag in given] if given else [(i + 1) % every != 0 for i in range(layers)]


def read_indexers(f: Fields, layers: int, always: bool, every: int = 1) -> list[Indexer | None]:
    """The indexer of each layer: its own, or the choice of the nearest earlier layer that has one."""
    if not always and not f.has("index_topk"):
        return [None] * layers
    indexer = Indexer(
        f.integer("index_n_heads", default=32, most=MAX_HEADS),
        f.integer("index_head_dim", default=128, most=MAX_WIDTH),
        f.integer("index_topk", default=2048),
    )
    default = _indexer_pattern(f, layers, every)
    kinds = f.words("indexer_types", layers, ("full", "shared")) or default
    found: list[Indexer | None] = []
    own = None
    for index, kind in enumerate(kinds):
        if kind == "full":
            own = index
        elif own is None:
            f.problem("indexer_types", f"layer {index} shares an indexer; expected a full one before it")
            own = index
        found.append(indexer if own == index else replace(indexer, of=own))
    return found


def _indexer_pattern(f: Fields, layers: int, every: int) -> list[str]:
    """GLM-5.2: a word of letters (F, S), or every n-th layer from an offset on has an indexer of its own."""
    pattern = f.value("index_topk_pattern")
    names = {"F": "full", "S": "shared"}
    if isinstance(pattern, str) and len(pattern) == layers and set(pattern) <= set(names):
        return [names[letter] for letter in pattern]
    if pattern is not None:
        f.problem("index_topk_pattern", f"expected one letter F or S for each of {layers} layers")
    every = f.integer("index_topk_freq", default=every)
    first = f.integer("index_skip_topk_offset", default=2, least=0)
    return ["full" if max(i - first + 1, 0) % every == 0 else "shared" for i in range(layers)]


def read_longcat(f: Fields, model_type: str) -> Decoder:
    """LongCat-Flash: each layer has two attentions and two dense parts; experts beside the first dense part.

    Their sum joins the stream at the end of the layer, which leaves the engine time to fetch it; here it is added with
    the first dense part. Experts that pass a token on unchanged have no weights, as in the checkpoint.
    """
    sizes = read_sizes(f, layers="num_layers")
    attention = _attention(f, Traits(), sizes.hidden)
    whole = attention.nope_dim + attention.rope_dim
    if f.has("qk_head_dim") and f.integer("qk_head_dim", most=MAX_WIDTH) != whole:
        f.problem("qk_head_dim", f"expected {whole}, the features of a key without and with rotary embedding")
    act = activation(f)
    mlp = FeedForward(f.integer("ffn_hidden_size", most=MAX_WIDTH), activation=act)
    idle = f.integer("zero_expert_num", default=0, least=0, most=2**16)
    count = f.integer("n_routed_experts", most=2**16)
    active = f.integer("moe_topk", most=2**16)
    if active > count + idle:
        f.problem("moe_topk", f"found {active}; expected at most the number of experts ({count + idle})")
        active = count
    width = f.integer("expert_ffn_hidden_size", most=MAX_WIDTH)
    bias = f.flag("router_bias", default=False)
    experts = Experts(count, active, width, activation=act, router_bias=bias, idle=idle)
    pair = (
        Layer(attention, mlp, experts, mixer_norm=RMS, mlp_norm=RMS),
        Layer(attention, mlp, mixer_norm=RMS, mlp_norm=RMS),
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, pair * sizes.layers, RMS, tied(f, False))


def read_glm5_next(f: Fields, model_type: str) -> Decoder:
    """GLM-5-Next: delta attention in three layers of four, latent attention with an indexer of pools in the fourth.

    The residual streams are several and are averaged at the end.
    """
    sizes = read_sizes(f)
    default = ["linear_attention" if i % 4 != 3 else "indexed_attention" for i in range(sizes.layers)]
    renamed = f.words("layer_types", sizes.layers)
    if renamed:
        renamed = ["indexed_attention" if kind == "full_attention" else kind for kind in renamed]
        f = replace(f, values={**f.values, "layer_types": renamed})
    kinds = layer_kinds(f, sizes.layers, default, ("linear_attention", "indexed_attention"))
    inner = f.section("linear_attn_config")
    g, prefix = (f, "linear_") if inner is None else (inner, "")
    delta = delta_channels(
        g.integer(f"{prefix}num_heads", default=64, most=MAX_HEADS),
        g.integer(f"{prefix}head_dim", default=128, most=MAX_WIDTH),
        g.integer("linear_conv_kernel_dim", "short_conv_kernel_size", default=4, most=64),
        narrow=True,
    )
    pool = f.integer("index_kpool", default=16, most=2**16)
    if (f.integer("index_topk", default=2048)) % pool:
        f.problem("index_topk", f"found {f.value('index_topk')}; expected a multiple of index_kpool ({pool})")
    indexers = [item and replace(item, pool=pool) for item in read_indexers(f, sizes.layers, True)]
    attention = _attention(f, Traits(), sizes.hidden)
    mlp = FeedForward(f.integer("intermediate_size", most=MAX_WIDTH), activation=activation(f))
    experts = EXPERT_READERS["deepseek_types_3"](f, sizes.layers, mlp)
    streams = f.integer("hc_mult", default=4, most=64)
    hyper = HyperConnection(streams, (2 + streams) * streams, 3)
    mixers: list[Mixer] = [
        delta if kind == "linear_attention" else replace(attention, indexer=indexers[index])
        for index, kind in enumerate(kinds)
    ]
    layers = tuple(
        Layer(mixer, None if index in experts else mlp, experts.get(index), mixer_norm=RMS, mlp_norm=RMS, hyper=hyper)
        for index, mixer in enumerate(mixers)
    )  # fmt: skip
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), dtype="bf16")


READERS = {
    "glm5_next_text": read_glm5_next,
    **dict.fromkeys(FAMILIES, read_latent),
    "longcat_flash": read_longcat,
}
"""Readers by ``model_type``."""
