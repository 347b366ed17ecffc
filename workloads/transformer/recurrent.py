"""The operators of layers that carry a state instead of a cache: gated delta rule and Mamba-2.

Input projections, a short causal convolution, a recurrence over matrix-valued states, a gated norm and the
output projection. The state does not grow with the context. A decode step passes it token by token, a prefill in
chunks (:mod:`workloads.operators.linear_attention`).
"""

from __future__ import annotations

from workloads.graph import Role
from workloads.operators import Convolution, LinearAttention, Norm
from workloads.transformer.shape import Recurrence as RecurrenceShape
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves, Share

__all__ = ["write_recurrence"]

STATE_DTYPE = "fp32"
"""States are kept in fp32, as the published configs ask for."""


def write_recurrence(w: GraphWriter, step: Step, spec: RecurrenceShape, hidden: int, source: str) -> str:
    """A recurrent layer over ``source``; returns the output's name."""
    m = step.tokens
    module = f"model.layers.{w.layer}.linear_attn"
    width = spec.conv_channels + spec.gate + spec.controls
    names = ("in_proj",) * 3 if spec.rule == "decay" else ("in_proj_qkv", "in_proj_z", "in_proj_ba")
    sizes = (spec.conv_channels, spec.gate, spec.controls)
    parts = [(f"{module}.{name}", rows) for name, rows in zip(names, sizes, strict=True)]
    if w.fused:
        projected = [
            w.linear(
                "attention.in",
                source,
                Linear(
                    m,
                    width,
                    hidden,
                    module=f"{module}.in_proj",
                    tp="column",
                    bias=width if spec.projection_bias else 0,
                    shares=tuple(Share(part, rows) for part, rows in parts),
                ),
            )
        ]
    else:
        projected = [
            w.linear(
                f"attention.{short}",
                source,
                Linear(
                    m,
                    n,
                    hidden,
                    module=part,
                    tp="column",
                    bias=n if spec.projection_bias else 0,
                ),
            )
            for short, (part, n) in zip(("conv_in", "gate", "controls"), parts, strict=True)
        ]
    convolved = _convolution(w, step, spec, projected[0])
    out = _recurrence(w, step, spec, convolved, projected[-1])
    size = spec.heads * spec.value_dim
    normed = w.activation("attention.gated_norm.out", m, size)
    gate = projected[0] if w.fused else projected[1]
    weight = w.weight("attention.gated_norm.weight", spec.norm)
    work = Norm(m=m, n=size, flops_per_element=NORM_FLOPS["rms"] + ACTIVATION_FLOPS["silu"] + 1, norm="rms")
    w.emit(
        "attention.gated_norm",
        work,
        (out, gate, weight),
        (normed,),
        tp="split",
        moves=Moves(touched={gate: m * spec.gate}),
    )
    return w.linear(
        "attention.out",
        normed,
        Linear(
            m, hidden, size, module=f"{module}.out_proj", tp="row", bias=hidden if spec.projection_bias else 0
        ),
    )


def _convolution(w: GraphWriter, step: Step, spec: RecurrenceShape, source: str) -> str:
    """A causal convolution of a few taps over each channel; the last inputs are kept for the next step."""
    m, channels, kernel = step.tokens, spec.conv_channels, spec.kernel
    out = w.activation("attention.conv.out", m, channels)
    weights = [w.weight("attention.conv.weight", channels, kernel)]
    if spec.conv_bias:
        weights.append(w.weight("attention.conv.bias", channels))
    kept = max(kernel - 1, 1)
    state = w.cache("attention.conv_state", step.batch, channels, kept) if step.keeps_cache else ""
    work = Convolution(
        batch=step.batch, in_channels=channels, out_channels=channels, height=1, width=step.new, kernel_h=1,
        kernel_w=kernel, padding_w=kernel - 1, groups=channels, out_height=1, out_width=step.new,
        extra_flops=float((ACTIVATION_FLOPS["silu"] + spec.conv_bias) * m * channels),
    )  # fmt: skip
    w.emit(
        "attention.conv",
        work,
        tuple(name for name in (source, *weights, state) if name),
        (out,),
        updates=(state,) if state else (),
        tp="split",
        moves=Moves(touched={source: m * channels} | ({} if step.past else {state: 0})),
    )
    return out


def _recurrence(w: GraphWriter, step: Step, spec: RecurrenceShape, source: str, controls: str) -> str:
    """Decay the state, add the token, read it out; per head and token, over every element of the state."""
    m = step.tokens
    out = w.activation("attention.attend.out", m, spec.heads * spec.value_dim)
    weight = w.weight("attention.decay.weight", spec.vectors)
    state = ""
    if step.keeps_cache:
        shape = (step.batch, spec.heads, spec.key_dim, spec.value_dim)
        state = w.tensor("attention.state", shape, STATE_DTYPE, Role.KV_CACHE)
    inputs = dict.fromkeys(name for name in (source, controls, weight, state) if name)
    work = LinearAttention(
        batch=step.batch, sequence=step.new, heads=spec.heads, kv_heads=spec.key_heads, key_dim=spec.key_dim,
        value_dim=spec.value_dim, rule=spec.rule, chunk=1 if step.decode else spec.chunk, state_dtype=STATE_DTYPE,
    )  # fmt: skip
    w.emit(
        "attention.attend",
        work,
        tuple(inputs),
        (out,),
        updates=(state,) if state else (),
        tp="head",
        moves=Moves(touched={controls: m * spec.controls} | ({} if step.past else {state: 0})),
    )
    return out
