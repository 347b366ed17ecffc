"""Tensors stored in another element type: a narrower copy saves bytes, not operations.

Arithmetic keeps its type. What a cost model asks of an operand's storage is a field of the operator's own (a weight's
type, a cache's type, the bytes of a left operand), so the price follows with the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from hw_configs.problems import bad_input, nearest
from simulator.rewrite.operands import in_proportion, itemised
from workloads.dtypes import dtype_bits, size_bytes
from workloads.graph import Graph, Operator, Tensor
from workloads.operators import Attention, Convolution, GroupedProduct, Product, Work

__all__ = ["store_as"]


def store_as(graph: Graph, precision: Mapping[str, str]) -> Graph:
    """The graph with some tensors stored in another element type; fields and traffic of their users follow."""
    tensors = dict(graph.tensors)
    for name, dtype in precision.items():
        if name not in tensors:
            raise bad_input(f"unknown tensor {name!r}", path="precision", suggestion=nearest(name, tensors))
        old = tensors[name]
        tensors[name] = replace(old, dtype=dtype, size_bytes=size_bytes(prod(old.shape), dtype))
    operators = tuple(
        _stored(op, precision, graph.tensors, tensors)
        if any(name in precision for name in (*op.inputs, *op.updates, *op.outputs))
        else op
        for op in graph.operators
    )
    return Graph(graph.name, tensors, operators, graph.outputs, graph.structure, graph.metadata)


def _stored(
    operator: Operator, precision: Mapping[str, str], old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> Operator:
    """One operator over tensors of which some are stored otherwise."""
    operator = itemised(operator, old)

    def scaled(names: tuple[str, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            in_proportion(count, new[name].size_bytes, old[name].size_bytes)
            for name, count in zip(names, counts, strict=True)
        )

    reads = scaled((*operator.inputs, *operator.updates), operator.reads)
    writes = scaled((*operator.outputs, *operator.updates), operator.writes)
    changed = replace(operator, reads=reads, writes=writes)
    return replace(changed, work=_work(changed, precision, old, new))


def _work(
    operator: Operator, precision: Mapping[str, str], old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> Work:
    """The operator's work with the storage fields of the operands that changed."""
    work = operator.work
    if isinstance(work, Attention):
        caches = [new[n] for n in dict.fromkeys((*operator.inputs, *operator.updates)) if new[n].is_cache]
        if any(cache.name in precision for cache in caches):
            # One field for keys and values: where they differ, the wider sets the pace.
            widest = max((cache.dtype for cache in caches), key=dtype_bits)
            return replace(work, kv_dtype=_beside(operator, widest))
        return work
    if not isinstance(work, Product | GroupedProduct | Convolution):
        return work
    fields: dict[str, Any] = {}
    right = _right_operand(operator, new)
    if right in precision:
        fields["weight_dtype"] = _beside(operator, precision[right])
        if isinstance(work, Product):
            fields["weight_bytes"] = 0.0
    left = operator.inputs[0] if operator.inputs else ""
    if isinstance(work, Product) and left != right and left in precision:
        narrower = new[left].size_bytes < old[left].size_bytes
        fields["left_bytes"] = operator.reads[0] if narrower else work.left_bytes
    return replace(work, **fields)


def _beside(operator: Operator, dtype: str) -> str:
    """A storage field's value: empty for the type of the arithmetic."""
    return "" if dtype == operator.dtype else dtype


def _right_operand(operator: Operator, tensors: Mapping[str, Tensor]) -> str:
    """The weight of a product, or the cache that it multiplies with; biases and folded norms come after it."""
    for name in operator.inputs:
        tensor = tensors[name]
        if (tensor.is_weight and len(tensor.shape) > 1) or tensor.is_cache:
            return name
    return ""
