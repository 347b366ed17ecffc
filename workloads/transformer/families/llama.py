"""Pre-norm decoders with rotary embedding, in the line of Llama, by the table of what sets each family apart."""

from __future__ import annotations

from dataclasses import replace

from workloads.transformer.families.common import (
    LAYER_KINDS,
    MAX_HEADS,
    MAX_WIDTH,
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
from workloads.transformer.families.experts import EXPERT_READERS
from workloads.transformer.families.traits import BLOCK_SPARSE, FAMILIES, Traits
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Attention, BlockChoice, Decoder, FeedForward, Layer, Norm

__all__ = ["read_llama_like"]


def read_llama_like(f: Fields, model_type: str) -> Decoder:
    """The decoder in a config file of one of :data:`FAMILIES`."""
    traits = FAMILIES[model_type]
    sizes = read_sizes(f)
    heads = read_heads(
        f, sizes.hidden, default_head_dim=traits.head_dim, default_kv=traits.kv_heads, floors=traits.floors
    )
    if traits.square and heads.heads * heads.head_dim != sizes.hidden and f.sound("head_dim", "hidden_size"):
        f.problem(
            "head_dim", f"found {heads.heads} heads of {heads.head_dim}; expected {sizes.hidden} in all"
        )
    mlp_bias = _says(f, traits.mlp_bias)
    act = activation(f, default=traits.activation)
    spans = _windows(f, traits, sizes.layers)
    turned = _rotates(f, traits, spans)
    choices = _block_choices(f, traits, sizes.layers)
    counts = _query_heads(f, traits, heads, spans)
    inner = traits.norm if traits.inner_norms else None
    mlp = FeedForward(_intermediate(f, traits), traits.gated, act, mlp_bias, mlp_bias, inner)
    experts = EXPERT_READERS[traits.experts](f, sizes.layers, mlp) if traits.experts else {}
    pre, post = _norms(f, traits)
    parallel = traits.parallel[1]
    if traits.parallel[0]:
        parallel = f.flag(traits.parallel[0], default=parallel)
    layers = tuple(
        Layer(
            replace(
                _attention(f, traits, replace(heads, heads=counts[index]), span, turns), choice=choices[index]
            ),
            None if index in experts else mlp,
            experts.get(index),
            mixer_norm=pre,
            mixer_out_norm=post,
            mlp_norm=None if parallel else pre,
            mlp_out_norm=post,
            parallel=parallel,
            vectors=traits.vectors if act == "xielu" else 0,
        )
        for index, (span, turns) in enumerate(zip(spans, turned, strict=True))
    )
    rows = f.integer(traits.rows, default=0, least=0) if isinstance(traits.rows, str) else traits.rows
    head_rows = sizes.vocab if rows else 0
    if traits.head_rows:
        head_rows = f.integer(traits.head_rows, default=0, least=0)
    own = tied(f, traits.tied)
    if own and head_rows and head_rows != sizes.vocab + rows:
        f.problem(
            "tie_word_embeddings",
            f"found true; expected false: {head_rows} rows out, {sizes.vocab + rows} in",
        )
    return Decoder(
        model_type, sizes.hidden, sizes.vocab + rows, layers, traits.norm, own,
        head_bias=_says(f, traits.head_bias), head_vocab=head_rows,
    )  # fmt: skip


def _block_choices(f: Fields, traits: Traits, layers: int) -> list[BlockChoice | None]:
    """MiniMax-M3: the scorer of the layers that attend to chosen blocks, with its keys new or old."""
    if BLOCK_SPARSE not in traits.kinds:
        return [None] * layers
    old = f.section("sparse_attention_config") or replace(f, values={}, defaults={})

    def number(name: str, former: str, default: int, least: int = 1) -> int:
        return old.integer(former, default=f.integer(name, default=default, least=least), least=least)

    choice = BlockChoice(
        number("index_n_heads", "sparse_num_index_heads", 4),
        number("index_head_dim", "sparse_index_dim", 128),
        number("index_block_size", "sparse_block_size", 128),
        number("index_topk_blocks", "sparse_topk_blocks", 16),
    )
    number("index_local_blocks", "sparse_local_block", 1, 0)
    flags = old.integers("sparse_attention_freq", layers, most=1) or [0] * layers
    default = [BLOCK_SPARSE if flag else "full_attention" for flag in flags]
    kinds = layer_kinds(f, layers, default, ("full_attention", BLOCK_SPARSE))
    return [choice if kind == BLOCK_SPARSE else None for kind in kinds]


def _query_heads(f: Fields, traits: Traits, heads: Heads, spans: list[int]) -> list[int]:
    """The query heads of every layer; they share its key-value heads evenly."""
    counts = [heads.heads] * len(spans)
    if traits.heads_by_layer:
        key = traits.heads_by_layer
        counts = f.integers(key, len(spans), least=1, most=MAX_HEADS) or counts
    elif traits.local_heads and not f.has("per_layer_config"):
        key = traits.local_heads
        local = f.integer(key, default=heads.heads, most=MAX_HEADS)
        counts = [local if span else heads.heads for span in spans]
    else:
        return counts
    uneven = [count for count in counts if count % heads.kv_heads]
    if uneven:
        f.problem(key, f"found {uneven[0]}; expected a multiple of {heads.kv_heads} key-value heads")
    return [heads.heads if count in uneven else count for count in counts]


def _norms(f: Fields, traits: Traits) -> tuple[Norm | None, Norm | None]:
    """The norm before each block and the norm of its output."""
    kind = traits.norms
    if isinstance(kind, tuple):
        kind = "both" if f.flag(kind[0], default=kind[1]) else "pre"
    return (
        traits.norm if kind in ("pre", "both") else None,
        traits.norm if kind in ("post", "both") else None,
    )


def _intermediate(f: Fields, traits: Traits) -> int:
    """The feed-forward width; a family of experts alone may state none."""
    key, part = traits.width
    if traits.experts and not f.has(key):
        return 1
    return max(f.integer(key, most=MAX_WIDTH) // part, 1)


def _says(f: Fields, rule: bool | tuple[str, bool]) -> bool:
    """A constant of the family, or what its field says."""
    return rule if isinstance(rule, bool) else f.flag(rule[0], default=rule[1])


def _attention(f: Fields, traits: Traits, heads: Heads, span: int, turns: bool) -> Attention:
    qkv = _says(f, traits.qkv_bias)
    kind = traits.qk_norm
    if isinstance(kind, tuple):
        kind = kind[1] if f.flag(kind[0], default=False) else "none"
    scale = {
        "none": (0, 0),
        "plain": (0, 0),
        "head": (heads.head_dim, heads.head_dim),
        "full": (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim),
    }[kind]
    gate = traits.gate if isinstance(traits.gate, str) else _gate(f, *traits.gate)
    per_head, per_feature = traits.vectors_of
    return grouped_attention(
        heads, rotary_dim(f, heads.head_dim, default=traits.rotary) if turns else 0,
        q_bias=qkv, k_bias=qkv, v_bias=qkv, out_bias=_says(f, traits.out_bias),
        q_norm=scale[0], k_norm=scale[1], norm_bias=traits.qk_norm_bias, plain_norm=kind == "plain", window=span,
        gate={"": 0, "heads": heads.heads, "full": heads.heads * heads.head_dim}[gate], sinks=traits.sinks,
        out_norm=traits.norm if traits.inner_norms else None,
        vectors=per_head * heads.heads + per_feature * heads.head_dim,
    )  # fmt: skip


def _gate(f: Fields, key: str, default: str) -> str:
    """Laguna: true or "per-head" is a gate per head, anything else one per feature."""
    given = f.value(key)
    if given is None:
        return default
    if not isinstance(given, bool):
        f.word(key, known=("per-head", "per-element"))
    return "heads" if given in (True, "per-head") else "full"


def _windows(f: Fields, traits: Traits, layers: int) -> list[int]:
    """The sliding window of every layer, 0 for none."""
    given = layer_kinds(f, layers, None, (*LAYER_KINDS, *traits.kinds)) if f.has("layer_types") else None
    if traits.sliding == "none":
        return [0] * layers
    span = window(f, traits.default_window)
    if traits.sliding == "all":
        return [span] * layers
    if traits.sliding == "qwen":
        if not f.flag("use_sliding_window", default=False):
            return [0] * layers
        first = f.integer("max_window_layers", default=28, least=0)
        default = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    else:
        default = _pattern(f, layers, traits)
    return [span if kind == "sliding_attention" else 0 for kind in given or default]


def _pattern(f: Fields, layers: int, traits: Traits) -> list[str]:
    """Every n-th layer is global; EXAONE spells one period in letters (LLLG)."""
    given = f.value("sliding_window_pattern") or f.value("_sliding_window_pattern")
    if isinstance(given, str) and given and set(given) <= set("LG"):
        return [
            "full_attention" if given[i % len(given)] == "G" else "sliding_attention" for i in range(layers)
        ]
    keys = (
        (traits.pattern_key,) if traits.pattern_key else ("sliding_window_pattern", "_sliding_window_pattern")
    )
    every = f.integer(*keys, default=traits.pattern, least=0)
    at = 0 if traits.sliding == "first" else max(every - 1, 0)
    return ["full_attention" if not every or i % every == at else "sliding_attention" for i in range(layers)]


def _rotates(f: Fields, traits: Traits, spans: list[int]) -> list[bool]:
    """Which layers have rotary embedding."""
    if traits.no_rope == "field":
        every = f.integer("no_rope_layer_interval", default=4)
        given = f.integers("no_rope_layers", len(spans), most=1)
        return [bool(flag) for flag in given] if given else [(i + 1) % every != 0 for i in range(len(spans))]
    if traits.no_rope == "global" or (traits.no_rope == "hybrid" and any(spans)):
        return [span > 0 for span in spans]
    return [True] * len(spans)
