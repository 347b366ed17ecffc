"""Products of any width as products of bits: matrices taken apart into planes, one-bit products, sums put together.

A number of b bits has a plane per bit, and a bit is -1 or 1 (Ma et al., arXiv:2409.17870, call it bipolar): the number
is the sum of its bits times 2, 4, 8 ..., so a product of p-bit and q-bit numbers is the sum of p x q one-bit products,
each shifted by the places of its planes. A matrix unit takes words of bits (exclusive or, population count), as many
bytes an instruction as of any other type (PTX: m16n8k256 for single bits, m16n8k32 for 8-bit integers). So a one-bit
product over k is priced as one of 8-bit words over k / 8, of planes stacked as rows and columns.

Where a thread block holds all planes of an output, it puts the sums together in shared memory (``folded``); else all
sums go to memory and a kernel of their own adds them up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem, bad_input
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import Elementwise, Product, Quantize
from workloads.rewritten import add_tensor, in_place_of, product_weight, with_products
from workloads.transformer.writer import QUANTIZE_FLOPS

__all__ = ["BitPlanes", "PlaneCounts", "plane_product", "planes_of", "with_bit_planes"]

WORD: Final = 8
"""Bits of the words that stand for bits where a product is priced."""
MOST_BITS: Final = 8
SCALE_BYTES: Final = 4
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BitPlanes:
    """Bits of weights and of activations. ``folded``: sums are put together on chip. ``packed``: weights lie as planes
    of packed bits in memory, else as a byte a value, which is taken apart on the way.
    """

    weight_bits: int
    activation_bits: int
    folded: bool = True
    packed: bool = True

    def __post_init__(self) -> None:
        found = [
            Problem(f"found {getattr(self, name)}; expected 1 to {MOST_BITS}", path=name)
            for name in ("weight_bits", "activation_bits")
            if not 1 <= getattr(self, name) <= MOST_BITS
        ]
        if found:
            raise InputError(found)

    @property
    def pairs(self) -> int:
        """One-bit products of one product."""
        return self.weight_bits * self.activation_bits

    @property
    def name(self) -> str:
        """As papers write it: W1A2."""
        return f"W{self.weight_bits}A{self.activation_bits}"


@dataclass(frozen=True, slots=True)
class PlaneCounts:
    """What a product by planes took: word multiplications, sums of one-bit products, bytes of packed operands."""

    words: int
    sums: int
    left_bytes: int
    right_bytes: int


def planes_of(values: Integers, bits: int) -> npt.NDArray[np.uint8]:
    """Packed planes ``[bit, row, word]`` of odd numbers from 1 - 2**bits to 2**bits - 1; the last word is filled up.

    >>> planes_of(np.array([[3, -1, 1]]), 2).tolist()
    [[[192]], [[160]]]

    Raises ``InputError`` for numbers that bits of -1 and 1 do not make.
    """
    stored = (values + (1 << bits) - 1) >> 1
    if values.size and (np.any(values % 2 == 0) or stored.min() < 0 or stored.max() >= 1 << bits):
        raise bad_input(f"found values that {bits} bits of -1 and 1 do not make", path="values")
    return np.stack([np.packbits((stored >> bit & 1).astype(np.uint8), axis=1) for bit in range(bits)])


def plane_product(left: Integers, right: Integers, form: BitPlanes) -> tuple[Integers, PlaneCounts]:
    """``left`` times the transpose of ``right``, by one-bit products of packed planes, and what that took."""
    rows = planes_of(left, form.activation_bits)
    columns = planes_of(right, form.weight_bits)
    depth = left.shape[1]
    result = np.zeros((left.shape[0], right.shape[0]), np.int64)
    words = sums = 0
    for place, row in enumerate(rows):
        for other, column in enumerate(columns):
            differ = np.bitwise_count(row[:, None, :] ^ column[None, :, :])
            bit_sums = depth - 2 * differ.sum(axis=2, dtype=np.int64)
            result += bit_sums << (place + other)
            words += differ.size
            sums += bit_sums.size
    return result, PlaneCounts(words, sums, rows.nbytes, columns.nbytes)


def with_bit_planes(graph: Graph, form: BitPlanes, chosen: Callable[[Operator], bool]) -> Graph:
    """The graph with every ``chosen`` product of activations and one weight by planes; others stay as they are.

    Activations that several such products take are quantised and taken apart once. Each row and column has a scale.
    """
    weights = {o.name: product_weight(o, graph.tensors) for o in graph.operators if chosen(o)}
    return with_products(
        graph,
        {name: weight for name, weight in weights.items() if weight},
        lambda source, takers, tensors: [_taken_apart(source, takers[0], form, tensors)],
        lambda operator, weight, tensors: _product(operator, weight, form, tensors),
    )


def _taken_apart(source: str, taker: Operator, form: BitPlanes, tensors: dict[str, Tensor]) -> Operator:
    """Activations quantised, and their planes stacked as rows."""
    assert isinstance(taker.work, Product)
    m, k = taker.work.m, taker.work.k
    words, bits = -(-k // WORD), form.activation_bits
    size = bits * m * words + SCALE_BYTES * m
    planes = add_tensor(tensors, f"{source}.planes", (bits * m, words), "int8", size)
    work = Quantize(m=m, n=k, to_dtype="int8", flops_per_element=QUANTIZE_FLOPS + bits)
    return in_place_of(taker, f"{source}.planes", work, ((source,), (planes,)), tensors, taker.dtype)


def _product(operator: Operator, weight: str, form: BitPlanes, tensors: dict[str, Tensor]) -> list[Operator]:
    """The stacked product, and the sums put together."""
    work, name = operator.work, operator.name
    assert isinstance(work, Product)
    m, n, words = work.m, work.n, -(-work.k // WORD)
    rows, columns = form.activation_bits * m, form.weight_bits * n
    held = columns * words if form.packed else n * work.k
    planes = add_tensor(
        tensors, f"{weight}.planes", (columns, words), "int8", held + SCALE_BYTES * n, Role.WEIGHT
    )
    others = (x for x in operator.inputs[1:] if x != weight)
    inputs = (f"{operator.inputs[0]}.planes", planes, *others)
    stacked = replace(
        work, m=rows, n=columns, k=words, weight_dtype="", weight_bytes=float(held + SCALE_BYTES * n),
        folds=form.pairs if form.folded else 1,
    )  # fmt: skip
    if form.folded:
        return [in_place_of(operator, name, stacked, (inputs, operator.outputs), tensors, "int8")]
    sums = add_tensor(tensors, f"{name}.sums", (rows, columns), "int32")
    add = Elementwise(m=m, n=n, flops_per_element=2.0 * form.pairs, function="add")
    return [
        in_place_of(operator, name, stacked, (inputs, (sums,)), tensors, "int8"),
        in_place_of(operator, f"{name}.fold", add, ((sums,), operator.outputs), tensors, operator.dtype),
    ]
