"""The on-chip memory that a compiled plan fills: banks, their width, the engines that copy into it.

A scratchpad is single-ported banks interleaved line by line, so that a stream walks over all of them. Its
bandwidth is what the banks move together in one clock, unless a published figure is given.
"""

from __future__ import annotations

from typing import Literal

from hw_configs.config import Bandwidth, Config, Count, EnergyPerByte, Latency, Ports, Size

__all__ = ["OperandBuffer", "Scratchpad"]


class Scratchpad(Config):
    """A software-managed memory beside the MAC arrays."""

    size: Size
    bandwidth: Bandwidth | None = None
    """All banks together; banks times their width times the clock where none is stated."""
    banks: Count | None = None
    bank_width: Size | None = None
    """Bytes that one bank reads or writes in a clock."""
    latency: Latency = 0.0
    energy_per_byte: EnergyPerByte = 0.0
    dma_engines: Count = 1
    """Transfers into and out of the scratchpad that can be under way at once."""
    ports: Ports = 1
    """1: a bank reads or writes in a clock; 2: it does both at once."""

    def bandwidth_at(self, clock: float) -> float | None:
        """Bytes per second at a clock in hertz; None where neither a rate nor banks are stated."""
        if self.bandwidth is not None:
            return self.bandwidth
        if self.banks is None or self.bank_width is None:
            return None
        return self.banks * self.bank_width * clock


class OperandBuffer(Config):
    """How a device that works in its DRAM uses its scratchpad: inputs and weights share it, adder trees read it."""

    kernels: Count = 1
    """Output channels whose weights are there at once at least."""
    granule: Count = 1
    """Channels are stored in multiples of so many."""
    winograd: bool = False
    """Whether windows of 3 x 3 at stride one are worked out by F(2 x 2, 3 x 3)."""
    folds_strides: bool = False
    """Whether a stride is folded into channels, weights filled up with zeros."""
    epilogues: tuple[Literal["elementwise", "pool"], ...] = ()
    """Operators that run behind the arrays on what leaves them, if nothing else reads it."""
