"""The tensors of a checkpoint file as its header lists them: names, shapes, element types, bytes; no weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

__all__ = ["StoredTensor", "StoredTensors", "TypeShare"]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor. ``dtype`` as the file spells it, in lower case; ``shape`` with the innermost side last."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int

    @property
    def elements(self) -> int:
        """Values in it, as stored: packed types of safetensors hold several in one."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class TypeShare:
    """Tensors of one element type together."""

    dtype: str
    tensors: int
    elements: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredTensors:
    """All tensors of a checkpoint. ``size_bytes`` is the sum, or what an index states where headers are not there."""

    format: str
    tensors: tuple[StoredTensor, ...]
    size_bytes: int
    notes: tuple[str, ...] = ()

    def by_type(self) -> list[TypeShare]:
        """Tensors and bytes by element type, most bytes first."""
        groups: dict[str, list[StoredTensor]] = {}
        for tensor in self.tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        shares = (_share(dtype, tensors) for dtype, tensors in groups.items())
        return sorted(shares, key=lambda share: (-share.size_bytes, share.dtype))


def _share(dtype: str, tensors: Iterable[StoredTensor]) -> TypeShare:
    listed = list(tensors)
    return TypeShare(dtype, len(listed), sum(t.elements for t in listed), sum(t.size_bytes for t in listed))
