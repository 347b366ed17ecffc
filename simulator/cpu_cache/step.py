"""How the steps of the cache kernels are compiled: without reference counts, Python's arithmetic errors or rewrites.

A step allocates nothing and keeps no array, divides by nothing that can be zero, and is part of the kernel that
calls it (:mod:`hw_configs.compiled`).
"""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled

__all__ = ["small", "step"]

step: Final[Any] = compiled(error_model="numpy", no_rewrites=True, _nrt=False)
"""Decorator of a step."""
small: Final[Any] = compiled(error_model="numpy", no_rewrites=True, _nrt=False, forceinline=True)
"""Decorator of a step that every access takes: put into its callers, which saves handing all arrays over."""
