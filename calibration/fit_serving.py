"""Fit what engines add to their kernels, on clean public runs of ``serving.csv`` alone.

Usage: ``python -m calibration.fit_serving DIR [--write] [--cross]``. One set of constants per engine and range of
versions
(:data:`RANGES`), none per model or chip. Rows whose id's SHA-256 is even are fitted on, at most :data:`MOST` of a set,
evenly taken; the others are reported. The sum of the mean |log(predicted / measured)| of time per output token and of
time to first token is least by coordinate search (seeded by the constants that are there). ``--cross``: for each model
and each chip the same fit without its rows, and the error on them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np

from hw_configs.output_file import replacing
from hw_configs.problems import OffchipError
from offchip.validation.served_models import engine_version
from offchip.validation.serving import Prepared, drawn_groups, prepare, read_rows
from simulator.serving import engine_constants
from simulator.serving.capacity import Capacity
from simulator.serving.engine_constants import EngineConstants, constants_of
from simulator.serving.pricing import Pricer

OUT: Final = Path(engine_constants.__file__).with_name("engine_constants.json")
RANGES: Final = {"vllm": ("0", "0.14"), "sglang": ("0", "0.5.6"), "trtllm": ("0", "1.1")}
"""First versions of each range. vLLM 0.14 schedules asynchronously by default, SGLang 0.5.6 overlaps its scheduler and
streams in intervals in public recipes, TensorRT-LLM 1.1 has its overlap scheduler by default."""
BOUNDS: Final = {
    "step_us": (0.0, 5000.0), "sequence_us": (0.0, 100.0), "chunk_token_us": (0.0, 20.0), "request_us": (0.0, 20000.0),
    "prompt_token_us": (0.0, 5.0), "kernel_factor": (0.8, 1.4), "prefill_factor": (0.8, 1.8), "overlap": (0.0, 1.0),
    "reply_us": (0.0, 200000.0), "held_tokens": (0.0, 40.0),
}  # fmt: skip
HANDOVER_MS: Final = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0)
MOST: Final = 40
CROSS_MOST: Final = 16
"""Rows of a fit that leaves a model or a chip out: there are many of them."""
ROUNDS: Final = 3
LIMIT_ERROR: Final = 3.0
"""|log| beyond which a row counts no further: a run that waited for something else."""


def even(identity: str) -> bool:
    """Whether a row is one to fit on."""
    return hashlib.sha256(identity.encode()).digest()[0] % 2 == 0


def load(folder: Path, known: dict[object, tuple[Pricer, Capacity]], mode: str = "agg") -> list[Prepared]:
    """Clean rows of a mode (agg: aggregated, disagg: prefill and decode apart) that can be run."""
    with (folder / "exclude.csv").open(encoding="utf-8") as stream:
        doubtful = {cells["id"] for cells in csv.DictReader(stream)}
    rows = read_rows(folder / "serving.csv")
    drawn, found = drawn_groups(rows), []
    for row in rows:
        if row["id"] in doubtful or row["mode"] != mode:
            continue
        group = (row["gpu"], row["model"], row["backend"], row["backend_version"])
        try:
            found.append(prepare(row, group in drawn, known))
        except OffchipError as error:
            print(f"{row['id']}: {str(error).partition(chr(10))[0]}")
    return found


def logs(rows: Sequence[Prepared], engine: EngineConstants) -> np.ndarray:
    """log(predicted / measured) of TPOT and TTFT, a line per row."""
    made = []
    for prepared in rows:
        means = prepared.predict(engine)
        pairs = (means.tpot_ms, "tpot_ms"), (means.ttft_ms, "ttft_ms")
        made.append([np.log(ours / float(prepared.row[name])) for ours, name in pairs])
    return np.array(made).reshape(-1, 2)


def loss(rows: Sequence[Prepared], engine: EngineConstants) -> float:
    """What is least at the fit."""
    return float(np.minimum(np.abs(logs(rows, engine)), LIMIT_ERROR).mean(axis=0).sum())


def fit(
    rows: Sequence[Prepared], start: EngineConstants, rounds: int = ROUNDS, most: int = MOST
) -> EngineConstants:
    """Coordinate search: each constant in turn, over ever finer steps."""
    if not rows:
        return start
    step = max(1, len(rows) // most)
    chosen = list(rows)[::step]
    best, least = start, loss(chosen, start)
    for turn in range(rounds):
        width = 0.5**turn
        for name, (low, high) in BOUNDS.items():
            own = getattr(best, name)
            reach = width * (high - low)
            for value in (
                own - reach / 2,
                own - reach / 8,
                own + reach / 8,
                own + reach / 2,
                low if turn == 0 else own,
            ):
                tried = replace(best, **{name: float(np.round(min(max(value, low), high), 4))})
                if tried == best:
                    continue
                found = loss(chosen, tried)
                if found < least - 1e-6:
                    best, least = tried, found
    return replace(best, rows=len(chosen))


def fit_handover(rows: Sequence[Prepared], engine: EngineConstants) -> EngineConstants:
    """``handover_us`` from rows with prefill and decode apart, at the other constants' values.

    To first order it adds to every request's time to first token. Of a grid the least value counts whose mean
    |log(predicted / measured)| is within a hundredth of the smallest: there are few such rows.
    """
    if not rows:
        return engine
    none = replace(engine, handover_us=0.0)
    ours = np.array([p.predict(none).ttft_ms for p in rows])
    theirs = np.array([float(p.row["ttft_ms"]) for p in rows])
    off = [np.minimum(np.abs(np.log((ours + added) / theirs)), LIMIT_ERROR).mean() for added in HANDOVER_MS]
    chosen = next(added for added, error in zip(HANDOVER_MS, off, strict=True) if error <= 1.01 * min(off))
    return replace(engine, handover_us=1e3 * chosen)


def report(name: str, made: np.ndarray) -> None:
    """Mean and median absolute errors in percent."""
    off = 100 * np.abs(np.exp(made) - 1)
    print(
        f"{name}: {len(made)} rows, TPOT mean {off[:, 0].mean():.1f} median {np.median(off[:, 0]):.1f} %, "
        f"TTFT mean {off[:, 1].mean():.1f} median {np.median(off[:, 1]):.1f} %",
        flush=True,
    )


def of_range(rows: Sequence[Prepared], engine: str, since: str) -> list[Prepared]:
    """The rows of an engine whose constants are those of a range."""
    return [
        p for p in rows
        if p.row["backend"] == engine
        and constants_of(engine, engine_version(engine, p.row["backend_version"])).since == since
    ]  # fmt: skip


def neutral(own: EngineConstants) -> EngineConstants:
    """Constants that no row went into, to begin a search that leaves rows out."""
    return replace(
        own, step_us=500.0, sequence_us=10.0, chunk_token_us=0.0, request_us=2000.0, prompt_token_us=0.5,
        kernel_factor=1.0, prefill_factor=1.0, overlap=0.0, reply_us=20000.0, held_tokens=0.0,
    )  # fmt: skip


def cross(rows: Sequence[Prepared], found: dict[tuple[str, str], EngineConstants], column: str) -> None:
    """The error on each model's (or chip's) rows with constants that none of them went into.

    Where a range of versions was measured on nothing else, it takes those of the engine's other range, fitted without
    the model or chip as well; else neutral ones.
    """
    whole = []
    for value in sorted({p.row[column] for p in rows}):
        made = []
        for (engine, since), own in found.items():
            left = [p for p in of_range(rows, engine, since) if p.row[column] == value]
            if not left:
                continue
            others = [p for p in rows if p.row["backend"] == engine and p.row[column] != value]
            rest = [p for p in of_range(rows, engine, since) if p.row[column] != value] or others
            made.append(logs(left, fit(rest, neutral(own), rounds=2, most=CROSS_MOST)))
        report(f"without {column} {value}", np.concatenate(made))
        whole += made
    report(f"every {column} left out once", np.concatenate(whole))


def main(
    known: dict[object, tuple[Pricer, Capacity]] | None = None, argv: Sequence[str] | None = None
) -> None:
    """Fit, print, and write the constants if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="write simulator/serving/engine_constants.json")
    parser.add_argument(
        "--kept", action="store_true", help="take the constants that are there instead of fitting"
    )
    parser.add_argument("--cross", action="store_true", help="leave each model and each chip out in turn")
    asked = parser.parse_args(argv)
    tables = {} if known is None else known
    rows = load(asked.folder, tables)
    apart = [] if asked.kept else load(asked.folder, tables, "disagg")
    found: dict[tuple[str, str], EngineConstants] = {}
    inside: list[np.ndarray] = []
    outside: list[np.ndarray] = []
    for engine, ranges in RANGES.items():
        for since in ranges:
            mine = of_range(rows, engine, since)
            choose: Callable[[bool], list[Prepared]] = lambda half, mine=mine: [  # type: ignore[misc]  # noqa: E731
                p for p in mine if even(p.row["id"]) is half
            ]
            start = next(e for e in _sets(engine) if e.since == since)
            fitted = start if asked.kept else fit(choose(True), start)
            fitted = fit_handover([p for p in of_range(apart, engine, since) if even(p.row["id"])], fitted)
            own = replace(fitted, source="fitted by calibration/fit_serving.py on public clean rows")
            found[engine, since] = own
            inside.append(logs(choose(True), own))
            outside.append(logs(choose(False), own))
            report(f"{engine} from {since}, fitted half", inside[-1])
            report(f"{engine} from {since}, other half", outside[-1])
            print(own, flush=True)
    report("all, fitted half", np.concatenate(inside))
    report("all, other half", np.concatenate(outside))
    if asked.write:
        engines = {
            engine: [asdict(found[engine, since]) for since in since_all]
            for engine, since_all in RANGES.items()
        }
        data = json.loads(OUT.read_text(encoding="utf-8"))
        with replacing(OUT) as part:
            part.write_text(
                json.dumps(data | {"engines": engines}, indent=1) + "\n",
                encoding="utf-8",
            )
    if asked.cross:
        cross(rows, found, "model")
        cross(rows, found, "gpu")


def _sets(engine: str) -> list[EngineConstants]:
    data = json.loads(OUT.read_text(encoding="utf-8"))
    return [EngineConstants(**entry) for entry in data["engines"][engine]]


if __name__ == "__main__":
    main()
