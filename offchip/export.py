"""A result as files: JSON, Parquet tables, and a trace that ui.perfetto.dev and chrome://tracing open.

Every file is written under a temporary name and renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input
from offchip.report.record import Record
from simulator.result import Result, Timeline

__all__ = ["trace_events", "write_result"]

_MICROSECONDS = 1e6


def write_result(result: Result, folder: str | Path, record: Record | None = None) -> list[Path]:
    """Write ``result.json``, ``detail.json.gz``, ``trace.json.gz`` and, with the extra ``results``, tables.

    Returns the files written. ``detail.json.gz`` has the timeline as columns, memory over time, and what
    ``record`` watched, for ``offchip report``. Parquet tables: ``timeline`` (a row per task), ``operators``
    (summed over layers), ``memory`` (bytes over time). Raises ``InputError`` when the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [
            _write(folder / "result.json", json.dumps(result.to_json(), indent=1).encode() + b"\n"),
            _write(folder / "detail.json.gz", _detail_bytes(result, record)),
            _write(folder / "trace.json.gz", _trace_bytes(result)),
        ]
        written += _tables(result, folder)
    except OSError as error:
        raise bad_input(f"cannot be written: {error.strerror}", file=str(folder)) from None
    return written


def trace_events(result: Result) -> Iterator[dict[str, Any]]:
    """Events of the Trace Event Format: a process per device, a thread per stream, counters for memory."""
    line = result.timeline
    lanes = dict.fromkeys(zip(line.device, line.stream, strict=True))
    devices = {device: number for number, device in enumerate(dict.fromkeys(d for d, _ in lanes), 1)}
    threads = {lane: number for number, lane in enumerate(lanes, 1)}
    for device, process in devices.items():
        yield _named("process_name", process, 0, device)
    for (device, stream), thread in threads.items():
        yield _named("thread_name", devices[device], thread, stream)
    for row in line.rows():
        lane = (row["device"], row["stream"])
        yield {
            "ph": "X",
            "name": row["task"],
            "cat": row["operator_kind"],
            "pid": devices[row["device"]],
            "tid": threads[lane],
            "ts": row["start"] * _MICROSECONDS,
            "dur": (row["end"] - row["start"]) * _MICROSECONDS,
            "args": {
                "phase": result.phases[row["phase"]].name,
                "bound_by": row["bound_by"],
                "flops": row["flops"],
                "bytes": row["bytes"],
                "energy_j": row["energy"],
            },
        }
    for use in result.memories.values():
        process = devices.get(use.memory, 0)
        for time_s, size in zip(use.curve_time_s.tolist(), use.curve_bytes.tolist(), strict=True):
            name = f"{use.memory} bytes"
            yield {
                "ph": "C",
                "name": name,
                "pid": process,
                "ts": time_s * _MICROSECONDS,
                "args": {"bytes": size},
            }


def _named(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _detail_bytes(result: Result, record: Record | None) -> bytes:
    detail = {
        "format": "offchip-detail-1",
        "columns": {name: getattr(result.timeline, name) for name in Timeline.COLUMNS},
        "curves": {
            name: [use.curve_time_s.tolist(), use.curve_bytes.tolist()]
            for name, use in result.memories.items()
        },
        "record": record.to_json(result) if record is not None else None,
    }
    return gzip.compress(json.dumps(detail, separators=(",", ":")).encode(), compresslevel=6, mtime=0)


def _trace_bytes(result: Result) -> bytes:
    head = b'{"displayTimeUnit":"ms","traceEvents":[\n'
    body = b",\n".join(json.dumps(event, separators=(",", ":")).encode() for event in trace_events(result))
    # No time stamp in the archive: the same run gives the same bytes.
    return gzip.compress(head + body + b"\n]}\n", compresslevel=6, mtime=0)


def _tables(result: Result, folder: Path) -> list[Path]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return []
    memory: dict[str, list[Any]] = {"memory": [], "time_s": [], "bytes": []}
    for use in result.memories.values():
        memory["memory"] += [use.memory] * len(use.curve_time_s)
        memory["time_s"] += use.curve_time_s.tolist()
        memory["bytes"] += use.curve_bytes.tolist()
    operators = result.top_operators(count=1_000_000)
    tables = {
        "timeline": {name: getattr(result.timeline, name) for name in Timeline.COLUMNS},
        "operators": {key: [row[key] for row in operators] for key in (operators[0] if operators else {})},
        "memory": memory,
    }
    written = []
    for name, columns in tables.items():
        path = folder / f"{name}.parquet"
        with replacing(path) as part:
            pyarrow.parquet.write_table(pyarrow.table(columns), part)
        written.append(path)
    return written


def _write(path: Path, content: bytes) -> Path:
    with replacing(path) as part:
        part.write_bytes(content)
    return path
