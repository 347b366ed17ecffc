"""What a machine is made of: GPUs, CPUs, memories, storage, accelerators, NICs and switches.

Each device is one YAML file that can be read line by line beside its data sheet. The schema says what a file
may hold and refuses machines that physics or arithmetic rules out. Rates are dense peak rates; what a kernel
reaches of them is the cost model's business, never a figure in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from hw_configs import possible
from hw_configs.arithmetic import Nanometres
from hw_configs.cache import CacheLevel
from hw_configs.config import (
    Area,
    Bandwidth,
    Config,
    Count,
    Efficiency,
    Energy,
    EnergyPerByte,
    EnergyPerOperation,
    Fault,
    Frequency,
    Latency,
    OperationRate,
    Ports,
    Power,
    Price,
    PriceRate,
    RateType,
    Size,
    SizeOrZero,
    refuse,
)
from hw_configs.cpu_cache import CpuCache
from hw_configs.csd import AttentionEngine
from hw_configs.dram import DramDevice
from hw_configs.flash import FlashStore
from hw_configs.gpu_architecture import ArchitectureReference
from hw_configs.many_threads import ManyThreads
from hw_configs.pim import PimDetail, compute_figures, memory_figures
from hw_configs.problems import bad_input
from hw_configs.processor import Dies, InstructionSet, Placement
from hw_configs.scratchpad import OperandBuffer, Scratchpad
from hw_configs.spatial import MemoryLevel, WordBits, ZeroSaving, level_faults, spatial_compute
from hw_configs.units import format_quantity
from hw_configs.vector_unit import VectorUnit
from hw_configs.window_pipeline import WindowPipeline

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
    "ObjectCache",
    "Pim",
    "RateType",
    "Scratchpad",
    "SpatialAccelerator",
    "Switch",
    "dma_engines",
    "made_accelerator",
]


class Memory(Config):
    """The memory a device owns, as the system level sees it."""

    technology: str
    """Name of the technology: HBM2e, GDDR6X, LPDDR5, DDR4-3200, ..."""
    capacity: Size
    reserved: SizeOrZero = 0.0
    """Bytes a model cannot use: driver, runtime context, ECC."""
    bandwidth: Bandwidth
    latency: Latency = 0.0
    energy_per_byte: EnergyPerByte = 0.0
    bus_width: Count | None = None
    """Data pins of all channels; with ``pin_rate`` it bounds the bandwidth."""
    pin_rate: Bandwidth | None = None
    """Bits per second of one data pin."""
    ports: Ports = 1
    """1: reads and writes share the data pins, as on every DRAM bus; 2: each direction has its own bandwidth."""

    @property
    def usable_bytes(self) -> int:
        """Capacity less what is reserved."""
        return int(self.capacity - self.reserved)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        reserved, capacity = (format_quantity(x, "size") for x in (self.reserved, self.capacity))
        refuse(
            (("reserved",), f"{reserved} leaves nothing of the capacity of {capacity}")
            if self.reserved >= self.capacity
            else None,
            *possible.memory_pins(self.bandwidth, self.latency, self.bus_width, self.pin_rate),
        )
        return self


class Compute(Config):
    """Dense peak rates by element type: matrix units (tensor cores, MAC arrays) and vector units."""

    matrix: dict[RateType, OperationRate] = Field(default_factory=dict)
    vector: dict[RateType, OperationRate] = Field(default_factory=dict)
    relative_rates: dict[RateType, Efficiency] = Field(default_factory=dict)
    """Vector rates as shares of fp32's, for types that have no rate of their own above (a GPU: those of its
    architecture)."""
    energy_per_operation: dict[RateType, EnergyPerOperation] = Field(default_factory=dict)
    arithmetic_power: Power | None = None
    """Power above idle that arithmetic draws at a peak rate. It gives the energy per operation of every
    element type for which none is stated: this power divided by the type's best rate, or by the rate that
    fp32 has for its width where that is more."""
    launch: Latency = 0.0
    """Time from one operator's end to the next one's start on an idle device: launch, drain, fill."""

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if not self.matrix and not self.vector:
            raise ValueError("a device that computes needs at least one rate under 'matrix' or 'vector'")
        if self.arithmetic_power is not None:
            best = {
                dtype: max(self.matrix.get(dtype, 0.0), self.vector.get(dtype, 0.0))
                for dtype in (*self.matrix, *self.vector)
            }
            # Units of a wide type that are few (fp64 on a graphics chip) cannot draw the power of all lanes.
            lanes = {dtype: best.get("fp32", 0.0) * min(32 / possible.BITS[dtype], 1) for dtype in best}
            derived = {dtype: self.arithmetic_power / max(best[dtype], lanes[dtype]) for dtype in best}
            object.__setattr__(self, "energy_per_operation", {**derived, **self.energy_per_operation})
        return self


class Envelope(Config):
    """Electrical power: idle, and the most the cooling allows (TDP)."""

    idle: Power
    tdp: Power

    @model_validator(mode="after")
    def _idle_below_tdp(self) -> Self:
        if self.idle >= self.tdp:
            refuse((("idle",), f"idle power {self.idle:g} W is not below the TDP of {self.tdp:g} W"))
        return self


class DeviceBase(Config):
    """What every device file holds beside its own figures."""

    name: str
    description: str = ""
    source: str = ""
    """Where the figures come from, unless a figure names its own source."""
    aliases: tuple[str, ...] = ()
    """Other names under which it is found; capitals, punctuation and the maker's name make no difference."""
    power: Envelope | None = None
    price: Price | None = None
    """List price of a board, with a source or assumption and the date at which it held."""
    price_rate: PriceRate | None = None
    """Rent of a board, with a source or assumption and the date at which it held."""
    area: Area | None = None


class Cache(Config):
    """An on-chip memory: its size, and its bandwidth where one was published."""

    size: Size
    bandwidth: Bandwidth | None = None


class Gpu(DeviceBase):
    """A GPU by its data sheet."""

    kind: Literal["gpu"]
    architecture: ArchitectureReference
    """An architecture's name, or that of a file; ``{use: NAME, ...}`` overrides figures of it."""
    multiprocessors: Count
    clock: Frequency
    """Boost clock, at which the peak rates are stated."""
    base_clock: Frequency | None = None
    compute: Compute
    l2: Cache
    l1_per_multiprocessor: Cache
    memory: Memory | None = None
    """None for a GPU that works in a memory of the system (unified memory)."""
    usual_system: str | None = None
    """The system in which the board usually stands, for measurements that name no more than the board."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse(
            *_cache_before_memory("l2", self.l2, self.memory),
            *possible.clock_order(self.clock, self.base_clock),
            *possible.rates(
                *_tables(self.compute), self.multiprocessors, self.clock, "multiprocessors",
                self._operations_per_clock(),
            ),
            *_within_power(self),
        )  # fmt: skip
        return self

    def _operations_per_clock(self) -> tuple[int, int]:
        """Most operations of a multiprocessor: 16-bit on matrix units, 32-bit on vector lanes."""
        matrix, vector = (
            self.architecture.matrix_operations_per_clock,
            self.architecture.vector_operations_per_clock,
        )
        any_matrix, any_vector = possible.ANY_GPU
        return any_matrix if matrix is None else matrix, any_vector if vector is None else vector

    @model_validator(mode="after")
    def _with_relative_rates(self) -> Self:
        if "relative_rates" not in self.compute.model_fields_set and self.architecture.relative_rates:
            compute = self.compute.model_copy(update={"relative_rates": self.architecture.relative_rates})
            # It counts as not stated, so that it follows when the architecture is changed.
            object.__setattr__(compute, "__pydantic_fields_set__", set(self.compute.model_fields_set))
            object.__setattr__(self, "compute", compute)
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
    isa: InstructionSet = "avx2"
    """Widest vector and matrix instructions that kernels use."""
    threads: Count | None = None
    """That work on an operator; left out, one per core. More than cores add none."""
    core_bandwidth: Bandwidth | None = None
    """What one core sustains of a stream from DRAM (its misses in flight over the latency); left out, that of its
    instruction set's class."""
    dies: Dies | None = None
    """Chiplets with a path each; left out, cores reach the memory directly."""
    sockets: Annotated[int, Field(ge=1, le=16)] = 1
    """That the figures above are of, working as one; a system says so of a socket's file."""
    socket_link: Bandwidth | None = None
    """Between two sockets, each way, all links together."""
    placement: Placement = "interleaved"
    """Where the bytes lie that several sockets read."""

    @property
    def busy_cores(self) -> int:
        """Cores that work on an operator."""
        return min(self.threads or self.cores, self.cores)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse(
            *_cache_before_memory("last_level_cache", self.last_level_cache, self.memory),
            *possible.clock_order(self.clock, self.base_clock),
            (("cores",), f"{self.cores} cores do not divide into {self.sockets} sockets")
            if self.cores % self.sockets
            else None,
            (("sockets",), "several sockets need a 'socket_link'")
            if self.sockets > 1 and self.socket_link is None
            else None,
            *possible.rates(*_tables(self.compute), self.cores, self.clock, "cores", possible.ANY_CORE),
            *_within_power(self),
        )
        return self


class Flash(DeviceBase):
    """An SSD or UFS drive."""

    kind: Literal["flash"]
    interface: str
    """Host interface: "PCIe 4.0 x4", "UFS 4.0", ..."""
    store: FlashStore

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse(*_drive_interface(self.interface, self.store))
        return self


class ComputationalStorage(DeviceBase):
    """A drive with compute beside its flash: its own DRAM, units with stated rates, an internal path."""

    kind: Literal["csd"]
    interface: str
    store: FlashStore
    internal_bandwidth: Bandwidth
    """From flash to the drive's compute, which does not cross the host interface."""
    memory: Memory
    compute: Compute
    engine: AttentionEngine | None = None
    """Attention beside the flash; without one the drive's compute does all that a plan puts there."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        geometry, timing, path = self.store.geometry, self.store.timing, self.internal_bandwidth
        buses = geometry.channels * timing.channel_bandwidth if geometry and timing else path
        carried = format_quantity(buses, "bandwidth")
        refuse(
            *_drive_interface(self.interface, self.store),
            *_within_power(self),
            (("internal_bandwidth",), f"{format_quantity(path, 'bandwidth')} is more than the channels carry "
             f"({carried})") if path > buses * 1.02 else None,
        )  # fmt: skip
        return self


class Pim(PimDetail, DeviceBase):
    """A memory that computes beside its banks; what the system level asks for follows from the detail."""

    kind: Literal["pim"]
    memory: Memory = Field(default_factory=lambda data: Memory(**memory_figures(_detail(data))))
    compute: Compute = Field(default_factory=lambda data: Compute(**compute_figures(_detail(data))))
    """The rate of all banks together."""
    internal_bandwidth: Bandwidth = Field(default_factory=lambda data: _detail(data).internal_bytes_per_s)
    """All banks together, which does not cross the pins."""

    @model_validator(mode="wrap")
    @classmethod
    def _completed(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Names the memory after its device, and completes a memory or compute rate stated in part."""
        if not isinstance(data, dict) or not isinstance(data.get("dram"), dict):
            return handler(data)
        data = {**data, "dram": {"kind": "dram", "name": data.get("name"), **data["dram"]}}
        stated: dict[str, set[str]] = {}
        for name, figures in (("memory", memory_figures), ("compute", compute_figures)):
            if isinstance(data.get(name), dict):
                try:
                    data[name] = {**figures(_detail(data)), **(given := data[name])}
                except ValueError:
                    # What is wrong with the detail is said by its own validation.
                    break
                stated[name] = set(given)
        pim = handler(data)
        for name, keys in stated.items():
            # What was completed counts as not stated, so that it follows when a figure is changed.
            object.__setattr__(getattr(pim, name), "__pydantic_fields_set__", keys)
        return pim

    @model_validator(mode="after")
    def _system_possible(self) -> Self:
        inside, pins = (
            format_quantity(x, "bandwidth") for x in (self.internal_bandwidth, self.memory.bandwidth)
        )
        refuse(
            (("internal_bandwidth",), f"{inside} is below the bandwidth of the pins ({pins})")
            if self.internal_bandwidth < self.memory.bandwidth
            else None,
            *_within_power(self),
        )
        return self


def _detail(data: Mapping[str, Any]) -> PimDetail:
    return PimDetail.model_validate({name: data[name] for name in PimDetail.model_fields if name in data})


class Accelerator(DeviceBase):
    """A MAC array with a software-managed scratchpad."""

    kind: Literal["accelerator"]
    clock: Frequency
    array_rows: Count
    array_columns: Count
    arrays: Count = 1
    """Arrays of that shape."""
    dataflow: Literal["output", "weight", "input"] | None = None
    """What stays in the cells while the rest streams by. None: products run at the stated rates."""
    prefetch: bool = False
    """Whether the cells hold a second set of operands, filled while the first is used."""
    compute: Compute
    vector_unit: VectorUnit | None = None
    """Adders and multipliers that also work out functions; None: vector work runs at the stated rates."""
    scratchpad: Scratchpad
    operand_buffer: OperandBuffer | None = None
    """Rules by which the scratchpad keeps inputs and weights where no plan fills it; None: each tensor crosses once."""
    memory: Memory | None = None
    """Left out in a system whose group works in the scratchpad (``memory: scratchpad``)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        cells = self.arrays * self.array_rows * self.array_columns
        shape = f"{self.arrays} x {self.array_rows} x {self.array_columns}"
        refuse(
            *_cache_before_memory("scratchpad", self.scratchpad, self.memory),
            *possible.clock_order(self.clock, None),
            *possible.array_rates(_tables(self.compute)[0], cells, self.clock, shape),
            *_within_power(self),
        )
        return self


class Nic(DeviceBase):
    """A network interface; its wire is a link of the system."""

    kind: Literal["nic"]
    interface: str = ""
    """Host interface: "PCIe 5.0 x16"."""
    bandwidth: Bandwidth
    latency: Latency

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse(*possible.host_interface(self.interface, {"bandwidth": self.bandwidth}))
        return self


class Switch(DeviceBase):
    """A crossing of links without memory or compute (NVSwitch, PCIe switch, Ethernet switch)."""

    kind: Literal["switch"]
    latency: Latency = 0.0


class ObjectCache(DeviceBase):
    """A cache of whole objects (keys, files, experts, adapters, pages) in one or more levels."""

    kind: Literal["cache"]
    levels: dict[str, CacheLevel]
    """By name, from the nearest to the farthest; memory or an origin is behind the last."""
    grain: Size | None = None
    """Objects are cached in pieces of so many bytes; without it whole."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        grain = self.grain is not None and self.grain < 1
        refuse(
            (("levels",), "a cache has at least one level") if not self.levels else None,
            (("grain",), "is less than a byte") if grain else None,
        )
        return self


class SpatialAccelerator(DeviceBase):
    """An array of multiply-accumulate units under levels of memory, onto which loops are mapped."""

    kind: Literal["spatial"]
    clock: Frequency
    word_bits: WordBits
    mac_energy: Energy
    """Of one multiply-accumulate."""
    process: Nanometres | None = None
    """Of the chip, from 7 to 65 nm, as `16nm`; with it an area is estimated."""
    mac_type: Literal["int8", "int16", "int32", "fp16", "fp32"] | None = None
    """Of the units; left out, integers as wide as the inputs, rounded up."""
    zero_products: dict[Literal["I", "W"], ZeroSaving] | None = None
    """Inputs whose zeros spare a multiply-accumulate and its sum: ``gating`` the energy, ``skipping`` the time too."""
    levels: tuple[MemoryLevel, ...]
    """From the outermost inwards; the children of the last are the units."""
    compute: Compute = Field(default_factory=lambda data: Compute(**_spatial_rates(data)))
    """Rates of all units and of lanes beside them, for what is no loop nest; what is left out follows from the
    levels."""

    @model_validator(mode="wrap")
    @classmethod
    def _completed(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Completes rates stated in part."""
        if not isinstance(data, dict) or not isinstance(data.get("compute"), dict):
            return handler(data)
        derived = handler({key: value for key, value in data.items() if key != "compute"}).compute
        given = data["compute"]
        device = handler({**data, "compute": {**derived.model_dump(exclude_none=True), **given}})
        object.__setattr__(device.compute, "__pydantic_fields_set__", set(given))
        return device

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse(*level_faults(self.levels))
        return self

    @property
    def arithmetic(self) -> str:
        """The type of the units."""
        widest = max(self.word_bits.I, self.word_bits.W)
        return self.mac_type or ("int8" if widest <= 8 else "int16" if widest <= 16 else "int32")


def made_accelerator(data: dict[str, Any], file: str) -> SpatialAccelerator:
    """An accelerator from SI values that a reader of another format made; ``InputError`` for the first fault."""
    try:
        return SpatialAccelerator.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise bad_input(str(first["msg"]).removeprefix("Value error, "), file=file, path=path) from None


def _spatial_rates(data: Mapping[str, Any]) -> dict[str, Any]:
    types = {name: bits for name, bits in possible.BITS.items() if name in get_args(RateType)}
    return spatial_compute(data["levels"], data["clock"], data["word_bits"], data["mac_energy"], types)


def dma_engines(device: object) -> int:
    """Transfers into and out of a device's scratchpad at once; of a spatial device two (assumed), one each way."""
    if isinstance(device, SpatialAccelerator):
        return 2
    return device.scratchpad.dma_engines if isinstance(device, Accelerator) else 1


Device = Annotated[
    Gpu
    | Cpu
    | CpuCache
    | DramDevice
    | Pim
    | Flash
    | ComputationalStorage
    | Accelerator
    | Nic
    | Switch
    | ObjectCache
    | SpatialAccelerator
    | ManyThreads
    | WindowPipeline,
    Field(discriminator="kind"),
]
"""Any device; the key ``kind`` says which."""


def _tables(compute: Compute) -> tuple[dict[str, float], dict[str, float]]:
    return _by_name(compute.matrix), _by_name(compute.vector)


def _by_name(table: Mapping[RateType, float]) -> dict[str, float]:
    return {str(dtype): figure for dtype, figure in table.items()}


def _within_power(device: Gpu | Cpu | Pim | ComputationalStorage | Accelerator) -> Iterator[Fault]:
    power, memory = device.power, device.memory
    bandwidth, energy = (memory.bandwidth, memory.energy_per_byte) if memory is not None else (0.0, 0.0)
    tdp = power.tdp if power is not None else None
    matrix, vector = _tables(device.compute)
    yield from possible.thermal(
        tdp, matrix, vector, _by_name(device.compute.energy_per_operation), bandwidth, energy
    )
    arithmetic = device.compute.arithmetic_power
    if tdp is not None and arithmetic is not None and arithmetic > tdp:
        watts = f"{arithmetic:g} W above idle is more than the TDP of {tdp:g} W"
        yield (("compute", "arithmetic_power"), watts)


def _cache_before_memory(name: str, cache: Cache | Scratchpad, memory: Memory | None) -> Iterator[Fault]:
    if memory is None:
        return
    if cache.size >= memory.capacity:
        sizes = (format_quantity(x, "size") for x in (cache.size, memory.capacity))
        yield ((name, "size"), "{} is not below the {} of the memory behind it".format(*sizes))
    if cache.bandwidth is not None and cache.bandwidth < memory.bandwidth:
        rates = (format_quantity(x, "bandwidth") for x in (cache.bandwidth, memory.bandwidth))
        yield ((name, "bandwidth"), "{} is below the {} of the memory behind it".format(*rates))


def _drive_interface(interface: str, store: FlashStore) -> Iterator[Fault]:
    figures = {"store.read_bandwidth": store.read_bandwidth, "store.write_bandwidth": store.write_bandwidth}
    yield from possible.host_interface(interface, figures)
