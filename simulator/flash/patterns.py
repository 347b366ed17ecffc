"""What a drive gives to an access pattern: the rate at which weights, KV pages or embeddings come and go.

The system level, the storage mappers and computational storage ask here. The answer is the closed form, or a
run of the drive engine on that pattern, long enough to have settled and kept by device and pattern. A drive
whose inside nobody published answers from its data sheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import bad_input, nearest
from simulator.flash.closed_form import closed_form
from simulator.flash.drive import Drive, drive_of, smaller
from workloads.block_trace.synthetic import BlockWorkload, synthetic_blocks

__all__ = ["DrivePattern", "DriveRate", "drive_rate", "endurance_bytes"]

_OPERATIONS: Final = ("read", "write")
_ORDERS: Final = ("sequential", "random")
_PATHS: Final = ("host", "internal")
_FIDELITIES: Final = ("closed", "event")


@dataclass(frozen=True, slots=True)
class DrivePattern:
    """How bytes of a drive are touched.

    ``chunk_bytes`` is one request, ``outstanding`` the requests in flight (queue depth times threads).
    ``random``: chunks at random aligned places; ``sequential``: one after another. ``path`` ``internal``:
    pages go to the drive's own compute and never cross the host interface.
    """

    operation: Literal["read", "write"] = "read"
    order: Literal["sequential", "random"] = "sequential"
    chunk_bytes: int = 131072
    outstanding: int = 32
    path: Literal["host", "internal"] = "host"

    def __post_init__(self) -> None:
        for name, known in (("operation", _OPERATIONS), ("order", _ORDERS), ("path", _PATHS)):
            found = getattr(self, name)
            if found not in known:
                raise bad_input(
                    f"found {found!r}; known: {', '.join(known)}", path=name, suggestion=nearest(found, known)
                )
        if self.chunk_bytes < 1 or not 1 <= self.outstanding <= 65536:
            raise bad_input("a pattern needs chunk_bytes >= 1 and outstanding from 1 to 65536")


@dataclass(frozen=True, slots=True)
class DriveRate:
    """What a pattern gets. ``latency_s`` is a request's mean under this load, ``idle_latency_s`` alone.

    ``source`` says where it comes from: ``engine``, ``closed form`` or ``data sheet``.
    """

    bandwidth_bytes_per_s: float
    iops: float
    latency_s: float
    idle_latency_s: float
    energy_per_byte_j: float
    bound_by: str
    source: Literal["engine", "closed form", "data sheet"]


def drive_rate(
    device: Flash | ComputationalStorage,
    pattern: DrivePattern | None = None,
    *,
    fidelity: Literal["closed", "event"] = "closed",
) -> DriveRate:
    """Bandwidth, IOPS, latency and energy per byte of a pattern on a drive.

    ``closed`` costs microseconds; ``event`` runs the engine once per device and pattern. Raises ``InputError``
    for an unknown fidelity.
    """
    if fidelity not in _FIDELITIES:
        raise bad_input(
            f"found {fidelity!r}; known: {', '.join(_FIDELITIES)}", suggestion=nearest(fidelity, _FIDELITIES)
        )
    wanted = pattern or DrivePattern()
    if device.store.geometry is None or device.store.timing is None:
        return _from_data_sheet(device, wanted)
    return _rate(type(device), device.model_dump_json(), wanted, fidelity)


@lru_cache(maxsize=1024)
def _rate(kind: Any, device_json: str, pattern: DrivePattern, fidelity: str) -> DriveRate:
    drive = drive_of(kind.model_validate_json(device_json))
    closed = _by_closed_form(drive, pattern)
    return closed if fidelity == "closed" else _by_engine(drive, pattern, closed)


SETTLED_PAGES: Final = 120_000
"""Pages that a measurement moves: many rounds over all planes of any device in the library."""
_BLOCKS, _PAGES = 64, 128
"""Blocks of a plane, and pages of a block where the drive is aged, of the drive that is measured; more of them
change little but the time to age it."""
_AGED: Final = 1.5
"""Random overwrites, in capacities, after which collection has settled."""


def _by_engine(drive: Drive, pattern: DrivePattern, closed: DriveRate) -> DriveRate:
    """A run of the pattern on the drive with fewer blocks; random writes meet an aged drive."""
    from simulator.flash.aging import History
    from simulator.flash.engine import RunOptions, simulate_drive

    aged = pattern.order == "random" and pattern.operation == "write"
    pages = min(drive.pages_per_block, _PAGES) if aged else drive.pages_per_block
    small = smaller(drive, min(drive.blocks_per_plane, _BLOCKS), pages)
    chunk = min(pattern.chunk_bytes, small.capacity_bytes)
    count = min(max(SETTLED_PAGES // -(-chunk // drive.page_bytes), 4 * pattern.outstanding), 40_000)
    rw = ("rand" if pattern.order == "random" else "") + pattern.operation
    job = BlockWorkload(name=rw, rw=rw, bs=float(chunk), number_ios=count)
    most = drive.host.queue_entries * drive.host.queue_pairs
    internal = pattern.path == "internal"
    options = RunOptions(
        outstanding=pattern.outstanding if internal else min(pattern.outstanding, most),
        history=History(overwrites=_AGED) if aged else None,
        internal=internal,
    )
    result = simulate_drive(small, synthetic_blocks(job, small.capacity_bytes), options)
    moved = result.bytes_read + result.bytes_written
    energy = sum(result.energy_j.values()) / moved if drive.energy is not None else closed.energy_per_byte_j
    scale = pattern.chunk_bytes / chunk
    return DriveRate(
        result.bandwidth_bytes_per_s, result.iops / scale, result.latency.mean_ns * 1e-9 * scale,
        closed.idle_latency_s, energy, closed.bound_by, "engine",
    )  # fmt: skip


def _by_closed_form(drive: Drive, pattern: DrivePattern) -> DriveRate:
    found = closed_form(
        drive, pattern.operation, pattern.order, pattern.chunk_bytes, pattern.outstanding,
        internal=pattern.path == "internal",
    )  # fmt: skip
    return DriveRate(
        found.requests_per_s * pattern.chunk_bytes, found.requests_per_s, found.latency_s,
        found.idle_latency_s, _energy_per_byte(drive, pattern), found.bound_by, "closed form",
    )  # fmt: skip


def _energy_per_byte(drive: Drive, pattern: DrivePattern) -> float:
    reading = pattern.operation == "read"
    if drive.energy is None:
        return drive.energy_per_byte_read if reading else drive.energy_per_byte_written
    pages = -(-pattern.chunk_bytes // drive.page_bytes) / pattern.chunk_bytes
    cells = drive.energy.read_page * pages
    if not reading:
        cells = (drive.energy.program_page + drive.energy.erase_block / drive.pages_per_block) * pages
    return cells + drive.energy.bus + (drive.energy.host if pattern.path == "host" else 0.0)


def _from_data_sheet(device: Flash | ComputationalStorage, pattern: DrivePattern) -> DriveRate:
    """Latency plus transfer, ``outstanding`` at a time, up to the stated bandwidth."""
    store, reading = device.store, pattern.operation == "read"
    most = store.read_bandwidth if reading else store.write_bandwidth
    if pattern.path == "internal" and isinstance(device, ComputationalStorage):
        most = device.internal_bandwidth
    idle = (store.read_latency if reading else store.write_latency) + pattern.chunk_bytes / most
    queued = pattern.outstanding * pattern.chunk_bytes / idle
    bandwidth = min(most, queued)
    bound_by = "queue depth" if queued < most else "data sheet bandwidth"
    latency = pattern.outstanding * pattern.chunk_bytes / bandwidth
    energy = store.energy_per_byte_read if reading else store.energy_per_byte_written
    return DriveRate(
        bandwidth, bandwidth / pattern.chunk_bytes, latency, idle, energy, bound_by, "data sheet"
    )


def endurance_bytes(device: Flash | ComputationalStorage, write_amplification: float = 1.0) -> float:
    """Bytes that the host can write before the rated erases are used up, leaving wear evenly spread.

    Capacity x rated cycles / write amplification; divide by the bytes written per token for tokens until
    wear-out. Raises ``InputError`` for a drive whose cell type and rating are not stated.
    """
    cycles = device.store.rated_cycles
    if cycles is None:
        raise bad_input(f"{device.name!r} states neither rated cycles nor its cell type", path="store")
    if not write_amplification >= 1:
        raise bad_input(f"found write amplification {write_amplification:g}; expected 1 or more")
    return device.store.capacity * cycles / write_amplification
