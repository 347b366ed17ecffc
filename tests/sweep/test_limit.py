"""A point's limit holds whatever the point does about it, and compiling is not the point's."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest

from offchip.sweep import limit as limit_module
from offchip.sweep import worker as worker_module
from offchip.sweep.cache import DiskCache
from offchip.sweep.evaluate import Evaluator
from offchip.sweep.limit import PointStopped, Stopwatch
from offchip.sweep.points import points_of
from offchip.sweep.pool import Pool, _Worker
from offchip.sweep.run import Serial
from offchip.sweep.worker import Slot
from tests.sweep.spaces import finish, space_file, space_of

ONE = """
model: gpt2
hw: a100-80gb
time_limit: 1 s
vary: {prompt: [8, 16]}
"""
COLD = """
model: gpt2
hw: pim-gpt
options: {prompt: 8, generate: 2}
vary: {batch: [1]}
fidelity: cycle
time_limit: 8 s
"""


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def swallows_once(error):
    """Waits in a place that takes an error for one of its own, as a cache on a bad disk does."""
    with contextlib.suppress(error):
        spin(5)
    return "ok", "", {"makespan_s": 1.0}


def swallows_always():
    for _ in range(4):
        with contextlib.suppress(BaseException):
            spin(0.5)
    return "ok", "", {"makespan_s": 1.0}


def rows_of(tmp_path, work):
    """Rows of a sweep in this process whose first point does ``work`` instead of its own."""
    space = space_of(tmp_path, ONE)
    evaluator = Evaluator(space, DiskCache(tmp_path / "cache"))
    own = evaluator._outcome

    def outcome(values, stage):
        return work() if values["prompt"] == 8 else own(values, stage)

    evaluator._outcome = outcome
    return [row for rows in Serial(evaluator).run(0, points_of(space)) for row in rows]


@pytest.mark.parametrize(
    "work",
    [lambda: swallows_once(OSError), lambda: swallows_once(Exception), swallows_always],
    ids=["except OSError", "except Exception", "except everything"],
)
def test_a_stop_that_is_swallowed_is_a_timeout(tmp_path, work):
    began = time.monotonic()
    first, second = rows_of(tmp_path, work)
    assert (first.status, dict(first.figures), second.status) == ("timeout", {}, "ok")
    assert "1 s" in first.reason
    assert time.monotonic() - began < 4


def test_the_disk_cache_does_not_eat_the_limit(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache")
    cache.put("ab" * 32, b"content")
    monkeypatch.setattr(Path, "read_bytes", lambda _path: spin(5))
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: spin(5))
    for work in (lambda: cache.get("ab" * 32), lambda: cache.put("cd" * 32, b"more")):
        watch, began = Stopwatch(0.2, alarm=True), time.monotonic()
        watch.start()
        try:
            with pytest.raises(PointStopped):
                work()
        finally:
            watch.close()
        assert time.monotonic() - began < 2


def test_the_alarm_ends_with_its_point(tmp_path):
    rows_of(tmp_path, lambda: ("ok", "", {}))
    time.sleep(1.2)
    watch = Stopwatch(0.05, alarm=True)
    watch.start()
    watch.close()
    time.sleep(0.2)
    assert watch.seconds() < 0.05


def test_a_late_point_in_another_thread_is_a_timeout(tmp_path):
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(rows_of(tmp_path, lambda: (spin(1.5), ("ok", "", {}))[1]))
    )
    thread.start()
    thread.join()
    assert [row.status for row in found] == ["timeout", "ok"]


def compile_something():
    """Compiles for longer than the limit of the test, and runs in no time."""

    def kernel(x):
        total = 0.0
        for i in range(x.shape[0]):
            total += (x[i] * x[i]) ** 0.5
        return total

    import numpy as np

    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        numba.njit(kernel)(np.ones(4))
    return "ok", "", {"makespan_s": 1.0}


def test_compiling_does_not_count(tmp_path):
    numba.njit(lambda x: x + 1)(1)  # what numba itself needs the first time
    first, second = rows_of(tmp_path, compile_something)
    assert (first.status, second.status) == ("ok", "ok")
    assert first.seconds < 1


def test_what_comes_after_compiling_counts(tmp_path):
    def work():
        compile_something()
        spin(5)
        return "ok", "", {}

    began = time.monotonic()
    assert rows_of(tmp_path, work)[0].status == "timeout"
    assert time.monotonic() - began < 4


def test_a_pool_sees_what_went_into_compiling(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    for module in (limit_module, worker_module):
        monkeypatch.setattr(module, "time", clock)
    pool = Pool(space_of(tmp_path, ONE), 1, None)
    with tempfile.TemporaryFile() as file:
        file.truncate(Slot.SIZE)
        slot = Slot(file.fileno())
        slot.begin(7)
        worker = _Worker(None, slot, since=clock.now)
        watch = Stopwatch(0.3, slot=slot)
        watch.start()
        clock.now += 0.1
        watch.compile_begins()
        clock.now += 0.4
        assert pool._spent(worker, clock.now) == pytest.approx(0.1)
        watch.compile_ends()
        clock.now += 0.1
        assert pool._spent(worker, clock.now) == pytest.approx(0.2)
        watch.close()
        assert watch.seconds() == pytest.approx(0.2)
        assert slot.read() == (0, 1, 7)
        slot.begin(8)
        assert slot.compiling_s(clock.now) == 0
        slot.close()
    pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_cold_cache_of_kernels_times_nothing_out(tmp_path, monkeypatch, jobs):
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "kernels"))
    path = space_file(tmp_path, COLD)
    code, out, error = finish([str(path), "--out", str(tmp_path / "out"), "--jobs", jobs, "--json"])
    assert code == 0, error
    assert json.loads(out)["stages"][0]["points"] == {"ok": 1}
