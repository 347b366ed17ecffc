"""Which machines can't exist: rules across the figures of a device, each with its reason.

A rule returns what it refuses as faults (path of the field, and words), or nothing. Bounds are loose where
the industry moves and exact where arithmetic decides: what a tensor unit of a known architecture does per
clock, what pins carry at their rate, what lanes carry at their generation. A figure that breaks a rule is
nearly always a slipped unit or a rate "with sparsity".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol

from hw_configs.config import Fault
from hw_configs.link import Pcie
from hw_configs.units import format_quantity

__all__ = ["array_rates", "clock_order", "drive", "host_interface", "memory_pins", "rates", "thermal"]

_ROUNDING: Final = 1.02
"""Data sheets round: a stated figure may exceed the computed one by this factor."""

BITS: Final[dict[str, int]] = {
    "fp64": 64, "int64": 64, "fp32": 32, "tf32": 32, "int32": 32, "fp16": 16, "bf16": 16, "int16": 16,
    "fp8": 8, "int8": 8, "fp4": 4, "mxfp4": 4, "int4": 4, "bool": 1,
}  # fmt: skip
"""Width of an element in a register; tf32 is held as 32 bits."""

# For chips of an architecture that states none: four times what the widest known multiprocessor (or CPU core) does.
ANY_GPU: Final = (32768, 1024)
ANY_CORE: Final = (8192, 512)
"""Operations per unit and clock: 16-bit on a matrix unit, 32-bit on vector lanes."""


def rates(
    matrix: dict[str, float],
    vector: dict[str, float],
    units: int,
    clock: float,
    unit_name: str,
    bound: tuple[int, int],
) -> Iterator[Fault]:
    """Peak rates that units at a clock cannot reach, and matrix units slower than the vector lanes.

    ``bound`` is operations per unit and clock: 16-bit on a matrix unit, 32-bit on vector lanes. Narrower elements
    may pack, wider ones may not beat the bound of their width.
    """
    tensor, lanes = bound
    for part, table, most in (
        ("matrix", matrix, {dtype: tensor * 16 / bits for dtype, bits in BITS.items()}),
        ("vector", vector, {dtype: lanes * max(32 / bits, 1) for dtype, bits in BITS.items()}),
    ):
        for dtype, rate in table.items():
            # fp32 on a matrix unit may run as tf32 or split; 16-bit vector lanes may be four wide (GA100).
            packed = 2 if (part, BITS[dtype]) == ("vector", 16) else 1
            peak = most[dtype] * packed * units * clock
            if rate > peak * _ROUNDING:
                yield (
                    ("compute", part, dtype),
                    f"{_rate(rate)} is more than {units} {unit_name} can do at {_clock(clock)} "
                    f"({_rate(peak)}); is it a rate with sparsity?",
                )
    for dtype, rate in matrix.items():
        if rate < vector.get(dtype, 0.0):
            yield (
                ("compute", "matrix", dtype),
                f"the matrix rate {_rate(rate)} is below the vector rate {_rate(vector[dtype])}",
            )


def array_rates(matrix: dict[str, float], cells: int, clock: float, shape: str) -> Iterator[Fault]:
    """Rates that an array of multiply-accumulate cells cannot reach: two operations per cell and clock.

    A cell that holds 16-bit operands may take two of 8 bits instead, so only an array that states no 16-bit rate is
    held to one multiplication of narrow ones.
    """
    wide = any(BITS[dtype] == 16 for dtype in matrix)
    for dtype, rate in matrix.items():
        peak = 2 * cells * clock * (2 if wide and BITS[dtype] <= 8 else 1)
        if rate > peak * _ROUNDING:
            yield (
                ("compute", "matrix", dtype),
                f"{_rate(rate)} is more than an array of {shape} can do at {_clock(clock)} ({_rate(peak)})",
            )


def clock_order(clock: float, base: float | None) -> Iterator[Fault]:
    """Clocks no chip runs at, and a base clock above the boost clock."""
    if not 1e6 <= clock <= 10e9:
        yield (("clock",), f"no chip is clocked at {_clock(clock)}; expected 1 MHz to 10 GHz")
    if base is not None and base > clock:
        yield (("base_clock",), f"the base clock {_clock(base)} is above the clock {_clock(clock)}")


def memory_pins(
    bandwidth: float, latency: float, bus_width: int | None, pin_rate: float | None
) -> Iterator[Fault]:
    """A bandwidth that the pins do not carry, or a latency that is no memory's."""
    if bus_width is not None and pin_rate is not None:
        carried = bus_width * pin_rate
        if bandwidth > carried * _ROUNDING:
            yield (
                ("bandwidth",),
                f"{_bandwidth(bandwidth)} is more than {bus_width} pins carry at "
                f"{pin_rate * 8 / 1e9:.4g} Gb/s each ({_bandwidth(carried)})",
            )
    if latency > 100e-6:
        yield (
            ("latency",),
            f"no memory answers after {format_quantity(latency, 'time')}; expected at most 100 us",
        )


def thermal(
    tdp: float | None,
    matrix: dict[str, float],
    vector: dict[str, float],
    energy_per_operation: dict[str, float],
    bandwidth: float,
    energy_per_byte: float,
) -> Iterator[Fault]:
    """Energies that would draw more than the cooling allows.

    Memory alone must stay below the TDP. Arithmetic may exceed it up to twofold on paper, since boards lower
    their clocks under sustained load.
    """
    if tdp is None:
        return
    moving = energy_per_byte * bandwidth
    if moving > tdp:
        yield (
            ("memory", "energy_per_byte"),
            f"moving bytes at {_bandwidth(bandwidth)} would draw {_power(moving)}, "
            f"more than the TDP of {_power(tdp)}",
        )
    for dtype, energy in energy_per_operation.items():
        rate = max(matrix.get(dtype, 0.0), vector.get(dtype, 0.0))
        if energy * rate > 2 * tdp:
            yield (
                ("compute", "energy_per_operation", dtype),
                f"computing at {_rate(rate)} would draw {_power(energy * rate)}, "
                f"more than twice the TDP of {_power(tdp)}",
            )


_PCIE_INTERFACE: Final = re.compile(r"PCIe ([1-6])(?:\.0)? x(1|2|4|8|16)")


def host_interface(interface: str, figures: dict[str, float]) -> Iterator[Fault]:
    """Bandwidths (by the last part of their path) that the PCIe lanes of an interface cannot carry."""
    if not interface.lower().startswith("pci"):
        return
    match = _PCIE_INTERFACE.fullmatch(interface)
    if match is None:
        yield (("interface",), f"found {interface!r}; expected generation and lanes, such as 'PCIe 4.0 x4'")
        return
    # The largest packets carry the most payload; a drive's own figure is decimal and rounded.
    link = Pcie.model_validate(
        {"kind": "pcie", "name": interface, "generation": int(match[1]), "lanes": int(match[2]),
         "max_payload": 4096, "latency": 0.0}
    )  # fmt: skip
    for path, figure in figures.items():
        if figure > link.bandwidth * _ROUNDING:
            yield (
                tuple(path.split(".")),
                f"{_bandwidth(figure)} is more than {interface} carries ({_bandwidth(link.bandwidth)})",
            )


class _Geometry(Protocol):
    @property
    def channels(self) -> int: ...
    @property
    def page_size(self) -> float: ...
    @property
    def dies(self) -> int: ...
    @property
    def planes(self) -> int: ...
    @property
    def capacity(self) -> float: ...


class _Timing(Protocol):
    @property
    def read(self) -> float: ...
    @property
    def program(self) -> float: ...
    @property
    def erase(self) -> float: ...
    @property
    def channel_bandwidth(self) -> float: ...


def drive(
    capacity: float,
    read_bandwidth: float,
    write_bandwidth: float,
    read_latency: float,
    geometry: _Geometry | None,
    timing: _Timing | None,
) -> Iterator[Fault]:
    """What the dies and buses inside a drive cannot hold or deliver."""
    if geometry is not None and capacity > geometry.capacity:
        yield (
            ("capacity",),
            f"{format_quantity(capacity, 'size')} is more than the dies hold "
            f"({format_quantity(geometry.capacity, 'size')})",
        )
    if timing is None:
        return
    if read_latency < timing.read:
        yield (
            ("read_latency",),
            f"{_time(read_latency)} is less than a die's read time {_time(timing.read)}",
        )
    for slow, fast in (("program", "read"), ("erase", "program")):
        if getattr(timing, slow) < getattr(timing, fast):
            times = f"{_time(getattr(timing, slow))} is below the {fast} time {_time(getattr(timing, fast))}"
            yield (("timing", slow), f"{times}; no flash {slow}s faster than it {fast}s")
    if geometry is None:
        return
    buses = geometry.channels * timing.channel_bandwidth
    for name, figure in (("read_bandwidth", read_bandwidth), ("write_bandwidth", write_bandwidth)):
        if figure > buses * _ROUNDING:
            yield (
                (name,),
                f"{_bandwidth(figure)} is more than {geometry.channels} channels carry ({_bandwidth(buses)})",
            )
    if timing.read > 0:
        dies = geometry.planes * geometry.page_size / timing.read
        if read_bandwidth > dies * _ROUNDING:
            yield (
                ("read_bandwidth",),
                f"{_bandwidth(read_bandwidth)} is more than {geometry.dies} dies read ({_bandwidth(dies)})",
            )


def _rate(value: float) -> str:
    return format_quantity(value, "operation_rate")


def _clock(value: float) -> str:
    return format_quantity(value, "frequency")


def _bandwidth(value: float) -> str:
    return format_quantity(value, "bandwidth")


def _power(value: float) -> str:
    return format_quantity(value, "power")


def _time(value: float) -> str:
    return format_quantity(value, "time")
