"""Runs small graphs on numbers, whole or in strips; a strip sees the rows and channels it names, the rest is NaN."""

import numpy as np

from workloads.graph import PERSISTENT_ROLES
from workloads.operators import Activation, Convolution, Copy, Elementwise, Norm, Pool, Product, Resize


def weights_of(graph, seed=0):
    """A value for every tensor without a producer."""
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=t.shape) for n, t in graph.tensors.items() if n not in graph.producer}


def run_whole(graph, given):
    """Every tensor of a graph, operator after operator."""
    values = dict(given)
    for op in graph.operators:
        out = compute(
            graph, op, {name: values[name] for name in op.inputs}, graph.tensors[op.outputs[0]].shape
        )
        values[op.outputs[0]] = out
    return values


def run_strips(graph, tiled, given, truth):
    """Run the tiled graph; every strip from nothing but what its operator names. The tensors it made."""
    made = {}
    for name in tiled.tensors:
        if name not in tiled.producer:
            made[name] = given[name] if name in given else slice_of(tiled, name, given)
    for op in tiled.operators:
        source = origin(graph, op)
        views = {}
        for name in source.inputs:
            views[name] = np.full(graph.tensors[name].shape, np.nan)
            for got in op.inputs:
                place = inside(graph, got, name)
                if place is not None:
                    views[name][place] = made[got]
        whole = compute(graph, source, views, graph.tensors[source.outputs[0]].shape, partial=True)
        output = op.outputs[0]
        place = inside(graph, output, source.outputs[0])
        made[output] = whole[place]
        assert not np.isnan(made[output]).any(), f"{op.name} needs more than it names"
        np.testing.assert_allclose(made[output], truth[source.outputs[0]][place], err_msg=op.name)
    return made


def slice_of(tiled, name, given):
    base, axis, _ = parts_of(name)
    return given[base][place_of(name, given[base].shape, tiled, axis)]


def parts_of(name):
    base, _, last = name.rpartition(".")
    axis = last.rstrip("0123456789")
    return (
        (base, axis, int(last[len(axis) :]))
        if axis in ("row", "channel") and last != axis
        else (name, "", -1)
    )


def place_of(name, shape, tiled, axis):
    """Where a strip lies in the tensor it is cut from: by the sizes of the strips before it."""
    base, kind, index = parts_of(name)
    strip = tiled.tensors[name].shape
    along = next((i for i, (a, b) in enumerate(zip(strip, shape, strict=True)) if a != b), 0)
    first = sum(tiled.tensors[f"{base}.{kind}{i}"].shape[along] for i in range(index))
    return tuple(slice(first, first + strip[along]) if i == along else slice(None) for i in range(len(shape)))


TILED = {}


def inside(graph, got, name):
    """The place of a tensor or strip in the tensor it belongs to; None when it belongs to another."""
    if got == name:
        return tuple(slice(None) for _ in graph.tensors[name].shape)
    base, axis, _ = parts_of(got)
    if base != name or not axis:
        return None
    return place_of(got, graph.tensors[name].shape, TILED["graph"], axis)


def origin(graph, op):
    """The whole operator that an operator is a strip of."""
    name = op.name if op.name in graph.operator_by_name else parts_of(op.name)[0]
    return graph.operator_by_name[name]


def compute(graph, op, values, shape, partial=False):
    """One operator on numbers; windows of a convolution are zero outside the image, those of a pool ignored."""
    work = op.work
    acts = [values[n] for n in op.inputs if graph.tensors[n].role not in PERSISTENT_ROLES]
    weights = [values[n] for n in op.inputs if graph.tensors[n].role in PERSISTENT_ROLES]
    if isinstance(work, Convolution):
        return convolution(acts[0], weights, work, shape)
    if isinstance(work, Product):
        out = acts[0].reshape(shape[0], -1) @ weights[0].T
        return (out + weights[1] if len(weights) > 1 else out).reshape(shape)
    if isinstance(work, Pool):
        return pool(acts[0], work, shape)
    if isinstance(work, Copy) and work.function == "concat":
        return np.concatenate(acts, axis=1)
    if isinstance(work, Copy):
        top, left = (acts[0].shape[2] - shape[2]) // 2, (acts[0].shape[3] - shape[3]) // 2
        return acts[0][:, :, top : top + shape[2], left : left + shape[3]]
    if isinstance(work, Elementwise):
        out = acts[0]
        for other in acts[1:]:
            out = out + other if work.function == "add" else out * other
        return out
    if isinstance(work, Activation):
        return np.maximum(acts[0], 0)
    if isinstance(work, Norm):
        return acts[0] * weights[0][0][None, :, None, None] + weights[0][1][None, :, None, None]
    if isinstance(work, Resize):
        side = acts[0].shape[2]
        at = np.clip((np.arange(shape[2]) + 0.5) * side / shape[2] - 0.5, 0, side - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, side - 1)
        part = (at - low)[None, None, :, None]
        rows = acts[0][:, :, low] * (1 - part) + acts[0][:, :, high] * part
        columns = (np.arange(shape[3]) * acts[0].shape[3] // shape[3]).astype(int)
        return rows[:, :, :, columns]
    raise AssertionError(op.kind)


def convolution(x, weights, work, shape):
    weight = weights[0]
    kh, kw, sh, sw = work.kernel_h, work.kernel_w, work.stride_h, work.stride_w
    out = np.zeros(shape)
    if work.transposed:
        for i in range(kh):
            for j in range(kw):
                part = np.einsum("bchw,cd->bdhw", x, weight[:, :, i, j])
                out[:, :, i : i + part.shape[2] * sh : sh, j : j + part.shape[3] * sw : sw] += part
        return out
    ph, pw, d, groups = work.padding_h, work.padding_w, work.dilation, work.groups
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    inner, outer = x.shape[1] // groups, shape[1] // groups
    for i in range(kh):
        for j in range(kw):
            view = padded[:, :, i * d : i * d + shape[2] * sh : sh, j * d : j * d + shape[3] * sw : sw]
            view = view[:, :, : shape[2], : shape[3]]
            for g in range(groups):
                out[:, g * outer : (g + 1) * outer] += np.einsum(
                    "bchw,dc->bdhw",
                    view[:, g * inner : (g + 1) * inner],
                    weight[g * outer : (g + 1) * outer, :, i, j],
                )
    for extra in weights[1:]:
        if extra.ndim == 2:
            out = out * extra[0][None, :, None, None] + extra[1][None, :, None, None]
        else:
            out = out + extra[None, :, None, None]
    return out


def pool(x, work, shape):
    if not work.stride_h:
        return x.mean(axis=(2, 3)).reshape(shape)
    k, s = work.kernel_h, work.stride_h
    out = np.empty(shape)
    for row in range(shape[2]):
        for column in range(shape[3]):
            low, left = row * s - work.padding_h, column * s - work.padding_w
            out[:, :, row, column] = x[
                :, :, max(low, 0) : max(low, 0) + 1 if low + k <= 0 else low + k, max(left, 0) : left + k
            ].max(axis=(2, 3))
    return out
