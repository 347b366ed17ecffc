"""How a sweep goes through its points, what it remembers on disk, and how a search asks: with evaluators played."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hw_configs.problems import InputError
from offchip.sweep import cache as cache_module
from offchip.sweep import limit as limit_module
from offchip.sweep import plans as plans_module
from offchip.sweep.axis import Axis, free_leaf
from offchip.sweep.cache import DiskCache
from offchip.sweep.keys import code_digest, point_key
from offchip.sweep.limit import COMPILE_LIMIT_S, PointStopped, Stopwatch, overrun
from offchip.sweep.machine import Machines
from offchip.sweep.plans import remembering
from offchip.sweep.points import Point
from offchip.sweep.run import SERIAL_ROWS, Serial, Shard, run_sweep, timed
from offchip.sweep.space import Space
from offchip.sweep.store import Row, open_store
from tests.sweep.spaces import space_of

TEXT = """
name: small
model: resnet-50
hw: a100-80gb
vary: {batch: {range: [1, COUNT]}}
objectives: {makespan_s: minimise}
"""
STAGED = TEXT + "fidelity: [analytic, {fidelity: event, promote: 50%}, {fidelity: cycle, promote: 0.5}]\n"


def small(folder: Path, count: int = 5, text: str = TEXT) -> Space:
    return space_of(folder, text.replace("COUNT", str(count)))


class Played:
    """An executor: the time of a point is ``worst`` less its batch, its key the true one."""

    def __init__(self, space: Space, failed: tuple[int, ...] = ()) -> None:
        self.space, self.failed = space, failed
        self.asked: list[tuple[int, int]] = []
        self.closed = 0

    def run(self, stage: int, points: Iterable[Point]) -> Iterator[list[Row]]:
        for number, values in points:
            self.asked.append((stage, number))
            key = point_key(self.space, Machines(self.space.beside), values, stage, code_digest())
            status = "failed" if number in self.failed else "ok"
            yield [Row(number, key, status, "", values, {"makespan_s": 100.0 - number}, 0.0, 1, stage)]

    def close(self) -> None:
        self.closed += 1


def run(
    space: Space, folder: Path, failed: tuple[int, ...] = (), **options: Any
) -> tuple[list[Any], list[Any]]:
    """What was asked of the executor, and what the sweep told of itself."""
    played, heard = Played(space, failed), list[Any]()
    run_sweep(
        space, folder, lambda cache: played if cache == folder / "cache" else None,  # type: ignore[arg-type,return-value]
        notice=lambda stage, expected, kept, rows: heard.append((stage, expected, kept, [r.number for r in rows])),
        **options,
    )  # fmt: skip
    assert played.closed == 1
    return played.asked, heard


def test_every_point_once_and_word_of_it(tmp_path: Path) -> None:
    space = small(tmp_path)
    asked, heard = run(space, tmp_path / "out")
    assert asked == [(0, n) for n in range(5)]
    assert heard == [(0, 5, 0, []), *((0, 5, 0, [n]) for n in range(5))]
    with open_store(tmp_path / "out") as store:
        meta = store.meta()
        assert {row.number: row.figures["makespan_s"] for row in store.rows()} == {
            n: 100.0 - n for n in range(5)
        }
    assert meta == {
        "format": "offchip-sweep-1", "name": "small", "file": "space.yaml", "path": str(tmp_path / "space.yaml"),
        "text": space.text, "space": space.raw, "space_digest": space.digest, "code": code_digest(), "expected": 5,
        "parameters": [{"name": "batch", "path": "batch", "dimension": None, "kind": "number"}],
        "objectives": [{"name": "makespan_s", "expression": "makespan_s", "direction": "minimise"}],
        "stages": ["analytic"], "seed": 0,
    }  # fmt: skip


def test_a_folder_with_rows_is_gone_on_with_only_when_asked(tmp_path: Path) -> None:
    space, out = small(tmp_path), tmp_path / "out"
    run(space, out, failed=(1, 3))
    with pytest.raises(InputError, match="holds 5 points of this sweep; '--resume' goes on from there"):
        run(space, out)
    asked, heard = run(space, out, resume=True)
    assert (asked, heard[0]) == ([(0, 1), (0, 3)], (0, 5, 3, []))
    asked, heard = run(space, out, resume=True)
    assert (asked, heard) == ([], [(0, 5, 5, [])])
    with open_store(out) as store:
        store.write([Row(2, "of other code", "ok")])
    assert run(space, out, resume=True)[0] == [(0, 2)]
    with pytest.raises(InputError, match="holds the sweep 'small' of another space; choose another folder"):
        run(small(tmp_path / "more", 6), out, resume=True)


@pytest.mark.parametrize(("index", "mine"), [(1, [0, 3]), (2, [1, 4]), (3, [2])])
def test_a_shard_has_every_third_point(tmp_path: Path, index: int, mine: list[int]) -> None:
    shard = Shard(index, 3)
    assert [n for n in range(5) if shard.has(n)] == mine
    asked, heard = run(small(tmp_path, text=STAGED), tmp_path / "out", shard=shard)
    assert asked == [(0, n) for n in mine], "later fidelities need the points of all shards"
    assert heard[0] == (0, len(mine), 0, [])
    asked, heard = run(small(tmp_path, text=STAGED), tmp_path / "out", shard=shard, resume=True)
    assert (asked, heard) == ([], [(0, len(mine), len(mine), [])])


def test_the_best_go_on_to_the_next_fidelity(tmp_path: Path) -> None:
    """Half of 5 rounded up are 3, half of those 2; the last points are the best."""
    asked, heard = run(small(tmp_path, text=STAGED), tmp_path / "out")
    assert asked == [*((0, n) for n in range(5)), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4)]
    assert [told[:3] for told in heard if not told[3]] == [(0, 5, 0), (1, 3, 0), (2, 2, 0)]


@pytest.mark.parametrize(
    ("share", "before", "asked", "after"),
    [("50%", [2, 3], [(0, 4), (1, 4), (2, 4)], [2, 3, 4]), ("20%", [3], [(0, 4), (1, 4), (2, 4)], [4])],
)
def test_a_choice_that_changes_is_made_anew(
    tmp_path: Path, share: str, before: list[int], asked: list[tuple[int, int]], after: list[int]
) -> None:
    """What is chosen still is kept; where something is no longer chosen, the stage begins anew."""
    space, out = small(tmp_path, text=STAGED.replace("50%", share)), tmp_path / "out"
    run(space, out, failed=(4,))
    with open_store(out) as store:
        assert [row.number for row in store.rows(1)] == before
    assert run(space, out, resume=True)[0] == asked
    with open_store(out) as store:
        assert [row.number for row in store.rows(1)] == after


def test_an_executor_is_closed_whatever_happens(tmp_path: Path) -> None:
    space, played = small(tmp_path), None

    def make(_: Path) -> Played:
        nonlocal played
        played = Played(space)
        return played

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(space, tmp_path / "out", make, notice=stop)
    assert played is not None
    assert played.closed == 1
    run_sweep(space, tmp_path / "quiet", make)


@pytest.mark.parametrize(("seconds", "sizes"), [(0.0, [64, 64, 2]), (0.06, [2] * 65), (0.2, [1] * 130)])
def test_serial_rows_go_out_some_at_a_time(seconds: float, sizes: list[int]) -> None:
    class Evaluator:
        def row(self, number: int, values: Any, stage: int, *, alarm: bool) -> Row:
            assert alarm
            return Row(number, "", "ok", "", values, {}, seconds, 1, stage)

    assert SERIAL_ROWS == 64
    found = list(Serial(Evaluator()).run(2, ((n, {}) for n in range(130))))  # type: ignore[arg-type]
    assert [len(rows) for rows in found] == sizes
    assert [row.number for rows in found for row in rows] == list(range(130))
    assert {row.stage for rows in found for row in rows} == {2}


def test_timed_points_are_kept_nowhere(tmp_path: Path) -> None:
    space = small(tmp_path)
    rows = timed(space, [(0, {"batch": 1}), (3, {"batch": 4})])
    assert [(row.number, row.stage, row.status) for row in rows] == [(0, 0, "ok"), (3, 0, "ok")]
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


def test_a_cache_gives_back_what_it_was_given(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", limit_bytes=400)
    cache.put("ab" + "0" * 62, b"one")
    cache.put("cd" + "0" * 62, b"x" * 101)
    assert (cache.get("ab" + "0" * 62), cache.get("cd" + "0" * 62)) == (b"one", None), (
        "no more than a quarter"
    )
    cache.put("cd" + "0" * 62, b"x" * 100)
    assert cache.size_bytes() == 3 + 100 + 64
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "c/ab/" + "0" * 62, "c/cd/" + "0" * 62,
    ]  # fmt: skip
    path = tmp_path / "c" / "ab" / ("0" * 62)
    os.utime(path, (1, 1))
    cache.get("ab" + "0" * 62)
    assert path.stat().st_mtime > 1, "what is used is young again"
    for broken in (b"", path.read_bytes()[:-1], b"?" + path.read_bytes()[1:]):
        path.write_bytes(broken)
        assert cache.get("ab" + "0" * 62) is None


def test_a_cache_lets_go_of_what_was_used_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten entries of 100 bytes in 1000: the eleventh makes it too much, and 800 stay."""
    monkeypatch.setattr(cache_module, "LOOK_EVERY", 1)
    cache = DiskCache(tmp_path, limit_bytes=1000)
    keys = [f"{number:02d}" + "0" * 62 for number in range(11)]
    for age, key in enumerate(keys):
        cache.put(key, b"x" * 68)
        assert cache.size_bytes() == (100 * (age + 1) if age < 10 else 800)
        os.utime(tmp_path / key[:2] / key[2:], (1000 + (age + 5) % 11, 1000 + (age + 5) % 11))
    assert [number for number, key in enumerate(keys) if cache.get(key) is None] == [6, 7, 8]


def test_a_cache_is_looked_through_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(DiskCache, "_shrink", lambda self: looks.append(self._written))
    cache = DiskCache(tmp_path)
    for number in range(130):
        cache.put(f"{number:03d}" + "0" * 61, b"")
    assert looks == [0, 64, 128]


def test_a_cache_that_cannot_write_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file")
    cache.put("ab" * 32, b"x")
    assert cache.get("ab" * 32) is None
    whole = DiskCache(tmp_path / "c")

    def full(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(Path, "replace", full)
    whole.put("ab" * 32, b"x")
    assert whole._written == 0
    assert not [path for path in (tmp_path / "c").rglob("*") if path.is_file()], (
        "the half of an entry is taken away"
    )
    assert DiskCache(None).size_bytes() == 0
    assert DiskCache(tmp_path).limit_bytes == 512 * 1024**2, "half a gibibyte unless somebody says otherwise"


def test_plans_that_took_long_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(plans_module, "time", clock)
    monkeypatch.setattr(plans_module, "plan_from_json", lambda data, where: (data, where))
    solved: list[str] = []

    def planner(graph: str, _: object) -> Any:
        solved.append(graph)
        clock.now += {"dear": 0.11, "cheap": 0.1}[graph]
        return SimpleNamespace(to_json=lambda: {"of": graph})

    cache = DiskCache(tmp_path)
    find: Any = remembering(cache, lambda graph, system: f"{graph}{system}".ljust(64, "0"))(planner)  # type: ignore[arg-type,return-value]
    clock.now = 0.0
    assert find("dear", 1).to_json() == {"of": "dear"}
    assert find("dear", 1) == ({"of": "dear"}, "cached plan")
    find("dear", 2)
    clock.now = 0.0
    find("cheap", 1)
    clock.now = 0.0
    find("cheap", 1)
    assert solved == ["dear", "dear", "cheap", "cheap"]
    assert json.loads(cache.get("dear1".ljust(64, "0")) or b"") == {"of": "dear"}


class Slot:
    """Notes what a stopwatch tells it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def compile_begins(self) -> None:
        self.told.append("begins")

    def compile_ends(self) -> None:
        self.told.append("ends")


def test_a_stopwatch_stands_still_while_something_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=50.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(limit_module, "time", clock)
    slot = Slot()
    watch = Stopwatch(5.0, slot=slot)  # type: ignore[arg-type]
    watch.start()
    clock.now = 51.0
    assert watch.seconds() == 1.0
    watch.compile_begins()
    clock.now = 52.0
    watch.compile_begins()
    clock.now = 54.0
    watch.compile_ends()
    assert (watch.seconds(), slot.told) == (1.0, ["begins"]), "one inside another"
    watch.compile_ends()
    assert slot.told == ["begins", "ends"]
    clock.now = 56.0
    assert watch.seconds() == 3.0
    watch.compile_begins()
    clock.now = 57.0
    watch.compile_ends()
    assert watch.seconds() == 3.0
    watch.close()
    clock.now = 99.0
    watch.close()
    assert watch.seconds() == 3.0
    slow = Stopwatch(5.0)
    slow.start()
    slow.compile_begins()
    clock.now += COMPILE_LIMIT_S + 7.0
    assert slow.seconds() == 7.0, "a compiler that hangs counts in the end"
    slow.close()


def test_alarms_are_set_to_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=50.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(limit_module, "time", clock)
    alarms: list[Any] = []
    handlers: list[Any] = []

    def take(_: int, handler: Any) -> str:
        handlers.append(handler)
        return "former"

    played = SimpleNamespace(
        SIGALRM=14, ITIMER_REAL=0, signal=take, setitimer=lambda which, *rest: alarms.append((which, *rest))
    )
    monkeypatch.setattr(limit_module, "signal", played)
    watch = Stopwatch(5.0, alarm=True)
    watch.start()
    clock.now += 2
    watch.compile_begins()
    clock.now += 10
    watch.compile_ends()
    clock.now += 4
    watch.compile_begins()
    clock.now += 1
    watch.compile_ends()
    assert alarms == [
        (0, 5.0, 0.1), (0, COMPILE_LIMIT_S, 0.1), (0, 3.0, 0.1), (0, COMPILE_LIMIT_S - 10, 0.1), (0, 1e-6, 0.1),
    ]  # fmt: skip
    with pytest.raises(PointStopped, match=overrun(5.0)):
        handlers[0](14, None)
    watch.close()
    watch.close()
    assert (alarms[5:], handlers[1:]) == ([(0, 0)], ["former"])
    handlers[0](14, None)
    watch.compile_begins()
    watch.compile_ends()
    assert len(alarms) == 6, "nothing more once it is over"
    assert overrun(1.5) == "ran longer than the limit of 1.5 s and was stopped"


class Trial:
    """Takes the highest of what it is offered, and notes what that was."""

    def __init__(self) -> None:
        self.offers: list[Any] = []

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.offers.append((name, low, high, log))
        return high

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.offers.append((name, low, high, log))
        return high

    def suggest_categorical(self, name: str, choices: list[int]) -> int:
        self.offers.append((name, choices))
        return choices[-1]


WHOLE, NUMBER, WORDS = free_leaf("whole"), free_leaf("number"), free_leaf("text")


@pytest.mark.parametrize(
    ("axis", "value", "offer"),
    [
        (Axis("x", WHOLE, (8, 2, 4)), 8, ("x", 0, 2, False)),
        (Axis("x", WORDS, ("b", "a")), "a", ("x", [0, 1])),
        (Axis("x", NUMBER, form="range", bounds=(1.0, 3.0), grid=(1.0, 2.0)), 2.0, ("x", 0, 1, False)),
        (Axis("x", WHOLE, form="range", bounds=(1.5, 3.5)), 3, ("x", 2, 3, False)),
        (Axis("x", WHOLE, form="log", bounds=(1.0, 9.0)), 9, ("x", 1, 9, True)),
        (Axis("x", NUMBER, form="range", bounds=(1.5, 3.5)), 3.5, ("x", 1.5, 3.5, False)),
        (Axis("x", NUMBER, form="log", bounds=(1.0, 9.0)), 9.0, ("x", 1.0, 9.0, True)),
        (Axis("x", NUMBER, form="uniform", bounds=(2.0, 4.0)), 4.0, ("x", 0.0, 1.0 - 2**-53, False)),
    ],
)  # fmt: skip
def test_what_a_search_is_offered(axis: Axis, value: Any, offer: Any) -> None:
    from offchip.sweep.search import _value

    trial = Trial()
    assert _value(axis, trial) == value  # type: ignore[arg-type]
    assert trial.offers == [offer]


def test_what_a_search_is_told(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from optuna.trial import TrialState

    from offchip.sweep.search import _tell

    space = small(tmp_path)
    told: list[Any] = []
    study: Any = SimpleNamespace(
        tell=lambda trial, values=None, state=None: told.append((trial, values, state))
    )
    trial: Any = "trial"
    rows = [
        Row(0, "", "ok", "", {}, {"makespan_s": 2}), Row(0, "", "constraint", "", {}, {"makespan_s": 2}),
        Row(0, "", "ok"), Row(0, "", "ok", "", {}, {"makespan_s": float("inf")}), None,
        Row(0, "", "ok", "", {}, {"makespan_s": "x"}),
    ]  # fmt: skip
    for row in rows:
        _tell(study, space, trial, row)
    assert told == [("trial", [2.0], None), *[("trial", None, TrialState.FAIL)] * 5]


def test_a_search_asks_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from offchip.sweep import search as search_module

    space = small(tmp_path, text=TEXT + "strategy: {kind: optuna, points: 7, batch: 3}\n")
    asked: list[Trial] = []
    told: list[Any] = []
    study = SimpleNamespace(ask=lambda: asked.append(Trial()) or asked[-1])
    monkeypatch.setattr(search_module, "_study", lambda *_: study)
    monkeypatch.setattr(
        search_module, "_tell", lambda _study, _space, trial, row: told.append((asked.index(trial), row))
    )
    batches: list[Any] = []

    def run_batch(stage: int, points: Iterable[Point], total: int) -> None:
        batches.append((stage, list(points), total))

    search_module.search(
        space, run_batch, lambda numbers: {n: f"row {n}" for n in numbers if n != 4}, tmp_path
    )  # type: ignore[misc]
    assert batches == [
        (0, [(n, {"batch": 5}) for n in numbers], 7) for numbers in ((0, 1, 2), (3, 4, 5), (6,))
    ]  # fmt: skip
    assert told == [(n, f"row {n}" if n != 4 else None) for n in range(7)]


@pytest.mark.parametrize(
    ("sampler", "batch", "kind", "given"),
    [
        ("nsga2", 3, "NSGAIISampler", {"population_size": 3, "seed": 9}),
        ("nsga2", 1, "NSGAIISampler", {"population_size": 2, "seed": 9}),
        ("nsga3", 3, "NSGAIIISampler", {"population_size": 3, "seed": 9}),
        ("nsga3", 1, "NSGAIIISampler", {"population_size": 2, "seed": 9}),
        ("tpe", 3, "TPESampler", {"seed": 9, "constant_liar": True}),
        ("random", 3, "RandomSampler", {"seed": 9}),
    ],
)
def test_who_proposes_points(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    batch: int,
    kind: str,
    given: dict[str, Any],
) -> None:
    optuna = pytest.importorskip("optuna")
    from offchip.sweep.search import _study

    made: list[Any] = []
    true = getattr(optuna.samplers, kind)
    monkeypatch.setattr(optuna.samplers, kind, lambda **options: made.append(options) or true(**options))
    text = TEXT.replace("minimise}", "minimise, energy_j: maximise}") + "seed: 9\n"
    strategy = f"strategy: {{kind: optuna, points: 7, batch: {batch}, sampler: {sampler}}}\n"
    space = small(tmp_path, text=text + strategy)
    (tmp_path / "optuna.journal").write_text("of a run before")
    (tmp_path / "optuna.journal.lock").write_text("")
    study = _study(space, tmp_path)
    assert made == [given]
    assert (study.study_name, [d.name for d in study.directions]) == ("small", ["MINIMIZE", "MAXIMIZE"])
    assert type(study.sampler).__name__ == kind
    assert "of a run before" not in (tmp_path / "optuna.journal").read_text()


def test_a_search_without_optuna_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from offchip.sweep.search import _study

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="this strategy needs Optuna: pip install 'offchip\\[sweep\\]'"):
        _study(small(tmp_path), tmp_path)
