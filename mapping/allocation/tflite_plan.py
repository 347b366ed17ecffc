"""The plan that a ``.tflite`` model carries: ``OfflineMemoryAllocation`` metadata, read and written.

TensorFlow Lite Micro takes the offsets of tensors from a buffer of 32-bit integers: version (1), number of the
subgraph, number of offsets, then one offset for each tensor of the subgraph; -1 where the runtime is to plan. Source:
"Offline planned tensor allocations" in tflite-micro/docs/memory_management.md and micro_allocation_info.cc
(github.com/tensorflow/tflite-micro).

A model is rewritten by putting a new root table, its two longer vectors and the metadata in front: offsets in
FlatBuffers are relative, and everything else keeps its bytes and its distance.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from hw_configs.problems import bad_input
from mapping.allocation.flat_table import FlatTable
from mapping.allocation.problem import AllocationProblem

__all__ = ["METADATA_NAME", "offline_integers", "own_offsets", "with_offline_plan"]

METADATA_NAME: Final = "OfflineMemoryAllocation"
_BUFFERS, _METADATA, _MODEL_FIELDS = 4, 6, 8
_STEP: Final = 64
"""The old bytes move by a multiple of this, so that every alignment in them stays."""


def own_offsets(model: FlatTable, tensors: int, file: str | None) -> list[int] | None:
    """Offsets of the first subgraph's tensors that the model carries, -1 where open; None without metadata."""
    entries = [entry for entry in model.tables(_METADATA) if entry.text(0) == METADATA_NAME]
    if not entries:
        return None
    if len(entries) > 1:
        raise bad_input(
            f"has {len(entries)} entries {METADATA_NAME}; expected one", file=file, path="metadata"
        )
    buffers = model.tables(_BUFFERS)
    number = entries[0].number(1, "I")
    if number >= len(buffers):
        raise bad_input(f"found buffer {number}; the file has {len(buffers)}", file=file, path="metadata")
    at, count = buffers[number].vector(0, 1)
    values = struct.unpack_from(f"<{count // 4}i", model.data, at)
    if count % 4 or len(values) < 3 or values[0] != 1 or values[2] != len(values) - 3 or values[1] != 0:
        told = f"found {list(values[:3])} before {max(len(values) - 3, 0)} offsets"
        raise bad_input(
            f"{told}; expected version 1, subgraph 0 and their number", file=file, path=METADATA_NAME
        )
    if values[2] != tensors or min(values[3:], default=0) < -1:
        told = f"found {values[2]} offsets from {min(values[3:], default=0)}; expected {tensors}, each -1 or more"
        raise bad_input(told, file=file, path=METADATA_NAME)
    return list(values[3:])


def offline_integers(
    data: bytes, problem: AllocationProblem, offsets: Sequence[int], file: str | None = None
) -> list[int]:
    """The metadata's integers of a plan of a model's tensors. Raises ``InputError`` where an offset is too large."""
    model = FlatTable(data, struct.unpack_from("<I", data, 0)[0])
    count = len(model.tables(2)[0].tables(0))
    places = [-1] * count
    for name, offset in zip(problem.ids, offsets, strict=True):
        if not 0 <= offset < 2**31:
            raise bad_input(f"tensor {name!r} lies at {offset}; the format holds 31 bits", file=file)
        places[int(str(name).partition(":")[0])] = int(offset)
    return [1, 0, count, *places]


def with_offline_plan(
    data: bytes, problem: AllocationProblem, offsets: Sequence[int], file: str | None = None
) -> bytes:
    """The model with a plan as its metadata, in place of one that was there."""
    numbers = offline_integers(data, problem, offsets, file)
    model = FlatTable(data, struct.unpack_from("<I", data, 0)[0])
    buffers, operators = model.tables(_BUFFERS), model.tables(2)[0].tables(3)
    if any(buffer.number(1, "Q") > 1 for buffer in buffers) or any(op.number(9, "Q") > 1 for op in operators):
        raise bad_input(
            "holds data behind the tables, which a longer file would move; it is not rewritten", file=file
        )
    kept = [entry for entry in model.tables(_METADATA) if entry.text(0) != METADATA_NAME]
    return _Front(model, buffers, kept, numbers).bytes()


class _Front:
    """What stands in front of the old bytes: places are absolute, 4-byte fields unless said otherwise."""

    def __init__(
        self,
        model: FlatTable,
        buffers: Sequence[FlatTable],
        kept: Sequence[FlatTable],
        numbers: Sequence[int],
    ) -> None:
        fields = max(_MODEL_FIELDS, model.field_count())
        self._model, self._buffers, self._kept, self._numbers = model, buffers, kept, numbers
        self._fields = fields
        vtable = 4 + 2 * fields
        self._vtable = 8
        self._root = _up(self._vtable + vtable, 4)
        self._buffer_vector = self._root + 4 + 4 * fields
        self._metadata_vector = self._buffer_vector + 4 + 4 * (len(buffers) + 1)
        self._buffer_vtable = self._metadata_vector + 4 + 4 * (len(kept) + 1)
        self._buffer = _up(self._buffer_vtable + 6, 4)
        self._entry_vtable = self._buffer + 8
        self._entry = _up(self._entry_vtable + 8, 4)
        self._name = self._entry + 12
        # The data of a buffer start at a multiple of 16 (force_align in the schema).
        self._data = _up(self._name + 4 + len(METADATA_NAME) + 1 + 4, 16) - 4
        self._shift = _up(self._data + 4 + 4 * len(numbers), _STEP)

    def bytes(self) -> bytes:
        out = bytearray(self._shift)

        def put(at: int, form: str, *values: int) -> None:
            struct.pack_into(f"<{form}", out, at, *values)

        def point(at: int, target: int) -> None:
            put(at, "I", target - at)

        put(0, "I", self._root)
        out[4:8] = b"TFL3"
        put(self._vtable, "HH", 4 + 2 * self._fields, 4 + 4 * self._fields)
        put(self._root, "i", self._root - self._vtable)
        for number in range(self._fields):
            slot = self._root + 4 + 4 * number
            old = self._model.field(number)
            if number == _BUFFERS:
                point(slot, self._buffer_vector)
            elif number == _METADATA:
                point(slot, self._metadata_vector)
            elif old is None:
                continue
            elif number == 0:
                put(slot, "I", self._model.number(0, "I"))
            else:
                point(slot, old + struct.unpack_from("<I", self._model.data, old)[0] + self._shift)
            put(self._vtable + 4 + 2 * number, "H", 4 + 4 * number)
        for base, listed, added in (
            (self._buffer_vector, self._buffers, self._buffer),
            (self._metadata_vector, self._kept, self._entry),
        ):
            put(base, "I", len(listed) + 1)
            for i, table in enumerate(listed):
                point(base + 4 + 4 * i, table.at + self._shift)
            point(base + 4 + 4 * len(listed), added)
        put(self._buffer_vtable, "HHH", 6, 8, 4)
        put(self._buffer, "i", self._buffer - self._buffer_vtable)
        point(self._buffer + 4, self._data)
        put(self._entry_vtable, "HHHH", 8, 12, 4, 8)
        put(self._entry, "i", self._entry - self._entry_vtable)
        point(self._entry + 4, self._name)
        put(self._entry + 8, "I", len(self._buffers))
        put(self._name, "I", len(METADATA_NAME))
        out[self._name + 4 : self._name + 4 + len(METADATA_NAME)] = METADATA_NAME.encode()
        put(self._data, "I", 4 * len(self._numbers))
        put(self._data + 4, f"{len(self._numbers)}i", *self._numbers)
        return bytes(out) + self._model.data


def _up(at: int, step: int) -> int:
    return -(-at // step) * step
