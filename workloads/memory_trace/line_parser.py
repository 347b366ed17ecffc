"""Reads ordinary lines of a trace straight from bytes, a block at a time.

Only what every trace is full of is understood here: plain decimal or 0x numbers, known words for read and write,
spaces or commas. The parser stops before a line that holds anything else, and the reader takes that one line
in plain Python, which knows what is wrong with it or what unusual thing it says.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled

__all__ = ["ADDRESS", "CYCLE", "DIRECTION", "SIZE", "LineForm", "Parsed", "pack_words", "parse_lines"]

ADDRESS, DIRECTION, CYCLE, SIZE = 0, 1, 2, 3
"""What a column holds."""

_LONGEST = 10**17
"""Decimal numbers at least this large, and hexadecimal ones of 15 digits, are left to plain Python."""
_LARGEST = 1 << 20
"""A size beyond this is none; plain Python says so."""


def pack_words(words: Mapping[int, Iterable[str]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The words for read (0) and write (1), each as the eight bytes of its upper-case spelling."""
    packed, values = [], []
    for value, names in sorted(words.items()):
        for name in sorted(names):
            if len(name) <= 8:
                packed.append(int.from_bytes(name.encode("ascii"), "little", signed=False))
                values.append(value)
    return np.array(packed, np.uint64).view(np.int64), np.array(values, np.uint8)


class LineForm(NamedTuple):
    """What each column holds, whether commas part them, and the words of :func:`pack_words` with their meanings."""

    columns: npt.NDArray[np.int64]
    comma: bool
    words: npt.NDArray[np.int64]
    meanings: npt.NDArray[np.uint8]


class Parsed(NamedTuple):
    """The arrays that lines are parsed into, one place per request."""

    address: npt.NDArray[np.int64]
    write: npt.NDArray[np.uint8]
    arrival: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]


@compiled
def parse_lines(text, start, end, form: LineForm, into: Parsed, filled):
    """Take whole lines of ``text[start:end]`` until one is not ordinary, or the arrays are full.

    Returns where the first line not taken begins, the number of requests in the arrays, and the number of lines passed.
    """
    columns, comma, words, meanings = form
    address, write, arrival, size = into
    lines = 0
    while filled < address.size:
        at = start
        ordinary = True
        for column in range(columns.size):
            while at < end and (text[at] == 32 or text[at] == 9):
                at += 1
            kind = columns[column]
            first = at
            value = 0
            if kind == DIRECTION:
                shift = 0
                while at < end and text[at] > 32 and text[at] != 44 and text[at] < 127:
                    letter = np.int64(text[at])
                    if 97 <= letter <= 122:
                        letter -= 32
                    value |= letter << shift
                    shift += 8
                    at += 1
                if at - first > 8:
                    ordinary = False
                found = -1
                for k in range(words.size):
                    if words[k] == value:
                        found = meanings[k]
                ordinary = ordinary and found >= 0
                write[filled] = max(found, 0)
            else:
                if at + 1 < end and text[at] == 48 and (text[at + 1] | 32) == 120:
                    at += 2
                    first = at
                    while at < end:
                        digit = np.int64(text[at])
                        if 48 <= digit <= 57:
                            digit -= 48
                        elif 97 <= (digit | 32) <= 102:
                            digit = (digit | 32) - 87
                        else:
                            break
                        value = (value << 4) | digit
                        at += 1
                    if at - first > 14:
                        ordinary = False
                else:
                    while at < end and 48 <= text[at] <= 57:
                        value = value * 10 + (np.int64(text[at]) - 48)
                        if value >= _LONGEST:
                            ordinary = False
                            value = 0
                        at += 1
                if at == first:
                    ordinary = False
                if kind == ADDRESS:
                    address[filled] = value
                elif kind == CYCLE:
                    arrival[filled] = value
                else:
                    size[filled] = value
                    if value < 1 or value > _LARGEST:
                        ordinary = False
            if not ordinary:
                break
            # A column ends with a space or a comma, as the format has it; the last one with the line.
            last = column == columns.size - 1
            spaces = 0
            while at < end and (text[at] == 32 or text[at] == 9 or (last and text[at] == 13)):
                at += 1
                spaces += 1
            if last:
                ordinary = at < end and text[at] == 10
            elif comma:
                ordinary = at < end and text[at] == 44
                at += 1
            else:
                ordinary = spaces > 0
            if not ordinary:
                break
        if not ordinary:
            break
        start = at + 1
        filled += 1
        lines += 1
    return start, filled, lines
