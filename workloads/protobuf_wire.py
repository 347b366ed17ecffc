"""Protocol Buffers as bytes: reading fields without a schema, writing them, and leaving large ones out.

Chakra traces and ONNX files are protobuf. Both may be many gigabytes, and neither may be trusted: every
length is checked against what is there, so a file that was cut short is told from one that is something else.
Source: the encoding page of the Protocol Buffers documentation (varints, wire types, nested messages).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = [
    "BYTES",
    "FIXED32",
    "FIXED64",
    "VARINT",
    "Field",
    "Skeleton",
    "WireError",
    "encoded_bytes",
    "encoded_varint",
    "encoded_varint_field",
    "fields",
    "skeleton",
    "varint",
]

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

Buffer = bytes | memoryview | mmap.mmap


class WireError(ValueError):
    """The bytes are no protobuf. ``missing``: bytes by which the buffer ends too early, or 0."""

    def __init__(self, message: str, missing: int = 0) -> None:
        super().__init__(message)
        self.missing = missing


class Field(NamedTuple):
    """One field: its number and wire type, where it begins, and where its content begins and ends.

    ``value`` is the number of a varint or fixed field; a nested message or text stands in [start, end).
    """

    number: int
    wire_type: int
    value: int
    begin: int
    start: int
    end: int


def varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """An unsigned varint of at most 64 bits and the position behind it."""
    value = shift = 0
    while position < end:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position
        shift += 7
        if shift > 63:
            raise WireError(f"a number at byte {position - 10} is longer than 64 bits")
    raise WireError(f"the data ends within a number at byte {end}", missing=1)


def fields(buffer: Buffer, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of one message in order; raises ``WireError`` where the bytes cannot be a message."""
    stop = len(buffer) if end is None else end
    position = start
    while position < stop:
        begin = position
        key, position = varint(buffer, position, stop)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise WireError(f"byte {begin} begins no field")
        value, content = 0, position
        if wire_type == VARINT:
            value, position = varint(buffer, position, stop)
        elif wire_type == BYTES:
            length, content = varint(buffer, position, stop)
            position = content + length
        elif wire_type in (FIXED64, FIXED32):
            position += 8 if wire_type == FIXED64 else 4
            value = int.from_bytes(buffer[content : min(position, stop)], "little")
        else:
            raise WireError(f"byte {begin} begins no field")
        if position > stop:
            raise WireError(f"field {number} at byte {begin} is cut short", missing=position - stop)
        yield Field(number, wire_type, value, begin, content, position)


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Which fields of a message to leave out when the message is large, and which to look into."""

    drop: frozenset[int] = frozenset()
    inside: Mapping[int, Skeleton] = field(default_factory=dict)


def skeleton(buffer: Buffer, shape: Skeleton, limit: int, start: int = 0, end: int | None = None) -> bytes:
    """The message without the fields to drop, in it and in every nested message over ``limit`` bytes."""
    parts: list[bytes] = []
    for item in fields(buffer, start, end):
        if item.number in shape.drop:
            continue
        nested = shape.inside.get(item.number)
        if nested is not None and item.wire_type == BYTES and item.end - item.start > limit:
            inner = skeleton(buffer, nested, limit, item.start, item.end)
            parts.append(encoded_bytes(item.number, inner))
        else:
            parts.append(bytes(buffer[item.begin : item.end]))
    return b"".join(parts)


def encoded_varint(value: int) -> bytes:
    """A varint; a negative number takes its two's complement of 64 bits."""
    value &= 2**64 - 1
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def encoded_varint_field(number: int, value: int) -> bytes:
    """A field that holds a varint."""
    return encoded_varint(number << 3 | VARINT) + encoded_varint(value)


def encoded_bytes(number: int, content: bytes) -> bytes:
    """A field that holds bytes, text or a nested message."""
    return encoded_varint(number << 3 | BYTES) + encoded_varint(len(content)) + content
