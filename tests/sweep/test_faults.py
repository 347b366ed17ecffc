"""Whatever dies in the middle, the table is the one of a run that nobody disturbed."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hw_configs.problems import InputError
from offchip.sweep.keys import code_digest
from offchip.sweep.points import count_points, points_of
from offchip.sweep.pool import Pool
from offchip.sweep.run import Shard
from offchip.sweep.space_file import load_space
from offchip.sweep.store import open_store
from tests.sweep.spaces import (
    DECODE,
    SLOW,
    finish,
    run_serially,
    serial_rows,
    space_file,
    space_of,
    start,
    table,
    table_of,
)

NO_DASK = importlib.util.find_spec("distributed") is None

HANGING = """
model: llama-3-8b
hw: b200
fidelity: event
options: {prompt: 64}
time_limit: 3 s
vary: {generate: [1, 100000, 2]}
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return run_serially(space_of(folder, SLOW), folder / "out")


def test_keys_do_not_depend_on_who_evaluates(tmp_path):
    space = space_of(tmp_path, DECODE)
    alone = serial_rows(space)
    with Pool(space, 2, None, code_digest()) as pool:
        rows = sorted((r for p in pool.run(0, points_of(space)) for r in p), key=lambda row: row.number)
    assert [row.key for row in rows] == [row.key for row in alone]
    assert len({row.key for row in rows}) == len(rows)


def test_worker_killed(tmp_path, undisturbed):
    space = space_of(tmp_path, SLOW)
    rows, killed = [], 0
    with Pool(space, 2, None) as pool:
        for portion in pool.run(0, points_of(space)):
            rows += portion
            if killed < 3 and len(rows) > 10 * killed:
                busy = next((w for w in pool.workers if w.slot.read()[2] is not None), None)
                if busy is not None:
                    busy.process.send_signal(signal.SIGKILL)
                    killed += 1
    assert killed == 3
    assert table(rows) == undisturbed


def test_point_whose_worker_always_dies_is_a_row(tmp_path):
    space = space_of(tmp_path, HANGING)
    with Pool(space, 1, None) as pool:
        listen = pool._listen

        def kill_on_the_second(wait_s):
            for worker in pool.workers:
                if worker.slot.read()[2] == 1:
                    worker.process.send_signal(signal.SIGKILL)
            return listen(wait_s)

        pool._listen = kill_on_the_second
        rows = sorted((r for p in pool.run(0, points_of(space)) for r in p), key=lambda row: row.number)
    assert [row.status for row in rows] == ["ok", "crashed", "ok"]
    assert rows[1].attempts == 3
    assert "died 3 times" in rows[1].reason


def test_main_process_killed_and_resumed(tmp_path, undisturbed):
    space, out = space_file(tmp_path, SLOW), tmp_path / "out"
    process = start([str(space), "--out", str(out), "--jobs", "2"])
    try:
        _wait_for_rows(out, 8)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = table_of(out)
    assert 8 <= len(before) < len(undisturbed)
    code, _, error = finish([str(space), "--out", str(out), "--jobs", "2"])
    assert code == 2
    assert "--resume" in error
    code, _, error = finish([str(space), "--out", str(out), "--jobs", "2", "--resume"])
    assert code == 0, error
    assert table_of(out) == undisturbed


def test_workers_end_with_their_sweep(tmp_path):
    space, out = space_file(tmp_path, SLOW), tmp_path / "out"
    process = start([str(space), "--out", str(out), "--jobs", "2"])
    try:
        _wait_for_rows(out, 3)
        children = [
            int(c) for c in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(child) for child in children)


def test_file_size_limit_is_one_line_and_resumes(tmp_path, undisturbed):
    space, out = space_file(tmp_path, SLOW), tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))

    code, _, error = finish([str(space), "--out", str(out)], preexec_fn=limit)
    assert code == 1
    assert "--resume" in error
    assert "Traceback" not in error
    code, _, error = finish([str(space), "--out", str(out), "--resume"])
    assert code == 0, error
    assert table_of(out) == undisturbed


@pytest.mark.slow
def test_disk_full(tmp_path, undisturbed):
    space, disk = space_file(tmp_path, SLOW), tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this user may not mount a tmpfs")
    try:
        code, _, error = finish([str(space), "--out", str(disk / "out")])
        assert code == 1, error
        assert "full" in error or "I/O" in error
        assert "Traceback" not in error
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        code, _, error = finish([str(space), "--out", str(disk / "out"), "--resume"])
        assert code == 0, error
        assert table_of(disk / "out") == undisturbed
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.parametrize("jobs", [1, 2])
def test_hanging_point_is_a_row(tmp_path, jobs):
    space = space_of(tmp_path, HANGING)
    began = time.monotonic()
    if jobs == 1:
        rows = serial_rows(space)
    else:
        with Pool(space, jobs, None) as pool:
            rows = sorted((r for p in pool.run(0, points_of(space)) for r in p), key=lambda row: row.number)
    assert [row.status for row in rows] == ["ok", "timeout", "ok"]
    assert "3 s" in rows[1].reason
    assert time.monotonic() - began < 60


@pytest.mark.slow
@pytest.mark.skipif(NO_DASK, reason="Dask is not installed")
def test_dask_worker_lost(tmp_path, undisturbed):
    from offchip.sweep.cluster import DaskCluster

    space = space_of(tmp_path, SLOW)
    cluster = DaskCluster(space, "local", 2, None)
    rows, killed = [], False
    try:
        for portion in cluster.run(0, points_of(space)):
            rows += portion
            if not killed:
                worker = next(iter(cluster.local.workers.values()))
                os.kill(worker.pid, signal.SIGKILL)
                killed = True
    finally:
        cluster.close()
    assert killed
    assert table(rows) == undisturbed


def test_two_sweeps_into_one_folder(tmp_path, undisturbed):
    space, out = space_file(tmp_path, SLOW), tmp_path / "out"
    first = start([str(space), "--out", str(out), "--resume"])
    second = start([str(space), "--out", str(out), "--resume"])
    for process in (first, second):
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    assert table_of(out) == undisturbed
    with pytest.raises(InputError, match="another space"):
        run_serially(space_of(tmp_path / "other", DECODE), out, resume=True)


def test_shards_make_the_same_table(tmp_path, undisturbed):
    space, out = space_file(tmp_path, SLOW), tmp_path / "out"
    for part in ("1/3", "3/3", "2/3"):
        code, _, error = finish([str(space), "--out", str(out), "--shard", part, "--resume"])
        assert code == 0, error
    assert table_of(out) == undisturbed


def test_folders_of_shards_are_merged(tmp_path, undisturbed, cli):
    space, parts = space_file(tmp_path, SLOW), [tmp_path / name for name in ("one", "two")]
    for number, part in enumerate(parts, start=1):
        run_serially(load_space(space), part, shard=Shard(number, 2))
    assert cli("sweep", "merge", *parts, "--out", tmp_path / "all").code == 0
    assert table_of(tmp_path / "all") == undisturbed
    assert run_serially(load_space(space), tmp_path / "all", resume=True) == undisturbed
    other = tmp_path / "other"
    run_serially(space_of(other, DECODE), other / "out")
    outcome = cli("sweep", "merge", parts[0], other / "out", "--out", tmp_path / "mixed")
    assert (outcome.code, "another space" in outcome.err) == (2, True)


def test_failed_points_are_repeated_and_done_ones_kept(tmp_path):
    space = space_of(tmp_path, DECODE)
    before = run_serially(space, tmp_path / "out")
    with open_store(tmp_path / "out") as store:
        rows = list(store.rows())
        assert len(rows) == count_points(space)
        store._write("UPDATE points SET status = ?, figures = '{}' WHERE number IN (3, 5)", [("failed",)])
    seen = []
    run_serially(space, tmp_path / "out", resume=True, notice=lambda *args: seen.extend(args[3]))
    assert sorted(row.number for row in seen) == [3, 5]
    assert table_of(tmp_path / "out") == before


def _wait_for_rows(folder: Path, many: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (folder / "sweep.sqlite").exists():
            with open_store(folder) as store:
                if sum(store.counts().values()) >= many:
                    return
        time.sleep(0.02)
    raise AssertionError("the sweep wrote no rows")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
