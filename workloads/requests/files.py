"""Requests from files: which format a file has, told from its content, and its requests.

Files may be packed (``.gz``, ``.zst``); they are read as a stream, and end where ``limit`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from hw_configs.problems import bad_input, nearest
from workloads.packed_file import open_text, unreadable_told
from workloads.requests import csv_traces, json_traces
from workloads.requests.rows import Rows
from workloads.requests.table import Requests

__all__ = ["FORMATS", "RequestFile", "read_requests"]

HEAD: Final = 1 << 16
"""Characters in which a format shows itself."""


class _Reader(Protocol):
    def __call__(self, stream: IO[str], rows: Rows, full: csv_traces.Limit) -> tuple[str, ...] | None: ...


FORMATS: Final[dict[str, _Reader]] = {
    "azure": csv_traces.read_azure,
    "burstgpt": csv_traces.read_burstgpt,
    "table": csv_traces.read_table,
    "mooncake": json_traces.read_mooncake,
    "sharegpt": json_traces.read_sharegpt,
    "vllm": json_traces.read_vllm,
}
"""Formats of request files by name."""


@dataclass(frozen=True)
class RequestFile:
    """A file's requests, its format, and how many entries were left out for which reason."""

    requests: Requests
    format: str
    skipped: dict[str, int]


def read_requests(path: str | Path, format: str | None = None, *, limit: int | None = None) -> RequestFile:
    """The requests of a file, at most ``limit``; ``InputError`` with file, line and field for what is wrong."""
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise bad_input(f"found {format!r}; known: {', '.join(FORMATS)}", path="format",
                        suggestion=nearest(format, FORMATS))  # fmt: skip
    if path.is_dir():
        raise bad_input("not a file", file=str(path))
    rows = Rows(str(path))
    with unreadable_told(str(path)):
        if format is None:
            with open_text(path) as stream:
                format = _told(stream.read(HEAD), str(path))
        with open_text(path) as stream:
            adapters = FORMATS[format](
                stream, rows, lambda so_far: limit is not None and len(so_far) >= limit
            )
    return RequestFile(rows.requests(path.name, adapters or ()), format, dict(rows.skipped))


def _told(head: str, file: str) -> str:
    """The format of a file by its beginning."""
    text = head.lstrip("\ufeff \t\r\n")
    if not text:
        raise bad_input("the file is empty", file=file, line=1)
    first = text.splitlines()[0]
    if text[0] == "[":
        return "sharegpt"
    if text[0] == "{":
        return "mooncake" if '"input_length"' in first or '"hash_ids"' in first else "vllm"
    columns = csv_traces.csv_columns(first)
    kinds = {"azure": csv_traces.AZURE, "burstgpt": csv_traces.BURSTGPT, "table": csv_traces.TABLE}
    for name, needed in kinds.items():
        if set(needed) <= set(columns):
            return name
    raise bad_input(
        f"found {first[:80]!r}; expected the first line of a known format ({', '.join(FORMATS)}), or 'format'",
        file=file, line=1,
    )  # fmt: skip
