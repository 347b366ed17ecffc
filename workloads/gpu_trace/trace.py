"""What a GPU trace is: accesses of warps in order, handed out in bounded chunks.

An access is what a warp asks of one run of bytes: its lanes' addresses, coalesced. It names the multiprocessor that
makes it, and perhaps the time before which it is not made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = [
    "ATOMIC",
    "LOAD",
    "MAX_ACCESS",
    "MOST_ADDRESS",
    "MOST_SMS",
    "STORE",
    "ArrayGpuTrace",
    "GpuAccesses",
    "GpuTrace",
]

Ints = npt.NDArray[np.int64]

LOAD, STORE, ATOMIC = 0, 1, 2
"""What an access does; an atomic one reads and writes at the L2."""
MOST_ADDRESS: Final = 2**56
MAX_ACCESS: Final = 1 << 20
"""Bytes of one access at most."""
MOST_SMS: Final = 4096


class GpuAccesses(NamedTuple):
    """A stretch of a trace: arrays of one length.

    ``kind`` as above, ``address`` and ``size`` in bytes, ``sm`` the multiprocessor from 0, ``time_ns`` before which
    the access is not made (rising; 0: no such time).
    """

    kind: Ints
    address: Ints
    size: Ints
    sm: Ints
    time_ns: Ints


class GpuTrace(Protocol):
    """Accesses in order. ``count`` is None when only reading to the end would tell. A trace can be read again."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def count(self) -> int | None:
        """Number of accesses."""
        ...

    def chunks(self, size: int) -> Iterator[GpuAccesses]:
        """The accesses from the beginning, about ``size`` at a time."""
        ...


_BOUNDS: Final = {
    "kind": (LOAD, ATOMIC), "address": (0, MOST_ADDRESS - 1), "size": (1, MAX_ACCESS), "sm": (0, MOST_SMS - 1),
    "time_ns": (0, 2**62),
}  # fmt: skip


@dataclass(frozen=True)
class ArrayGpuTrace:
    """A trace from arrays of equal length, as in :class:`GpuAccesses`; a number stands for all accesses."""

    address: npt.ArrayLike
    kind: npt.ArrayLike = LOAD
    size: npt.ArrayLike = 32
    sm: npt.ArrayLike = 0
    time_ns: npt.ArrayLike = 0
    name: str = "arrays"

    def __post_init__(self) -> None:
        address = np.ascontiguousarray(self.address, np.int64)
        for part, (least, most) in _BOUNDS.items():
            given = np.asarray(getattr(self, part), np.int64)
            whole = np.ascontiguousarray(np.full(address.shape, given) if given.ndim == 0 else given)
            if whole.shape != address.shape:
                raise bad_input(
                    f"{part}: found {whole.size} values for {address.size} addresses", file=self.name
                )
            if whole.size and not least <= int(whole.min()) <= int(whole.max()) <= most:
                raise bad_input(f"{part}: expected {least} to {most}", file=self.name)
            object.__setattr__(self, part, whole)
        if np.any(np.diff(np.asarray(self.time_ns)) < 0):
            raise bad_input("time_ns: times fall", file=self.name)

    @property
    def count(self) -> int | None:
        """Number of accesses."""
        return int(np.asarray(self.address).size)

    def chunks(self, size: int) -> Iterator[GpuAccesses]:
        """Views of the arrays, at most ``size`` accesses each."""
        parts = [np.asarray(getattr(self, name)) for name in GpuAccesses._fields]
        for start in range(0, parts[0].size, size):
            yield GpuAccesses(*(part[start : start + size] for part in parts))
