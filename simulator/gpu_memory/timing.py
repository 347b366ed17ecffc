"""From what a stretch of the trace asked of each part to how long it takes: the busiest part decides.

A stretch lasts as long as the slowest of: the L1 of a multiprocessor, its path to the L2, a slice's port, memory, the
link to the host, the trace's own times, and waiting: sectors wait their latency in as many places as are outstanding
(Little's law). Within a stretch everything overlaps; stretches follow one another. A bound, not a queue: requests
that meet by chance cost nothing more, so that times are low where a part is nearly full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulator.gpu_memory.machine import Built, Window

__all__ = ["BOUNDS", "Rates", "StretchTime", "time_of"]

BOUNDS: Final = ("l1", "path", "slice", "memory", "link", "trace", "latency")
"""What can decide how long a stretch lasts."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes per second of memory (reads and writes share them where ``one_port``) and of the link to the host."""

    read_bytes_per_s: float
    write_bytes_per_s: float
    one_port: bool
    link_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StretchTime:
    """Seconds of a stretch, and what decided."""

    seconds: float
    bound: str


def time_of(built: Built, window: Window, rates: Rates, link_bytes: int, spanned_s: float) -> StretchTime:
    """The time of a stretch. ``link_bytes``: with headers; ``spanned_s``: between its first and last stated times."""
    clock = built.clock_hz
    read, written = window.memory[0] / rates.read_bytes_per_s, window.memory[1] / rates.write_bytes_per_s
    parts = (
        float(window.l1_bytes.max()) / built.l1_bytes_per_clock / clock,
        float(window.path_bytes.max()) / built.path_bytes_per_clock / clock,
        float(window.slice_bytes.max()) / built.slice_bytes_per_clock / clock,
        float(read + written if rates.one_port else max(read, written)),
        link_bytes / rates.link_bytes_per_s if link_bytes else 0.0,
        spanned_s,
        float(window.wait.max()) / built.outstanding / clock,
    )
    longest = max(range(len(parts)), key=lambda index: parts[index])
    return StretchTime(parts[longest], BOUNDS[longest])
