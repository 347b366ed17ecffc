"""Keywords into a frozen class of options: names that are no field are refused with the nearest one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from hw_configs.problems import InputError, Problem, nearest

__all__ = ["from_keywords", "insist_on_known"]

Options = TypeVar("Options")


def insist_on_known(names: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """``InputError`` for each name that is not known."""
    problems = [
        Problem("unknown option", path=name, suggestion=nearest(name, known))
        for name in names
        if name not in known
    ]
    if problems:
        raise InputError(problems)


def from_keywords(cls: type[Options], values: Mapping[str, Any]) -> Options:
    """The options; ``InputError`` for names that are no field, and for whatever the class refuses."""
    insist_on_known(values, tuple(field.name for field in fields(cls)))  # type: ignore[arg-type]
    return cls(**values)
