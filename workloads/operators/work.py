"""The base of every operator kind: named, typed fields with a unit, from which the arithmetic follows.

A kind is one frozen dataclass. Its fields are all that a price, a rewrite or a check may ask;
:attr:`Work.flops` follows from them. A field carries its unit, its meaning, its least value and, where no cost
model takes it, the reason why (:class:`FieldInfo`), so that files are parsed by field, references are printed
from the code, and a test can change each field and see the price move or the field be declared without effect.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Final, get_type_hints

__all__ = ["FieldInfo", "FieldValue", "Work", "count", "fields_of", "flag", "named", "number"]

FieldValue = int | float | str | bool
MAX_COUNT: Final = 1 << 60
"""More of anything than any machine has; larger figures are mistakes and would overflow."""


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """What a field of an operator kind is.

    ``without_effect`` says why no cost model takes the field; empty for a field that moves a price.
    """

    name: str
    type: type
    unit: str
    meaning: str
    least: float
    required: bool
    default: FieldValue | None
    choices: tuple[str, ...]
    without_effect: str


def _described(unit: str, meaning: str, least: float, choices: tuple[str, ...], why: str) -> dict[str, Any]:
    return {"unit": unit, "meaning": meaning, "least": least, "choices": choices, "without_effect": why}


def count(
    unit: str, meaning: str, default: int | None = None, least: int = 1, without_effect: str = ""
) -> Any:
    """A field that counts things; required when it has no default."""
    described = _described(unit, meaning, least, (), without_effect)
    return field(metadata=described) if default is None else field(default=default, metadata=described)


def number(
    unit: str, meaning: str, default: float | None = None, least: float = 0.0, without_effect: str = ""
) -> Any:
    """A field that holds a quantity; required when it has no default."""
    described = _described(unit, meaning, least, (), without_effect)
    return field(metadata=described) if default is None else field(default=default, metadata=described)


def flag(meaning: str, default: bool = False, without_effect: str = "") -> Any:
    """A field that is true or false."""
    return field(default=default, metadata=_described("", meaning, 0, (), without_effect))


def named(meaning: str, default: str = "", choices: tuple[str, ...] = (), without_effect: str = "") -> Any:
    """A field that names something: one of ``choices``, or anything when there are none."""
    return field(default=default, metadata=_described("", meaning, 0, choices, without_effect))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an operator of one kind does. Subclasses add their fields and :meth:`arithmetic`."""

    kind: ClassVar[str] = ""
    matrix: ClassVar[bool] = False
    """Whether the arithmetic runs on matrix units where a device has them."""
    communicates: ClassVar[bool] = False
    """Whether links, not the device, set the time."""
    unused: ClassVar[Mapping[str, str]] = {}
    """Fields of every kind that this one has no use for, and why."""

    share: float = number(
        "times", "how often the arithmetic of the other fields is done: 2.5 in attention's backward pass, a part "
        "when only some tokens are made again", 1.0,
    )  # fmt: skip
    extra_flops: float = number(
        "FLOP",
        "arithmetic beside what the other fields give: a bias, a combination of experts",
        0.0,
        -math.inf,
    )

    def arithmetic(self) -> float:
        """FLOP of the kind's formula, a multiply-add counted as two."""
        return 0.0

    @property
    def flops(self) -> float:
        """FLOP of the operator."""
        return self.share * self.arithmetic() + self.extra_flops

    def changed(self) -> dict[str, FieldValue]:
        """The fields that are required or differ from their default, by name."""
        return {
            info.name: getattr(self, info.name)
            for info in fields_of(type(self)).values()
            if info.required or getattr(self, info.name) != info.default
        }

    def with_fields(self, values: Mapping[str, FieldValue]) -> Work:
        """The same kind with some fields changed."""
        return dataclasses.replace(self, **values)  # type: ignore[arg-type]


def fields_of(kind: type[Work]) -> dict[str, FieldInfo]:
    """The fields of a kind by name, in their order: its own first, those of every kind last."""
    found: dict[str, FieldInfo] = _fields_of(kind)  # type: ignore[arg-type]
    return found


@cache
def _fields_of(kind: Any) -> dict[str, FieldInfo]:
    hints = get_type_hints(kind)
    found = [
        FieldInfo(
            f.name,
            hints[f.name],
            f.metadata["unit"],
            f.metadata["meaning"],
            f.metadata["least"],
            f.default is dataclasses.MISSING,
            None if f.default is dataclasses.MISSING else f.default,
            f.metadata["choices"],
            kind.unused.get(f.name, f.metadata["without_effect"]),
        )
        for f in dataclasses.fields(kind)
    ]
    common = {f.name for f in dataclasses.fields(Work)}
    return {info.name: info for info in sorted(found, key=lambda info: info.name in common)}
