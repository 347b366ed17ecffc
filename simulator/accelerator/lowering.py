"""What an operator is to a scratchpad machine: products for the arrays, and operations of the vector unit.

A convolution is a product of (batch and output positions) x (window and input channels) x (output channels), one
per group; a transposed one has its input positions as rows and the window among its columns. Attention is two
products per head with a softmax between them; masked scores are computed too, since an array cannot skip them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from simulator.accelerator.array import Product
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
    """The operator in the machine's terms; None for a product whose shape is not stated."""
    a = operator.attributes
    try:
        if operator.kind == "matmul":
            return Lowered((Product(int(a["m"]), int(a["k"]), int(a["n"]), int(a.get("batch", 1))),))
        if operator.kind == "grouped_matmul":
            active = max(1, int(a.get("active", a["groups"])))
            return Lowered((Product(-(-int(a["m"]) // active), int(a["k"]), int(a["n"]), active),))
        if operator.kind == "conv":
            return _convolution(a)
        if operator.kind == "attention":
            return _attention(a)
    except KeyError:
        return None
    if operator.kind == "recurrent":
        return None
    return Lowered((), operator.flops)


def _convolution(a: Any) -> Lowered:
    groups = int(a.get("groups", 1))
    window = int(a["kernel_h"]) * int(a["kernel_w"])
    inputs, outputs = int(a["in_channels"]) // groups, int(a["out_channels"]) // groups
    if a.get("transposed", False):
        rows = int(a["batch"]) * int(a["height"]) * int(a["width"])
        product = Product(rows, inputs, outputs * window, groups)
    else:
        rows = int(a["batch"]) * int(a["out_height"]) * int(a["out_width"])
        product = Product(rows, inputs * window, outputs, groups)
    return Lowered((product,), either=groups > 1 and inputs == 1)


def _attention(a: Any) -> Lowered:
    heads = int(a["batch"]) * int(a["heads"])
    queries, keys = int(a["q_len"]), int(a["kv_len"])
    window = int(a.get("window", 0) or 0)
    seen = min(keys, window + queries) if window else keys
    width = int(a["head_dim"])
    scores = Product(queries, width, seen, heads)
    mixed = Product(queries, seen, int(a.get("v_head_dim", width)), heads)
    return Lowered((scores, mixed), float(_SOFTMAX_OPERATIONS * heads * queries * seen))
