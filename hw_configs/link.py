"""Wires between devices: PCIe, NVLink, RDMA networks, on-chip paths and memory channels.

Bandwidth is per direction and usable by payload, after line coding and packet headers. For PCIe it follows
from generation, lanes and payload size, so that a file can't claim what its lanes cannot carry.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from hw_configs.config import Bandwidth, Config, Count, EnergyPerByte, Latency, refuse
from hw_configs.units import format_quantity

__all__ = ["Link", "NvLink", "OnChip", "Pcie", "Rdma"]

# GT/s per lane and line-code efficiency; PCI Express Base Specification, revisions 1.0 to 6.0.
_PCIE_LANE: Final[dict[int, tuple[float, float]]] = {
    1: (2.5, 8 / 10),
    2: (5.0, 8 / 10),
    3: (8.0, 128 / 130),
    4: (16.0, 128 / 130),
    5: (32.0, 128 / 130),
    6: (64.0, 242 / 256),
}
# Bytes around the payload of a memory write with a 64-bit address: framing 4, sequence 2, header 16, LCRC 4.
_PCIE_OVERHEAD_BYTES: Final = 26

# NVLink generation -> bytes per second, per link and direction (NVIDIA architecture white papers).
_NVLINK_RATE: Final[dict[int, float]] = {1: 20e9, 2: 25e9, 3: 25e9, 4: 25e9, 5: 50e9}


class LinkBase(Config):
    """What every link file holds."""

    name: str
    description: str = ""
    source: str = ""
    latency: Latency
    """From the first byte in to the first byte out, one way."""
    energy_per_byte: EnergyPerByte = 0.0
    duplex: Literal["full", "half"] = "full"
    """A half-duplex link shares its bandwidth between the two directions."""


class Pcie(LinkBase):
    """A PCIe link by generation and lanes."""

    kind: Literal["pcie"]
    generation: Annotated[int, Field(ge=1, le=6)]
    lanes: Literal[1, 2, 4, 8, 16]
    max_payload: Literal[128, 256, 512, 1024, 2048, 4096] = 256
    """Bytes of a packet's payload."""
    sustained_bandwidth: Bandwidth | None = None
    """What copies were measured to reach, where that is below the lanes' payload rate."""

    @model_validator(mode="after")
    def _lanes_can_carry(self) -> Self:
        most = self.payload_rate
        if self.sustained_bandwidth is not None and self.sustained_bandwidth > most:
            claimed, carried = (format_quantity(x, "bandwidth") for x in (self.sustained_bandwidth, most))
            lanes = f"{self.lanes} lanes of PCIe {self.generation}"
            refuse((("sustained_bandwidth",), f"{claimed} is more than {lanes} carry ({carried})"))
        return self

    @property
    def bandwidth(self) -> float:
        """Payload bytes per second and direction, as measured where that is stated."""
        return self.sustained_bandwidth or self.payload_rate

    @property
    def payload_rate(self) -> float:
        """Payload bytes per second and direction that the lanes carry."""
        payload = self.max_payload / (self.max_payload + _PCIE_OVERHEAD_BYTES)
        return self.lane_rate * payload

    @property
    def lane_rate(self) -> float:
        """Bytes per second and direction after line coding, packet headers included."""
        rate, code = _PCIE_LANE[self.generation]
        return rate * 1e9 / 8 * code * self.lanes


class NvLink(LinkBase):
    """A bundle of NVLinks between two devices, or a device and a switch."""

    kind: Literal["nvlink"]
    generation: Annotated[int, Field(ge=1, le=5)]
    links: Annotated[int, Field(ge=1, le=18)]
    link_rate: Bandwidth | None = None
    """Of one link and direction, where a chip runs its links below the rate of the generation."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        rate = _NVLINK_RATE[self.generation]
        refuse(
            None
            if self.link_rate is None or self.link_rate <= rate
            else (
                ("link_rate",),
                f"a link of NVLink {self.generation} carries {format_quantity(rate, 'bandwidth')}, "
                f"not {format_quantity(self.link_rate, 'bandwidth')}",
            )
        )
        return self

    @property
    def bandwidth(self) -> float:
        """Raw bytes per second and direction."""
        return (self.link_rate or _NVLINK_RATE[self.generation]) * self.links


class Rdma(LinkBase):
    """A network port: InfiniBand, RoCE or Ethernet."""

    kind: Literal["rdma"]
    network: Literal["infiniband", "roce", "ethernet"]
    bandwidth: Bandwidth


class OnChip(LinkBase):
    """A path on a chip or board: a socket's memory channels, a fabric of chiplets, a network on chip."""

    kind: Literal["onchip"]
    bandwidth: Bandwidth
    ports: Count = 1

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.bandwidth > 1e15:
            refuse((("bandwidth",), f"no path carries {format_quantity(self.bandwidth, 'bandwidth')}"))
        return self


Link = Annotated[Pcie | NvLink | Rdma | OnChip, Field(discriminator="kind")]
"""Any link; the key ``kind`` says which."""
