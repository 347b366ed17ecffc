"""The figures of a point by name: what objectives, constraints and tables may speak of. SI units."""

from __future__ import annotations

import re
from typing import Any

from hw_configs.system import System
from simulator.result import Result

__all__ = ["figure_names", "figures_of"]

_SUMMARY = (
    "makespan_s", "time_to_first_token_s", "decode_steps", "time_per_token_s", "decode_tokens_per_s", "tokens",
    "tokens_per_s", "flops", "energy_j", "energy_per_token_j", "bottleneck",
)  # fmt: skip
_DERIVED = (
    "tokens_per_j", "peak_memory_bytes", "peak_memory_share", "read_bytes", "written_bytes", "link_bytes",
    "utilisation", "compute_utilisation", "power_w", "price_usd", "price_rate_usd_per_s", "area_m2",
    "tokens_per_usd",
)  # fmt: skip


def figures_of(result: Result, system: System) -> dict[str, Any]:
    """Every figure of a run on a system; a figure that the run or the machine does not have is absent."""
    figures = result.summary()
    tokens_per_s, now = figures.get("tokens_per_s"), result.makespan_s
    if tokens_per_s is not None and figures["energy_j"] > 0:
        figures["tokens_per_j"] = figures["tokens"] / figures["energy_j"]
    memories, devices = result.memories.values(), result.devices.values()
    figures["peak_memory_bytes"] = max((use.peak_bytes for use in memories), default=0)
    figures["peak_memory_share"] = max((use.peak_bytes / use.usable_bytes for use in memories), default=0.0)
    figures["read_bytes"] = sum(use.read_bytes for use in memories)
    figures["written_bytes"] = sum(use.written_bytes for use in memories)
    figures["link_bytes"] = sum(use.bytes_forward + use.bytes_backward for use in result.wires.values())
    figures["utilisation"] = max((use.utilisation for use in devices), default=0.0)
    figures["compute_utilisation"] = max((use.compute_utilisation for use in devices), default=0.0)
    if now > 0:
        figures["power_w"] = figures["energy_j"] / now
    figures.update(_costs(system, result))
    rate = figures.get("price_rate_usd_per_s")
    if tokens_per_s is not None and rate:
        figures["tokens_per_usd"] = tokens_per_s / rate
    for name, use in result.memories.items():
        figures[f"memory.{_plain(name)}.peak_bytes"] = use.peak_bytes
    for name, seconds in result.time_by_bound().items():
        figures[f"time.{_plain(name)}_s"] = seconds
    for name, joules in result.energy_j.items():
        figures[f"energy.{_plain(name)}_j"] = joules
    for name, wire in result.wires.items():
        figures[f"link.{_plain(name)}.bytes"] = wire.bytes_forward + wire.bytes_backward
    return figures


def figure_names(system: System) -> list[str]:
    """Every name that a run on this system may give a figure, for messages about names that none has."""
    names = [*_SUMMARY, *_DERIVED]
    for name in system.memories:
        names += [f"memory.{_plain(name)}.peak_bytes", f"energy.{_plain(name)}_memory_j"]
    for name in system.nodes:
        names += [f"energy.{_plain(name)}_compute_j", f"energy.{_plain(name)}_idle_j"]
    for name in system.wires:
        names += [f"link.{_plain(name)}.bytes", f"energy.{_plain(name)}_link_j"]
    return [*names, *(f"time.{bound}_s" for bound in ("compute", "memory", "launch", "link"))]


def _costs(system: System, result: Result) -> dict[str, float]:
    """Price, price rate and area of the whole machine, where every device that ran states it.

    Devices that ran nothing and state nothing (hosts of rented GPUs, switches) count as nothing.
    """
    found: dict[str, float] = {}
    for name, key in (("price_usd", "price"), ("price_rate_usd_per_s", "price_rate"), ("area_m2", "area")):
        stated = [getattr(node.device, key, None) for node in system.nodes.values()]
        ran = [getattr(system.nodes[device].device, key, None) for device in result.devices]
        if key == "price_rate" and system.price_rate is not None:
            found[name] = system.price_rate
        elif ran and all(value is not None for value in ran):
            found[name] = float(sum(value for value in stated if value is not None))
    return found


def _plain(name: str) -> str:
    """A name that can stand in an expression: letters, digits and underscores."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")
