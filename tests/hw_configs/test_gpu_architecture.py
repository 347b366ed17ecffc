"""Architectures of GPUs as files: found by name or beside, overridden, refused in words, shown with sources."""

import json
from pathlib import Path

import pytest

from hw_configs.library import catalog, check_file, load_device, load_system, load_with_sources
from hw_configs.problems import InputError
from offchip.cli import hw

H200 = catalog()["h200"].path.read_text()
HOPPER = catalog()["hopper-sm90"].path.read_text()
SHIPPED = [entry.name for entry in catalog().values() if entry.kind == "architecture"]


def device(folder: Path, architecture: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(H200.replace("architecture: hopper-sm90", f"architecture: {architecture}"))
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(InputError) as error:
        check_file(path)
    return [str(problem).replace(str(path.parent) + "/", "") for problem in error.value.problems]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_architecture_bears_its_file_s_name_and_says_where_figures_come_from(name):
    architecture, sources, _ = load_with_sources(name)
    assert architecture.name == name
    assert architecture.source
    for path in ("exponentials_per_clock", "operand_sharing", "l2_partitions", "attention.query_tile"):
        assert sources[path].text


def test_an_unknown_architecture_is_refused_with_the_nearest_name(tmp_path):
    (line,) = problems(device(tmp_path, "hoper-sm90"))
    assert line.startswith("my.yaml:5: architecture: unknown GPU architecture 'hoper-sm90'; known: ada-sm89,")
    assert line.endswith("(did you mean 'hopper-sm90'?)")


def test_a_device_is_no_architecture(tmp_path):
    (line,) = problems(device(tmp_path, "h100-sxm"))
    assert line.endswith("h100-sxm.yaml:1: kind: found the kind 'gpu'; expected 'gpu_architecture'")


def test_a_wrong_figure_is_said_on_the_line_of_its_own_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        HOPPER.replace("l2_partitions: {value: 2,", "l2_partitions: {value: 0,")
    )
    line = 1 + HOPPER.splitlines().index(
        next(x for x in HOPPER.splitlines() if x.startswith("l2_partitions"))
    )
    expected = f"mine.yaml:{line}: l2_partitions: found 0; input should be greater than 0"
    assert problems(device(tmp_path, "mine")) == [expected]
    assert problems(tmp_path / "mine.yaml") == [expected]


def test_a_device_overrides_figures_and_every_fault_of_them_is_said(tmp_path):
    changed = load_device(
        device(tmp_path, "{use: hopper-sm90, l2_partitions: 1, attention: {query_tile: 64}}")
    )
    plain = load_device("h200")
    expected = plain.architecture.model_copy(
        update={
            "l2_partitions": 1,
            "attention": plain.architecture.attention.model_copy(update={"query_tile": 64}),
        }
    )
    assert changed.architecture == expected
    lines = problems(device(tmp_path, "{use: hopper-sm90, l2_partition: 1, process_energy: -1}"))
    assert any("unknown key 'l2_partition'" in line and "'l2_partitions'" in line for line in lines)
    assert any(line.startswith("my.yaml:5: architecture.process_energy: found") for line in lines)


def test_a_file_beside_the_device_goes_first(tmp_path):
    (tmp_path / "hopper-sm90.yaml").write_text(
        HOPPER.replace("process_energy: {value: 0.35", "process_energy: {value: 0.5", 1)
    )
    assert load_device(device(tmp_path, "hopper-sm90")).architecture.process_energy == 0.5
    assert load_device("h200").architecture.process_energy == 0.35


def test_a_device_in_place_finds_its_architecture_too(tmp_path):
    inner = "".join(f"      {line}\n" for line in device(tmp_path, "mine").read_text().splitlines())
    (tmp_path / "mine.yaml").write_text(HOPPER.replace("hopper-sm90", "mine"))
    (tmp_path / "box.yaml").write_text(f"name: box\ndevices:\n  gpu:\n    device:\n{inner}")
    assert load_system(tmp_path / "box.yaml").nodes["gpu"].device.architecture.name == "mine"


def test_show_prints_the_architecture_below_its_chip(capsys):
    hw.show("h200", as_json=True)
    figures = {figure["path"]: figure for figure in json.loads(capsys.readouterr().out)["figures"]}
    assert figures["architecture.name"]["value"] == "hopper-sm90"
    assert figures["architecture.l2_partitions"]["value"] == 2
    assert "A100" in figures["architecture.l2_partitions"]["source"]
    assert figures["architecture.calibrated_as"]["source"] == "NVIDIA H100 white paper"
    assert "foundries" in figures["architecture.process_energy"]["assumption"]


def test_another_architecture_is_another_machine(tmp_path):
    systems = [
        load_system(device(tmp_path, text))
        for text in ("hopper-sm90", "{use: hopper-sm90, l2_partitions: 1}")
    ]
    assert systems[0].digest != systems[1].digest
