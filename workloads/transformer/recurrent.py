"""The operators of layers that carry a state instead of a cache: gated delta rule and Mamba-2.

Input projections, a short causal convolution, a recurrence over matrix-valued states, a gated norm and the
output projection. The state does not grow with the context. FLOPs are those of the recurrence, token by token
(Gated DeltaNet, arXiv:2412.06464, equation 10; Mamba-2, arXiv:2405.21060, equation 16); chunked kernels do
more of them to use matrix units.
"""

from __future__ import annotations

from workloads.dtypes import size_bytes
from workloads.graph import Role
from workloads.transformer.shape import Recurrence
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter

__all__ = ["write_recurrence"]

STATE_DTYPE = "fp32"
"""States are kept in fp32, as the published configs ask for."""


def write_recurrence(w: GraphWriter, step: Step, spec: Recurrence, hidden: int, source: str) -> str:
    """A recurrent layer over ``source``; returns the output's name."""
    m = step.tokens
    module = f"model.layers.{w.layer}.linear_attn"
    width = spec.conv_channels + spec.gate + spec.controls
    if w.fused:
        projected = [
            w.linear(
                "attention.in", source, m, width, hidden, module=f"{module}.in_proj", tp="column",
                bias=width if spec.projection_bias else 0,
            )
        ]  # fmt: skip
    else:
        parts = {"conv_in": spec.conv_channels, "gate": spec.gate, "controls": spec.controls}
        projected = [
            w.linear(
                f"attention.{part}", source, m, n, hidden, module=f"{module}.in_proj", tp="column",
                bias=n if spec.projection_bias else 0,
            )
            for part, n in parts.items()
        ]  # fmt: skip
    convolved = _convolution(w, step, spec, projected[0])
    out = _recurrence(w, step, spec, convolved, projected[-1])
    size = spec.heads * spec.value_dim
    normed = w.activation("attention.gated_norm.out", m, size)
    gate = projected[0] if w.fused else projected[1]
    weight = w.weight("attention.gated_norm.weight", spec.norm)
    w.emit(
        "attention.gated_norm", "norm", (out, gate, weight), (normed,),
        flops=float((NORM_FLOPS["rms"] + ACTIVATION_FLOPS["silu"] + 1) * m * size),
        read=w.size(out, weight) + size_bytes(m * spec.gate, w.precision.own), tp="split", m=m, n=size,
    )  # fmt: skip
    return w.linear(
        "attention.out", normed, m, hidden, size, module=f"{module}.out_proj", tp="row",
        bias=hidden if spec.projection_bias else 0,
    )  # fmt: skip


def _convolution(w: GraphWriter, step: Step, spec: Recurrence, source: str) -> str:
    """A causal convolution of a few taps over each channel; the last inputs are kept for the next step."""
    m, channels, kernel = step.tokens, spec.conv_channels, spec.kernel
    out = w.activation("attention.conv.out", m, channels)
    weights = [w.weight("attention.conv.weight", channels, kernel)]
    if spec.conv_bias:
        weights.append(w.weight("attention.conv.bias", channels))
    kept = max(kernel - 1, 1)
    state = w.cache("attention.conv_state", step.batch, channels, kept) if step.keeps_cache else ""
    state_bytes = w.size(state) if state else 0
    w.emit(
        "attention.conv", "conv", tuple(name for name in (source, *weights, state) if name), (out,),
        flops=float((2 * kernel + ACTIVATION_FLOPS["silu"] + spec.conv_bias) * m * channels),
        read=size_bytes(m * channels, w.precision.own) + w.size(*weights) + (state_bytes if step.past else 0),
        write=w.size(out) + state_bytes, updates=(state,) if state else (), tp="split",
        batch=step.batch, in_channels=channels, out_channels=channels, height=1, width=step.new, kernel_h=1,
        kernel_w=kernel, stride_h=1, stride_w=1, groups=channels, out_height=1, out_width=step.new,
    )  # fmt: skip
    return out


def _recurrence(w: GraphWriter, step: Step, spec: Recurrence, source: str, controls: str) -> str:
    """Decay the state, add the token, read it out; per head and token, over every element of the state."""
    m = step.tokens
    out = w.activation("attention.attend.out", m, spec.heads * spec.value_dim)
    weight = w.weight("attention.decay.weight", spec.vectors)
    elements = spec.heads * spec.key_dim * spec.value_dim
    state = ""
    if step.keeps_cache:
        shape = (step.batch, spec.heads, spec.key_dim, spec.value_dim)
        state = w.tensor("attention.state", shape, STATE_DTYPE, Role.KV_CACHE)
    state_bytes = w.size(state) if state else 0
    inputs = dict.fromkeys(name for name in (source, controls, weight, state) if name)
    w.emit(
        "attention.attend", "recurrent", tuple(inputs), (out,), flops=float(spec.flops * m * elements),
        read=w.size(source, weight) + size_bytes(m * spec.controls, w.precision.own)
        + (state_bytes if step.past else 0),
        write=w.size(out) + state_bytes, updates=(state,) if state else (), tp="head",
        batch=step.batch, sequence=step.new, hidden=spec.heads * spec.value_dim,
        input_size=spec.conv_channels,
        heads=spec.heads, kv_heads=spec.key_heads,
    )  # fmt: skip
    return out
