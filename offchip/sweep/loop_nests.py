"""Spaces whose points are mappings: a space file with ``mapping`` finds the best loop nests at every point.

``mapping`` is what each layer's mapping is best in (energy, latency or edp). What may be set are the options that say
which layers a model has, and figures of the accelerator, as ``spatial.levels.NAME.capacity`` or
``spatial.levels.NAME.fanout.AXIS.size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from hw_configs.problems import NoAnswerError, bad_input
from offchip.sweep.keys import beside
from offchip.sweep.machine import Leaf, Value

if TYPE_CHECKING:
    from hw_configs.device import SpatialAccelerator
    from hw_configs.system import System

__all__ = ["mapping_figure_names", "mapping_figures", "mapping_leaves"]

_OPTIONS: Final[dict[str, Any]] = {
    "mapping": Literal["energy", "latency", "edp"], "phase": str, "dtype": str,
    "batch": Annotated[int, Field(strict=True, ge=1)], "prompt": Annotated[int, Field(strict=True, ge=1)],
}  # fmt: skip
_FIGURES: Final = (
    "energy_j", "latency_s", "edp_js", "macs", "macs_per_s", "energy_per_mac_j", "utilisation", "area_m2", "layers",
    "gap", "dram_bytes", "macs_per_s_per_m2",
)  # fmt: skip


@cache
def mapping_leaves() -> dict[str, Leaf]:
    """The options of such a space."""
    return {
        name: Leaf(name, None, TypeAdapter(form), name in ("batch", "prompt"))
        for name, form in _OPTIONS.items()
    }


def mapping_figure_names(system: System) -> list[str]:
    """Every figure of a point by name."""
    parts = [*(memory.name.replace("-", "_") for memory in _accelerator(system).levels), "units"]
    return [*_FIGURES, *(f"energy.{name}_j" for name in parts), *(f"area.{name}_m2" for name in parts)]


def mapping_figures(settings: Mapping[str, Value], system: System, folder: Path | None) -> dict[str, Any]:
    """The figures of a point; areas where the accelerator states its process."""
    from hw_configs.spatial_area import area_by_component
    from mapping.deadline import Budget
    from mapping.loop_nest.search import best_mapping
    from offchip.solving.mapping_input import read_layers
    from simulator.accelerator.loop_nest.evaluate import units_of
    from workloads.workload import WorkloadOptions

    device = _accelerator(system)
    own = {name: settings[name] for name in ("phase", "dtype", "batch", "prompt") if name in settings}
    layers = read_layers(beside(str(settings["model"]), folder), (), WorkloadOptions(**own)).counted  # type: ignore[arg-type]
    energy = latency = macs = gap = 0.0
    parts: dict[str, float] = {}
    outside = 0.0
    with Budget().running():
        for layer, count in layers:
            answer = best_mapping(device, layer, str(settings["mapping"]))
            found = answer.best[0].evaluation
            energy += count * found.energy_j
            latency += count * found.latency_s
            macs += count * found.macs
            gap = max(gap, answer.gap)
            outside += count * sum(sum(moved) for moved in found.levels[0].moved_bytes.values())
            for name, joules in (
                *((use.name, use.energy_j) for use in found.levels),
                ("units", found.mac_energy_j),
            ):
                parts[name] = parts.get(name, 0.0) + count * joules
    if not layers:
        raise NoAnswerError("no layer to map")
    figures: dict[str, Any] = {
        "energy_j": energy, "latency_s": latency, "edp_js": energy * latency, "macs": macs,
        "macs_per_s": macs / latency, "energy_per_mac_j": energy / macs, "layers": len(layers), "gap": gap,
        "utilisation": macs / (units_of(device) * latency * device.clock), "dram_bytes": outside,
    }  # fmt: skip
    figures |= {f"energy.{name.replace('-', '_')}_j": joules for name, joules in parts.items()}
    areas = area_by_component(device)
    if areas:
        figures["area_m2"] = sum(areas.values())
        figures["macs_per_s_per_m2"] = figures["macs_per_s"] / figures["area_m2"]
        figures |= {f"area.{name.replace('-', '_')}_m2": area for name, area in areas.items()}
    return figures


def _accelerator(system: System) -> SpatialAccelerator:
    from hw_configs.device import SpatialAccelerator

    found = [node.device for node in system.nodes.values() if isinstance(node.device, SpatialAccelerator)]
    if len(found) != 1:
        raise bad_input(
            f"{system.name} has {len(found)} devices of kind 'spatial'; a mapping needs one", path="hw"
        )
    return found[0]
