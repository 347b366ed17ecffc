"""``offchip trace pim``: JSON, tables, files and clear words for bad input."""

from __future__ import annotations

import gzip
import json

import pytest
import typer

from hw_configs.problems import InputError
from offchip.cli.trace_pim import trace_pim
from simulator.pim.checker import check_pim_commands, parse_command
from tests.pim.machines import small


def call(*arguments):
    app = typer.Typer()
    app.command()(trace_pim)
    app(list(arguments), standalone_mode=False)


def test_json_is_one_object_and_the_same_with_and_without_leaps(capsys):
    outputs = []
    for more in ((), ("--no-leap",), ("--check",)):
        call("gemv:1024x1024:1", "--hw", "gddr6-aim", "--json", *more)
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    assert outputs[2].pop("checked") is True
    assert outputs[2] == outputs[0]
    data = outputs[0]
    assert data["cycles"] == 18432
    assert data["command_counts"]["MAC16"] == 4096
    assert data["energy_j"]["total"] == pytest.approx(
        sum(v for k, v in data["energy_j"].items() if k != "total")
    )


def test_a_program_from_a_file_is_the_reference_run(tmp_path, capsys):
    path = tmp_path / "gemv.pim"
    path.write_text(
        "WR_GB 64 channels=0\nWR_BIAS channels=0\nMAC_ABK 64 channels=0\nRD_MAC channels=0\nEOC\n"
    )
    call(str(path), "--hw", "gddr6-aim", "--json")
    data = json.loads(capsys.readouterr().out)
    assert (data["cycles"], data["instructions"]) == (414, 5)
    group = data["channel_groups"][0]
    assert (group["channels"], group["open_cycles"]) == ("0x1", 221)


def test_table_for_people(capsys):
    call("gemv:512x512", "--hw", "hbm-pim", "--honest", "--check")
    out = capsys.readouterr().out
    for word in ("multiply-accumulates", "row hits", "refreshes", "rules: honest", "every command keeps"):
        assert word in out


def test_phases_have_a_table_of_their_own(tmp_path, capsys):
    path = tmp_path / "p.pim"
    path.write_text("PHASE one\nMAC_ABK 9\nPHASE two\nMAC_ABK 9\nEOC\n")
    call(str(path), "--hw", "pim-gpt-gddr6")
    assert "phases" in capsys.readouterr().out


def test_rules_are_compared(capsys):
    call("gemv:1024x1024", "--hw", "gddr6-aim", "--compare-rules", "--json")
    data = json.loads(capsys.readouterr().out)["rules"]
    base = data["published"]["cycles"]
    assert all(rules["time_over_published"] >= 1 for rules in data.values())
    assert data["honest"]["cycles"] > max(r["cycles"] for name, r in data.items() if name != "honest") > base
    call("gemv:1024x1024", "--hw", "gddr6-aim", "--compare-rules")
    assert "time / published" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["commands.csv", "commands.csv.gz"])
def test_command_file_holds_every_command_and_keeps_the_rules(name, tmp_path, capsys):
    path = tmp_path / name
    call("gemv:100x300:1", "--hw", "gddr6-aim", "--commands", str(path), "--json")
    data = json.loads(capsys.readouterr().out)
    text = gzip.decompress(path.read_bytes()).decode() if name.endswith("gz") else path.read_text()
    lines = text.splitlines()
    assert lines[0] == "tick,command,address"
    assert len(lines) - 1 == sum(data["command_counts"].values())
    device = small("gddr6-aim")
    assert check_pim_commands(device, device.rules.published, map(parse_command, lines[1:])) is None
    assert list(tmp_path.iterdir()) == [path]


def test_a_product_is_written_as_text_and_runs_again(tmp_path, capsys):
    path = tmp_path / "p.pim"
    call("gemv:300x3000", "--hw", "attacc-hbm3", "--write", str(path), "--json")
    first = json.loads(capsys.readouterr().out)
    call(str(path), "--hw", "attacc-hbm3", "--json")
    again = json.loads(capsys.readouterr().out)
    assert {**first, "program": ""} == {**again, "program": ""}


def test_more_channels(capsys):
    call("gemv:4096x4096:32", "--hw", "gddr6-aim", "--channels", "32", "--json")
    assert json.loads(capsys.readouterr().out)["cycles"] == 9664


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gemv:4096", "--hw", "gddr6-aim"), "expected gemv:MxK"),
        (("gemv:0x5", "--hw", "gddr6-aim"), "found a matrix of 0 x 5"),
        (("gemv:4x5:9", "--hw", "gddr6-aim"), "found 9 channels"),
        (("gemv:4x5:1:half", "--hw", "gddr6-aim"), "unknown variant 'half'; known: full, nobias, noreuse"),
        (("gemv:99999999x99999", "--hw", "gddr6-aim"), "rows of every bank; there are 16384"),
        (("none.pim", "--hw", "gddr6-aim"), "none.pim: No such file"),
        (
            ("gemv:4x5", "--hw", "gddr6-16000"),
            "--hw: 'gddr6-16000' is a device of kind 'dram'; expected kind 'pim'",
        ),
        (("gemv:4x5", "--hw", "gddr6-am"), "did you mean 'gddr6-aim'?"),
        (("gemv:4x5", "--hw", "gddr6-aim", "--channels", "0"), "--channels: found 0"),
        (
            ("gemv:4x5", "--hw", "gddr6-aim", "--refresh", "late"),
            "--refresh: found 'late'; known: off, immediate",
        ),
        (("/", "--hw", "gddr6-aim"), "/: not a file"),
        (("gemv:4x5", "--hw", "gddr6-aim", "--start-cycle", "-1"), "start_cycle: found -1"),
        (
            ("gemv:4x5", "--hw", "gddr6-aim", "--compare-rules", "--honest"),
            "--compare-rules: runs under every rule",
        ),
        (("gemv:4x5", "--hw", "gddr6-aim", "--commands", "no/such/folder.csv"), "cannot be written"),
    ],
)
def test_bad_input_is_said_in_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_line_of_a_program_is_named(tmp_path):
    path = tmp_path / "p.pim"
    path.write_text("WR_GB 64\nMAC_ABL 64\n")
    with pytest.raises(
        InputError, match=r"p\.pim:2: aim has no instruction 'MAC_ABL'.*did you mean 'MAC_ABK'"
    ):
        call(str(path), "--hw", "gddr6-aim")
