"""Whole numbers as people write them on a command line, read once at the border.

Digits alone, of ASCII: what Python's ``int`` takes besides (signs, spaces, ``1_000``, digits of other scripts) is
refused, and so is a number of more digits than any bound here has, which ``int`` would answer with an error of its own.
"""

from __future__ import annotations

from typing import Final

from hw_configs.problems import bad_input

__all__ = ["is_whole", "whole_number"]

MAX_DIGITS: Final = 30


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of at least 0, in digits alone."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def whole_number(text: str, path: str, least: int, most: int) -> int:
    """The number in ``text``; ``InputError`` naming ``path`` when it is none from ``least`` to ``most``.

    >>> whole_number("12", "--jobs", 1, 64)
    12
    """
    if not is_whole(text) or not least <= int(text) <= most:
        raise bad_input(f"found {text[:80]!r}; expected a whole number from {least} to {most}", path=path)
    return int(text)
