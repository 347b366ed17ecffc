"""``offchip trace dram``: JSON, tables, files, pictures and clear words for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from hw_configs.problems import InputError
from offchip.cli.trace_dram import trace_dram
from simulator.dram.checker import check_commands, parse_command
from tests.dram.machines import small


def call(*arguments: str) -> None:
    app = typer.Typer()
    app.command()(trace_dram)
    app(list(arguments), standalone_mode=False)


def test_json_is_one_object_and_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for _ in range(2):
        call("mix21_rand:5000:3", "--hw", "ddr4-2400r", "--json")
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    data = json.loads(outputs[0])
    assert data["requests"] == 5000
    assert data["reads"] + data["writes"] == 5000
    assert data["row_hits"] + data["row_misses"] + data["row_conflicts"] == 5000
    assert data["energy_j"]["total"] == pytest.approx(
        sum(v for k, v in data["energy_j"].items() if k != "total")
    )
    assert sum(bank["row_conflicts"] for bank in data["banks"]) == data["row_conflicts"]
    assert not data["interrupted"]


def test_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    call("seq_read:3000", "--hw", "hbm2-2000", "--row-policy", "closed")
    out = capsys.readouterr().out
    assert "bandwidth" in out
    assert "energy per bit" in out


def test_command_file_holds_every_command_and_keeps_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "commands.csv"
    call("rand_read:500", "--hw", "lpddr5-6400", "--commands", str(path), "--json")
    data = json.loads(capsys.readouterr().out)
    lines = path.read_text().splitlines()
    assert lines[0] == "tick,command,address"
    assert len(lines) - 1 == sum(data["command_counts"].values())
    assert check_commands(small("lpddr5-6400", rows=32768), map(parse_command, lines[1:])) is None
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_timeline_picture(tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pictures = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{ending}"
        call("rand_read:300", "--hw", "ddr4-2400r", "--timeline", str(path), "--window", "100:400", "--json")
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) > 5000


def test_trace_file_and_arrivals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("address,write,cycle\n" + "".join(f"{64 * i},{i % 2},{100 * i}\n" for i in range(50)))
    call(str(path), "--hw", "ddr4-2400r", "--json")
    spread = json.loads(capsys.readouterr().out)
    call(str(path), "--hw", "ddr4-2400r", "--json", "--ignore-cycles")
    packed = json.loads(capsys.readouterr().out)
    assert spread["cycles_accept"] == 4900
    assert packed["cycles_accept"] < 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("seq_rea:100", "--hw", "ddr4-2400r"), "did you mean 'seq_read'"),
        (("seq_read:many", "--hw", "ddr4-2400r"), "expected PATTERN:REQUESTS"),
        (("none.trace", "--hw", "ddr4-2400r"), "none.trace: no such file"),
        (("seq_read:99999999999999999999", "--hw", "ddr4-2400r"), "expected at most 1099511627776"),
        (("seq_read:10", "--hw", "a100-80gb"), "expected kind 'dram'"),
        (("seq_read:10", "--hw", "ddr4-2400r", "--row-policy", "clsed"), "--row-policy: found 'clsed'"),
        (("seq_read:10", "--hw", "ddr4-2400r", "--read-queue", "0"), "--read-queue: found 0"),
        (("seq_read:10", "--hw", "ddr4-2400r", "--mapping", "ro ba xx co"), "unknown field 'xx'"),
        (("seq_read:10", "--hw", "ddr4-2400r", "--gap", "-1"), "gap: found -1"),
        (("seq_read:10", "--hw", "ddr4-2400r", "--timeline", "x.gif"), "expected .png or .svg"),
        (
            ("seq_read:10", "--hw", "ddr4-2400r", "--timeline", "x.png", "--window", "5"),
            "expected FIRST:LAST",
        ),
    ],
)
def test_bad_input_is_one_clear_line(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
