"""The operators of dense and expert feed-forward parts."""

from __future__ import annotations

from workloads.expert_load import expected_experts
from workloads.operators import Activation, Elementwise, Norm, Reduce, Sort, TopK
from workloads.transformer.shape import Experts, FeedForward
from workloads.transformer.step import Step
from workloads.transformer.stream import Stream, write_norm
from workloads.transformer.writer import (
    ACTIVATION_FLOPS,
    NORM_FLOPS,
    ExpertProducts,
    GraphWriter,
    Linear,
    Share,
)

__all__ = ["expected_experts", "write_experts", "write_mlp"]


def write_mlp(
    w: GraphWriter, m: int, spec: FeedForward, hidden: int, source: str, name: str, vectors: int = 0
) -> str:
    """Up (and gate) projection, non-linearity and down projection; returns the output's name.

    ``vectors``: weights of a learned non-linearity.
    """
    module = f"model.layers.{w.layer}.{name.replace('.shared', '.shared_experts')}"
    size, gated = spec.intermediate, spec.gated
    up_bias = size if spec.up_bias else 0
    if gated and w.fused:
        halves = [
            w.linear(
                f"{name}.gate_up",
                source,
                Linear(
                    m,
                    2 * size,
                    hidden,
                    module="",
                    tp="column",
                    bias=2 * up_bias,
                    shares=(Share(f"{module}.gate_proj", size), Share(f"{module}.up_proj", size)),
                ),
            )
        ]
    else:
        halves = [
            w.linear(
                f"{name}.{part}",
                source,
                Linear(m, size, hidden, module=f"{module}.{part}_proj", tp="column", bias=up_bias),
            )
            for part in (("gate", "up") if gated else ("up",))
        ]
    hidden_out = w.activation(f"{name}.act.out", m, size)
    if vectors:
        halves.append(w.weight(f"{name}.act.weight", vectors))
    work = Activation(
        m=m, n=size, flops_per_element=ACTIVATION_FLOPS[spec.activation] + gated, function=spec.activation, gated=gated,
    )  # fmt: skip
    w.emit(f"{name}.act", work, halves, (hidden_out,), tp="split")
    if spec.inner_norm is not None:
        hidden_out = _write_inner_norm(w, m, spec, name, hidden_out)
    return w.linear(
        f"{name}.down",
        hidden_out,
        Linear(m, hidden, size, module=f"{module}.down_proj", tp="row", bias=hidden if spec.down_bias else 0),
    )


def _write_inner_norm(w: GraphWriter, m: int, spec: FeedForward, name: str, source: str) -> str:
    norm, n = spec.inner_norm, spec.intermediate
    if norm is None:
        return source
    out = w.activation(f"{name}.inner_norm.out", m, n)
    parts = [part for part, wanted in (("weight", norm.weight), ("bias", norm.bias)) if wanted]
    weights = [w.weight(f"{name}.inner_norm.{part}", n) for part in parts]
    work = Norm(m=m, n=n, flops_per_element=NORM_FLOPS[norm.kind], norm=norm.kind)
    w.emit(f"{name}.inner_norm", work, (source, *weights), (out,), tp="split")
    return out


def write_experts(
    w: GraphWriter, step: Step, spec: Experts, hidden: int, source: str, routed: str | None = None
) -> list[str]:
    """Router, chosen experts, and the shared expert beside them; returns the outputs to be added.

    Rows are sorted by expert before the first product, and each token's rows are summed, weighted by its router, after
    the second; a shared expert's result is added to that sum, so that ranks complete both at once.

    ``routed`` is what the router reads, if it is not what the experts read.
    """
    m, rows = step.tokens, step.tokens * spec.active
    if spec.idle:
        # Choices fall evenly on experts and on those that pass a token on unchanged.
        rows = max(round(rows * spec.count / (spec.count + spec.idle)), 1)
    # Gemma 4's experts stand beside its dense part rather than in it, and its router reads what they do not.
    part = f"model.layers.{w.layer}" + ("" if routed else ".mlp")
    module = f"{part}.experts"
    touched = expected_experts(spec.count, spec.active, step.new if step.same_prompts else m)
    load = "repeated" if step.same_prompts and step.new == 1 else "independent"
    choice = _route(w, m, spec, hidden, routed or source, f"{part}.gate")
    order = w.activation("mlp.experts.sort.out", 1, rows, "int32")
    w.emit("mlp.experts.sort", Sort(n=rows), (choice,), (order,))
    halves = 2 if spec.gated else 1
    entry, width = source, hidden
    if spec.latent:
        width = spec.latent
        entry = w.linear(
            "mlp.experts.latent_in",
            source,
            Linear(
                m,
                width,
                hidden,
                module=f"{part}.fc1_latent_proj",
                tp="replicated",
                bias=width * spec.latent_bias,
            ),
        )
    up = w.activation("mlp.experts.gate_up.out", rows, halves * spec.intermediate)
    up = w.grouped(
        "mlp.experts.gate_up",
        (entry, order),
        up,
        ExpertProducts(
            rows,
            halves * spec.intermediate,
            width,
            experts=spec.count,
            active=spec.active,
            touched=touched,
            load=load,
            modules=tuple(f"{module}.{half}_proj" for half in ("gate", "up")[2 - halves :]),
            tp="column",
            bias=spec.up_bias,
        ),
    )
    mid = w.activation("mlp.experts.act.out", rows, spec.intermediate)
    work = Activation(
        m=rows, n=spec.intermediate, flops_per_element=ACTIVATION_FLOPS[spec.activation] + spec.gated,
        gated=spec.gated,
    )  # fmt: skip
    w.emit("mlp.experts.act", work, (up,), (mid,), tp="split")
    down = w.activation("mlp.experts.down.out", rows, width)
    down = w.grouped(
        "mlp.experts.down",
        (mid, order),
        down,
        ExpertProducts(
            rows,
            width,
            spec.intermediate,
            experts=spec.count,
            active=spec.active,
            touched=touched,
            load=load,
            modules=(f"{module}.down_proj",),
            tp="row",
            bias=spec.down_bias,
        ),
    )
    out = w.activation("mlp.experts.combine.out", m, width)
    work_of_sum = Reduce(m=m, n=width, flops_per_element=2.0 * spec.active + spec.out_bias)
    biases = (w.weight("mlp.experts.out_bias", width),) if spec.out_bias else ()
    w.emit("mlp.experts.combine", work_of_sum, (down, choice, *biases), (out,), tp="sum")
    if spec.latent:
        if spec.latent_norm is not None:
            out = write_norm(w, "mlp.experts.latent_norm", spec.latent_norm, m, width, Stream(out), last=True)
        out = w.linear(
            "mlp.experts.latent_out",
            out,
            Linear(
                m,
                hidden,
                width,
                module=f"{part}.fc2_latent_proj",
                tp="replicated",
                bias=hidden * spec.latent_bias,
            ),
        )
    if spec.shared is None:
        return [out]
    shared = _shared(w, m, spec, spec.shared, hidden, source)
    both = w.activation("mlp.shared.add.out", m, hidden)
    add = Elementwise(m=m, n=hidden, flops_per_element=1.0, function="add")
    w.emit("mlp.shared.add", add, (out, shared), (both,), tp="sum")
    if spec.out_norm is None:
        return [both]
    normed = w.activation("mlp.out_norm.out", m, hidden)
    norm = Norm(m=m, n=hidden, flops_per_element=NORM_FLOPS[spec.out_norm.kind], norm=spec.out_norm.kind)
    w.emit("mlp.out_norm", norm, (both, w.weight("mlp.out_norm.weight", hidden)), (normed,))
    return [normed]


def _route(w: GraphWriter, m: int, spec: Experts, hidden: int, source: str, module: str) -> str:
    """Scores of all experts and the choice of the best; the choice is an index and a weight per row."""
    choices = spec.count + spec.idle + spec.scored
    logits = w.linear(
        "mlp.router",
        source,
        Linear(m, choices, hidden, module=module, tp="replicated", bias=choices if spec.router_bias else 0),
    )
    choice = w.activation("mlp.topk.out", m, 2 * spec.active, "fp32")
    inputs = [logits]
    if spec.vectors:
        inputs.append(w.weight("mlp.router.scale", spec.vectors))
    passes = 5 + (2 if spec.groups > 1 else 0)
    work = TopK(
        m=m, n=choices, k=spec.active, groups=spec.groups, top_groups=spec.top_groups,
        flops_per_element=passes,
    )  # fmt: skip
    w.emit("mlp.topk", work, inputs, (choice,))
    return choice


def _shared(w: GraphWriter, m: int, spec: Experts, shared: FeedForward, hidden: int, source: str) -> str:
    """The shared expert, scaled by its own gate where the family has one."""
    out = write_mlp(w, m, shared, hidden, source, "mlp.shared")
    if not spec.shared_gate:
        return out
    gate = w.linear("mlp.shared.scale", source, Linear(m, 1, hidden, module="", tp="replicated"))
    scaled = w.activation("mlp.shared.scaled.out", m, hidden)
    work = Elementwise(m=m, n=hidden, flops_per_element=1.0, function="multiply")
    w.emit("mlp.shared.scaled", work, (out, gate), (scaled,), tp="sum")
    return scaled
