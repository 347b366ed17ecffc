"""The map after a cut of power, found by reading the spare area of every page on flash.

Each programmed page carries its logical page and the number of the write that made it; collection copies both.
The newest copy of each logical page is the one that counts. A page whose program had not ended holds nothing.
Trims are not written down: a trimmed page may come back, as NVMe allows for a deallocated block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from simulator.flash.layout import DriveState

__all__ = ["recovered_map", "write_numbers"]


def write_numbers(state: DriveState) -> npt.NDArray[np.int64]:
    """The write number in the spare area of every physical page, 0 where nothing is programmed."""
    if not state.record.spare:
        raise bad_input("this drive keeps no spare areas; run it with spare=True")
    return state.spare_areas


def recovered_map(state: DriveState) -> npt.NDArray[np.int64]:
    """Physical page of every logical page (and of the map's own), -1 where no copy exists."""
    numbers = write_numbers(state)
    programmed = np.flatnonzero(numbers)
    oldest_first = programmed[np.argsort(numbers[programmed], kind="stable")]
    found = np.full(state.to_physical.size, -1, np.int64)
    found[state.to_logical[oldest_first].astype(np.int64) - 1] = oldest_first
    return found
