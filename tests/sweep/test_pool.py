"""The pool with workers that are played: who gets how many points, and what becomes of those whose worker fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hw_configs.problems import OffchipError
from offchip.sweep import pool as pool_module
from offchip.sweep.keys import point_key
from offchip.sweep.machine import Machines, Value
from offchip.sweep.pool import Pool
from offchip.sweep.space import Space
from offchip.sweep.store import Row
from offchip.sweep.worker import Slot, row_line
from tests.sweep.spaces import REPOSITORY, space_of

TEXT = """
model: resnet-50
hw: a100-80gb
time_limit: 3 s
vary: {batch: {range: [1, 40]}}
"""
SECONDS = 0.001


class Played:
    """A worker process that answers at once. ``deeds`` says what it does at a point instead of evaluating it."""

    made: list[Played]
    deeds: dict[int, Callable[[Played], bool]]
    """Called with the worker at a point; whether it goes on to answer."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command, self.options, self.heard = command, options, list[dict[str, Any]]()
        self.slot = Slot(options["pass_fds"][0])
        read, self.mouth = os.pipe()
        self.stdout, self.stdin = os.fdopen(read, "rb"), self
        self.returncode: int | None = None
        self.closed = False
        self.made.append(self)

    def write(self, data: bytes) -> None:
        assert data.endswith(b"\n")
        self.heard.append(json.loads(data))

    def flush(self) -> None:
        message = self.heard[-1]
        if "points" not in message:
            if self.deeds.get(-1, lambda _: True)(self):
                self.say(["ready"])
            return
        self.slot.take()
        for number, values in message["points"]:
            self.slot.begin(number)
            if not self.deeds.get(number, lambda _: True)(self):
                return
            row = Row(
                number, "key", "ok", "", values, {"y": 2.0 * values["batch"]}, SECONDS, 1, message["stage"]
            )
            self.say(["row", row_line(row)])
        self.slot.begin(None)

    def say(self, message: list[Any]) -> None:
        os.write(self.mouth, json.dumps(message).encode() + b"\n")

    def dies(self, code: int) -> bool:
        self.returncode = code
        os.close(self.mouth)
        return False

    def kill(self) -> None:
        if self.returncode is None:
            self.dies(-9)

    def wait(self) -> int | None:
        return self.returncode

    def close(self) -> None:
        self.closed = True

    def portions(self) -> list[list[int]]:
        return [[number for number, _ in message["points"]] for message in self.heard[1:]]


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return space_of(tmp_path, TEXT)


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Played]]:
    Played.made, Played.deeds = [], {}
    monkeypatch.setattr(pool_module.subprocess, "Popen", Played)
    monkeypatch.setattr(pool_module, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(pool_module, "GATHER_S", 0.0)
    yield Played
    for worker in Played.made:
        worker.slot.close()


def points(count: int) -> list[tuple[int, dict[str, Value]]]:
    return [(number, {"batch": number + 1}) for number in range(count)]


def rows_of(space: Space, count: int, jobs: int = 1, stage: int = 0) -> dict[int, Row]:
    with Pool(space, jobs, None, "code") as pool:
        rows = [row for portion in pool.run(stage, points(count)) for row in portion]
        assert not pool.waiting
    assert sorted(row.number for row in rows) == list(range(count)), "every point has one row"
    assert all(worker.closed and worker.returncode is not None for worker in Played.made)
    return {row.number: row for row in rows}


def test_rows_come_as_the_workers_say_them(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    with Pool(space, 1, tmp_path / "cache", "code") as pool:
        (rows,) = pool.run(1, points(2))
        (more,) = pool.run(0, points(1))
        assert len(pool.workers) == 1
    assert [row.outcome() for row in rows] == [
        (1, 0, "key", "ok", "", {"batch": 1}, {"y": 2.0}), (1, 1, "key", "ok", "", {"batch": 2}, {"y": 4.0}),
    ]  # fmt: skip
    assert [(row.seconds, row.attempts, row.stage) for row in (*rows, *more)] == [
        (SECONDS, 1, 1), (SECONDS, 1, 1), (SECONDS, 1, 0),
    ]  # fmt: skip
    (worker,) = Played.made
    assert worker.command == [sys.executable, "-m", "offchip.sweep.worker"]
    environment: Mapping[str, str] = worker.options["env"]
    assert (environment["OMP_NUM_THREADS"], environment["OPENBLAS_NUM_THREADS"]) == ("1", "1")
    assert environment["PYTHONPATH"] == os.pathsep.join((str(REPOSITORY), "elsewhere"))
    assert worker.heard[0] == {
        "text": space.text, "file": space.file, "code": "code", "slot": worker.options["pass_fds"][0],
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    assert [message["stage"] for message in worker.heard[1:]] == [1, 0]
    assert (pool.workers, worker.closed, worker.returncode) == ([], True, -9)


def test_nothing_is_started_for_no_points(space: Space) -> None:
    assert rows_of(space, 0, jobs=3) == {}
    assert Played.made == []


@pytest.mark.parametrize(("count", "jobs", "workers"), [(1, 4, 1), (2, 4, 2), (20, 2, 2), (20, 1, 1)])
def test_no_more_workers_than_points_or_jobs(space: Space, count: int, jobs: int, workers: int) -> None:
    rows_of(space, count, jobs)
    assert len(Played.made) == workers


def test_portions_grow_with_the_pace(space: Space) -> None:
    """A fifth of a second each: at 50 ms a point 4, then 0.1 of the way to 1 ms with every row."""
    rows_of(space, 24)
    assert [len(portion) for portion in Played.made[0].portions()] == [4, 6, 11, 3]
    assert [number for portion in Played.made[0].portions() for number in portion] == list(range(24))


def test_portions_leave_something_for_the_others(space: Space) -> None:
    rows_of(space, 5, jobs=2)
    first, second = Played.made
    assert (first.portions()[0], second.portions()[0]) == ([0, 1, 2], [3])


def test_a_portion_has_so_many_points_and_bytes(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    point = len(json.dumps(points(1)[0]))
    monkeypatch.setattr(pool_module, "MAX_MESSAGE", 2 * point)
    rows_of(space, 6)
    assert Played.made[0].portions() == [[0, 1], [2, 3], [4, 5]]
    monkeypatch.undo()
    monkeypatch.setattr(pool_module.subprocess, "Popen", Played)
    monkeypatch.setattr(pool_module, "MAX_POINTS", 3)
    rows_of(space, 8)
    assert [len(portion) for portion in Played.made[1].portions()] == [3, 3, 2]


def test_points_are_read_as_they_are_needed(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_POINTS", 2)
    read = []

    def source() -> Iterator[tuple[int, dict[str, Value]]]:
        for point in points(40):
            read.append(point[0])
            yield point

    with Pool(space, 2, None, "code") as pool:
        run = pool.run(0, source())
        many = len(next(run))
        assert (len(read), many) == (8, 4), "8 wait for two workers with at most 2 points, who took 4"
        many += len(next(run))
        assert (len(read), many) == (12, 8)
        assert sum(len(rows) for rows in run) + many == 40


def test_no_portion_before_the_last_was_taken_up(space: Space) -> None:
    """A worker with its message still in the pipe gets no other, and one with more than half a portion neither."""
    pool = Pool(space, 1, None, "code")
    pool._hire()
    (worker,) = pool.workers
    pool.waiting.extend(points(20))
    pool._give(worker)
    assert worker.assigned == {}, "not ready"
    worker.ready = True
    worker.sent = 1
    pool._give(worker)
    assert worker.assigned == {}
    worker.slot.take()
    worker.assigned = dict(points(3))
    pool._give(worker)
    assert len(pool.waiting) == 20, "3 of 4 are still to be done"
    worker.assigned = dict(points(2))
    pool._give(worker)
    assert (len(pool.waiting), worker.sent) == (16, 2)
    pool.waiting.clear()
    worker.assigned = {}
    pool._give(worker)
    assert worker.sent == 2
    pool.close()


@pytest.mark.parametrize(("code", "told"), [(-11, " (signal 11)"), (-1, " (signal 1)"), (3, ""), (0, "")])
def test_a_point_that_kills_its_worker_is_tried_three_times(space: Space, code: int, told: str) -> None:
    Played.deeds[2] = lambda worker: worker.dies(code)
    rows = rows_of(space, 6, stage=0)
    assert len(Played.made) == 4
    values: dict[str, Value] = {"batch": 3}
    key = point_key(space, Machines(space.beside), values, 0, "code")
    assert rows.pop(2) == Row(
        2, key, "crashed", f"its worker process died 3 times{told}", values, {}, 0.0, 3, 0
    )
    assert {(row.status, row.attempts) for row in rows.values()} == {("ok", 1)}


def test_a_point_that_is_done_the_second_time_says_so(space: Space) -> None:
    def once(worker: Played) -> bool:
        return True if len(Played.made) > 1 else worker.dies(-9)

    Played.deeds[1] = once
    rows = rows_of(space, 4)
    assert [rows[number].attempts for number in range(4)] == [1, 2, 1, 1]
    assert {row.status for row in rows.values()} == {"ok"}


def test_attempts_are_counted_anew_in_another_stage(space: Space) -> None:
    Played.deeds[1] = lambda worker: True if len(Played.made) > 1 else worker.dies(-9)
    with Pool(space, 1, None, "code") as pool:
        first = [row for rows in pool.run(0, points(2)) for row in rows]
        again = [row for rows in pool.run(1, points(2)) for row in rows]
    assert [row.attempts for row in (*first, *again)] == [1, 2, 1, 1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that goes on by a tenth of a second whenever somebody looks."""
    clock = SimpleNamespace(now=100.0)

    def monotonic() -> float:
        clock.now += 0.1
        return float(clock.now)

    clock.monotonic = monotonic
    monkeypatch.setattr(pool_module, "time", clock)
    return clock


@pytest.mark.usefixtures("clock")
def test_a_point_that_hangs_is_stopped_at_its_limit(space: Space) -> None:
    Played.deeds[1] = lambda _: False
    rows = rows_of(space, 4)
    late = rows.pop(1)
    assert (late.status, late.reason, late.figures) == (
        "timeout",
        "ran longer than the limit of 3 s and was stopped",
        {},
    )
    assert (late.attempts, late.parameters, late.seconds) == (1, {"batch": 2}, 0.0)
    assert {row.status for row in rows.values()} == {"ok"}
    assert len(Played.made) == 2


def test_the_limit_is_of_one_point(space: Space, clock: SimpleNamespace) -> None:
    """What hangs is stopped between the limit and a look later; a point that begins starts the clock afresh."""
    began = []
    Played.deeds[1] = lambda _: bool(began.append(clock.now))
    with Pool(space, 1, None, "code") as pool:
        late = [
            (clock.now, row) for rows in pool.run(0, points(2)) for row in rows if row.status == "timeout"
        ]
    ((stopped, _),) = late
    assert 3.0 < stopped - began[0] < 3.8


def test_a_worker_that_went_on_at_the_last_moment_loses_nothing(space: Space) -> None:
    pool = Pool(space, 1, None, "code")
    pool._hire()
    (worker,) = pool.workers
    worker.ready, worker.assigned = True, dict(points(3))
    worker.slot.begin(1)
    pool.waiting.append((7, {"batch": 8}))
    assert pool._timed_out(worker) == [], "it has begun another point since it was looked at"
    assert [number for number, _ in pool.waiting] == [0, 1, 2, 7], "in their order, before the others"
    assert pool.workers == []
    pool.close()


@pytest.mark.parametrize("start", [lambda worker: worker.dies(1), lambda _: False], ids=["dies", "hangs"])
@pytest.mark.usefixtures("clock")
def test_workers_that_do_not_start_end_the_sweep(
    space: Space, start: Callable[[Played], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "START_LIMIT_S", 2.0)
    Played.deeds[-1] = start
    with (
        Pool(space, 1, None, "code") as pool,
        pytest.raises(OffchipError, match=r"^worker processes do not start; see the messages above$"),
    ):
        list(pool.run(0, points(3)))
    assert len(Played.made) == 3


def test_false_starts_in_a_row_count(space: Space) -> None:
    """Two that fail, one that works and whose point kills it, two more that fail: none of these is three in a row."""
    fates = iter([False, False, True, False, False, True, True])
    Played.deeds[-1] = lambda worker: True if next(fates) else worker.dies(1)
    Played.deeds[0] = lambda worker: True if len(Played.made) > 3 else worker.dies(-9)
    rows = rows_of(space, 1)
    assert (rows[0].status, rows[0].attempts, len(Played.made)) == ("ok", 2, 6)


def test_messages_may_come_in_pieces(space: Space) -> None:
    pool = Pool(space, 1, None, "code")
    pool._hire()
    (worker,) = pool.workers
    assert pool._listen(0.0) == []
    assert worker.ready
    worker.assigned = dict(points(2))
    text = json.dumps(["row", row_line(Row(0, "key", "ok", "", {"batch": 1}, {}, 0.5))]).encode()
    os.write(Played.made[0].mouth, text[:10])
    assert pool._listen(0.0) == []
    os.write(Played.made[0].mouth, text[10:] + b"\n" + text[:5])
    (row,) = pool._listen(0.0)
    assert (row.number, row.seconds, worker.rest, list(worker.assigned)) == (0, 0.5, text[:5], [1])
    assert pool.pace == pytest.approx(0.05 + 0.1 * 0.45)
    pool.close()


def test_a_pipe_that_is_broken_is_told_by_its_end(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    pool = Pool(space, 1, None, "code")
    monkeypatch.setattr(Played, "write", broken)
    monkeypatch.setattr(Played, "close", broken)
    pool._hire()
    assert len(pool.workers) == 1
    pool.close()
    assert pool.workers == []


def test_rows_are_gathered_for_a_while(
    space: Space, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "GATHER_S", 1e3)
    with Pool(space, 1, None, "code") as pool:
        (rows,) = pool.run(0, points(9))
    assert len(rows) == 9
    assert clock.now > 100
