"""Which parameter explains how much of a figure.

From the rows of a sweep: the largest change when one parameter alone moves (one at a time), and the share of the
figure's variance that a parameter explains by itself (the correlation ratio; on a full grid this is the
first-order Sobol index exactly). With new points: first-order and total Sobol indices from Saltelli's design
(Saltelli et al., Computer Physics Communications 181, 2010: estimators (b) and (f)).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from offchip.sweep.store import Row

__all__ = ["Effect", "Indices", "effects", "sobol_indices"]

BINS: Final = 10
"""Parts of equal count into which values of a continuous parameter are put."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one parameter does to a figure. ``span`` is None where no two points differ in it alone."""

    parameter: str
    span: float | None
    relative: float | None
    """Highest over lowest value of the figure in the row of points with that span."""
    share: float
    """Share of the variance it explains by itself, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Indices:
    """Sobol indices of one parameter: alone, and with all interactions it takes part in."""

    first: float
    total: float


def effects(rows: Sequence[Row], parameters: Sequence[str], figure: str) -> list[Effect]:
    """Effects on a figure over the points that ran, largest share first."""
    good = [
        row
        for row in rows
        if row.status in ("ok", "constraint") and isinstance(row.figures.get(figure), int | float)
    ]
    values = np.array([float(row.figures[figure]) for row in good])
    found = []
    for name in parameters:
        span, relative = _alone(good, values, parameters, name)
        found.append(Effect(name, span, relative, _share(good, values, name)))
    return sorted(found, key=lambda effect: (-effect.share, effect.parameter))


def _alone(
    rows: Sequence[Row], values: NDArray[np.float64], parameters: Sequence[str], name: str
) -> tuple[float | None, float | None]:
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for index, row in enumerate(rows):
        others = tuple(row.parameters.get(other) for other in parameters if other != name)
        groups.setdefault(others, []).append(index)
    widest: tuple[float, float] | None = None
    for members in groups.values():
        if len(members) > 1:
            low, high = float(values[members].min()), float(values[members].max())
            if widest is None or high - low > widest[1] - widest[0]:
                widest = (low, high)
    if widest is None:
        return None, None
    return widest[1] - widest[0], widest[1] / widest[0] if widest[0] > 0 else None


def _share(rows: Sequence[Row], values: NDArray[np.float64], name: str) -> float:
    """The correlation ratio, corrected for what groups of so few explain by chance (Kelley 1935)."""
    whole = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if whole <= 0:
        return 0.0
    labels, groups = _labels([row.parameters.get(name) for row in rows])
    within = 0.0
    for label in range(groups):
        part = values[labels == label]
        within += float(((part - part.mean()) ** 2).sum())
    unexplained = within / whole
    # A grid holds every combination, so nothing there is chance; draws need the correction.
    counts = np.bincount(labels, minlength=groups)
    if counts.min() != counts.max() and len(values) > groups:
        unexplained *= (len(values) - 1) / (len(values) - groups)
    return min(max(1 - unexplained, 0.0), 1.0)


def _labels(column: Sequence[object]) -> tuple[NDArray[np.int64], int]:
    distinct = list(dict.fromkeys(column))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct)
    if numbers and len(distinct) > max(4 * BINS, len(column) // 4):
        order = np.argsort(np.array(column, dtype=np.float64), kind="stable")
        labels = np.empty(len(column), dtype=np.int64)
        bins = min(BINS, len(column))
        labels[order] = np.arange(len(column)) * bins // len(column)
        return labels, bins
    place = {value: index for index, value in enumerate(distinct)}
    return np.array([place[value] for value in column], dtype=np.int64), len(distinct)


def sobol_indices(
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]], dimensions: int, samples: int, seed: int = 0
) -> tuple[list[Indices], int]:
    """Sobol indices of a function of draws in [0, 1), and the number of samples they rest on.

    ``figure`` takes an (n, dimensions) table and gives n values, NaN where there is none; a sample of which any
    part is NaN is left out. The function is asked for ``samples * (dimensions + 2)`` values.
    """
    from scipy.stats import qmc

    engine = qmc.Sobol(2 * dimensions, rng=np.random.default_rng(seed))
    draws = engine.random_base2(max(samples - 1, 1).bit_length())[:samples]
    one, other = draws[:, :dimensions], draws[:, dimensions:]
    f_one, f_other = figure(one), figure(other)
    mixed = []
    for index in range(dimensions):
        table = one.copy()
        table[:, index] = other[:, index]
        mixed.append(figure(table))
    whole = np.isfinite(np.stack([f_one, f_other, *mixed])).all(axis=0)
    f_one, f_other = f_one[whole], f_other[whole]
    if not len(f_one):
        return [Indices(float("nan"), float("nan"))] * dimensions, 0
    both = np.concatenate((f_one, f_other))
    variance, mean = float(both.var()), float(both.mean())
    if variance <= 0:
        return [Indices(0.0, 0.0)] * dimensions, int(whole.sum())
    found = []
    for f_mixed in (column[whole] for column in mixed):
        # Centred on the mean, which changes no expectation and loses less to rounding.
        first = float(np.mean((f_other - mean) * (f_mixed - f_one))) / variance
        total = float(np.mean((f_one - f_mixed) ** 2)) / 2 / variance
        found.append(Indices(first, total))
    return found, int(whole.sum())
