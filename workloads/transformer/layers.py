"""A decoder's graph for one step: embedding, blocks on the residual stream, final norm and logits."""

from __future__ import annotations

from dataclasses import dataclass, field

from workloads.transformer.alternating import (
    merge_alternating,
    open_alternating,
    write_alternating_layer,
)
from workloads.transformer.attention import KeyValue, write_attention
from workloads.transformer.block_residual import close_blocks, open_blocks, write_attending_layer
from workloads.transformer.compressed import write_compressed_attention
from workloads.transformer.cross_attention import Memory, write_cross_attention
from workloads.transformer.delta_mix import write_delta_mix
from workloads.transformer.embedding import write_embedding, write_per_layer_block, write_per_layer_inputs
from workloads.transformer.feed_forward import write_experts, write_mlp
from workloads.transformer.head import write_head
from workloads.transformer.hyper import merge_streams, open_streams, read_streams, write_streams
from workloads.transformer.latent import write_latent_attention
from workloads.transformer.recurrent import write_convolution, write_recurrence
from workloads.transformer.routed_attention import write_routed_attention
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
    HyperConnection,
    LatentAttention,
    Layer,
    Mixer,
    Norm,
    Recurrence,
    RoutedAttention,
    SelectiveScan,
    ShortConvolution,
    TimeMix,
)
from workloads.transformer.shared_block import write_shared_block
from workloads.transformer.step import Step
from workloads.transformer.stream import Stream, add_to, entry_of, output_norm, settle, write_norm
from workloads.transformer.writer import GraphWriter

__all__ = ["write_decoder"]


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
    stream = Stream(source) if source else write_embedding(w, step, decoder)
    if source and decoder.embedding_norm:
        stream.residual = write_norm(
            w, "embedding_norm", decoder.embedding_norm, step.tokens, decoder.hidden, stream
        )
    known = _Known()
    stream.embedded = stream.residual
    extra = write_per_layer_inputs(w, step, decoder, stream.residual) if decoder.per_layer_rows else ""
    _open_streams(w, step, decoder, stream)
    for index, layer in enumerate(decoder.layers):
        w.at(first + index, f"{w.stack}layers.{index}.")
        w.weights = None if layer.group is None else f"{w.stack}groups.{layer.group}."
        _write_layer(w, step, decoder, layer, stream, known, _Beside(extra, memory))
        w.weights = None
        if layer.per_layer_input and layer.hyper is None:
            write_per_layer_block(w, step, decoder.hidden, layer.per_layer_input, stream, extra)
    w.at(first + len(decoder.layers), w.stack)
    _merge_streams(w, step, decoder, stream)
    if decoder.spare:
        w.weight("spare.weight", decoder.spare)
    return write_head(w, step, decoder, stream)


def _open_streams(w: GraphWriter, step: Step, decoder: Decoder, stream: Stream) -> None:
    """Make several residual streams of the embedding, where the family has them."""
    hyper = decoder.layers[0].hyper if decoder.layers else None
    m, hidden = step.tokens, decoder.hidden
    if decoder.layers and decoder.layers[0].residual is not None:
        open_blocks(stream)
    elif isinstance(hyper, AlternatingUpdates):
        stream.residual = open_alternating(w, m, hidden, hyper, stream.residual)
    elif hyper is not None:
        stream.residual = open_streams(w, m, hidden, hyper.streams, stream.residual)


def _merge_streams(w: GraphWriter, step: Step, decoder: Decoder, stream: Stream) -> None:
    """Make one residual stream of several at the end."""
    hyper = decoder.layers[0].hyper if decoder.layers else None
    m, hidden = step.tokens, decoder.hidden
    if decoder.layers and decoder.layers[0].residual is not None:
        close_blocks(w, step, hidden, stream)
    elif isinstance(hyper, AlternatingUpdates):
        stream.residual = merge_alternating(w, m, hidden, hyper, stream.residual)
    elif hyper is not None:
        learned = decoder.merges_streams
        stream.residual = merge_streams(w, m, hidden, hyper.streams, stream.residual, learned)


def _write_layer(
    w: GraphWriter,
    step: Step,
    decoder: Decoder,
    layer: Layer,
    stream: Stream,
    known: _Known,
    beside: _Beside,
) -> None:
    m, hidden = step.tokens, decoder.hidden

    def mix(source: str) -> list[str]:
        return _mixer(w, step, hidden, layer, source, known)

    def feed(source: str) -> list[str]:
        return _feed_forward(w, step, hidden, layer, source)

    if layer.residual is not None:
        write_attending_layer(w, step, hidden, layer, stream, mix, feed)
        return
    if isinstance(layer.hyper, AlternatingUpdates):
        stream.residual = write_alternating_layer(
            w, m, hidden, layer.hyper, stream.residual, beside.inputs, mix, feed
        )
        return
    if layer.hyper is not None:
        _write_hyper_layer(w, step, hidden, layer, layer.hyper, stream, known)
        return
    if layer.parallel:
        source = entry_of(w, step, hidden, stream, "attention_norm", layer.mixer_norm)
        mlp_source = (
            write_norm(w, "mlp_norm", layer.mlp_norm, m, hidden, stream) if layer.mlp_norm else source
        )
        mixed = _mixer(w, step, hidden, layer, source, known)
        add_to(w, step, hidden, stream, "add", *mixed, *_feed_forward(w, step, hidden, layer, mlp_source))
        return
    if layer.mixer is not None:
        norm = None if layer.post_norm else layer.mixer_norm
        source = (
            _shared_entry(w, step, hidden, layer, stream, known)
            if layer.shared is not None
            else entry_of(w, step, hidden, stream, "attention_norm", norm)
        )
        mixed = _mixer(w, step, hidden, layer, source, known)
        if layer.taps:
            mixed = [_tapped(w, step, hidden, layer.taps, "attention_conv", mixed)]
        add_to(w, step, hidden, stream, "attention_add", *mixed)
        if layer.post_norm and layer.mixer_norm:
            stream.residual = write_norm(w, "attention_norm", layer.mixer_norm, m, hidden, stream)
    if layer.cross is not None and beside.memory is not None:
        source = entry_of(
            w, step, hidden, stream, "cross_norm", None if layer.post_norm else layer.cross_norm
        )
        crossed = write_cross_attention(w, step, layer.cross, hidden, source, beside.memory)
        outs = output_norm(w, step, hidden, "cross_out_norm", layer.cross_out_norm, [crossed])
        add_to(w, step, hidden, stream, "cross_add", *outs)
        if layer.post_norm and layer.cross_norm:
            stream.residual = write_norm(w, "cross_norm", layer.cross_norm, m, hidden, stream)
    if layer.mlp is not None or layer.experts is not None:
        norm = None if layer.post_norm else layer.mlp_norm
        source = entry_of(w, step, hidden, stream, "mlp_norm", norm)
        outs = (
            _both_parts(w, step, hidden, layer, source, stream.residual)
            if layer.beside
            else _feed_forward(w, step, hidden, layer, source)
        )
        if layer.taps:
            outs = [_tapped(w, step, hidden, layer.taps, "mlp_conv", outs)]
        add_to(w, step, hidden, stream, "mlp_add", *outs)
        if layer.post_norm and layer.mlp_norm:
            stream.residual = write_norm(w, "mlp_norm", layer.mlp_norm, m, hidden, stream)


def _tapped(w: GraphWriter, step: Step, hidden: int, taps: int, name: str, outs: list[str]) -> str:
    """A block's result and its convolution, added."""
    whole = settle(w, step, hidden, Stream(outs[0], outs[1:]), f"{name}_input")
    mixed = write_convolution(w, step, whole, hidden, taps, bias=False, activated=False, name=name)
    return settle(w, step, hidden, Stream(whole, [mixed]), f"{name}_add")


def _write_hyper_layer(
    w: GraphWriter, step: Step, hidden: int, layer: Layer, hyper: HyperConnection, stream: Stream, known: _Known
) -> None:  # fmt: skip
    """Mixer, then feed-forward part, each between a reading and a writing of all streams."""
    m = step.tokens
    for name, norm in (("attention", layer.mixer_norm), ("mlp", layer.mlp_norm)):
        entry, numbers = read_streams(w, f"{name}_streams", m, hidden, hyper, stream.residual)
        source = write_norm(w, f"{name}_norm", norm, m, hidden, Stream(entry)) if norm else entry
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
    return output_norm(w, step, hidden, "attention_out_norm", layer.mixer_out_norm, outs)


def _mix(w: GraphWriter, step: Step, hidden: int, mixer: Mixer, source: str, known: _Known) -> str:
    if isinstance(mixer, Attention):
        return write_attention(w, step, mixer, hidden, source, known.caches)
    if isinstance(mixer, RoutedAttention):
        return write_routed_attention(w, step, mixer, hidden, source, known.caches)
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
    w: GraphWriter, step: Step, hidden: int, layer: Layer, stream: Stream, known: _Known
) -> str:
    """What a mixer reads behind a shared block: the stream and the block's result, normed; the stream stays."""
    assert layer.shared is not None
    assert layer.mixer_norm is not None
    residual = settle(w, step, hidden, stream, "shared_input_add")
    sources = tuple(dict.fromkeys((residual, stream.embedded)))
    added = write_shared_block(w, step, layer.shared, hidden, sources, known.caches)
    both = Stream(residual, [added])
    return write_norm(w, "attention_norm", layer.mixer_norm, step.tokens, hidden, both, last=True)


def _feed_forward(w: GraphWriter, step: Step, hidden: int, layer: Layer, source: str) -> list[str]:
    outs = []
    if layer.experts is not None:
        outs += write_experts(w, step, layer.experts, hidden, source)
    if layer.mlp is not None and layer.mlp.token_mix:
        outs.append(write_token_mix(w, step, layer.mlp, hidden, source))
    elif layer.mlp is not None:
        outs.append(write_mlp(w, step.tokens, layer.mlp, hidden, source, "mlp", layer.vectors))
    return output_norm(w, step, hidden, "mlp_out_norm", layer.mlp_out_norm, outs)


def _both_parts(
    w: GraphWriter, step: Step, hidden: int, layer: Layer, source: str, residual: str
) -> list[str]:
    """Dense part and experts side by side, normed before and after; the router reads the plain residual."""
    norm, m = layer.mlp_norm, step.tokens
    if layer.mlp is None or layer.experts is None or norm is None:
        raise ValueError("a layer with parts side by side has both parts and norms")
    dense = write_mlp(w, m, layer.mlp, hidden, source, "mlp")
    dense = write_norm(w, "mlp_dense_norm", norm, m, hidden, Stream(dense))
    routed = write_norm(w, "mlp_router_norm", Norm(norm.kind, weight=False), m, hidden, Stream(residual))
    entry = write_norm(w, "mlp_experts_norm", norm, m, hidden, Stream(residual))
    outs = write_experts(w, step, layer.experts, hidden, entry, routed)
    sparse = write_norm(w, "mlp_experts_out_norm", norm, m, hidden, Stream(outs[0], outs[1:]), last=True)
    return output_norm(w, step, hidden, "mlp_out_norm", layer.mlp_out_norm, [dense, sparse])
