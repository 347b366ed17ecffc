"""What a PIM memory computes, element by element: the steps of a layout over a picture of the banks.

Timing is no business of this model. It takes the banks' contents as a layout's addresses fill them, does step
after step what a channel does, and lets the host add up what it reads. If the result is the matrix-vector
product, then the layout has lost no element, counted none twice and read no padding as a value.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from simulator.pim.matrix_layout import Addresses, Geometry, Step, Write

__all__ = ["apply_writes", "empty_banks", "run_steps", "store"]

Reals = NDArray[np.float64]


def empty_banks(geometry: Geometry, rows: int, seed: int) -> Reals:
    """Banks of shape (channels, banks, rows, elements of a row), full of what was left there before."""
    shape = (geometry.channels, geometry.banks, rows, geometry.row_elements)
    return np.random.default_rng(seed).uniform(-1e6, 1e6, shape)


def store(banks: Reals, addresses: Addresses, values: Reals) -> None:
    """Put values where their addresses say; ``ValueError`` when two elements share a place."""
    places = np.ravel_multi_index(tuple(addresses), banks.shape).ravel()
    if len(np.unique(places)) != len(places):
        raise ValueError("two elements of the matrix have one address")
    banks.ravel()[places] = values.ravel()


def apply_writes(banks: Reals, channel: int, write: Write, lanes: int, values: Reals, lane: int = 0) -> None:
    """The host's write of new elements: ``values`` of shape (banks, elements), row by row into the banks.

    A masked write changes the element ``lane`` of an access only; a whole one all its elements.
    """
    for offset in range(write.banks):
        row = banks[channel, write.bank + offset, write.row]
        if write.masked:
            row[write.at * lanes + lane] = values[offset, 0]
        else:
            row[write.at * lanes : (write.at + write.length) * lanes] = values[offset]


def run_steps(
    banks: Reals, channel: int, steps: Iterable[Step], vectors: Reals, geometry: Geometry, out: Reals
) -> None:
    """Run the steps of one channel; what is read is added to ``out`` of shape (vectors, outputs)."""
    lanes = geometry.lanes
    buffer = np.full(geometry.buffer_elements, np.nan)
    sums = np.full(geometry.banks, np.nan)
    for step in steps:
        if step.kind == "vector":
            length = -(-step.length // lanes) * lanes
            buffer[:] = np.nan
            buffer[:length] = 0.0
            buffer[: step.length] = vectors[step.first, step.at : step.at + step.length]
        elif step.kind == "clear":
            sums[:] = 0.0
        elif step.kind == "mac":
            row = banks[channel, :, step.row, step.at * lanes : (step.at + step.length) * lanes]
            sums += row @ buffer[step.first * lanes : (step.first + step.length) * lanes]
        else:
            out[step.row, step.first : step.first + step.length] += sums[: step.length]
