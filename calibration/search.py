"""The search for constants: Nelder-Mead within limits, on a loss that no single row decides.

The loss is the mean absolute logarithm of predicted over measured time, where no row counts for more than a factor of
e. The search starts from fixed points with fixed simplices: the same rows give the same constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]

WORST: Final = 1.0
"""Most that one row adds to the loss, as a logarithm."""

# Starting points and limits: name -> (start, least, most). Where least equals most the value is an assumption.
Limits = dict[str, tuple[float, float, float]]


def loss_of(predicted: Array, measured: Array, weights: Array) -> float:
    """Weighted mean absolute logarithm, each row's share cut at :data:`WORST`."""
    errors = np.minimum(np.abs(np.log(np.maximum(predicted, 1e-3) / measured)), WORST)
    return float(np.sum(weights * errors) / np.sum(weights))


def search(
    limits: Sequence[tuple[float, float, float]],
    predicted: Callable[[Array], Array],
    measured: Array,
    weights: Array,
    rounds: int = 3,
    evaluations: int = 2500,
) -> Array:
    """Constants within their limits that minimise the loss; a pull of 0.002 towards the start breaks ties."""
    table = np.array(limits, dtype=np.float64)
    start, least, most = table[:, 0], table[:, 1], table[:, 2]
    free = np.flatnonzero(most > least)

    def unpack(z: Array) -> Array:
        x = start.copy()
        x[free] = np.clip(start[free] * np.exp(z), least[free], most[free])
        return x

    def loss(z: Array) -> float:
        return loss_of(predicted(unpack(z)), measured, weights) + 0.002 * float(np.mean(z * z))

    z = np.zeros(len(free))
    for turn in range(rounds):
        simplex = np.vstack([z, z + 0.25 * (-1) ** turn * np.eye(len(z))])
        options = {
            "maxfev": evaluations,
            "adaptive": True,
            "initial_simplex": simplex,
            "xatol": 1e-4,
            "fatol": 1e-6,
        }
        z = minimize(loss, z, method="Nelder-Mead", options=options).x
    return unpack(z)


def named(limits: Limits, x: Array) -> dict[str, float]:
    """Constants by name, to four digits."""
    return {name: rounded(value) for name, value in zip(limits, x, strict=True)}


def rounded(value: float) -> float:
    """To four significant digits: more is noise."""
    return float(f"{value:.4g}")
