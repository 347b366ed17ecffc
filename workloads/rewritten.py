"""What rewrites of products share: the weight of a product, a new tensor, an operator in another's place."""

from __future__ import annotations

from workloads.graph import Operator, Role, Tensor, make_operator
from workloads.operators import Product, Work

__all__ = ["add_tensor", "in_place_of", "product_weight", "takers_of"]


def product_weight(operator: Operator, tensors: dict[str, Tensor]) -> str:
    """The one two-dimensional weight of a product over activations; empty: it has none."""
    if not isinstance(operator.work, Product) or operator.work.batch != 1:
        return ""
    found = [n for n in operator.inputs if tensors[n].role is Role.WEIGHT and len(tensors[n].shape) == 2]
    return found[0] if len(found) == 1 and tensors[operator.inputs[0]].role is not Role.WEIGHT else ""


def takers_of(operators: tuple[Operator, ...], formed: dict[str, str]) -> dict[str, list[Operator]]:
    """The products of ``formed`` by the activations that they take."""
    takers: dict[str, list[Operator]] = {}
    for operator in operators:
        if operator.name in formed:
            takers.setdefault(operator.inputs[0], []).append(operator)
    return takers


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
