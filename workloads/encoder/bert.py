"""BERT (Devlin et al., NAACL 2019, section 3), RoBERTa (Liu et al., arXiv:1907.11692) and DistilBERT.

The sequence length is the prompt length that is asked for. Segment and position tables are added to the word
embeddings; the pooler is a product and a tanh on the first token of each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.problems import bad_input
from workloads.encoder.block import EncoderShape, add_and_norm, embed, encoder_layer
from workloads.graph import Place
from workloads.layer_builder import LayerBuilder, chosen_dims, finished, plain_options
from workloads.operators import Gather
from workloads.workload import Workload, WorkloadOptions

__all__ = ["bert_base", "bert_large", "distilbert_base", "roberta_base", "roberta_large"]


@dataclass(frozen=True, slots=True)
class _Text:
    """What one checkpoint adds to the layer's shape. ``offset``: position rows that no token ever uses."""

    layers: int
    vocabulary: int
    positions: int
    segments: int
    offset: int = 0
    pooler: bool = True


_BASE = EncoderShape(hidden=768, heads=12, intermediate=3072, pre_norm=False)
_LARGE = EncoderShape(hidden=1024, heads=16, intermediate=4096, pre_norm=False)


def bert_base(options: WorkloadOptions) -> Workload:
    """BERT base, uncased vocabulary."""
    return _encoder("bert-base-uncased", _BASE, _Text(12, 30522, 512, 2), options)


def bert_large(options: WorkloadOptions) -> Workload:
    """BERT large, uncased vocabulary."""
    return _encoder("bert-large-uncased", _LARGE, _Text(24, 30522, 512, 2), options)


def roberta_base(options: WorkloadOptions) -> Workload:
    """RoBERTa base."""
    return _encoder("roberta-base", _BASE, _Text(12, 50265, 514, 1, 2), options)


def roberta_large(options: WorkloadOptions) -> Workload:
    """RoBERTa large."""
    return _encoder("roberta-large", _LARGE, _Text(24, 50265, 514, 1, 2), options)


def distilbert_base(options: WorkloadOptions) -> Workload:
    """DistilBERT base (Sanh et al., arXiv:1910.01108): half the layers, no segments, no pooler."""
    return _encoder("distilbert-base-uncased", _BASE, _Text(6, 30522, 512, 0, pooler=False), options)


def _encoder(name: str, spec: EncoderShape, text: _Text, options: WorkloadOptions) -> Workload:
    options = plain_options(name, options)
    chosen_dims(options, name)
    sequence, longest = options.prompt, text.positions - text.offset
    if sequence > longest:
        raise bad_input(f"found {sequence}; {name} reads at most {longest} tokens", path="--prompt")
    net = LayerBuilder(name, options, "bert")
    tokens = net.input("tokens", sequence, dtype="int32")
    m = options.batch * sequence
    words = embed(net, "embedding", tokens, text.vocabulary, spec.hidden, m, "vocab")
    places = embed(net, "position_embedding", tokens, text.positions, spec.hidden, sequence, "replicated")
    parts = [places]
    if text.segments:
        parts.append(
            embed(net, "segment_embedding", tokens, text.segments, spec.hidden, text.segments, "replicated")
        )
    x, _ = add_and_norm(net, "embedding_norm", -1, words, *parts, keep=False)
    for index in range(text.layers):
        x, _ = encoder_layer(net, index, spec, x, "", sequence)
    if not text.pooler:
        return finished(net, options, x)
    place = Place(text.layers, axis="replicated")
    chosen = Gather(m=options.batch, n=spec.hidden)
    first = net.operator("pooler.first", chosen, (x,), (options.batch, spec.hidden), place=place)
    pooled = net.linear("pooler", first, spec.hidden, place=place)
    return finished(net, options, x, net.activation("pooler.tanh", pooled, "tanh", place=place))
