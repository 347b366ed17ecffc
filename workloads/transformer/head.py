"""What stands behind the last block: final norm, logits, a pooled classifier or a projector to another model."""

from __future__ import annotations

from workloads import operators
from workloads.transformer.shape import Decoder, HeadTransform, Projector
from workloads.transformer.step import Step
from workloads.transformer.stream import Stream, settle, write_norm
from workloads.transformer.writer import ACTIVATION_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_head"]


def write_head(w: GraphWriter, step: Step, decoder: Decoder, stream: Stream) -> str:
    """The final norm and what the model makes of the last state; returns the result's name."""
    m, hidden = step.tokens, decoder.hidden
    if decoder.final_norm:
        out = write_norm(w, "final_norm", decoder.final_norm, m, hidden, stream, last=True)
    else:
        out = settle(w, step, hidden, stream, "final_add")
    if decoder.pooled:
        return _write_pooled(w, step, decoder, out)
    if decoder.projector is not None:
        return _write_projector(w, step, hidden, decoder.projector, out)
    if decoder.headless:
        return out
    rows = m if step.all_logits else step.batch
    width = decoder.embedding_width or hidden
    if decoder.transform is not None:
        out, width = _transform(w, rows, hidden, decoder.transform, out), decoder.transform.width
    elif decoder.embedding_width:
        out = w.linear("project_out", out, Linear(m, width, hidden, module="", tp="replicated"))
    tied = decoder.tied
    return w.linear(
        "lm_head",
        out,
        Linear(
            rows,
            decoder.head_vocab or decoder.vocab,
            width,
            module="embed_tokens" if tied else "lm_head",
            tp="vocab",
            weight=_table(w, decoder) if tied else None,
            bias=(decoder.head_vocab or decoder.vocab) if decoder.head_bias else 0,
        ),
    )


def _write_projector(w: GraphWriter, step: Step, hidden: int, spec: Projector, source: str) -> str:
    """A tower's rows, merged and projected; deep projectors read as many rows again."""
    out = ""
    for number in range(1 + spec.deep):
        name = "projector" if number == 0 else f"projector_{number}"
        before, behind = (spec.norm, spec.merged_norm) if number == 0 else (None, spec.norm)
        rows, width = step.batch * (step.new - spec.dropped), hidden
        made = source
        if before is not None:
            made = write_norm(w, f"{name}.norm", before, step.tokens, width, Stream(made), last=True)
        merged = rows // spec.merge
        if spec.mean and spec.merge > 1:
            mean = w.activation(f"{name}.mean.out", merged, width)
            work = operators.Pool(
                mode="average", kernel_h=spec.merge, m=merged, n=width, flops_per_element=float(spec.merge)
            )
            w.emit(f"{name}.mean", work, (made,), (mean,))
            made = mean
        elif spec.merge > 1 or spec.dropped:
            width *= spec.merge
            moved = w.activation(f"{name}.merge.out", merged, width)
            copy = operators.Copy(m=merged, n=width, function="merge")
            w.emit(f"{name}.merge", copy, (made,), (moved,), moves=Moves(touched={made: merged * width}))
            made = moved
        if behind is not None:
            made = write_norm(w, f"{name}.merged_norm", behind, merged, width, Stream(made), last=True)
        w.at(w.layer, f"{w.stack}{name}.")
        for index, one in enumerate(spec.steps):
            w.prefix = f"{w.stack}{name}.{index}."
            made = _transform(w, merged, width, one, made)
            width = one.width
        w.prefix = w.stack
        out = out or made
    return out


def _write_pooled(w: GraphWriter, step: Step, decoder: Decoder, source: str) -> str:
    """The first row of each sequence through the transform, and a classifier if there are labels."""
    rows, hidden = step.batch, decoder.hidden
    out = w.activation("pooled.out", rows, hidden)
    w.emit("pooled", operators.Gather(m=rows, n=hidden), (source,), (out,))
    if decoder.transform is not None:
        out, hidden = _transform(w, rows, hidden, decoder.transform, out), decoder.transform.width
    if not decoder.labels:
        return out
    spec = Linear(rows, decoder.labels, hidden, module="", tp="replicated", bias=decoder.labels)
    return w.linear("classifier", out, spec)


def _table(w: GraphWriter, decoder: Decoder) -> str:
    """The name of the token embedding."""
    return f"{w.stack}embedding.weight" if decoder.own_table else "embedding.weight"


def _transform(w: GraphWriter, rows: int, hidden: int, head: HeadTransform, source: str) -> str:
    """A product, a non-linearity and a norm before the output projection."""
    n = head.width
    spec = Linear(rows, n, hidden, module="", tp="replicated", bias=n if head.bias else 0)
    out = w.linear("transform", source, spec)
    if head.activation:
        active = w.activation("transform.act.out", rows, n)
        work = operators.Activation(m=rows, n=n, flops_per_element=ACTIVATION_FLOPS[head.activation])
        w.emit("transform.act", work, (out,), (active,))
        out = active
    if head.norm is None:
        return out
    return write_norm(w, "transform.norm", head.norm, rows, n, Stream(out), last=True)
