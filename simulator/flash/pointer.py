"""Records in the memory of a drive, as kernels see them: an address and field names, and nothing to count.

The memory of a drive is one array of words. Its first record is the drive's own; every other is known by its place,
the number of words from the beginning, and 0 stands for none. Numba counts references to an array at each call, with
an atomic instruction each; a record is one register and costs nothing. Whoever looks at records keeps the array
alive, and asks for no place outside it.
"""

# Numba asks for functions of these arguments, whether they need them or not.
# ruff: noqa: ARG001
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

from simulator.flash import records

__all__ = [
    "block_at", "channel_at", "drive_in", "histogram_at", "line_at", "link_at", "log_row_at", "message_at", "place_of",
    "plane_at", "pointer_to", "queue_at", "request_at", "slot_at", "txn_at", "unit_at", "word_at",
    "work_at",
]  # fmt: skip


@intrinsic
def pointer_to(typing_context: Any, array: Any):
    """In a kernel: the address of a contiguous array's first item, to be indexed like the array."""
    if not isinstance(array, types.Array) or array.layout != "C":
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = context.make_array(signature.args[0])(context, builder, arguments[0])
        return whole.data

    address: Any = types.CPointer
    return address(array.dtype)(array), build


def _record_in(dtype: np.dtype[Any]) -> Any:
    """For kernels: a function that gives the record at the beginning of an array of words."""
    kind: Any = from_dtype(dtype)

    @intrinsic
    def record(typing_context: Any, array: Any):
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            whole = context.make_array(signature.args[0])(context, builder, arguments[0])
            return builder.bitcast(whole.data, context.get_value_type(kind))

        return kind(array), build

    return record


def _record_at(dtype: np.dtype[Any]) -> Any:
    """For kernels: a function that gives the record at a place of the memory that begins with the first argument."""
    kind: Any = from_dtype(dtype)

    @intrinsic
    def record(typing_context: Any, first: Any, place: Any):
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            words = context.get_value_type(types.int64).as_pointer()
            address = builder.gep(builder.bitcast(arguments[0], words), [arguments[1]])
            return builder.bitcast(address, context.get_value_type(kind))

        return kind(first, types.int64), build

    return record


@intrinsic
def place_of(typing_context: Any, first: Any, record: Any):
    """In a kernel: the place of a record in the memory that begins with ``first``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = context.get_value_type(types.int64)
        begin, end = (builder.ptrtoint(address, word) for address in arguments)
        return builder.ashr(builder.sub(end, begin), context.get_constant(types.int64, 3))

    return types.int64(first, record), build


drive_in = _record_in(records.DRIVE)
word_at, line_at, link_at = _record_at(records.WORD), _record_at(records.LINE), _record_at(records.LINK)
channel_at, unit_at = _record_at(records.CHANNEL), _record_at(records.UNIT)
plane_at, block_at = _record_at(records.PLANE), _record_at(records.BLOCK)
txn_at, request_at = _record_at(records.TXN), _record_at(records.REQUEST)
queue_at, slot_at = _record_at(records.QUEUE), _record_at(records.SLOT)
message_at, histogram_at = _record_at(records.MESSAGE), _record_at(records.HISTOGRAM)
log_row_at, work_at = _record_at(records.LOG_ROW), _record_at(records.WORK)
