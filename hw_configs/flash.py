"""The inside of a flash drive: geometry, times, controller, host interface, energy and endurance.

One description serves every level of detail. The drive engine reads all of it; the system level asks for
bandwidths and latencies by access pattern, which the engine works out. What a maker does not publish is
marked an assumption in the device files.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from hw_configs import possible
from hw_configs.config import (
    Bandwidth,
    Config,
    Count,
    Energy,
    EnergyPerByte,
    Latency,
    Ports,
    Size,
    SizeOrZero,
    refuse,
)

__all__ = [
    "PAGE_TYPES",
    "RATED_CYCLES",
    "FlashController",
    "FlashEndurance",
    "FlashEnergy",
    "FlashGeometry",
    "FlashHost",
    "FlashStore",
    "FlashTiming",
]

Cell = Literal["SLC", "MLC", "TLC", "QLC"]
Share = Annotated[float, Field(ge=0, le=1)]

PAGE_TYPES: Final[dict[str, int]] = {"SLC": 1, "MLC": 2, "TLC": 3, "QLC": 4}
"""Pages that share one row of cells: bits per cell."""

RATED_CYCLES: Final[dict[str, int]] = {"SLC": 60_000, "MLC": 6_000, "TLC": 3_000, "QLC": 1_000}
"""Erases that a block is rated for where a file does not say. TLC: InstInfer (arXiv:2409.04992v1); others:
assumption, the middle of what makers' brochures give."""


class FlashGeometry(Config):
    """Channels, dies, planes, blocks and pages of a drive."""

    channels: Annotated[int, Field(gt=0, le=256)]
    dies_per_channel: Annotated[int, Field(gt=0, le=256)]
    planes_per_die: Annotated[int, Field(gt=0, le=16)]
    blocks_per_plane: Annotated[int, Field(gt=3, le=2**24)]
    pages_per_block: Annotated[int, Field(gt=1, le=2**16)]
    page_size: Size
    cell: Cell
    dies_per_chip: Count = 1
    """Dies behind one chip-enable; only a controller without die interleaving tells them apart."""

    @property
    def dies(self) -> int:
        """Dies of all channels."""
        return self.channels * self.dies_per_channel

    @property
    def planes(self) -> int:
        """Planes of all dies."""
        return self.dies * self.planes_per_die

    @property
    def capacity(self) -> float:
        """Bytes of all pages, spare blocks included."""
        return self.planes * self.blocks_per_plane * self.pages_per_block * self.page_size

    @model_validator(mode="after")
    def _whole_chips(self) -> Self:
        if self.dies_per_channel % self.dies_per_chip:
            words = f"{self.dies_per_channel} dies of a channel are no whole number of chips"
            refuse((("dies_per_chip",), f"{words} of {self.dies_per_chip}"))
        return self


class FlashTiming(Config):
    """Array and bus times of the flash dies."""

    read: Latency
    """Array read, the mean over page types."""
    program: Latency
    """Array program, the mean over page types."""
    erase: Latency
    channel_bandwidth: Bandwidth
    read_by_page_type: list[Latency] | None = None
    """One time per page type (LSB first), instead of the mean for all."""
    program_by_page_type: list[Latency] | None = None
    """One time per page type (LSB first), instead of the mean for all."""
    suspend: Latency = 20e-6
    """From the command that suspends a program or an erase to the die's readiness. Assumption: 20 us."""
    resume: Latency = 10e-6
    """What a resumed program or erase takes in addition. Assumption: 10 us."""


class FlashHost(Config):
    """NVMe queues and the wire to the host."""

    bandwidth: Bandwidth | None = None
    """Raw bytes per second and direction, packets' overhead included; from the PCIe interface if not given."""
    packet_payload: Annotated[int, Field(ge=16, le=4096)] = 256
    """Bytes."""
    packet_overhead: Annotated[int, Field(ge=0, le=256)] = 28
    """Bytes of header and framing per packet; 20 + 6 + 2 on PCIe."""
    submission_entry: Annotated[int, Field(gt=0, le=4096)] = 64
    """Bytes that cross the wire for a submission queue entry (NVMe: 64)."""
    completion_entry: Annotated[int, Field(gt=0, le=4096)] = 16
    """Bytes of a completion queue entry (NVMe: 16)."""
    queue_pairs: Annotated[int, Field(gt=0, le=64)] = 1
    queue_entries: Annotated[int, Field(gt=1, le=65536)] = 1024
    fetch_size: Annotated[int, Field(gt=0, le=65536)] = 512
    """Requests of one queue pair that the drive holds at a time."""
    read_overhead: Latency = 0.0
    """Firmware and host path per read, pure delay."""
    write_overhead: Latency = 0.0
    """Firmware and host path per write, pure delay."""
    command_time: Latency = 0.0
    """Time of the drive's firmware per command, one command after another; bounds IOPS."""


class FlashController(Config):
    """What the firmware and the flash controller do."""

    placement: Annotated[str, Field(pattern="^[CWDP]{4}$")] = "CWDP"
    """Order of channel, way (chip), die and plane in which neighbouring pages are dealt, fastest first."""
    die_interleaving: bool = True
    """Commands to several dies of a chip at once; off to compare with simulators that have none."""
    multi_plane: bool = True
    cache_commands: bool = False
    """Cache read and cache program: the array works while the register is emptied or filled."""
    suspend: Literal["none", "program", "erase", "both"] = "none"
    """Which array operations a waiting read may suspend."""
    suspends_per_operation: Annotated[int, Field(ge=1, le=1000)] = 8
    mapping_cache: SizeOrZero | None = None
    """Bytes of DRAM for the mapping table; none given: all of it is held."""
    write_buffer: SizeOrZero = 0.0
    """Bytes of DRAM in which writes end before they reach flash."""
    write_buffer_protected: bool = False
    """Whether capacitors save the write buffer when power fails."""
    gc_policy: Literal["greedy", "d-choices", "random", "random-full", "fifo"] = "greedy"
    """Victim: fewest valid pages; the best of ``gc_choices`` random ones; any; any that is full; the oldest."""
    gc_choices: Annotated[int, Field(ge=0, le=4096)] = 0
    """Blocks that d-choices looks at; 0: the logarithm of the blocks of a plane."""
    gc_threshold: Share = 0.05
    """Share of a plane's blocks; with fewer free ones collection starts."""
    gc_reserve: Annotated[int, Field(ge=1, le=1024)] = 2
    """Free blocks of a plane below which host writes wait for collection; as many collections may run."""
    gc_preemptible: bool = False
    """Whether host commands go before those of collection while free blocks are above ``gc_hard_threshold``."""
    gc_hard_threshold: Share = 0.005
    static_wear_levelling: Annotated[int, Field(ge=0, le=10**6)] = 100
    """Difference of erase counts in a plane at which its coldest block is moved; 0: never."""
    retry_probability: Share = 0.0
    """Share of page reads on a fresh block that need a retry."""
    retry_probability_worn: Share | None = None
    """The same at the end of the rated cycles; between them it rises in a straight line."""
    retries: Annotated[int, Field(ge=1, le=64)] = 1
    """Further array reads of one that needs a retry."""

    @model_validator(mode="after")
    def _every_letter(self) -> Self:
        if sorted(self.placement) != list("CDPW"):
            refuse((("placement",), f"found {self.placement!r}; expected each of C, W, D and P once"))
        return self


class FlashEnergy(Config):
    """Energies of flash operations, from which the engine adds up a run."""

    read_page: Energy = 0.0
    program_page: Energy = 0.0
    erase_block: Energy = 0.0
    bus: EnergyPerByte = 0.0
    """Channel bus between die and controller."""
    host: EnergyPerByte = 0.0
    """Wire to the host and controller."""


class FlashEndurance(Config):
    """How long the cells last."""

    cycles: Count
    """Erases that each block is rated for."""


class FlashStore(Config):
    """A drive as the system level sees it; geometry and timing feed the drive engine."""

    capacity: Size
    read_bandwidth: Bandwidth
    write_bandwidth: Bandwidth
    ports: Ports = 2
    """2: reads and writes run beside each other, as behind a full-duplex interface; 1: they share its time."""
    read_latency: Latency
    write_latency: Latency
    energy_per_byte_read: EnergyPerByte = 0.0
    energy_per_byte_written: EnergyPerByte = 0.0
    geometry: FlashGeometry | None = None
    timing: FlashTiming | None = None
    controller: FlashController = Field(default_factory=FlashController)
    host: FlashHost = Field(default_factory=FlashHost)
    energy: FlashEnergy | None = None
    """Per operation; without it the engine books the energies per byte."""
    endurance: FlashEndurance | None = None

    @property
    def rated_cycles(self) -> int | None:
        """Erases that each block is rated for: stated, or usual for the cell; None without a geometry."""
        if self.endurance is not None:
            return self.endurance.cycles
        return RATED_CYCLES[self.geometry.cell] if self.geometry is not None else None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse(
            *possible.drive(
                self.capacity, self.read_bandwidth, self.write_bandwidth, self.read_latency,
                self.geometry, self.timing,
            ),
            *self._page_type_faults(),
        )  # fmt: skip
        return self

    def _page_type_faults(self) -> list[tuple[tuple[str, ...], str]]:
        if self.geometry is None or self.timing is None:
            return []
        wanted = PAGE_TYPES[self.geometry.cell]
        return [
            (("timing", name), f"found {len(times)} times; {self.geometry.cell} has {wanted} page types")
            for name in ("read_by_page_type", "program_by_page_type")
            if (times := getattr(self.timing, name)) is not None and len(times) != wanted
        ]
