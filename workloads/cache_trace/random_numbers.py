"""SplitMix64 over arrays: the n-th number of a seed without those before it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["random_numbers", "random_units"]

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def random_numbers(seed: int, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The numbers of a seed at places counted from 0: 64 bits each."""
    z = np.uint64(seed) + (index.astype(np.uint64) + np.uint64(1)) * _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def random_units(seed: int, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The same as shares from 0 to 1: divided by 2^64."""
    return random_numbers(seed, index).astype(np.float64) * 2.0**-64
