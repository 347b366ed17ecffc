"""Drives at the system level: their streams run at what the drive engine finds, not at a constant.

A drive that states its inside is measured when bytes first pass one of its ports, by the closed form at
analytic fidelity and by a run of the drive engine otherwise; the answer is kept by device and pattern. What
the data sheet promises stays a bound, for it holds what the engine does not know of a controller. A drive
whose inside nobody published keeps its data sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.system import System
from simulator.flash.patterns import DrivePattern, drive_rate

__all__ = ["MeasuredRates", "drive_ports", "engine_drives", "flash_bandwidth"]

STREAM_BYTES: Final = 131072
STREAM_DEPTH: Final = 32
"""How operating systems stream: requests of 128 KiB, 32 of them in flight (assumption)."""


class MeasuredRates(dict[str, float]):
    """Bytes per second by resource; those of a drive are worked out when they are first asked for."""

    def __init__(self, later: Mapping[str, Callable[[], float]]) -> None:
        super().__init__()
        self._later = later

    def __missing__(self, name: str) -> float:
        self[name] = self._later[name]()
        return self[name]


def engine_drives(system: System) -> dict[str, Flash | ComputationalStorage]:
    """The drives of a system that the drive engine stands for, by name."""
    found = {}
    for node in system.nodes.values():
        device = node.device
        if isinstance(device, Flash | ComputationalStorage):
            inside = getattr(device.store, "geometry", None), getattr(device.store, "timing", None)
            if None not in inside:
                found[node.name] = device
    return found


def drive_ports(
    device: Flash | ComputationalStorage, fidelity: Literal["closed", "event"]
) -> tuple[Callable[[], float], Callable[[], float]]:
    """What tells the rates of a drive's two ports, reading and writing, when it is called."""

    def reading() -> float:
        return min(_stream(device, "read", fidelity), device.store.read_bandwidth)

    def writing() -> float:
        return min(_stream(device, "write", fidelity), device.store.write_bandwidth)

    return reading, writing


def flash_bandwidth(device: ComputationalStorage) -> float:
    """Bytes per second between a drive's flash and whoever reads or writes it: what its channels carry.

    A drive whose inside nobody published carries at least what it states for its paths.
    """
    store = device.store
    stated = max(device.internal_bandwidth, store.read_bandwidth, store.write_bandwidth)
    if store.geometry is None or store.timing is None:
        return stated
    # Data sheets round: a path may be stated a little faster than the channels behind it.
    return max(stated, store.geometry.channels * store.timing.channel_bandwidth)


def _stream(
    device: Flash | ComputationalStorage,
    operation: Literal["read", "write"],
    fidelity: Literal["closed", "event"],
) -> float:
    pattern = DrivePattern(operation, "sequential", STREAM_BYTES, STREAM_DEPTH)
    return drive_rate(device, pattern, fidelity=fidelity).bandwidth_bytes_per_s
