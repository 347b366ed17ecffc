"""What rewrites of products share: the weight of a product, a new tensor, an operator in another's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from workloads.graph import Graph, Operator, Role, Tensor, make_operator
from workloads.operators import Product, Work

__all__ = ["add_tensor", "in_place_of", "product_weight", "with_products"]


def product_weight(operator: Operator, tensors: Mapping[str, Tensor]) -> str:
    """The one two-dimensional weight of a product over activations; empty: it has none."""
    if not isinstance(operator.work, Product) or operator.work.batch != 1:
        return ""
    found = [n for n in operator.inputs if tensors[n].role is Role.WEIGHT and len(tensors[n].shape) == 2]
    return found[0] if len(found) == 1 and tensors[operator.inputs[0]].role is not Role.WEIGHT else ""


Prepare = Callable[[str, list[Operator], dict[str, Tensor]], list[Operator]]
"""What becomes of activations before the products that take them, once for all: their name, the products, tensors."""
Form = Callable[[Operator, str, dict[str, Tensor]], list[Operator]]
"""What stands where a product with that weight stood."""


def with_products(graph: Graph, formed: dict[str, str], prepare: Prepare, form: Form) -> Graph:
    """The graph with products in another form; ``formed``: their weights by name, which go."""
    tensors, operators = dict(graph.tensors), list[Operator]()
    takers: dict[str, list[Operator]] = {}
    for operator in graph.operators:
        if operator.name in formed:
            takers.setdefault(operator.inputs[0], []).append(operator)
    for operator in graph.operators:
        if operator.name not in formed:
            operators.append(operator)
            continue
        source = operator.inputs[0]
        operators += prepare(source, takers.pop(source), tensors) if source in takers else []
        operators += form(operator, formed[operator.name], tensors)
    for weight in formed.values():
        tensors.pop(weight, None)
    return replace(graph, tensors=tensors, operators=tuple(operators))


def add_tensor(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], dtype: str, stored: int = -1,
               role: Role = Role.ACTIVATION) -> str:  # fmt: skip
    """A tensor more; ``stored`` bytes of it, -1: by its type. Returns its name."""
    tensors[name] = Tensor(name, shape, dtype, role, stored)
    return name


def in_place_of(
    operator: Operator, name: str, work: Work, ends: tuple[tuple[str, ...], tuple[str, ...]],
    tensors: dict[str, Tensor], dtype: str,
) -> Operator:  # fmt: skip
    """An operator where ``operator`` stood; ``ends``: what it reads and what it makes."""
    inputs, outputs = ends
    return make_operator(name, work, inputs, outputs, tensors, dtype=dtype, place=operator.place)
