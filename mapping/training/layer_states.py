"""Bytes of weights, their gradients and the optimizer's state, layer by layer, experts apart from the rest.

Experts are held by fewer ranks than other weights where they are divided, so that other ranks share their states and
reduce their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

from workloads.graph import Graph, Role
from workloads.operators import GroupedProduct, Optimizer

__all__ = ["LayerStates", "StateBytes", "states_by_layer"]


_UPDATED: Final = frozenset({Role.GRADIENT, Role.OPTIMIZER_STATE})
_PLACE: Final = {Role.WEIGHT: 0, Role.GRADIENT: 1, Role.OPTIMIZER_STATE: 2}


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes of weights, of their gradients, and of the optimizer's state; ``trained`` of the weights are updated, which
    are so many ``parameters``.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    trained: int = 0
    parameters: int = 0

    def plus(self, other: StateBytes) -> StateBytes:
        """Both together."""
        return StateBytes(
            self.weights + other.weights, self.gradients + other.gradients,
            self.optimizer + other.optimizer, self.trained + other.trained,
            self.parameters + other.parameters,
        )  # fmt: skip

    def held(self, stage: int, ranks: int) -> int:
        """Bytes that each of so many ranks holds under a ZeRO stage (arXiv:1910.02054)."""
        parts = (self.weights, 3), (self.gradients, 2), (self.optimizer, 1)
        return sum(-(-size // ranks) if stage >= divided else size for size, divided in parts)


@dataclass(frozen=True, slots=True)
class LayerStates:
    """A layer's states: those of its experts, and all others."""

    dense: StateBytes = StateBytes()
    experts: StateBytes = StateBytes()


def states_by_layer(graph: Graph) -> dict[int, LayerStates]:
    """States by the number of the layer, embedding (-1) and head (after the last) included.

    A weight belongs to the layer that reads it first, trained or not, and with it its gradient and the optimizer's
    state.
    """
    experts = {
        name
        for op in graph.operators
        if isinstance(op.work, GroupedProduct)
        for name in op.inputs
        if graph.tensors[name].role is Role.WEIGHT
    }
    trained = {name for op in graph.operators if isinstance(op.work, Optimizer) for name in op.updates}
    found: dict[int, list[list[int]]] = {}
    home: dict[str, int] = {}
    for op in graph.operators:
        updates = isinstance(op.work, Optimizer)
        here = -1 if op.place.layer is None else op.place.layer
        if updates:
            here = next((home[name] for name in op.updates if name in home), here)
        divided = updates and any(name in experts for name in op.updates)
        for name in (*op.inputs, *op.updates):
            tensor = graph.tensors[name]
            if name in home or not (tensor.role is Role.WEIGHT or (updates and tensor.role in _UPDATED)):
                continue
            home[name] = here
            own = found.setdefault(here, [[0] * 5, [0] * 5])[divided or name in experts]
            own[_PLACE[tensor.role]] += tensor.size_bytes
            if tensor.role is Role.WEIGHT and name in trained:
                own[3] += tensor.size_bytes
                own[4] += prod(tensor.shape)
    return {
        layer: LayerStates(StateBytes(*dense), StateBytes(*rest)) for layer, (dense, rest) in found.items()
    }
