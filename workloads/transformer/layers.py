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
from workloads.transformer.feed_forward import write_experts, write_mlp
from workloads.transformer.hyper import merge_streams, open_streams, read_streams, write_streams
from workloads.transformer.latent import write_latent_attention
from workloads.transformer.recurrent import write_recurrence
from workloads.transformer.shape import (
    AlternatingUpdates,
    CompressedAttention,
    Decoder,
    HyperConnection,
    LatentAttention,
    Layer,
    Norm,
    Recurrence,
)
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_decoder"]


@dataclass
class _Stream:
    """The residual stream and the outputs still to be added to it."""

    residual: str
    pending: list[str] = field(default_factory=list)


@dataclass
class _Known:
    """What earlier layers made that later ones may take over."""

    caches: dict[int, KeyValue] = field(default_factory=dict)
    choices: dict[int, str] = field(default_factory=dict)


def write_decoder(w: GraphWriter, step: Step, decoder: Decoder) -> str:
    """All operators of one step; returns the name of the logits."""
    w.adapters, w.sequences = decoder.adapters, step.batch
    stream = _write_embedding(w, step, decoder)
    known = _Known()
    extra = _write_per_layer_inputs(w, step, decoder, stream.residual) if decoder.per_layer_rows else ""
    _open_streams(w, step, decoder, stream)
    for index, layer in enumerate(decoder.layers):
        w.at(index, f"layers.{index}.")
        _write_layer(w, step, decoder, layer, stream, known, extra)
        if layer.per_layer_input and layer.hyper is None:
            _write_per_layer_block(w, step, decoder.hidden, layer.per_layer_input, stream, extra)
    w.at(len(decoder.layers), "")
    _merge_streams(w, step, decoder, stream)
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
    m, hidden = step.tokens, decoder.hidden
    width = decoder.embedding_width or hidden
    tokens = w.tensor("tokens", (step.batch, step.new), "int32", Role.ACTIVATION)
    out = _lookup(w, "embedding", tokens, decoder.vocab, m, width, "vocab")
    if decoder.embedding_width:
        out = w.linear("project_in", out, Linear(m, hidden, width, module="", tp="replicated"))
    stream = _Stream(out)
    if decoder.positions:
        at = _lookup(w, "position_embedding", tokens, decoder.positions, m, hidden, "replicated")
        _add(w, step, hidden, stream, "position_add", at)
    if decoder.vectors:
        w.weight("vectors", decoder.vectors)
    if decoder.embedding_norm:
        stream.residual = _norm(w, "embedding_norm", decoder.embedding_norm, m, hidden, stream)
    return stream


def _lookup(w: GraphWriter, name: str, tokens: str, rows: int, m: int, n: int, tp: str) -> str:
    table = (
        w.stored("embedding.weight", "embed_tokens", rows, n)
        if name == "embedding"
        else w.weight(f"{name}.weight", rows, n)
    )
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
    rows = m if step.all_logits else step.batch
    if decoder.head_norm is not None:
        out = _write_head_norm(w, rows, hidden, decoder, out)
    width = decoder.embedding_width or hidden
    if decoder.embedding_width:
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
            weight="embedding.weight" if tied else None,
            bias=(decoder.head_vocab or decoder.vocab) if decoder.head_bias else 0,
        ),
    )


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
    w: GraphWriter, step: Step, decoder: Decoder, layer: Layer, stream: _Stream, known: _Known, inputs: str
) -> None:
    m, hidden = step.tokens, decoder.hidden
    if isinstance(layer.hyper, AlternatingUpdates):

        def mix(source: str) -> list[str]:
            return _mixer(w, step, hidden, layer, source, known)

        def feed(source: str) -> list[str]:
            return _feed_forward(w, step, hidden, layer, source)

        stream.residual = write_alternating_layer(
            w, m, hidden, layer.hyper, stream.residual, inputs, mix, feed
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
        source = _entry(w, step, hidden, stream, "attention_norm", norm)
        mixed = _mixer(w, step, hidden, layer, source, known)
        _add(w, step, hidden, stream, "attention_add", *mixed)
        if layer.post_norm and layer.mixer_norm:
            stream.residual = _norm(w, "attention_norm", layer.mixer_norm, m, hidden, stream)
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
    mixer = layer.mixer
    if mixer is None:
        return []
    if isinstance(mixer, LatentAttention):
        out = write_latent_attention(w, step, mixer, hidden, source, known.choices)
    elif isinstance(mixer, CompressedAttention):
        out = write_compressed_attention(w, step, mixer, hidden, source)
    elif isinstance(mixer, Recurrence):
        out = write_recurrence(w, step, mixer, hidden, source)
    else:
        out = write_attention(w, step, mixer, hidden, source, known.caches)
    return _output_norm(w, step, hidden, "attention_out_norm", layer.mixer_out_norm, [out])


def _feed_forward(w: GraphWriter, step: Step, hidden: int, layer: Layer, source: str) -> list[str]:
    outs = []
    if layer.experts is not None:
        outs += write_experts(w, step, layer.experts, hidden, source)
    if layer.mlp is not None:
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
