"""What a sweep says of itself, on rows made by hand: best, front, ranks, reasons, comparison, progress, tables."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hw_configs.problems import InputError
from offchip.sweep import progress as progress_module
from offchip.sweep.analysis import Sweep, compared
from offchip.sweep.expression import parse_expression
from offchip.sweep.progress import SweepProgress, duration
from offchip.sweep.run import objective_table
from offchip.sweep.space import Objective
from offchip.sweep.store import Row, open_store
from offchip.sweep.table import columns_of, export

TIME = Objective("t", parse_expression("t"), 1)
RATE = Objective("r", parse_expression("r"), -1)


def row(
    number: int, t: Any = None, r: Any = None, status: str = "ok", reason: str = "", **parameters: Any
) -> Row:
    figures = {name: value for name, value in (("t", t), ("r", r)) if value is not None}
    return Row(number, f"k{number}", status, reason, parameters or {"x": number}, figures)


ROWS = (
    row(0, 3.0, 5.0), row(1, 1.0, 2.0), row(2, 1.0, 2.0), row(3, 4.0, 4.0), row(4, 2.0, 9.0),
    row(5, 0.1, 99.0, "constraint", "breaks t < 1"), row(6, None, 5.0), row(7, float("inf"), 5.0), row(8, True, 5.0),
    row(9, 9, 9, "failed", "X: 12 bytes; and more"), row(10, 9, 9, "failed", "X: 7.5e3 bytes; or less"),
)  # fmt: skip


def sweep(rows: tuple[Row, ...] = ROWS, objectives: tuple[Objective, ...] = (TIME, RATE)) -> Sweep:
    return Sweep({}, objectives, rows)


def test_rows_with_every_objective_are_signed() -> None:
    kept, table = objective_table((TIME, RATE), ROWS)
    assert [r.number for r in kept] == [0, 1, 2, 3, 4]
    assert table.tolist() == [[3, -5], [1, -2], [1, -2], [4, -4], [2, -9]]
    assert objective_table((TIME, RATE), ROWS[5:])[1].shape == (0, 2)
    assert objective_table((), ROWS)[1].shape == (8, 0), "those with status ok"


def test_best_front_and_ranks() -> None:
    assert sweep().best() == [
        {"objective": "t", "direction": "minimise", "value": 1.0, "number": 1, "parameters": {"x": 1}},
        {"objective": "r", "direction": "maximise", "value": 9.0, "number": 4, "parameters": {"x": 4}},
    ]
    assert [r.number for r in sweep().front()] == [1, 2, 4]
    assert [r.number for r in sweep(ROWS[3:5]).front()] == [4]
    assert (sweep(ROWS[5:]).best(), sweep(ROWS[5:]).front(), sweep(ROWS, ()).front()) == ([], [], [])
    assert [r.number for r in sweep().ranked("t", 2)] == [1, 2]
    assert [r.number for r in sweep().ranked("r", 4, largest=True)] == [4, 0, 6, 7]
    with pytest.raises(InputError, match=r"no point has a figure 'tt'.*did you mean 't'"):
        sweep().ranked("tt", 1)
    with pytest.raises(InputError, match="no point has a figure 'r'"):
        sweep((row(5, 1.0, 2.0, "constraint"),)).ranked("r", 1)


def test_reasons_are_counted_without_their_figures() -> None:
    assert sweep().reasons() == {"failed: X: # bytes": 2, "constraint: breaks t < #": 1}
    assert list(sweep().reasons()) == ["failed: X: # bytes", "constraint: breaks t < #"]
    many = tuple(row(i, status="invalid", reason=chr(97 + i) + "x" * 300) for i in range(12))
    reasons = sweep(many).reasons()
    assert len(reasons) == 10
    assert {len(reason) for reason in reasons} == {len("invalid: ") + 160}


def test_two_sweeps_side_by_side() -> None:
    """Points 1 and 3 have equal parameters; the ratios of their times are 2 and 3/4, of their rates 1/2 and 3/2."""
    other = sweep((row(0, 2.0, 1.0, x=1), row(1, 3.0, 6.0, x=3), row(2, 0.5, 1.0, x=77)))
    found = compared(sweep(), other)
    assert found == {
        "objectives": [
            {"objective": "t", "one": 1.0, "other": 0.5, "median_ratio": (2 + 0.75) / 2},
            {"objective": "r", "one": 9.0, "other": 6.0, "median_ratio": 1.0},
        ],
        "equal_parameters": 2, "front_one": 3, "front_other": 1,
    }  # fmt: skip
    nothing = compared(sweep(), sweep(()))
    assert nothing["objectives"][0] == {"objective": "t", "one": 1.0, "other": None, "median_ratio": None}
    assert (nothing["equal_parameters"], nothing["front_one"], nothing["front_other"]) == (0, 3, 0)
    assert compared(sweep(()), sweep(()))["front_one"] == 0
    zero = compared(sweep((row(0, 0.0, 1.0),)), sweep((row(0, 1.0, 1.0),)))
    assert zero["objectives"][0]["median_ratio"] is None
    shared = compared(sweep(ROWS, (RATE,)), other)
    assert [entry["objective"] for entry in shared["objectives"]] == ["r"]
    with pytest.raises(InputError, match="the two sweeps have no objective in common"):
        compared(sweep(ROWS, (RATE,)), sweep(ROWS, (TIME,)))


def test_a_sweep_is_read_at_its_last_stage(tmp_path: Path) -> None:
    meta = {"objectives": [{"name": "t", "expression": "t", "direction": "minimise"},
                           {"name": "r", "expression": "r + 1", "direction": "maximise"}]}  # fmt: skip
    with open_store(tmp_path, create=True) as store:
        with pytest.raises(InputError, match="the sweep in this folder has not begun"):
            Sweep.read(store)
        store.write_meta(meta)
        assert Sweep.read(store).rows == ()
        store.write([row(0, 1.0, 1.0), Row(1, "k", "ok"), Row(1, "k", "ok", stage=1)])
        found = Sweep.read(store)
        assert [(r.stage, r.number) for r in found.rows] == [(1, 1)]
        assert [(o.name, o.expression.text, o.sign) for o in found.objectives] == [
            ("t", "t", 1),
            ("r", "r + 1", -1),
        ]
        assert [r.number for r in Sweep.read(store, 0).rows] == [0, 1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def progress(objectives: tuple[Objective, ...] = (RATE, TIME)) -> SweepProgress:
    stages = (SimpleNamespace(fidelity="analytic"), SimpleNamespace(fidelity="event"))
    return SweepProgress(SimpleNamespace(objectives=objectives, stages=stages))  # type: ignore[arg-type]


def test_progress_counts_and_keeps_the_front(clock: SimpleNamespace) -> None:
    shown = progress()
    assert shown.cells()[:3] == [("fidelity", "analytic"), ("done", "0 of 0"), ("refused", "0")]
    shown.notice(0, 40, 4, [])
    clock.now += 2.0
    assert dict(shown.cells())["left"] == "unknown"
    shown.notice(0, 40, 4, [ROWS[1], ROWS[3]])
    shown.notice(0, 40, 4, [ROWS[2], *ROWS[5:]])
    shown.notice(0, 40, 4, [ROWS[0]])
    assert shown.cells() == [
        ("fidelity", "analytic"), ("done", "14 of 40"), ("kept", "4"), ("refused", "1"), ("failed", "2"),
        ("rate", "5/s"), ("left", "5.2 s"), ("best", "point 0: r 5"), ("front", "3 points"),
    ]  # fmt: skip
    clock.now += 1.0
    shown.notice(1, 3, 0, [])
    clock.now += 4.0
    assert shown.cells() == [
        ("fidelity", "event"), ("done", "0 of 3"), ("refused", "0"), ("failed", "0"), ("rate", "0/s"),
        ("left", "unknown"),
    ]  # fmt: skip
    shown.notice(1, 3, 0, [row(1, 1.0, 2.0), row(2, 1.0, status="timeout"), row(3, 1.0, 2.0, "crashed")])
    assert dict(shown.cells())["failed"] == "2"
    assert (dict(shown.cells())["rate"], dict(shown.cells())["left"]) == ("0.75/s", "0 s")
    shown.close()


def test_the_best_of_a_portion_is_held_against_the_best_so_far(clock: SimpleNamespace) -> None:
    shown = progress((TIME,))
    clock.now += 1
    for rows, best in (
        ([row(0, 3.0), row(1, 2.0)], 1),
        ([row(2, 2.0)], 1),
        ([row(3, 5.0)], 1),
        ([row(4, 1.0)], 4),
    ):
        shown.notice(0, 9, 0, rows)
        assert dict(shown.cells())["best"].startswith(f"point {best}: t ")
    assert dict(shown.cells())["front"] == "1 points"
    aimless = progress(())
    aimless.notice(0, 9, 0, [row(0, 3.0)])
    assert "best" not in dict(aimless.cells())


def test_a_line_every_ten_seconds(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress((TIME,))
    told = []
    for step in (1.9, 0.1, 9.9, 0.1, 10.0):
        clock.now += step
        shown.notice(0, 9, 0, [])
        told.append(capsys.readouterr().err)
    assert [bool(line) for line in told] == [False, True, False, True, True]
    assert told[1] == "sweep: fidelity analytic, done 0 of 9, refused 0, failed 0, rate 0/s, left unknown\n"


def test_a_live_table_on_a_terminal(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown twice a second from its first time on; closing takes it away and may come twice."""
    from rich import live

    seen: list[Any] = []

    class Played:
        def __init__(self, **options: Any) -> None:
            seen.append(("made", options["transient"], options["auto_refresh"]))

        def start(self) -> None:
            seen.append("start")

        def stop(self) -> None:
            seen.append("stop")

        def update(self, table: Any, *, refresh: bool) -> None:
            seen.append((table.row_count, len(table.columns), refresh))

    monkeypatch.setattr(live, "Live", Played)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress((TIME,))
    for step in (2.0, 0.4, 0.1):
        clock.now += step
        shown.notice(0, 9, 0, [])
    shown.close()
    shown.close()
    assert seen == [("made", True, False), "start", (6, 2, True), (6, 2, True), "stop"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123456, "0.0123 s"), (89.9, "89.9 s"), (90, "2 min"), (120, "2 min"), (5399, "90 min"), (5400, "1.5 h"),
     (36000, "10.0 h")],
)  # fmt: skip
def test_durations_as_a_person_says_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


MIXED = [
    Row(0, "a", "ok", "", {"batch": 1, "n": None}, {"z": 1.5, "y": 2, "batch": 3}),
    Row(1, "b", "failed", "why", {"batch": 2, "w": "x"}, {"y": True}, stage=1),
]


def test_columns_of_a_table() -> None:
    names, records = columns_of(MIXED)
    assert names == [
        "stage", "number", "status", "reason", "key", "parameter:batch", "n", "w", "batch", "y", "z",
    ]  # fmt: skip
    assert records == [
        {"stage": 0, "number": 0, "status": "ok", "reason": "", "key": "a", "parameter:batch": 1, "n": None, "z": 1.5,
         "y": 2, "batch": 3},
        {"stage": 1, "number": 1, "status": "failed", "reason": "why", "key": "b", "parameter:batch": 2, "w": "x",
         "y": True},
    ]  # fmt: skip


def test_tables_as_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow.parquet import read_table

    with open_store(tmp_path / "sweep", create=True) as store:
        store.write(MIXED)
        assert export(store, tmp_path / "new" / "t.csv") == 2
        assert export(store, tmp_path / "t.parquet") == 2
        with pytest.raises(InputError, match=r"found 't.xls'; expected a name that ends in .csv or .parquet"):
            export(store, tmp_path / "t.xls")
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be written: "):
            export(store, tmp_path / "file" / "t.csv")
    assert (tmp_path / "new" / "t.csv").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.csv"]
    text = list(csv.reader((tmp_path / "new" / "t.csv").open()))
    assert text[1:] == [
        ["0", "0", "ok", "", "a", "1", "", "", "3", "2", "1.5"],
        ["1", "1", "failed", "why", "b", "2", "", "x", "", "True", ""],
    ]  # fmt: skip
    columns = read_table(tmp_path / "t.parquet").to_pydict()
    assert (columns["y"], columns["z"], columns["batch"]) == (["2", "True"], [1.5, None], [3, None])
    assert (columns["n"], columns["parameter:batch"], columns["number"]) == ([None, None], [1, 2], [0, 1])


def test_whole_numbers_beside_others_are_numbers(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow.parquet import read_table

    with open_store(tmp_path, create=True) as store:
        store.write([row(0, 1), row(1, 2.5), row(2)])
        export(store, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").to_pydict()["t"] == [1.0, 2.5, None]
