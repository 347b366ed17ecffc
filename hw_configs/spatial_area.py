"""Area of a spatial accelerator by component, estimated from published cells and units.

Memories and arithmetic alone: no networks, controllers, clocks or pads, so a chip is larger. Figures and assumptions
stand in :mod:`hw_configs.arithmetic`.
"""

from __future__ import annotations

from hw_configs.arithmetic import mac_area, register_area, sram_area
from hw_configs.device import SpatialAccelerator

__all__ = ["area_by_component"]

_MOST_REGISTER_BYTES = 256
"""Files up to this size are taken as flip-flops where nothing is said: an assumption between Eyeriss's scratchpads of
48 (registers) and 448 bytes (SRAM; JSSC 2017, section V)."""


def area_by_component(device: SpatialAccelerator) -> dict[str, float]:
    """Square metres by level, and of the ``units``; empty where the device states no process.

    The outermost level is off the chip and has none.
    """
    if device.process is None:
        return {}
    found: dict[str, float] = {}
    instances = 1
    for number, memory in enumerate(device.levels):
        if number:
            files = (
                [memory.capacity] if memory.capacity is not None else list((memory.capacities or {}).values())
            )
            total = 0.0
            for size in files:
                small = memory.cells == "registers" or (memory.cells is None and size <= _MOST_REGISTER_BYTES)
                total += (register_area if small else sram_area)(size, device.process)
            found[memory.name] = total * instances
        for axis in memory.fanout:
            instances *= axis.size
    found["units"] = instances * mac_area(device.arithmetic, device.process)
    return found
