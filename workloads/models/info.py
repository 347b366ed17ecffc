"""What a person wants to know of a built-in model before running it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelInfo"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One built-in model.

    ``modality``: language, vision, encoder or generation. ``parameters`` counts each stored weight once.
    ``source`` names where the shape was published.
    """

    name: str
    family: str
    modality: str
    parameters: int
    source: str
