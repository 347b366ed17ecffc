"""Named things that a user, or another package, can add without a patch.

Offchip has four registries: devices (YAML files), mappers, importers and studies. A registry knows its
built-in entries as dotted locations, imports one only when it is asked for by name (so that ``--help`` stays
fast), and reads the entry points of its group, so that an installed package can add its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from hw_configs.problems import bad_input, nearest

__all__ = ["Registry"]

Entry = TypeVar("Entry")


@dataclass
class Registry(Generic[Entry]):
    """Entries of one kind by name.

    ``kind`` is the word used in messages ("mapper"), ``group`` the entry-point group
    (``offchip.mappers``), ``builtin`` maps a name to ``module:attribute``.
    """

    kind: str
    group: str
    builtin: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every known name, sorted."""
        return sorted({*self.builtin, *(point.name for point in self._points())})

    def get(self, name: str) -> Entry:
        """The entry of that name, imported now; an unknown name raises an InputError that lists the known."""
        location = self.builtin.get(name)
        if location is not None:
            module, _, attribute = location.partition(":")
            return cast(Entry, getattr(importlib.import_module(module), attribute))
        for point in self._points():
            if point.name == name:
                return cast(Entry, point.load())
        known = self.names()
        raise bad_input(
            f"unknown {self.kind} {name!r}; known: {', '.join(known) or 'none'}",
            suggestion=nearest(name, known),
        )

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))
