"""Request traces in CSV: Azure's LLM inference traces, BurstGPT, and a plain table of our own.

Azure: ``TIMESTAMP,ContextTokens,GeneratedTokens`` (github.com/Azure/AzurePublicDataset, 2023 and 2024). BurstGPT:
``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`` in seconds (github.com/HPMLL/BurstGPT);
requests of no response tokens failed there and are left out. Table: ``prompt_tokens,output_tokens`` and, where wanted,
``arrival_s``, ``priority``, ``deadline_s``, ``adapter``, ``after``, ``think_s``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import IO, Final

from hw_configs.problems import bad_input, nearest
from workloads.requests.rows import Rows

__all__ = ["AZURE", "BURSTGPT", "TABLE", "csv_columns", "read_azure", "read_burstgpt", "read_table"]

AZURE: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT: Final = ("Timestamp", "Request tokens", "Response tokens")
TABLE: Final = ("prompt_tokens", "output_tokens")
FURTHER: Final = ("arrival_s", "priority", "deadline_s", "adapter", "after", "think_s")
MOST_CHARACTERS: Final = 1 << 16
"""Of one line; longer ones are no rows of a trace."""

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d{1,12})?(Z|[+-]\d\d:\d\d)?")

Limit = Callable[[Rows], bool]


def csv_columns(line: str) -> list[str]:
    """The names in a header line."""
    try:
        return [cell.strip() for cell in next(csv.reader([line.lstrip("\ufeff")]), [])]
    except csv.Error:
        return []


def _lines(stream: IO[str], file: str) -> Iterator[str]:
    number = 0
    while line := stream.readline(MOST_CHARACTERS):
        number += 1
        if len(line) == MOST_CHARACTERS and not line.endswith("\n"):
            raise bad_input(f"found a line of more than {MOST_CHARACTERS} characters", file=file, line=number)
        yield line.lstrip("\ufeff") if number == 1 else line


def _rows(stream: IO[str], rows: Rows, needed: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Line numbers and cells by column; lines of another length are problems."""
    reader = csv.reader(_lines(stream, rows.file))
    try:
        header = [cell.strip() for cell in next(reader, [])]
        for name in needed:
            if name not in header:
                raise bad_input(f"missing column {name!r}; found {', '.join(header)[:200]}", file=rows.file, line=1,
                                suggestion=nearest(name, header))  # fmt: skip
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if len(cells) != len(header):
                rows.problem(
                    reader.line_num, "", f"{len(cells)} cells", f"{len(header)}, as in the first line"
                )
                continue
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise bad_input(f"not valid CSV: {error}", file=rows.file, line=reader.line_num) from None


def _timestamp(text: str) -> float | None:
    """Seconds since 1970 of a date with time, fractions of any length kept; without a zone UTC."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    zone = "+00:00" if match[4] in (None, "Z") else match[4]
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").timestamp() + float(match[3] or 0)
    except (ValueError, OverflowError):
        return None


def read_azure(stream: IO[str], rows: Rows, full: Limit) -> None:
    """Rows of an Azure LLM inference trace. Requests of no generated tokens are left out and counted."""
    for line, cells in _rows(stream, rows, AZURE):
        if full(rows):
            return
        time = _timestamp(cells["TIMESTAMP"])
        if time is None:
            rows.problem(line, "TIMESTAMP", cells["TIMESTAMP"], "a time such as 2023-11-16 18:15:46.6805900")
        prompt = rows.count(line, "ContextTokens", cells["ContextTokens"], 0)
        output = rows.count(line, "GeneratedTokens", cells["GeneratedTokens"], 0)
        if time is not None and prompt is not None and output is not None:
            _keep(rows, time, prompt, output)


def read_burstgpt(stream: IO[str], rows: Rows, full: Limit) -> None:
    """Rows of a BurstGPT trace."""
    for line, cells in _rows(stream, rows, BURSTGPT):
        if full(rows):
            return
        time = rows.seconds(line, "Timestamp", cells["Timestamp"])
        prompt = rows.count(line, "Request tokens", cells["Request tokens"], 0)
        output = rows.count(line, "Response tokens", cells["Response tokens"], 0)
        if time is not None and prompt is not None and output is not None:
            _keep(rows, time, prompt, output)


def _keep(rows: Rows, time: float, prompt: int, output: int) -> None:
    if prompt < 1 or output < 1:
        rows.skipped["no prompt tokens" if prompt < 1 else "no output tokens (a failure in the trace)"] += 1
    else:
        rows.add(time, prompt, output)


def read_table(stream: IO[str], rows: Rows, full: Limit) -> tuple[str, ...]:
    """Rows of a plain table; returns the adapters' names."""
    adapters: dict[str, int] = {}
    for line, cells in _rows(stream, rows, TABLE):
        if full(rows):
            break
        unknown = [name for name in cells if name not in (*TABLE, *FURTHER)]
        if unknown:
            raise bad_input(
                f"unknown column {unknown[0]!r}; known: {', '.join((*TABLE, *FURTHER))}", file=rows.file, line=1,
                suggestion=nearest(unknown[0], (*TABLE, *FURTHER)),
            )  # fmt: skip
        prompt, output = (rows.count(line, name, cells[name]) for name in TABLE)
        arrival = rows.seconds(line, "arrival_s", cells.get("arrival_s", "0"))
        marks = {
            name: _mark(rows, line, name, cells[name], adapters)
            for name in FURTHER
            if name in cells and name != "arrival_s"
        }
        if prompt is None or output is None or arrival is None or None in marks.values():
            continue
        rows.add(arrival, prompt, output)
        for name, value in marks.items():
            rows.mark(name, value or 0)
    return tuple(adapters)


def _mark(rows: Rows, line: int, name: str, cell: str, adapters: dict[str, int]) -> float | None:
    if name == "adapter":
        return adapters.setdefault(cell.strip(), len(adapters)) if cell.strip() else -1
    if name == "after":
        return rows.count(line, name, cell, -1, len(rows) - 1)
    if name == "priority":
        return rows.count(line, name, cell, -(2**31))
    if name == "deadline_s" and not cell.strip():
        return float("inf")
    return rows.seconds(line, name, cell)
