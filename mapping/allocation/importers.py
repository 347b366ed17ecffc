"""Reads allocation problems from what other tools write.

* CSV of MiniMalloc (:mod:`mapping.allocation.csv_format`).
* PyTorch memory snapshots as JSON (``torch.cuda.memory._snapshot()`` written with ``json.dump``; a pickle is
  refused, for loading one runs its code): the ``device_traces`` or ``traces`` of alloc and free events.
* Traces as text: lines ``malloc ID SIZE`` and ``free ID``, optionally led by an index.
* XLA buffer assignments as text: lines ``value: <12 name @0> (size=1024,offset=0): f32[256]`` give sizes, the
  ``BufferLiveRange`` section gives half-open or inclusive ranges as ``name{}:3-17``.
* TensorFlow Lite arena plans: a JSON object with ``tensors`` or ``buffers``, each with ``bytes`` or ``size`` and
  ``first_time_used``/``last_time_used`` (inclusive), or ``lower``/``upper``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.whole_number import integer
from mapping.allocation.csv_format import parse_csv, read_text
from mapping.allocation.problem import AllocationProblem, Buffer
from workloads.json_file import read_json_text

__all__ = ["from_events", "parse_problem", "read_problem"]

_EVENT: Final = re.compile(
    r"(?:[0-9]+[\s:.,]+)?(?:tensor\s+)?(malloc|alloc|free)\s+(\S+)(?:\s+([0-9]+)\s*([KMG]i?B|B)?)?", re.I
)
_EVENT_SWAPPED: Final = re.compile(
    r"(?:[0-9]+[\s:.,]+)?(?:tensor\s+)?(\S+)\s+(malloc|alloc|free)(?:\s+([0-9]+)\s*([KMG]i?B|B)?)?", re.I
)
_LARGEST: Final = 2**60
_SCALE: Final = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_XLA_VALUE: Final = re.compile(
    r"value:\s*<[0-9]+\s+(\S+?)(?:\{[0-9,]*\})?\s+@[0-9]+>\s*\(size=([0-9]+),\s*offset=(-?[0-9]+)\)"
)
_XLA_RANGE: Final = re.compile(r"^\s*(\S+?)(?:\{[0-9,]*\})?:\s*([0-9]+)-([0-9]+)\s*$")


def read_problem(path: Path) -> AllocationProblem:
    """The problem in a file; the format is told from the content."""
    if path.suffix.lower() in (".pickle", ".pkl"):
        raise bad_input(
            "is a pickle, which runs code when it is read; write the snapshot as JSON", file=str(path)
        )
    return parse_problem(read_text(path), str(path), path.stem)


def parse_problem(text: str, file: str | None = None, name: str = "") -> AllocationProblem:
    """The problem of a text in any of the formats."""
    head = text.lstrip()[:1]
    if head in ("{", "["):
        return _parse_json(text, file, name)
    if "BufferLiveRange" in text or _XLA_VALUE.search(text[:100_000]):
        return _parse_xla(text, file, name)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if _EVENT.fullmatch(first) or _EVENT_SWAPPED.fullmatch(first):
        return _parse_trace(text, file, name)
    return parse_csv(text, file, name)


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


def _parse_json(text: str, file: str | None, name: str) -> AllocationProblem:
    data = read_json_text(text, file or "<json>").data
    rows: Any = data
    if isinstance(data, dict):
        for key in ("device_traces", "traces"):
            if isinstance(data.get(key), list):
                return _parse_snapshot(data[key], file, name)
        rows = data.get("tensors", data.get("buffers"))
    if not isinstance(rows, list):
        raise bad_input(
            "expected 'device_traces' of a memory snapshot, or a list 'tensors' or 'buffers'", file=file
        )
    if rows and isinstance(rows[0], dict) and "action" in rows[0]:
        return _parse_snapshot([rows], file, name)
    return AllocationProblem.of([_tensor(row, index, file) for index, row in enumerate(rows)], name)


def _parse_snapshot(traces: list[Any], file: str | None, name: str) -> AllocationProblem:
    """Events of one device; ``free_completed`` ends a life, for the bytes are in use until then."""
    if traces and isinstance(traces[0], dict):
        traces = [traces]
    used = [trace for trace in traces if isinstance(trace, list) and trace]
    if len(used) > 1:
        raise bad_input(
            f"holds traces of {len(used)} devices; expected one (each has its own memory)", file=file
        )
    events: list[tuple[str, str, int]] = []
    completes = any(_action(event) == "free_completed" for trace in used for event in trace)
    ends = "free_completed" if completes else "free_requested"
    for trace in used:
        for index, event in enumerate(trace):
            action = _action(event)
            if action not in ("alloc", "free", ends):
                continue
            address = _field(event, ("addr", "address"), f"event {index}", file)
            size = _field(event, ("size",), f"event {index}", file)
            events.append(("malloc" if action == "alloc" else "free", hex(address), size))
    return from_events(events, name, file)


def _action(event: Any) -> str:
    return str(event.get("action", "")) if isinstance(event, Mapping) else ""


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


def _parse_xla(text: str, file: str | None, name: str) -> AllocationProblem:
    sizes: dict[str, int] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        value = _XLA_VALUE.search(line)
        if value:
            size = _bounded(value[2], file, number)
            sizes[value[1]] = max(size, sizes.get(value[1], 0))
            continue
        lived = _XLA_RANGE.match(line)
        if lived:
            ranges[lived[1]] = (_bounded(lived[2], file, number), _bounded(lived[3], file, number))
    if not ranges:
        raise bad_input(
            "holds no live ranges; expected lines 'name{}:first-last' under BufferLiveRange", file=file
        )
    # The live ranges include the instruction of their last use.
    buffers = [
        Buffer(key, lower, upper + 1, sizes[key]) for key, (lower, upper) in ranges.items() if key in sizes
    ]
    if not buffers:
        raise bad_input("no live range has a value with a size", file=file)
    return AllocationProblem.of(buffers, name)


def _bounded(text: str, file: str | None, line: int) -> int:
    value = integer(text, 0, _LARGEST)
    if value is None:
        raise bad_input(f"found {text[:60]}; expected at most 2**60", file=file, line=line)
    return value
