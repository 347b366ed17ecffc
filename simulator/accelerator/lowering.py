"""What an operator is to a scratchpad machine: products for the arrays, and operations of the vector unit.

A convolution is a product of (batch and output positions) x (window and input channels) x (output channels), one
per group; a transposed one has its input positions as rows and the window among its columns. Attention is two
products per head with a softmax between them; masked scores are computed too, since an array cannot skip them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulator.accelerator.array import Product
from workloads import operators
from workloads.graph import Operator

__all__ = ["Lowered", "lowered"]

_SOFTMAX_OPERATIONS: Final = 5
"""Per score: maximum, difference, exponential, sum, quotient."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """Products for the arrays and operations for the vector unit.

    ``either``: the products may run on the vector unit instead (a depthwise convolution fills one column).
    """

    products: tuple[Product, ...] = ()
    vector_operations: float = 0.0
    either: bool = False


def lowered(operator: Operator) -> Lowered | None:
    """The operator in the machine's terms; None for one whose products an array cannot know (a recurrence)."""
    work = operator.work
    if isinstance(work, operators.Product):
        # Zeros are skipped by shortening the sums, as structured sparsity does.
        return Lowered((Product(work.m, max(1, round(work.k / work.rate)), work.n, work.batch),))
    if isinstance(work, operators.GroupedProduct):
        touched = max(1, round(work.touched))
        return Lowered((Product(-(-work.m // touched), work.k, work.n, touched),))
    if isinstance(work, operators.Convolution):
        return _convolution(work)
    if isinstance(work, operators.Attention):
        return _attention(work)
    if isinstance(work, operators.LinearAttention):
        return _linear_attention(work)
    if isinstance(work, operators.Recurrence):
        return None
    return Lowered((), work.flops)


def _convolution(work: operators.Convolution) -> Lowered:
    window = work.kernel_h * work.kernel_w
    inputs, outputs = work.in_channels // work.groups, work.out_channels // work.groups
    if work.transposed:
        product = Product(work.batch * work.height * work.width, inputs, outputs * window, work.groups)
    else:
        rows = work.batch * work.out_height * work.out_width
        product = Product(rows, inputs * window, outputs, work.groups)
    return Lowered((product,), either=work.groups > 1 and inputs == 1)


def _linear_attention(work: operators.LinearAttention) -> Lowered:
    """Scores and mixing inside chunks, reading and adding to the states; what else there is runs on vector lanes."""
    tokens = min(work.sequence, work.chunk)
    chunks = work.batch * -(-work.sequence // work.chunk)
    heads, key, value = chunks * work.heads, work.key_dim, work.value_dim
    products = [Product(tokens, key, value, heads), Product(key, tokens, value, heads)]
    if work.chunk > 1:
        products += [Product(tokens, key, tokens, heads), Product(tokens, tokens, value, heads)]
    done = 2.0 * sum(product.multiply_adds for product in products)
    return Lowered(tuple(products), max(0.0, work.flops - done))


def _attention(work: operators.Attention) -> Lowered:
    heads = work.batch * work.heads
    seen = work.kv_len
    if work.limit < work.kv_len:
        seen = min(work.kv_len, work.limit + work.q_len)
    seen = max(1, round(seen * work.sparse_share))
    scores = Product(work.q_len, work.head_dim, seen, heads)
    mixed = Product(work.q_len, seen, work.value_dim, heads)
    return Lowered((scores, mixed), float(_SOFTMAX_OPERATIONS * heads * work.q_len * seen))
