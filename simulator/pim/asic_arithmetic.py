"""Exponential, reciprocal and inverse square root from additions and multiplications alone, and what needs them.

After PIM-GPT (arXiv:2310.09385): the host chip has adders and multipliers only, takes exp from its Taylor series,
division from Newton-Raphson and 1/sqrt from a first guess on the number's bits. The paper does not say how
arguments are brought into the series' range; here exp(x) = 2^i exp(r) with |r| <= ln(2)/2, which costs two
multiplications, two additions and one on the exponent. ``simulator.pim.asic`` counts the same operations.

Each function takes and gives float32 arrays. ``rounding`` is applied to every intermediate result:
:func:`to_bfloat16` for the chip's own type, :func:`exactly` for float32.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, log, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "exactly",
    "exponential",
    "gelu",
    "inverse_root",
    "layer_norm",
    "reciprocal",
    "softmax",
    "to_bfloat16",
]

Array = NDArray[np.float32]
Rounding = Callable[[Any], Any]
"""Arrays or numbers of any width to float32."""

_LOWEST: Final = -87.0
"""exp of less is below the smallest normal number of bfloat16 and float32."""
_ROOT_GUESS: Final = 0x5F3759DF
"""First guess of the float32 bits of 1/sqrt(x): this less half the bits of x (Lomont, 2003)."""
_GELU: Final = 2 * sqrt(2 / np.pi)
_GELU_CUBE: Final = 0.044715


def exactly(x: Any) -> Any:
    """Float32, no further rounding."""
    return np.asarray(x, dtype=np.float32)


def to_bfloat16(x: Any) -> Any:
    """The nearest bfloat16, ties to even, as float32."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def exponential(x: Array, terms: int, rounding: Rounding = exactly) -> Any:
    """exp(x) from ``terms`` terms of its series, after taking the whole powers of two out of it."""
    x = rounding(np.clip(x, _LOWEST, 88.0))
    power = np.rint(rounding(x * rounding(np.float32(1 / log(2)))))
    rest = rounding(x - rounding(power * rounding(np.float32(log(2)))))
    total = np.full_like(rest, rounding(np.float32(1 / factorial(terms - 1))))
    for term in range(terms - 2, -1, -1):
        total = rounding(rounding(total * rest) + rounding(np.float32(1 / factorial(term))))
    return rounding(np.ldexp(total, power.astype(np.int32)).astype(np.float32))


def reciprocal(x: Array, iterations: int, rounding: Rounding = exactly) -> Any:
    """1/x for x above 0: a line through the mantissa's range, then y <- y (2 - x y)."""
    mantissa, power = np.frexp(rounding(x))
    guess = rounding(rounding(np.float32(48 / 17)) - rounding(rounding(np.float32(32 / 17)) * mantissa))
    for _ in range(iterations):
        guess = rounding(guess * rounding(np.float32(2) - rounding(mantissa * guess)))
    return rounding(np.ldexp(guess, -power).astype(np.float32))


def inverse_root(x: Array, iterations: int, rounding: Rounding = exactly) -> Any:
    """1/sqrt(x) for x above 0: a guess from the bits, then y <- y (1.5 - x/2 y y)."""
    x = rounding(x)
    guess = rounding((np.int32(_ROOT_GUESS) - (x.view(np.int32) >> 1)).view(np.float32))
    half = rounding(x * np.float32(0.5))
    for _ in range(iterations):
        square = rounding(guess * guess)
        guess = rounding(guess * rounding(np.float32(1.5) - rounding(half * square)))
    return guess


def softmax(x: Array, terms: int, iterations: int, rounding: Rounding = exactly) -> Any:
    """Softmax over the last axis, shifted by its largest element."""
    shifted = rounding(rounding(x) - np.max(rounding(x), axis=-1, keepdims=True))
    raised = exponential(shifted, terms, rounding)
    total = rounding(np.sum(raised, axis=-1, keepdims=True, dtype=np.float32))
    return rounding(raised * reciprocal(total, iterations, rounding))


def gelu(x: Array, terms: int, iterations: int, rounding: Rounding = exactly) -> Any:
    """GELU as x / (1 + exp(-2u)) with u = sqrt(2/pi) (x + 0.044715 x^3): its tanh form without a tanh."""
    x = rounding(x)
    square = rounding(x * x)
    slope = rounding(
        rounding(rounding(np.float32(_GELU * _GELU_CUBE)) * square) + rounding(np.float32(_GELU))
    )
    raised = exponential(rounding(-slope * x), terms, rounding)
    return rounding(x * reciprocal(rounding(raised + np.float32(1)), iterations, rounding))


def layer_norm(
    x: Array, gain: Array, bias: Array, iterations: int, rounding: Rounding = exactly, epsilon: float = 1e-5
) -> Any:
    """Layer norm over the last axis; sums are kept in float32, as adder trees with wide sums do."""
    share = np.float32(1 / x.shape[-1])
    x = rounding(x)
    mean = rounding(np.sum(x, axis=-1, keepdims=True, dtype=np.float32) * share)
    centred = rounding(x - mean)
    spread = np.sum(rounding(centred * centred), axis=-1, keepdims=True, dtype=np.float32)
    scale = inverse_root(rounding(rounding(spread * share) + np.float32(epsilon)), iterations, rounding)
    return rounding(rounding(rounding(centred * scale) * rounding(gain)) + rounding(bias))
