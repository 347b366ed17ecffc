"""One clock and one interrupt for solves within solves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapping.deadline import Budget, running_budget


def test_an_inner_solve_stands_under_the_outer_clock() -> None:
    outer = Budget(0.2)
    with outer.running():
        inner = Budget(100.0, 10)
        assert inner.outer is outer
        left = inner.seconds_left()
        assert left is not None
        assert left <= 0.2
        with inner.running():
            assert running_budget() is inner
            begin = time.perf_counter()
            while not inner.stop[0] and time.perf_counter() - begin < 20:
                time.sleep(0.01)
            assert inner.stop[0]
            assert inner.spent
        assert running_budget() is outer
    assert running_budget() is None
    assert not outer.interrupted
    assert Budget().outer is None


def test_an_inner_limit_does_not_end_the_outer_solve() -> None:
    outer = Budget(60.0)
    with outer.running():
        with Budget(0.0).running() as inner:
            while not inner.stop[0]:
                time.sleep(0.001)
        assert not outer.spent
        assert not outer._actions


def test_the_first_interrupt_ends_both_and_a_late_inner_solve_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    calls: list[str] = []
    with Budget().running() as outer:
        with Budget().running() as inner, inner.stopping(lambda: calls.append("stopped")):
            signal.raise_signal(signal.SIGINT)
            assert inner.interrupted
            assert inner.spent
        assert outer.interrupted
        assert calls == ["stopped"]
        with Budget().running() as late, late.stopping(lambda: calls.append("late")):
            assert late.spent
            assert late.interrupted
    assert calls == ["stopped", "late"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_is_the_usual_one() -> None:
    reached = False
    with Budget().running() as budget:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert budget.interrupted
    assert not reached


def test_a_solve_in_another_thread_leaves_the_signal_alone() -> None:
    seen: list[object] = []
    before = signal.getsignal(signal.SIGINT)

    def solve() -> None:
        with Budget().running():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=solve)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_long_call_ends_with_the_interrupt_and_keeps_its_answer() -> None:
    stop_seen = []

    def kernel(stop: np.ndarray) -> int:
        while not stop[0]:
            time.sleep(0.005)
        stop_seen.append(True)
        return 7

    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with Budget(60.0).running() as budget:
        timer.start()
        assert budget.call(kernel, budget.stop, long=True) == 7
    assert budget.interrupted
    assert stop_seen == [True]


def crowded(operators: int = 60) -> dict[str, object]:
    """Many small tensors and one large one between them: the drop sets of one state are astronomically many."""
    ops = [
        {"name": f"o{o}", "kind": "conv", "inputs": [], "outputs": [f"t{o}"], "workspace_bytes": 0}
        for o in range(operators)
    ]
    ops += [
        {"name": "big", "kind": "conv", "inputs": [], "outputs": ["b"], "workspace_bytes": 0},
        {"name": "after", "kind": "conv", "inputs": ["b"], "outputs": ["c"], "workspace_bytes": 0},
    ]
    ops += [
        {
            "name": f"e{o}",
            "kind": "conv",
            "inputs": [f"t{o}", "c"],
            "outputs": [f"u{o}"],
            "workspace_bytes": 0,
        }
        for o in range(operators)
    ]
    sizes = {f"t{o}": 1000 + 7 * o for o in range(operators)}
    sizes |= {f"u{o}": 1 for o in range(operators)} | {"b": 20_000, "c": 1}
    tensors = [
        {
            "name": name,
            "bytes": size,
            "producer": next(op["name"] for op in ops if name in op["outputs"]),  # type: ignore[operator]
            "consumers": [op["name"] for op in ops if name in op["inputs"]],  # type: ignore[operator]
            "graph_input": False,
            "graph_output": name.startswith("u"),
        }
        for name, size in sizes.items()
    ]
    return {
        "format": "dnn-scratchpad-graph-1",
        "name": "crowd",
        "description": "",
        "ops": ops,
        "tensors": tensors,
    }


def test_states_with_countless_drop_sets_keep_the_limit(tmp_path: Path) -> None:
    from mapping.scheduling import check, problem_from_graph, solve
    from offchip.api import load_model

    path = tmp_path / "crowd.json"
    path.write_text(json.dumps(crowded()))
    problem = problem_from_graph(load_model(path).phases[0].graph)
    capacity = 40_000
    solve(problem, capacity, time_limit_s=0.5)  # compiles what it needs
    begin = time.perf_counter()
    found = solve(problem, capacity, time_limit_s=2.0)
    assert time.perf_counter() - begin < 15.0
    assert found.schedule is not None
    assert check(problem, found.schedule, capacity) == []
    assert found.cost_bytes is not None
    assert found.bound_bytes <= found.cost_bytes


@pytest.mark.parametrize("capacity", ["40000"])
def test_an_interrupted_command_gives_its_best_schedule(tmp_path: Path, capacity: str) -> None:
    path = tmp_path / "crowd.json"
    path.write_text(json.dumps(crowded()))
    code = (
        "import os, signal, threading\n"
        "from mapping.scheduling import solving\n"
        "real = solving._search\n"
        "def search(run, method):\n"
        "    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "    while not run.budget.spent:\n"
        "        real(run, method)\n"
        "solving._search = search\n"
        "import sys\n"
        "from offchip.cli.main import main\n"
        f"sys.argv = ['offchip', 'solve', 'schedule', {str(path)!r}, '--scratchpad', '{capacity}', "
        "'--time-limit', '500', '--json']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["cost_bytes"] >= answer["bound_bytes"]
    assert answer["seconds"] < 150


def test_who_decides_a_race_stops_the_others() -> None:
    def loses(stop: Any) -> str:
        end = time.monotonic() + 20
        while not stop[0] and time.monotonic() < end:
            time.sleep(0.005)
        return "stopped" if stop[0] else "never stopped"

    assert Budget().race([loses, lambda stop: "won"], lambda answer: answer == "won") == ["stopped", "won"]
    assert Budget().race([lambda stop: "a", lambda stop: "b"], lambda answer: False) == ["a", "b"]
    with Budget(0.2).running() as budget:
        assert budget.race([loses, loses], lambda answer: False) == ["stopped", "stopped"]
