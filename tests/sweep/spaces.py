"""Spaces that the tests run, and ways to run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from offchip.sweep.points import points_of
from offchip.sweep.run import run_sweep, serial
from offchip.sweep.space import Space
from offchip.sweep.space_file import load_space
from offchip.sweep.store import Row, open_store

REPOSITORY = Path(__file__).parents[2]

DECODE = """
name: decode
model: llama-3-8b
hw: a100-80gb
options: {phase: decode}
vary:
  batch: [1, 8]
  prompt: [512, 4096]
  gpu.memory.bandwidth: {range: [1 TB/s, 2 TB/s], count: 3}
  gpu.memory.capacity: [16 GB, 40 GB]
  gpu.power.idle: {range: [40 W, 500 W], count: 2}
constraints:
  - time_per_token_s <= quantity('15 ms')
  - batch * prompt < 30000
objectives:
  time_per_token_s: minimise
  tokens_per_j: maximise
"""
"""24 x 2 points: some run, some break a constraint, some do not fit, some are no machine, some are excluded."""

SLOW = """
name: slow
model: resnet-50
hw: a100-80gb
fidelity: event
vary:
  batch: {range: [1, 12]}
  gpu.memory.bandwidth: {range: [1 TB/s, 2 TB/s], count: 5}
objectives: {makespan_s: minimise}
"""
"""60 points of some ten milliseconds each, long enough to be disturbed."""


def space_file(folder: Path, text: str, name: str = "space.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def space_of(folder: Path, text: str) -> Space:
    return load_space(space_file(folder, text))


def serial_rows(space: Space, stage: int = 0) -> list[Row]:
    with SerialRun(space) as executor:
        rows = [row for portion in executor.run(stage, points_of(space)) for row in portion]
    return sorted(rows, key=lambda row: row.number)


class SerialRun:
    def __init__(self, space: Space) -> None:
        self.executor = serial(space, Path("/nonexistent/cache"))

    def __enter__(self):
        return self.executor

    def __exit__(self, *_: object) -> None:
        self.executor.close()


def run_serially(space: Space, folder: Path, **options) -> list[tuple]:
    run_sweep(space, folder, lambda cache: serial(space, cache), **options)
    return table_of(folder)


def table_of(folder: Path) -> list[tuple]:
    with open_store(folder) as store:
        return table(store.rows())


def table(rows) -> list[tuple]:
    """Outcomes by stage and number, without keys: those hold a digest of the code, which an editor may change."""
    outcomes = sorted((row.outcome() for row in rows), key=lambda outcome: outcome[:2])
    return [outcome[:2] + outcome[3:] for outcome in outcomes]


def start(arguments: list[str], **options) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "offchip.cli.main", "sweep", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, **options
    )


def finish(arguments: list[str], **options) -> tuple[int, str, str]:
    process = start(arguments, **options)
    out, error = process.communicate(timeout=120)
    return process.returncode, out.decode(), error.decode()
