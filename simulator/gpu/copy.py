"""Copies between host and GPU: pinned, pageable, zero-copy by requests, and pages that fault.

- Pinned memory moves by DMA at the link's payload rate after a fixed start.
- Pageable memory is first copied into a pinned buffer by the CPU, in chunks that overlap with the DMA: the
  slower of the two stages decides, plus one chunk's fill.
- Zero-copy reads come straight from kernels as PCIe reads of 32, 64 or 128 bytes (Min et al., EMOGI,
  arXiv:2006.06890). Each request carries a header; the number outstanding bounds the rate (Little's law).
  Rows that start off a 128-byte boundary need one request more.
- Unified memory moves pages on first touch: a batch of faults costs a fixed handling time, then its pages
  cross the link (Allen and Ge, SC 2021).

Every constant here is an assumption from those papers' reported magnitudes; no row of the reference measures
copies. They are arguments, so that a user who has measured can say so.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.problems import bad_input

__all__ = [
    "HostLink",
    "pageable_seconds",
    "pinned_seconds",
    "requests_of_row",
    "unified_seconds",
    "zero_copy_seconds",
]

SECTOR = 32
LINE = 128


@dataclass(frozen=True, slots=True)
class HostLink:
    """A GPU's way to host memory.

    ``bandwidth`` is raw bytes per second and direction; ``payload`` the largest TLP payload, ``header`` the
    bytes of framing, sequence, header and CRC per TLP; ``tags`` reads may be outstanding.
    """

    bandwidth: float
    latency_s: float = 1.0e-6
    payload: int = 256
    header: int = 26
    tags: int = 768
    start_s: float = 8e-6
    host_copy_bandwidth: float = 12e9

    @property
    def payload_rate(self) -> float:
        """Bytes per second of DMA after TLP headers."""
        return self.bandwidth * self.payload / (self.payload + self.header)


def pinned_seconds(size: float, link: HostLink) -> float:
    """Seconds of a DMA copy between pinned host memory and the GPU."""
    _positive(size)
    return link.start_s + size / link.payload_rate if size else 0.0


def pageable_seconds(size: float, link: HostLink, chunk: float = 4 << 20) -> float:
    """Seconds of a copy from or to pageable memory, staged through pinned chunks."""
    _positive(size)
    if not size:
        return 0.0
    slower = min(link.payload_rate, link.host_copy_bandwidth)
    faster = max(link.payload_rate, link.host_copy_bandwidth)
    return link.start_s + size / slower + min(size, chunk) / faster


def requests_of_row(row_bytes: int, offset: int, request: int) -> int:
    """PCIe requests of a warp that reads a contiguous row starting at ``offset`` bytes.

    >>> requests_of_row(512, 0, 128), requests_of_row(512, 32, 128), requests_of_row(512, 0, 32)
    (4, 5, 16)
    """
    if request not in (SECTOR, 2 * SECTOR, LINE):
        raise bad_input(f"found a request of {request} bytes; expected 32, 64 or 128")
    if row_bytes < 0 or offset < 0:
        raise bad_input("row size and offset are at least 0")
    if not row_bytes:
        return 0
    return (offset + row_bytes - 1) // request - offset // request + 1


def zero_copy_seconds(
    rows: int, row_bytes: int, link: HostLink, request: int = LINE, offset: int = 0
) -> float:
    """Seconds of kernels that gather rows from pinned host memory without a copy.

    The larger of the wire's time (payload and header per request) and outstanding reads over latency.
    """
    count = rows * requests_of_row(row_bytes, offset, request)
    wire = count * (request + link.header) / link.bandwidth
    reads = count / link.tags * link.latency_s
    return link.latency_s + max(wire, reads) if count else 0.0


def unified_seconds(
    touched: float,
    link: HostLink,
    page: int = 4096,
    prefetch: int = 65536,
    batch: int = 256,
    fault_s: float = 25e-6,
) -> float:
    """Seconds until ``touched`` bytes of unified memory have migrated on first touch.

    Faults come in batches of ``batch``; each batch costs ``fault_s`` on the host and brings ``prefetch`` bytes
    per fault (at least a page).
    """
    _positive(touched)
    if page < 1 or batch < 1:
        raise bad_input("page size and batch are at least 1")
    brought = max(page, prefetch)
    faults = -(-touched // brought)
    batches = -(-faults // batch)
    return batches * fault_s + faults * brought / link.payload_rate if touched else 0.0


def _positive(size: float) -> None:
    if size < 0:
        raise bad_input(f"found {size} bytes; expected at least 0")
