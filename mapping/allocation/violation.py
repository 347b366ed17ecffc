"""A promise that a plan breaks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Violation"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise; ``buffers`` are indices into the problem."""

    kind: str
    buffers: tuple[int, ...]
    message: str

    def __str__(self) -> str:
        return self.message
