"""A space: what is varied, what follows from it, what counts, and how it is searched.

A space is read from a file, with every name in it checked, by :mod:`offchip.sweep.space_file`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from hw_configs.config import Config
from offchip.sweep.axis import Axis
from offchip.sweep.expression import Expression
from offchip.sweep.machine import Leaf, Value
from offchip.sweep.store import Row

__all__ = ["Objective", "Space", "Stage", "Strategy", "option_leaves"]

_NOT_OPTIONS: Final = frozenset({"fidelity"})
"""Its stages name the fidelities of a space."""
_TYPES: Final[dict[str, Any]] = {"int": int, "str": str, "bool": bool, "float": float}


class Strategy(Config):
    """How the space is searched. ``points`` for samples and trials; ``batch`` trials are asked for at once."""

    kind: Literal["grid", "lhs", "sobol", "random", "optuna"]
    points: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    sampler: Literal["nsga2", "nsga3", "tpe", "random"] = "nsga2"
    batch: Annotated[int, Field(ge=1, le=10_000)] = 16


class Stage(Config):
    """One fidelity; ``promote`` is the share of the points before it that it repeats, best first."""

    fidelity: Literal["analytic", "event", "cycle"]
    promote: Annotated[float, Field(gt=0, le=1)] = 1.0


@dataclass(frozen=True)
class Objective:
    """A figure or expression that counts; ``sign`` is 1 to minimise and -1 to maximise."""

    name: str
    expression: Expression
    sign: int

    @property
    def direction(self) -> str:
        """``minimise`` or ``maximise``."""
        return "minimise" if self.sign > 0 else "maximise"


@dataclass(frozen=True)
class Space:
    """A checked space. Build one with :func:`offchip.sweep.space_file.load_space`."""

    name: str
    file: str
    text: str
    base: Mapping[str, Value]
    """What every point starts from: ``model``, ``hw`` and options, by path."""
    axes: tuple[Axis, ...]
    derived: tuple[tuple[str, Expression, Leaf], ...]
    define: tuple[tuple[str, Expression], ...]
    before: tuple[Expression, ...]
    """Constraints over parameters, decided before a point runs."""
    after: tuple[Expression, ...]
    objectives: tuple[Objective, ...]
    strategy: Strategy
    stages: tuple[Stage, ...]
    seed: int
    time_limit: float
    raw: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the space as written, whatever its layout."""
        return _digest({key: value for key, value in self.raw.items() if key != "time_limit"})

    @cached_property
    def beside(self) -> Path:
        """The folder in which files that the space names are looked up."""
        return Path(self.file).resolve().parent

    def settings(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Every path with its value at a point: base, parameters, and what is derived from them.

        Raises :class:`ExpressionError` or ``ValueError`` when a derived value cannot be had.
        """
        settings = dict(self.base)
        for axis in self.axes:
            value = values.get(axis.name)
            if value is not None and axis.leaf.path:
                settings[axis.leaf.path] = value
        names = self.names(values)
        for path, expression, leaf in self.derived:
            value = expression.value(names)
            if value is not None:
                if leaf.whole and isinstance(value, float) and value.is_integer():
                    value = int(value)
                settings[path] = names[path] = leaf.read(value) if leaf.quantity is None else _si(leaf, value)
        return settings

    def names(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """What expressions over parameters may name: options, then parameters."""
        return {**self.base, **values}

    def applied(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The values with those that do not apply (``when`` is false) as None."""
        if not any(axis.when for axis in self.axes):
            return dict(values)
        kept: dict[str, Value] = {}
        for axis in self.axes:
            ok = axis.when is None or bool(axis.when.value({**self.base, **kept}))
            kept[axis.name] = values[axis.name] if ok else None
        return kept

    def meta(self) -> dict[str, Any]:
        """What the store keeps about the space."""
        return {
            "name": self.name,
            "file": Path(self.file).name,
            "path": str(Path(self.file).resolve()),
            "text": self.text,
            "space": dict(self.raw),
            "space_digest": self.digest,
            "parameters": [
                {"name": axis.name, "path": axis.leaf.path, "dimension": axis.leaf.dimension,
                 "kind": "number" if axis.numeric else "choice"}
                for axis in self.axes
            ],
            "objectives": [
                {"name": o.name, "expression": o.expression.text, "direction": o.direction} for o in self.objectives
            ],
            "stages": [stage.fidelity for stage in self.stages],
            "seed": self.seed,
        }  # fmt: skip

    def judged(self, row: Row, figures: dict[str, Any], values: Mapping[str, Value]) -> tuple[str, str]:
        """Add defined names and objectives to the figures; the status and reason by the constraints."""
        names = {**self.names(values), **figures}
        for name, expression in (*self.define, *((o.name, o.expression) for o in self.objectives)):
            if name not in figures:
                figures[name] = names[name] = expression.value(names)
        for constraint in self.after:
            if not constraint.value(names):
                return "constraint", f"breaks {constraint.text}"
        return row.status, row.reason


@cache
def option_leaves() -> dict[str, Leaf]:
    """The options of ``simulate`` that a space may set, as their classes state them."""
    from offchip.run_options import RunOptions
    from workloads.workload import WorkloadOptions

    leaves = {}
    for option in (*fields(WorkloadOptions), *fields(RunOptions)):
        words = str(option.type).replace(" ", "").split("|")
        kind = _TYPES.get(words[0])
        if kind is None or option.name in _NOT_OPTIONS:
            continue
        form: Any = Annotated[kind, Field(strict=True)] if kind is not float else kind
        adapter: TypeAdapter[Any] = TypeAdapter(form)
        leaves[option.name] = Leaf(option.name, None, adapter, kind is int)
    return leaves


def _si(leaf: Leaf, value: Value) -> Value:
    """A computed figure is in SI units already; a text carries its own."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"found {value!r}; expected a figure")
    assert leaf.quantity is not None
    return leaf.quantity(value if isinstance(value, str) else float(value))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
