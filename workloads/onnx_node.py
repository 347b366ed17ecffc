"""One operator of an ONNX model with everything known about it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

from workloads.dtypes import size_bytes
from workloads.operators import Rows, Work

__all__ = ["Cost", "Node", "Rule", "Value", "over_rows", "rows"]


@dataclass(slots=True)
class Value:
    """A named array of the model. ``tensor`` is the graph tensor that holds it (views share one).

    ``constant``: known before the run. ``array``: its content, where small and at hand. ``beside``: bytes of scales and
    zero points that are stored with it.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    array: Any = None
    element: int = 1
    beside: int = 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes, those of its scales included."""
        return size_bytes(self.elements, self.dtype) + self.beside


@dataclass(frozen=True, slots=True)
class Node:
    """One operator with its attributes as plain values; an input that was left out is None."""

    op: str
    domain: str
    attributes: Mapping[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def at(self, index: int) -> Value | None:
        """An input, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an input that must be there."""
        value = self.at(index)
        if value is None:
            raise LookupError(f"input {index} is missing")
        return value.shape

    @property
    def out(self) -> Value:
        """The first output."""
        return self.outputs[0]


@dataclass(slots=True)
class Cost:
    """How an operator appears in the graph.

    ``reads``: the inputs that hold data (None: all). ``touched`` and ``written`` are bytes of an input or output, by
    its index, of which less moves than the kind's rule says. ``dtype``: the precision of the arithmetic, where the
    values do not say it. ``weights``: the true shape and type of packed weights, by input. ``source`` replaces the
    operator's own name.
    """

    work: Work
    reads: tuple[int, ...] | None = None
    touched: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    dtype: str | None = None
    weights: dict[int, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    source: str = ""


Rule = Callable[[Node], Cost]
Kind = TypeVar("Kind", bound=Rows)


def rows(shape: tuple[int, ...], columns: int | None = None) -> tuple[int, int]:
    """Rows and columns of a tensor: ``columns`` columns (the last side unless given), and the rest as rows."""
    n = columns if columns is not None else (shape[-1] if shape else 1)
    return (prod(shape) // n if n else 0), n


def over_rows(
    kind: type[Kind], shape: tuple[int, ...], per_element: float = 0.0, columns: int | None = None
) -> Kind:
    """Work over the rows of a tensor, with so many operations per element."""
    m, n = rows(shape, columns)
    return kind(m=m, n=n, flops_per_element=float(per_element))
