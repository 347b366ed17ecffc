"""Weights whose columns have two widths, and their product in integers: 4 bits for most outputs, 8 for some.

Which output features deserve 8 bits is for accuracy to say (Zheng et al., MixLLM, arXiv:2412.14590, ranks them over a
whole model); here it is a share per product. Weights of 4 bits have a zero point and a scale a group, those of 8 bits a
scale, activations 8 bits with a scale a group. Dequantising takes two steps: a 4-bit weight less its zero point is an
integer of 8 bits, which the matrix unit takes; the sums of a group are scaled when it is done (``scale_block``). In one
step, each weight would be scaled to 16 bits first and the product run in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from workloads.dtypes import size_bytes
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import Product, Quantize, View
from workloads.rewritten import add_tensor, in_place_of, product_weight, with_products
from workloads.transformer.writer import QUANTIZE_FLOPS

__all__ = ["GroupedWeights", "MixedColumns", "StepCounts", "two_step_product", "with_mixed_columns"]

SCALE_BYTES: Final = 2
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MixedColumns:
    """``group`` elements along the sum share a scale. ``two_steps``: sums in integers, scaled group by group; else
    weights are scaled to the activations' type and nothing is done in integers. ``fused``: both widths in one kernel.
    """

    group: int = 128
    two_steps: bool = True
    fused: bool = True

    def weight_bytes(self, narrow: int, wide: int, k: int) -> int:
        """Stored bytes of so many columns of 4 and of 8 bits over ``k``, with scales and zero points."""
        groups = -(-k // self.group)
        zeros = size_bytes(narrow * groups, "int4")
        return size_bytes(narrow * k, "int4") + wide * k + (narrow + wide) * groups * SCALE_BYTES + zeros


@dataclass(frozen=True, eq=False)
class GroupedWeights:
    """Columns ``[n, k]`` of integers, with scales ``[n, group]`` and zero points of the same shape (0 for 8 bits)."""

    values: Integers
    scales: Floats
    zeros: Integers


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Multiply-adds in integers, and scalings of sums on vector units."""

    multiply_adds: int
    scalings: int


def two_step_product(
    left: Integers, left_scales: Floats, weights: GroupedWeights, group: int
) -> tuple[Floats, StepCounts]:
    """Activations ``[m, k]`` with scales ``[m, group]`` times weights, group by group, and what that took.

    Raises ``InputError`` where a weight less its zero point is no integer of 8 bits.
    """
    shifted = weights.values - np.repeat(weights.zeros, group, axis=1)[:, : left.shape[1]]
    if shifted.size and (shifted.min() < -128 or shifted.max() > 127):
        raise bad_input("found a weight that is no integer of 8 bits without its zero point", path="weights")
    result = np.zeros((left.shape[0], shifted.shape[0]))
    done = scalings = 0
    for place, start in enumerate(range(0, left.shape[1], group)):
        part = slice(start, start + group)
        sums = left[:, part] @ shifted[:, part].T
        result += sums * (left_scales[:, place, None] * weights.scales[None, :, place])
        done += sums.size * left[:, part].shape[1]
        scalings += sums.size
    return result, StepCounts(done, scalings)


def with_mixed_columns(
    graph: Graph, form: MixedColumns, share_of: Callable[[Operator], float | None]
) -> Graph:
    """The graph with products in that form; ``share_of``: the share of a product's columns of 8 bits, None: it stays.

    Activations that several such products take are quantised once. Raises ``InputError`` for a share beside 0 to 1.
    """
    shares: dict[str, float] = {}
    formed: dict[str, str] = {}
    for operator in graph.operators:
        share, weight = share_of(operator), product_weight(operator, graph.tensors)
        if share is None or not weight:
            continue
        if not 0 <= share <= 1:
            raise bad_input(f"found {share}; expected 0 to 1", path="share_of")
        shares[operator.name], formed[operator.name] = share, weight
    return with_products(
        graph,
        formed,
        lambda source, takers, tensors: (
            [_quantised(source, takers[0], form, tensors)] if form.two_steps else []
        ),
        lambda operator, weight, tensors: _products(operator, weight, shares[operator.name], form, tensors),
    )


def _quantised(source: str, taker: Operator, form: MixedColumns, tensors: dict[str, Tensor]) -> Operator:
    assert isinstance(taker.work, Product)
    m, k = taker.work.m, taker.work.k
    size = m * k + SCALE_BYTES * m * -(-k // form.group)
    narrow = add_tensor(tensors, f"{source}.int8", (m, k), "int8", size)
    work = Quantize(m=m, n=k, to_dtype="int8", block=form.group, flops_per_element=QUANTIZE_FLOPS)
    return in_place_of(taker, f"{source}.quantise", work, ((source,), (narrow,)), tensors, taker.dtype)


def _products(
    operator: Operator, weight: str, share: float, form: MixedColumns, tensors: dict[str, Tensor]
) -> list[Operator]:
    """One product over all columns, or one for each width, each with its part of the result."""
    work = operator.work
    assert isinstance(work, Product)
    wide = round(share * work.n)
    parts = {"": (work.n - wide, wide)}
    if not form.fused and 0 < wide < work.n:
        parts = {".narrow": (work.n - wide, 0), ".wide": (0, wide)}
    others = tuple(x for x in operator.inputs[1:] if x != weight)
    source, dtype, block = operator.inputs[0], operator.dtype, 0
    if form.two_steps:
        source, dtype, block = f"{source}.int8", "int8", min(form.group, work.k)
    out, made = operator.outputs[0], []
    for label, (narrow, wide) in parts.items():
        columns, size = narrow + wide, form.weight_bytes(narrow, wide, work.k)
        held = add_tensor(tensors, f"{weight}.mixed{label}", (columns, work.k), "int8", size, Role.WEIGHT)
        result = out
        if label:
            result = add_tensor(tensors, f"{out}{label}", (work.m, columns), tensors[out].dtype)
        part = replace(work, n=columns, weight_dtype="", weight_bytes=float(size), scale_block=block)
        ends = (source, held, *others), (result,)
        made.append(in_place_of(operator, f"{operator.name}{label}", part, ends, tensors, dtype))
        others = ()
    if len(parts) > 1:
        # The kernels write into one result; no pass over memory joins it.
        ends = tuple(f"{out}{label}" for label in parts), (out,)
        made.append(in_place_of(operator, f"{operator.name}.joined", View(), ends, tensors, operator.dtype))
    return made
