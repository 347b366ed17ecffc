"""JSON files as untrusted input: bounded, no duplicate keys, and every value can name its line.

The standard parser reads the values; it does not say where they stand. Lines are needed only when something
is wrong, so a second, slower walk over the text finds them then.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input

__all__ = ["JsonDocument", "JsonPath", "read_json", "read_json_text"]

MAX_FILE_BYTES: Final = 512 * 2**20
"""A graph of a million operators fits; a file for which less is enough gives its own bound."""

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|\n|[^\s{}\[\]:,"]+', re.DOTALL)

MAX_DIGITS: Final = 100
"""Of an integer: no figure has more, and longer ones are slow to read and fit no float."""
_LONG: Final = re.compile(rf"[0-9]{{{MAX_DIGITS}}}")

JsonPath = tuple[str | int, ...]


@dataclass(frozen=True)
class JsonDocument:
    """A parsed file: plain data, and the line of every path on demand."""

    file: str
    data: Any
    text: str = field(repr=False)

    @cached_property
    def _marks(self) -> tuple[dict[JsonPath, int], list[tuple[JsonPath, int, int]]]:
        return _walk(self.text)

    @property
    def lines(self) -> dict[JsonPath, int]:
        """The line on which each path first stands."""
        return self._marks[0]

    @property
    def duplicates(self) -> list[tuple[JsonPath, int, int]]:
        """Keys given twice: path, line of the repetition, line of the first."""
        return self._marks[1]

    def line_of(self, path: JsonPath) -> int | None:
        """The line of a path, or of its nearest ancestor that stands in the file."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def problem(self, path: JsonPath, message: str, suggestion: str | None = None) -> Problem:
        """A problem that stands at a path."""
        return Problem(message, self.file, self.line_of(path), ".".join(map(str, path)) or None, suggestion)


def read_json(path: str | Path, max_bytes: int = MAX_FILE_BYTES, infinite: bool = False) -> JsonDocument:
    """Parse a JSON file of at most ``max_bytes``; raises ``InputError`` with file and line otherwise.

    ``infinite``: Infinity and NaN are numbers, as Python writes them.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise bad_input("not a file", file=str(path))
        size = path.stat().st_size
        if size > max_bytes:
            raise bad_input(
                f"found {size} bytes; expected at most {max_bytes} bytes in a file of this kind",
                file=str(path),
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise bad_input("no such file", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise bad_input(f"cannot be read: {error}", file=str(path)) from None
    return read_json_text(text, str(path), infinite)


def read_json_text(text: str, file: str = "<json>", infinite: bool = False) -> JsonDocument:
    """Parse JSON text; ``file`` is the name used in messages, ``infinite`` as in :func:`read_json`."""
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            repeated.append(items[0][0])
        return result

    def whole(digits: str) -> int:
        many = len(digits.lstrip("-"))
        if many > MAX_DIGITS:
            line = text.count("\n", 0, text.find(digits)) + 1
            message = f"not valid JSON: found an integer of {many} digits; expected at most {MAX_DIGITS}"
            raise bad_input(message, file=file, line=line)
        return int(digits)

    def constant(name: str) -> float:
        if infinite:
            return float(name)
        raise ValueError(f"{name} is not JSON")

    if not text.strip():
        raise bad_input("the file is empty", file=file, line=1)
    # A hook makes a large file slow to read, so only a text with a long run of digits gets one.
    long = whole if _LONG.search(text) else None
    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=long)
    except json.JSONDecodeError as error:
        raise bad_input(f"not valid JSON: {error.msg}", file=file, line=error.lineno) from None
    except ValueError as error:
        raise bad_input(f"not valid JSON: {error}", file=file) from None
    except RecursionError:
        raise bad_input("not a config: nested too deeply", file=file) from None
    document = JsonDocument(file, data, text)
    if repeated:
        raise InputError(
            Problem(
                f"duplicate key {path[-1]!r}; the first stands on line {first}",
                file,
                line,
                ".".join(map(str, path)),
            )
            for path, line, first in document.duplicates
        )
    return document


def _walk(text: str) -> tuple[dict[JsonPath, int], list[tuple[JsonPath, int, int]]]:
    """Lines of all paths of a valid JSON text, and the keys that stand twice in one object."""
    lines: dict[JsonPath, int] = {(): 1}
    duplicates: list[tuple[JsonPath, int, int]] = []
    path: list[str | int] = []
    containers: list[str] = []
    expects_key = False
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "\n":
            line += 1
        elif token in "{[":
            if containers and containers[-1] == "[":
                lines.setdefault(tuple(path), line)
            containers.append(token)
            path.append(0 if token == "[" else "")
            expects_key = token == "{"
            if token == "[":
                lines.setdefault(tuple(path), line)
        elif token in "}]":
            containers.pop()
            path.pop()
            expects_key = False
        elif token == ",":
            if containers[-1] == "[":
                path[-1] = int(path[-1]) + 1
            expects_key = containers[-1] == "{"
        elif token == ":":
            expects_key = False
        elif expects_key:
            path[-1] = json.loads(token)
            where = tuple(path)
            if where in lines:
                duplicates.append((where, line, lines[where]))
            lines.setdefault(where, line)
        elif containers and containers[-1] == "[":
            lines.setdefault(tuple(path), line)
    return lines, duplicates
