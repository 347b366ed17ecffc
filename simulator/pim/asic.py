"""Clocks that a vector unit without dividers needs for what a PIM memory leaves to its host.

The host chip of PIM-GPT (arXiv:2310.09385) does norms, softmax, activations, residual sums, and adds the partial
results that come from the memory. Its adders and multipliers work side by side; an operation over a vector is a
row of stages, each as long as the fuller of the two kinds of unit is busy plus the depth of its longest chain
of dependent operations, one clock each. A reduction is a stage of its own: nothing behind it can start before.
The counts are those of :mod:`simulator.pim.asic_arithmetic`, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.vector_unit import VectorUnit
from workloads.graph import Operator
from workloads.operators import (
    Activation,
    Copy,
    Elementwise,
    Embedding,
    Gather,
    Norm,
    Quantize,
    Reduce,
    Rotary,
    Softmax,
    Sort,
    TopK,
    View,
)  # fmt: skip

__all__ = ["Stage", "clocks", "operator_stages", "partial_sum_stages", "softmax_stages"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Multiplications, additions and the clocks of the longest dependent chain of one stage."""

    multiplications: int
    additions: int
    depth: int


def clocks(stages: list[Stage], unit: VectorUnit) -> int:
    """Clocks of stages that follow one another."""
    total = 0
    for stage in stages:
        multiplying = -(-stage.multiplications // unit.multipliers)
        adding = -(-stage.additions // unit.adders)
        if multiplying or adding:
            total += max(multiplying, adding) + stage.depth
    return total


def _tree(n: int) -> int:
    """Levels of an adder tree over n elements."""
    return max(n - 1, 0).bit_length()


def _exponential(unit: VectorUnit) -> Stage:
    """Of one element: range (2 and 2), Horner (a pair per term after the first), exponent (1)."""
    pairs = unit.exponential_terms - 1
    return Stage(2 + pairs, 3 + pairs, 5 + 2 * pairs)


def _reciprocal(unit: VectorUnit) -> Stage:
    """Of one element: a line for the first guess, then two products and a difference per iteration."""
    rounds = unit.reciprocal_iterations
    return Stage(1 + 2 * rounds, 1 + rounds, 2 + 3 * rounds)


def _inverse_root(unit: VectorUnit) -> Stage:
    """Of one element: a subtraction on the bits and a half, then three products and a difference."""
    rounds = unit.inverse_root_iterations
    return Stage(1 + 3 * rounds, 1 + rounds, 1 + 3 * rounds)


def _each(count: int, *parts: Stage) -> Stage:
    """A stage of ``count`` elements, each of which goes through the parts."""
    return Stage(
        count * sum(p.multiplications for p in parts),
        count * sum(p.additions for p in parts),
        sum(p.depth for p in parts),
    )


_ADD = Stage(0, 1, 1)
_MULTIPLY = Stage(1, 0, 1)


def softmax_stages(rows: int, n: int, unit: VectorUnit) -> list[Stage]:
    """Softmax of ``rows`` rows of ``n``: largest, exponentials, sums, reciprocals of the sums, products."""
    count = rows * n
    return [
        Stage(0, rows * (n - 1), _tree(n)),
        _each(count, _ADD, _exponential(unit)),
        Stage(0, rows * (n - 1), _tree(n)),
        _each(rows, _reciprocal(unit)),
        _each(count, _MULTIPLY),
    ]


def _norm_stages(m: int, n: int, residuals: int, centred: bool, unit: VectorUnit) -> list[Stage]:
    count = m * n
    stages = [_each(count, *[_ADD] * residuals)]
    if centred:
        stages += [Stage(m, m * (n - 1), _tree(n) + 1), _each(count, _ADD)]
    stages += [
        Stage(count + m, m * n, _tree(n) + 3),
        _each(m, _inverse_root(unit)),
        _each(count, *([_MULTIPLY, _MULTIPLY, _ADD] if centred else [_MULTIPLY, _MULTIPLY])),
    ]
    return stages


def _activation(operations: float, unit: VectorUnit) -> tuple[Stage, ...]:
    """Of one element, by the operations that the graph counts for it: 1 or 2 ReLU, 4 SiLU, more GELU."""
    if operations <= 1:
        return (_ADD,)
    if operations <= 2:
        return (_ADD, _MULTIPLY)
    sigmoid = (_exponential(unit), _ADD, _reciprocal(unit), _MULTIPLY)
    # The tanh form of GELU: a square, a line in it, the product with x, and x times a sigmoid.
    return sigmoid if operations <= 4 else (_MULTIPLY, _MULTIPLY, _ADD, _MULTIPLY, *sigmoid)


def partial_sum_stages(outputs: int, parts: int, bias: bool) -> list[Stage]:
    """Adding ``parts`` partial results of each output, and a bias."""
    terms = parts - 1 + int(bias)
    return [Stage(0, outputs * terms, _tree(parts + int(bias)))] if terms else []


def _chosen_stages(work: TopK | Sort) -> list[Stage]:
    """The best k of each row by k searches for the largest, or all in order by a sorting network.

    An adder compares by subtracting (assumption: no unit for it is described).
    """
    if isinstance(work, TopK):
        rounds = min(work.k, work.n)
        return [Stage(0, work.m * rounds * (work.n - 1), rounds * _tree(work.n))]
    levels = _tree(work.n)
    return [Stage(0, work.m * work.n * levels * (levels + 1) // 4, levels * (levels + 1) // 2)]


def _narrowed_stages(work: Quantize, unit: VectorUnit) -> list[Stage]:
    """Values times the reciprocal of their scale, rounded; a dynamic scale is the largest magnitude."""
    scales = work.m * -(-work.n // (work.block or work.n))
    found = [Stage(0, work.m * work.n - scales, _tree(work.n)), _each(scales, _reciprocal(unit))]
    return [*(found if work.dynamic else []), _each(work.m * work.n, _MULTIPLY, _ADD)]


def operator_stages(operator: Operator, unit: VectorUnit) -> list[Stage] | None:
    """The stages of an operator by its kind; None for a kind this unit has no way to do."""
    work = operator.work
    if isinstance(work, Norm):
        # Seven operations an element are a layer norm's, four those of an RMS norm, which has no mean.
        centred = work.flops >= (6.0 + work.adds) * work.m * work.n
        return _norm_stages(work.m, work.n, work.adds, centred, unit)
    if isinstance(work, Softmax):
        return softmax_stages(work.m, work.n, unit)
    if isinstance(work, Activation):
        parts = _activation(work.flops / max(work.m * work.n, 1) - work.gated, unit)
        return [_each(work.m * work.n, *parts, *([_MULTIPLY] if work.gated else []))]
    if isinstance(work, Elementwise):
        return [_each(work.m * work.n, *[_ADD] * max(1, len(operator.inputs) - 1))]
    if isinstance(work, Rotary):
        return [_each(work.m * work.n, _MULTIPLY, _MULTIPLY, _ADD)]
    if isinstance(work, TopK | Sort):
        return _chosen_stages(work)
    if isinstance(work, Reduce):
        # A weighted sum of experts' results: as many products as additions.
        terms = round(work.flops / max(work.m * work.n, 1))
        return [
            Stage(work.m * work.n * (terms // 2), work.m * work.n * (terms - terms // 2), 1 + _tree(terms))
        ]
    if isinstance(work, Quantize):
        return _narrowed_stages(work, unit)
    if isinstance(work, Embedding | Gather | Copy | View):
        return []
    return None
