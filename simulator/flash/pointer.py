"""The bare address of an array's first item, for kernels whose functions hand arrays to each other often.

Numba counts references to an array at each call, with an atomic instruction each; an address is one register
and costs nothing. Whoever takes an address keeps the array alive and within its bounds.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

__all__ = ["pointer_to"]


@intrinsic
def pointer_to(typing_context: Any, array: Any):  # noqa: ARG001
    """In a kernel: the address of a contiguous array's first item, to be indexed like the array."""
    if not isinstance(array, types.Array) or array.layout != "C":
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = context.make_array(signature.args[0])(context, builder, arguments[0])
        return whole.data

    address: Any = types.CPointer
    return address(array.dtype)(array), build
