"""One denoising step of each architecture, written with :mod:`workloads.diffusion.parts`.

Sources: SD3 (arXiv:2403.03206, figure 2), FLUX (the published code's double and single blocks), PixArt-alpha
(arXiv:2310.00426, section 2.2), Wan (arXiv:2503.20314, section 4.2); weights as diffusers (Apache-2.0) stores them.
"""

from __future__ import annotations

from workloads.diffusion.parts import (
    activated,
    attention,
    embedded_step,
    feed_forward,
    gated_add,
    joined,
    modulated,
    modulation,
    normed,
    part,
    projected,
    two_layers,
)
from workloads.diffusion.shape import Flux, PixArt, Sizes, StableDiffusion3, Wan
from workloads.graph import Place
from workloads.layer_builder import LayerBuilder
from workloads.operators import Elementwise

__all__ = ["write_flux", "write_pixart", "write_sd3", "write_wan"]

EDGE = Place(-1, axis="replicated")
FREQUENCIES = 256
"""Sines and cosines of a time step."""


def _sum(net: LayerBuilder, name: str, *terms: str) -> str:
    m, n = net.shape(terms[0])
    work = Elementwise(m=m, n=n, flops_per_element=float(len(terms) - 1), function="add")
    return net.operator(name, work, terms, (m, n), place=EDGE)


def _condition(net: LayerBuilder, width: int, pooled: int, guided: bool) -> str:
    """Time step, pooled text and guidance of each sample, added and activated."""
    parts = [embedded_step(net, "time", net.batch, FREQUENCIES, width)]
    if guided:
        parts.append(embedded_step(net, "guidance", net.batch, FREQUENCIES, width))
    parts.append(two_layers(net, "pooled_text", net.input("pooled_text", pooled), width))
    return activated(net, "condition", _sum(net, "condition_sum", *parts), "silu", EDGE)


def _rows(net: LayerBuilder, name: str, length: int, width: int) -> str:
    """A graph input of rows."""
    source = net.input(name, length * width)
    return part_rows(net, f"{name}.rows", source, net.batch * length, width)


def part_rows(net: LayerBuilder, name: str, source: str, rows: int, width: int) -> str:
    """An input as rows by features, in place."""
    from workloads.operators import View

    return net.operator(name, View(), (source,), (rows, width))


def _joint_attention(
    net: LayerBuilder,
    name: str,
    layer: int,
    streams: tuple[str, str],
    sizes: Sizes,
    heads: int,
    dim: int,
    norm: int,
) -> tuple[str, str]:
    """Attention of image and text rows together, each with products of its own; returns both parts."""
    width = heads * dim
    sources: list[str] = []
    for label, x in zip(("image", "text"), streams, strict=True):
        made = projected(net, f"{name}.{label}", x, width, layer, heads)
        sources += normed(net, f"{name}.{label}_norm", made, dim, 2, layer) if norm else made
    if not net.fused:  # queries and keys of both streams before the values
        q, k, v = (joined(net, f"{name}.{p}", (sources[i], sources[i + 3]), 0) for i, p in enumerate("qkv"))
        sources = [q, k, v]
    length = sizes.image + sizes.text
    out = attention(net, name, layer, tuple(sources), heads, dim, (length, length))
    return (
        part(net, f"{name}.image_part", out, net.batch * sizes.image),
        part(net, f"{name}.text_part", out, net.batch * sizes.text),
    )


def write_sd3(net: LayerBuilder, spec: StableDiffusion3, sizes: Sizes) -> str:
    """Stable Diffusion 3 and 3.5: joint blocks; the text stream ends in the last one."""
    width = spec.heads * spec.head_dim
    image = net.linear("patches", _rows(net, "latents", sizes.image, spec.patch), width, place=EDGE)
    text = net.linear("text", _rows(net, "text_states", sizes.text, spec.text_width), width, place=EDGE)
    condition = _condition(net, width, spec.pooled, False)
    norm = 1 if spec.qk_norm else 0
    for index in range(spec.layers):
        name, last, dual = f"layers.{index}", index == spec.layers - 1, index in spec.dual
        steer = modulation(net, f"{name}.steer", condition, 9 if dual else 6, width, index)
        text_steer = modulation(net, f"{name}.text_steer", condition, 2 if last else 6, width, index)
        entry = modulated(net, f"{name}.norm", image, (steer,), index)
        text_entry = modulated(net, f"{name}.text_norm", text, (text_steer,), index)
        mixed, text_mixed = _joint_attention(
            net, f"{name}.attention", index, (entry, text_entry), sizes, spec.heads, spec.head_dim, norm
        )
        out = net.linear(f"{name}.attention.out", mixed, width, place=Place(index, axis="row"))
        image = gated_add(net, f"{name}.attention_add", image, out, (steer,), index)
        if dual:
            made = projected(net, f"{name}.second", entry, width, index, spec.heads)
            made = normed(net, f"{name}.second_norm", made, spec.head_dim, 2, index) if norm else made
            lengths = (sizes.image, sizes.image)
            again = attention(net, f"{name}.second", index, made, spec.heads, spec.head_dim, lengths)
            out = net.linear(f"{name}.second.out", again, width, place=Place(index, axis="row"))
            image = gated_add(net, f"{name}.second_add", image, out, (steer,), index)
        image = _modulated_mlp(net, f"{name}.mlp", image, steer, 4 * width, index)
        if not last:
            out = net.linear(f"{name}.attention.text_out", text_mixed, width, place=Place(index, axis="row"))
            text = gated_add(net, f"{name}.text_attention_add", text, out, (text_steer,), index)
            text = _modulated_mlp(net, f"{name}.text_mlp", text, text_steer, 4 * width, index)
    return _head(net, image, condition, spec.layers, spec.out)


def _modulated_mlp(net: LayerBuilder, name: str, x: str, steer: str, inner: int, layer: int) -> str:
    entry = modulated(net, f"{name}_norm", x, (steer,), layer)
    return gated_add(net, f"{name}_add", x, feed_forward(net, name, entry, inner, layer), (steer,), layer)


def _head(net: LayerBuilder, x: str, condition: str, layers: int, out: int) -> str:
    """A last modulated norm and the product back to latents."""
    steer = modulation(net, "final_steer", condition, 2, net.shape(x)[1], layers)
    normed_rows = modulated(net, "final_norm", x, (steer,), layers)
    return net.linear("latents_out", normed_rows, out, place=Place(layers, axis="replicated"))


def write_flux(net: LayerBuilder, spec: Flux, sizes: Sizes) -> str:
    """FLUX.1: double blocks with two streams, then single blocks over both, attention beside the feed-forward part."""
    width = spec.heads * spec.head_dim
    image = net.linear("patches", _rows(net, "latents", sizes.image, spec.patch), width, place=EDGE)
    text = net.linear("text", _rows(net, "text_states", sizes.text, spec.text_width), width, place=EDGE)
    condition = _condition(net, width, spec.pooled, spec.guided)
    for index in range(spec.layers):
        name = f"layers.{index}"
        steers = [
            modulation(net, f"{name}.{label}", condition, 6, width, index)
            for label in ("steer", "text_steer")
        ]
        entries = (
            modulated(net, f"{name}.norm", image, (steers[0],), index),
            modulated(net, f"{name}.text_norm", text, (steers[1],), index),
        )
        mixed, text_mixed = _joint_attention(
            net, f"{name}.attention", index, entries, sizes, spec.heads, spec.head_dim, 1
        )
        place = Place(index, axis="row")
        out = net.linear(f"{name}.attention.out", mixed, width, place=place)
        image = gated_add(net, f"{name}.attention_add", image, out, (steers[0],), index)
        out = net.linear(f"{name}.attention.text_out", text_mixed, width, place=place)
        text = gated_add(net, f"{name}.text_attention_add", text, out, (steers[1],), index)
        image = _modulated_mlp(net, f"{name}.mlp", image, steers[0], 4 * width, index)
        text = _modulated_mlp(net, f"{name}.text_mlp", text, steers[1], 4 * width, index)
    both = joined(net, "streams", (text, image), 0)
    for index in range(spec.layers, spec.layers + spec.single):
        both = _single_block(net, spec, sizes, both, condition, index)
    image = part(net, "image_rows", both, net.batch * sizes.image)
    return _head(net, image, condition, spec.layers + spec.single, spec.out)


def _single_block(net: LayerBuilder, spec: Flux, sizes: Sizes, x: str, condition: str, index: int) -> str:
    width, name = spec.heads * spec.head_dim, f"layers.{index}"
    steer = modulation(net, f"{name}.steer", condition, 3, width, index)
    entry = modulated(net, f"{name}.norm", x, (steer,), index)
    made = projected(net, f"{name}.attention", entry, width, index, spec.heads)
    made = normed(net, f"{name}.attention_norm", made, spec.head_dim, 2, index)
    length = sizes.image + sizes.text
    mixed = attention(net, f"{name}.attention", index, made, spec.heads, spec.head_dim, (length, length))
    up = net.linear(f"{name}.mlp.up", entry, 4 * width, place=Place(index, axis="column"))
    active = activated(net, f"{name}.mlp.act", up, "gelu", Place(index, axis="split"))
    wide = joined(net, f"{name}.joined", (mixed, active), 1)
    out = net.linear(f"{name}.out", wide, width, place=Place(index, axis="row"))
    return gated_add(net, f"{name}.add", x, out, (steer,), index)


def write_pixart(net: LayerBuilder, spec: PixArt, sizes: Sizes) -> str:
    """PixArt: one modulation for all blocks, shifted by a small table in each; cross attention to the text."""
    width = spec.heads * spec.head_dim
    image = net.linear("patches", _rows(net, "latents", sizes.image, spec.patch), width, place=EDGE)
    text = _rows(net, "text_states", sizes.text, spec.text_width)
    if spec.projects_text:
        text = two_layers(net, "text", text, width, "gelu")
    parts = [embedded_step(net, "time", net.batch, FREQUENCIES, width)]
    if spec.sized:
        third = width // 3
        both = embedded_step(net, "resolution", 2 * net.batch, FREQUENCIES, third)
        ratio = embedded_step(net, "aspect_ratio", net.batch, FREQUENCIES, third)
        rows = part_rows(net, "resolution.rows", both, net.batch, 2 * third)
        parts.append(joined(net, "size", (rows, ratio), 1))
    total = _sum(net, "condition_sum", *parts) if len(parts) > 1 else parts[0]
    condition = activated(net, "condition", total, "silu", EDGE)
    steer = modulation(net, "steer", condition, 6, width, -1)
    for index in range(spec.layers):
        name = f"layers.{index}"
        table = (steer, net.weight(f"{name}.steer.weight", 6, width))
        entry = modulated(net, f"{name}.norm", image, table, index)
        made = projected(net, f"{name}.attention", entry, width, index, spec.heads, spec.bias)
        lengths = (sizes.image, sizes.image)
        mixed = attention(net, f"{name}.attention", index, made, spec.heads, spec.head_dim, lengths)
        out = net.linear(f"{name}.attention.out", mixed, width, place=Place(index, axis="row"))
        image = gated_add(net, f"{name}.attention_add", image, out, table, index)
        crossed = _cross(net, f"{name}.cross", index, image, text, spec, sizes)
        image = gated_add(net, f"{name}.cross_add", image, crossed, (), index)
        entry = modulated(net, f"{name}.mlp_norm", image, table, index)
        out = feed_forward(net, f"{name}.mlp", entry, 4 * width, index)
        image = gated_add(net, f"{name}.mlp_add", image, out, table, index)
    last = net.weight("final_steer.weight", 2, width)
    rows = modulated(net, "final_norm", image, (total, last), spec.layers)
    return net.linear("latents_out", rows, spec.out, place=Place(spec.layers, axis="replicated"))


def _cross(net: LayerBuilder, name: str, index: int, x: str, text: str, spec: PixArt, sizes: Sizes) -> str:
    """Attention of image rows to text rows."""
    heads, dim = spec.heads, spec.head_dim
    query = projected(net, name, x, heads * dim, index, heads, spec.bias, "q")
    pair = projected(net, name, text, heads * dim, index, heads, spec.bias, "kv")
    mixed = attention(net, name, index, (*query, *pair), heads, dim, (sizes.image, sizes.text))
    return net.linear(f"{name}.out", mixed, heads * dim, place=Place(index, axis="row"))


def write_wan(net: LayerBuilder, spec: Wan, sizes: Sizes) -> str:
    """Wan 2.1: video latents; self attention and cross attention to text (and an image) in every block."""
    width = spec.heads * spec.head_dim
    image = net.linear("patches", _rows(net, "latents", sizes.image, spec.patch), width, place=EDGE)
    text = two_layers(net, "text", _rows(net, "text_states", sizes.text, spec.text_width), width, "gelu")
    picture = ""
    if spec.image_width:
        states = _rows(net, "image_states", sizes.picture, spec.image_width)
        states = net.layer_norm("picture.norm_in", states)
        picture = two_layers(net, "picture", states, width, "gelu", spec.image_width)
        picture = net.layer_norm("picture.norm_out", picture)
    time = embedded_step(net, "time", net.batch, spec.frequencies, width)
    condition = activated(net, "condition", time, "silu", EDGE)
    steer = modulation(net, "steer", condition, 6, width, -1)
    norm = width if spec.qk_norm else 0
    for index in range(spec.layers):
        name = f"layers.{index}"
        table = (steer, net.weight(f"{name}.steer.weight", 6, width))
        entry = modulated(net, f"{name}.norm", image, table, index)
        made = projected(net, f"{name}.attention", entry, width, index, spec.heads)
        made = normed(net, f"{name}.attention_norm", made, norm, 2, index) if norm else made
        lengths = (sizes.image, sizes.image)
        mixed = attention(net, f"{name}.attention", index, made, spec.heads, spec.head_dim, lengths)
        out = net.linear(f"{name}.attention.out", mixed, width, place=Place(index, axis="row"))
        image = gated_add(net, f"{name}.attention_add", image, out, table, index)
        entry = modulated(net, f"{name}.cross_norm", image, (), index, 2) if spec.cross_norm else image
        crossed = _wan_cross(net, f"{name}.cross", index, entry, (text, picture), spec, sizes)
        image = gated_add(net, f"{name}.cross_add", image, crossed, (), index)
        entry = modulated(net, f"{name}.mlp_norm", image, table, index)
        out = feed_forward(net, f"{name}.mlp", entry, spec.intermediate, index)
        image = gated_add(net, f"{name}.mlp_add", image, out, table, index)
    last = net.weight("final_steer.weight", 2, width)
    rows = modulated(net, "final_norm", image, (time, last), spec.layers)
    return net.linear("latents_out", rows, spec.out, place=Place(spec.layers, axis="replicated"))


def _wan_cross(
    net: LayerBuilder, name: str, index: int, x: str, seen_by: tuple[str, str], spec: Wan, sizes: Sizes
) -> str:
    """Attention to the text, and with the same queries to the picture where there is one (``seen_by``: both)."""
    text, picture = seen_by
    width, heads, dim = spec.heads * spec.head_dim, spec.heads, spec.head_dim
    norm = width if spec.qk_norm else 0
    query = projected(net, name, x, width, index, heads, True, "q")
    pair = projected(net, name, text, width, index, heads, True, "kv")
    if norm:
        query = normed(net, f"{name}.q_norm", query, norm, 1, index)
        pair = normed(net, f"{name}.k_norm", pair, norm, 1, index)
    mixed = attention(net, name, index, (*query, *pair), heads, dim, (sizes.image, sizes.text))
    if picture:
        second = projected(net, f"{name}.picture", picture, width, index, heads, True, "kv")
        second = normed(net, f"{name}.picture_norm", second, norm, 1, index) if norm else second
        lengths = (sizes.image, sizes.picture)
        seen = attention(net, f"{name}.picture", index, (*query, *second), heads, dim, lengths)
        mixed = gated_add(net, f"{name}.picture_add", mixed, seen, (), index)
    return net.linear(f"{name}.out", mixed, width, place=Place(index, axis="row"))
