"""A FlatBuffer's file, and its tables: fields found by the table's vtable of offsets.

Source of the layout: "FlatBuffer internals" (flatbuffers.dev). What does not fit raises ``struct.error``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hw_configs.problems import bad_input

__all__ = ["FlatTable", "carries", "read_whole"]

LARGEST_FILE_BYTES: Final = 2**31


def carries(path: Path, identifier: bytes) -> bool:
    """Whether a file carries the identifier of a format, four bytes behind the first offset."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == identifier
    except OSError:
        return False


def read_whole(path: Path) -> bytes:
    """A file's bytes. Raises ``InputError`` for one that cannot be read or is larger than 2 GiB."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise bad_input(f"is larger than {LARGEST_FILE_BYTES} bytes", file=str(path))
        return path.read_bytes()
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror or error}", file=str(path)) from None


@dataclass(frozen=True, slots=True)
class FlatTable:
    """A table of a FlatBuffer: its data, and where it begins."""

    data: bytes
    at: int

    def field(self, number: int) -> int | None:
        """Where a field stands; None where it is left out and has its default."""
        (back,) = struct.unpack_from("<i", self.data, self.at)
        vtable = self.at - back
        if not 0 <= vtable <= len(self.data) - 4:
            raise struct.error("a table without its vtable")
        (size,) = struct.unpack_from("<H", self.data, vtable)
        if 4 + 2 * number >= size:
            return None
        (offset,) = struct.unpack_from("<H", self.data, vtable + 4 + 2 * number)
        return self.at + offset if offset else None

    def number(self, field: int, form: str, default: int = 0) -> int:
        """A scalar field."""
        at = self.field(field)
        return default if at is None else int(struct.unpack_from(f"<{form}", self.data, at)[0])

    def vector(self, field: int, width: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are; none where it is left out."""
        at = self.field(field)
        if at is None:
            return 0, 0
        at += struct.unpack_from("<I", self.data, at)[0]
        (count,) = struct.unpack_from("<I", self.data, at)
        if at + 4 + count * width > len(self.data):
            raise struct.error(f"a vector of {count} elements beyond the end")
        return at + 4, count

    def integers(self, field: int) -> tuple[int, ...]:
        """A vector of 32-bit integers."""
        at, count = self.vector(field, 4)
        return struct.unpack_from(f"<{count}i", self.data, at)

    def tables(self, field: int) -> list[FlatTable]:
        """A vector of tables."""
        at, count = self.vector(field, 4)
        places = struct.unpack_from(f"<{count}I", self.data, at)
        return [FlatTable(self.data, at + 4 * i + place) for i, place in enumerate(places)]

    def text(self, field: int) -> str:
        """A string, as far as it is one."""
        at, count = self.vector(field, 1)
        return self.data[at : at + count].decode("utf-8", "replace")

    def field_count(self) -> int:
        """How many fields the table's vtable has room for."""
        (back,) = struct.unpack_from("<i", self.data, self.at)
        (size,) = struct.unpack_from("<H", self.data, self.at - back)
        return int(size - 4) // 2

    def table(self, field: int) -> FlatTable | None:
        """A table that a field points to; None where it is left out."""
        at = self.field(field)
        if at is None:
            return None
        return FlatTable(self.data, at + struct.unpack_from("<I", self.data, at)[0])
