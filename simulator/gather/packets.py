"""PCIe requests of GPU threads that read rows of host memory (zero-copy), counted exactly.

A warp reads 32 elements at a time. The memory unit makes one request for each aligned line that the lanes touch, of
the 32-byte sectors that they need; a line has 128 bytes (Min et al., EMOGI, VLDB 2020; PyTorch-Direct,
arXiv:2101.07956). A row whose address is no multiple of the line makes every warp touch two lines. The circular
shift of PyTorch-Direct lets the lanes begin at the next line's border and wrap around the row, so that the row is read
line by line whatever its address is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.link import Pcie
from hw_configs.problems import bad_input
from simulator.gather.table import FeatureTable

__all__ = ["LINE", "SECTOR", "PacketRule", "Packets", "count_packets", "zero_copy_rate"]

SECTOR: Final = 32
LINE: Final = 128
LANES: Final = 32
COMPLETION_BYTES: Final = 22
"""Around the payload of a read completion: framing 4, sequence 2, header of three words 12, LCRC 4 (PCI Express Base
Specification); a memory write's header is a word longer (``hw_configs/link.py``)."""
_TAGS: Final = {1: 256, 2: 256, 3: 256}
"""Requests in flight by generation: extended tags have 8 bits; from PCIe 4.0 on 10 bits, of which 768 are used."""
TAGS_TEN_BITS: Final = 768


@dataclass(frozen=True, slots=True)
class PacketRule:
    """How lanes meet rows. ``request_bytes``: the largest request; ``element_bytes``: what one lane reads.

    ``shift``: the circular shift. Without it warp i reads elements 32 i to 32 i + 31 of the row.
    """

    request_bytes: Literal[32, 64, 128] = 128
    element_bytes: int = 4
    shift: bool = True

    def __post_init__(self) -> None:
        if self.request_bytes not in (32, 64, 128):
            raise bad_input(f"found {self.request_bytes}; expected 32, 64 or 128", path="--request-bytes")
        if self.element_bytes not in (1, 2, 4, 8, 16):
            raise bad_input(f"found {self.element_bytes}; expected 1, 2, 4, 8 or 16", path="element_bytes")


@dataclass(frozen=True, slots=True)
class Packets:
    """Requests of some rows, and the bytes they bring, whole sectors."""

    requests: float
    payload_bytes: float

    @property
    def mean_payload(self) -> float:
        """Bytes of a request in the mean."""
        return self.payload_bytes / self.requests if self.requests else 0.0

    @property
    def wire_bytes(self) -> float:
        """Bytes towards the GPU with what stands around each payload."""
        return self.payload_bytes + self.requests * COMPLETION_BYTES

    def times(self, factor: float) -> Packets:
        """So many times as many."""
        return Packets(self.requests * factor, self.payload_bytes * factor)


def count_packets(table: FeatureTable, rows: npt.NDArray[np.int64], rule: PacketRule) -> Packets:
    """The requests that reading these rows makes.

    >>> table = FeatureTable(rows=4, row_bytes=512)
    >>> count_packets(table, np.arange(4), PacketRule())
    Packets(requests=16, payload_bytes=2048)
    """
    from simulator.gather.kernels import packets_of_rows

    step = table.row_bytes if rule.shift else LANES * rule.element_bytes
    requests, payload = packets_of_rows(rows, table.base, table.row_bytes, step, rule.request_bytes)
    return Packets(int(requests), int(payload))


def zero_copy_rate(link: Pcie, packets: Packets, round_trip_s: float) -> tuple[float, str]:
    """Payload bytes per second of such requests on a link, and what binds: ``wire`` or ``tags``.

    The wire carries payload and completion headers; tags x payload / round trip bounds what is in flight (Little).
    The requests themselves go the other way and never bind: each is shorter than its answer.
    """
    if not packets.requests:
        return link.lane_rate, "wire"
    payload = packets.mean_payload
    wire = link.lane_rate * payload / (payload + COMPLETION_BYTES)
    tags = _TAGS.get(link.generation, TAGS_TEN_BITS) * payload / round_trip_s
    reached = min(wire, tags, link.bandwidth * wire / link.payload_rate)
    return reached, "tags" if tags <= wire else "wire"
