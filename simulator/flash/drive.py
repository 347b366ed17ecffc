"""What the drive engine runs: one drive in whole nanoseconds, bytes and counts, from whatever described it.

A device file and a row of a reference set both end here, so that they cannot be read differently. Times of
single steps are rounded up to a nanosecond where they are made; nothing else is rounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.flash import PAGE_TYPES, FlashEnergy
from hw_configs.problems import InputError, Problem, bad_input

__all__ = ["GC_POLICIES", "BusCommands", "Drive", "HostPort", "drive_of", "page_types", "smaller"]

GcPolicy = Literal["greedy", "d-choices", "random", "random-full", "random-invalid", "fifo"]
GC_POLICIES: Final = ("greedy", "d-choices", "random", "random-full", "random-invalid", "fifo")

_LANE_BYTES_PER_NS: Final = {1: 0.25, 2: 0.5, 3: 0.984615, 4: 1.969231, 5: 3.938462, 6: 7.5625}
"""Raw bytes per nanosecond and lane after line coding, by PCIe generation (PCI Express base specification)."""
_PCIE: Final = re.compile(r"PCIe ([1-6])(?:\.0)? x([0-9]{1,3})")


@dataclass(frozen=True, slots=True)
class BusCommands:
    """Bus time of a command without data, in ns, for 1, 2, ... planes.

    Defaults: ONFI NV-DDR2 command and address cycles with tCS 20, tWC 25, tWB 100, tRR 20, tDBSY 500, tADL 70,
    tCALS 15, tWPST 6 and tWPSTH 15 ns; each further plane adds its cycles and tDBSY.
    """

    read: tuple[int, int] = (290, 650)
    """For one plane, and for each further one."""
    program: tuple[int, int] = (361, 816)
    erase: tuple[int, int] = (220, 700)
    ready_delay_read: int = 20
    """From the end of an array read to the controller's notice of it."""

    def table(self, planes: int) -> npt.NDArray[np.int64]:
        """Rows read, program, erase; column n is the time for n planes (column 0 unused)."""
        n = np.arange(planes + 1)
        rows = [first + further * (n - 1) for first, further in (self.read, self.program, self.erase)]
        return np.maximum(np.array(rows, np.int64), 0)


@dataclass(frozen=True, slots=True)
class HostPort:
    """NVMe queues and the wire: two directions, each first come, first served, in packets."""

    bytes_per_ns: float = 4.0
    """Raw rate of one direction."""
    lanes: int = 1
    """A message is padded to whole bytes per lane."""
    payload: int = 128
    overhead: int = 28
    submission_entry: int = 72
    completion_entry: int = 16
    queue_pairs: int = 1
    queue_entries: int = 1024
    fetch_size: int = 512
    read_overhead_ns: int = 0
    write_overhead_ns: int = 0
    command_ns: int = 0

    def time_ns(self, payload_bytes: int, packets: int | None = None) -> int:
        """Time of a message on the wire."""
        count = -(-payload_bytes // self.payload) if packets is None else packets
        raw = payload_bytes + count * self.overhead
        return int(np.ceil(-(-raw // self.lanes) * self.lanes / self.bytes_per_ns - 1e-9))


@dataclass(frozen=True, slots=True)
class Drive:
    """One drive. Times in ns, sizes in bytes. ``read_ns`` and ``program_ns`` hold a time per page type (LSB
    first); ``bus_ns_per_byte`` is exact. ``logical_pages`` is what the host sees.
    """

    channels: int
    chips_per_channel: int
    dies_per_chip: int
    planes_per_die: int
    blocks_per_plane: int
    pages_per_block: int
    page_bytes: int
    logical_pages: int
    read_ns: tuple[int, ...]
    program_ns: tuple[int, ...]
    erase_ns: int
    bus_ns_per_byte: Fraction
    commands: BusCommands = field(default_factory=BusCommands)
    host: HostPort = field(default_factory=HostPort)
    placement: str = "CWDP"
    die_interleaving: bool = False
    multi_plane: bool = True
    cache_commands: bool = False
    suspend_program: bool = False
    suspend_erase: bool = False
    suspend_ns: int = 0
    resume_ns: int = 0
    suspends_per_operation: int = 8
    mapping_cache_pages: int = 0
    """Translation pages held in DRAM; 0: all, without traffic."""
    write_buffer_pages: int = 0
    write_buffer_protected: bool = False
    gc_policy: GcPolicy = "greedy"
    gc_choices: int = 0
    gc_threshold_blocks: int = 10
    gc_reserve_blocks: int = 2
    gc_preemptible: bool = False
    gc_hard_blocks: int = 1
    wear_levelling_gap: int = 100
    translation_frontier: bool = False
    """Each plane keeps one block open for translation pages, whether any are written or not."""
    retry_probability: float = 0.0
    retry_probability_worn: float = 0.0
    retries: int = 1
    rated_cycles: int = 3000
    energy: FlashEnergy | None = None
    energy_per_byte_read: float = 0.0
    energy_per_byte_written: float = 0.0
    name: str = "drive"

    @property
    def chips(self) -> int:
        """Chips of all channels."""
        return self.channels * self.chips_per_channel

    @property
    def dies(self) -> int:
        """Dies of all chips."""
        return self.chips * self.dies_per_chip

    @property
    def planes(self) -> int:
        """Planes of all dies."""
        return self.dies * self.planes_per_die

    @property
    def pages_per_plane(self) -> int:
        """Physical pages of a plane."""
        return self.blocks_per_plane * self.pages_per_block

    @property
    def physical_pages(self) -> int:
        """Pages of all planes."""
        return self.planes * self.pages_per_plane

    @property
    def capacity_bytes(self) -> int:
        """What the host sees."""
        return self.logical_pages * self.page_bytes

    def __post_init__(self) -> None:
        problems = [Problem(message, path=path) for path, message in self._faults()]
        if problems:
            raise InputError(problems)

    def _faults(self) -> list[tuple[str, str]]:
        faults = []
        for name in ("channels", "chips_per_channel", "dies_per_chip", "planes_per_die", "page_bytes"):
            if getattr(self, name) < 1:
                faults.append((name, f"found {getattr(self, name)}; expected 1 or more"))
        if self.planes_per_die > 16:
            faults.append(("planes_per_die", f"found {self.planes_per_die}; expected at most 16"))
        if sorted(self.placement) != list("CDPW"):
            faults.append(("placement", f"found {self.placement!r}; expected each of C, W, D and P once"))
        if self.gc_policy not in GC_POLICIES:
            faults.append(("gc_policy", f"found {self.gc_policy!r}; known: {', '.join(GC_POLICIES)}"))
        if self.physical_pages >= 2**31:
            faults.append(("blocks_per_plane", f"{self.physical_pages} pages; at most 2^31 - 1 are handled"))
        if not faults and self.most_logical_pages < max(self.logical_pages, 1):
            faults.append(
                ("logical_pages", f"{self.logical_pages} pages leave collection no room; at most "
                 f"{self.most_logical_pages} of {self.physical_pages} can be used")
            )  # fmt: skip
        return faults

    @property
    def most_logical_pages(self) -> int:
        """Pages that a drive of this geometry can serve: each plane keeps three blocks for collection."""
        per_plane = (self.blocks_per_plane - 3) * self.pages_per_block
        # The map's own pages, where they lie in flash, take room too.
        own = -(-per_plane * 8 // self.page_bytes) + 1 if self.mapping_cache_pages else 0
        return max(per_plane - own, 0) * self.planes

    def transfer_ns(self, size: int) -> int:
        """Bus time of data."""
        f = self.bus_ns_per_byte
        return -(-size * f.numerator // f.denominator)


def page_types(pages_per_block: int, bits: int) -> npt.NDArray[np.int64]:
    """Type of each page of a block: 0 LSB, 1 CSB, ... up to ``bits`` - 1 (MSB).

    MLC takes turns. In TLC and QLC the first pages of a block are LSB pages, written before the word lines'
    other bits; then the types take turns: the order of the reference simulator (MQSim), which for QLC is
    continued in the same way (assumption).
    """
    page = np.arange(pages_per_block)
    if bits <= 2:
        return (page % bits).astype(np.int64)
    lead = 2 * bits
    turn = (page - lead - (bits - 1)) // (bits - 1) % bits
    types = np.where(page < lead, 0, np.where(page < lead + bits - 1, 1, turn))
    return types.astype(np.int64)


def drive_of(device: Flash | ComputationalStorage) -> Drive:
    """The drive of a device file. Raises ``InputError`` when the file says nothing of its inside."""
    store = device.store
    geometry, timing = store.geometry, store.timing
    if geometry is None or timing is None:
        raise bad_input(
            f"{device.name!r} states no geometry and timing; the drive engine needs both", path="store"
        )
    c, h = store.controller, store.host
    page = int(geometry.page_size)
    logical = int(store.capacity) // page
    bits = PAGE_TYPES[geometry.cell]
    interface = _PCIE.fullmatch(device.interface)
    if h.bandwidth is not None:
        raw, lanes = h.bandwidth / 1e9, 1
    elif interface is not None:
        lanes = int(interface[2])
        raw = _LANE_BYTES_PER_NS[int(interface[1])] * lanes
    else:
        share = h.packet_payload / (h.packet_payload + h.packet_overhead)
        raw, lanes = max(store.read_bandwidth, store.write_bandwidth) / share / 1e9, 1
    port = HostPort(
        raw, lanes, h.packet_payload, h.packet_overhead, h.submission_entry, h.completion_entry,
        h.queue_pairs, h.queue_entries, h.fetch_size, _ns(h.read_overhead), _ns(h.write_overhead),
        _ns(h.command_time),
    )  # fmt: skip
    translation = 0
    if c.mapping_cache is not None:
        every = -(-logical * 8 // page)
        translation = min(max(int(c.mapping_cache // page), 1), every)
        translation = 0 if translation == every else translation
    worn = c.retry_probability if c.retry_probability_worn is None else c.retry_probability_worn
    blocks = geometry.blocks_per_plane
    return Drive(
        channels=geometry.channels,
        chips_per_channel=geometry.dies_per_channel // geometry.dies_per_chip,
        dies_per_chip=geometry.dies_per_chip,
        planes_per_die=geometry.planes_per_die,
        blocks_per_plane=blocks,
        pages_per_block=geometry.pages_per_block,
        page_bytes=page,
        logical_pages=logical,
        read_ns=tuple(_ns(t) for t in timing.read_by_page_type or [timing.read] * bits),
        program_ns=tuple(_ns(t) for t in timing.program_by_page_type or [timing.program] * bits),
        erase_ns=_ns(timing.erase),
        bus_ns_per_byte=Fraction(10**9, round(timing.channel_bandwidth)),
        host=port,
        placement=c.placement,
        die_interleaving=c.die_interleaving,
        multi_plane=c.multi_plane,
        cache_commands=c.cache_commands,
        suspend_program=c.suspend in ("program", "both"),
        suspend_erase=c.suspend in ("erase", "both"),
        suspend_ns=_ns(timing.suspend),
        resume_ns=_ns(timing.resume),
        suspends_per_operation=c.suspends_per_operation,
        mapping_cache_pages=translation,
        write_buffer_pages=int(c.write_buffer // page),
        write_buffer_protected=c.write_buffer_protected,
        gc_policy=c.gc_policy,
        gc_choices=c.gc_choices,
        gc_threshold_blocks=max(c.gc_reserve, int(c.gc_threshold * blocks), 2),
        gc_reserve_blocks=c.gc_reserve,
        gc_preemptible=c.gc_preemptible,
        gc_hard_blocks=max(1, int(c.gc_hard_threshold * blocks)),
        wear_levelling_gap=c.static_wear_levelling,
        retry_probability=c.retry_probability,
        retry_probability_worn=worn,
        retries=c.retries,
        rated_cycles=store.rated_cycles or 0,
        energy=store.energy,
        energy_per_byte_read=store.energy_per_byte_read,
        energy_per_byte_written=store.energy_per_byte_written,
        name=device.name,
    )


def smaller(drive: Drive, blocks_per_plane: int, pages_per_block: int | None = None) -> Drive:
    """The same drive with fewer blocks in a plane, as full as before beside what collection keeps for itself.

    Shorter blocks take as much less time to erase, so that an erase costs a page the same.
    """
    pages = pages_per_block or drive.pages_per_block
    share = blocks_per_plane / drive.blocks_per_plane
    threshold = max(int(drive.gc_threshold_blocks * share), drive.gc_reserve_blocks, 2)
    kept = drive.blocks_per_plane - drive.gc_threshold_blocks - 2
    full = min(drive.logical_pages / (kept * drive.pages_per_block * drive.planes), 1.0)
    slots = drive.mapping_cache_pages
    small = replace(
        drive,
        blocks_per_plane=blocks_per_plane,
        pages_per_block=pages,
        erase_ns=drive.erase_ns * pages // drive.pages_per_block,
        logical_pages=1,
        gc_threshold_blocks=threshold,
        gc_hard_blocks=max(int(drive.gc_hard_blocks * share), 1),
        mapping_cache_pages=max(int(slots * share), 2) if slots else 0,
    )
    logical = int(full * (blocks_per_plane - threshold - 2) * pages * drive.planes)
    return replace(small, logical_pages=max(min(logical, small.most_logical_pages), 1))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
