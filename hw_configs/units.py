"""Quantities with units, parsed once at the border; inside Offchip every figure is a plain SI float.

A file says ``80 GiB``, ``2039 GB/s``, ``14 ns``, ``1.25 V``. The parser checks the dimension, so that
"80 GB/s" where a size belongs is an error and never a number. Decimal prefixes are powers of ten and binary
prefixes powers of two: GB is 1e9 bytes, GiB is 2**30 bytes. ``b`` is a bit and ``B`` a byte, as data sheets
write them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["DIMENSIONS", "Dimension", "UnitError", "format_quantity", "parse_quantity"]


class UnitError(ValueError):
    """A quantity that cannot be read: no number, unknown unit, or the wrong dimension."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A physical dimension: its exponents over the base units, and how a person writes it."""

    name: str
    powers: tuple[tuple[str, int], ...]
    example: str


def _powers(**exponents: int) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((unit, power) for unit, power in exponents.items() if power))


DIMENSIONS: Final[dict[str, Dimension]] = {
    dimension.name: dimension
    for dimension in (
        Dimension("size", _powers(byte=1), "80 GiB"),
        Dimension("bandwidth", _powers(byte=1, second=-1), "2039 GB/s"),
        Dimension("time", _powers(second=1), "14 ns"),
        Dimension("frequency", _powers(second=-1), "1.41 GHz"),
        Dimension("voltage", _powers(volt=1), "1.25 V"),
        Dimension("current", _powers(ampere=1), "60 mA"),
        Dimension("power", _powers(joule=1, second=-1), "400 W"),
        Dimension("energy", _powers(joule=1), "20 pJ"),
        Dimension("energy_per_byte", _powers(joule=1, byte=-1), "31 pJ/B"),
        Dimension("energy_per_operation", _powers(joule=1, operation=-1), "0.5 pJ/FLOP"),
        Dimension("operation_rate", _powers(operation=1, second=-1), "312 TFLOP/s"),
        Dimension("area", _powers(metre=2), "826 mm2"),
        Dimension("price", _powers(dollar=1), "15000 USD"),
        Dimension("price_rate", _powers(dollar=1, second=-1), "3.5 USD/h"),
    )
}
"""Every dimension a config may use, by name."""

_METRIC: Final = {
    "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15,
}  # fmt: skip
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}

# unit -> (scale to the base unit, its powers, whether metric prefixes apply)
_UNITS: Final[dict[str, tuple[float, dict[str, int], bool]]] = {
    "B": (1.0, {"byte": 1}, True),
    "b": (0.125, {"byte": 1}, True),
    "bit": (0.125, {"byte": 1}, True),
    "byte": (1.0, {"byte": 1}, False),
    "bytes": (1.0, {"byte": 1}, False),
    "s": (1.0, {"second": 1}, True),
    "min": (60.0, {"second": 1}, False),
    "h": (3600.0, {"second": 1}, False),
    "Hz": (1.0, {"second": -1}, True),
    "V": (1.0, {"volt": 1}, True),
    "A": (1.0, {"ampere": 1}, True),
    "W": (1.0, {"joule": 1, "second": -1}, True),
    "J": (1.0, {"joule": 1}, True),
    "FLOP": (1.0, {"operation": 1}, True),
    "OP": (1.0, {"operation": 1}, True),
    "FLOPS": (1.0, {"operation": 1, "second": -1}, True),
    "OPS": (1.0, {"operation": 1, "second": -1}, True),
    "bps": (0.125, {"byte": 1, "second": -1}, True),
    "Bps": (1.0, {"byte": 1, "second": -1}, True),
    "mm2": (1e-6, {"metre": 2}, False),
    "um2": (1e-12, {"metre": 2}, False),
    "USD": (1.0, {"dollar": 1}, False),
}
_NO_SMALL_PREFIX: Final = {"B", "b", "bit", "FLOP", "OP", "FLOPS", "OPS", "bps", "Bps"}

_QUANTITY: Final = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")


def parse_quantity(text: object, dimension: str) -> float:
    """The SI value of a quantity written with its unit.

    Parameters: ``text`` as it stands in the file (``"80 GiB"``), ``dimension`` a key of :data:`DIMENSIONS`.
    Raises :class:`UnitError` when the text has no number, an unknown unit, no unit, or another dimension.

    >>> parse_quantity("80 GiB", "size")
    85899345920.0
    >>> parse_quantity("16 Gb/s", "bandwidth")
    2000000000.0
    """
    wanted = DIMENSIONS[dimension]
    expected = f"expected a {dimension.replace('_', ' ')} with its unit, such as '{wanted.example}'"
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise UnitError(f"found {text!r}; {expected}")
    match = _QUANTITY.match(str(text))
    if match is None:
        raise UnitError(f"found {text!r}, which does not start with a number; {expected}")
    number, unit = float(match[1].replace("_", "")), match[2]
    if not math.isfinite(number):
        raise UnitError(f"found {text!r}, which is not a finite number; {expected}")
    if not unit:
        raise UnitError(f"found {text!r}, a number without a unit; {expected}")
    scale, powers = _parse_unit(unit, str(text), expected)
    if powers != wanted.powers:
        raise UnitError(f"found {text!r}, which is {_describe(powers)}; {expected}")
    value = number * scale
    return float(round(value)) if dimension == "size" and abs(value - round(value)) < 1e-6 else value


def format_quantity(value: float, dimension: str) -> str:
    """A figure as a person reads it, with a metric prefix (binary for sizes) and its unit.

    >>> format_quantity(2.039e12, "bandwidth")
    '2.039 TB/s'
    >>> format_quantity(85899345920, "size")
    '80 GiB'
    """
    if dimension == "size":
        for prefix, factor in reversed(_BINARY.items()):
            if abs(value) >= factor:
                return f"{value / factor:.4g} {prefix}B"
        return f"{value:.0f} B"
    if dimension == "price_rate":
        return f"{value * 3600:.4g} USD/h"
    if dimension == "area":
        return f"{value * 1e6:.4g} mm2"
    if dimension == "price":
        return f"{value:.4g} USD"
    unit = DIMENSIONS[dimension].example.split(" ", 1)[1].lstrip("kKMGTPmunp")
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    for prefix, factor in sorted(
        ((p, f) for p, f in _METRIC.items() if p not in ("K", "µ")), key=lambda item: -item[1]
    ):
        if abs(value) >= factor * 0.99999:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def _parse_unit(unit: str, text: str, expected: str) -> tuple[float, tuple[tuple[str, int], ...]]:
    scale, powers = 1.0, dict[str, int]()
    for position, factor in enumerate(unit.split("/")):
        found = _unit_factor(factor.strip())
        if found is None:
            raise UnitError(f"found {text!r} with the unknown unit {factor.strip()!r}; {expected}")
        factor_scale, factor_powers = found
        sign = 1 if position == 0 else -1
        scale *= factor_scale**sign
        for base, power in factor_powers.items():
            powers[base] = powers.get(base, 0) + sign * power
    return scale, _powers(**powers)


def _unit_factor(symbol: str) -> tuple[float, dict[str, int]] | None:
    if symbol in _UNITS:
        scale, powers, _ = _UNITS[symbol]
        return scale, powers
    for prefix, factor in _BINARY.items():
        if symbol.startswith(prefix) and symbol[2:] in ("B", "b", "bit"):
            scale, powers, _ = _UNITS[symbol[2:]]
            return factor * scale, powers
    for prefix, factor in _METRIC.items():
        rest = symbol[len(prefix) :]
        if prefix and symbol.startswith(prefix) and rest in _UNITS:
            scale, powers, prefixed = _UNITS[rest]
            if prefixed and not (factor < 1 and rest in _NO_SMALL_PREFIX):
                return factor * scale, powers
    return None


def _describe(powers: tuple[tuple[str, int], ...]) -> str:
    for dimension in DIMENSIONS.values():
        if dimension.powers == powers:
            name = dimension.name.replace("_", " ")
            return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    return "of another dimension"
