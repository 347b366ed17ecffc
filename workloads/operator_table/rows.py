"""Operators that pass over rows, of an operator table."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from workloads.operator_table.cells import Built, Cells, Rule
from workloads.operators import (
    Activation,
    Copy,
    Elementwise,
    Embedding,
    Gather,
    Norm,
    Rotary,
    Rows,
    Scatter,
    Softmax,
)

__all__ = ["OPS"]


def _pointwise(kind: type[Rows], reads: int, flops_per_element: float) -> Rule:
    def build(c: Cells) -> Built:
        m, n = c("m"), c("n")
        size = c.size(m * n)
        return Built(kind(m=m, n=n, flops_per_element=float(flops_per_element)), reads * size, size)

    return build


# FLOPs per element are the arithmetic of the usual formula; none of these operators is bound by it.
_UNARY = _pointwise(Activation, 1, 4)
_BINARY = _pointwise(Elementwise, 2, 1)
_SCALAR = _pointwise(Elementwise, 1, 1)
_NORM = _pointwise(Norm, 1, 5)


def _batch_norm(c: Cells) -> Built:
    """``m`` values of each of ``n`` channels, scaled and shifted as in inference."""
    built = _NORM(c)
    return replace(built, work=replace(built.work, norm="batch"))  # type: ignore[call-arg]


OPS: Final[dict[str, Rule]] = {
    "norm": _NORM, "rmsnorm": _NORM, "layernorm": _NORM, "batchnorm": _batch_norm,
    "softmax": _pointwise(Softmax, 1, 5),
    "silu_mul": _pointwise(Activation, 2, 5), "gelu_mul": _pointwise(Activation, 2, 5),
    "gelu": _UNARY, "relu": _pointwise(Activation, 1, 1), "silu": _UNARY, "tanh": _UNARY, "sigmoid": _UNARY,
    "add": _BINARY, "sub": _BINARY, "mul": _BINARY, "div": _BINARY, "pow": _BINARY,
    "add3": _pointwise(Elementwise, 3, 2),
    "addu": _SCALAR, "subu": _SCALAR, "mulu": _SCALAR, "divu": _SCALAR, "powu": _SCALAR,
    "exp": _SCALAR, "sqrt": _SCALAR, "neg": _SCALAR, "copy": _pointwise(Copy, 1, 0),
    "rotary": _pointwise(Rotary, 1, 3),
    "embedding": _pointwise(Embedding, 1, 0), "gather": _pointwise(Gather, 1, 0),
    "scatter": _pointwise(Scatter, 1, 0),
}  # fmt: skip
"""A name ending in ``u`` takes a scalar as second operand."""
