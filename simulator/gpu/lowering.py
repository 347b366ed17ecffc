"""Operators that run as others do: convolutions as implicit products, recurrences as products per step.

Lowering keeps FLOPs and compulsory bytes; it only says which kernel's shape prices them. What no kernel knows is
priced by its bytes.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.gpu.conv import as_product
from workloads.graph import Operator
from workloads.operators import Convolution, Custom, Elementwise, Product, Recurrence

__all__ = ["lowered"]


def lowered(operator: Operator) -> Operator:
    """The operator as a product, attention or memory-bound kernel."""
    work = operator.work
    if isinstance(work, Convolution) and short(work):
        return operator
    if isinstance(work, Convolution):
        return as_product(operator, work)
    if isinstance(work, Recurrence):
        return _recurrence(operator, work)
    if isinstance(work, Custom):
        return replace(operator, work=Elementwise(extra_flops=work.flops))
    return operator


def short(work: Convolution) -> bool:
    """Whether it is a convolution along one side with a filter per channel, which has a kernel of its own."""
    return work.depthwise and work.height == work.kernel_h == 1 and not work.transposed


def _recurrence(operator: Operator, work: Recurrence) -> Operator:
    """One product per step over the gates; the steps follow one another, so they are not one tall product."""
    depth = work.hidden + (work.input_size or work.hidden)
    steps = work.sequence * work.directions
    columns = max(1, int(work.flops / (2.0 * work.batch * steps * depth)))
    product = Product(m=work.batch, n=columns, k=depth, batch=steps)
    return replace(operator, work=replace(product, extra_flops=work.flops - product.flops))
