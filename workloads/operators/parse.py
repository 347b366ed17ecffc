"""Reads the fields of an operator kind from plain values, as a graph file holds them, and says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hw_configs.problems import nearest
from workloads.dtypes import BITS
from workloads.operators import KINDS
from workloads.operators.work import MAX_COUNT, FieldInfo, FieldValue, Work, fields_of

__all__ = ["FieldProblem", "read_fields", "read_work"]

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field; ``field`` is empty when one is missing."""

    field: str
    message: str
    suggestion: str | None = None


def read_work(kind: str, values: Mapping[str, Any]) -> tuple[Work | None, list[FieldProblem]]:
    """The work of a known kind, or everything that is wrong with its fields."""
    own = fields_of(KINDS[kind])
    problems = list(_unknown(kind, own, values))
    fields, wrong = read_fields(own, values)
    problems += wrong
    problems += [
        FieldProblem("", f"missing field {name!r} ({info.meaning}) of a {kind}")
        for name, info in own.items()
        if info.required and name not in values
    ]
    if problems:
        return None, problems
    work = KINDS[kind](**fields)  # type: ignore[arg-type]
    if not math.isfinite(work.flops) or work.flops < 0:
        return None, [FieldProblem("", f"the fields of the {kind} give {work.flops:g} FLOP")]
    return work, []


def read_fields(
    known: Mapping[str, FieldInfo], values: Mapping[str, Any]
) -> tuple[dict[str, FieldValue], list[FieldProblem]]:
    """The values of known fields, each of its type and in its range."""
    found: dict[str, FieldValue] = {}
    problems: list[FieldProblem] = []
    for name, value in values.items():
        info = known.get(name)
        if info is None:
            continue
        problem = _wrong(info, value)
        if problem is None:
            found[name] = float(value) if info.type is float else value
        else:
            problems.append(problem)
    return found, problems


def _unknown(kind: str, own: Mapping[str, FieldInfo], values: Mapping[str, Any]) -> Iterator[FieldProblem]:
    for name in values:
        if name not in own:
            yield FieldProblem(
                name, f"a {kind} has no field {name[:60]!r}; it has {', '.join(own)}", nearest(name, own)
            )


def _wrong(info: FieldInfo, value: Any) -> FieldProblem | None:
    fits = {
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool),
        bool: isinstance(value, bool),
        str: isinstance(value, str),
    }[info.type]
    if not fits:
        return FieldProblem(info.name, f"found {_shown(value)}; expected {_TYPE_NAMES[info.type]}")
    if info.type in (int, float):
        least = max(info.least, -MAX_COUNT)
        if not least <= value <= MAX_COUNT or (isinstance(value, float) and not math.isfinite(value)):
            unit = f" {info.unit}" if info.unit else ""
            return FieldProblem(
                info.name, f"found {_shown(value)}; expected {least:.6g} to {MAX_COUNT:.0e}{unit}"
            )
    elif info.choices and value not in info.choices:
        choices = ", ".join(choice for choice in info.choices if choice)
        return FieldProblem(
            info.name, f"found {_shown(value)}; expected one of {choices}", nearest(value, info.choices)
        )
    elif info.name.endswith("dtype") and value and value not in BITS:
        return FieldProblem(info.name, f"unknown element type {_shown(value)}", nearest(value, BITS))
    return None


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 63:
        return "a number of more than 19 digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
