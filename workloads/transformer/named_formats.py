"""Formats of weights whose element types are known one by one, as the header of a checkpoint file lists them."""

from __future__ import annotations

from collections.abc import Mapping

from workloads.transformer.formats import PLAIN, Format, FormatRule
from workloads.transformer.module_names import module_set

__all__ = ["rules_by_type"]


def rules_by_type(types: Mapping[str, str], own: str) -> tuple[FormatRule, ...]:
    """A rule per element type; ``types`` are those of modules by name, ``own`` the activations' type."""
    by_type: dict[str, list[str]] = {}
    for module, dtype in types.items():
        by_type.setdefault(dtype, []).append(module)
    return tuple(
        FormatRule(module_set(modules), PLAIN if dtype == own else Format(dtype))
        for dtype, modules in sorted(by_type.items())
    )
