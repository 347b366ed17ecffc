"""Element types and the bits an element takes in memory.

Block formats count their shared scales: MXFP4 stores 32 elements of 4 bits with one 8-bit scale (OCP
Microscaling Formats 1.0, section 5), so 4.25 bits an element. Group-quantised integer checkpoints state their
group in the model's ``quantization_config``; their scales are tensors of their own.
"""

from __future__ import annotations

from typing import Final

from hw_configs.problems import bad_input, nearest

__all__ = ["BITS", "dtype_bits", "size_bytes"]

BITS: Final[dict[str, float]] = {
    "fp64": 64, "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint8": 8, "int4": 4, "fp4": 4,
    "mxfp8": 8.25, "mxfp4": 4.25, "nvfp4": 4.5, "nf4": 4.5, "bool": 8, "int2": 2,
}  # fmt: skip
"""Bits per element. nvfp4: 16 elements share an 8-bit scale; nf4: 64 elements share a 32-bit scale."""


def dtype_bits(dtype: str) -> float:
    """Bits per element; an unknown name raises an InputError with the nearest known one."""
    if dtype not in BITS:
        raise bad_input(
            f"unknown element type {dtype!r}; known: {', '.join(BITS)}", suggestion=nearest(dtype, BITS)
        )
    return BITS[dtype]


def size_bytes(elements: int, dtype: str) -> int:
    """Bytes of that many elements, rounded up to whole bytes.

    >>> size_bytes(3, "int4")
    2
    """
    return -int(-elements * dtype_bits(dtype) // 8)
