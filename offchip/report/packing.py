"""Where each tensor stands in a memory over time: at its planned address, or stacked where none is planned."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["stack"]


def stack(sizes: Sequence[int], starts: Sequence[float], ends: Sequence[float]) -> list[int]:
    """Offsets for a picture of stays without planned addresses: first fit, in order of birth.

    Stays that touch only in a moment may share bytes. The picture shows how much is live and for how long;
    it is no allocation that anybody planned.
    """
    order = sorted(range(len(sizes)), key=lambda i: (starts[i], -ends[i], -sizes[i], i))
    offsets = [0] * len(sizes)
    live: list[tuple[int, int, float]] = []
    for number in order:
        live = [entry for entry in live if entry[2] > starts[number]]
        place, bottom = len(live), 0
        for index, (low, high, _) in enumerate(live):
            if low - bottom >= sizes[number]:
                place = index
                break
            bottom = max(bottom, high)
        live.insert(place, (bottom, bottom + sizes[number], ends[number]))
        offsets[number] = bottom
    return offsets
