"""What a program trace is: accesses of programs to memory in order, handed out in bounded chunks.

An access is a load, a store or an instruction fetch of some bytes at an address, perhaps with the address of its
instruction, after a number of instructions, on a core. Addresses are kept in 62 bits: a higher one (a kernel's) loses
its upper bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["FETCH", "LOAD", "STORE", "Accesses", "ArrayProgram", "Copies", "ProgramTrace"]

Ints = npt.NDArray[np.int64]

LOAD, STORE, FETCH = 0, 1, 2
"""What an access does."""
ADDRESS_BITS: Final = 62
MAX_ACCESS: Final = 1 << 20
"""Bytes of one access at most."""
MOST_CORES: Final = 4096


class Accesses(NamedTuple):
    """A stretch of a trace: arrays of one length.

    ``kind`` as above, ``address`` and ``size`` in bytes, ``pc`` the address of the instruction (0: not known),
    ``instructions`` that ran since the access before on the same core, its own included, ``core`` from 0.
    """

    kind: Ints
    address: Ints
    size: Ints
    pc: Ints
    instructions: Ints
    core: Ints


class ProgramTrace(Protocol):
    """Accesses in order. ``count`` is None when only reading to the end would tell. A trace can be read again."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def count(self) -> int | None:
        """Number of accesses."""
        ...

    @property
    def cores(self) -> int:
        """Cores that it runs on."""
        ...

    def chunks(self, size: int) -> Iterator[Accesses]:
        """The accesses from the beginning, about ``size`` at a time."""
        ...


@dataclass(frozen=True)
class ArrayProgram:
    """A trace from arrays of equal length, as in :class:`Accesses`; what is left out is one number for all."""

    address: npt.ArrayLike
    kind: npt.ArrayLike = LOAD
    size: npt.ArrayLike = 1
    pc: npt.ArrayLike = 0
    instructions: npt.ArrayLike = 1
    core: npt.ArrayLike = 0
    name: str = "arrays"

    def __post_init__(self) -> None:
        address = np.ascontiguousarray(self.address, np.int64)
        parts = {"address": address}
        for name in ("kind", "size", "pc", "instructions", "core"):
            given = np.ascontiguousarray(getattr(self, name), np.int64)
            one = np.asarray(getattr(self, name)).ndim == 0
            parts[name] = np.full(address.shape, given.reshape(-1)[0]) if one else given
        lengths = {int(part.size) for part in parts.values()}
        if len(lengths) != 1:
            raise bad_input(f"found arrays of different lengths: {sorted(lengths)}", file=self.name)
        for name, (least, most) in _BOUNDS.items():
            part = parts[name]
            if part.size and not least <= int(part.min()) <= int(part.max()) <= most:
                raise bad_input(f"{name}: expected {least} to {most}", file=self.name)
        for name, part in parts.items():
            object.__setattr__(self, name, part)

    @property
    def count(self) -> int | None:
        """Number of accesses."""
        return int(np.asarray(self.address).size)

    @property
    def cores(self) -> int:
        """One more than the largest core's number."""
        core = np.asarray(self.core)
        return int(core.max()) + 1 if core.size else 1

    def chunks(self, size: int) -> Iterator[Accesses]:
        """Views of the arrays, at most ``size`` accesses each."""
        parts = [np.asarray(getattr(self, name)) for name in Accesses._fields]
        for start in range(0, parts[0].size, size):
            yield Accesses(*(part[start : start + size] for part in parts))


_BOUNDS: Final = {
    "address": (0, 2**ADDRESS_BITS - 1),
    "kind": (LOAD, FETCH),
    "size": (1, MAX_ACCESS),
    "pc": (0, 2**63 - 1),
    "instructions": (0, 2**40),
    "core": (0, MOST_CORES - 1),
}


@dataclass(frozen=True)
class Copies:
    """The same program on several cores at once, an access of each in turn.

    Each copy has an address space of its own (2^44 bytes apart, its instructions shared) unless ``shared``.
    """

    program: ProgramTrace
    copies: int
    shared: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= MOST_CORES or self.program.cores != 1:
            raise bad_input(f"expected 1 to {MOST_CORES} copies of a program of one core", path="--copies")

    @property
    def name(self) -> str:
        """The program's name and how often it runs."""
        return f"{self.copies} x {self.program.name}"

    @property
    def count(self) -> int | None:
        """Number of accesses of all copies."""
        return None if self.program.count is None else self.program.count * self.copies

    @property
    def cores(self) -> int:
        """One for each copy."""
        return self.copies

    def chunks(self, size: int) -> Iterator[Accesses]:
        """The copies' accesses, one of each in turn."""
        for chunk in self.program.chunks(max(size // self.copies, 1)):
            core = np.tile(np.arange(self.copies, dtype=np.int64), chunk.kind.size)
            parts: Sequence[Ints] = [np.repeat(part, self.copies) for part in chunk[:-1]]
            kind, address, length, pc, instructions = parts
            if not self.shared:
                apart = (address + (core << 44)) & (2**ADDRESS_BITS - 1)
                address = np.where(kind == FETCH, address, apart)
            yield Accesses(kind, address, length, pc, instructions, core)
