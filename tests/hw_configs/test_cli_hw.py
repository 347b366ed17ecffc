"""``offchip hw list|show|check``: what is printed, and how it leaves."""

import json

import pytest
import typer

from hw_configs.library import catalog
from hw_configs.problems import InputError
from hw_configs.units import DIMENSIONS, parse_quantity
from offchip.cli import hw


def printed(capsys, command, *arguments, **options):
    command(*arguments, **options)
    return capsys.readouterr().out


def test_list_names_everything_and_filters_by_kind(capsys):
    every = json.loads(printed(capsys, hw.list_hardware, as_json=True))["hardware"]
    assert [row["name"] for row in every] == list(catalog())
    gpus = json.loads(printed(capsys, hw.list_hardware, "gpu", as_json=True))["hardware"]
    assert {row["kind"] for row in gpus} == {"gpu"}
    assert {"a100-80gb", "t4", "mi210"} <= {row["name"] for row in gpus}
    table = printed(capsys, hw.list_hardware, "system")
    assert "dgx-a100" in table
    assert "a6000" not in table


def test_list_of_an_unknown_kind_gives_the_nearest():
    with pytest.raises(InputError, match=r"--kind: found 'gpus'.*did you mean 'gpu'"):
        hw.list_hardware("gpus")


def test_show_prints_every_figure_with_unit_and_source(capsys):
    shown = json.loads(printed(capsys, hw.show, "t4", as_json=True))
    figures = {figure["path"]: figure for figure in shown["figures"]}
    assert figures["memory.bandwidth"] == {
        "path": "memory.bandwidth",
        "value": 320e9,
        "unit": "B/s",
        "text": "320 GB/s",
    }
    assert "sixteenth" in figures["memory.reserved"]["assumption"]
    assert figures["compute.matrix.int8"]["text"] == "130 TOP/s"
    assert shown["source"].startswith("NVIDIA T4 data sheet")
    table = printed(capsys, hw.show, "t4")
    assert "320 GB/s" in table
    assert "assumption: ECC takes a sixteenth" in table


@pytest.mark.parametrize("name", [entry.name for entry in catalog().values()])
def test_show_serves_every_shipped_config_the_same_way_twice(capsys, name):
    text = printed(capsys, hw.show, name)
    assert text == printed(capsys, hw.show, name)
    assert printed(capsys, hw.show, name, as_json=True) == printed(capsys, hw.show, name, as_json=True)


def test_show_prints_a_system_as_a_tree(capsys):
    tree = printed(capsys, hw.show, "dgx-a100")
    assert "gpu: 8 x a100-80gb (gpu)" in tree
    assert "memory 80 GiB HBM2e (79 GiB usable), 2.039 TB/s" in tree
    assert "-- 8 x nvlink3-x12 (300 GB/s each way) -- gpu0 ... gpu7" in tree
    assert "works in host0" in tree
    content = json.loads(printed(capsys, hw.show, "dgx-a100", as_json=True))
    assert len(content["devices"]["gpu"]["members"]) == 8
    assert len(content["wires"]) == 8 + 2 + 1 + 4 + 8 + 8 + 4


def test_check_says_ok_or_every_problem(capsys, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(catalog()["t4"].path.read_text())
    bad.write_text(catalog()["t4"].path.read_text().replace("320 GB/s", "-1 GB/s").replace("l2:", "L2:"))
    assert printed(capsys, hw.check, [good]) == f"ok {good} (device)\n"
    with pytest.raises(InputError) as error:
        hw.check([good, bad])
    assert error.value.exit_code == 2
    assert len(error.value.problems) == 3
    with pytest.raises(typer.Exit) as leave:
        hw.check([good, bad], as_json=True)
    assert leave.value.exit_code == 2
    report = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert not report["ok"]
    assert [len(file["problems"]) for file in report["files"]] == [0, 3]


def test_every_shipped_file_passes_its_own_check(capsys):
    files = [entry.path for entry in catalog().values()]
    assert printed(capsys, hw.check, files).count("ok ") == len(files)


@pytest.mark.parametrize("dimension", [name for name in DIMENSIONS if name not in ("area", "price_rate")])
def test_the_unit_shown_beside_a_value_is_the_value_s_own(dimension):
    assert parse_quantity(f"1 {DIMENSIONS[dimension].base_unit}", dimension) == 1


def test_a_pin_rate_is_shown_in_bits(cli):
    assert "3.19 Gb/s" in cli("hw", "show", "a100-80gb").out
