"""The operators of layers that carry a state instead of a cache: the delta rule, Mamba-2, linear attention.

Input projections, a short causal convolution, a recurrence over matrix-valued states, a gated norm and the
output projection. The state does not grow with the context. A decode step passes it token by token, a prefill in
chunks (:mod:`workloads.operators.linear_attention`). States without matrices are written in
:mod:`workloads.transformer.scans`.
"""

from __future__ import annotations

from workloads.graph import Role
from workloads.operators import Activation, Convolution, LinearAttention, Norm
from workloads.transformer.shape import Recurrence as RecurrenceShape
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves, Share

__all__ = ["STATE_DTYPE", "write_convolution", "write_recurrence"]

STATE_DTYPE = "fp32"
"""States are kept in fp32, as the published configs ask for."""


def write_recurrence(w: GraphWriter, step: Step, spec: RecurrenceShape, hidden: int, source: str) -> str:
    """A recurrent layer over ``source``; returns the output's name."""
    m = step.tokens
    module = f"model.layers.{w.layer}.linear_attn"
    mixed, gate, controls = _project(w, step, spec, hidden, source, module)
    if spec.kernel:
        mixed = write_convolution(w, step, mixed, spec.conv_channels, spec.kernel, spec.conv_bias)
    decays = []
    if spec.decay and spec.decay_rank:
        decays = [_narrow(w, m, hidden, source, "decay", spec.decay_rank, spec.decay, module)]
    if spec.gate_rank:
        gate = _narrow(w, m, hidden, source, "gate", spec.gate_rank, spec.gate, module)
    out = _recurrence(w, step, spec, mixed, controls, decays)
    size = spec.heads * spec.value_dim
    normed = _gated(w, m, spec, out, gate)
    return w.linear(
        "attention.out",
        normed,
        Linear(m, hidden, size, module=f"{module}.out_proj", tp="row", bias=hidden if spec.out_bias else 0),
    )


def _project(
    w: GraphWriter, step: Step, spec: RecurrenceShape, hidden: int, source: str, module: str
) -> tuple[str, str, str]:
    """What is convolved, what gates the output, and what steers decay and step size: one product when fused."""
    m = step.tokens
    parts = {
        "conv_in": spec.conv_channels,
        "gate": 0 if spec.gate_rank else spec.gate,
        "controls": spec.controls + (0 if spec.decay_rank else spec.decay),
    }
    biases = {part: n if spec.projection_bias else 0 for part, n in parts.items()}
    if spec.control_bias:
        biases["controls"] = parts["controls"]
    names = ("in_proj",) * 3 if spec.rule == "decay" else ("in_proj_qkv", "in_proj_z", "in_proj_ba")
    modules = {part: f"{module}.{name}" for part, name in zip(parts, names, strict=True)}
    if w.fused:
        made = w.linear(
            "attention.in",
            source,
            Linear(
                m,
                sum(parts.values()),
                hidden,
                module=f"{module}.in_proj",
                tp="column",
                bias=sum(biases.values()),
                shares=tuple(Share(modules[part], n) for part, n in parts.items()),
            ),
        )
        return made, made, made if parts["controls"] else ""
    made_of = {
        part: w.linear(
            f"attention.{part}",
            source,
            Linear(m, n, hidden, module=modules[part], tp="column", bias=biases[part]),
        )
        for part, n in parts.items()
        if n
    }
    return made_of["conv_in"], made_of.get("gate", ""), made_of.get("controls", "")


def _narrow(
    w: GraphWriter, m: int, hidden: int, source: str, part: str, rank: int, width: int, module: str
) -> str:
    """Features that come through a product of low rank."""
    inner = w.linear(
        f"attention.{part}_in",
        source,
        Linear(m, rank, hidden, module=f"{module}.{part}_in", tp="replicated"),
    )
    return w.linear(
        f"attention.{part}_out",
        inner,
        Linear(m, width, rank, module=f"{module}.{part}_out", tp="column"),
    )


def _gated(w: GraphWriter, m: int, spec: RecurrenceShape, out: str, gate: str) -> str:
    """The result normed and gated in one pass; gated alone where there is no norm."""
    size = spec.heads * spec.value_dim
    normed = w.activation("attention.gated_norm.out", m, size)
    gating = ACTIVATION_FLOPS["silu"] + 1
    moves = Moves(touched={gate: m * spec.gate})
    if not spec.norm:
        work = Activation(m=m, n=size, flops_per_element=float(gating), gated=True)
        w.emit("attention.gated_norm", work, (out, gate), (normed,), tp="split", moves=moves)
        return normed
    weight = w.weight("attention.gated_norm.weight", spec.norm)
    norm = Norm(m=m, n=size, flops_per_element=NORM_FLOPS["rms"] + gating, norm="rms")
    w.emit("attention.gated_norm", norm, (out, gate, weight), (normed,), tp="split", moves=moves)
    return normed


def write_convolution(
    w: GraphWriter, step: Step, source: str, channels: int, kernel: int, bias: bool, activated: bool = True,
    name: str = "attention.conv",
) -> str:  # fmt: skip
    """A causal convolution of a few taps over each channel; the last inputs are kept for the next step.

    ``source`` may be wider: ``channels`` of its features are read.
    """
    m = step.tokens
    out = w.activation(f"{name}.out", m, channels)
    weights = [w.weight(f"{name}.weight", channels, kernel)]
    if bias:
        weights.append(w.weight(f"{name}.bias", channels))
    kept = max(kernel - 1, 1)
    state = w.cache(f"{name}_state", step.batch, channels, kept) if step.keeps_cache else ""
    flops = ACTIVATION_FLOPS["silu"] * activated + bias
    work = Convolution(
        batch=step.batch, in_channels=channels, out_channels=channels, height=1, width=step.new, kernel_h=1,
        kernel_w=kernel, padding_w=kernel - 1, groups=channels, out_height=1, out_width=step.new,
        extra_flops=float(flops * m * channels),
    )  # fmt: skip
    w.emit(
        name,
        work,
        tuple(name for name in (source, *weights, state) if name),
        (out,),
        updates=(state,) if state else (),
        tp="split",
        moves=Moves(touched={source: m * channels} | ({} if step.past else {state: 0})),
    )
    return out


def _recurrence(
    w: GraphWriter, step: Step, spec: RecurrenceShape, source: str, controls: str, decays: list[str]
) -> str:
    """Decay the state, add the token, read it out; per head and token, over every element of the state."""
    m = step.tokens
    out = w.activation("attention.attend.out", m, spec.heads * spec.value_dim)
    weights = [w.weight("attention.decay.weight", spec.vectors)] if spec.vectors else []
    states = []
    if step.keeps_cache:
        shape = (step.batch, spec.heads, spec.key_dim, spec.value_dim)
        states.append(w.tensor("attention.state", shape, STATE_DTYPE, Role.KV_CACHE))
        if spec.normaliser:
            # The sum of the keys, and the largest exponent so far.
            summed = (step.batch, spec.heads, spec.key_dim + 1)
            states.append(w.tensor("attention.normaliser", summed, STATE_DTYPE, Role.KV_CACHE))
    inputs = dict.fromkeys(name for name in (source, controls, *decays, *weights, *states) if name)
    work = LinearAttention(
        batch=step.batch, sequence=step.new, heads=spec.heads, kv_heads=spec.key_heads, key_dim=spec.key_dim,
        value_dim=spec.value_dim, rule=spec.rule, chunk=1 if step.decode else spec.chunk, state_dtype=STATE_DTYPE,
    )  # fmt: skip
    touched = {controls: m * (spec.controls + (0 if spec.decay_rank else spec.decay))} if controls else {}
    if source == controls or not spec.kernel:
        touched[source] = touched.get(source, 0) + (0 if spec.kernel else m * spec.conv_channels)
    if not step.past:
        touched |= dict.fromkeys(states, 0)
    w.emit(
        "attention.attend",
        work,
        tuple(inputs),
        (out,),
        updates=tuple(states),
        tp="head",
        moves=Moves(touched=touched),
    )
    return out
