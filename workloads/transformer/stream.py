"""The residual stream between blocks: what is still to be added to it, its sums and its norms.

A fused graph adds a block's output inside the next norm, as serving engines do; otherwise every addition is an
operator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from workloads import operators
from workloads.transformer.shape import Norm
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear

__all__ = ["Stream", "add_to", "entry_of", "output_norm", "settle", "write_norm"]


@dataclass
class Stream:
    """The residual stream and the outputs still to be added to it."""

    residual: str
    pending: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    """Sums of whole blocks of layers, the embedding first, where layers attend to them."""
    embedded: str = ""
    """What the embeddings were, for blocks that read them again."""


def output_norm(
    w: GraphWriter, step: Step, hidden: int, name: str, norm: Norm | None, outs: list[str]
) -> list[str]:
    """A norm on a block's output before it joins the residual stream (Gemma 2, OLMo 2)."""
    if norm is None:
        return outs
    block = Stream(outs[0], outs[1:])
    return [write_norm(w, name, norm, step.tokens, hidden, block, last=True)]


def entry_of(w: GraphWriter, step: Step, hidden: int, stream: Stream, name: str, norm: Norm | None) -> str:
    """What a block reads: the normed stream, or the stream itself where the family norms elsewhere."""
    if norm is None:
        return settle(w, step, hidden, stream, name.replace("_norm", "_input_add"))
    return write_norm(w, name, norm, step.tokens, hidden, stream)


def add_to(w: GraphWriter, step: Step, hidden: int, stream: Stream, name: str, *outs: str) -> None:
    """Hand outputs to the residual stream."""
    stream.pending += outs
    if not w.fused:
        settle(w, step, hidden, stream, name)


def settle(w: GraphWriter, step: Step, hidden: int, stream: Stream, name: str) -> str:
    """The stream with everything added to it."""
    if stream.pending:
        m = step.tokens
        inputs = (stream.residual, *stream.pending)
        out = w.activation(f"{name}.out", m, hidden)
        work = operators.Elementwise(
            m=m, n=hidden, flops_per_element=float(len(stream.pending)), function="add"
        )
        w.emit(name, work, inputs, (out,))
        stream.residual, stream.pending = out, []
    return stream.residual


def write_norm(
    w: GraphWriter, name: str, norm: Norm, m: int, n: int, stream: Stream, last: bool = False
) -> str:
    """A norm of the stream, which on the way takes in what is pending; ``last``: nobody needs the sum."""
    weights = []
    if norm.weight:
        weights.append(w.weight(f"{name}.weight", n))
    if norm.bias:
        weights.append(w.weight(f"{name}.bias", n))
    outputs: Sequence[str] = [w.activation(f"{name}.out", m, n)]
    inputs = (stream.residual, *stream.pending, *weights)
    added = len(stream.pending)
    if stream.pending and not last:
        total = w.activation(f"{name}.sum", m, n)
        outputs = [*outputs, total]
        stream.residual = total
    work = operators.Norm(
        m=m, n=n, flops_per_element=float(NORM_FLOPS[norm.kind] + added), norm=norm.kind, adds=added
    )
    w.emit(name, work, inputs, outputs)
    stream.pending = []
    return _gated(w, name, m, n, norm.gate_rank, outputs[0]) if norm.gate_rank else outputs[0]


def _gated(w: GraphWriter, name: str, m: int, n: int, rank: int, source: str) -> str:
    """A norm's result under a gate that two narrow products make of it."""
    down = w.linear(f"{name}.gate_down", source, Linear(m, rank, n, module="", tp="replicated"))
    active = w.activation(f"{name}.gate_act.out", m, rank)
    silu = operators.Activation(m=m, n=rank, flops_per_element=ACTIVATION_FLOPS["silu"])
    w.emit(f"{name}.gate_act", silu, (down,), (active,))
    gate = w.linear(f"{name}.gate_up", active, Linear(m, n, rank, module="", tp="replicated"))
    out = w.activation(f"{name}.gated.out", m, n)
    work = operators.Activation(m=m, n=n, flops_per_element=ACTIVATION_FLOPS["sigmoid"] + 1, gated=True)
    w.emit(f"{name}.gated", work, (source, gate), (out,))
    return out
