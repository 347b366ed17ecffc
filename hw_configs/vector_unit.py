"""A vector unit of separate adders and multipliers that has no divider, no exponential and no square root.

Such a unit works functions out: exponentials by a series, reciprocals and inverse roots by Newton's iteration.
How long that takes follows from how many units there are and how many terms and iterations it takes.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hw_configs.config import Config, Count

__all__ = ["VectorUnit"]


class VectorUnit(Config):
    """Adders and multipliers that work at the same time, one result each per clock."""

    adders: Count
    multipliers: Count
    exponential_terms: Annotated[int, Field(ge=2, le=16)]
    """Terms of the Taylor series of exp, the constant one included."""
    reciprocal_iterations: Annotated[int, Field(ge=0, le=8)]
    """Newton iterations of 1/x after a linear first guess."""
    inverse_root_iterations: Annotated[int, Field(ge=0, le=8)]
    """Newton iterations of 1/sqrt(x) after a first guess from the number's bits."""
