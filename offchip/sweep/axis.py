"""One parameter of a space: the values it takes in a grid, and where a draw between 0 and 1 lands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter

from hw_configs.config import Config, Quantity
from hw_configs.problems import nearest
from hw_configs.units import DIMENSIONS
from offchip.sweep.expression import Expression
from offchip.sweep.machine import Leaf, Value

__all__ = ["Axis", "AxisSpec", "free_leaf", "make_axis"]

MAX_VALUES: Final = 1_000_000

DISTRIBUTIONS: Final[dict[str, tuple[str, ...]]] = {
    "uniform": ("low", "high"),
    "loguniform": ("low", "high"),
    "normal": ("mean", "deviation"),
    "lognormal": ("median", "sigma"),
    "triangular": ("low", "mode", "high"),
}
"""Distributions and what each needs. ``sigma`` is the deviation of the logarithm, a bare number."""


class AxisSpec(Config):
    """How a parameter stands in a space file."""

    path: str | None = None
    """What it sets; the parameter's own name when left out."""
    free: str | None = None
    """Instead of ``path``: it sets nothing and serves ``derived`` expressions. ``whole``, ``number``, ``text``, or
    the dimension of its values (``bandwidth``, ``size``, ...)."""
    values: list[Any] | None = None
    range: Annotated[list[Any], Field(min_length=2, max_length=2)] | None = None
    """Lowest and highest value, both included; with ``step`` or ``count`` in a grid."""
    log: Annotated[list[Any], Field(min_length=2, max_length=2)] | None = None
    """The same, evenly spaced in the logarithm; with ``count`` in a grid."""
    sample: dict[str, dict[str, Any]] | None = None
    """A distribution with its parameters, such as ``{normal: {mean: 2 TB/s, deviation: 100 GB/s}}``."""
    step: Any = None
    count: Annotated[int, Field(ge=1, le=MAX_VALUES)] | None = None
    when: str | None = None
    """An expression over earlier parameters; where it is false this parameter does not apply."""


@dataclass(frozen=True)
class Axis:
    """A parameter: its name, where it goes, and its values.

    ``choices`` are listed values; otherwise ``form`` is ``range``, ``log`` or the name of a distribution over
    ``bounds``, and ``grid`` holds its points in a grid (empty when only draws make sense).
    """

    name: str
    leaf: Leaf
    choices: tuple[Value, ...] = ()
    form: str = "choice"
    bounds: tuple[float, ...] = ()
    grid: tuple[Value, ...] = ()
    count: int = 0
    when: Expression | None = None

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers, so that it has an order."""
        return not self.choices or all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in self.choices
        )

    def at(self, draw: float) -> Value:
        """The value where a draw in [0, 1) lands: equal shares for choices, quantiles otherwise."""
        if self.choices:
            return self.choices[min(int(draw * len(self.choices)), len(self.choices) - 1)]
        return self._typed(self._quantile(draw))

    def _quantile(self, draw: float) -> float:
        low, high = self.bounds[0], self.bounds[-1]
        if self.leaf.whole and self.form in ("range", "log"):
            # Every whole number between has the same share of the line.
            low, high = low - 0.5, high + 0.5
        if self.form in ("range", "uniform"):
            return low + (high - low) * draw
        if self.form in ("log", "loguniform"):
            return math.exp(math.log(low) + (math.log(high) - math.log(low)) * draw)
        inside = min(max(draw, 1e-12), 1 - 1e-12)
        if self.form == "triangular":
            return _triangular(*self.bounds, draw=inside)
        from statistics import NormalDist

        z = NormalDist().inv_cdf(inside)
        if self.form == "normal":
            return self.bounds[0] + self.bounds[1] * z
        return self.bounds[0] * math.exp(self.bounds[1] * z)

    def _typed(self, value: float) -> Value:
        if not self.leaf.whole:
            return value
        return (
            min(max(round(value), math.ceil(self.bounds[0])), math.floor(self.bounds[-1]))
            if self.form in ("range", "log")
            else round(value)
        )


def free_leaf(kind: str) -> Leaf:
    """How values of a parameter that sets nothing are read; ``ValueError`` for a kind there is not."""
    if kind in DIMENSIONS:
        return Leaf("", Quantity(kind, may_be_zero=True))
    kinds: dict[str, Any] = {"whole": Annotated[int, Field(strict=True)], "number": float, "text": str}
    if kind not in kinds:
        near = nearest(kind, [*kinds, *DIMENSIONS])
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ValueError(
            f"found {kind!r}; expected {', '.join(kinds)} or a dimension such as bandwidth{hint}"
        )
    return Leaf("", None, TypeAdapter(kinds[kind]), kind == "whole")


def make_axis(name: str, raw: Mapping[str, Any], leaf: Leaf) -> Axis:
    """The axis of an entry of ``vary`` as written; ``ValueError`` says in words what is wrong with it."""
    forms = [form for form in ("values", "range", "log", "sample") if form in raw]
    if len(forms) != 1:
        raise ValueError(f"found {' and '.join(forms) or 'none'}; expected one of values, range, log, sample")
    form = forms[0]
    if form == "values":
        if "count" in raw or "step" in raw:
            raise ValueError("a list of values has no 'step' or 'count'")
        choices = tuple(leaf.read(value) for value in raw["values"])
        if not choices:
            raise ValueError("the list of values is empty")
        if len(set(choices)) < len(choices):
            raise ValueError("a value stands in the list twice")
        return Axis(name, leaf, choices, grid=choices)
    if form == "sample":
        return _sampled(name, raw, leaf)
    low, high = (_number(leaf.read(value)) for value in raw[form])
    if not low < high:
        raise ValueError(f"an empty range: {raw[form][0]} is not below {raw[form][1]}")
    if form == "log" and low <= 0:
        raise ValueError(f"found {raw[form][0]!r}; a logarithm needs bounds above zero")
    count = raw.get("count")
    grid: tuple[float, ...] = ()
    if form == "log":
        if "step" in raw:
            raise ValueError("'log' takes 'count', not 'step'")
        if count:
            grid = tuple(low * (high / low) ** (i / max(count - 1, 1)) for i in range(count))
    elif "step" in raw and count:
        raise ValueError("found 'step' and 'count'; one of them holds")
    elif count:
        grid = tuple(low + (high - low) * i / max(count - 1, 1) for i in range(count))
    elif "step" in raw or leaf.whole:
        step = _number(leaf.read(raw["step"])) if "step" in raw else 1.0
        if not step > 0 or (high - low) / step > MAX_VALUES:
            raise ValueError(f"found the step {raw.get('step')!r}, which is zero or too small for the range")
        grid = tuple(low + step * i for i in range(int((high - low) / step * (1 + 1e-12)) + 1))
    typed: tuple[Value, ...] = tuple(dict.fromkeys(round(v) for v in grid)) if leaf.whole else grid
    return Axis(name, leaf, (), form, (low, high), typed, count or 0)


def _sampled(name: str, raw: Mapping[str, Any], leaf: Leaf) -> Axis:
    spec = raw["sample"]
    if not isinstance(spec, dict) or len(spec) != 1:
        raise ValueError(f"expected one distribution of {', '.join(DISTRIBUTIONS)}")
    kind, given = next(iter(spec.items()))
    if kind not in DISTRIBUTIONS:
        near = nearest(str(kind), DISTRIBUTIONS)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ValueError(f"unknown distribution {kind!r}; known: {', '.join(DISTRIBUTIONS)}{hint}")
    needs = DISTRIBUTIONS[kind]
    if not isinstance(given, dict) or set(given) != set(needs):
        raise ValueError(f"{kind} needs {', '.join(needs)}")
    bounds = tuple(float(given[key]) if key == "sigma" else _number(leaf.read(given[key])) for key in needs)
    if (
        kind in ("uniform", "loguniform")
        and not (0 if kind == "loguniform" else -math.inf) < bounds[0] < bounds[1]
    ):
        raise ValueError("'low' must be below 'high', and above zero for a logarithm")
    if kind == "triangular" and not bounds[0] <= bounds[1] <= bounds[2] > bounds[0]:
        raise ValueError("expected low <= mode <= high")
    if kind in ("normal", "lognormal") and not bounds[1] > 0:
        raise ValueError(f"the {needs[1]} must be above zero")
    return Axis(name, leaf, (), str(kind), bounds, (), int(raw.get("count") or 0))


def _number(value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"found {value!r}; a range needs numbers")
    return float(value)


def _triangular(low: float, mode: float, high: float, *, draw: float) -> float:
    share = (mode - low) / (high - low)
    if draw < share:
        return low + math.sqrt(draw * (high - low) * (mode - low))
    return high - math.sqrt((1 - draw) * (high - low) * (high - mode))
