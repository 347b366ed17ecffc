"""Capacities of single operands: instead of one of a level, or beside it as the most that each may take of it."""

import pytest

from hw_configs.library import load_system
from hw_configs.spatial import MemoryLevel, level_faults
from hw_configs.spatial_area import area_by_component


def level(**given):
    return MemoryLevel(
        name="L",
        holds=("I", "W"),
        read_energy=1e-12,
        write_energy=1e-12,
        read_width=1.0,
        write_width=1.0,
        **given,
    )


def test_both_are_held_to():
    both = level(capacity=100.0, capacities={"W": 8.0})
    assert both.overflow({"I": 92.0, "W": 8.0}) == ""
    assert "W in 'L' takes 9 B of its 8 B" in both.overflow({"I": 1.0, "W": 9.0})
    assert "do not fit its 100 B" in both.overflow({"I": 93.0, "W": 8.0})
    assert both.text_capacity() == "100 B (of which W 8 B)"


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"capacities": {"I": 1.0, "W": 1.0}}, True), ({"capacities": {"W": 1.0}}, False),
        ({"capacity": 9.0, "capacities": {"W": 1.0}}, True), ({"capacity": 9.0, "capacities": {"O": 1.0}}, False),
    ],
)  # fmt: skip
def test_alone_they_are_of_all_operands_and_beside_a_capacity_of_some(given, fits):
    outer = MemoryLevel(
        name="M",
        holds=("I", "W", "O"),
        read_energy=1e-12,
        write_energy=1e-12,
        read_width=1.0,
        write_width=1.0,
    )
    faults = [fault for fault in level_faults((outer, level(**given))) if fault and "capacities" in fault[0]]
    assert (not faults) == fits


def test_the_area_is_that_of_the_whole():
    device = load_system("eyeriss").nodes["eyeriss"].device
    without = device.levels[1].model_copy(update={"capacities": None})
    bare = device.model_copy(update={"levels": (device.levels[0], without, device.levels[2])})
    assert area_by_component(device) == area_by_component(bare)
