"""What makes the first rows of an encoder of sound or images: convolutions over frames, or patches as rows.

A frame stem is two convolutions along time, the second of which halves the frames (Whisper, arXiv:2212.04356, section
2.2). A patch stem is one product of every patch's pixels (ViT, arXiv:2010.11929, equation 1), with learned tokens in
front. Learned positions are added to what either makes.
"""

from __future__ import annotations

from workloads.graph import Role
from workloads.operators import Convolution, Copy, Elementwise
from workloads.transformer.shape import Decoder, FrameStem, PatchStem
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, GraphWriter, Linear

__all__ = ["write_stem"]


def write_stem(w: GraphWriter, step: Step, encoder: Decoder) -> str:
    """The rows that the first layer reads; returns their name."""
    if isinstance(encoder.stem, FrameStem):
        out = _frames(w, step, encoder.stem, encoder.hidden)
    else:
        assert isinstance(encoder.stem, PatchStem)
        out = _patches(w, step, encoder.stem, encoder.hidden)
    if not encoder.positions:
        return out
    m, n = step.tokens, encoder.hidden
    table = w.weight("position_embedding.weight", encoder.positions, n)
    added = w.activation("position_add.out", m, n)
    # Positions are the same for every sequence; what is between the table's rows is interpolated.
    work = Elementwise(m=m, n=n, flops_per_element=1.0, function="add")
    w.emit("position_add", work, (out, table), (added,))
    return added


def _frames(w: GraphWriter, step: Step, stem: FrameStem, hidden: int) -> str:
    """Two convolutions along time with a GELU each; a tensor is (sequences, channels, 1, frames)."""
    source, channels, frames = "", stem.channels, step.new * stem.stride
    source = w.tensor("frames", (step.batch, channels, 1, frames), w.precision.own, Role.ACTIVATION)
    for index, stride in enumerate((1, stem.stride)):
        made = frames // stride
        shape = (step.batch, hidden, 1, made)
        out = w.tensor(f"stem.{index}.out", shape, w.precision.own, Role.ACTIVATION)
        weight = w.weight(f"stem.{index}.weight", hidden, channels, 1, stem.kernel)
        bias = w.weight(f"stem.{index}.bias", hidden)
        work = Convolution(
            batch=step.batch, in_channels=channels, out_channels=hidden, height=1, width=frames, kernel_h=1,
            kernel_w=stem.kernel, stride_w=stride, padding_w=stem.kernel // 2, out_height=1, out_width=made,
            extra_flops=float((ACTIVATION_FLOPS["gelu_erf"] + 1) * step.batch * hidden * made),
        )  # fmt: skip
        w.emit(f"stem.{index}", work, (source, weight, bias), (out,))
        source, channels, frames = out, hidden, made
    rows = w.activation("stem.out", step.tokens, hidden)
    w.emit("stem", Copy(m=step.tokens, n=hidden, function="transpose"), (source,), (rows,))
    return rows


def _patches(w: GraphWriter, step: Step, stem: PatchStem, hidden: int) -> str:
    """Every patch's pixels through one product; learned tokens before the patches of each image."""
    patches = step.batch * (step.new - stem.tokens)
    pixels = w.activation("pixels", patches, stem.pixels)
    spec = Linear(patches, hidden, stem.pixels, module="", tp="replicated", bias=hidden if stem.bias else 0)
    out = w.linear("patch_embedding", pixels, spec)
    if not stem.tokens:
        return out
    joined = w.activation("tokens.out", step.tokens, hidden)
    learned = w.weight("tokens.weight", stem.tokens, hidden)
    w.emit("tokens", Copy(m=step.tokens, n=hidden, function="concat"), (out, learned), (joined,))
    return joined
