"""The driver of a sweep: which points are still to do, who evaluates them, and what the store gets.

Whatever evaluates, this process alone writes the store. Rows are keyed by the number of their point, so the table is
the same for one process, many, or a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input
from offchip.sweep.cache import DiskCache
from offchip.sweep.evaluate import Evaluator
from offchip.sweep.keys import code_digest, point_key
from offchip.sweep.machine import Machines
from offchip.sweep.pareto import ranking
from offchip.sweep.points import Point, count_points, points_of
from offchip.sweep.space import Objective, Space
from offchip.sweep.store import FINAL, FORMAT, Row, Store, open_store

__all__ = ["Executor", "Serial", "Shard", "objective_table", "run_sweep"]

SERIAL_ROWS = 64


class Executor(Protocol):
    """Evaluates points and yields their rows, in any order and portion."""

    def run(self, stage: int, points: Iterable[Point]) -> Iterator[list[Row]]:
        """Rows of the points at a stage."""
        ...

    def close(self) -> None:
        """End whatever was started."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (from 1) of ``count``: every count-th point."""

    index: int
    count: int

    def has(self, number: int) -> bool:
        """Whether a point belongs to this part."""
        return number % self.count == self.index - 1


@dataclass
class Serial:
    """Evaluates in this process. In the main thread an alarm stops points that exceed their limit.

    Anywhere else a point runs to its end, and is a row with status ``timeout`` if that was too late.
    """

    evaluator: Evaluator

    def run(self, stage: int, points: Iterable[Point]) -> Iterator[list[Row]]:
        """Rows one after another, handed over some at a time or after a slow point."""
        rows: list[Row] = []
        spent = 0.0
        for number, values in points:
            row = self.evaluator.row(number, values, stage, alarm=True)
            rows.append(row)
            spent += row.seconds
            if len(rows) >= SERIAL_ROWS or spent > 0.1:
                yield rows
                rows, spent = [], 0.0
        if rows:
            yield rows

    def close(self) -> None:
        """Nothing was started."""


def objective_table(
    objectives: Sequence[Objective], rows: Iterable[Row]
) -> tuple[list[Row], NDArray[np.float64]]:
    """Rows with status ok and every objective, and their objectives, signed so that less is better."""
    kept, table = [], []
    for row in rows:
        values = [row.figures.get(o.name) for o in objectives]
        if row.status == "ok" and all(_is_number(value) for value in values):
            kept.append(row)
            table.append(
                [o.sign * float(v) for o, v in zip(objectives, values, strict=True) if v is not None]
            )
    return kept, np.array(table, dtype=np.float64).reshape(len(kept), len(objectives))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def run_sweep(
    space: Space,
    folder: Path,
    make_executor: Callable[[Path], Executor],
    *,
    resume: bool = False,
    shard: Shard | None = None,
    notice: Callable[[int, int, int, list[Row]], None] | None = None,
) -> None:
    """Run a space into a folder.

    ``make_executor`` gets the folder of the cache. ``notice(stage, expected, kept, rows)`` hears of every
    portion of rows; ``kept`` is the number of points that an earlier run had done. Raises ``InputError`` when
    the folder holds another sweep, or the same one and ``resume`` is False.
    """
    with open_store(folder, create=True) as store:
        _claim(store, space, folder, resume)
        executor = make_executor(folder / "cache")
        run = _Run(space, store, executor, shard, notice or (lambda *_: None))
        try:
            if space.strategy.kind == "optuna":
                from offchip.sweep.search import search

                search(space, run.stage, store.rows_at, folder)
            else:
                run.stage(0, points_of(space), count_points(space))
            for stage in range(1, len(space.stages) if shard is None else 1):
                run.promote(stage)
        finally:
            executor.close()


def _claim(store: Store, space: Space, folder: Path, resume: bool) -> None:
    meta = store.meta()
    if meta:
        if meta["space_digest"] != space.digest:
            raise bad_input(
                f"holds the sweep {meta['name']!r} of another space; choose another folder", file=str(folder)
            )
        if store.counts() and not resume:
            done = sum(store.counts().values())
            raise bad_input(
                f"holds {done} points of this sweep; '--resume' goes on from there", file=str(folder)
            )
    store.write_meta(
        {"format": FORMAT, **space.meta(), "code": code_digest(), "expected": count_points(space)}
    )


@dataclass
class _Run:
    space: Space
    store: Store
    executor: Executor
    shard: Shard | None
    notice: Callable[[int, int, int, list[Row]], None]
    machines: Machines = field(init=False)
    kept: dict[int, int] = field(default_factory=dict)
    """Points by stage that an earlier run had done."""

    def __post_init__(self) -> None:
        self.machines = Machines(self.space.beside)

    def stage(self, stage: int, points: Iterable[Point], expected: int) -> None:
        """Evaluate what the store does not have yet."""
        known, code = self.store.outcomes(stage), code_digest()
        kept = self.kept.get(stage, 0)
        todo: list[Point] = []
        if known:
            # The store already has some: keep those whose key, the hash of all they depend on, is still theirs.
            for number, values in self._mine(points):
                key, status = known.get(number, ("", ""))
                if status in FINAL and key == point_key(self.space, self.machines, values, stage, code):
                    kept += 1
                else:
                    todo.append((number, values))
            left: Iterable[Point] = todo
            self.kept[stage] = kept
        else:
            left = self._mine(points)
        if self.shard is not None:
            expected = sum(1 for number in range(expected) if self.shard.has(number))
        self.notice(stage, expected, kept, [])
        for rows in self.executor.run(stage, left):
            self.store.write(rows)
            self.notice(stage, expected, kept, rows)

    def promote(self, stage: int) -> None:
        """Repeat the best points of the stage before at the next fidelity."""
        rows, table = objective_table(self.space.objectives, self.store.rows(stage - 1))
        many = math.ceil(self.space.stages[stage].promote * len(rows))
        best = sorted(ranking(table, many)[:many]) if len(rows) else []
        chosen = {rows[i].number: rows[i] for i in best}
        if set(self.store.outcomes(stage)) - set(chosen):
            self.store.drop_stage(stage)
        self.stage(stage, ((number, dict(row.parameters)) for number, row in chosen.items()), len(chosen))

    def _mine(self, points: Iterable[Point]) -> Iterator[Point]:
        return (point for point in points if self.shard is None or self.shard.has(point[0]))


def serial(space: Space, cache: Path) -> Serial:
    """An executor in this process."""
    return Serial(Evaluator(space, DiskCache(cache)))


def timed(space: Space, points: Sequence[Point], stage: int = 0) -> list[Row]:
    """Rows of a few points, evaluated here and kept nowhere, for an estimate of time."""
    evaluator = Evaluator(space)
    rows = [evaluator.row(number, values, stage) for number, values in points]
    return [replace(row, stage=stage) for row in rows]
