"""What a machine is made of: GPUs, CPUs, memories, storage, accelerators, NICs and switches.

Each device is one YAML file that can be read line by line beside its data sheet. The schema says what a file
may hold and refuses machines that physics or arithmetic rules out. Rates are dense peak rates; what a kernel
reaches of them is the cost model's business, never a figure in here.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hw_configs.config import (
    Area,
    Bandwidth,
    Config,
    Count,
    Energy,
    EnergyPerByte,
    EnergyPerOperation,
    Frequency,
    Latency,
    OperationRate,
    Power,
    Price,
    PriceRate,
    Size,
)
from hw_configs.dram import DramDevice
from hw_configs.units import format_quantity

__all__ = [
    "Accelerator",
    "ComputationalStorage",
    "Compute",
    "Cpu",
    "Device",
    "Flash",
    "Gpu",
    "Memory",
    "Nic",
    "Pim",
    "RateType",
    "Switch",
]

RateType = Literal[
    "fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int32", "int16", "int8", "int4", "mxfp4", "bool"
]


class Memory(Config):
    """The memory a device owns, as the system level sees it."""

    technology: str
    """Name of the technology: HBM2e, GDDR6X, LPDDR5, DDR4-3200, ..."""
    capacity: Size
    reserved: Annotated[float, Field(ge=0)] | Size = 0.0
    """Bytes a model cannot use: driver, runtime context, ECC."""
    bandwidth: Bandwidth
    latency: Latency = 0.0
    energy_per_byte: EnergyPerByte = 0.0
    bus_width: Count | None = None
    """Data pins of all channels; with ``pin_rate`` it bounds the bandwidth."""
    pin_rate: Bandwidth | None = None
    """Bits per second of one data pin."""

    @property
    def usable_bytes(self) -> int:
        """Capacity less what is reserved."""
        return int(self.capacity - self.reserved)

    @model_validator(mode="after")
    def _reserved_fits(self) -> Self:
        if self.reserved >= self.capacity:
            raise ValueError(
                f"reserved {format_quantity(self.reserved, 'size')} leaves nothing of the capacity of "
                f"{format_quantity(self.capacity, 'size')}"
            )
        return self


class Compute(Config):
    """Dense peak rates by element type: matrix units (tensor cores, MAC arrays) and vector units."""

    matrix: dict[RateType, OperationRate] = Field(default_factory=dict)
    vector: dict[RateType, OperationRate] = Field(default_factory=dict)
    energy_per_operation: dict[RateType, EnergyPerOperation] = Field(default_factory=dict)
    arithmetic_power: Power | None = None
    """Power above idle that arithmetic draws at a peak rate. It gives the energy per operation of every
    element type for which none is stated: this power divided by the type's best rate."""
    launch: Latency = 0.0
    """Time from one operator's end to the next one's start on an idle device: launch, drain, fill."""

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if not self.matrix and not self.vector:
            raise ValueError("a device that computes needs at least one rate under 'matrix' or 'vector'")
        if self.arithmetic_power is not None:
            rates = {dtype: max(self.matrix.get(dtype, 0.0), self.vector.get(dtype, 0.0))
                     for dtype in (*self.matrix, *self.vector)}
            derived = {dtype: self.arithmetic_power / rate for dtype, rate in rates.items()}
            object.__setattr__(self, "energy_per_operation", {**derived, **self.energy_per_operation})
        return self


class Envelope(Config):
    """Electrical power: idle, and the most the cooling allows (TDP)."""

    idle: Power
    tdp: Power

    @model_validator(mode="after")
    def _idle_below_tdp(self) -> Self:
        if self.idle >= self.tdp:
            raise ValueError(f"idle power {self.idle:g} W is not below the TDP of {self.tdp:g} W")
        return self


class DeviceBase(Config):
    """What every device file holds beside its own figures."""

    name: str
    description: str = ""
    source: str = ""
    """Where the figures come from, unless a figure names its own source."""
    power: Envelope | None = None
    price: Price | None = None
    price_rate: PriceRate | None = None
    area: Area | None = None


class Cache(Config):
    """An on-chip memory: its size, and its bandwidth where one was published."""

    size: Size
    bandwidth: Bandwidth | None = None


class Gpu(DeviceBase):
    """A GPU by its data sheet."""

    kind: Literal["gpu"]
    architecture: str
    multiprocessors: Count
    clock: Frequency
    """Boost clock, at which the peak rates are stated."""
    base_clock: Frequency | None = None
    compute: Compute
    l2: Cache
    l1_per_multiprocessor: Cache
    memory: Memory | None = None
    """None for a GPU that works in a memory of the system (unified memory)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.memory is not None and self.l2.size >= self.memory.capacity:
            raise ValueError("the L2 cache is as large as the memory behind it")
        _within_power(self.power, self.memory, self.compute)
        _matrix_not_below_vector(self.compute)
        return self


class Cpu(DeviceBase):
    """A CPU socket. Its memory is a device of its own in the system."""

    kind: Literal["cpu"]
    cores: Count
    clock: Frequency
    """Clock of all cores under vector load, at which the peak rates are stated."""
    base_clock: Frequency | None = None
    compute: Compute
    last_level_cache: Cache
    memory: Memory | None = None


class FlashGeometry(Config):
    """Channels, dies, planes, blocks and pages of a drive."""

    channels: Count
    dies_per_channel: Count
    planes_per_die: Count
    blocks_per_plane: Count
    pages_per_block: Count
    page_size: Size
    cell: Literal["SLC", "MLC", "TLC", "QLC"]


class FlashTiming(Config):
    """Array and bus times of the flash dies."""

    read: Latency
    program: Latency
    erase: Latency
    channel_bandwidth: Bandwidth


class FlashStore(Config):
    """A drive as the system level sees it; geometry and timing feed the event engine."""

    capacity: Size
    read_bandwidth: Bandwidth
    write_bandwidth: Bandwidth
    read_latency: Latency
    write_latency: Latency
    energy_per_byte_read: EnergyPerByte = 0.0
    energy_per_byte_written: EnergyPerByte = 0.0
    geometry: FlashGeometry | None = None
    timing: FlashTiming | None = None

    @model_validator(mode="after")
    def _array_can_feed_the_interface(self) -> Self:
        if self.geometry is not None and self.timing is not None:
            buses = self.geometry.channels * self.timing.channel_bandwidth
            if self.read_bandwidth > buses:
                raise ValueError(
                    f"read bandwidth {format_quantity(self.read_bandwidth, 'bandwidth')} is more than "
                    f"{self.geometry.channels} channels can carry ({format_quantity(buses, 'bandwidth')})"
                )
        return self


class Flash(DeviceBase):
    """An SSD or UFS drive."""

    kind: Literal["flash"]
    interface: str
    store: FlashStore


class ComputationalStorage(DeviceBase):
    """A drive with compute beside its flash: its own DRAM, units with stated rates, an internal path."""

    kind: Literal["csd"]
    interface: str
    store: FlashStore
    internal_bandwidth: Bandwidth
    """From flash to the drive's compute, which does not cross the host interface."""
    memory: Memory
    compute: Compute


class Pim(DeviceBase):
    """A memory that computes beside its banks; ``compute`` is the rate of all banks together."""

    kind: Literal["pim"]
    memory: Memory
    compute: Compute
    internal_bandwidth: Bandwidth
    """All banks together, which does not cross the pins."""
    activation_energy: Energy | None = None

    @model_validator(mode="after")
    def _inside_beats_pins(self) -> Self:
        if self.internal_bandwidth < self.memory.bandwidth:
            raise ValueError("the internal bandwidth is below the bandwidth of the pins")
        return self


class Accelerator(DeviceBase):
    """A MAC array with a software-managed scratchpad."""

    kind: Literal["accelerator"]
    clock: Frequency
    array_rows: Count
    array_columns: Count
    arrays: Count = 1
    """Arrays of that shape."""
    compute: Compute
    scratchpad: Cache
    memory: Memory | None = None

    @model_validator(mode="after")
    def _rate_fits_array(self) -> Self:
        peak = 2 * self.arrays * self.array_rows * self.array_columns * self.clock
        for dtype, rate in self.compute.matrix.items():
            if rate > peak * 1.001:
                raise ValueError(
                    f"matrix rate {dtype} {format_quantity(rate, 'operation_rate')} is more than an array of "
                    f"{self.array_rows} x {self.array_columns} can do at its clock "
                    f"({format_quantity(peak, 'operation_rate')})"
                )
        return self


class Nic(DeviceBase):
    """A network interface; its wire is a link of the system."""

    kind: Literal["nic"]
    bandwidth: Bandwidth
    latency: Latency


class Switch(DeviceBase):
    """A crossing of links without memory or compute (NVSwitch, PCIe switch, Ethernet switch)."""

    kind: Literal["switch"]
    latency: Latency = 0.0


Device = Annotated[
    Gpu | Cpu | DramDevice | Pim | Flash | ComputationalStorage | Accelerator | Nic | Switch,
    Field(discriminator="kind"),
]
"""Any device; the key ``kind`` says which."""


def _within_power(power: Envelope | None, memory: Memory | None, compute: Compute) -> None:
    if power is None:
        return
    if memory is not None and memory.energy_per_byte * memory.bandwidth > power.tdp:
        watts = memory.energy_per_byte * memory.bandwidth
        raise ValueError(f"moving bytes at full bandwidth would draw {watts:.0f} W, more than the TDP")
    for dtype, energy in compute.energy_per_operation.items():
        rate = max(compute.matrix.get(dtype, 0.0), compute.vector.get(dtype, 0.0))
        if energy * rate > 2 * power.tdp:
            raise ValueError(
                f"computing {dtype} at the peak rate draws {energy * rate:.0f} W, more than twice the TDP"
            )


def _matrix_not_below_vector(compute: Compute) -> None:
    for dtype, rate in compute.matrix.items():
        if rate < compute.vector.get(dtype, 0.0):
            raise ValueError(f"the matrix rate for {dtype} is below the vector rate")
