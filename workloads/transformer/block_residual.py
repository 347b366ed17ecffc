"""Residual streams by blocks of layers, of which every part reads a weighted mean (Attention Residuals).

The embedding and the sum of each block of layers are sources that stay until the end; a part's learned query weighs the
normed sources, and the mean is what it reads (arXiv:2603.15031; the block form is that of Kimi K3's report,
arXiv:2607.24653, equations 8 to 10, read through others' descriptions). Both parts of a layer read one set of sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workloads.operators import Elementwise
from workloads.transformer.shape import Layer
from workloads.transformer.step import Step
from workloads.transformer.stream import Stream, settle, write_norm
from workloads.transformer.writer import NORM_FLOPS, GraphWriter

__all__ = ["close_blocks", "open_blocks", "read_blocks", "write_attending_layer"]

_PER_SOURCE = NORM_FLOPS["rms"] + 4.0
"""Operations per element of a source: its norm, the product with the query, and its share of the mean."""

Part = Callable[[str], list[str]]
"""Writes a mixer or a feed-forward part over what it reads; returns its outputs."""


def open_blocks(stream: Stream) -> None:
    """Make the embedding the first source; nothing is summed yet."""
    stream.blocks, stream.residual = [stream.residual], ""


def write_attending_layer(
    w: GraphWriter, step: Step, hidden: int, layer: Layer, stream: Stream, mix: Part, feed: Part
) -> None:
    """A layer whose parts each read a mean of the sources; their outputs join the block's sum."""
    assert layer.residual is not None
    sources = _sources(stream)
    for name, norm, part in (("attention", layer.mixer_norm, mix), ("mlp", layer.mlp_norm, feed)):
        source = read_blocks(w, f"{name}_residual", step.tokens, hidden, sources)
        if norm is not None:
            source = write_norm(w, f"{name}_norm", norm, step.tokens, hidden, Stream(source), last=True)
        outs = part(source)
        held = [stream.residual] if stream.residual else []
        first, *others = [*held, *outs]
        stream.residual = settle(w, step, hidden, Stream(first, others), f"{name}_add")
    if (w.layer + 1) % layer.residual.layers == 0:
        stream.blocks.append(stream.residual)
        stream.residual = ""


def read_blocks(w: GraphWriter, name: str, m: int, hidden: int, sources: Sequence[str]) -> str:
    """The mean of the sources, weighed by a learned query."""
    query, norm = w.weight(f"{name}.query", hidden), w.weight(f"{name}.norm.weight", hidden)
    out = w.activation(f"{name}.out", m, hidden)
    work = Elementwise(m=m, n=hidden, flops_per_element=_PER_SOURCE * len(sources), function="mean")
    w.emit(name, work, (*sources, query, norm), (out,))
    return out


def close_blocks(w: GraphWriter, step: Step, hidden: int, stream: Stream) -> None:
    """What the head reads: a mean of all sources."""
    stream.residual = read_blocks(w, "out_residual", step.tokens, hidden, _sources(stream))


def _sources(stream: Stream) -> list[str]:
    return [*stream.blocks, *([stream.residual] if stream.residual else [])]
