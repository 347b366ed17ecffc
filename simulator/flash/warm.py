"""Compiles the kernels on a tiny run, so that a timing that follows holds no compilation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from simulator.flash.drive import Drive

__all__ = ["tiny_drive", "warm_up"]


def tiny_drive() -> Drive:
    """The smallest drive of some interest: two channels, two planes a die, four pages a block."""
    return Drive(
        channels=2, chips_per_channel=1, dies_per_chip=1, planes_per_die=2, blocks_per_plane=8,
        pages_per_block=4, page_bytes=4096, logical_pages=64, read_ns=(1000,), program_ns=(5000,),
        erase_ns=20_000, bus_ns_per_byte=Fraction(1), name="tiny",
    )  # fmt: skip


def warm_up() -> None:
    """Run a handful of requests through the engine once."""
    from simulator.flash.engine import RunOptions, simulate_drive
    from workloads.block_trace.trace import ArrayBlocks

    address = np.arange(8, dtype=np.int64) * 4096
    trace = ArrayBlocks(np.arange(8) % 2, address, np.full(8, 4096))
    simulate_drive(tiny_drive(), trace, RunOptions(outstanding=2, partial=False))
