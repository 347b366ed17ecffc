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
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.dtypes import BITS, size_bytes
from workloads.graph import Operator
from workloads.operators import (
    Activation,
    AllGather,
    AllReduce,
    AllToAll,
    Attention,
    Broadcast,
    CollectiveWork,
    Convolution,
    Copy,
    Elementwise,
    Embedding,
    Gather,
    GroupedProduct,
    Message,
    Norm,
    Product,
    ReduceScatter,
    Rotary,
    Rows,
    Scatter,
    Send,
    Softmax,
    Work,
)

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

__all__ = ["COLUMNS", "OPS", "OperatorTable", "TableRow", "read_operator_table"]

MAX_FILE_BYTES: Final = 1 << 30
MAX_ROWS: Final = 5_000_000

_COUNTS: Final = (
    "tp", "m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "v_head_dim", "q_len", "kv_len", "window",
    "groups", "active", "in_channels", "out_channels", "height", "width", "kernel_h", "kernel_w", "stride_h",
    "stride_w", "out_height", "out_width", "bytes", "n_devices", "devices_per_node", "node_size",
)  # fmt: skip
_FIGURES: Final = ("median_us", "min_us", "std_us")
_TEXTS: Final = (
    "id", "gpu", "source", "op", "label", "model", "dtype", "weight_dtype", "causal", "kernel", "grid",
    "timing",
)  # fmt: skip
_ADDED: Final = ("predicted_us", "launch_us", "energy_j", "bound_by", "note")
COLUMNS: Final = (*_TEXTS, *_COUNTS, *_FIGURES, *_ADDED)
"""Every column Offchip knows; any other column of a table is carried along unread."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row. ``operator`` is None where ``problem`` says why the row cannot be expressed.

    ``measured_us`` is what ``timing`` says was timed. ``cells`` holds the row's text by column.
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
        if table.get(name):
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
    operator, trouble = _operator(table, counts)
    identity = table.get("id") or f"line {line}"
    return TableRow(
        identity,
        line,
        table.get("gpu", ""),
        table.get("op", ""),
        table.get("timing", ""),
        operator,
        measured,
        trouble,
        table,
    )


def _count(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value == int(value) and 1 <= value < 2**62 else None


def _figure(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


class _UnfitError(Exception):
    """The row says something that no operator expresses; the text says what."""


class _Cells:
    """The cells of a row, for the rules below."""

    def __init__(self, text: Mapping[str, str], counts: Mapping[str, int]) -> None:
        self.text, self.counts = text, counts
        self.dtype = text.get("dtype") or "fp16"
        for name in (self.dtype, text.get("weight_dtype") or self.dtype):
            if name not in BITS:
                hint = nearest(name, BITS)
                raise _UnfitError(f"unknown element type {name!r}" + (f", perhaps {hint!r}" if hint else ""))

    def __call__(self, name: str, default: int | None = None) -> int:
        if name in self.counts:
            return self.counts[name]
        if default is None:
            raise _UnfitError(f"no {name}")
        return default

    def size(self, elements: int, dtype: str | None = None) -> int:
        return size_bytes(elements, dtype or self.dtype)

    def narrow(self, weight: str) -> str:
        """The element type of weights, as a product says it: nothing where it is that of the arithmetic."""
        return weight if weight != self.dtype else ""

    def output_dtype(self) -> str:
        """Narrow products are written out in 16 bits, as serving engines do."""
        return self.dtype if BITS[self.dtype] >= 16 else "bf16"


@dataclass(frozen=True, slots=True)
class _Built:
    """What a row means: the work, and the bytes of its operands, which a table does not name."""

    work: Work
    read_bytes: int
    write_bytes: int


def _gemm(c: _Cells) -> _Built:
    m, n, k, batch = c("m"), c("n"), c("k"), c("batch", 1)
    weight = c.text.get("weight_dtype") or c.dtype
    read = batch * (c.size(m * k) + c.size(k * n, weight))
    write = batch * c.size(m * n, c.output_dtype())
    return _Built(Product(m=m, n=n, k=k, batch=batch, weight_dtype=c.narrow(weight)), read, write)


def _grouped_gemm(c: _Cells) -> _Built:
    """``active``: experts that some row reaches."""
    m, n, k, groups = c("m"), c("n"), c("k"), c("groups")
    touched = min(c("active", groups), groups, m)
    weight = c.text.get("weight_dtype") or c.dtype
    read = c.size(m * k) + touched * c.size(k * n, weight)
    work = GroupedProduct(
        m=m, n=n, k=k, groups=groups, expected_groups=float(touched), weight_dtype=c.narrow(weight)
    )
    return _Built(work, read, c.size(m * n, c.output_dtype()))


# LLMServingSim's first profiler calls flash-attn's variable-length kernel, which gives each query head of
# each sequence to one multiprocessor, however long the cache.
_KERNELS_WITHOUT_SPLIT: Final = frozenset({"v0 flash-attn"})


def _attention(c: _Cells) -> _Built:
    batch, heads, dim = c("batch", 1), c("heads"), c("head_dim")
    q_len, v_dim = c("q_len", 1), c("v_head_dim", dim)
    kv_heads = c("kv_heads", heads)
    kv_len = c("kv_len", q_len)
    window = c("window", kv_len)
    causal = c.text.get("causal", "") not in ("0", "false", "False", "no")
    if heads % kv_heads:
        raise _UnfitError(f"{heads} heads cannot share {kv_heads} KV heads evenly")
    if causal and q_len > kv_len:
        raise _UnfitError(f"{q_len} queries see only {kv_len} keys under a causal mask")
    work = Attention(
        batch=batch, heads=heads, kv_heads=kv_heads, head_dim=dim, v_head_dim=v_dim, q_len=q_len, kv_len=kv_len,
        causal=causal, window=window if window < kv_len else 0,
        split_kv=c.text.get("label", "") not in _KERNELS_WITHOUT_SPLIT,
    )  # fmt: skip
    read = c.size(batch * heads * q_len * dim) + c.size(batch * kv_heads * work.seen * (dim + v_dim))
    return _Built(work, read, c.size(batch * heads * q_len * v_dim, c.output_dtype()))


def _conv(c: _Cells) -> _Built:
    batch, groups = c("batch", 1), c("groups", 1)
    c_in, c_out, height, width = c("in_channels"), c("out_channels"), c("height"), c("width")
    kernel_h = c("kernel_h")
    kernel_w, stride_h = c("kernel_w", kernel_h), c("stride_h", 1)
    stride_w = c("stride_w", stride_h)
    out_h = c("out_height", -(-height // stride_h))
    out_w = c("out_width", -(-width // stride_w))
    if c_in % groups or c_out % groups:
        raise _UnfitError(f"{groups} groups do not divide {c_in} and {c_out} channels")
    work = Convolution(
        batch=batch, in_channels=c_in, out_channels=c_out, height=height, width=width, kernel_h=kernel_h,
        kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w, groups=groups, out_height=out_h, out_width=out_w,
    )  # fmt: skip
    weights = c_out * (c_in // groups) * kernel_h * kernel_w
    read = c.size(batch * c_in * height * width) + c.size(weights)
    return _Built(work, read, c.size(batch * c_out * out_h * out_w))


def _pointwise(kind: type[Rows], reads: int, flops_per_element: float) -> Callable[[_Cells], _Built]:
    def build(c: _Cells) -> _Built:
        m, n = c("m"), c("n")
        size = c.size(m * n)
        return _Built(kind(m=m, n=n, flops_per_element=float(flops_per_element)), reads * size, size)

    return build


def _group(c: _Cells) -> int:
    group = c("n_devices", 2)
    if group < 2:
        raise _UnfitError("communication needs n_devices of 2 or more")
    return group


def _collective(kind: type[CollectiveWork]) -> Callable[[_Cells], _Built]:
    def build(c: _Cells) -> _Built:
        size, group = c("bytes"), _group(c)
        return _Built(kind(bytes=size, group=group), size, size)

    return build


def _send(c: _Cells) -> _Built:
    size, _ = c("bytes"), _group(c)
    return _Built(Send(bytes=size, peer=1), size, size)


# FLOPs per element are the arithmetic of the usual formula; none of these operators is bound by it.
_UNARY = _pointwise(Activation, 1, 4)
_BINARY = _pointwise(Elementwise, 2, 1)
_SCALAR = _pointwise(Elementwise, 1, 1)
_NORM = _pointwise(Norm, 1, 5)
OPS: Final[dict[str, Callable[[_Cells], _Built]]] = {
    "gemm": _gemm, "matmul": _gemm, "linear": _gemm, "bmm": _gemm,
    "grouped_gemm": _grouped_gemm, "moe": _grouped_gemm,
    "attention": _attention, "attention_prefill": _attention, "attention_decode": _attention,
    "conv": _conv, "conv2d": _conv,
    "norm": _NORM, "rmsnorm": _NORM, "layernorm": _NORM, "batchnorm": _NORM,
    "softmax": _pointwise(Softmax, 1, 5),
    "silu_mul": _pointwise(Activation, 2, 5), "gelu_mul": _pointwise(Activation, 2, 5),
    "gelu": _UNARY, "relu": _pointwise(Activation, 1, 1), "silu": _UNARY, "tanh": _UNARY, "sigmoid": _UNARY,
    "add": _BINARY, "sub": _BINARY, "mul": _BINARY, "div": _BINARY, "pow": _BINARY,
    "add3": _pointwise(Elementwise, 3, 2),
    "addu": _SCALAR, "subu": _SCALAR, "mulu": _SCALAR, "divu": _SCALAR, "powu": _SCALAR,
    "exp": _SCALAR, "sqrt": _SCALAR, "neg": _SCALAR, "copy": _pointwise(Copy, 1, 0),
    "rotary": _pointwise(Rotary, 1, 3),
    "embedding": _pointwise(Embedding, 1, 0), "gather": _pointwise(Gather, 1, 0),
    "scatter": _pointwise(Scatter, 1, 0),
    "all_reduce": _collective(AllReduce), "allreduce": _collective(AllReduce),
    "all_gather": _collective(AllGather), "allgather": _collective(AllGather),
    "reduce_scatter": _collective(ReduceScatter),
    "alltoall": _collective(AllToAll), "all_to_all": _collective(AllToAll),
    "broadcast": _collective(Broadcast),
    "send_recv": _send, "send": _send,
}  # fmt: skip
"""Operator names of a table and what they mean. A name ending in ``u`` takes a scalar as second operand."""


# vidur profiled the layer kernels of vLLM's first releases, which move one element per thread.
_SCALAR_KERNELS: Final = frozenset({"vidur"})


def _operator(text: Mapping[str, str], counts: Mapping[str, int]) -> tuple[Operator | None, str]:
    op = text.get("op", "")
    if op not in OPS:
        hint = nearest(op, OPS)
        return None, f"no rule for operator {op!r}" + (f", perhaps {hint!r}" if hint else "")
    try:
        cells = _Cells(text, counts)
        built = OPS[op](cells)
    except _UnfitError as trouble:
        return None, f"{op}: {trouble}"
    work = built.work
    if (
        text.get("source", "") in _SCALAR_KERNELS
        and isinstance(work, Norm | Activation | Rotary)
        and op != "gelu"
    ):
        work = replace(work, vectorised=False)
    operator = Operator(
        op, work, (), (), dtype=cells.dtype, beside_read=built.read_bytes, beside_written=built.write_bytes
    )
    return operator, ""
