"""Records of bare addresses: what a kernel hands from step to step instead of whole arrays.

Numba passes an array as seven values, and a step that takes thirty arrays costs compile time accordingly; an address
is one value. Whoever takes addresses keeps the arrays alive and stays within their bounds.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["addresses_of"]


def _is_record(kind: Any) -> bool:
    return isinstance(kind, types.BaseNamedTuple)


def _bare(kind: Any) -> Any:
    """The type of a record (and the records in it) with addresses for its arrays of numbers."""
    if _is_record(kind):
        return types.BaseTuple.from_types([_bare(part) for part in kind], kind.instance_class)
    plain = isinstance(kind, types.Array) and kind.layout == "C" and not isinstance(kind.dtype, types.Record)
    pointer: Any = types.CPointer
    return pointer(kind.dtype) if plain else kind


def _strip(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if _is_record(kind):
        parts = [
            _strip(context, builder, part, inner)
            for part, inner in zip(kind, cgutils.unpack_tuple(builder, value, len(kind)), strict=True)
        ]
        return context.make_tuple(builder, _bare(kind), parts)
    if isinstance(_bare(kind), types.CPointer):
        return context.make_array(kind)(context, builder, value).data
    return value


@intrinsic
def addresses_of(typing_context: Any, record: Any):  # noqa: ARG001
    """In a kernel: the same record, with the address of the first item in place of each array of numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _strip(context, builder, signature.args[0], arguments[0])

    return _bare(record)(record), generate
