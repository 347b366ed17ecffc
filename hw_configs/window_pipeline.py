"""A pipeline of pixels as FPGA designs for small networks build it: 1x1 products, a line buffer, a window.

Stages run side by side and hand one another a few words at a time. Each works through a pixel in groups of channels; a
loop over the groups takes its length and some clocks to start, once for every loop that the design does not flatten.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hw_configs.config import Config, Count, Frequency

__all__ = ["WindowPipeline"]


class WindowPipeline(Config):
    """Such a design on one chip, and the memory it works in."""

    kind: Literal["window-pipeline"]
    name: str
    description: str = ""
    source: str = ""
    clock: Frequency
    group: Count
    """Channels that every stage takes at a time."""
    outputs: Count
    """Output channels of which the product stage makes sums at a time: a clock does group x outputs products."""
    window: Annotated[int, Field(ge=1, le=31)]
    """Taps of the depthwise window along a side, all done in one clock for a group."""
    line_rows: Annotated[int, Field(ge=1, le=4096)]
    """Rows of the line buffer, which serves as many taps a clock as there are rows."""
    loop_start: Annotated[int, Field(ge=0, le=1024)]
    """Clocks to start a loop over groups."""
    port: Count
    """Bytes a clock of the port to memory, each way."""
    fifo: Count
    """Pixels that may wait between two stages."""
    reads_in_flight: Count
    """Scattered reads that the design has under way at a time."""
    memory_device: str
    """Its memory: a device of kind dram by name."""

    @property
    def bound(self) -> int:
        """The furthest row that a window may reach, either way."""
        return (self.line_rows - 1) // 2
