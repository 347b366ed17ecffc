"""A decoder's graph for one step: embedding, blocks, final norm and logits.

Between blocks runs the residual stream. A fused graph adds a block's output to it inside the next norm, as
serving engines do; otherwise every addition is an operator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from workloads import operators
from workloads.graph import Role
from workloads.operators import Embedding
from workloads.transformer.adapter_products import write_copies
from workloads.transformer.alternating import (
    merge_alternating,
    open_alternating,
    write_alternating_layer,
)
from workloads.transformer.attention import KeyValue, write_attention
from workloads.transformer.compressed import write_compressed_attention
from workloads.transformer.cross_attention import Memory, write_cross_attention
from workloads.transformer.delta_mix import write_delta_mix
from workloads.transformer.feed_forward import write_experts, write_mlp
from workloads.transformer.hyper import merge_streams, open_streams, read_streams, write_streams
from workloads.transformer.latent import write_latent_attention
from workloads.transformer.recurrent import write_recurrence
from workloads.transformer.scans import (
    write_gated_lru,
    write_selective_scan,
    write_short_convolution,
    write_time_mix,
    write_token_mix,
)
from workloads.transformer.shape import (
    AlternatingUpdates,
    Attention,
    CompressedAttention,
    Decoder,
    DeltaMix,
    GatedLru,
    HeadTransform,
    HyperConnection,
    LatentAttention,
    Layer,
    Mixer,
    Norm,
    Projector,
    Recurrence,
    SelectiveScan,
    ShortConvolution,
    TimeMix,
)
from workloads.transformer.shared_block import write_shared_block
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_decoder"]


@dataclass
class _Stream:
    """The residual stream and the outputs still to be added to it."""

    residual: str
    pending: list[str] = field(default_factory=list)
    embedded: str = ""
    """What the embeddings were, for blocks that read them again."""


@dataclass
class _Known:
    """What earlier layers made that later ones may take over."""

    caches: dict[int, KeyValue] = field(default_factory=dict)
    choices: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Beside:
    """What layers read beside the stream: the layers' own inputs (or ""), an encoder's result."""

    inputs: str = ""
    memory: Memory | None = None


def write_decoder(
    w: GraphWriter,
    step: Step,
    decoder: Decoder,
    *,
    first: int = 0,
    memory: Memory | None = None,
    source: str = "",
) -> str:
    """All operators of one step; returns the name of the logits.

    ``first``: layers that stand before in the same graph. ``memory``: what layers with cross attention look at.
    ``source``: rows that stand in for the tokens' embeddings.
    """
    w.adapters, w.sequences = decoder.adapters, step.batch
    stream = _Stream(source) if source else _write_embedding(w, step, decoder)
    if source and decoder.embedding_norm:
        stream.residual = _norm(
            w, "embedding_norm", decoder.embedding_norm, step.tokens, decoder.hidden, stream
        )
    known = _Known()
    stream.embedded = stream.residual
    extra = _write_per_layer_inputs(w, step, decoder, stream.residual) if decoder.per_layer_rows else ""
    _open_streams(w, step, decoder, stream)
    for index, layer in enumerate(decoder.layers):
        w.at(first + index, f"{w.stack}layers.{index}.")
        w.weights = None if layer.group is None else f"{w.stack}groups.{layer.group}."
        _write_layer(w, step, decoder, layer, stream, known, _Beside(extra, memory))
        w.weights = None
        if layer.per_layer_input and layer.hyper is None:
            _write_per_layer_block(w, step, decoder.hidden, layer.per_layer_input, stream, extra)
    w.at(first + len(decoder.layers), w.stack)
    _merge_streams(w, step, decoder, stream)
    if decoder.spare:
        w.weight("spare.weight", decoder.spare)
    return _write_head(w, step, decoder, stream)


def _open_streams(w: GraphWriter, step: Step, decoder: Decoder, stream: _Stream) -> None:
    """Make several residual streams of the embedding, where the family has them."""
    hyper = decoder.layers[0].hyper if decoder.layers else None
    m, hidden = step.tokens, decoder.hidden
    if isinstance(hyper, AlternatingUpdates):
        stream.residual = open_alternating(w, m, hidden, hyper, stream.residual)
    elif hyper is not None:
        stream.residual = open_streams(w, m, hidden, hyper.streams, stream.residual)


def _merge_streams(w: GraphWriter, step: Step, decoder: Decoder, stream: _Stream) -> None:
    """Make one residual stream of several at the end."""
    hyper = decoder.layers[0].hyper if decoder.layers else None
    m, hidden = step.tokens, decoder.hidden
    if isinstance(hyper, AlternatingUpdates):
        stream.residual = merge_alternating(w, m, hidden, hyper, stream.residual)
    elif hyper is not None:
        learned = decoder.merges_streams
        stream.residual = merge_streams(w, m, hidden, hyper.streams, stream.residual, learned)


def _write_embedding(w: GraphWriter, step: Step, decoder: Decoder) -> _Stream:
    """Rows of all tables added up, normed and brought to the model's width."""
    m, hidden = step.tokens, decoder.hidden
    width = decoder.embedding_width or hidden
    tokens = w.tensor("tokens", (step.batch, step.new), "int32", Role.ACTIVATION)
    out = _lookup(w, "embedding", tokens, decoder.vocab, m, width, "vocab", not decoder.own_table)
    projected = bool(decoder.embedding_width)
    if projected and not decoder.narrow_tables:
        out = w.linear("project_in", out, Linear(m, hidden, width, module="", tp="replicated"))
    wide = width if decoder.narrow_tables else hidden
    stream = _Stream(out)
    if decoder.positions:
        at = _lookup(w, "position_embedding", tokens, decoder.positions, m, wide, "replicated")
        _add(w, step, wide, stream, "position_add", at)
    if decoder.segments:
        kind = _lookup(w, "segment_embedding", tokens, decoder.segments, m, wide, "replicated")
        _add(w, step, wide, stream, "segment_add", kind)
    if decoder.vectors:
        w.weight("vectors", decoder.vectors)
    if decoder.embedding_norm:
        stream.residual = _norm(w, "embedding_norm", decoder.embedding_norm, m, wide, stream)
    if projected and decoder.narrow_tables:
        source = _settle(w, step, wide, stream, "embedding_add")
        spec = Linear(m, hidden, width, module="", tp="replicated", bias=hidden)
        stream.residual = w.linear("project_in", source, spec)
    return stream


def _lookup(
    w: GraphWriter, name: str, tokens: str, rows: int, m: int, n: int, tp: str, shared: bool = False
) -> str:
    """Rows of a table; a ``shared`` one is that of all stacks."""
    module = "embed_tokens" if name == "embedding" else ""
    table = (w.shared_weight if shared else w.weight)(f"{name}.weight", rows, n, module=module)
    if name == "embedding" and w.adapters:
        write_copies(w, name, [("embed_tokens", rows)], n)
    out = w.activation(f"{name}.out", m, n)
    w.emit(name, Embedding(m=m, n=n), (tokens, table), (out,), tp=tp)
    return out


def _write_head(w: GraphWriter, step: Step, decoder: Decoder, stream: _Stream) -> str:
    m, hidden = step.tokens, decoder.hidden
    if decoder.final_norm:
        out = _norm(w, "final_norm", decoder.final_norm, m, hidden, stream, last=True)
    else:
        out = _settle(w, step, hidden, stream, "final_add")
    if decoder.pooled:
        return _write_pooled(w, step, decoder, out)
    if decoder.projector is not None:
        return _write_projector(w, step, hidden, decoder.projector, out)
    if decoder.headless:
        return out
    rows = m if step.all_logits else step.batch
    if decoder.head_norm is not None:
        out = _write_head_norm(w, rows, hidden, decoder, out)
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
            made = _norm(w, f"{name}.norm", before, step.tokens, width, _Stream(made), last=True)
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
            made = _norm(w, f"{name}.merged_norm", behind, merged, width, _Stream(made), last=True)
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
    return _norm(w, "transform.norm", head.norm, rows, n, _Stream(out), last=True)


def _write_head_norm(w: GraphWriter, m: int, hidden: int, decoder: Decoder, source: str) -> str:
    """A square product, a non-linearity and a norm before the logits, as encoders have them."""
    bias = hidden if decoder.head_norm_bias else 0
    dense = w.linear("head_dense", source, Linear(m, hidden, hidden, module="", tp="replicated", bias=bias))
    out = w.activation("head_act.out", m, hidden)
    work = operators.Activation(m=m, n=hidden, flops_per_element=ACTIVATION_FLOPS["gelu_erf"])
    w.emit("head_act", work, (dense,), (out,))
    norm = decoder.head_norm or Norm("layer")
    return _norm(w, "head_norm", norm, m, hidden, _Stream(out), last=True)


def _write_layer(
    w: GraphWriter,
    step: Step,
    decoder: Decoder,
    layer: Layer,
    stream: _Stream,
    known: _Known,
    beside: _Beside,
) -> None:
    m, hidden = step.tokens, decoder.hidden
    if isinstance(layer.hyper, AlternatingUpdates):

        def mix(source: str) -> list[str]:
            return _mixer(w, step, hidden, layer, source, known)

        def feed(source: str) -> list[str]:
            return _feed_forward(w, step, hidden, layer, source)

        stream.residual = write_alternating_layer(
            w, m, hidden, layer.hyper, stream.residual, beside.inputs, mix, feed
        )
        return
    if layer.hyper is not None:
        _write_hyper_layer(w, step, hidden, layer, layer.hyper, stream, known)
        return
    if layer.parallel:
        source = _entry(w, step, hidden, stream, "attention_norm", layer.mixer_norm)
        mlp_source = _norm(w, "mlp_norm", layer.mlp_norm, m, hidden, stream) if layer.mlp_norm else source
        mixed = _mixer(w, step, hidden, layer, source, known)
        _add(w, step, hidden, stream, "add", *mixed, *_feed_forward(w, step, hidden, layer, mlp_source))
        return
    if layer.mixer is not None:
        norm = None if layer.post_norm else layer.mixer_norm
        source = (
            _shared_entry(w, step, hidden, layer, stream, known)
            if layer.shared is not None
            else _entry(w, step, hidden, stream, "attention_norm", norm)
        )
        mixed = _mixer(w, step, hidden, layer, source, known)
        _add(w, step, hidden, stream, "attention_add", *mixed)
        if layer.post_norm and layer.mixer_norm:
            stream.residual = _norm(w, "attention_norm", layer.mixer_norm, m, hidden, stream)
    if layer.cross is not None and beside.memory is not None:
        source = _entry(w, step, hidden, stream, "cross_norm", None if layer.post_norm else layer.cross_norm)
        crossed = write_cross_attention(w, step, layer.cross, hidden, source, beside.memory)
        outs = _output_norm(w, step, hidden, "cross_out_norm", layer.cross_out_norm, [crossed])
        _add(w, step, hidden, stream, "cross_add", *outs)
        if layer.post_norm and layer.cross_norm:
            stream.residual = _norm(w, "cross_norm", layer.cross_norm, m, hidden, stream)
    if layer.mlp is not None or layer.experts is not None:
        norm = None if layer.post_norm else layer.mlp_norm
        source = _entry(w, step, hidden, stream, "mlp_norm", norm)
        outs = (
            _both_parts(w, step, hidden, layer, source, stream.residual)
            if layer.beside
            else _feed_forward(w, step, hidden, layer, source)
        )
        _add(w, step, hidden, stream, "mlp_add", *outs)
        if layer.post_norm and layer.mlp_norm:
            stream.residual = _norm(w, "mlp_norm", layer.mlp_norm, m, hidden, stream)


def _write_hyper_layer(
    w: GraphWriter, step: Step, hidden: int, layer: Layer, hyper: HyperConnection, stream: _Stream, known: _Known
) -> None:  # fmt: skip
    """Mixer, then feed-forward part, each between a reading and a writing of all streams."""
    m = step.tokens
    for name, norm in (("attention", layer.mixer_norm), ("mlp", layer.mlp_norm)):
        entry, numbers = read_streams(w, f"{name}_streams", m, hidden, hyper, stream.residual)
        source = _norm(w, f"{name}_norm", norm, m, hidden, _Stream(entry)) if norm else entry
        outs = (
            _mixer(w, step, hidden, layer, source, known)
            if name == "attention"
            else _feed_forward(w, step, hidden, layer, source)
        )
        stream.residual = write_streams(
            w, f"{name}_streams", m, hidden, hyper, stream.residual, numbers, outs
        )


def _mixer(w: GraphWriter, step: Step, hidden: int, layer: Layer, source: str, known: _Known) -> list[str]:
    if layer.mixer is None:
        return []
    outs = [_mix(w, step, hidden, layer.mixer, source, known)]
    if layer.beside_mixer is not None:
        prefix = w.prefix
        w.prefix = f"{prefix}beside."
        outs.append(_mix(w, step, hidden, layer.beside_mixer, source, known))
        w.prefix = prefix
    return _output_norm(w, step, hidden, "attention_out_norm", layer.mixer_out_norm, outs)


def _mix(w: GraphWriter, step: Step, hidden: int, mixer: Mixer, source: str, known: _Known) -> str:
    if isinstance(mixer, Attention):
        return write_attention(w, step, mixer, hidden, source, known.caches)
    if isinstance(mixer, LatentAttention):
        return write_latent_attention(w, step, mixer, hidden, source, known.choices)
    if isinstance(mixer, CompressedAttention):
        return write_compressed_attention(w, step, mixer, hidden, source)
    if isinstance(mixer, Recurrence):
        return write_recurrence(w, step, mixer, hidden, source)
    if isinstance(mixer, SelectiveScan):
        return write_selective_scan(w, step, mixer, hidden, source)
    if isinstance(mixer, GatedLru):
        return write_gated_lru(w, step, mixer, hidden, source)
    if isinstance(mixer, ShortConvolution):
        return write_short_convolution(w, step, mixer, hidden, source)
    if isinstance(mixer, DeltaMix):
        return write_delta_mix(w, step, mixer, hidden, source)
    assert isinstance(mixer, TimeMix)
    return write_time_mix(w, step, mixer, hidden, source)


def _shared_entry(
    w: GraphWriter, step: Step, hidden: int, layer: Layer, stream: _Stream, known: _Known
) -> str:
    """What a mixer reads behind a shared block: the stream and the block's result, normed; the stream stays."""
    assert layer.shared is not None
    assert layer.mixer_norm is not None
    residual = _settle(w, step, hidden, stream, "shared_input_add")
    sources = tuple(dict.fromkeys((residual, stream.embedded)))
    added = write_shared_block(w, step, layer.shared, hidden, sources, known.caches)
    both = _Stream(residual, [added])
    return _norm(w, "attention_norm", layer.mixer_norm, step.tokens, hidden, both, last=True)


def _feed_forward(w: GraphWriter, step: Step, hidden: int, layer: Layer, source: str) -> list[str]:
    outs = []
    if layer.experts is not None:
        outs += write_experts(w, step, layer.experts, hidden, source)
    if layer.mlp is not None and layer.mlp.token_mix:
        outs.append(write_token_mix(w, step, layer.mlp, hidden, source))
    elif layer.mlp is not None:
        outs.append(write_mlp(w, step.tokens, layer.mlp, hidden, source, "mlp", layer.vectors))
    return _output_norm(w, step, hidden, "mlp_out_norm", layer.mlp_out_norm, outs)


def _both_parts(
    w: GraphWriter, step: Step, hidden: int, layer: Layer, source: str, residual: str
) -> list[str]:
    """Dense part and experts side by side, normed before and after; the router reads the plain residual."""
    norm, m = layer.mlp_norm, step.tokens
    if layer.mlp is None or layer.experts is None or norm is None:
        raise ValueError("a layer with parts side by side has both parts and norms")
    dense = write_mlp(w, m, layer.mlp, hidden, source, "mlp")
    dense = _norm(w, "mlp_dense_norm", norm, m, hidden, _Stream(dense))
    routed = _norm(w, "mlp_router_norm", Norm(norm.kind, weight=False), m, hidden, _Stream(residual))
    entry = _norm(w, "mlp_experts_norm", norm, m, hidden, _Stream(residual))
    outs = write_experts(w, step, layer.experts, hidden, entry, routed)
    sparse = _norm(w, "mlp_experts_out_norm", norm, m, hidden, _Stream(outs[0], outs[1:]), last=True)
    return _output_norm(w, step, hidden, "mlp_out_norm", layer.mlp_out_norm, [dense, sparse])


def _write_per_layer_inputs(w: GraphWriter, step: Step, decoder: Decoder, embedded: str) -> str:
    """One lookup and one product give every layer its own small input (Gemma 4)."""
    m, width = step.tokens, sum(layer.per_layer_input for layer in decoder.layers)
    looked_up = _lookup(w, "layer_embedding", "tokens", decoder.per_layer_rows, m, width, "replicated")
    projected = w.linear(
        "layer_projection", embedded, Linear(m, width, decoder.hidden, module="", tp="replicated")
    )
    out = w.activation("layer_inputs.out", m, width)
    weight = w.weight("layer_inputs.weight", decoder.layers[0].per_layer_input)
    work = operators.Norm(m=m, n=width, flops_per_element=NORM_FLOPS["rms"] + 1, norm="rms")
    w.emit("layer_inputs", work, (projected, looked_up, weight), (out,))
    return out


def _write_per_layer_block(
    w: GraphWriter, step: Step, hidden: int, width: int, stream: _Stream, inputs: str
) -> None:
    """A gate on the layer's own input, projected back and added to the stream."""
    m = step.tokens
    source = _settle(w, step, hidden, stream, "layer_input_add")
    gate = w.linear("layer_input.gate", source, Linear(m, width, hidden, module="", tp="replicated"))
    gated = w.activation("layer_input.act.out", m, width)
    work = operators.Activation(m=m, n=width, flops_per_element=ACTIVATION_FLOPS["gelu"] + 1)
    w.emit("layer_input.act", work, (gate, inputs), (gated,), moves=Moves(touched={inputs: m * width}))
    out = w.linear("layer_input.out", gated, Linear(m, hidden, width, module="", tp="replicated"))
    normed = _norm(w, "layer_input_norm", Norm("rms"), m, hidden, _Stream(out))
    _add(w, step, hidden, stream, "layer_add", normed)


def _output_norm(
    w: GraphWriter, step: Step, hidden: int, name: str, norm: Norm | None, outs: list[str]
) -> list[str]:
    """A norm on a block's output before it joins the residual stream (Gemma 2, OLMo 2)."""
    if norm is None:
        return outs
    block = _Stream(outs[0], outs[1:])
    return [_norm(w, name, norm, step.tokens, hidden, block, last=True)]


def _entry(w: GraphWriter, step: Step, hidden: int, stream: _Stream, name: str, norm: Norm | None) -> str:
    """What a block reads: the normed stream, or the stream itself where the family norms elsewhere."""
    if norm is None:
        return _settle(w, step, hidden, stream, name.replace("_norm", "_input_add"))
    return _norm(w, name, norm, step.tokens, hidden, stream)


def _add(w: GraphWriter, step: Step, hidden: int, stream: _Stream, name: str, *outs: str) -> None:
    """Hand outputs to the residual stream."""
    stream.pending += outs
    if not w.fused:
        _settle(w, step, hidden, stream, name)


def _settle(w: GraphWriter, step: Step, hidden: int, stream: _Stream, name: str) -> str:
    """The stream with everything added to it."""
    if stream.pending:
        m = step.tokens
        inputs = (stream.residual, *stream.pending)
        out = w.activation(f"{name}.out", m, hidden)
        work = operators.Elementwise(
            m=m, n=hidden, flops_per_element=float(len(stream.pending)), function="add"
        )
        w.emit(name, work, inputs, (out,))
        stream.residual, stream.pending = out, []
    return stream.residual


def _norm(w: GraphWriter, name: str, norm: Norm, m: int, n: int, stream: _Stream, last: bool = False) -> str:
    """A norm of the stream, which on the way takes in what is pending; ``last``: nobody needs the sum."""
    weights = []
    if norm.weight:
        weights.append(w.weight(f"{name}.weight", n))
    if norm.bias:
        weights.append(w.weight(f"{name}.bias", n))
    outputs: Sequence[str] = [w.activation(f"{name}.out", m, n)]
    inputs = (stream.residual, *stream.pending, *weights)
    added = len(stream.pending)
    if stream.pending and not last:
        total = w.activation(f"{name}.sum", m, n)
        outputs = [*outputs, total]
        stream.residual = total
    work = operators.Norm(
        m=m, n=n, flops_per_element=float(NORM_FLOPS[norm.kind] + added), norm=norm.kind, adds=added
    )
    w.emit(name, work, inputs, outputs)
    stream.pending = []
    return outputs[0]
