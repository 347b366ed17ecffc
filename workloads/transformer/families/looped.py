"""Families that run the same blocks several times, each time with a cache of its own: HRM-Text, Dory.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from workloads.transformer.families.common import (
    MAX_LAYERS,
    MAX_WIDTH,
    activation,
    grouped_attention,
    layer_kinds,
    read_heads,
    read_sizes,
    tied,
    window,
)
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Attention, Decoder, FeedForward, Layer, Norm

__all__ = ["READERS"]

PLAIN: Final = Norm("rms", weight=False)

BETWEEN: Final = "the norms and additions between two runs of the repeated blocks are not in the graph"


def read_hrm_text(f: Fields, model_type: str) -> Decoder:
    """HRM-Text: a low stack several times, then a high one, in cycles; gated attention, norms without weights."""
    sizes = read_sizes(f)
    high = f.integer("H_cycles", default=2, most=MAX_LAYERS)
    low = f.integer("L_cycles", default=3, most=MAX_LAYERS)
    runs = high * (low + 1)
    # A file that says the layers of one stack says those of all runs beside them.
    stack = sizes.layers
    if f.has("num_layers_per_stack"):
        stack = f.integer("num_layers_per_stack", most=MAX_LAYERS)
    if stack * runs > 4 * MAX_LAYERS:
        f.problem(
            "num_hidden_layers",
            f"found {stack} layers {runs} times; expected at most {4 * MAX_LAYERS} in all",
        )
        runs = 1
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads", default_head_dim=128)
    bias = f.flag("attention_bias", default=False)
    mlp_bias = f.flag("mlp_bias", default=False)
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias,
        gate=heads.heads * heads.head_dim, gate_bias=bias,
    )  # fmt: skip
    width = f.integer("intermediate_size", most=MAX_WIDTH)
    mlp = FeedForward(width, activation=activation(f), up_bias=mlp_bias, down_bias=mlp_bias)
    layers = tuple(
        Layer(attention, mlp, mixer_norm=PLAIN, mlp_norm=PLAIN, group=index + (stack if run % (low + 1) == low else 0))
        for run in range(runs)
        for index in range(stack)
    )  # fmt: skip
    return Decoder(
        model_type,
        sizes.hidden,
        sizes.vocab,
        layers,
        PLAIN,
        tied(f, False),
        spare=sizes.hidden,
        notes=(BETWEEN,),
    )


def read_dory(f: Fields, model_type: str) -> Decoder:
    """Dory: blocks in the middle run several times; normed states throughout, with learned scales (nGPT)."""
    f = _whole_layers(f)
    sizes = read_sizes(f)
    first = f.integer("n_input_layers", default=8, least=0, most=MAX_LAYERS)
    last = f.integer("n_output_layers", default=8, least=0, most=MAX_LAYERS)
    rest = max(sizes.layers - first - last, 0)
    middle = f.integer("n_recurrent_layers", default=rest, least=0, most=MAX_LAYERS)
    if first + middle + last != sizes.layers:
        f.problem(
            "n_recurrent_layers", f"found {first} + {middle} + {last} layers; expected {sizes.layers} in all"
        )
        first, middle, last = sizes.layers, 0, 0
    loops = f.integer("n_recurrent_loops", default=2, most=64)
    if f.word("recurrent_kv_cache_mode", default="per_loop", known=("per_loop", "last_loop")) == "last_loop":
        f.problem(
            "recurrent_kv_cache_mode", "found last_loop; only a cache for every loop (per_loop) is modelled"
        )
    default = [
        "full_attention" if (index + 1) % 4 == 0 else "sliding_attention" for index in range(sizes.layers)
    ]
    kinds = layer_kinds(f, sizes.layers, default, ("full_attention", "sliding_attention"))
    attention = _dory_attention(f, sizes.hidden)
    span = window(f, 1024)
    mlp_bias = f.flag("mlp_bias", default=False)
    width = f.integer("intermediate_size", most=MAX_WIDTH)
    mlp = FeedForward(width, True, activation(f), mlp_bias, mlp_bias, PLAIN)
    blocks = [
        Layer(
            replace(attention, window=span if kind == "sliding_attention" else 0), mlp,
            mixer_norm=PLAIN, mixer_out_norm=PLAIN, mlp_norm=PLAIN, mlp_out_norm=PLAIN,
            # Scales of both halves of the feed-forward part, and the rates of both blocks.
            vectors=2 * width + 2 * sizes.hidden, group=index,
        )
        for index, kind in enumerate(kinds)
    ]  # fmt: skip
    layers = [
        *blocks[: first + middle],
        *blocks[first : first + middle] * (loops - 1),
        *blocks[first + middle :],
    ]
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, tuple(layers), PLAIN, tied(f, False), head_bias=True,
        notes=(BETWEEN,) if loops > 1 else (),
    )  # fmt: skip


def _whole_layers(f: Fields) -> Fields:
    """The file with attention and feed-forward part as one layer; published files list them apart."""
    kinds = f.words("layer_types")
    if not kinds or "mlp" not in kinds:
        return f
    halves = {"layer_types": kinds[::2]}
    names = ("num_hidden_layers", "n_input_layers", "n_output_layers", "n_recurrent_layers")
    counts = {name: f.integer(name) // 2 for name in names if f.has(name) and name in f.values}
    return replace(f, values={**f.values, **halves, **counts})


def _dory_attention(f: Fields, hidden: int) -> Attention:
    heads = read_heads(f, hidden, default_head_dim=256, default_kv=4)
    bias = f.flag("attention_bias", default=False)
    wide = heads.heads * heads.head_dim
    return grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, plain_norm=True, gate=wide,
        out_norm=PLAIN, vectors=2 * wide,
    )  # fmt: skip


READERS = {"hrm_text": read_hrm_text, "dory": read_dory}
"""Readers by ``model_type``."""
