"""How the steps of the kernel are compiled: without reference counts, Python's arithmetic errors or rewrites.

Each is put into its callers: a call would hand over all arrays of the state by value, which takes longer than most
steps.
"""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled

__all__ = ["small"]

small: Final[Any] = compiled(error_model="numpy", no_rewrites=True, _nrt=False, forceinline=True)
"""Decorator of a step."""
