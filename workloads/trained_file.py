"""What ``--train`` says of the weights to train: a short word, a pattern, or a YAML file, brought to trained parts.

``all`` trains everything. ``lora`` and ``qlora`` train adapters beside frozen products, with what stands behind a colon
(``lora:rank=64,targets=all-linear``); QLoRA's frozen matrices are NF4 with quantised scales, its optimizer is paged
(arXiv:2305.14314). ``forward-only`` estimates gradients from two forward passes. Anything else is a pattern over names
of weights. A file (``.yaml``) has the keys ``trainable``, ``adapters``, ``base``, ``double``, ``paged``, ``saved``,
``forward_only`` and ``copies``; see :mod:`workloads.trained_parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.yaml_file import Document, read_yaml
from workloads.dtypes import dtype_bits
from workloads.operators import KINDS
from workloads.trained_parts import ALL_TRAINED, AdapterRule, TrainedParts, WeightMethod

__all__ = ["parts_from_data", "read_trained_parts", "trained_parts"]

QLORA_RANK: Final = 64
_WORDS: Final = ("all", "lora", "qlora", "forward-only")
_KEYS: Final = ("trainable", "adapters", "base", "double", "paged", "saved", "forward_only", "copies")
_MOST_COPIES: Final = 64
Built = TypeVar("Built", WeightMethod, AdapterRule)


def trained_parts(text: str) -> TrainedParts:
    """The parts that a word, pattern or file names; ``InputError`` for options and files that are wrong."""
    word, _, options = text.partition(":")
    if text == "all":
        return ALL_TRAINED
    if word == "lora":
        return TrainedParts((), _adapters(options, AdapterRule()), name=text)
    if word == "qlora":
        rule = _adapters(options, AdapterRule(QLORA_RANK, targets=("all-linear",)))
        return TrainedParts((), rule, base="nf4", double=True, paged=True, name=text)
    if text == "forward-only":
        return TrainedParts(forward_only=True, name=text)
    if text.endswith((".yaml", ".yml")):
        return read_trained_parts(text)
    if not text:
        raise bad_input(
            f"found nothing; expected {', '.join(_WORDS)}, a pattern or a .yaml file", path="--train"
        )
    return TrainedParts(((text, WeightMethod()),), name=text)


def _adapters(text: str, rule: AdapterRule) -> AdapterRule:
    """Options behind ``lora:``, such as ``rank=64,targets=q_proj+v_proj,dropout=0.1``."""
    found: dict[str, Any] = {}
    for entry in text.split(",") if text else ():
        key, equals, value = entry.partition("=")
        if key not in ("rank", "targets", "dropout", "alpha") or not equals:
            raise bad_input(
                f"found {entry!r}; expected rank=, targets=, dropout= or alpha=", path="--train",
                suggestion=nearest(key, ["rank", "targets", "dropout", "alpha"]),
            )  # fmt: skip
        try:
            if key == "targets":
                found[key] = tuple(value.split("+"))
            else:
                found[key] = int(value) if key == "rank" else float(value)
        except ValueError:
            raise bad_input(f"found {entry!r}; expected a number behind {key}=", path="--train") from None
    return replace(rule, **found)


@lru_cache(maxsize=16)
def _read(path: str, changed: float) -> TrainedParts:  # noqa: ARG001 - a file that changed is read anew
    return _parts(read_yaml(path))


def read_trained_parts(path: str | Path) -> TrainedParts:
    """The parts that a YAML file states; ``InputError`` names file, line and field."""
    place = Path(path)
    return _read(str(place), place.stat().st_mtime if place.is_file() else 0.0)


def parts_from_data(data: Any, file: str, name: str) -> TrainedParts:
    """The parts that plain data with the keys of a file state; ``InputError`` names file and field."""
    return replace(_parts(Document(file, data, {}, {})), name=name)


def _parts(document: Document) -> TrainedParts:
    data = document.data
    if not isinstance(data, Mapping):
        raise bad_input("expected keys such as trainable:", file=document.file, line=1)
    problems = [
        Problem(
            f"unknown key {key!r}; known: {', '.join(_KEYS)}", document.file, document.line_of((key,)), str(key),
            nearest(str(key), list(_KEYS)),
        )
        for key in data
        if key not in _KEYS
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    reader = _Reader(document)
    rules = reader.rules(data.get("trainable"))
    adapters = reader.adapters(data.get("adapters"))
    if not rules and adapters is None and not data.get("forward_only"):
        raise bad_input(
            "names nothing to train; expected trainable: or adapters:", file=document.file, line=1
        )
    base = reader.word("base", "")
    if base:
        try:
            dtype_bits(base)
        except InputError as error:
            raise reader.wrong(error.problems[0].message, "base") from None
    return TrainedParts(
        rules, adapters, base, reader.flag("double"), reader.flag("paged"), reader.saved(data.get("saved")),
        reader.flag("forward_only"), reader.count("copies"), name=Path(document.file).stem,
    )  # fmt: skip


class _Reader:
    """Reads a file's values and says where one is wrong."""

    def __init__(self, document: Document) -> None:
        self.document, self.data = document, document.data

    def wrong(self, message: str, *path: str) -> InputError:
        """An error at a path of the file."""
        return bad_input(
            message, file=self.document.file, line=self.document.line_of(path), path=".".join(path)
        )

    def rules(self, value: Any) -> tuple[tuple[str, WeightMethod], ...]:
        """Patterns and their methods; a list of patterns trains them in full."""
        if value is None:
            return ()
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            value = dict.fromkeys(map(str, value), "full")
        if not isinstance(value, Mapping):
            raise self.wrong(f"found {value!r}; expected patterns and their methods", "trainable")
        return tuple((str(pattern), self.method(str(pattern), given)) for pattern, given in value.items())

    def method(self, pattern: str, value: Any) -> WeightMethod:
        """A method's name, or its fields."""
        if isinstance(value, str):
            value = {"method": value}
        if not isinstance(value, Mapping):
            raise self.wrong(f"found {value!r}; expected a method or its fields", "trainable", pattern)
        return self._built(WeightMethod, value, "trainable", pattern)

    def adapters(self, value: Any) -> AdapterRule | None:
        """Adapters by their fields."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(f"found {value!r}; expected rank, targets, dropout", "adapters")
        given = dict(value)
        targets = given.get("targets", AdapterRule().targets)
        given["targets"] = (targets,) if isinstance(targets, str) else tuple(map(str, targets or ()))
        return self._built(AdapterRule, given, "adapters")

    def _built(self, cls: type[Built], value: Mapping[Any, Any], *path: str) -> Built:
        known = {item.name: item for item in fields(cls)}
        for key, given in value.items():
            if key not in known:
                hint = nearest(str(key), list(known))
                more = f" (did you mean {hint!r}?)" if hint else ""
                raise self.wrong(f"unknown field {key!r}; known: {', '.join(known)}{more}", *path, str(key))
            default = getattr(cls(), key)
            wide = isinstance(default, float) and isinstance(given, int) and not isinstance(given, bool)
            if not wide and type(given) is not type(default):
                expected = type(default).__name__
                raise self.wrong(f"found {given!r}; expected {expected}", *path, str(key))
        try:
            return cls(**value)
        except InputError as error:
            raise self.wrong(error.problems[0].message, *path, error.problems[0].path or "") from None

    def saved(self, value: Any) -> tuple[tuple[str, float], ...]:
        """Bits of what is kept, by operator kind."""
        if value is None:
            return ()
        if not isinstance(value, Mapping):
            raise self.wrong(f"found {value!r}; expected kinds of operators and bits", "saved")
        found = []
        for kind, bits in value.items():
            if kind not in KINDS:
                hint = nearest(str(kind), list(KINDS))
                more = f" (did you mean {hint!r}?)" if hint else ""
                raise self.wrong(f"unknown operator kind {kind!r}{more}", "saved", str(kind))
            if isinstance(bits, bool) or not isinstance(bits, int | float) or not 1 <= bits <= 32:
                raise self.wrong(f"found {bits!r}; expected 1 to 32 bits", "saved", str(kind))
            found.append((str(kind), float(bits)))
        return tuple(found)

    def word(self, key: str, default: str) -> str:
        """A text."""
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(f"found {value!r}; expected a word", key)
        return value

    def flag(self, key: str) -> bool:
        """Yes or no."""
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(f"found {value!r}; expected true or false", key)
        return value

    def count(self, key: str) -> int:
        """A whole number."""
        value = self.data.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_COPIES:
            raise self.wrong(f"found {value!r}; expected 0 to {_MOST_COPIES}", key)
        return value
