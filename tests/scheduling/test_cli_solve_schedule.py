"""``offchip solve schedule``, ``offchip validate schedule`` and schedule files as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hw_configs.problems import InputError
from mapping.scheduling import ScheduleProblem, check, read_schedule, solve, write_schedule
from offchip.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["offchip", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as leave:
            main()
        out, err = capsys.readouterr()
        return int(leave.value.code or 0), out, err

    return call


@pytest.fixture
def graph(reference: Path) -> Path:
    return reference / "graphs" / "inception_v3_a.json"


def test_json_holds_the_proof_and_the_schedule(run: Run, graph: Path) -> None:
    code, out, _ = run("solve", "schedule", graph, "--scratchpad", "470400", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["status"], answer["cost_bytes"], answer["bound_bytes"]) == ("optimal", 313600, 313600)
    assert answer["gap"] == 0
    assert answer["transfers"] == 3
    assert len(answer["schedule"]["order"]) == 13


def test_table_and_baselines(run: Run, graph: Path) -> None:
    code, out, _ = run("solve", "schedule", graph, "--scratchpad", "459.375 KiB", "--compare")
    assert code == 0
    for word in ("optimal", "313600", "spill", "retrieve", "min-peak/belady", "static-arena"):
        assert word in out


def test_below_the_largest_operator_leaves_with_three(run: Run, graph: Path) -> None:
    code, out, err = run("solve", "schedule", graph, "--scratchpad", "470399", "--json")
    assert code == 3
    assert json.loads(out)["status"] == "infeasible"
    assert "'b4_pool'" in err
    assert "470400 bytes" in err
    assert err.count("\n") == 1


def test_methods_and_objectives(run: Run, graph: Path) -> None:
    for options, cost in (
        (("--method", "divide"), None),
        (("--method", "decompose"), 313600),
        (("--method", "given/lru"), None),
    ):
        code, out, _ = run("solve", "schedule", graph, "--scratchpad", "470400", "--json", *options)
        answer = json.loads(out)
        assert code == 0
        assert answer["cost_bytes"] >= 313600
        assert cost is None or answer["cost_bytes"] == cost
    code, out, _ = run("solve", "schedule", graph, "--scratchpad", "1MB", "--objective", "peak", "--json")
    assert code == 0
    assert json.loads(out)["peak_bytes"] == 509600


def test_schedule_file_comes_back_and_holds(
    run: Run, graph: Path, tmp_path: Path, inception: ScheduleProblem
) -> None:
    pytest.importorskip("matplotlib")
    plan, picture = tmp_path / "plan.json", tmp_path / "plan.svg"
    code, _, _ = run("solve", "schedule", graph, "--scratchpad", 470400, "--out", plan, "--plot", picture)
    assert code == 0
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    file = read_schedule(plan)
    assert (file.graph, file.weights, file.scratchpad_bytes) == ("inception_v3_a", "stream", 470400)
    assert check(inception, file.schedule, 470400) == []
    assert file.schedule.cost_bytes == file.result["cost_bytes"] == 313600


def test_written_and_read_schedules_are_equal(tmp_path: Path, inception: ScheduleProblem) -> None:
    result = solve(inception, 490240)
    write_schedule(inception, result, tmp_path / "plan.json")
    assert read_schedule(tmp_path / "plan.json").schedule == result.schedule


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("order"), "order"),
        (lambda data: data.update(format="offchip-plan-1"), "offchip-schedule-1"),
        (lambda data: data.update(ordre=[]), "unknown key 'ordre'"),
        (lambda data: data["residences"][0].update(offset=-1), "offset"),
        (lambda data: data["residences"][0].pop("end"), "keys"),
        (lambda data: data["transfers"][0].update(kind="move"), "retrieve"),
        (lambda data: data["order"].append(7), "operator's name"),
        (lambda data: data["workspaces"].update(x="y"), "offset"),
    ],
)
def test_broken_schedule_files_are_told(
    change: Callable[[dict[str, object]], object], words: str, tmp_path: Path, inception: ScheduleProblem
) -> None:
    path = tmp_path / "plan.json"
    write_schedule(inception, solve(inception, 490240), path)
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_schedule(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--scratchpad"),
        (("--scratchpad", "470400", "--bank", "a=1"), "exactly one"),
        (("--scratchpad", "many"), "--scratchpad"),
        (("--scratchpad", "-1"), "--scratchpad"),
        (("--scratchpad", "470400", "--method", "decompos"), "decompose"),
        (("--scratchpad", "470400", "--weights", "streem"), "stream"),
        (("--scratchpad", "470400", "--objective", "time"), "--hw"),
        (("--scratchpad", "470400", "--time-limit", "0"), "--time-limit"),
        (("--scratchpad", "470400", "--max-states", "0"), "--max-states"),
        (("--scratchpad", "470400", "--plot", "x.pdf"), ".svg"),
        (("--bank", "a"), "NAME=BYTES"),
        (("--scratchpad", "470400", "--hw", "edge-tpu-boart", "--objective", "time"), "edge-tpu-boart"),
    ],
)
def test_bad_options_leave_with_two_and_words(
    options: tuple[str, ...], words: str, run: Run, graph: Path
) -> None:
    code, out, err = run("solve", "schedule", graph, *options)
    assert code == 2
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_unknown_model_has_its_nearest(run: Run) -> None:
    code, _, err = run("solve", "schedule", "resnet-5", "--scratchpad", "1MiB")
    assert code == 2
    assert "resnet-50" in err


def test_validation_of_rows(run: Run, reference: Path, tmp_path: Path) -> None:
    code, out, _ = run("validate", "schedule", reference, "--rows", "inception_v3_a*", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert [row["verdict"] for row in rows] == ["ok"] * 3
    assert [row["ours"]["cost_bytes"] for row in rows] == [313600, 235200, 0]
    for row in rows:
        assert {"bound_bytes", "status", "seconds", "plan"} <= set(row["ours"])
    # A known optimum that is too low is noticed, as is one that is too high.
    table = "graph,budget,scratchpad_bytes,optimal_bytes\n"
    (tmp_path / "inception_v3_a.json").write_bytes(
        (reference / "graphs" / "inception_v3_a.json").read_bytes()
    )
    table += "inception_v3_a,low,470400,313599\ninception_v3_a,high,470400,313601\n"
    table += "nothing,M_R,470400,0\ninception_v3_a,odd,many,0\n"
    (tmp_path / "graph_results.csv").write_text(table, encoding="utf-8")
    _, out, _ = run("validate", "schedule", tmp_path, "--json")
    verdicts = [row["verdict"] for row in json.loads(out)["rows"]]
    assert verdicts == ["failed", "failed", "unsupported", "unsupported"]


def test_time_on_a_machine(run: Run) -> None:
    code, out, _ = run(
        "solve", "schedule", "mobilenet-v2", "--dtype", "int8", "--weights", "resident", "--objective", "time",
        "--hw", "edge-tpu-board", "--json", "--time-limit", "10",
    )  # fmt: skip
    answer = json.loads(out)
    assert code == 0
    assert answer["objective"] == "time"
    assert 0 < answer["bound_time_s"] <= answer["time_s"]


def test_a_plan_runs_on_a_machine(run: Run, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    code, _, _ = run(
        "solve", "schedule", "resnet-50", "--dtype", "int8", "--weights", "resident", "--scratchpad", "2485760",
        "--out", plan,
    )  # fmt: skip
    assert code == 0
    code, out, _ = run(
        "simulate", "resnet-50", "--dtype", "int8", "--hw", "edge-tpu-board", "--plan", plan, "--json"
    )
    assert code == 0
    assert json.loads(out)["summary"]["makespan_s"] > 0


def test_help_stays_light() -> None:
    code = "import sys, offchip.cli.main; sys.exit('numba' in sys.modules or 'pulp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
