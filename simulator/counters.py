"""What devices count beside time and energy: row hits, commands, bytes of a kind, seconds of a part.

An operator's usage comes in two pieces, so that a long generation stays cheap to add up: figures that are the
same each time it runs, kept once and multiplied in the end, and those that differ from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Usage", "UsageBook"]


class Usage(NamedTuple):
    """Figures of one run of an operator on a device, by name, in SI units."""

    fixed: Mapping[str, float]
    """Shared by every run of the operator; told apart by identity."""
    varying: Mapping[str, float]


class UsageBook:
    """Sums of usage by device."""

    def __init__(self) -> None:
        # The mapping is kept beside its count so that an identity cannot be taken twice.
        self._fixed: dict[tuple[str, int], tuple[Mapping[str, float], int]] = {}
        self._varying: dict[str, dict[str, float]] = {}

    def add(self, device: str, usage: Usage) -> None:
        """Add one run on a device."""
        key = (device, id(usage.fixed))
        fixed, count = self._fixed.get(key, (usage.fixed, 0))
        self._fixed[key] = (fixed, count + 1)
        totals = self._varying.setdefault(device, {})
        for name, value in usage.varying.items():
            totals[name] = totals.get(name, 0.0) + value

    def totals(self) -> dict[str, dict[str, float]]:
        """Every figure by device, in order of name."""
        found = {device: dict(totals) for device, totals in self._varying.items()}
        for (device, _), (fixed, count) in self._fixed.items():
            totals = found.setdefault(device, {})
            for name, value in fixed.items():
                totals[name] = totals.get(name, 0.0) + value * count
        return {device: dict(sorted(totals.items())) for device, totals in found.items()}
