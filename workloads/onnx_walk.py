"""What parts of the ONNX reader ask of the walk over a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Protocol

from workloads.graph import Operator, Tensor
from workloads.onnx_node import Cost, Node, Value

if TYPE_CHECKING:
    import onnx

__all__ = ["Scope", "Walk"]

Scope = MutableMapping[str, Value]
"""The values that a graph or body sees, by name."""


class Walk(Protocol):
    """What control flow needs of the walk over a model: to add to it, and to take back what a branch added."""

    tensors: dict[str, Tensor]
    operators: list[Operator]
    bounded: list[str]
    guessed: list[str]
    control: Counter[str]
    opset: int
    """Version of the standard operators."""

    def unique(self, name: str) -> str:
        """A name that no operator has yet."""
        ...

    def register(self, value: Value) -> None:
        """Make a value's tensor known to the graph."""
        ...

    def add(self, name: str, node: Node, cost: Cost) -> None:
        """Add an operator."""
        ...

    def walk_body(self, proto: onnx.GraphProto, scope: Scope, prefix: str, depth: int) -> None:
        """Add the operators of a body; ``scope`` holds its inputs and gains what it makes."""
        ...
