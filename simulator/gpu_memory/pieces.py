"""Long accesses in pieces of few lines, so that the kernel's room for requests has a bound."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["in_pieces"]

Ints = npt.NDArray[np.int64]


def in_pieces(taken: list[Ints], most: int) -> list[Ints]:
    """The columns of accesses, those of more than ``most`` bytes cut at multiples of ``most``."""
    kind, address, size, sm, time_ns = taken
    if not size.size or int(size.max()) <= most // 2:
        return taken
    first = address // most
    counts = (address + size - 1) // most - first + 1
    which = np.repeat(np.arange(size.size, dtype=np.int64), counts)
    step = np.arange(which.size, dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.maximum((first[which] + step) * most, address[which])
    end = np.minimum((first[which] + step + 1) * most, (address + size)[which])
    return [kind[which], begin, end - begin, sm[which], time_ns[which]]
