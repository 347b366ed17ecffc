"""Reads ordinary lines of text program traces straight from bytes: numbers, one letter, separators.

The parser stops before a line that holds anything else or does not fit the format, and the reader takes that one line
in plain Python, which knows what is wrong with it or what unusual thing it says.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled

__all__ = ["SHAPES", "parse_program_lines"]

NUMBER, HEXADECIMAL, LETTER = 0, 1, 2
"""What a field of a line is."""
BLANK, COMMA, COLON, END = 0, 1, 2, 3
"""What follows a field: blanks, a comma, a colon (blanks around the last two allowed), the end of the line."""

SHAPES: Final[dict[str, tuple[tuple[tuple[int, int], ...], ...]]] = {
    "ramulator": (
        ((NUMBER, BLANK), (NUMBER, END)),
        ((NUMBER, BLANK), (NUMBER, BLANK), (NUMBER, END)),
    ),
    "pin": (
        ((NUMBER, COLON), (LETTER, BLANK), (NUMBER, END)),
        ((NUMBER, COLON), (LETTER, BLANK), (NUMBER, BLANK), (NUMBER, END)),
    ),
    "lackey": (((LETTER, BLANK), (HEXADECIMAL, COMMA), (NUMBER, END)),),
    "gem5": (
        ((LETTER, COMMA), (NUMBER, COMMA), (NUMBER, COMMA), (NUMBER, COMMA), (NUMBER, END)),
        ((LETTER, COMMA), (NUMBER, COMMA), (NUMBER, COMMA), (NUMBER, COMMA), (NUMBER, COMMA), (NUMBER, END)),
    ),
}  # fmt: skip
"""The ordinary lines of each format: fields, and what follows each."""


@compiled
def _field(text, at, end, kind):
    """The value of a field, where it ends, and whether it is one: at most 15 digits, one letter."""
    value, first = 0, at
    if kind == LETTER:
        if at < end and text[at] > 32:
            return np.int64(text[at]), at + 1, True
        return value, at, False
    hexadecimal = kind == HEXADECIMAL
    if at + 1 < end and text[at] == 48 and (text[at + 1] | 32) == 120:
        hexadecimal = True
        at += 2
        first = at
    while at < end:
        digit = np.int64(text[at])
        if 48 <= digit <= 57:
            digit -= 48
        elif hexadecimal and 97 <= (digit | 32) <= 102:
            digit = (digit | 32) - 87
        else:
            break
        value = value * 16 + digit if hexadecimal else value * 10 + digit
        at += 1
        if at - first > 15:
            return value, at, False
    return value, at, at > first


@compiled
def _separator(text, at, end, wanted):
    """Where the next field begins, -1 where something else than wanted follows."""
    blanks = 0
    while at < end and (text[at] == 32 or text[at] == 9 or (wanted == END and text[at] == 13)):
        at += 1
        blanks += 1
    if wanted == BLANK:
        return at if blanks else -1
    mark = 44 if wanted == COMMA else 58 if wanted == COLON else 10
    if at >= end or text[at] != mark:
        return -1
    at += 1
    if wanted != END:
        while at < end and (text[at] == 32 or text[at] == 9):
            at += 1
    return at


@compiled
def parse_program_lines(
    text: npt.NDArray[np.uint8], start: int, shapes: npt.NDArray[np.int64], into: npt.NDArray[np.int64]
):
    """Take whole lines from ``start`` until one is not ordinary or ``into`` is full.

    ``shapes``: of each shape its number of fields, then kind and separator of each. A row of ``into`` is the number of
    fields of a line and their values. Returns where the first line not taken begins, and how many were taken.
    """
    lines, end = 0, text.size
    while lines < into.shape[0] and start < end:
        taken = -1
        for shape in range(shapes.shape[0]):
            at = start
            while at < end and (text[at] == 32 or text[at] == 9):
                at += 1
            fields = shapes[shape, 0]
            into[lines, 0] = fields
            for k in range(fields):
                value, at, right = _field(text, at, end, shapes[shape, 1 + 2 * k])
                into[lines, 1 + k] = value
                at = _separator(text, at, end, shapes[shape, 2 + 2 * k]) if right else -1
                if at < 0:
                    break
            if at >= 0:
                taken = at
                break
        if taken < 0:
            break
        start = taken
        lines += 1
    return start, lines
