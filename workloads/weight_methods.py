"""The gradient and the optimizer's state of one weight under each method of training it.

A product's gradient of a weight of ``n`` x ``k`` over ``m`` tokens reads the incoming gradient and the product's input.
``columns`` reads ``rank`` columns of that input, copied in the forward pass; ``sampled`` a share of its rows;
``scales``, ``low-rank`` and ``sparse`` need the whole gradient for a moment and keep what they make of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Final

from workloads.dtypes import dtype_bits, size_bytes
from workloads.graph import Role, Tensor
from workloads.step_types import StepTypes
from workloads.trained_parts import WeightMethod

__all__ = ["BLOCK", "Shrunk", "narrow_bytes", "shrunk", "state_kinds", "state_tensor", "trained_elements"]

BLOCK: Final = 256
"""Elements of an 8-bit state that share a scale (bitsandbytes since 0.43; 2048 in the paper)."""
SCALE_BYTES: Final = 4
MIN_NARROW: Final = 4096
"""Smaller tensors keep FP32 states (``min_8bit_size``)."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What of a matrix's gradient is kept for the optimizer: its shape, what else the optimizer holds beside the
    moments (elements of the weight's own type), and the FLOPs that make it of the whole gradient.
    """

    shape: tuple[int, ...]
    held: int = 0
    flops: float = 0.0


def shrunk(method: WeightMethod, shape: tuple[int, ...]) -> Shrunk | None:
    """What ``scales``, ``low-rank`` and ``sparse`` make of a gradient; None where they leave it whole."""
    if len(shape) != 2:
        return None
    n, k = shape
    if method.method == "scales":
        return Shrunk((n, ceil(k / method.group)), 0, 2.0 * n * k)
    if method.method == "low-rank":
        small, wide = min(shape), max(shape)
        if small <= method.rank:
            return None
        rank = method.rank
        return Shrunk((rank, wide), small * rank + method.history * rank * wide, 2.0 * small * wide * rank)
    if method.method == "sparse":
        rank = method.rank
        # A change of the weight and importance scores, each of low rank, with scores per row and column (section 3).
        return Shrunk((2 * rank * (n + k) + n + k,), 0, 8.0 * n * k * rank)
    return None


def trained_elements(method: WeightMethod, shape: tuple[int, ...]) -> int:
    """Elements that the optimizer updates."""
    if method.method == "columns" and len(shape) == 2:
        return shape[0] * min(method.rank, shape[1])
    found = shrunk(method, shape)
    if found is not None and method.method != "low-rank":
        return prod(found.shape)
    return prod(shape)


def state_kinds(weight: Tensor, types: StepTypes) -> list[str]:
    """States that AdamW keeps for a weight."""
    kinds = ["m", "v"]
    held = types.weights or weight.dtype
    if types.master != "none" and dtype_bits(held) < dtype_bits(types.master):
        kinds = ["master", *kinds]
    return [*kinds, "sum"] if types.accumulation else kinds


def state_tensor(name: str, kind: str, shape: tuple[int, ...], types: StepTypes, own: str) -> Tensor:
    """One state; ``own`` is the weight's type. Moments of 8 bits carry their blocks' scales; small ones stay FP32."""
    dtype = {"master": types.master, "sum": types.accumulation}.get(kind, types.moments or own)
    if dtype_bits(dtype) <= 8:
        if prod(shape) < MIN_NARROW:
            dtype = "fp32"
        else:
            return Tensor(name, shape, dtype, Role.OPTIMIZER_STATE, narrow_bytes(prod(shape), dtype))
    return Tensor(name, shape, dtype, Role.OPTIMIZER_STATE)


def narrow_bytes(elements: int, dtype: str, block: int = BLOCK) -> int:
    """Bytes of elements in few bits with a scale per block."""
    return size_bytes(elements, dtype) + -(-elements // block) * SCALE_BYTES
