"""Alternating updates: several residual streams of which a layer computes one and corrects the others (Gemma 3n).

Source: AltUp (Baykal et al., NeurIPS 2023) as the published modelling files of Gemma 3n have it, with a low-rank block
beside each attention (LAuReL) and an input of each layer's own.
"""

from __future__ import annotations

from collections.abc import Callable

from workloads.operators import Activation, Elementwise, Norm
from workloads.transformer.shape import AlternatingUpdates
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves

__all__ = ["merge_alternating", "open_alternating", "write_alternating_layer"]

TANH_FLOPS = 1.0
Part = Callable[[str], list[str]]
"""Writes a block over a tensor and returns its normed output."""


def open_alternating(w: GraphWriter, m: int, hidden: int, spec: AlternatingUpdates, source: str) -> str:
    """All streams of the embedding: itself, and products of it brought to its magnitude."""
    others = (spec.streams - 1) * hidden
    made = w.linear("streams.in", source, Linear(m, others, hidden, module="", tp="replicated"))
    return _elementwise(w, "streams", m, spec.streams * hidden, 5.0, (source, made))


def merge_alternating(w: GraphWriter, m: int, hidden: int, spec: AlternatingUpdates, streams: str) -> str:
    """The mean of all streams after a product on each but the first."""
    others = spec.streams - 1
    made = w.linear("merge.in", streams, Linear(m, hidden, hidden, module="", tp="replicated", batch=others))
    return _elementwise(w, "merge", m, hidden, 6.0 * spec.streams, (made, streams), {streams: m * hidden})


def write_alternating_layer(
    w: GraphWriter, m: int, hidden: int, spec: AlternatingUpdates, streams: str, inputs: str, mix: Part, feed: Part
) -> str:  # fmt: skip
    """One layer: predict all streams, compute the active one, correct all; returns the new streams."""
    wide, active = spec.streams * hidden, {streams: m * hidden}
    routed = _route(w, m, hidden, spec, "predict", streams, active)
    numbers = w.linear(
        "altup.predict.mix", routed, Linear(m, spec.streams**2, spec.streams, module="", tp="replicated")
    )
    predicted = _elementwise(w, "altup.predict", m, wide, 2.0 * spec.streams + 1, (streams, numbers))
    active = {predicted: m * hidden}
    source = _norm(w, "attention_norm", m, hidden, predicted, active)
    low = w.linear("laurel.left", source, Linear(m, spec.rank, hidden, module="", tp="replicated"))
    high = w.linear("laurel.right", low, Linear(m, hidden, spec.rank, module="", tp="replicated"))
    beside = _norm(w, "laurel_norm", m, hidden, high)
    attended = _elementwise(
        w, "attention_add", m, hidden, 4.0, (predicted, *mix(source), beside, source), active
    )
    fed = feed(_norm(w, "mlp_norm", m, hidden, attended))
    out = _elementwise(w, "mlp_add", m, hidden, float(len(fed)), (attended, *fed))
    routed = _route(w, m, hidden, spec, "correct", out, {})
    numbers = w.linear(
        "altup.correct.mix", routed, Linear(m, spec.streams, spec.streams, module="", tp="replicated")
    )
    corrected = _elementwise(w, "altup.correct", m, wide, 3.0, (predicted, out, numbers))
    scale = (w.weight("altup.scale", hidden),) if spec.scaled else ()
    first = _elementwise(w, "altup.scaled", m, hidden, 1.0, (corrected, *scale), {corrected: m * hidden})
    gate = w.linear("layer_input.gate", first, Linear(m, spec.inputs, hidden, module="", tp="replicated"))
    gated = w.activation("layer_input.act.out", m, spec.inputs)
    work = Activation(m=m, n=spec.inputs, flops_per_element=ACTIVATION_FLOPS["gelu"] + 1)
    w.emit("layer_input.act", work, (gate, inputs), (gated,), moves=Moves(touched={inputs: m * spec.inputs}))
    back = w.linear("layer_input.out", gated, Linear(m, hidden, spec.inputs, module="", tp="replicated"))
    normed = _norm(w, "layer_input_norm", m, hidden, back)
    return _elementwise(w, "layer_add", m, wide, 1.0, (corrected, normed))


def _route(
    w: GraphWriter, m: int, hidden: int, spec: AlternatingUpdates, name: str, source: str, touched: dict[str, int]
) -> str:  # fmt: skip
    """One number per stream from a normed vector; both routes of a layer have the same weights."""
    normed = _norm(w, "altup.router_norm", m, hidden, source, touched, name)
    weight = w.weight("altup.router.weight", spec.streams, hidden)
    shape = Linear(m, spec.streams, hidden, module="", tp="replicated", weight=weight)
    return w.linear(f"altup.{name}.router", normed, shape)


def _norm(
    w: GraphWriter, name: str, m: int, n: int, source: str, touched: dict[str, int] | None = None, use: str = ""
) -> str:  # fmt: skip
    label = f"{name}.{use}" if use else name
    out = w.activation(f"{label}.out", m, n)
    work = Norm(m=m, n=n, flops_per_element=NORM_FLOPS["rms"] + (TANH_FLOPS if use else 0.0), norm="rms")
    weight = w.weight(f"{name}.weight", n)
    w.emit(label, work, (source, weight), (out,), moves=Moves(touched=touched or {}))
    return out


def _elementwise(
    w: GraphWriter, name: str, m: int, n: int, flops: float, inputs: tuple[str, ...],
    touched: dict[str, int] | None = None,
) -> str:  # fmt: skip
    out = w.activation(f"{name}.out", m, n)
    work = Elementwise(m=m, n=n, flops_per_element=flops, function="add")
    w.emit(name, work, inputs, (out,), moves=Moves(touched=touched or {}))
    return out
