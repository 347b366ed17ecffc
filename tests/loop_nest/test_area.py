"""Areas by component, from published cells and units."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hw_configs.arithmetic import ARITHMETIC_TYPES, mac_area, mac_energy, register_area, sram_area
from hw_configs.library import load_device
from hw_configs.spatial_area import area_by_component
from offchip import solve_mapping


def test_published_figures_stand_where_they_were_published() -> None:
    assert mac_area("int8", 45) == pytest.approx((282 + 36) * 1e-12)
    assert mac_energy("fp16", 7) == pytest.approx(0.5e-12)
    assert sram_area(1024, 7) == pytest.approx(1024 * 8 * 0.027e-12 / 0.5)
    assert register_area(1, 45) == pytest.approx(8 * 4.522e-12)


def test_areas_and_energies_fall_with_the_technology() -> None:
    for kind in ARITHMETIC_TYPES:
        areas, energies = ([of(kind, nm) for nm in (45, 28, 16, 7)] for of in (mac_area, mac_energy))
        assert areas == sorted(areas, reverse=True)
        assert energies == sorted(energies, reverse=True)


def test_components_add_up_by_hand() -> None:
    device = load_device("simba-chiplet")
    found = area_by_component(device)
    assert set(found) == {"global-buffer", "element-buffers", "units"}
    assert found["element-buffers"] == pytest.approx(16 * sum(sram_area(n * 1024, 16) for n in (32, 8, 3)))
    assert found["units"] == pytest.approx(16 * 64 * mac_area("int8", 16))
    outer, buffer, *rest = device.levels
    flops = device.model_copy(
        update={"levels": (outer, buffer.model_copy(update={"cells": "registers"}), *rest)}
    )
    assert area_by_component(flops)["global-buffer"] == pytest.approx(register_area(65536, 16))
    assert area_by_component(device.model_copy(update={"process": None})) == {}


def test_a_technology_out_of_range_is_refused() -> None:
    device = load_device("gemmini")
    with pytest.raises(ValidationError, match="less than or equal to 65"):
        type(device).model_validate({**device.model_dump(), "process": "90nm"})


def test_a_solution_tells_its_area() -> None:
    found = solve_mapping("examples/conv-layer.json", "gemmini")
    assert found.as_json()["area_m2"] == found.area_by_component_m2
    assert any("Area" in table.title for table in found.shown_tables())
