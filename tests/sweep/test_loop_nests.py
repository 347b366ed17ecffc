"""Sweeps whose points are mappings."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw_configs.access_energy import AccessEnergy, energy_per_byte
from hw_configs.problems import InputError
from hw_configs.spatial_area import area_by_component
from offchip import simulate, solve_mapping
from offchip.sweep.loop_nests import mapping_figures
from offchip.sweep.machine import Machines
from offchip.sweep.space_file import load_space
from tests.sweep.spaces import REPOSITORY, serial_rows

SPACE = """
name: arrays
model: LAYER
hw: nvdla-small-array
mapping: latency
vary:
  kernels: {path: spatial.levels.accumulators.fanout.kernel.size, values: [4, 8]}
  spatial.levels.convolution-buffer.capacity: [64 KiB, 1 B]
define: {product: energy_j * latency_s}
constraints: [area_m2 < 1]
objectives: {latency_s: minimise, area_m2: minimise}
"""


def _space(tmp_path: Path, text: str = SPACE) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text.replace("LAYER", str(REPOSITORY / "examples" / "conv-layer.json")))
    return path


def test_points_are_the_mappings_of_machines_with_these_figures(tmp_path: Path) -> None:
    space = load_space(_space(tmp_path))
    buffer = "spatial.levels.convolution-buffer.capacity"
    rows = {(row.parameters["kernels"], row.parameters[buffer]): row for row in serial_rows(space)}
    assert {key: row.status for key, row in rows.items()} == {
        (4, 65536.0): "ok", (8, 65536.0): "ok", (4, 1.0): "infeasible", (8, 1.0): "infeasible",
    }  # fmt: skip
    own = solve_mapping(REPOSITORY / "examples" / "conv-layer.json", "nvdla-small-array", objective="latency")
    shipped = {a.axis: a.size for level in own.device.levels for a in level.fanout}["kernel"]
    assert shipped == 8
    figures = rows[8, 65536.0].figures
    assert figures["latency_s"] < rows[4, 65536.0].figures["latency_s"]
    assert figures["product"] == pytest.approx(figures["energy_j"] * figures["latency_s"])
    assert figures["area_m2"] > rows[4, 65536.0].figures["area_m2"]
    parts = [value for name, value in figures.items() if name.startswith("energy.")]
    assert sum(parts) == pytest.approx(figures["energy_j"])


def test_the_machine_of_the_file_gives_what_solve_mapping_gives(tmp_path: Path) -> None:
    layer = str(REPOSITORY / "examples" / "conv-layer.json")
    system = Machines(tmp_path).system("simba-chiplet", {})
    figures = mapping_figures({"model": layer, "mapping": "edp"}, system, None)
    own = solve_mapping(layer, "simba-chiplet", objective="edp")
    assert (figures["energy_j"], figures["latency_s"]) == (own.energy_j, own.latency_s)
    assert figures["area_m2"] == sum(area_by_component(own.device).values())


def test_the_energy_of_a_memory_follows_its_size() -> None:
    path = "spatial.levels.convolution-buffer.capacity"
    system = Machines().system("nvdla-large-array", {path: 64 * 1024.0})
    (node,) = system.nodes.values()
    level = node.device.levels[1]
    assert level.capacity == 64 * 1024
    assert level.read_energy == energy_per_byte(AccessEnergy(kind="sram", technology=16), 64 * 1024)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "levels.accumulators",
            "levels.accumulator",
            "unknown part 'accumulator'; known: DRAM.*did you mean",
        ),
        ("kernel.size", "kernel.length", "has no 'length'"),
        (
            "spatial.levels.accumulators.fanout.kernel.size",
            "spatial.levels.accumulators.fanout",
            "its figures: kernel",
        ),
        ("mapping: latency", "mapping: speed", "mapping"),
        ("hw: nvdla-small-array", "hw: a100-80gb", "0 devices of kind 'spatial'|has no 'levels'|spatial"),
        ("latency_s: minimise", "makespan_s: minimise", "unknown name 'makespan_s'"),
        ("mapping: latency", "mapping: latency\nrequests: chat.yaml", "points are mappings or services"),
        ("mapping: latency", "mapping: latency\noptions: {tp: 2}", "unknown option 'tp'"),
    ],
)
def test_what_a_space_of_mappings_cannot_say(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in SPACE
    with pytest.raises(InputError, match=says):
        load_space(_space(tmp_path, SPACE.replace(old, new)))


PADS = """
name: pads
model: alexnet
hw: HW
options: {dtype: int8, mapper: scratchpad, settings.time-limit: 2}
vary:
  PATH: [16 MiB, 1 MiB]
objectives: {makespan_s: minimise}
"""


def test_a_scratchpad_mapper_fills_the_level_on_chip_of_a_device_alone(tmp_path: Path) -> None:
    path = "spatial.levels.buffer.capacity"
    file = tmp_path / "pads.yaml"
    file.write_text(PADS.replace("HW", "eyeriss").replace("PATH", path))
    rows = {row.parameters[path]: row for row in serial_rows(load_space(file))}
    assert [row.status for row in rows.values()] == ["ok", "ok"]
    wide = Machines(tmp_path).system("eyeriss", {path: 16 * 2.0**20})
    own = simulate(
        "alexnet", wide, dtype="int8", mapper="scratchpad", fidelity="analytic", settings={"time-limit": 2}
    )
    assert rows[16 * 2.0**20].figures["makespan_s"] == pytest.approx(own.makespan_s)


def test_a_device_without_a_home_for_tensors_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "pads.yaml"
    file.write_text(
        PADS.replace("HW", "simba-chiplet").replace("PATH", "spatial.levels.global-buffer.capacity")
    )
    for row in serial_rows(load_space(file)):
        assert row.status == "invalid"
        assert "'global-buffer' of simba-chiplet does not hold W" in row.reason
