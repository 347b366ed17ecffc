"""Reads a profile of ONNX Runtime and the model that was run as an allocation problem: the tensors between operators.

A profile (``SessionOptions.enable_profiling``) tells in which order operators ran and the types and shapes of what they
made, but no names of tensors; the model as the session ran it (``SessionOptions.optimized_model_filepath``) tells which
operator reads what. Both are joined by the operators' names, and every operator of either must be in the other. ONNX
Runtime 1.32 prints no plan and no offsets of its memory pattern in any log of a release build.

The index of an operator in the run is a moment. A tensor lives from the operator that makes it to the last that reads
it. Inputs, constants and outputs of the model lie outside, as they do for the runtime's memory pattern; what the
runtime lays in place over an input is not in the profile and is not modelled. Sizes are rounded up to 256 bytes at
placement (``kAllocAlignment`` in include/onnxruntime/core/framework/allocator.h, github.com/microsoft/onnxruntime).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from mapping.allocation.problem import AllocationProblem, Buffer

if TYPE_CHECKING:
    import onnx

__all__ = ["is_profile", "read_profile"]

ALIGNMENT: Final = 256
_MOST_TOLD: Final = 20
_SUFFIX: Final = "_kernel_time"
_BYTES: Final = {
    "float": 4, "double": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4,
    "uint32": 4, "int64": 8, "uint64": 8, "bool": 1, "float8e4m3fn": 1, "float8e4m3fnuz": 1, "float8e5m2": 1,
    "float8e5m2fnuz": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip


@dataclass(frozen=True)
class _Ran:
    """An operator that ran, and the bytes of each tensor that it made; None where the type has no fixed size."""

    name: str
    sizes: tuple[int | None, ...]
    types: tuple[str, ...]


def is_profile(data: Any) -> bool:
    """Whether plain data is such a profile: a list of trace events with operators' times."""
    return isinstance(data, list) and any(
        isinstance(event, Mapping) and event.get("cat") == "Node" and isinstance(event.get("args"), Mapping)
        for event in data[:10_000]
    )


def read_profile(
    data: Sequence[Any], file: str | None, name: str, model_path: Path | None, run: int | None = None
) -> AllocationProblem:
    """The problem of one run. Raises ``InputError`` where an operator of the profile or the model has no twin."""
    if model_path is None:
        told = "is a profile of ONNX Runtime, which names no tensors; give the model that the session ran with --model"
        raise bad_input(f"{told} (SessionOptions.optimized_model_filepath writes it)", file=file)
    from workloads.onnx_file import load_model

    if not model_path.is_file():
        raise bad_input("not a file", file=str(model_path))
    graph = load_model(model_path).graph
    return AllocationProblem.of(
        _buffers(_chosen(_runs(data, file), run, file), graph, file, str(model_path)), name
    )


def _runs(data: Sequence[Any], file: str | None) -> list[list[_Ran]]:
    """The operators of each run, in order; a run ends with its event ``model_run``."""
    runs: list[list[_Ran]] = [[]]
    for number, event in enumerate(data):
        if not isinstance(event, Mapping):
            raise bad_input(f"found {type(event).__name__}; expected an event", file=file, path=f"{number}")
        label, args = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Session" and label == "model_run":
            runs.append([])
        if event.get("cat") == "Node" and label.endswith(_SUFFIX) and isinstance(args, Mapping):
            runs[-1].append(_ran(label[: -len(_SUFFIX)], args, file, number))
    found = [run for run in runs if run]
    if not found:
        raise bad_input("holds no operator that ran", file=file)
    return found


def _ran(name: str, args: Mapping[str, Any], file: str | None, number: int) -> _Ran:
    made = args.get("output_type_shape")
    rows = made if isinstance(made, list) else None
    if rows is None or not all(isinstance(row, Mapping) and len(row) == 1 for row in rows):
        told = f"operator {name!r} has no types and shapes of its outputs"
        raise bad_input(f"{told}; expected output_type_shape", file=file, path=f"{number}.args")
    sizes: list[int | None] = []
    types: list[str] = []
    for row in rows:
        ((kind, shape),) = row.items()
        known = isinstance(shape, list) and all(type(side) is int and 0 <= side < 2**50 for side in shape)
        types.append(str(kind))
        sizes.append(prod(shape) * _BYTES[kind] if known and kind in _BYTES else None)
    return _Ran(name, tuple(sizes), tuple(types))


def _chosen(runs: list[list[_Ran]], run: int | None, file: str | None) -> list[_Ran]:
    if run is not None and run >= len(runs):
        raise bad_input(f"found {run}; the profile holds {len(runs)} runs", path="--pack-index")
    if run is None and any(other != runs[0] for other in runs):
        told = f"holds {len(runs)} runs with other orders or shapes; choose one with --pack-index"
        raise bad_input(told, file=file)
    return runs[run or 0]


def _buffers(ran: Sequence[_Ran], graph: onnx.GraphProto, file: str | None, model: str) -> list[Buffer]:
    nodes = {node.name: node for node in graph.node if node.name}
    moment = {row.name: time for time, row in enumerate(ran)}
    problems = _unjoined(ran, graph, nodes, file, model)
    if problems:
        raise InputError(problems[:_MOST_TOLD])
    outside = {item.name for item in (*graph.input, *graph.initializer, *graph.output)}
    first: dict[str, tuple[int, int]] = {}
    for row in ran:
        outputs = [output for output in nodes[row.name].output if output]
        for output, size, kind in zip(outputs, row.sizes, row.types, strict=True):
            if output in outside:
                continue
            if size is None:
                problems.append(
                    Problem(f"{output!r} is of type {kind!r}, which has no fixed size", file, path=row.name)
                )
            first[output] = (moment[row.name], size or 0)
    last = {output: time + 1 for output, (time, _) in first.items()}
    for row in ran:
        for read in nodes[row.name].input:
            if read in first:
                if first[read][0] > moment[row.name]:
                    told = f"reads {read!r} before the operator that makes it has run"
                    problems.append(Problem(told, file, path=row.name))
                last[read] = max(last[read], moment[row.name] + 1)
            elif read and read not in outside:
                problems.append(Problem(f"reads {read!r}, which nothing makes", model, path=row.name))
    if problems:
        raise InputError(problems[:_MOST_TOLD])
    return [Buffer(output, time, last[output], size, ALIGNMENT) for output, (time, size) in first.items()]


def _unjoined(
    ran: Sequence[_Ran],
    graph: onnx.GraphProto,
    nodes: Mapping[str, onnx.NodeProto],
    file: str | None,
    model: str,
) -> list[Problem]:
    """What stands in one of the two files alone, and what they tell differently."""
    unnamed = sum(not node.name for node in graph.node)
    if unnamed:
        told = f"{unnamed} of {len(graph.node)} operators have no names, by which a profile is joined"
        return [Problem(f"{told}; name them before the session is made", model)]
    problems: list[Problem] = []
    seen: set[str] = set()
    for row in ran:
        node = nodes.get(row.name)
        if node is None:
            told = f"operator {row.name!r} ran, which the model does not have"
            problems.append(
                Problem(told, file, path=row.name, suggestion=nearest(row.name, list(nodes)[:1000]))
            )
        elif row.name in seen:
            problems.append(Problem(f"operator {row.name!r} ran twice in a run", file, path=row.name))
        elif len([output for output in node.output if output]) != len(row.sizes):
            told = f"made {len(row.sizes)} tensors; the model names {len([o for o in node.output if o])}"
            problems.append(Problem(told, file, path=row.name))
        seen.add(row.name)
    for node in graph.node:
        inner = any(a.HasField("g") or len(a.graphs) for a in node.attribute)
        label = node.name or f"{node.op_type} making {', '.join(node.output)}"
        if inner:
            told = f"operator {label!r} holds a graph of its own (control flow), whose order is not fixed"
            problems.append(Problem(told, model, path=label))
        elif node.name not in seen:
            problems.append(Problem(f"operator {label!r} did not run in this profile", model, path=label))
    if len(nodes) < len([node for node in graph.node if node.name]):
        problems.append(Problem("two operators have one name", model))
    return problems
