"""Vision transformers (Dosovitskiy et al., ICLR 2021, table 1) on images cut into square patches.

A class token stands before the patches, a table of learned positions is added, and the head reads the class
token.
"""

from __future__ import annotations

from workloads.encoder.block import EncoderShape, add_and_norm, encoder_layer
from workloads.graph import Place
from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.operators import Copy, Elementwise, Gather
from workloads.workload import Workload, WorkloadOptions

__all__ = ["vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"]

_BASE = EncoderShape(hidden=768, heads=12, intermediate=3072, pre_norm=True)
_LARGE = EncoderShape(hidden=1024, heads=16, intermediate=4096, pre_norm=True)
_HUGE = EncoderShape(hidden=1280, heads=16, intermediate=5120, pre_norm=True)


def vit_b_16(options: WorkloadOptions) -> Workload:
    """ViT-B/16 on 224 x 224 images."""
    return _vit("vit-b-16", _BASE, 12, 16, options)


def vit_b_32(options: WorkloadOptions) -> Workload:
    """ViT-B/32 on 224 x 224 images."""
    return _vit("vit-b-32", _BASE, 12, 32, options)


def vit_l_16(options: WorkloadOptions) -> Workload:
    """ViT-L/16 on 224 x 224 images."""
    return _vit("vit-l-16", _LARGE, 24, 16, options)


def vit_l_32(options: WorkloadOptions) -> Workload:
    """ViT-L/32 on 224 x 224 images."""
    return _vit("vit-l-32", _LARGE, 24, 32, options)


def vit_h_14(options: WorkloadOptions) -> Workload:
    """ViT-H/14 on 224 x 224 images."""
    return _vit("vit-h-14", _HUGE, 32, 14, options)


def _vit(name: str, spec: EncoderShape, layers: int, patch: int, options: WorkloadOptions) -> Workload:
    options = plain_options(name, options)
    chosen_dims(options, name)
    net = LayerBuilder(name, options, "ViT")
    image = net.input("image", 3, 224, 224)
    patches = net.conv("patch_embedding", image, ConvLayer(spec.hidden, patch, patch, bias=True))
    sequence = 1 + (224 // patch) ** 2
    x = _with_class_token(net, patches, sequence, spec.hidden)
    pending = ""
    for index in range(layers):
        x, pending = encoder_layer(net, index, spec, x, pending, sequence)
    x, _ = add_and_norm(net, "final_norm", layers, x, pending, keep=False)
    place = Place(layers, axis="replicated")
    chosen = Gather(m=options.batch, n=spec.hidden)
    first = net.operator("class_token", chosen, (x,), (options.batch, spec.hidden), place=place)
    return finished(net, options, net.linear("classifier", first, 1000, place=place))


def _with_class_token(net: LayerBuilder, patches: str, sequence: int, hidden: int) -> str:
    """Patches as rows, the class token before them, positions added; one pass when fused."""
    shape = (net.batch * sequence, hidden)
    token = net.weight("class_token.weight", hidden)
    positions = net.weight("position_embedding.weight", sequence, hidden)
    place = Place(-1, axis="replicated")
    if net.fused:
        added = Elementwise(m=shape[0], n=hidden, flops_per_element=1.0, function="add")
        return net.operator("tokens", added, (patches, token, positions), shape, place=place)
    joined = Copy(m=shape[0], n=hidden, function="concat")
    rows = net.operator("tokens", joined, (patches, token), shape, place=place)
    return net.add("tokens.position", rows, positions, place=place)
