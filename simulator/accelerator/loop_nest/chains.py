"""Chains of layers in a graph: what only one layer reads, and what happens to it in between, can stay on chip.

A chain goes on where a tensor has one reader, is no output of the graph and is what the reader multiplies with its
weights. Convolutions follow one another by images, rows and columns (through operators that take one element at a
time, and pools whose windows do not overlap), products by rows (through anything that takes one row at a time:
activations, norms, softmax), and the two products of attention by heads and queries. A second input that is no weight
(a skip), another pool, a view, or another layout ends a chain.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulator.accelerator.loop_nest.fused import Chain, ChainLayer, Side
from simulator.accelerator.loop_nest.layers import layers_of
from workloads import operators
from workloads.graph import PERSISTENT_ROLES, Graph, Operator

__all__ = ["chains_of"]

_BY_ELEMENT = (operators.Activation, operators.Elementwise, operators.Quantize)
_BY_ROW = (*_BY_ELEMENT, operators.Norm, operators.Softmax)


def chains_of(graph: Graph) -> Iterator[Chain]:
    """Every layer of a graph once, in chains of one or more, in the graph's order."""
    taken: set[str] = set()
    for operator in graph.operators:
        if operator.name in taken:
            continue
        found = _links(operator)
        if found is None:
            yield from (Chain((ChainLayer(layer, ()),)) for layer in layers_of(operator))
            continue
        links = list(found)
        last = operator
        while not isinstance(operator.work, operators.Attention):
            reader, pools = _reader(graph, last)
            more = None if reader is None else _links(reader)
            if reader is None or not more or not _follows(last, reader, pools):
                break
            links += [_pooled(link, pools) for link in more]
            taken.add(reader.name)
            last = reader
        yield Chain(tuple(links))


def _links(operator: Operator) -> list[ChainLayer] | None:
    """An operator's layers with their sides; None where tiles of it are not cut."""
    layers, work = layers_of(operator), operator.work
    if isinstance(work, operators.Convolution) and layers and not work.transposed:
        reach_h, reach_w = (work.dilation * (taps - 1) + 1 for taps in (work.kernel_h, work.kernel_w))
        sides = (
            Side("N", work.batch),
            Side("P", work.out_height, work.stride_h, reach_h, work.padding_h),
            Side("Q", work.out_width, work.stride_w, reach_w, work.padding_w),
        )
        return [ChainLayer(layers[0], sides)]
    if isinstance(work, operators.Product | operators.Attention) and layers:
        # Dims that index the weights come first: what stays of them stays while the inner ones run.
        dims = [dim for dim in ("B", "H", "M") if all(dim in layer.sizes for layer in layers)]
        return [ChainLayer(layer, tuple(Side(dim, layer.sizes[dim]) for dim in dims)) for layer in layers]
    return None


def _pooled(link: ChainLayer, pools: tuple[int, int]) -> ChainLayer:
    sides = list(link.sides)
    if pools != (1, 1):
        sides[-2:] = (side._replace(pool=pool) for side, pool in zip(sides[-2:], pools, strict=True))
    return ChainLayer(link.layer, tuple(sides))


def _windows(work: operators.Work) -> tuple[int, int] | None:
    """The windows of a pool, rows and columns, if they do not overlap and nothing is padded."""
    if not isinstance(work, operators.Pool) or work.padding_h or work.padding_w:
        return None
    windows = (work.kernel_h, work.kernel_w)
    return windows if min(windows) > 0 and windows == (work.stride_h, work.stride_w) else None


def _reader(graph: Graph, made: Operator) -> tuple[Operator | None, tuple[int, int]]:
    """The one layer that reads what another makes, through operators that leave its places as they are or pool them,
    and over how many rows and columns they pool.
    """
    pools = (1, 1)
    through = _BY_ELEMENT if isinstance(made.work, operators.Convolution) else _BY_ROW
    operator = made
    while True:
        if len(operator.outputs) != 1 or operator.outputs[0] in graph.outputs:
            return None, pools
        tensor = operator.outputs[0]
        readers = graph.consumers[tensor]
        if len(readers) != 1:
            return None, pools
        operator = graph.operator_by_name[readers[0]]
        others = [name for name in operator.inputs[1:] if graph.tensors[name].role not in PERSISTENT_ROLES]
        if operator.inputs[:1] != (tensor,) or others or operator.updates:
            return None, pools
        if layers_of(operator):
            return operator, pools
        window = _windows(operator.work) if isinstance(made.work, operators.Convolution) else None
        if window is not None:
            pools = (pools[0] * window[0], pools[1] * window[1])
        elif not isinstance(operator.work, through):
            return None, pools


def _follows(made: Operator, reader: Operator, pools: tuple[int, int]) -> bool:
    """Whether a layer reads the places of another one as they are."""
    first, then = made.work, reader.work
    if isinstance(first, operators.Convolution) and isinstance(then, operators.Convolution):
        height, width = first.out_height // pools[0], first.out_width // pools[1]
        return (first.batch, first.out_channels, height, width) == (
            then.batch, then.in_channels, then.height, then.width,
        )  # fmt: skip
    if isinstance(first, operators.Product) and isinstance(then, operators.Product):
        return (first.batch, first.m) == (then.batch, then.m) and then.k <= first.n
    return False
