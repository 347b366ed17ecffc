"""The operators of RWKV-7's time mixing (arXiv:2503.14456, section 4): a delta rule with a decay per key channel.

Six mixtures of each token with the one before; three products; decay, learning rate, value residual and gate
through narrow products; the recurrence over one matrix per head; a norm per head, a bonus of the token, the gate.
"""

from __future__ import annotations

from workloads.graph import Role
from workloads.operators import Activation, LinearAttention, Norm
from workloads.transformer.recurrent import STATE_DTYPE
from workloads.transformer.scans import token_mixed
from workloads.transformer.shape import DeltaMix
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_delta_mix"]


def write_delta_mix(w: GraphWriter, step: Step, spec: DeltaMix, hidden: int, source: str) -> str:
    """RWKV-7's time mixing over ``source``; returns the output's name."""
    m, size = step.tokens, spec.heads * spec.head_dim
    module = f"model.layers.{w.layer}.attn"
    mixed = {
        part: token_mixed(w, step, hidden, source, f"attention.{part}", last=part == "gate")
        for part in ("receptance", "decay", "key", "value", "rate", "gate")
    }
    made = {
        part: w.linear(
            f"attention.{part}",
            mixed[part],
            Linear(m, size, hidden, module=f"{module}.{part}_proj", tp="column"),
        )
        for part in ("receptance", "key", "value")
    }
    for part, rank, origin, bias in (
        ("decay", spec.decay_rank, "decay", size), ("rate", spec.rate_rank, "rate", size),
        ("residual", spec.value_rank, "value", size), ("gate", spec.gate_rank, "gate", 0),
    ):  # fmt: skip
        if rank:
            inner = w.linear(
                f"attention.{part}_in",
                mixed[origin],
                Linear(m, rank, hidden, module=f"{module}.{part}_in", tp="replicated"),
            )
            outer = Linear(m, size, rank, module=f"{module}.{part}_out", tp="column", bias=bias)
            made[part] = w.linear(f"attention.{part}_out", inner, outer)
    out = _recurrence(w, step, spec, [made[part] for part in made if part != "gate"], size)
    gated = w.activation("attention.gated.out", m, size)
    gating = Activation(m=m, n=size, flops_per_element=ACTIVATION_FLOPS["sigmoid"] + 1, gated=True)
    w.emit("attention.gated", gating, (out, made["gate"]), (gated,), tp="split")
    return w.linear("attention.out", gated, Linear(m, hidden, size, module=f"{module}.o_proj", tp="row"))


def _recurrence(w: GraphWriter, step: Step, spec: DeltaMix, sources: list[str], size: int) -> str:
    """The states pass all tokens; their result is normed per head, with the bonus added."""
    m = step.tokens
    states = []
    if step.keeps_cache:
        shape = (step.batch, spec.heads, spec.head_dim, spec.head_dim)
        states.append(w.tensor("attention.state", shape, STATE_DTYPE, Role.KV_CACHE))
    raw = w.activation("attention.attend.out", m, size)
    work = LinearAttention(
        batch=step.batch, sequence=step.new, heads=spec.heads, kv_heads=spec.heads, key_dim=spec.head_dim,
        value_dim=spec.head_dim, rule="delta", chunk=1 if step.decode else spec.chunk, state_dtype=STATE_DTYPE,
    )  # fmt: skip
    # What scales keys for their removal and for their addition.
    weight = w.weight("attention.keys.weight", 2, size)
    w.emit(
        "attention.attend", work, (*sources, weight, *states), (raw,), updates=tuple(states), tp="head",
        moves=Moves(touched={} if step.past else dict.fromkeys(states, 0)),
    )  # fmt: skip
    normed = w.activation("attention.head_norm.out", m, size)
    weights = (
        w.weight("attention.head_norm.weight", size),
        w.weight("attention.head_norm.bias", size),
        w.weight("attention.bonus.weight", size),
    )
    # The bonus: receptance by key by weight, summed over a head, times the value.
    norm = Norm(m=m, n=size, flops_per_element=float(NORM_FLOPS["layer"] + 5), norm="layer")
    w.emit("attention.head_norm", norm, (raw, *sources[:3], *weights), (normed,), tp="split")
    return normed
