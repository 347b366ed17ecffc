"""Settings of a mapper or policy: typed fields that say unit, range, default and meaning, and read text at the border.

A mapper declares a frozen dataclass next to itself, each field made by one of the functions here. That class is all
there is: ``--set name=value`` is read into it, ``offchip mappers show`` prints it, Python code builds it, and a value
out of range is refused by whoever builds it. A name is written with hyphens on the command line (``time-limit``) and
with underscores in Python; either is understood.

>>> @dataclass(frozen=True, slots=True, kw_only=True)
... class Example(Settings):
...     ahead: int = count(2, "streamed operators in flight", least=1, most=1000)
...     limit: int | None = size(None, "bytes to use", absent="all")
>>> read_settings(Example, {"limit": "8 GiB"})
Example(ahead=2, limit=8589934592)
>>> read_settings(Example, {"ahed": "3"})
Traceback (most recent call last):
    ...
hw_configs.problems.InputError: --set: no setting 'ahed'; known: ahead, limit (did you mean 'ahead'?)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.units import UnitError, format_quantity, parse_quantity
from hw_configs.whole_number import is_whole

__all__ = [
    "NoSettings",
    "SettingInfo",
    "Settings",
    "Share",
    "count",
    "flag",
    "name_of",
    "number",
    "read_settings",
    "seconds",
    "settings_of",
    "share",
    "size",
    "size_or_share",
    "word",
]

Kind = Literal["count", "number", "seconds", "share", "size", "size or share", "flag", "word", "name"]
Answer = Literal["", "plan", "offload"]
"""Which answer of a mapper takes a setting: any, its plan for a graph, or its answer to ``solve offload``."""
_WORDS: Final = {"yes": True, "no": False, "true": True, "false": False}
_MOST_SHOWN: Final = 80
"""Characters of a value that a message repeats."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of something whose size is known later; 0.5 is half."""

    value: float

    def __str__(self) -> str:
        return f"{100 * self.value:g}%"


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What one setting is. ``absent`` is the word for its value None, empty where it has none."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    """Whether the least value itself is left out."""
    choices: tuple[str, ...] = ()
    default: object = None
    absent: str = ""
    only: Answer = ""

    @property
    def range(self) -> str:
        """The values it takes, in words."""
        if self.kind == "flag":
            return "yes or no"
        if self.choices:
            return ", ".join(self.choices)
        if self.kind == "name":
            return "a name"
        if self.kind == "size or share":
            return "a size, or a share such as 50%"
        low = "" if self.least == -math.inf else f"{'above' if self.above else 'from'} {self.least:.15g}"
        high = "" if self.most == math.inf else f"{'at most' if self.above else 'to'} {self.most:.15g}"
        return " ".join(part for part in (low, high) if part) or "any"

    @property
    def shown_default(self) -> str:
        """The default as a user would write it."""
        if self.default is None:
            return self.absent
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if self.kind == "size":
            return format_quantity(float(self.default), "size")  # type: ignore[arg-type]
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def to_json(self) -> dict[str, Any]:
        """The setting as plain data; bounds that there are none of are left out."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "unit": self.unit, "range": self.range}
        if self.least != -math.inf:
            found["least"] = self.least
        if self.most != math.inf:
            found["most"] = self.most
        if self.choices:
            found["choices"] = list(self.choices)
        default = str(self.default) if isinstance(self.default, Share) else self.default
        return found | {"default": default, "meaning": self.meaning, "read_by": self.only or "any"}

    def read(self, text: str) -> object:
        """The value that a user wrote; ``ValueError`` with what was expected when it is none."""
        text = text.strip()
        if self.default is None and text == self.absent:
            return None
        if self.kind == "count" and is_whole(text):
            return int(text)
        if self.kind == "flag" and text in _WORDS:
            return _WORDS[text]
        if self.kind in ("word", "name"):
            return text
        if self.kind in ("size", "size or share") and not text.endswith("%"):
            # Zero bytes need no unit.
            return 0 if text == "0" else int(_quantity(text, "size"))
        if self.kind == "size or share":
            return Share(_plain(text[:-1], self) / 100)
        if self.kind == "share" and text.endswith("%"):
            return _plain(text[:-1], self) / 100
        if self.kind == "seconds" and text[-1:].isalpha():
            return _quantity(text, "time")
        if self.kind in ("number", "seconds", "share"):
            return _plain(text, self)
        raise ValueError(self.told(text))

    def fault(self, value: object) -> str | None:
        """Why a typed value is none for this setting; None when it is one."""
        if value is None:
            return None if self.default is None else self.told(value)
        if self.choices:
            return None if value in self.choices else self.told(value)
        if self.kind == "name":
            return None if isinstance(value, str) and value else self.told(value)
        if self.kind == "flag":
            return None if isinstance(value, bool) else self.told(value)
        if self.kind == "size or share" and isinstance(value, Share):
            value = value.value
            return None if 0 < value <= 10 else self.told(f"{100 * value:g}%")
        whole = self.kind in ("count", "size", "size or share")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return self.told(value)
        low = value > self.least if self.above else value >= self.least
        return None if low and value <= self.most else self.told(value)

    def told(self, value: object) -> str:
        """The message for a value that it does not take."""
        found = repr(value) if isinstance(value, str) else str(value)
        if self.choices:
            return f"found {found[:_MOST_SHOWN]}; expected one of {self.range}"
        words = {
            "count": "a whole number ", "number": "a number ", "seconds": "seconds ", "share": "a share ",
            "size": "a size such as '4 GiB' ",
        }  # fmt: skip
        expected = f"{words.get(self.kind, '')}{self.range}"
        if self.absent and self.default is None and self.absent not in expected and self.kind != "name":
            expected += f", or {self.absent}"
        return f"found {found[:_MOST_SHOWN]}; expected {expected}"


def _plain(text: str, info: SettingInfo) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise ValueError(info.told(text))
    return value


def _quantity(text: str, dimension: str) -> float:
    try:
        return parse_quantity(text, dimension)
    except UnitError as error:
        raise ValueError(str(error)) from None


def _field(default: object, kind: Kind, meaning: str, **more: object) -> Any:
    return field(default=default, metadata={"kind": kind, "meaning": meaning, **more})


def count(
    default: int | None, meaning: str, *, least: int = 0, most: int = 1 << 20, unit: str = "", absent: str = "",
    only: Answer = "",
) -> Any:  # fmt: skip
    """A whole number from ``least`` to ``most``."""
    return _field(default, "count", meaning, least=least, most=most, unit=unit, absent=absent, only=only)


def number(
    default: float | None, meaning: str, *, least: float = 0.0, most: float = math.inf, unit: str = "",
    above: bool = False, only: Answer = "",
) -> Any:  # fmt: skip
    """A number from ``least`` (or ``above`` it) to ``most``."""
    return _field(default, "number", meaning, least=least, most=most, unit=unit, above=above, only=only)


def seconds(
    default: float | None, meaning: str, *, most: float = 86400.0, zero: bool = False, absent: str = ""
) -> Any:
    """A time above zero (``zero``: or none): plain seconds, or a figure with its unit."""
    return _field(default, "seconds", meaning, least=0.0, most=most, above=not zero, unit="s", absent=absent)


def share(
    default: float | None, meaning: str, *, most: float = 1.0, zero: bool = False, absent: str = "",
    only: Answer = "",
) -> Any:  # fmt: skip
    """A share above 0 (``zero``: or 0), at most ``most``; text may be a percentage."""
    bounds = {"least": 0.0, "most": most, "above": not zero}
    return _field(default, "share", meaning, **bounds, absent=absent, only=only)


def size(default: int | None, meaning: str, *, absent: str = "") -> Any:
    """Bytes; text has a unit."""
    return _field(default, "size", meaning, least=0, unit="B", absent=absent)


def size_or_share(default: Share, meaning: str) -> Any:
    """Bytes, or a :class:`Share` of something; text is a size or a percentage."""
    return _field(default, "size or share", meaning, least=0, unit="B or %")


def flag(default: bool | None, meaning: str, *, absent: str = "", only: Answer = "") -> Any:
    """Yes or no."""
    return _field(default, "flag", meaning, absent=absent, only=only)


def word(
    default: str | None, meaning: str, choices: Iterable[str], *, absent: str = "", only: Answer = ""
) -> Any:
    """One of some words."""
    return _field(default, "word", meaning, choices=tuple(choices), absent=absent, only=only)


def name_of(meaning: str, *, absent: str) -> Any:
    """The name of something in the system; ``absent`` says what is taken without it."""
    return _field(None, "name", meaning, absent=absent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Base of all settings; building one checks every value."""

    def __post_init__(self) -> None:
        problems = [
            _problem(info, message, value)
            for info in settings_of(type(self)).values()
            if (message := info.fault(value := getattr(self, _attribute(info.name)))) is not None
        ]
        if problems:
            raise InputError(problems)

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults, by the name that a user writes."""
        infos = settings_of(type(self)).values()
        found = ((info, getattr(self, _attribute(info.name))) for info in infos)
        return {info.name: value for info, value in found if value != info.default}

    def to_json(self) -> dict[str, Any]:
        """The changed settings as plain data."""
        return {k: str(v) if isinstance(v, Share) else v for k, v in self.changed().items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSettings(Settings):
    """Of a mapper that has none."""


def settings_of(cls: type[Settings]) -> Mapping[str, SettingInfo]:
    """The settings that a class declares, by the name that a user writes."""
    found = [
        SettingInfo(f.name.replace("_", "-"), default=f.default, **f.metadata)
        for f in dataclasses.fields(cls)
    ]
    return {info.name: info for info in found}


Model = TypeVar("Model", bound=Settings)


def read_settings(cls: type[Model], values: Mapping[str, object], asked: Answer = "") -> Model:
    """The settings in what a user wrote: text (``--set``, YAML) or typed values (Python).

    ``asked`` is the answer that is wanted of the mapper; settings that another one takes are refused. Raises
    ``InputError`` with every problem: unknown names with the nearest known one, text that is no value, values out of
    range.
    """
    infos = settings_of(cls)
    problems: list[Problem] = []
    read: dict[str, Any] = {}
    for key, value in values.items():
        info = infos.get(str(key).replace("_", "-"))
        if info is None:
            known = ", ".join(infos) or "none"
            near = nearest(str(key), infos)
            problems.append(Problem(f"no setting {key!r}; known: {known}", path="--set", suggestion=near))
            continue
        if info.only and asked and info.only != asked:
            where = "a plan for a graph" if info.only == "plan" else "'offchip solve offload'"
            problems.append(Problem(f"only {where} takes it", path=f"--set {info.name}"))
            continue
        if _attribute(info.name) in read:
            problems.append(Problem("is given twice", path=f"--set {info.name}"))
            continue
        try:
            # A file's plain 16 is the word '16' where a setting is one of some words.
            plain = info.kind == "word" and isinstance(value, int) and not isinstance(value, bool)
            found = info.read(str(value)) if plain or isinstance(value, str) else value
        except ValueError as error:
            problems.append(_problem(info, str(error), value))
            continue
        if info.fault(found) is not None:
            problems.append(_problem(info, info.told(value), value))
        read[_attribute(info.name)] = found
    if problems:
        raise InputError(problems)
    return cls(**read)


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def _problem(info: SettingInfo, message: str, value: object) -> Problem:
    near = nearest(value, info.choices) if info.choices and isinstance(value, str) else None
    return Problem(message, path=f"--set {info.name}", suggestion=near)
