"""Several residual streams beside each other, and how a block reads and writes them (hyper-connections).

Source: hyper-connections (Zhu et al., arXiv:2409.19606) in the manifold-constrained form of DeepSeek-V4: per token one
small product over all streams says how much of each the block reads, how much of its output each gets, and how the
streams mix with each other.
"""

from __future__ import annotations

from workloads.operators import Elementwise, Reduce
from workloads.transformer.shape import HyperConnection
from workloads.transformer.writer import NORM_FLOPS, GraphWriter, Linear

__all__ = ["merge_streams", "open_streams", "read_streams", "write_streams"]

BALANCE_FLOPS = 40.0
"""Per number of the mixing matrix: twenty rounds that norm its rows, then its columns."""


def open_streams(w: GraphWriter, m: int, hidden: int, streams: int, source: str) -> str:
    """The embedding, copied to every stream."""
    out = w.activation("streams.out", m, streams * hidden)
    w.emit(
        "streams",
        Elementwise(m=m, n=streams * hidden, flops_per_element=0.0, function="copy"),
        (source,),
        (out,),
    )
    return out


def read_streams(
    w: GraphWriter, name: str, m: int, hidden: int, hyper: HyperConnection, streams: str
) -> tuple[str, str]:
    """What a block reads of the streams, and the numbers that later say how they are written."""
    width = hyper.streams * hidden
    numbers = w.linear(f"{name}.mix", streams, Linear(m, hyper.outputs, width, module="", tp="replicated"))
    learned = w.weight(f"{name}.scales", hyper.outputs + hyper.scales)
    out = w.activation(f"{name}.read.out", m, hidden)
    # The product reads the streams as they are; their norm scales its outputs.
    small = BALANCE_FLOPS * hyper.outputs / hidden
    per_element = hyper.streams * (2.0 + NORM_FLOPS["rms"] / 2) + small
    w.emit(
        f"{name}.read",
        Reduce(m=m, n=hidden, flops_per_element=per_element),
        (streams, numbers, learned),
        (out,),
    )
    return out, numbers


def write_streams(
    w: GraphWriter, name: str, m: int, hidden: int, hyper: HyperConnection, streams: str, numbers: str,
    outs: list[str],
) -> str:  # fmt: skip
    """The streams, mixed with each other where the family does, each with its share of a block's output."""
    width = hyper.streams * hidden
    out = w.activation(f"{name}.write.out", m, width)
    mixes = 2.0 * hyper.streams if hyper.outputs > 2 * hyper.streams else 0.0
    work = Elementwise(m=m, n=width, flops_per_element=mixes + 1.0 + len(outs), function="add")
    w.emit(f"{name}.write", work, (streams, numbers, *outs), (out,))
    return out


def merge_streams(w: GraphWriter, m: int, hidden: int, streams: int, source: str, learned: bool) -> str:
    """One stream of all at the end: a learned sum, or their mean."""
    inputs = [source]
    if learned:
        width = streams * hidden
        inputs.append(w.linear("merge.mix", source, Linear(m, streams, width, module="", tp="replicated")))
        inputs.append(w.weight("merge.scales", streams + 1))
    out = w.activation("merge.out", m, hidden)
    w.emit("merge", Reduce(m=m, n=hidden, flops_per_element=2.0 * streams), inputs, (out,))
    return out
