"""The ports of a memory: what a byte that is read or written crosses, and how fast each of it goes.

A device file states whether a memory has one port for both directions or two. Two ports work beside each
other (``ssd:read``, ``ssd:write``). One port (``host``) is full when its time is: with rates that differ, a
byte of the slower way counts as so many of the faster, so that bytes read / read rate + bytes written / write
rate is at most the time; ``host:reading`` and ``host:writing`` then hold either way to its own rate.

Behind the host interface of a drive that computes stands its flash (``csd:flash``), whose channels are buses
for both directions. Its own compute works there without crossing the interface; the host's bytes cross both.
What PIM units read inside their banks crosses no port; the operands and results that the host sends and
fetches do. Operands streamed past a scratchpad do not cross its banks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from simulator.link.flows import Load

__all__ = ["MemoryPorts", "together"]

Rate = Callable[[], float]
"""Tells bytes per second; called when bytes first pass, since some rates are measured."""


@dataclass(frozen=True)
class MemoryPorts:
    """The ports of one memory. ``even``: one port on which a byte takes the same time either way."""

    name: str
    count: int
    even: bool
    reading: Rate
    writing: Rate
    flash_bytes_per_s: float | None = None
    """Of a drive that computes: what its flash channels carry."""

    @property
    def rates(self) -> dict[str, Rate]:
        """What tells the bytes per second of each resource."""
        name, found = self.name, dict[str, Rate]()
        if self.count == 2:
            found |= {f"{name}:read": self.reading, f"{name}:write": self.writing}
        elif self.even:
            found[name] = self.reading
        else:
            found |= {name: self._faster, f"{name}:reading": self.reading, f"{name}:writing": self.writing}
        if self.flash_bytes_per_s is not None:
            found[f"{name}:flash"] = lambda: self.flash_bytes_per_s or 0.0
        return found

    def _faster(self) -> float:
        return max(self.reading(), self.writing())

    def crossed(self, way: Literal["read", "write"], rates: Mapping[str, float]) -> dict[str, float]:
        """Bytes on each resource per byte that is read or written, from the memory outwards."""
        name, found = self.name, dict[str, float]()
        if self.flash_bytes_per_s is not None:
            found[f"{name}:flash"] = 1.0
        if self.count == 2:
            found[f"{name}:{way}"] = 1.0
        elif self.even:
            found[name] = 1.0
        else:
            own = f"{name}:reading" if way == "read" else f"{name}:writing"
            found |= {name: _weight(rates[name], rates[own]), own: 1.0}
        return found

    def inside(self) -> Load:
        """What a byte crosses that the drive's own compute reads or writes."""
        return {f"{self.name}:flash": 1.0}


def _weight(port: float, way: float) -> float:
    weight = port / way
    # One flow alone goes at the rate of its way to the last bit.
    return weight if port / weight >= way else math.nextafter(weight, 0.0)


def together(parts: list[tuple[float, Load]]) -> dict[str, float]:
    """Bytes on each resource of several kinds of traffic: pairs of its bytes and its load."""
    found: dict[str, float] = {}
    for size, load in parts:
        if size > 0:
            for resource, weight in load.items():
                found[resource] = found.get(resource, 0.0) + size * weight
    return found
