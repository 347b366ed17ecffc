"""Quantities with units, parsed once at the border; inside Offchip every figure is a plain SI float.

A file says ``80 GiB``, ``2039 GB/s``, ``14 ns``, ``1.25 V``. The parser checks the dimension, so that
"80 GB/s" where a size belongs is an error and never a number. Decimal prefixes are powers of ten and binary
prefixes powers of two: GB is 1e9 bytes, GiB is 2**30 bytes. ``b`` is a bit and ``B`` a byte, as data sheets
write them. The arithmetic is exact until the last step, so that "14 ns" is the same float as 1.4e-08.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
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

    @property
    def base_unit(self) -> str:
        """The unit of the plain float inside Offchip."""
        special = {"size": "B", "area": "m2", "price": "USD", "price_rate": "USD/s"}
        return special.get(self.name) or self.example.split(" ", 1)[1].lstrip("kKMGTPmunp")


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
    prefix: Fraction(10) ** exponent
    for prefix, exponent in (
        ("", 0), ("k", 3), ("K", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18),
        ("m", -3), ("u", -6), ("µ", -6), ("n", -9), ("p", -12), ("f", -15),
    )
}  # fmt: skip
_BINARY: Final = {
    prefix: Fraction(2) ** exponent
    for prefix, exponent in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50))
}

# unit -> (scale to the base unit, its powers, whether metric prefixes apply)
_UNITS: Final[dict[str, tuple[Fraction, dict[str, int], bool]]] = {
    "B": (Fraction(1), {"byte": 1}, True),
    "b": (Fraction(1, 8), {"byte": 1}, True),
    "bit": (Fraction(1, 8), {"byte": 1}, True),
    "byte": (Fraction(1), {"byte": 1}, False),
    "bytes": (Fraction(1), {"byte": 1}, False),
    "s": (Fraction(1), {"second": 1}, True),
    "min": (Fraction(60), {"second": 1}, False),
    "h": (Fraction(3600), {"second": 1}, False),
    "Hz": (Fraction(1), {"second": -1}, True),
    "V": (Fraction(1), {"volt": 1}, True),
    "A": (Fraction(1), {"ampere": 1}, True),
    "W": (Fraction(1), {"joule": 1, "second": -1}, True),
    "J": (Fraction(1), {"joule": 1}, True),
    "FLOP": (Fraction(1), {"operation": 1}, True),
    "OP": (Fraction(1), {"operation": 1}, True),
    "FLOPS": (Fraction(1), {"operation": 1, "second": -1}, True),
    "OPS": (Fraction(1), {"operation": 1, "second": -1}, True),
    "bps": (Fraction(1, 8), {"byte": 1, "second": -1}, True),
    "Bps": (Fraction(1), {"byte": 1, "second": -1}, True),
    "mm2": (Fraction(1, 10**6), {"metre": 2}, False),
    "um2": (Fraction(1, 10**12), {"metre": 2}, False),
    "USD": (Fraction(1), {"dollar": 1}, False),
}
_NO_SMALL_PREFIX: Final = {"B", "b", "bit", "FLOP", "OP", "FLOPS", "OPS", "bps", "Bps"}

_PREFIXES_FALLING: Final = sorted(
    ((prefix, float(factor)) for prefix, factor in _METRIC.items() if prefix not in ("K", "µ")),
    key=lambda item: -item[1],
)

MAX_CHARACTERS: Final = 64
"""Longer texts are no figures; the bound keeps exact arithmetic cheap on any input."""

_QUANTITY: Final = re.compile(r"\s*([-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*(.*?)\s*$")


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
    if isinstance(text, str) and len(text) > MAX_CHARACTERS:
        raise UnitError(f"found {text[:20] + '...'!r}, a text of {len(text)} characters; {expected}")
    match = _QUANTITY.match(str(text))
    if match is None:
        raise UnitError(f"found {text!r}, which does not start with a number; {expected}")
    digits, unit = match[1].replace("_", ""), match[2]
    magnitude = abs(float(digits))
    # Beyond these an exact fraction would be huge, and no machine has such a figure.
    if not (1e-100 < magnitude < 1e100 or _is_zero(digits)):
        raise UnitError(f"found {text!r}, which is out of every range; {expected}")
    if not unit:
        raise UnitError(f"found {text!r}, a number without a unit; {expected}")
    scale, powers = _parse_unit(unit, str(text), expected)
    if powers != wanted.powers:
        raise UnitError(f"found {text!r}, which is {_describe(powers)}; {expected}")
    exact = Fraction(digits) * scale if magnitude else Fraction(0)
    return _whole_bytes(exact, text, expected) if dimension == "size" else float(exact)


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
                return f"{value / float(factor):.4g} {prefix}B"
        return f"{value:.0f} B"
    if dimension == "price_rate":
        return f"{value * 3600:.4g} USD/h"
    if dimension == "area":
        return f"{value * 1e6:.4g} mm2"
    if dimension == "price":
        return f"{value:.4g} USD"
    unit = DIMENSIONS[dimension].base_unit
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    small = unit.split("/")[0] not in _NO_SMALL_PREFIX
    for prefix, scale in _PREFIXES_FALLING:
        if abs(value) >= scale * 0.99999 and (scale >= 1 or small):
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def _is_zero(digits: str) -> bool:
    return not any(digit in "123456789" for digit in re.split("[eE]", digits)[0])


def _whole_bytes(exact: Fraction, text: object, expected: str) -> float:
    """Sizes are whole bytes; a fraction of a byte is dropped only where it is beyond the figure's digits."""
    whole = round(exact)
    if whole != exact and abs(exact - whole) > abs(exact) / 10**6:
        raise UnitError(f"found {text!r}, which is {float(exact):g} bytes, not a whole number; {expected}")
    return float(whole)


def _parse_unit(unit: str, text: str, expected: str) -> tuple[Fraction, tuple[tuple[str, int], ...]]:
    scale, powers = Fraction(1), dict[str, int]()
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


def _unit_factor(symbol: str) -> tuple[Fraction, dict[str, int]] | None:
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
