"""The points of a space: a grid in the order of its file, or samples that a seed decides.

A point is a number and a value per parameter. The numbers depend on the space alone, never on what runs it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray

from offchip.sweep.axis import Axis
from offchip.sweep.machine import Value
from offchip.sweep.space import Space

__all__ = ["Point", "count_points", "points_of"]

Point = tuple[int, dict[str, Value]]
"""A number and the values by parameter; None where a parameter does not apply."""


def count_points(space: Space) -> int:
    """How many points a space has; for a grid with conditions, before equal points are merged."""
    if space.strategy.kind == "grid":
        return prod(len(axis.grid) or axis.count for axis in space.axes)
    return space.strategy.points or 0


def points_of(space: Space) -> Iterator[Point]:
    """The points of a grid or a sample, in order; a search (``optuna``) chooses its own as it goes."""
    if space.strategy.kind == "grid":
        every: Iterator[dict[str, Value]] = _grid(space)
    else:
        every = _samples(space)
    conditional = any(axis.when is not None for axis in space.axes)
    seen: set[str] = set()
    number = 0
    for values in every:
        values = space.applied(values)
        if conditional:
            key = json.dumps(values)
            if key in seen:
                continue
            seen.add(key)
        yield number, values
        number += 1


def _grid(space: Space) -> Iterator[dict[str, Value]]:
    names = [axis.name for axis in space.axes]
    columns = [axis.grid or _drawn(axis, index, space.seed) for index, axis in enumerate(space.axes)]
    for row in itertools.product(*columns):
        yield dict(zip(names, row, strict=True))


def _drawn(axis: Axis, index: int, seed: int) -> tuple[Value, ...]:
    """The values of a distribution in a grid: so many draws, the same for every other parameter's value."""
    draws = np.random.default_rng([seed, index]).random(axis.count)
    return tuple(axis.at(float(draw)) for draw in draws)


def _samples(space: Space) -> Iterator[dict[str, Value]]:
    for row in draws(space.strategy.kind, len(space.axes), space.strategy.points or 0, space.seed):
        yield {axis.name: axis.at(float(draw)) for axis, draw in zip(space.axes, row, strict=True)}


def draws(kind: str, dimensions: int, count: int, seed: int) -> NDArray[np.float64]:
    """Draws in [0, 1): Latin hypercube (McKay 1979), scrambled Sobol (1967), or independent ones."""
    if kind == "random":
        return np.random.default_rng(seed).random((count, dimensions))
    from scipy.stats import qmc

    if kind == "lhs":
        sample = qmc.LatinHypercube(dimensions, rng=np.random.default_rng(seed)).random(count)
    else:
        engine = qmc.Sobol(dimensions, rng=np.random.default_rng(seed))
        # A prefix of a larger power of two: any count is allowed, a power of two is balanced.
        sample = engine.random_base2(max(count - 1, 0).bit_length())[:count]
    return np.asarray(sample, dtype=np.float64)
