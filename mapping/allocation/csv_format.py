"""Reads and writes the MiniMalloc CSV format in all its forms.

Columns: ``id`` (also ``buffer``, ``buffer_id``), ``lower`` and ``upper`` (half-open), or ``start`` (also
``begin``) and ``end``, where ``end`` is the last time in use; ``size``; optionally ``alignment``, ``hint``,
``offset`` (a fixed one) and ``gaps``: blank-separated ``lo-hi`` (not in use) or ``lo-hi@wlo:whi`` (only these
bytes in use). The kind of end decides for gaps as well. Empty optional cells mean "none". Format: the public
repository google/minimalloc, src/converter.cc. Columns beside it say rules (:mod:`mapping.allocation.rule_columns`).
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import integer
from mapping.allocation.problem import AllocationProblem, Buffer, Gap
from mapping.allocation.rule_columns import RULE_COLUMNS, cells_of, rule_cells, rules_of
from mapping.allocation.rules import NO_RULES, Rules

__all__ = ["LARGEST_FILE_BYTES", "parse_csv", "read_text", "to_csv", "write_text"]

LARGEST_FILE_BYTES: Final = 1 << 30
_ALIASES: Final = {"buffer": "id", "buffer_id": "id", "begin": "lower", "start": "lower", "end": "upper"}
_REQUIRED: Final = ("id", "lower", "upper", "size")
_COLUMNS: Final = (*_REQUIRED, "alignment", "hint", "gaps", "offset", *RULE_COLUMNS)
_GAP: Final = re.compile(r"(-?[0-9]+)-(-?[0-9]+)(?:@([0-9]+):([0-9]+))?")
_LARGEST: Final = 2**60
_MOST_PROBLEMS: Final = 50
_ROWS_AT_ONCE: Final = 1 << 16
_SAFE_DIGITS: Final = 18
"""Of a number that is below 2**63 whatever they are."""
Ints = NDArray[np.int64]


def read_text(path: Path) -> str:
    """A file's text; unreadable, huge or undecodable files are bad input."""
    try:
        if path.exists() and not path.is_file():
            raise bad_input("not a file", file=str(path))
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise bad_input(f"is larger than {LARGEST_FILE_BYTES} bytes", file=str(path))
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise bad_input("is not text in UTF-8", file=str(path)) from None
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror or error}", file=str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise bad_input(f"cannot be written: {error.strerror or error}", file=str(path)) from None


def parse_csv(text: str, file: str | None = None, name: str = "") -> AllocationProblem:
    """The problem of a CSV text. Raises ``InputError`` with every problem found, each with its line."""
    plain = _plain_problem(text, name)
    if plain is not None:
        return plain
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise bad_input(f"is not a CSV file: {error}", file=file, line=reader.line_num) from None
    rows = [(line, [cell.strip() for cell in row]) for line, row in rows]
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        raise bad_input("is empty; expected the columns id, lower, upper, size", file=file, line=1)
    columns, inclusive = _header(rows[0][1], file, rows[0][0])
    problems: list[Problem] = []
    buffers: list[Buffer] = []
    seen: dict[str, int] = {}
    for line, row in rows[1:]:
        if len(row) != len(columns):
            problems.append(Problem(f"found {len(row)} fields; expected {len(columns)}", file, line))
        else:
            found = _Row(dict(zip(columns, row, strict=True)), file, line, problems).buffer(inclusive)
            if found is not None:
                if found.id in seen:
                    problems.append(
                        Problem(
                            f"found {found.id!r} again; line {seen[found.id]} has it already",
                            file,
                            line,
                            "id",
                        )
                    )
                seen[found.id] = line
                buffers.append(found)
        if len(problems) >= _MOST_PROBLEMS:
            break
    if problems:
        raise InputError(problems)
    rules = _rules(columns, rows[1:], file, [buffer.id for buffer in buffers])
    try:
        return AllocationProblem.of(buffers, name, rules)
    except InputError as error:
        raise InputError(Problem(p.message, file, p.line, p.path) for p in error.problems) from None


def _rules(
    columns: Sequence[str], rows: Sequence[tuple[int, list[str]]], file: str | None, ids: Sequence[str]
) -> Rules:
    """What the columns of rules say, where there are any."""
    if not set(columns) & set(RULE_COLUMNS):
        return NO_RULES
    cells = [(cells_of(dict(zip(columns, row, strict=True)), split=True), file, line) for line, row in rows]
    return rules_of(cells, ids)


def _plain_problem(text: str, name: str) -> AllocationProblem | None:
    """The problem of a file in which nothing is out of the ordinary, column by column: a million rows in seconds.

    None for any other file: whoever reads it row by row finds what is wrong, and its line.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        columns, inclusive = _header([cell.strip() for cell in header], None, 1)
        if {"gaps", *RULE_COLUMNS} & set(columns):
            return None
        ids: list[str] = []
        parts: dict[str, list[Ints]] = {column: [] for column in columns if column != "id"}
        while rows := list(islice(reader, _ROWS_AT_ONCE)):
            if any(len(row) != len(columns) for row in rows):
                return None
            for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
                if column == "id":
                    ids += [cell.strip() for cell in cells]
                    continue
                figures = _whole_numbers(cells)
                if figures is None:
                    return None
                parts[column].append(figures)
    except (csv.Error, InputError):
        return None
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        return None
    figure = {column: np.concatenate(blocks) for column, blocks in parts.items()}
    absent = np.full(len(ids), -1, np.int64)
    try:
        return AllocationProblem(
            figure["lower"], figure["upper"] + inclusive, figure["size"], figure.get("alignment", absent + 2),
            figure.get("offset", absent), figure.get("hint", absent), {}, ids, name,
        )  # fmt: skip
    except InputError:
        return None


def _whole_numbers(cells: Sequence[str]) -> Ints | None:
    """The figures of cells that hold one to 18 digits each; None where one holds anything else."""
    joint = "".join(cells)
    if not (joint.isascii() and joint.isdigit() and all(cells)) or max(map(len, cells)) > _SAFE_DIGITS:
        return None
    return np.array(cells).astype(np.int64)


def _header(cells: Sequence[str], file: str | None, line: int) -> tuple[list[str], bool]:
    columns = [_ALIASES.get(cell, cell) for cell in cells]
    problems = [
        Problem(
            f"found the column {cell!r}; expected {', '.join(_COLUMNS)}",
            file,
            line,
            None,
            nearest(cell, _COLUMNS),
        )
        for cell, column in zip(cells, columns, strict=True)
        if column not in _COLUMNS
    ]
    problems += [
        Problem(f"the column {column!r} stands twice", file, line)
        for column in sorted({column for column in columns if columns.count(column) > 1})
    ]
    problems += [
        Problem(f"the column {column!r} is missing", file, line)
        for column in _REQUIRED
        if column not in columns
    ]
    if problems:
        raise InputError(problems)
    return columns, "end" in cells


class _Row:
    """One row on its way to a buffer; what is wrong goes to ``problems``."""

    def __init__(self, cells: dict[str, str], file: str | None, line: int, problems: list[Problem]) -> None:
        self._cells, self._file, self._line, self._problems = cells, file, line, problems

    def buffer(self, inclusive: bool) -> Buffer | None:
        before = len(self._problems)
        add = 1 if inclusive else 0
        lower, upper = self._integer("lower"), self._integer("upper")
        if len(self._problems) == before and upper + add < lower:
            self._wrong("upper", f"found {upper}; expected an end that is not before {lower}")
        size = self._integer("size", least=0)
        alignment = self._integer("alignment", least=1, default=1)
        offset = self._integer("offset", least=0, default=-1)
        hint = self._integer("hint", default=-1)
        if not self._cells["id"]:
            self._wrong("id", "found nothing; expected a name")
        gaps = self._gaps(add)
        if len(self._problems) > before:
            return None
        built = Buffer(
            self._cells["id"], lower, upper + add, size, alignment,
            None if offset < 0 else offset, None if hint < 0 else hint, gaps,
        )  # fmt: skip
        try:
            AllocationProblem.of([built])
        except InputError as error:
            self._problems += [
                Problem(problem.message, self._file, self._line, problem.path) for problem in error.problems
            ]
            return None
        return built

    def _integer(self, column: str, least: int | None = None, default: int | None = None) -> int:
        """The figure of a cell; 0 where it is wrong, which then is one of the problems."""
        text = self._cells.get(column, "")
        if not text and default is not None:
            return default
        value = integer(text, -_LARGEST, _LARGEST)
        if value is None:
            self._wrong(column, f"found {text!r}; expected an integer of at most 2**60")
            return 0
        if least is not None and value < least:
            self._wrong(column, f"found {value}; expected at least {least}")
        return value

    def _gaps(self, add: int) -> tuple[Gap, ...]:
        gaps = []
        for entry in self._cells.get("gaps", "").split():
            match = _GAP.fullmatch(entry)
            if match is None:
                self._wrong("gaps", f"found {entry!r}; expected lo-hi or lo-hi@wlo:whi")
                continue
            numbers = [integer(part, -_LARGEST, _LARGEST) for part in match.groups() if part is not None]
            whole = [number for number in numbers if number is not None]
            if len(whole) < len(numbers):
                self._wrong("gaps", f"found {entry!r}; expected integers of at most 2**60")
                continue
            lower, upper, *window = whole
            gaps.append(Gap(lower, upper + add, (window[0], window[1]) if window else None))
        return tuple(gaps)

    def _wrong(self, column: str, message: str) -> None:
        self._problems.append(Problem(message, self._file, self._line, column))


def to_csv(problem: AllocationProblem, offsets: Sequence[int] | None = None) -> str:
    """A problem, and a plan's offsets, as CSV in the half-open form."""
    with_alignment = bool((problem.alignment != 1).any())
    with_hint = bool((problem.hint >= 0).any())
    with_offset = offsets is not None or bool((problem.fixed >= 0).any())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = list(_REQUIRED)
    header += ["alignment"] * with_alignment + ["hint"] * with_hint
    header += ["gaps"] * bool(problem.gaps) + ["offset"] * with_offset
    rules = rule_cells(problem.rules, problem.ids) if problem.rules else {}
    header += list(rules)
    writer.writerow(header)
    rows: list[Iterable[object]] = [
        problem.ids,
        problem.lower.tolist(),
        problem.upper.tolist(),
        problem.size.tolist(),
    ]
    rows += [problem.alignment.tolist()] * with_alignment
    rows += [_or_empty(problem.hint)] * with_hint
    if problem.gaps:
        rows.append(" ".join(map(_gap_text, problem.gaps.get(i, ()))) for i in range(len(problem)))
    if offsets is not None:
        rows.append(int(offset) for offset in offsets)
    elif with_offset:
        rows.append(_or_empty(problem.fixed))
    rows += [[cells.get(i, "") for i in range(len(problem))] for cells in rules.values()]
    writer.writerows(zip(*rows, strict=True))
    return out.getvalue()


def _or_empty(column: Ints) -> list[object]:
    return ["" if value < 0 else value for value in column.tolist()]


def _gap_text(gap: Gap) -> str:
    window = "" if gap.window is None else f"@{gap.window[0]}:{gap.window[1]}"
    return f"{gap.lower}-{gap.upper}{window}"
