"""A decoder brought down to its kinds of layers, so that one small graph says what every step of the whole does.

An operator of a layer depends on the layer itself and on the one before it (whose output its first norm adds), so
a kind is a pair of the two. The short decoder holds every pair once; ``times`` says how often each of its layers
stands in the whole one. Built by the same builders as every graph (:mod:`workloads.transformer`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.graph import Graph
from workloads.transformer.formats import Precision
from workloads.transformer.phases import step_graph
from workloads.transformer.shape import Attention, Decoder, Layer
from workloads.transformer.step import Step

__all__ = ["LayerClasses", "layer_classes"]


@dataclass(frozen=True, slots=True)
class LayerClasses:
    """A short decoder and how often each of its layers stands in the whole; 0: it is there for its successor."""

    decoder: Decoder
    times: tuple[int, ...]
    layers: int
    """Layers of the whole decoder."""

    def count(self, layer: int | None) -> int:
        """How often an operator of a layer of the short decoder runs; those beside the layers run once."""
        if layer is None or not 0 <= layer < len(self.times):
            return 1
        return self.times[layer]

    def graph(self, precision: Precision, step: Step) -> Graph:
        """The short decoder's graph of a step, with the fused kernels that engines run."""
        return step_graph("serving", self.decoder, precision, step, fused=True)


def layer_classes(decoder: Decoder) -> LayerClasses:
    """The kinds of layers of a decoder.

    >>> from workloads.transformer.shape import FeedForward
    >>> plain = Layer(Attention(8, 8, 64, 64), FeedForward(64))
    >>> layer_classes(Decoder("toy", 512, 100, (plain,) * 9, None, False)).times
    (1, 8)
    """
    kinds = [_kind(layer) for layer in decoder.layers]
    pairs = [(kinds[i - 1] if i else None, kind) for i, kind in enumerate(kinds)]
    first: dict[tuple[Layer | None, Layer], int] = {}
    for index, pair in enumerate(pairs):
        first.setdefault(pair, index)
    ordered = sorted(first, key=lambda pair: (pair == pairs[-1] and pair[0] is not None, first[pair]))
    short: list[Layer] = []
    times: list[int] = []
    for pair in ordered:
        before = pair[0]
        if before is not None and (not short or _kind(short[-1]) != before):
            _append(short, times, before, 0)
        _append(short, times, decoder.layers[first[pair]], pairs.count(pair), decoder)
    return LayerClasses(replace(decoder, layers=tuple(short)), tuple(times), len(kinds))


def _kind(layer: Layer) -> Layer:
    """The layer without the number of the one whose cache it reads."""
    mixer = layer.mixer
    if isinstance(mixer, Attention) and mixer.cache_of is not None:
        return replace(layer, mixer=replace(mixer, cache_of=-1))
    return layer


def _append(
    short: list[Layer], times: list[int], layer: Layer, count: int, decoder: Decoder | None = None
) -> None:
    """Append a layer; one that reads another's cache reads the nearest like it, which is put before if missing."""
    mixer = layer.mixer
    if isinstance(mixer, Attention) and mixer.cache_of is not None:
        if decoder is None:
            layer = replace(layer, mixer=replace(mixer, cache_of=None))
        else:
            wanted = decoder.layers[mixer.cache_of]
            if wanted not in short:
                _append(short, times, wanted, 0)
            layer = replace(layer, mixer=replace(mixer, cache_of=short.index(wanted)))
    short.append(layer)
    times.append(count)
