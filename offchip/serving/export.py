"""An answer as files: JSON, tables of requests and steps, a Perfetto trace, and a page that works offline."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.output_file import finite, replacing
from hw_configs.problems import bad_input
from simulator.serving.result import ServingResult

__all__ = ["MOST_LIFELINES", "MOST_STEPS", "read_page", "trace_events", "write_serving"]

MOST_STEPS: Final = 200_000
"""Steps in a trace; the first ones where there are more, which the trace says."""
MOST_LIFELINES: Final = 20_000
MOST_PAGE_BYTES: Final = 64 * 2**20
US: Final = 1e6
PHASES: Final = ("queue", "prefill", "decode")


def write_serving(
    result: ServingResult, folder: str | Path, probes: Sequence[Mapping[str, Any]] = ()
) -> list[Path]:
    """Write ``result.json``, requests and steps as tables, ``trace.json``, ``report.html`` and the page's data.

    Tables are Parquet with the extra ``results``, else CSV. Raises ``InputError`` when the folder cannot be written.
    """
    from offchip.report.page import write_page
    from offchip.report.serving import serving_page

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_input(f"cannot be written: {error.strerror}", file=str(folder), path="--out") from None
    data = finite(serving_page(result, probes))
    answer = result.as_json()
    if probes:
        answer["rates"] = [dict(probe) for probe in probes]
    written = [folder / "result.json", folder / "serving.json.gz", folder / "trace.json"]
    with replacing(written[0]) as part:
        part.write_text(json.dumps(finite(answer), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with replacing(written[1]) as part:
        part.write_bytes(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 6, mtime=0))
    with replacing(written[2]) as part:
        _write_trace(result, part)
    for name, columns in (("requests", result.request_columns()), ("steps", result.step_columns())):
        written.append(_write_table(columns, folder / name))
    written.append(write_page(data, folder / "report.html"))
    return written


def read_page(path: Path) -> dict[str, Any]:
    """The page's data as :func:`write_serving` wrote it; ``InputError`` for anything else."""
    try:
        with gzip.open(path, "rb") as stream:
            text = stream.read(MOST_PAGE_BYTES + 1)
        data = json.loads(text) if len(text) <= MOST_PAGE_BYTES else None
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise bad_input(f"cannot be read: {error}", file=str(path)) from None
    if not isinstance(data, dict) or data.get("kind") != "serving":
        raise bad_input("is no page of 'offchip serve --out'", file=str(path))
    return data


def _write_table(columns: Mapping[str, npt.NDArray[Any]], stem: Path) -> Path:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        path = stem.with_suffix(".csv")
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        return path
    path = stem.with_suffix(".parquet")
    with replacing(path) as part:
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), part)
    return path


def _write_trace(result: ServingResult, path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for number, event in enumerate(trace_events(result)):
            stream.write((",\n" if number else "") + json.dumps(event, separators=(",", ":")))
        stream.write("\n]}\n")


def trace_events(result: ServingResult) -> Iterator[dict[str, Any]]:
    """Events of the Trace Event Format: a process per worker with its steps and counters, a lifeline per request."""
    steps, rows = result.record.steps, result.record.requests
    cut_steps, cut_rows = len(steps) > MOST_STEPS, len(rows) > MOST_LIFELINES
    for number, worker in enumerate(result.facts.workers, 1):
        yield _named("process_name", number, 0, f"{worker.name} ({worker.role})")
        yield _named("thread_name", number, 1, f"steps (the first {MOST_STEPS})" if cut_steps else "steps")
    lives = len(result.facts.workers) + 1
    yield _named(
        "process_name", lives, 0, f"requests (the first {MOST_LIFELINES})" if cut_rows else "requests"
    )
    columns = {name: column[:MOST_STEPS].tolist() for name, column in steps.to_dict().items()}
    for row in zip(*columns.values(), strict=True):
        yield from _step(dict(zip(columns, row, strict=True)))
    for request in range(min(len(rows), MOST_LIFELINES)):
        yield from _life(result, request, lives)


def _step(step: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    process, start = step["replica"] + 1, step["start_s"] * US
    decode = step["sequences"] if not step["prefill_tokens"] else step["tokens"] - step["prefill_tokens"]
    name = f"{step['prefill_tokens']} prefill + {decode}" if step["prefill_tokens"] else f"decode {decode}"
    shown = (
        "tokens",
        "prefill_tokens",
        "sequences",
        "waiting",
        "free_blocks",
        "device_s",
        "host_s",
        "joules",
        "lost",
    )
    yield {
        "ph": "X", "name": name, "cat": "step", "pid": process, "tid": 1, "ts": start, "dur": step["seconds"] * US,
        "args": {key: step[key] for key in shown},
    }  # fmt: skip
    for counter in ("waiting", "running", "free_blocks"):
        yield {"ph": "C", "name": counter, "pid": process, "ts": start, "args": {counter: step[counter]}}


def _life(result: ServingResult, request: int, process: int) -> Iterator[dict[str, Any]]:
    """A request from arrival to last token, and its parts inside."""
    rows, asked = result.record.requests, result.requests
    marks = [float(column[request]) for column in (
        rows.arrival_s, rows.first_scheduled_s, rows.first_token_s, rows.last_token_s
    )]  # fmt: skip
    known = [mark for mark in marks if not np.isnan(mark)]
    if len(known) < 2:
        return
    base = {"cat": "request", "id": request, "pid": process, "tid": 1}
    arguments = {
        "prompt_tokens": int(asked.prompt_tokens[request]), "tokens": int(rows.tokens[request]),
        "cached_prompt_tokens": int(rows.cached_prompt_tokens[request]), "preemptions": int(rows.preemptions[request]),
        "worker": int(rows.replica[request]), "retries": int(rows.retries[request]),
    }  # fmt: skip
    name = f"request {request}"
    yield {"ph": "b", "name": name, "ts": known[0] * US, "args": arguments, **base}
    for phase, begin, end in zip(PHASES, marks, marks[1:], strict=False):
        if not (np.isnan(begin) or np.isnan(end)):
            yield {"ph": "b", "name": phase, "ts": begin * US, **base}
            yield {"ph": "e", "name": phase, "ts": end * US, **base}
    yield {"ph": "e", "name": name, "ts": known[-1] * US, **base}


def _named(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
