"""Families with a make-up of their own: Llama 4, gpt-oss, Gemma 4, MiMo-V2.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import replace

from workloads.transformer.families.common import (
    MAX_HEADS,
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
from workloads.transformer.families.experts import count_and_active, deepseek_experts
from workloads.transformer.fields import REQUIRED, Fields
from workloads.transformer.shape import (
    AlternatingUpdates,
    Attention,
    Decoder,
    Experts,
    FeedForward,
    Layer,
)

__all__ = ["READERS"]


def read_llama4(f: Fields, model_type: str) -> Decoder:
    """Llama 4: chunked local layers with rotary embedding, global ones without; a shared expert."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=128, default_kv=8)
    bias = f.flag("attention_bias", default=False)
    flags = f.integers("no_rope_layers", most=1)
    if flags:
        flags = f.integers("no_rope_layers", sizes.layers, most=1)
    every = f.integer("no_rope_layer_interval", default=4)
    turns = flags or [int((index + 1) % every != 0) for index in range(sizes.layers)]
    default = ["chunked_attention" if turn else "full_attention" for turn in turns]
    kinds = layer_kinds(f, sizes.layers, default)
    chunk = f.integer("attention_chunk_size", default=8192)
    norm = f.flag("use_qk_norm", default=True)
    act = activation(f)
    size = f.integer("intermediate_size", most=MAX_WIDTH)
    dense = FeedForward(f.integer("intermediate_size_mlp", default=16384, most=MAX_WIDTH), activation=act)
    count, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (16, 1))
    shared = FeedForward(size, activation=act)
    experts = Experts(count, active, size, activation=act, shared=shared)
    step = f.integer("interleave_moe_layer_step", default=1)
    given = f.integers("moe_layers")
    sparse = set(given if given is not None else range(step - 1, sizes.layers, step))
    layers = tuple(
        Layer(
            grouped_attention(
                heads, heads.head_dim if turn else 0, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
                plain_norm=bool(norm and turn), chunk=chunk if kind == "chunked_attention" else 0,
            ),
            None if index in sparse else dense,
            experts if index in sparse else None,
            mixer_norm=RMS,
            mlp_norm=RMS,
        )
        for index, (kind, turn) in enumerate(zip(kinds, turns, strict=True))
    )  # fmt: skip
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False))


def read_gpt_oss(f: Fields, model_type: str) -> Decoder:
    """gpt-oss: a learned sink per head, local and global layers by turns, biases on every product."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=64, default_kv=8)
    bias = f.flag("attention_bias", default=True)
    span = window(f, 128)
    default = ["full_attention" if index % 2 else "sliding_attention" for index in range(sizes.layers)]
    kinds = layer_kinds(f, sizes.layers, default)
    count, active = count_and_active(
        f, ("num_local_experts", "num_experts"), ("num_experts_per_tok", "experts_per_token"), (128, 4)
    )
    size = f.integer("intermediate_size", most=MAX_WIDTH)
    experts = Experts(count, active, size, True, "silu", up_bias=True, down_bias=True, router_bias=True)
    layers = tuple(
        Layer(
            grouped_attention(
                heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
                window=span if kind == "sliding_attention" else 0, sinks=True,
            ),
            None,
            experts,
            mixer_norm=RMS,
            mlp_norm=RMS,
        )
        for kind in kinds
    )  # fmt: skip
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), dtype="bf16")


def read_gemma4(f: Fields, model_type: str) -> Decoder:
    """Gemma 4: wider heads in global layers, keys as values, experts beside the dense part, shared caches."""
    sizes = read_sizes(f)
    local = read_heads(f, sizes.hidden, default_head_dim=256)
    share = f.flag("attention_k_eq_v", default=False)
    wide = _gemma4_global_heads(f, local, share)
    default = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(sizes.layers)]
    kinds = layer_kinds(f, sizes.layers, default)
    kinds[-1] = "full_attention"
    sources = _gemma4_sources(f, kinds)
    span = window(f, 512)
    bias = f.flag("attention_bias", default=False)
    act = activation(f, "hidden_activation", "hidden_act", default="gelu_pytorch_tanh")
    size = f.integer("intermediate_size", most=MAX_WIDTH)
    double = f.flag("use_double_wide_mlp", default=False)
    experts = _gemma4_experts(f, sizes.hidden, act)
    unified = model_type == "gemma4_unified_text"
    per_layer = f.integer(
        "hidden_size_per_layer_input", default=0 if unified else 256, least=0, most=MAX_WIDTH
    )
    layers = []
    for kind, source in zip(kinds, sources, strict=True):
        heads = wide if kind == "full_attention" else local
        attention = grouped_attention(
            heads, _gemma4_rotary(f, kind, heads.head_dim),
            q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
            q_norm=heads.head_dim, k_norm=0 if source is not None else heads.head_dim, v_norm=True,
            window=span if kind == "sliding_attention" else 0,
            shared_kv=share and kind == "full_attention", cache_of=source,
        )  # fmt: skip
        mlp = FeedForward(size * (2 if double and source is not None else 1), activation=act)
        layer = Layer(attention, mlp, experts, RMS, RMS, RMS, RMS, beside=experts is not None)
        layers.append(replace(layer, per_layer_input=per_layer))
    rows = f.integer("vocab_size_per_layer_input", default=262144, most=2**24) if per_layer else 0
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, tuple(layers), RMS, tied(f, True), per_layer_rows=rows,
        dtype="bf16",
    )  # fmt: skip


def _gemma4_global_heads(f: Fields, local: Heads, share: bool) -> Heads:
    """The heads of global layers; fewer key-value heads only where keys are values."""
    # Where a file gives each layer its own values, they are in force already.
    default = local.head_dim if f.has("per_layer_config") else 512
    wide = replace(local, head_dim=f.integer("global_head_dim", default=default, most=MAX_WIDTH))
    if not share or not f.has("num_global_key_value_heads"):
        return wide
    kv_heads = f.integer("num_global_key_value_heads", most=MAX_HEADS)
    if wide.heads % kv_heads and f.sound("num_global_key_value_heads", "num_attention_heads"):
        f.problem("num_global_key_value_heads", f"found {kv_heads}; expected a divisor of {wide.heads}")
    return replace(wide, kv_heads=kv_heads)


def _gemma4_sources(f: Fields, kinds: list[str]) -> list[int | None]:
    """For each layer the earlier layer of its kind whose keys and values it reads; None: its own."""
    count = f.integer("num_kv_shared_layers", default=0, least=0)
    if count >= len(kinds):
        f.problem("num_kv_shared_layers", f"found {count}; expected fewer than the {len(kinds)} layers")
        return [None] * len(kinds)
    first = len(kinds) - count
    sources: list[int | None] = [None] * first
    for index, kind in enumerate(kinds[first:], first):
        earlier = [at for at in range(first) if kinds[at] == kind]
        if not earlier:
            f.problem("num_kv_shared_layers", f"no earlier layer of type {kind} to share with layer {index}")
        sources.append(earlier[-1] if earlier else None)
    return sources


def _gemma4_experts(f: Fields, hidden: int, act: str) -> Experts | None:
    """The mixture beside the dense part; its router scales features and experts."""
    if not f.flag("enable_moe_block", default=False):
        return None
    count, active = count_and_active(f, ("num_experts",), ("top_k_experts",), (REQUIRED, REQUIRED))
    width = f.integer("moe_intermediate_size", most=MAX_WIDTH)
    return Experts(count, active, width, activation=act, vectors=hidden + count)


def read_gemma3n(f: Fields, model_type: str) -> Decoder:
    """Gemma 3n: several streams, a low-rank block beside each attention, inputs of each layer's own, shared caches."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, default_head_dim=256, default_kv=2)
    default = ["full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(sizes.layers)]
    kinds = layer_kinds(f, sizes.layers, default)
    sources = _gemma4_sources(f, kinds)
    span = window(f, 512)
    bias = f.flag("attention_bias", default=False)
    act = activation(f, "hidden_activation", "hidden_act", default="gelu_pytorch_tanh")
    widths = (
        f.integers("intermediate_size", sizes.layers, least=1, most=MAX_WIDTH)
        if isinstance(f.value("intermediate_size"), list)
        else [f.integer("intermediate_size", most=MAX_WIDTH)] * sizes.layers
    )
    updates = AlternatingUpdates(
        f.integer("altup_num_inputs", default=4, least=2, most=64),
        f.integer("laurel_rank", default=64, most=MAX_WIDTH),
        f.integer("hidden_size_per_layer_input", default=256, most=MAX_WIDTH),
    )
    layers = tuple(
        Layer(
            grouped_attention(
                heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, q_norm=heads.head_dim,
                k_norm=0 if source is not None else heads.head_dim, v_norm=True,
                window=span if kind == "sliding_attention" else 0, cache_of=source,
            ),
            FeedForward(width, activation=act),
            mixer_norm=RMS, mixer_out_norm=RMS, mlp_norm=RMS, mlp_out_norm=RMS,
            per_layer_input=updates.inputs, hyper=updates,
        )
        for kind, source, width in zip(kinds, sources, widths or [1] * sizes.layers, strict=True)
    )  # fmt: skip
    rows = f.integer("vocab_size_per_layer_input", default=262144, most=2**24)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, True), per_layer_rows=rows, dtype="bf16"
    )


def read_mimo_v2(f: Fields, model_type: str) -> Decoder:
    """MiMo-V2-Flash: narrow values; local layers have more key-value heads and a sink per head."""
    sizes = read_sizes(f)
    wide = read_heads(f, sizes.hidden, default_head_dim=192, default_kv=4)
    local_kv = f.integer("swa_num_key_value_heads", default=2 * wide.kv_heads, most=MAX_HEADS)
    if wide.heads % local_kv and f.sound("swa_num_key_value_heads", "num_attention_heads"):
        f.problem("swa_num_key_value_heads", f"found {local_kv}; expected a divisor of {wide.heads} heads")
    pattern = f.integers("hybrid_layer_pattern", sizes.layers, most=1)
    local = pattern or [int(i != 0 and (i + 1) % 6 != 0) for i in range(sizes.layers)]
    default = ["sliding_attention" if flag else "full_attention" for flag in local]
    kinds = layer_kinds(f, sizes.layers, default)
    span = window(f, 128)
    bias = f.flag("attention_bias", default=False)
    values = f.integer("v_head_dim", default=128, most=MAX_WIDTH)
    sinks = {
        "sliding_attention": f.flag("add_swa_attention_sink_bias", default=True),
        "full_attention": f.flag("add_full_attention_sink_bias", default=False),
    }
    turned = rotary_dim(f, wide.head_dim, default=0.334)
    attention = {
        kind: Attention(
            wide.heads, local_kv if kind == "sliding_attention" else wide.kv_heads, wide.head_dim, values,
            turned, q_bias=bias, k_bias=bias, v_bias=bias, window=span if kind == "sliding_attention" else 0,
            sinks=sinks.get(kind, False),
        )
        for kind in dict.fromkeys(kinds)
    }  # fmt: skip
    mlp = FeedForward(f.integer("intermediate_size", most=MAX_WIDTH), activation=activation(f))
    experts = deepseek_experts(f, sizes.layers, mlp)
    types = f.words("mlp_layer_types", sizes.layers, ("dense", "sparse"))
    if types is None and not f.has("moe_layer_freq"):
        types = ["dense"] + ["sparse"] * (sizes.layers - 1)
    layers = tuple(
        Layer(
            attention[kind],
            None if index in experts and (types is None or types[index] == "sparse") else mlp,
            experts.get(index) if types is None or types[index] == "sparse" else None,
            mixer_norm=RMS,
            mlp_norm=RMS,
        )
        for index, kind in enumerate(kinds)
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, layers, RMS, tied(f, False), dtype="bf16")


def _gemma4_rotary(f: Fields, kind: str, head_dim: int) -> int:
    """Global layers turn a quarter of each head unless the file says otherwise."""
    sections = f.section("rope_parameters")
    rope = sections.section(kind) if sections is not None else None
    default = 0.25 if kind == "full_attention" else 1.0
    return rotary_dim(rope, head_dim, default=1.0) if rope is not None else int(head_dim * default)


READERS = {
    "llama4_text": read_llama4,
    "gpt_oss": read_gpt_oss,
    "gemma3n_text": read_gemma3n,
    "gemma4_text": read_gemma4,
    "gemma4_unified_text": read_gemma4,
    "mimo_v2_flash": read_mimo_v2,
}
"""Readers by ``model_type``."""
