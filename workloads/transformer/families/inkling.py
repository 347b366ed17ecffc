"""Inkling: short convolutions behind keys, values and both blocks, and biases by distance that tokens make themselves.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from typing import Final

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
)
from workloads.transformer.families.experts import count_and_active
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Attention, Decoder, Experts, FeedForward, Layer

__all__ = ["READERS"]

LOCAL: Final = "hybrid_sliding"
KINDS: Final = ("hybrid", LOCAL)


def read_inkling(f: Fields, model_type: str) -> Decoder:
    """The language model of Inkling; embeddings are normed and never tied."""
    sizes = read_sizes(f)
    taps = f.integer("conv_kernel_size", "sconv_kernel_size", default=4, most=64)
    local = f.integers("local_layer_ids")
    default = [
        LOCAL if (index in local if local is not None else (index + 1) % 6) else "hybrid"
        for index in range(sizes.layers)
    ]
    kinds = layer_kinds(f, sizes.layers, default, KINDS)
    dense_first = f.integer("dense_mlp_idx", default=0, least=0)
    types = f.words("mlp_layer_types", sizes.layers, ("dense", "sparse"))
    sparse = (
        [kind == "sparse" for kind in types] if types else [i >= dense_first for i in range(sizes.layers)]
    )
    attention = _attentions(f, sizes.hidden, taps)
    width, dense_width = _widths(f)
    act = activation(f)
    count, active = count_and_active(
        f, ("n_routed_experts", "num_local_experts"), ("num_experts_per_tok",), (256, 6)
    )
    number = f.integer("n_shared_experts", default=2, least=1, most=2**10)
    # The router scales all its weights by one learned number, a dense part its result.
    experts = Experts(
        count, active, width, activation=act, shared=FeedForward(width * number, activation=act), scored=number,
        vectors=1,
    )  # fmt: skip
    layers = tuple(
        Layer(
            attention[kind],
            None if sparse[index] else FeedForward(dense_width, activation=act),
            experts if sparse[index] else None,
            mixer_norm=RMS,
            mlp_norm=RMS,
            vectors=0 if sparse[index] else 1,
            taps=taps,
        )
        for index, kind in enumerate(kinds)
    )
    f.asked.add("number_of_conv_states")  # four in a layer, whatever a file says
    omitted = ("multi-token prediction layers",) if f.value("num_mtp_layers") else ()
    return Decoder(
        model_type,
        sizes.hidden,
        sizes.vocab,
        layers,
        RMS,
        False,
        embedding_norm=RMS,
        dtype="bf16",
        omitted=omitted,
    )


def _widths(f: Fields) -> tuple[int, int]:
    """Widths of an expert and of a dense part; older files call them otherwise."""
    if f.has("dense_intermediate_size"):
        return f.integer("intermediate_size", most=MAX_WIDTH), f.integer(
            "dense_intermediate_size", most=MAX_WIDTH
        )
    dense = f.integer("intermediate_size", default=24576, most=MAX_WIDTH)
    return f.integer("moe_intermediate_size", default=3072, most=MAX_WIDTH), dense


def _attentions(f: Fields, hidden: int, taps: int) -> dict[str, Attention]:
    """Global and local attention, each with heads and a reach of its own."""
    rank = f.integer("d_rel", default=16, most=MAX_WIDTH)
    reach = f.integer("rel_extent", default=1024, most=2**24)
    span = f.integer("sliding_window_size", "sliding_window", default=512, most=2**24)
    wide = read_heads(f, hidden, default_head_dim=128, default_kv=8)
    local = Heads(
        f.integer("swa_num_attention_heads", default=64, most=MAX_HEADS),
        f.integer("swa_num_key_value_heads", default=16, most=MAX_HEADS),
        f.integer("swa_head_dim", default=128, most=MAX_WIDTH),
    )
    if local.heads % local.kv_heads:
        f.problem(
            "swa_num_key_value_heads", f"found {local.kv_heads}; expected a divisor of {local.heads} heads"
        )
    return {
        kind: grouped_attention(
            heads, 0, q_norm=heads.head_dim, k_norm=heads.head_dim, window=window, taps=taps,
            profile=(rank, window or reach),
        )
        for kind, heads, window in (("hybrid", wide, 0), (LOCAL, local, span))
    }  # fmt: skip


READERS = {"inkling_text": read_inkling}
"""Readers by ``model_type``."""
