"""What a device gets of links, host memory and drives when all work at once, and what an update there moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.device import ComputationalStorage, Flash
from mapping.training.pricing import Prices
from simulator.flash.patterns import DrivePattern, drive_rate

__all__ = ["UPDATE_BYTES", "TierRates", "tier_rates"]

UPDATE_BYTES: Final = 30
"""Host memory traffic of one parameter's Adam update: weight, two moments and gradient read (16 bytes), weight
and moments written (12), and the 16-bit weight (2)."""
_DRIVE_REQUEST: Final = 1 << 20
_IN_FLIGHT: Final = 32


@dataclass(frozen=True, slots=True)
class TierRates:
    """Bytes per second of one device's share of each path when all devices use it, and bytes of each tier."""

    to_host: float
    from_host: float
    drive_read: float
    drive_write: float
    host_memory: float
    host_bytes: int
    drive_bytes: int


def tier_rates(prices: Prices, devices: int) -> TierRates:
    """What each device gets of links, host memory and drives when ``devices`` of them work at once."""
    path = prices.host(devices)
    system = prices.system
    sharing = sum(1 for name in prices.devices[:devices] if prices.host_of(name) == path.memory)
    read = written = capacity = 0.0
    for node in system.of_kind("flash", "csd"):
        assert isinstance(node.device, Flash | ComputationalStorage)
        rates = [
            drive_rate(node.device, DrivePattern(op, "sequential", _DRIVE_REQUEST, _IN_FLIGHT)).bandwidth_bytes_per_s
            for op in ("read", "write")
        ]  # fmt: skip
        read, written = read + rates[0], written + rates[1]
        capacity += system.memories[node.name].usable_bytes
    host = system.memories[path.memory]
    return TierRates(
        path.out_rate, path.back_rate, read / devices, written / devices, host.read_bandwidth / sharing,
        path.share_bytes, int(capacity // devices),
    )  # fmt: skip
