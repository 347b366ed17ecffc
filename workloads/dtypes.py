"""Element types and the bits an element takes in memory.

Block formats count their shared scales: MXFP4 stores 32 elements of 4 bits with one 8-bit scale (OCP
Microscaling Formats 1.0, section 5), so 4.25 bits an element. Group-quantised integer checkpoints state their
group in the model's ``quantization_config``; their scales are tensors of their own.
"""

from __future__ import annotations

from typing import Final

from hw_configs.problems import bad_input, nearest

__all__ = ["BITS", "GGUF", "dtype_bits", "size_bytes"]

BITS: Final[dict[str, float]] = {
    "fp64": 64, "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint8": 8, "int4": 4, "fp4": 4,
    "mxfp8": 8.25, "mxfp4": 4.25, "nvfp4": 4.5, "nf4": 4.5, "bool": 8, "int2": 2,
    "int3": 3, "int5": 5, "int6": 6, "int7": 7, "fp6": 6, "mxfp6": 6.25,
    "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5, "q5_0": 5.5, "q5_1": 6, "q2_k": 2.625, "q3_k": 3.4375, "q4_k": 4.5,
    "q5_k": 5.5, "q6_k": 6.5625, "iq4_nl": 4.5, "iq4_xs": 4.25, "q8_k": 9.125, "iq3_s": 3.4375, "iq3_xxs": 3.0625,
    "iq2_s": 2.5625, "iq2_xs": 2.3125, "iq2_xxs": 2.0625, "iq1_m": 1.75, "iq1_s": 1.5625, "tq2_0": 2.0625,
    "tq1_0": 1.6875, "q1_0": 1.125,
}  # fmt: skip
"""Bits per element. nvfp4: 16 elements share an 8-bit scale; nf4: 64 elements share a 32-bit scale. From ``q8_0`` on
the blocks of GGUF files: 32 elements (k-quants, i-quants and ternary: 256) with their scales (llama.cpp,
``ggml-common.h``).
"""
GGUF: Final = frozenset(name for name in BITS if name.startswith(("q", "iq", "tq")))
"""Types of GGUF files: storage of weights alone, computed in the activations' type."""


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
