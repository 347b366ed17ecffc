"""The cluster's executor with a scheduler that is played: sizes of portions, how many fly, what ends a run."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hw_configs.problems import InputError, OffchipError
from offchip.sweep import cluster as cluster_module
from offchip.sweep import pool as pool_module
from offchip.sweep.cluster import DaskCluster, run_portion
from offchip.sweep.keys import code_digest
from offchip.sweep.space import Space
from offchip.sweep.store import Row
from offchip.sweep.worker import row_line
from tests.sweep.spaces import space_of

TEXT = "model: resnet-50\nhw: a100-80gb\nvary: {batch: {range: [1, 40]}}\n"


class Scheduler:
    """Answers every portion at once, each point in ``seconds``; results are handed out first come, first served."""

    def __init__(self, workers: int = 2, seconds: float = 0.25, fails_at: int = -1) -> None:
        self.workers, self.seconds, self.fails_at = workers, seconds, fails_at
        self.portions: list[list[int]] = []
        self.flying: deque[Any] = deque()
        self.flew: list[int] = []
        self.called: list[Any] = []
        self.closed: list[str] = []

    def client(self, address: Any, **options: Any) -> Any:
        if address == "nowhere":
            raise TimeoutError("no answer")
        self.called.append((address, options))
        info = {"workers": dict.fromkeys(range(self.workers))}
        return SimpleNamespace(
            submit=self.submit, scheduler_info=lambda: info, close=lambda: self.closed.append("client")
        )

    def local(self, **options: Any) -> Any:
        self.called.append(options)
        return SimpleNamespace(close=lambda: self.closed.append("local"))

    def submit(self, function: Any, start: Any, stage: int, portion: list[Any], *, pure: bool) -> Any:
        assert (function, pure) == (run_portion, False)
        assert start["code"] == code_digest()
        self.portions.append([number for number, _ in portion])
        if self.fails_at in self.portions[-1]:
            return SimpleNamespace(status="error", exception=lambda: "it broke")
        rows = [
            Row(number, "key", "ok", "", values, {}, self.seconds, 1, stage) for number, values in portion
        ]
        return SimpleNamespace(status="finished", result=lambda: [row_line(row) for row in rows])

    def as_completed(self, futures: Iterable[Any], *, raise_errors: bool) -> Any:
        assert (list(futures), raise_errors) == ([], False)
        scheduler = self

        class Results:
            def add(self, future: Any) -> None:
                scheduler.flying.append(future)

            def __next__(self) -> Any:
                scheduler.flew.append(len(scheduler.flying))
                return scheduler.flying.popleft()

        return Results()


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    found = Scheduler()
    settings: dict[str, Any] = {}
    dask = SimpleNamespace(config=SimpleNamespace(set=settings.update))
    library = SimpleNamespace(Client=found.client, LocalCluster=found.local, as_completed=found.as_completed)
    monkeypatch.setitem(sys.modules, "dask", dask)
    monkeypatch.setitem(sys.modules, "distributed", library)
    return found


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return space_of(tmp_path, TEXT)


def points(count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((number, {"batch": number}) for number in range(count))


def sizes(space: Space, scheduler: Scheduler, count: int, stage: int = 0) -> list[int]:
    rows = [
        row for rows in DaskCluster(space, "tcp://there", 2, None).run(stage, points(count)) for row in rows
    ]
    assert sorted(row.number for row in rows) == list(range(count))
    assert {row.stage for row in rows} <= {stage}
    assert [number for portion in scheduler.portions for number in portion] == list(range(count))
    return [len(portion) for portion in scheduler.portions]


def test_portions_take_about_a_second(space: Space, scheduler: Scheduler) -> None:
    """Four points of a quarter of a second; half a second makes it 2, a second and more 1."""
    assert sizes(space, scheduler, 40, stage=1) == [4] * 10
    assert scheduler.flew == [6, 6, 6, 6, 6, 5, 4, 3, 2, 1], "three for each of two workers"


@pytest.mark.parametrize(("seconds", "then"), [(0.5, 2), (0.4, 2), (1.0, 1), (7.0, 1)])
def test_slow_points_go_in_small_portions(
    space: Space, scheduler: Scheduler, seconds: float, then: int
) -> None:
    scheduler.workers, scheduler.seconds = 1, seconds
    assert sizes(space, scheduler, 12 + 2 * then) == [4, 4, 4, then, then]


def test_quick_points_go_in_portions_twice_as_large_each_time(
    space: Space, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "MAX_PORTION", 20)
    scheduler.workers, scheduler.seconds = 1, 0.0
    assert sizes(space, scheduler, 12 + 8 + 16 + 20 + 20 + 1) == [4, 4, 4, 8, 16, 20, 20, 1]


def test_nobody_and_nothing(space: Space, scheduler: Scheduler) -> None:
    """A cluster whose workers are still to come is taken for one of one worker; no points are no rows."""
    scheduler.workers = 0
    assert sizes(space, scheduler, 0) == []
    assert sizes(space, scheduler, 13) == [4, 4, 4, 1]
    assert scheduler.flew == [3, 3, 2, 1]


def test_a_portion_that_is_given_up_ends_the_run(space: Space, scheduler: Scheduler) -> None:
    scheduler.fails_at = 5
    run = DaskCluster(space, "tcp://there", 2, None).run(0, points(20))
    assert [row.number for row in next(run)] == [0, 1, 2, 3]
    with pytest.raises(OffchipError, match=r"^the cluster gave up: it broke; '--resume' goes on from here$"):
        next(run)


def test_a_cluster_of_this_machine_ends_with_its_run(
    space: Space, scheduler: Scheduler, tmp_path: Path
) -> None:
    cluster = DaskCluster(space, "local", 3, tmp_path / "cache")
    assert scheduler.called == [
        {"n_workers": 3, "threads_per_worker": 1, "dashboard_address": None}, (cluster.local, {}),
    ]  # fmt: skip
    assert cluster.start == {
        "text": space.text, "file": str(Path(space.file).resolve()), "code": code_digest(),
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    cluster.close()
    assert scheduler.closed == ["client", "local"]


def test_a_cluster_elsewhere_is_left(space: Space, scheduler: Scheduler) -> None:
    cluster = DaskCluster(space, "tcp://there", 3, None)
    assert scheduler.called == [("tcp://there", {"timeout": 30})]
    assert cluster.start["cache"] is None
    cluster.close()
    assert scheduler.closed == ["client"]


@pytest.mark.usefixtures("scheduler")
def test_no_answer_and_no_dask_are_told(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no scheduler answers at 'nowhere': no answer"):
        DaskCluster(space, "nowhere", 1, None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="a cluster needs Dask"):
        DaskCluster(space, "local", 1, None)


class PlayedPool:
    """Counts how often it is made and closed."""

    made: list[PlayedPool]

    def __init__(self, space: Space, jobs: int, cache: Path | None, code: str) -> None:
        self.given = (space.text, space.file, jobs, cache, code)
        self.closed = False
        self.made.append(self)

    def run(self, stage: int, points: list[Any]) -> Iterator[list[Row]]:
        for number, values in points:
            yield [Row(number, "key", "ok", "", values, {}, 0.5, 1, stage)]

    def close(self) -> None:
        self.closed = True


def test_a_dask_worker_keeps_its_pool_for_one_sweep(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PlayedPool.made = []
    monkeypatch.setattr(pool_module, "Pool", PlayedPool)
    monkeypatch.setattr(cluster_module, "_pools", SimpleNamespace())
    start = {"text": space.text, "file": space.file, "code": code_digest(), "cache": None}
    given = list(points(2))
    assert run_portion(start, 1, given) == [
        row_line(Row(n, "key", "ok", "", values, {}, 0.5, 1, 1)) for n, values in given
    ]
    run_portion(dict(start), 0, given)
    (first,) = PlayedPool.made
    assert (first.given, first.closed) == ((space.text, space.file, 1, None, code_digest()), False)
    run_portion({**start, "cache": str(tmp_path)}, 0, given)
    assert [pool.closed for pool in PlayedPool.made] == [True, False]
    assert PlayedPool.made[1].given[3] == tmp_path
    with pytest.raises(OffchipError, match="another version of Offchip"):
        run_portion({**start, "code": "other"}, 0, given)
