"""Prices of devices and machines change within months, so one that names its source names its date as well.

A bare price is its author's own: what a machine's owner pays needs no source.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hw_configs.problems import Problem
from hw_configs.yaml_file import Document

__all__ = ["undated_prices"]

_PRICES: Final = ("price", "price_rate")
_EXAMPLE: Final = '{value: 2.5 USD/h, source: "list price of a cloud", date: 2025-06}'


def undated_prices(document: Document) -> list[Problem]:
    """The prices of a file, also of devices held in place, that have a source or assumption and no date."""
    problems = []
    for path in _paths(document.data, ()):
        origin = document.provenance.get(path)
        if origin is not None and not origin.date:
            dotted = ".".join(str(part) for part in path)
            message = f"a price with a source has a date too: {_EXAMPLE}"
            problems.append(Problem(message, document.file, document.line_of(path), dotted))
    return problems


def _paths(data: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, item in items:
        if key in _PRICES and item is not None:
            yield (*path, key)
        elif isinstance(item, dict | list):
            yield from _paths(item, (*path, key))
