"""YAML files as untrusted input: safe, bounded, no duplicate keys, and every value knows its line.

A figure may be written bare (``bandwidth: 2039 GB/s``) or with where it comes from
(``bandwidth: {value: 2039 GB/s, source: data sheet table 1}``; ``assumption:`` instead of ``source:`` marks a
figure nobody published; ``date: 2025-06`` beside either says when it held). The reader folds the second form into
the first and keeps the provenance beside it, so that schemas see plain values and ``offchip hw show``
can print every source.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from hw_configs.problems import InputError, Problem, bad_input

__all__ = ["Document", "Provenance", "read_yaml", "read_yaml_text"]

MAX_FILE_BYTES: Final = 2**18
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 64

_TOO_LARGE: Final = "too large or too deeply nested for a config"
_DATE: Final = re.compile(r"(19|20)\d\d-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")
_TAG: Final = "tag:yaml.org,2002:"
_PLAIN_TAGS: Final = {
    f"{_TAG}{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge")
}

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a figure comes from: a ``source``, or an ``assumption`` where none was published."""

    kind: str
    text: str
    date: str = ""
    """Year and month, and the day if known, in which the figure held; empty where none is given."""


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, the line of every path, and the provenance of figures that carry one."""

    file: str
    data: Any
    lines: dict[Path_, int] = field(repr=False)
    provenance: dict[Path_, Provenance] = field(repr=False)

    def line_of(self, path: Path_) -> int | None:
        """The line of a path, or of its nearest ancestor that stands in the file."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def read_yaml(path: str | Path, tags: Collection[str] = ()) -> Document:
    """Parse a YAML file; raises ``InputError`` with file and line for anything but plain data.

    A mapping with one of the ``tags`` (of other programs' files) gets its tag under the key of that name, ``!``.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise bad_input("not a file", file=str(path))
        if status.st_size > MAX_FILE_BYTES:
            raise bad_input(
                f"found {status.st_size} bytes; a config may have at most {MAX_FILE_BYTES} bytes",
                file=str(path),
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise bad_input("no such file", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise bad_input(f"not a text file (byte {error.start} is not UTF-8)", file=str(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise bad_input(f"cannot be read: {reason}", file=str(path)) from None
    return read_yaml_text(text, str(path), tags)


def read_yaml_text(text: str, file: str, tags: Collection[str] = ()) -> Document:
    """Parse YAML text; ``file`` is the name used in messages."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise bad_input(
            f"not valid YAML: {error.problem or error.context}",
            file=file,
            line=mark.line + 1 if mark else None,
        ) from None
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(str(error.character))
        raise bad_input(
            f"not a text file (character {code:#04x} at position {error.position})", file=file
        ) from None
    except RecursionError:
        raise bad_input(_TOO_LARGE, file=file) from None
    except (yaml.YAMLError, ValueError) as error:
        raise bad_input(f"not valid YAML: {error}", file=file) from None
    if root is None:
        raise bad_input("the file is empty", file=file, line=1)
    reader = _Reader(file, tags)
    data = reader.plain(root, ())
    if reader.problems:
        raise InputError(reader.problems)
    return Document(file, data, reader.lines, reader.provenance)


class _Reader:
    """Turns the node tree of one document into plain data, noting lines and provenance on the way."""

    def __init__(self, file: str, tags: Collection[str]) -> None:
        self.file = file
        self.tags = tags
        self.lines: dict[Path_, int] = {}
        self.provenance: dict[Path_, Provenance] = {}
        self.problems: list[Problem] = []
        self._nodes = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def plain(self, node: yaml.Node, path: Path_) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise bad_input(_TOO_LARGE, file=self.file, line=line)
        # A bare date reads as text; every other tag is an object that a config has no use for.
        if node.tag == f"{_TAG}timestamp":
            return str(node.value)
        if node.tag in self.tags and isinstance(node, yaml.MappingNode):
            return {"!": node.tag, **self._mapping(node, path)}
        if node.tag not in _PLAIN_TAGS:
            shown = node.tag.replace(_TAG, "!!")
            self._problem(f"found the tag {shown!r}; a config holds plain data", line, path)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child, (*path, index)) for index, child in enumerate(node.value)]
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            message = getattr(error, "problem", None) or str(error)
            self._problem(f"cannot be read: {message}", line, path)
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> Any:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem("a key must be a plain word", line, path)
                continue
            key = str(key_node.value)
            if key in result:
                first = self.lines[(*path, key)]
                self._problem(f"duplicate key {key!r}; the first stands on line {first}", line, (*path, key))
                continue
            self.lines[(*path, key)] = line
            result[key] = self.plain(value_node, (*path, key))
        return self._figure(result, path) if "value" in result and path else result

    def _figure(self, mapping: dict[str, Any], path: Path_) -> Any:
        """Fold ``{value, source|assumption}`` into its value; anything else stays a mapping."""
        named = [kind for kind in ("source", "assumption") if kind in mapping]
        extra = [key for key in mapping if key not in ("value", "source", "assumption", "date")]
        if extra and not named:
            return mapping
        line = self.lines[path]
        if extra:
            message = f"a figure has no key {extra[0]!r}; a text with a comma must stand in quotes"
            self._problem(message, line, path)
        if len(named) > 1:
            self._problem("has both 'source' and 'assumption'; one of them holds", line, path)
        date = str(mapping.get("date", ""))
        if "date" in mapping and not _DATE.fullmatch(date):
            message = f"found {date!r}; expected a year and month, such as 2025-06"
            self._problem(message, self.lines[(*path, "date")], (*path, "date"))
        for kind in named:
            text = str(mapping[kind] or "").strip()
            if not text:
                self._problem(f"an empty {kind!r} says nothing", line, path)
            self.provenance[path] = Provenance(kind, text, date)
        return mapping["value"]

    def _problem(self, message: str, line: int, path: Path_) -> None:
        dotted = ".".join(str(part) for part in path)
        self.problems.append(Problem(message, self.file, line, dotted or None))
