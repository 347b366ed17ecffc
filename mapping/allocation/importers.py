"""Reads allocation problems from what other tools write; the format is told from the content.

* CSV of MiniMalloc (:mod:`mapping.allocation.csv_format`).
* PyTorch memory snapshots, as the framework's pickle or as JSON (:mod:`mapping.allocation.pytorch_snapshot`).
* XLA buffer assignments and live ranges as text (:mod:`mapping.allocation.xla_dump`).
* TensorFlow Lite models (:mod:`mapping.allocation.tflite_model`).
* IREE's packs of slices in MLIR text (:mod:`mapping.allocation.iree_pack`).
* ExecuTorch programmes (:mod:`mapping.allocation.executorch_program`).
* Profiles of ONNX Runtime with their model (:mod:`mapping.allocation.onnxruntime_profile`).
* Buffer infos of TVM's static memory planner (:mod:`mapping.allocation.tvm_usmp`).
* Traces as text: lines ``malloc ID SIZE`` and ``free ID``, optionally led by an index.
* TensorFlow Lite arena plans: a JSON object with ``tensors`` or ``buffers``, each with ``bytes`` or ``size`` and
  ``first_time_used``/``last_time_used`` (inclusive), or ``lower``/``upper``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.whole_number import integer
from mapping.allocation.csv_format import parse_csv, read_text
from mapping.allocation.executorch_program import is_executorch, read_executorch
from mapping.allocation.iree_pack import is_iree, parse_iree
from mapping.allocation.onnxruntime_profile import is_profile, read_profile
from mapping.allocation.plain_pickle import is_pickle, read_plain_pickle
from mapping.allocation.problem import AllocationProblem, Buffer
from mapping.allocation.pytorch_snapshot import Recording, is_snapshot, recording_of
from mapping.allocation.rule_columns import cells_of, rules_of
from mapping.allocation.tflite_model import is_tflite, read_tflite
from mapping.allocation.tvm_usmp import is_usmp, read_usmp
from mapping.allocation.xla_dump import is_xla, parse_xla
from workloads.json_file import read_json_text

__all__ = ["Part", "from_events", "parse_problem", "read_problem", "read_recording"]

_EVENT: Final = re.compile(
    r"(?:[0-9]+[\s:.,]+)?(?:tensor\s+)?(malloc|alloc|free)\s+(\S+)(?:\s+([0-9]+)\s*([KMG]i?B|B)?)?", re.I
)
_EVENT_SWAPPED: Final = re.compile(
    r"(?:[0-9]+[\s:.,]+)?(?:tensor\s+)?(\S+)\s+(malloc|alloc|free)(?:\s+([0-9]+)\s*([KMG]i?B|B)?)?", re.I
)
_LARGEST: Final = 2**60
_SCALE: Final = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a file: a device of a memory snapshot, a memory space of an XLA dump, a pack of IREE's text.

    ``model`` is the model of a profile of ONNX Runtime, which is read beside it.
    """

    device_index: int | None = None
    memory_space: int | None = None
    pack_index: int | None = None
    model: Path | None = None

    def only(self, kept: str | tuple[str, ...] | None, file: str | None) -> None:
        """Refuse parts that a file of this kind does not have."""
        for name in ("device_index", "memory_space", "pack_index", "model"):
            value = getattr(self, name)
            if value is not None and name != kept and not (isinstance(kept, tuple) and name in kept):
                told = f"found {value}; {file or 'the file'} holds no parts of this kind"
                raise bad_input(told, path=f"--{name.replace('_', '-')}")


def read_problem(path: Path, part: Part | None = None) -> AllocationProblem:
    """The problem in a file, or in the part of it that is named; the format is told from the content."""
    if is_tflite(path):
        (part or Part()).only(None, str(path))
        return read_tflite(path)
    if is_executorch(path):
        part = part or Part()
        part.only(("memory_space", "pack_index"), str(path))
        return read_executorch(path, part.memory_space, part.pack_index)
    if is_pickle(path):
        return _of_data(read_plain_pickle(path), str(path), path.stem, part or Part())
    return parse_problem(read_text(path), str(path), path.stem, part)


def parse_problem(
    text: str, file: str | None = None, name: str = "", part: Part | None = None
) -> AllocationProblem:
    """The problem of a text in any of the formats; an XLA dump may have its second file beside ``file``."""
    part = part or Part()
    if text.lstrip()[:1] in ("{", "["):
        return _of_data(read_json_text(text, file or "<json>").data, file, name, part)
    if is_xla(text):
        part.only("memory_space", file)
        return parse_xla(text, file, name, part.memory_space)
    if is_iree(text):
        part.only("pack_index", file)
        return parse_iree(text, file, name, part.pack_index)
    part.only(None, file)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if _EVENT.fullmatch(first) or _EVENT_SWAPPED.fullmatch(first):
        return _parse_trace(text, file, name)
    return parse_csv(text, file, name)


def read_recording(path: Path, device_index: int | None = None) -> Recording | None:
    """What a memory snapshot says of a device; None where the file is something else."""
    if is_tflite(path) or is_executorch(path):
        return None
    if is_pickle(path):
        data = read_plain_pickle(path)
    else:
        text = read_text(path)
        if text.lstrip()[:1] not in ("{", "["):
            return None
        data = read_json_text(text, str(path)).data
    return recording_of(data, str(path), device_index) if is_snapshot(data) else None


def from_events(
    events: Iterable[tuple[str, str, int]], name: str = "", file: str | None = None
) -> AllocationProblem:
    """The problem of a sequence of ("malloc", id, size) and ("free", id, 0).

    The index of an event is its time. An id may be used again after it was freed. What is never freed lives to
    the end; a free of something that was never allocated belongs to an allocation before the trace and lives
    from its beginning only if its size is known, else it is left out.
    """
    alive: dict[str, tuple[int, int]] = {}
    count: dict[str, int] = {}
    buffers: list[Buffer] = []
    problems: list[Problem] = []
    time = -1
    for time, (kind, key, size) in enumerate(events):
        if kind == "malloc":
            if key in alive:
                problems.append(
                    Problem(f"event {time}: {key!r} is allocated again before it was freed", file)
                )
            alive[key] = (time, size)
        elif key in alive:
            start, held = alive.pop(key)
            buffers.append(_named(key, count, start, time, held))
        elif size > 0:
            buffers.append(_named(key, count, 0, time, size))
    for key, (start, held) in alive.items():
        buffers.append(_named(key, count, start, time + 1, held))
    if problems:
        raise InputError(problems[:20])
    return AllocationProblem.of(
        sorted(buffers, key=lambda buffer: (buffer.lower, buffer.upper, buffer.id)), name
    )


def _named(key: str, count: dict[str, int], lower: int, upper: int, size: int) -> Buffer:
    count[key] = count.get(key, 0) + 1
    return Buffer(key if count[key] == 1 else f"{key}#{count[key]}", lower, upper, size)


def _parse_trace(text: str, file: str | None, name: str) -> AllocationProblem:
    events: list[tuple[str, str, int]] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        match = _EVENT.fullmatch(line)
        swapped = None if match else _EVENT_SWAPPED.fullmatch(line)
        if match:
            kind, key, amount, unit = match[1], match[2], match[3], match[4]
        elif swapped:
            key, kind, amount, unit = swapped[1], swapped[2], swapped[3], swapped[4]
        else:
            problems.append(
                Problem(f"found {line[:60]!r}; expected 'malloc ID SIZE' or 'free ID'", file, number)
            )
            continue
        is_free = kind.lower() == "free"
        if not is_free and amount is None:
            problems.append(Problem(f"found {line[:60]!r}; a malloc needs a size in bytes", file, number))
            continue
        scale = _SCALE[(unit or "B").upper()]
        size = 0 if is_free else integer(amount, 0, _LARGEST // scale)
        if size is None:
            shown = " ".join(part for part in (amount[:60], unit) if part)
            problems.append(Problem(f"found {shown}; expected at most 2**60 bytes", file, number))
            continue
        size *= scale
        events.append(("free" if is_free else "malloc", key, size))
    if problems:
        raise InputError(problems[:50])
    return from_events(events, name, file)


def _of_data(data: Any, file: str | None, name: str, part: Part) -> AllocationProblem:
    """The problem of plain data: a memory snapshot or an arena plan."""
    if is_snapshot(data):
        part.only("device_index", file)
        return recording_of(data, file, part.device_index).problem(name)
    if is_profile(data):
        part.only(("pack_index", "model"), file)
        return read_profile(data, file, name, part.model, part.pack_index)
    part.only(None, file)
    if is_usmp(data):
        return read_usmp(data, file, name)
    rows = data.get("tensors", data.get("buffers")) if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise bad_input(
            "expected 'device_traces' of a memory snapshot, or a list 'tensors' or 'buffers'", file=file
        )
    buffers = [_tensor(row, index, file) for index, row in enumerate(rows)]
    cells = [(cells_of(row, split=False), file, None) for row in rows]
    return AllocationProblem.of(buffers, name, rules_of(cells, [buffer.id for buffer in buffers]))


def _tensor(row: Any, index: int, file: str | None) -> Buffer:
    where = f"tensor {index}"
    if not isinstance(row, Mapping):
        raise bad_input(f"found {type(row).__name__}; expected an object", file=file, path=where)
    label = str(row.get("name", row.get("id", index)))
    size = _field(row, ("bytes", "size"), where, file)
    lower = _field(row, ("lower", "first_time_used", "first_use", "start"), where, file)
    if "upper" in row:
        upper = _field(row, ("upper",), where, file)
    else:
        upper = _field(row, ("last_time_used", "last_use", "end"), where, file) + 1
    offset = row.get("offset")
    alignment = _field(row, ("alignment",), where, file) if "alignment" in row else 1
    fixed = None if offset in (None, -1) else _field(row, ("offset",), where, file)
    return Buffer(label, lower, upper, size, alignment, fixed)


def _field(row: Mapping[str, Any], names: tuple[str, ...], where: str, file: str | None) -> int:
    for key in names:
        if key in row:
            value = row[key]
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**63:
                raise bad_input(f"found {value!r}; expected an integer", file=file, path=f"{where}.{key}")
            return value
    raise bad_input(f"has none of {', '.join(names)}", file=file, path=where)
