"""Tables of single operators: one row per operator and shape, as benchmark collections publish them.

A row names an operator (gemm, attention_decode, silu_mul, all_reduce, ...) and its shape in the columns that
this operator needs; other cells may be blank and other columns missing. Each row becomes an
:class:`~workloads.graph.Operator` of typed work and compulsory bytes, beside its measured time if it has one. A
table names no tensors, so the bytes are those of no named one.

Two kinds of trouble are kept apart. A cell that is wrong in itself (text for a number, a negative size) is
bad input: all such cells are reported at once with file and line. A row that is well formed but says what
Offchip has no operator for is kept, with the reason in ``problem``, so that nobody loses it silently.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import decimal
from workloads.graph import Operator
from workloads.operator_table import attention, collectives, experts, linear_attention, products, rows
from workloads.operator_table.cells import Built, Cells, Rule, UnfitError
from workloads.operators import Activation, CollectiveWork, Message, Norm, Rotary

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

__all__ = ["COLUMNS", "OPS", "OperatorTable", "TableRow", "read_operator_table"]

MAX_FILE_BYTES: Final = 1 << 30
MAX_ROWS: Final = 5_000_000

_COUNTS: Final = (
    "tp", "m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "v_head_dim", "q_len", "kv_len", "window",
    "sink_tokens", "block",
    "groups", "active", "touched", "in_channels", "out_channels", "height", "width", "kernel_h", "kernel_w", "stride_h",
    "stride_w", "out_height", "out_width", "bytes", "n_devices", "devices_per_node", "node_size",
    "tokens", "hidden", "inter", "experts", "top_k", "ep",
)  # fmt: skip
_ZERO_FOR_NONE: Final = ("window", "sink_tokens")
_FIGURES: Final = ("median_us", "min_us", "std_us")
_TEXTS: Final = (
    "id", "gpu", "source", "op", "label", "model", "dtype", "weight_dtype", "kv_dtype", "to_dtype", "causal",
    "sink_logits", "gated", "scales", "kernel", "grid", "distribution", "timing",
)  # fmt: skip
_ADDED: Final = ("predicted_us", "launch_us", "energy_j", "bound_by", "note")
COLUMNS: Final = (*_TEXTS, *_COUNTS, *_FIGURES, *_ADDED)
"""Every column Offchip knows; any other column of a table is carried along unread."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row. ``operator`` is None where ``problem`` says why the row cannot be expressed.

    ``measured_us`` is what ``timing`` says was timed. ``cells`` holds the row's text by column. ``then``: operators
    that run after ``operator``, within the measured time. ``note``: what was assumed where the row leaves it open.
    """

    id: str
    line: int
    gpu: str
    op: str
    timing: str
    operator: Operator | None
    measured_us: float | None
    problem: str
    cells: Mapping[str, str]
    then: tuple[Operator, ...] = ()
    note: str = ""

    @property
    def exchanged_bytes(self) -> int:
        """Bytes that a collective or message exchanges; 0 for any other operator."""
        work = self.operator.work if self.operator is not None else None
        return work.bytes if isinstance(work, CollectiveWork | Message) else 0


@dataclass(frozen=True)
class OperatorTable:
    """The rows of a file, and its columns in the file's order."""

    file: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_operator_table(path: str | Path) -> OperatorTable:
    """The rows of a CSV file of operators, in the file's order.

    Raises ``InputError`` with every problem of the file: no header, no column ``op``, misspelt or doubled
    columns, rows of the wrong length, cells that are not what their column holds.
    """
    file = Path(path)
    if not file.is_file():
        raise bad_input("no such file", file=str(path))
    if file.stat().st_size > MAX_FILE_BYTES:
        raise bad_input(f"larger than {MAX_FILE_BYTES} bytes", file=str(path))
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return _read(csv.reader(stream, strict=True), str(path))
    except UnicodeDecodeError as error:
        raise bad_input(f"not UTF-8 text (byte {error.start})", file=str(path)) from None
    except csv.Error as error:
        raise bad_input(f"not a CSV table: {error}", file=str(path)) from None


def _read(reader: CsvReader, file: str) -> OperatorTable:
    header = next(reader, None)
    if not header or not any(header):
        raise bad_input("the file is empty; expected a header of column names", file=file, line=1)
    columns = tuple(name.strip() for name in header)
    problems = list(_header_problems(columns, file))
    rows: list[TableRow] = []
    if not problems:
        for cells in reader:
            if any(cells):
                rows.append(_row(columns, cells, file, reader.line_num, problems))
            if len(rows) > MAX_ROWS:
                raise bad_input(f"more than {MAX_ROWS} rows", file=file, line=reader.line_num)
    if not problems:
        problems += _doubled_ids(rows, file)
    if problems:
        raise InputError(problems)
    return OperatorTable(file, columns, tuple(rows))


def _header_problems(columns: tuple[str, ...], file: str) -> list[Problem]:
    problems = []
    for index, name in enumerate(columns):
        near = nearest(name, COLUMNS)
        if name in columns[:index]:
            problems.append(Problem("the column appears twice", file, 1, name))
        elif name not in COLUMNS and near is not None and near not in columns:
            problems.append(Problem(f"unknown column {name!r}", file, 1, suggestion=near))
    if "op" not in columns and not problems:
        problems.append(Problem("no column 'op'; expected a table of operators", file, 1))
    return problems


def _doubled_ids(rows: list[TableRow], file: str) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for row in rows:
        if row.id in first:
            problems.append(
                Problem(f"id {row.id!r} stands in line {first[row.id]} as well", file, row.line, "id")
            )
        first.setdefault(row.id, row.line)
    return problems


def _row(
    columns: tuple[str, ...], cells: list[str], file: str, line: int, problems: list[Problem]
) -> TableRow:
    if len(cells) != len(columns):
        problems.append(Problem(f"found {len(cells)} cells; expected {len(columns)}", file, line))
        cells = [*cells, *[""] * len(columns)][: len(columns)]
    table = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
    counts: dict[str, int] = {}
    for name in _COUNTS:
        if table.get(name) and not (name in _ZERO_FOR_NONE and table[name] == "0"):
            count = _count(table[name])
            if count is None:
                message = f"found {table[name]!r}; expected a whole number of 1 or more"
                problems.append(Problem(message, file, line, name))
            else:
                counts[name] = count
    measured: float | None = None
    for name in _FIGURES:
        if table.get(name):
            figure = _figure(table[name])
            if figure is None or (name == "median_us" and figure == 0):
                message = f"found {table[name]!r}; expected microseconds above zero"
                problems.append(Problem(message, file, line, name))
            elif name == "median_us":
                measured = figure
    operators, trouble, note = _operators(table, counts)
    identity = table.get("id") or f"line {line}"
    return TableRow(
        identity,
        line,
        table.get("gpu", ""),
        table.get("op", ""),
        table.get("timing", ""),
        operators[0] if operators else None,
        measured,
        trouble,
        table,
        operators[1:],
        note,
    )


def _count(text: str) -> int | None:
    value = decimal(text)
    return int(value) if value is not None and value == int(value) and 1 <= value < 2**62 else None


def _figure(text: str) -> float | None:
    value = decimal(text)
    return value if value is not None and value >= 0 else None


OPS: Final[dict[str, Rule]] = {
    **products.OPS, **experts.OPS, **attention.OPS, **linear_attention.OPS, **rows.OPS, **collectives.OPS,
}  # fmt: skip
"""Operator names of a table and what they mean."""

# vidur profiled the layer kernels of vLLM's first releases, which move one element per thread.
_SCALAR_KERNELS: Final = frozenset({"vidur"})


def _operators(text: Mapping[str, str], counts: Mapping[str, int]) -> tuple[tuple[Operator, ...], str, str]:
    """The operators of a row, why there are none, and what was assumed."""
    op = text.get("op", "")
    if op not in OPS:
        hint = nearest(op, OPS)
        return (), f"no rule for operator {op!r}" + (f", perhaps {hint!r}" if hint else ""), ""
    try:
        cells = Cells(text, counts)
        built = OPS[op](cells)
    except UnfitError as trouble:
        return (), f"{op}: {trouble}", ""
    return tuple(_operator(op, part, cells) for part in (built, *built.then)), "", built.note


def _operator(op: str, built: Built, cells: Cells) -> Operator:
    work = built.work
    if (
        cells.text.get("source", "") in _SCALAR_KERNELS
        and isinstance(work, Norm | Activation | Rotary)
        and op != "gelu"
    ):
        work = replace(work, vectorised=False)
    return Operator(
        op, work, (), (), dtype=built.dtype or cells.dtype,
        beside_read=built.read_bytes, beside_written=built.write_bytes, residency=built.residency,
    )  # fmt: skip
