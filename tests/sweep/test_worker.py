"""The worker's side of the pool, in this process: what it shares, what it says, and in what portions."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offchip.sweep import worker as worker_module
from offchip.sweep.evaluate import Evaluator
from offchip.sweep.space import Space
from offchip.sweep.store import Row
from offchip.sweep.worker import Slot, main, row_from, row_line
from tests.sweep.spaces import space_of

TEXT = """
model: resnet-50
hw: a100-80gb
vary: {batch: [1, 2]}
"""


@pytest.fixture
def shared() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.truncate(Slot.SIZE)
        yield file.fileno()


def test_both_sides_of_a_slot_see_the_same(shared: int) -> None:
    one, other = Slot(shared), Slot(shared)
    assert other.read() == (0, 0, None)
    one.take()
    assert other.read() == (1, 0, None)
    one.begin(0)
    assert other.read() == (1, 1, 0)
    one.take()
    assert other.read() == (2, 1, 0)
    one.begin(41)
    assert other.read() == (2, 2, 41)
    one.begin(None)
    assert other.read() == (2, 3, None)
    one.close()
    with pytest.raises(ValueError, match="closed"):
        one.read()
    other.close()


def test_compiling_is_counted_by_the_point(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=10.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(worker_module, "time", clock)
    slot = Slot(shared)
    slot.take()
    slot.begin(5)
    assert slot.compiling_s(11.0) == 0.0
    slot.compile_begins()
    assert slot.compiling_s(12.5) == 2.5
    clock.now = 13.0
    slot.compile_ends()
    assert slot.compiling_s(99.0) == 3.0
    clock.now = 20.0
    slot.compile_begins()
    assert slot.compiling_s(21.0) == 4.0
    clock.now = 22.0
    slot.compile_ends()
    assert slot.compiling_s(99.0) == 5.0
    assert slot.read() == (1, 1, 5)
    slot.begin(6)
    assert slot.compiling_s(99.0) == 0.0
    slot.close()


def test_a_row_survives_its_line() -> None:
    row = Row(3, "key", "constraint", "why", {"x": 1, "n": None}, {"y": 2.5}, 0.25, 2, 1)
    line = json.loads(json.dumps(row_line(row)))
    assert line == [3, "key", "constraint", "why", '{"x":1,"n":null}', '{"y":2.5}', 0.25, 2, 1]
    back = row_from(line)
    assert (back.outcome(), back.seconds, back.attempts) == (row.outcome(), 0.25, 2)


@pytest.fixture
def serve(tmp_path: Path, shared: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[Any]]]:
    """Run the worker on some portions of points; what it says, line by line."""

    def run(space: Space, *portions: list[int], stage: int = 0, cache: Path | None = None) -> list[list[Any]]:
        start = {
            "text": space.text,
            "file": space.file,
            "code": "code",
            "slot": shared,
            "cache": cache and str(cache),
        }
        tasks = [{"stage": stage, "points": [[n, {"batch": n}] for n in portion]} for portion in portions]
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(m) + "\n" for m in (start, *tasks))))
        said, out, error = tmp_path / "said", os.dup(1), os.dup(2)
        with said.open("wb") as file:
            os.dup2(file.fileno(), 1)
            try:
                main()
                noise = os.fstat(1).st_ino, os.fstat(2).st_ino
            finally:
                os.dup2(out, 1)
                os.dup2(error, 2)
                os.close(out)
                os.close(error)
        assert noise[0] == noise[1], "what a library prints goes to standard error"
        return [json.loads(line) for line in said.read_bytes().splitlines()]

    return run


def test_a_worker_says_what_an_evaluator_says(
    tmp_path: Path, shared: int, serve: Callable[..., list[list[Any]]]
) -> None:
    space = space_of(tmp_path, TEXT)
    ready, *said = serve(space, [1, 2], [4], cache=tmp_path / "cache")
    assert ready == ["ready"]
    assert [kind for kind, _ in said] == ["row"] * 3
    alone = Evaluator(space, code="code")
    rows = [row_from(line) for _, line in said]
    assert [row.outcome() for row in rows] == [alone.row(n, {"batch": n}).outcome() for n in (1, 2, 4)]
    assert {row.status for row in rows} == {"ok"}
    assert list((tmp_path / "cache").glob("*/*")), "the cache that it was told of"
    slot = Slot(shared)
    assert slot.read() == (2, 5, None), "two portions, three points and the end of each portion"
    slot.close()


@pytest.mark.parametrize(("slow", "writes"), [(0.0, [1, 3, 1]), (0.03, [1, 1, 1, 1, 1])])
def test_rows_go_out_together_unless_they_are_slow(
    tmp_path: Path, serve: Callable[..., list[list[Any]]], monkeypatch: pytest.MonkeyPatch, slow: float,
    writes: list[int],
) -> None:  # fmt: skip
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)

    def row(_: Evaluator, number: int, values: dict[str, Any], stage: int) -> Row:
        clock.now += slow
        return Row(number, "key", "ok", "", values, {}, slow, 1, stage)

    counts, write = [], os.write
    monkeypatch.setattr(worker_module, "time", clock)
    monkeypatch.setattr(worker_module, "GATHER_ROWS", 3)
    monkeypatch.setattr(Evaluator, "row", row)
    monkeypatch.setattr(os, "write", lambda file, data: counts.append(data.count(b"\n")) or write(file, data))
    said = serve(space_of(tmp_path, TEXT), [1, 2, 3, 4], stage=1)
    assert counts == writes
    assert [line[0] for _, line in said[1:]] == [1, 2, 3, 4]
    assert {line[-1] for _, line in said[1:]} == {1}


def test_a_pipe_that_takes_a_part_gets_the_rest(
    tmp_path: Path, serve: Callable[..., list[list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    said = serve(space_of(tmp_path, TEXT), [1, 2])
    assert [line[0] for _, line in said[1:]] == [1, 2]
