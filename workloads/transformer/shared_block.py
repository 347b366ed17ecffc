"""The operators of a transformer block that several layers share, before the mixer of each (Zamba, Zamba2).

The block reads the residual stream beside the embeddings, at twice the model's width. Its weights are stored once
per group; caches, and the product that brings its result to the mixer, are each layer's own.
"""

from __future__ import annotations

from workloads.operators import Activation, Norm
from workloads.transformer.attention import KeyValue, write_attention
from workloads.transformer.shape import SharedBlock
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear

__all__ = ["write_shared_block"]


def write_shared_block(
    w: GraphWriter,
    step: Step,
    block: SharedBlock,
    hidden: int,
    sources: tuple[str, ...],
    known: dict[int, KeyValue],
) -> str:
    """The block over the stream and the embeddings (``sources``); returns what is added to the mixer's input."""
    m = step.tokens
    own = w.prefix
    w.prefix, w.weights = f"{own}shared.", f"shared.{block.group}."
    normed = w.activation("attention_norm.out", m, 2 * hidden)
    norm = Norm(m=m, n=2 * hidden, flops_per_element=NORM_FLOPS["rms"], norm="rms")
    weight = w.weight("attention_norm.weight", 2 * hidden)
    w.emit("attention_norm", norm, (*sources, weight), (normed,))
    attended = write_attention(w, step, block.attention, 2 * hidden, normed, known)
    entry = w.activation("mlp_norm.out", m, hidden)
    norm = Norm(m=m, n=hidden, flops_per_element=NORM_FLOPS["rms"], norm="rms")
    w.emit("mlp_norm", norm, (attended, w.weight("mlp_norm.weight", hidden)), (entry,))
    out = _feed_forward(w, m, block, hidden, entry)
    w.weights = None
    out = w.linear("linear", out, Linear(m, hidden, hidden, module="linear", tp="replicated"))
    w.prefix = own
    return out


def _feed_forward(w: GraphWriter, m: int, block: SharedBlock, hidden: int, entry: str) -> str:
    """Gate and up projection, with the layer's own low-rank part beside the shared weight, and down projection."""
    mlp, shared = block.mlp, w.weights
    size = mlp.intermediate
    module = f"model.layers.{w.layer}.feed_forward"
    halves = [
        w.linear(
            "mlp.gate_up",
            entry,
            Linear(
                m,
                2 * size,
                hidden,
                module=f"{module}.gate_up_proj",
                tp="column",
                bias=2 * size if mlp.up_bias else 0,
            ),
        )
    ]
    if block.adapter_rank:
        w.weights = None
        low = w.linear(
            "mlp.adapter_in",
            entry,
            Linear(m, block.adapter_rank, hidden, module=f"{module}.adapter", tp="replicated"),
        )
        halves.append(
            w.linear(
                "mlp.adapter_out",
                low,
                Linear(m, 2 * size, block.adapter_rank, module=f"{module}.adapter", tp="column"),
            )
        )
        w.weights = shared
    out = w.activation("mlp.act.out", m, size)
    flops = ACTIVATION_FLOPS[mlp.activation] + 1 + 2 * (len(halves) - 1)
    w.emit(
        "mlp.act", Activation(m=m, n=size, flops_per_element=float(flops), gated=True), halves, (out,), tp="split"
    )  # fmt: skip
    return w.linear(
        "mlp.down",
        out,
        Linear(m, hidden, size, module=f"{module}.down_proj", tp="row", bias=hidden if mlp.down_bias else 0),
    )
