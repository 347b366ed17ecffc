"""Prices of devices and machines change within months, so one that names its source names its date as well.

A bare price is its author's own: what a machine's owner pays needs no source. :func:`rent` is what an hour of a device
costs: its rent, or its list price spread over the years that it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from hw_configs.problems import Problem
from hw_configs.yaml_file import Document

__all__ = ["YEARS_OF_USE", "Rent", "rent", "undated_prices"]

_PRICES: Final = ("price", "price_rate")
_EXAMPLE: Final = '{value: 2.5 USD/h, source: "list price of a cloud", date: 2025-06}'


YEARS_OF_USE: Final = 3.0
"""Years over which a bought board is written off; an assumption (clouds write servers off over three to six)."""
SECONDS_A_YEAR: Final = 365.25 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Rent:
    """Dollars per second of a device, and in words what they follow from."""

    usd_per_s: float
    basis: str
    written_off: bool = False
    """Whether it follows from a list price and an assumed time of use."""


def rent(device: object) -> Rent | None:
    """What a device costs while it is used: its rent, else its list price over :data:`YEARS_OF_USE`; None for neither.

    >>> from types import SimpleNamespace
    >>> round(rent(SimpleNamespace(price_rate=None, price=2000.0)).usd_per_s * 3600, 4)
    0.076
    """
    rate, price = getattr(device, "price_rate", None), getattr(device, "price", None)
    if rate is not None:
        return Rent(rate, "price_rate of the device")
    if price is None:
        return None
    words = f"list price of {price:,.0f} USD over {YEARS_OF_USE:g} years of use (an assumption), without power or host"
    return Rent(price / (YEARS_OF_USE * SECONDS_A_YEAR), words, True)


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
