"""The files of MLCommons Chakra: length-delimited protobuf, read and written without its library.

A trace is a GlobalMetadata message, then Node messages (schema: ``et_def.proto`` of mlcommons/chakra), the nodes of
one rank.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hw_configs.problems import bad_input
from workloads.protobuf_wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Buffer,
    Field,
    WireError,
    encoded_bytes,
    encoded_varint,
    encoded_varint_field,
    fields,
    varint,
)

__all__ = ["NODE_TYPES", "TraceNode", "begins_trace", "read_trace", "trace_bytes"]

MAX_NODES: Final = 5_000_000

NODE_TYPES: Final = (
    "invalid", "metadata", "memory_load", "memory_store", "compute", "send", "receive", "collective",
    "storage", "batch", "checkpoint",
)  # fmt: skip

AttributeValue = int | float | bool | str


@dataclass(frozen=True, slots=True)
class TraceNode:
    """One node of a trace. ``type``: compute, memory_load, memory_store, send, receive, collective, ..."""

    id: int
    name: str
    type: str
    control_dependencies: tuple[int, ...] = ()
    data_dependencies: tuple[int, ...] = ()
    runtime_us: int = 0
    start_us: int = 0
    """When it began; 0 where the trace does not say."""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


def read_trace(path: Path) -> tuple[str, list[TraceNode]]:
    """The schema version and the nodes of a trace; raises ``InputError`` for a file that is not whole."""
    if path.stat().st_size == 0:
        raise bad_input("the file is empty", file=str(path))
    nodes: list[TraceNode] = []
    version = ""
    position = 0
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for index, (start, end) in enumerate(_messages(content)):
                position = start
                if index == 0 and _is_metadata(content, start, end):
                    version = _version(content, start, end)
                    continue
                nodes.append(_node(content, start, end))
                if len(nodes) > MAX_NODES:
                    raise bad_input(f"more than {MAX_NODES} nodes", file=str(path))
    except WireError as error:
        if error.missing and nodes:
            text = f"the trace is cut short after {len(nodes)} nodes: {error}"
        else:
            text = f"not a Chakra trace, or a damaged one, at byte {position}: {error}"
        raise bad_input(text, file=str(path)) from None
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror}", file=str(path)) from None
    return version, nodes


def trace_bytes(nodes: Sequence[TraceNode], version: str = "0.0.4") -> bytes:
    """A trace file of the nodes, in the form that :func:`read_trace` reads."""
    parts = [_delimited(encoded_bytes(1, version.encode()))]
    parts += [_delimited(_encoded_node(node)) for node in nodes]
    return b"".join(parts)


# --- reading ---------------------------------------------------------------------------------------------


def _messages(content: Buffer) -> Iterator[tuple[int, int]]:
    position, size = 0, len(content)
    while position < size:
        length, start = varint(content, position, size)
        if start + length > size:
            raise WireError("a message is cut short", missing=start + length - size)
        position = start + length
        yield start, position


def _is_metadata(content: Buffer, start: int, end: int) -> bool:
    """GlobalMetadata begins with a text (its version); a node begins with a number (its id)."""
    return all(item.wire_type == BYTES and item.number in (1, 2) for item in fields(content, start, end))


def _version(content: Buffer, start: int, end: int) -> str:
    return next((_text(content, item) for item in fields(content, start, end) if item.number == 1), "")


def _node(content: Buffer, start: int, end: int) -> TraceNode:
    number = kind = runtime = began = 0
    name = ""
    dependencies: dict[int, list[int]] = {4: [], 5: []}
    attributes: dict[str, AttributeValue] = {}
    for item in fields(content, start, end):
        if item.number == 1 and item.wire_type == VARINT:
            number = item.value
        elif item.number == 2 and item.wire_type == BYTES:
            name = _text(content, item)
        elif item.number == 3 and item.wire_type == VARINT:
            kind = item.value
        elif item.number in dependencies:
            dependencies[item.number] += _numbers(content, item)
        elif item.number == 6 and item.wire_type == VARINT:
            began = item.value
        elif item.number == 7 and item.wire_type == VARINT:
            runtime = item.value
        elif item.number == 10 and item.wire_type == BYTES:
            key, value = _attribute(content, item)
            if value is not None:
                attributes[key] = value
    kind_name = NODE_TYPES[kind] if kind < len(NODE_TYPES) else f"type {kind}"
    return TraceNode(
        number, name, kind_name, tuple(dependencies[4]), tuple(dependencies[5]), runtime, began, attributes
    )


def _numbers(content: Buffer, item: Field) -> list[int]:
    """A repeated number: packed in one field, or one field each."""
    if item.wire_type == VARINT:
        return [item.value]
    values, position = [], item.start
    while position < item.end:
        value, position = varint(content, position, item.end)
        values.append(value)
    return values


def _text(content: Buffer, item: Field) -> str:
    return bytes(content[item.start : item.end]).decode("utf-8", "replace")


_SIGNED: Final = frozenset({7, 9})
_ZIGZAG: Final = frozenset({15, 17})


def _attribute(content: Buffer, outer: Field) -> tuple[str, AttributeValue | None]:
    """The name and value of an attribute; lists and bytes are left aside."""
    name = ""
    value: AttributeValue | None = None
    for item in fields(content, outer.start, outer.end):
        if item.wire_type == BYTES:
            if item.number == 1:
                name = _text(content, item)
            elif item.number == 29:
                value = _text(content, item)
        elif item.wire_type == FIXED64 and item.number == 3:
            value = struct.unpack("<d", item.value.to_bytes(8, "little"))[0]
        elif item.wire_type == FIXED32 and item.number == 5:
            value = struct.unpack("<f", item.value.to_bytes(4, "little"))[0]
        elif item.wire_type in (FIXED64, FIXED32):
            bits = 64 if item.wire_type == FIXED64 else 32
            value = (
                item.value - (1 << bits)
                if item.number in (23, 25) and item.value >> (bits - 1)
                else item.value
            )
        elif item.number == 27:
            value = bool(item.value)
        elif item.number in _SIGNED:
            value = item.value - (1 << 64) if item.value >> 63 else item.value
        elif item.number in _ZIGZAG:
            value = (item.value >> 1) ^ -(item.value & 1)
        elif item.number in (11, 13):
            value = item.value
    return name, value


# --- writing ---------------------------------------------------------------------------------------------


def _delimited(message: bytes) -> bytes:
    return encoded_varint(len(message)) + message


def _encoded_node(node: TraceNode) -> bytes:
    parts = [encoded_varint_field(1, node.id), encoded_bytes(2, node.name.encode())]
    parts.append(encoded_varint_field(3, NODE_TYPES.index(node.type)))
    for number, numbers in ((4, node.control_dependencies), (5, node.data_dependencies)):
        if numbers:
            parts.append(encoded_bytes(number, b"".join(encoded_varint(value) for value in numbers)))
    if node.start_us:
        parts.append(encoded_varint_field(6, node.start_us))
    if node.runtime_us:
        parts.append(encoded_varint_field(7, node.runtime_us))
    parts += [encoded_bytes(10, _encoded_attribute(*item)) for item in node.attributes.items()]
    return b"".join(parts)


def _encoded_attribute(name: str, value: AttributeValue) -> bytes:
    head = encoded_bytes(1, name.encode())
    if isinstance(value, bool):
        return head + encoded_varint_field(27, int(value))
    if isinstance(value, int):
        return head + encoded_varint_field(9, value)
    if isinstance(value, float):
        return head + encoded_varint(3 << 3 | FIXED64) + struct.pack("<d", value)
    return head + encoded_bytes(29, value.encode())


def begins_trace(head: Buffer) -> bool:
    """Whether the first bytes of a file are those of a trace: a message that is its metadata."""
    try:
        start, end = next(_messages(head))
        return 0 < end - start < 4096 and _is_metadata(head, start, end) and bool(_version(head, start, end))
    except (WireError, StopIteration):
        return False
