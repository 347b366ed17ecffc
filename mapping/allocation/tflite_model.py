"""Reads the tensors and operators of a ``.tflite`` file as an allocation problem: the arena of one inference.

Operators run in the file's order, the index of one is a moment. A tensor lives from the operator that writes it to the
last that reads it; inputs of the model and variable tensors for the whole inference, outputs to its end, which is how
TensorFlow Lite's arena planner keeps them. Tensors whose data stand in the file are constants outside the arena; what
is expanded from constants alone (DEQUANTIZE, DENSIFY) is computed once and kept for the whole inference. Each starts at
a multiple of 64 bytes (``kDefaultTensorAlignment``).

The file does not hold what kernels ask for beside their operands when they are prepared, and the planner may lay the
output of some operators over an input; neither is part of the problem. Sizes must be known: a tensor of strings, of a
variant type or with an open dimension is refused, and so are several subgraphs (control flow).

A plan that the file itself carries (:mod:`mapping.allocation.tflite_plan`) pins its tensors, as the runtime keeps it.

The fields are those of ``schema.fbs``
(github.com/tensorflow/tensorflow, tensorflow/compiler/mlir/lite/schema).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input
from mapping.allocation.flat_table import FlatTable, carries, read_whole
from mapping.allocation.problem import AllocationProblem, Buffer
from mapping.allocation.tflite_plan import own_offsets

__all__ = ["is_tflite", "parse_tflite", "read_tflite"]

ALIGNMENT: Final = 64
_LARGEST: Final = 2**60
_MOST_TOLD: Final = 20

_BITS: Final = {
    0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16, 17: 4,
    18: 16, 19: 2,
}  # fmt: skip
"""Bits of an element by its number in TensorType; 5 (strings), 13 (resources) and 14 (variants) have no fixed size."""


_EXPANDS: Final = (6, 124)
"""Builtin operators DEQUANTIZE and DENSIFY, whose kernels keep what they make of a constant."""

_Operator = tuple[int, Sequence[int], Sequence[int]]
"""Builtin code, tensors read, tensors written."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    size: int | None
    why: str
    constant: bool
    variable: bool


def is_tflite(path: Path) -> bool:
    """Whether a file carries the identifier of the format."""
    return carries(path, b"TFL3")


def read_tflite(path: Path) -> AllocationProblem:
    """The problem of a model's inference. Raises ``InputError`` where the file is damaged or sizes are open."""
    return parse_tflite(read_whole(path), str(path), path.stem)


def parse_tflite(data: bytes, file: str | None = None, name: str = "") -> AllocationProblem:
    """The problem of a model given as bytes."""
    try:
        model = FlatTable(data, struct.unpack_from("<I", data, 0)[0])
        subgraphs = model.tables(2)
        if len(subgraphs) != 1:
            told = f"found {len(subgraphs)}; expected one (several are control flow, of no fixed order)"
            raise bad_input(told, file=file, path="subgraphs")
        graph = subgraphs[0]
        filled = [_filled(buffer) for buffer in model.tables(4)]
        tensors = [_tensor(row, i, filled) for i, row in enumerate(graph.tables(0))]
        codes = [max(code.number(0, "b"), code.number(3, "i")) for code in model.tables(1)]
        operators = [(codes[op.number(0, "I")], op.integers(1), op.integers(2)) for op in graph.tables(3)]
        inputs, outputs = graph.integers(1), graph.integers(2)
        offsets = own_offsets(model, len(tensors), file)
    except (struct.error, IndexError) as error:
        raise bad_input(f"is not a whole .tflite file: {error}", file=file) from None
    _known(operators, (inputs, outputs), len(tensors), file)
    return AllocationProblem.of(_buffers(tensors, operators, (inputs, outputs), offsets, file), name)


def _filled(buffer: FlatTable) -> bool:
    """Whether a buffer holds data, in the table or behind it."""
    return buffer.vector(0, 1)[1] > 0 or buffer.number(1, "Q") > 1


def _tensor(row: FlatTable, index: int, filled: Sequence[bool]) -> _Tensor:
    shape, kind, buffer = row.integers(0), row.number(1, "b"), row.number(2, "I")
    name = f"{index}:{row.text(3)}" if row.text(3) else str(index)
    why = ""
    if kind not in _BITS:
        why = f"elements of type {kind}, which have no fixed size"
    elif min((*shape, *row.integers(7)), default=0) < 0:
        why = f"the open shape {list(row.integers(7) or shape)}"
    size = None if why else -(-prod(shape) * _BITS[kind] // 8)
    constant = buffer > 0 and filled[buffer]
    return _Tensor(name, size, why, constant, bool(row.number(5, "B")))


def _known(
    operators: Sequence[_Operator],
    ends: tuple[Sequence[int], Sequence[int]],
    count: int,
    file: str | None,
) -> None:
    """Every tensor named is one of the file's; -1 stands for an optional input that is left out."""
    for place, sides in [
        *((f"operators.{i}", op[1:]) for i, op in enumerate(operators)),
        ("subgraphs.0", ends),
    ]:
        for number in (*sides[0], *sides[1]):
            if not -1 <= number < count:
                raise bad_input(f"found tensor {number}; the file has {count}", file=file, path=place)


def _buffers(
    tensors: Sequence[_Tensor],
    operators: Sequence[_Operator],
    ends: tuple[Sequence[int], Sequence[int]],
    offsets: Sequence[int] | None,
    file: str | None,
) -> list[Buffer]:
    inputs, outputs = ends
    end = max(len(operators), 1)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    problems: list[Problem] = []
    whole = {i for i in inputs if i >= 0} | {i for i, tensor in enumerate(tensors) if tensor.variable}
    for code, reads, writes in operators:
        if code in _EXPANDS and all(i < 0 or tensors[i].constant for i in reads):
            whole |= {i for i in writes if i >= 0}
    for i in whole:
        first[i], last[i] = 0, end
    for moment, (_, reads, writes) in enumerate(operators):
        for i in reads:
            if i >= 0 and not tensors[i].constant and i not in first:
                told = f"reads tensor {tensors[i].name!r}, which nothing has written"
                problems.append(Problem(told, file, path=f"operators.{moment}"))
            if i in first:
                last[i] = max(last[i], moment + 1)
        for i in writes:
            if i >= 0:
                first.setdefault(i, moment)
                last[i] = max(last.get(i, 0), moment + 1)
    for i in outputs:
        if i in first:
            last[i] = end
        elif i >= 0 and not tensors[i].constant:
            told = f"names tensor {tensors[i].name!r}, which nothing has written"
            problems.append(Problem(told, file, path="subgraphs.0.outputs"))
    used = [i for i in first if not tensors[i].constant]
    problems += [
        Problem(f"tensor {tensors[i].name!r} has {tensors[i].why}; expected a known size", file)
        for i in used
        if tensors[i].why
    ]
    if problems:
        raise InputError(problems[:_MOST_TOLD])
    return [
        Buffer(
            tensors[i].name,
            first[i],
            last[i],
            min(tensors[i].size or 0, _LARGEST + 1),
            ALIGNMENT,
            None if offsets is None or offsets[i] < 0 else offsets[i],
        )
        for i in sorted(used, key=lambda i: (first[i], i))
    ]
