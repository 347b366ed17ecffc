"""A sweep as one table: Parquet for programs, CSV for everything else. Rows in the order of the points."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hw_configs.problems import bad_input
from offchip.sweep.store import Row, Store

__all__ = ["columns_of", "export"]

FIXED = ("stage", "number", "status", "reason", "key")


def columns_of(rows: Sequence[Row]) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of all columns, and a dict per row; a parameter that shares a figure's name gets ``parameter:``."""
    parameters = list(dict.fromkeys(name for row in rows for name in row.parameters))
    figures = list(dict.fromkeys(name for row in rows for name in row.figures))
    taken = {*FIXED, *figures}
    title = {name: f"parameter:{name}" if name in taken else name for name in parameters}
    records = [
        {
            **{name: getattr(row, name) for name in FIXED},
            **{title[name]: value for name, value in row.parameters.items()},
            **row.figures,
        }
        for row in rows
    ]
    return [*FIXED, *title.values(), *sorted(figures)], records


def export(store: Store, path: Path) -> int:
    """Write all rows to ``.csv`` or ``.parquet``; the number of rows. The file appears whole or not at all."""
    rows = list(store.rows())
    names, records = columns_of(rows)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        _write(path, text.getvalue().encode())
    elif path.suffix == ".parquet":
        _write(path, _parquet(names, records))
    else:
        raise bad_input(f"found {path.name!r}; expected a name that ends in .csv or .parquet", path="--out")
    return len(rows)


def _parquet(names: list[str], records: list[dict[str, Any]]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise bad_input("Parquet needs pyarrow: pip install 'offchip[results]'", path="--out") from None
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        if any(isinstance(value, float) for value in values):
            values = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
        if len({type(value) for value in values if value is not None}) > 1:
            values = [None if value is None else str(value) for value in values]
        columns[name] = pyarrow.array(values)
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def _write(path: Path, data: bytes) -> None:
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        with suppress(OSError):
            Path(temporary).unlink()
        raise bad_input(f"cannot be written: {error.strerror}", file=str(path)) from None
