"""Bandwidth and latency of a drive from its figures alone, without running anything.

Streams that touch every plane in turn run at the narrowest of dies, buses and wire; where requests meet by
chance, a closed network of queues (mean value analysis, Reiser and Lavenberg, J. ACM 27, 1980) says how often
they wait for each other. docs/flash.md states the error against the event engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.flash.drive import Drive

__all__ = ["ClosedForm", "closed_form"]

MOST_CUSTOMERS = 4096
"""Beyond so many pages in flight the bottleneck alone decides."""


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """Requests per second, latency of a request under this load and alone, and what limits the rate."""

    requests_per_s: float
    latency_s: float
    idle_latency_s: float
    bound_by: str


@dataclass(frozen=True, slots=True)
class _Station:
    """Equal servers that a page visits one of; ``ns`` is the service of one visit."""

    name: str
    ns: float
    servers: int


def closed_form(
    drive: Drive,
    operation: Literal["read", "write"],
    order: Literal["sequential", "random"],
    chunk_bytes: int,
    outstanding: int,
    *,
    internal: bool = False,
    write_amplification: float = 1.0,
) -> ClosedForm:
    """What requests of ``chunk_bytes``, ``outstanding`` at a time, get from a drive that holds all of them.

    ``internal``: data stay inside the drive (no wire, no NVMe). ``write_amplification``: programs per page
    written; the reads that collection adds are counted with them.
    """
    pages = -(-chunk_bytes // drive.page_bytes)
    size = min(chunk_bytes, drive.page_bytes)
    units = drive.dies if drive.die_interleaving else drive.chips
    together = _planes_together(drive, order, pages * outstanding, units)
    array, bus = _page_times(drive, operation, size, together, write_amplification)
    wire = 0.0 if internal else float(drive.host.time_ns(chunk_bytes)) / pages
    firmware = drive.host.command_ns / pages
    # A die is held while its page is on the bus, unless its register is emptied behind the next read.
    held = max(array, bus) if drive.cache_commands else array + bus
    stations = [
        _Station("dies", array, units),
        _Station("channels", bus, drive.channels),
        _Station("host link", wire, 1),
        _Station("firmware", firmware, 1),
    ]
    limits = {
        "dies": units / held,
        "channels": drive.channels / bus,
        **({"host link": 1 / wire} if wire else {}),
        **({"firmware": 1 / firmware} if firmware else {}),
    }
    bound_by = min(limits, key=lambda name: limits[name])
    on_one_unit = -(-pages // units)
    inside = array * together * -(-on_one_unit // max(round(together), 1)) + bus * -(-pages // drive.channels)
    alone = _idle_ns(drive, operation, chunk_bytes, internal, inside)
    pages_in_flight = pages * outstanding
    if order == "sequential":
        # Every unit gets its turn: nothing collides, and the first of two bounds holds.
        rate = min(limits[bound_by], pages_in_flight / alone)
    else:
        rate = min(limits[bound_by], _mean_value_rate(stations, pages_in_flight, alone / pages))
    if rate < limits[bound_by] * 0.95:
        bound_by = "queue depth"
    requests = rate / pages * 1e9
    return ClosedForm(requests, max(outstanding / requests, alone * 1e-9), alone * 1e-9, bound_by)


def _planes_together(drive: Drive, order: str, pages_in_flight: int, units: int) -> float:
    """Planes of a die that one command serves, on the mean."""
    if not drive.multi_plane or order == "random":
        return 1.0
    return float(min(max(pages_in_flight // units, 1), drive.planes_per_die))


def _page_times(
    drive: Drive, operation: str, size: int, together: float, amplification: float
) -> tuple[float, float]:
    """Array and bus time of one page, each command's shared by the planes that it serves; ns."""
    table = drive.commands.table(drive.planes_per_die)
    planes = round(together)
    read = sum(drive.read_ns) / len(drive.read_ns) + drive.commands.ready_delay_read
    bus_read = float(table[0][planes]) / planes
    if operation == "read":
        return read / planes, bus_read + drive.transfer_ns(size)
    program = sum(drive.program_ns) / len(drive.program_ns)
    bus = float(table[1][planes]) / planes + drive.transfer_ns(size)
    moved = amplification - 1
    page = drive.transfer_ns(drive.page_bytes)
    erases = amplification * (drive.erase_ns + float(table[2][1])) / drive.pages_per_block
    array = program / planes * amplification + read * moved + erases
    return array, bus + moved * (float(table[0][1] + table[1][1]) + 2 * page)


def _idle_ns(drive: Drive, operation: str, chunk: int, internal: bool, inside: float) -> float:
    """Latency of one request on an idle drive, of which its pages take ``inside`` ns."""
    if internal:
        return inside
    host = drive.host
    entry = host.time_ns(2, 1) + host.time_ns(4, 1) + host.time_ns(host.submission_entry, 1)
    entry += host.time_ns(host.completion_entry, 1) + host.command_ns
    overhead = host.read_overhead_ns if operation == "read" else host.write_overhead_ns
    if operation == "write":
        entry += host.time_ns(4, 1)
        if drive.write_buffer_pages:
            inside = 0.0
    return inside + host.time_ns(chunk) + entry + overhead


def _mean_value_rate(stations: list[_Station], customers: int, idle_ns: float) -> float:
    """Pages per ns of a closed network with so many pages in flight; the rest of a lone page's way delays."""
    delay = max(idle_ns - sum(s.ns for s in stations), 0.0)
    waiting = [0.0] * len(stations)
    rate = 0.0
    for count in range(1, min(customers, MOST_CUSTOMERS) + 1):
        response = [s.ns * (1 + q / s.servers) for s, q in zip(stations, waiting, strict=True)]
        rate = count / (sum(response) + delay)
        waiting = [rate * r for r in response]
    return rate
