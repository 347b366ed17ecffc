"""Numbers as people and programs write them, read once at the border.

Digits alone, of ASCII: what Python's ``int`` takes besides (``1_000``, digits of other scripts) is refused, and what
``str.isdigit`` takes for a digit though ``int`` does not (superscripts) is too. So is a number of more digits than any
bound here has, which ``int`` would answer with an error of its own, or an array of 64-bit numbers with an overflow.
"""

from __future__ import annotations

import math
import re
from typing import Final

from hw_configs.problems import bad_input

__all__ = ["INT64_MOST", "MAX_DIGITS", "decimal", "integer", "is_whole", "whole_number"]

MAX_DIGITS: Final = 30
MAX_CHARACTERS: Final = 400
"""Of a number with a point: the longest finite one, written out, has some 330."""
INT64_MOST: Final = 2**63 - 1

_DECIMAL: Final = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")
_HEXADECIMAL: Final = re.compile(rf"0[xX][0-9a-fA-F]{{1,{MAX_DIGITS}}}")


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of at least 0, in digits alone."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def integer(text: str, least: int, most: int, *, hexadecimal: bool = False) -> int | None:
    """The integer that a cell or word of a file writes, blanks around it allowed; None when it is none in the bounds.

    >>> integer(" -12", -100, 100), integer("0x1F", 0, 64, hexadecimal=True)
    (-12, 31)
    >>> [integer(text, 0, 10**6) for text in ("1_000", "\u00b2", "\u0663", "7e3", "", "9" * 5000)]
    [None, None, None, None, None, None]
    """
    plain = text.strip()
    if _DECIMAL.fullmatch(plain):
        value = int(plain)
    elif hexadecimal and _HEXADECIMAL.fullmatch(plain):
        value = int(plain, 16)
    else:
        return None
    return value if least <= value <= most else None


def decimal(text: str) -> float | None:
    """The finite number that a cell or word of a file writes, in digits of ASCII with a point or exponent if wanted.

    >>> [decimal(text) for text in ("1.5", "-2e3", ".5", "1_000", "nan", "1e999", "\u0663")]
    [1.5, -2000.0, 0.5, None, None, None, None]
    """
    # Python's float reads all that and more; what it takes besides is told by its characters, which is quick.
    if not text.isascii() or "_" in text or len(text) > MAX_CHARACTERS:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole_number(text: str, path: str, least: int, most: int) -> int:
    """The number in ``text``; ``InputError`` naming ``path`` when it is none from ``least`` to ``most``.

    >>> whole_number("12", "--jobs", 1, 64)
    12
    """
    if not is_whole(text) or not least <= int(text) <= most:
        raise bad_input(f"found {text[:80]!r}; expected a whole number from {least} to {most}", path=path)
    return int(text)
