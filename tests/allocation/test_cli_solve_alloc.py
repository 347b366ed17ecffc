"""``offchip solve alloc``: exit codes, the JSON object, the files it writes; and the validation kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError
from mapping.allocation import check, solve
from mapping.allocation.importers import read_problem
from mapping.allocation.result import AllocationResult
from offchip.cli.solve_alloc import alloc
from offchip.solving.alloc import Allocation
from offchip.validation.alloc import run
from offchip.validation.registry import Options

app = typer.Typer()
app.command()(alloc)


def call(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_a_plan_below_a_capacity(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.csv"
    result = call(reference / "input.12.csv", "--capacity", "12", "--json", "--out", out)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["status"], answer["peak"], answer["bound"]) == ("optimal", 12, 12)
    problem = read_problem(reference / "input.12.csv")
    assert check(problem, [answer["offsets"][name] for name in problem.ids], 12) == []
    written = read_problem(out)
    assert written.fixed.tolist() == [answer["offsets"][name] for name in problem.ids]
    near = call(reference / "input.12.csv", "--capacity", "12B", "--near", out)
    assert near.exit_code == 0
    assert "optimal" in near.stdout


def test_infeasible_is_explained(reference: Path) -> None:
    result = call(reference / "input.12.csv", "--capacity", "11", "--json")
    assert isinstance(result.exception, InfeasibleError)
    answer = json.loads(result.stdout)
    assert answer["status"] == "infeasible"
    assert answer["explanation"]["live_bytes"] == 12
    assert answer["spill"]


def test_no_answer_in_the_limit(reference: Path) -> None:
    result = call(reference / "J.1048576.csv", "--capacity", "990000", "--max-nodes", "200")
    assert isinstance(result.exception, NoAnswerError)


@pytest.mark.parametrize(
    "args",
    [
        ("--capacity", "x"), ("--capacity", "-1"), ("--capacity", "+-5"), ("--capacity", "²"),
        (), ("--capacity", "12", "--minimize"),
        ("--minimize", "--engine", "magic"), ("--minimize", "--time-limit", "0"), ("--minimize", "--plot", "a.bmp"),
        ("--bank", "nonsense"),
    ],
)  # fmt: skip
def test_bad_options(reference: Path, args: tuple[str, ...]) -> None:
    assert isinstance(call(reference / "input.12.csv", *args).exception, InputError)


def test_banks(reference: Path) -> None:
    result = call(reference / "input.12.csv", "--bank", "sram=8", "--bank", "psram=1KiB@1", "--json")
    assert json.loads(result.stdout)["cost"] == 4


@pytest.mark.parametrize(
    ("banks", "words"),
    [
        (
            ["a=5"],
            "no plan below 5 bytes; from time 0 to 3, 3 buffers hold 12 bytes, 7 more than the capacity of 5",
        ),
        (["a=5", "b=6"], "12 bytes are live at once, all banks together have 11"),
        (["a=1", "b=3"], "buffer 'b1' has 4 bytes, the largest bank 3"),
    ],
)
def test_banks_that_are_too_small_are_proved_to_be(
    cli: Callable[..., Any], reference: Path, banks: list[str], words: str
) -> None:
    outcome = cli(
        "solve", "alloc", reference / "input.12.csv", *(arg for bank in banks for arg in ("--bank", bank))
    )
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith(f"infeasible (proved): {words}")
    assert len(outcome.err.splitlines()) == 1


def test_the_least_peak_names_no_capacity(cli: Callable[..., Any], tmp_path: Path) -> None:
    pins = tmp_path / "pins.csv"
    pins.write_text("id,lower,upper,size,offset\na,0,2,4,0\nb,0,2,4,2\n")
    outcome = cli("solve", "alloc", pins, "--minimize")
    assert (outcome.code, outcome.err) == (
        3, "infeasible (proved): no plan; pinned buffers 'a' and 'b' share the bytes 2 to 4 at time 0\n",
    )  # fmt: skip
    result = AllocationResult("unknown", None, 7, None, "greedy", 0, 1.0, 0)
    problem = read_problem(pins)
    with pytest.raises(NoAnswerError, match="no plan was found within the limit"):
        Allocation("x", problem, result).insist()


def test_an_interrupt_leaves_the_best_plan(reference: Path) -> None:
    solve(
        read_problem(reference / "J.1048576.csv"), max_nodes=1000
    )  # The kernels are compiled before the clock runs.
    code = (
        # A job in the background of a shell inherits that Ctrl-C is ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import typer; from offchip.cli.solve_alloc import alloc; a = typer.Typer(); a.command()(alloc);"
        "a(standalone_mode=False)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(reference / "J.1048576.csv"),
        "--minimize",
        "--time-limit",
        "60",
        "--json",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stderr is not None
    # The live view says when the search runs, however long the start took.
    shown = ""
    while "at least" not in shown and process.poll() is None:
        shown = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    answer = json.loads(out)
    assert answer["interrupted"] is True
    assert answer["seconds"] < 60
    problem = read_problem(reference / "J.1048576.csv")
    assert check(problem, [answer["offsets"][name] for name in problem.ids], answer["peak"]) == []


def test_the_validation_rows(reference: Path) -> None:
    rows = {row.id: row for row in run(reference, "[BIi]*", Options(time_limit_s=20))}
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert set(rows) == {"B.1048576", "I.1048576", "input.12"}
    ours = rows["B.1048576"].ours
    assert (ours["peak"], ours["bound"], ours["status"]) == (1048576, 1048576, "optimal")
    assert len(ours["offsets"]) == 170
