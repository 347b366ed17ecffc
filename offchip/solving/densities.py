"""Densities that the command line gives to layers: ``OPERAND=X``, or ``LAYER.OPERAND=X`` with a name or a pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from hw_configs.problems import bad_input, nearest
from hw_configs.spatial import OPERANDS
from workloads.density import density_text, read_density
from workloads.einsum import Einsum

__all__ = ["SaidDensities", "read_densities"]


@dataclass(frozen=True)
class SaidDensities:
    """By pattern of layers and operand, what :func:`~workloads.density.read_density` takes; the last one counts."""

    said: Mapping[tuple[str, str], Any]
    seen: set[str]

    def of(self, layer: Einsum) -> Einsum:
        """The layer with what was said of it; its own densities stay where nothing was."""
        self.seen.add(layer.name)
        found = dict(layer.densities)
        for operand in OPERANDS:
            for (pattern, of), said in self.said.items():
                if of == operand and fnmatchcase(layer.name, pattern):
                    path = f"--density of {operand} in {layer.name}"
                    found[operand] = read_density(said, layer.operands[operand], layer.sizes, "", path)
        return replace(layer, densities={o: density for o, density in found.items() if density.share < 1})

    def all_used(self) -> None:
        """Raises ``InputError`` for a layer that was not asked for."""
        for pattern, _operand in self.said:
            if not any(fnmatchcase(name, pattern) for name in self.seen):
                near = nearest(pattern, self.seen)
                raise bad_input(f"there is no layer {pattern!r}", path="--density", suggestion=near)


def read_densities(entries: Sequence[str]) -> SaidDensities:
    """What the entries say. Raises ``InputError`` for one that does not read."""
    said: dict[tuple[str, str], Any] = {}
    for entry in entries:
        target, _, value = entry.partition("=")
        name, _, operand = target.rpartition(".")
        try:
            if operand not in OPERANDS:
                raise ValueError
            said[name or "*", operand] = density_text(value)
        except ValueError:
            raise bad_input(
                f"found {entry!r:.60}; expected [LAYER.]I, W or O=SHARE, N:M@DIM or band:ROWS,COLUMNS,BELOW,ABOVE",
                path="--density",
            ) from None
    return SaidDensities(said, set())
