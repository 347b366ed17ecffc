"""Compiles the kernels on a tiny run, so that a timing that follows holds no compilation."""

from __future__ import annotations

import numpy as np

from simulator.dram.machine import Channel, Constraint, Controller

__all__ = ["warm_up"]


def warm_up() -> None:
    """Run a handful of requests through the engine once."""
    from simulator.dram.engine import Memory, RunOptions, simulate_trace
    from workloads.memory_trace.trace import ArrayTrace

    rules = (
        Constraint("Bank", ("ACT",), ("RD", "WR"), 2),
        Constraint("Bank", ("PREpb",), ("ACT",), 2),
        Constraint("Bank", ("RD", "WR"), ("PREpb",), 2),
    )
    channel = Channel(
        "none", (("Channel", 1), ("Rank", 1), ("Bank", 2)), 4, 4, 64, 1e-9, 4, 4, 1, {}, rules, "Rank",
        controller=Controller(refresh="off"),
    )  # fmt: skip
    address = np.arange(4, dtype=np.int64) * 64
    simulate_trace(Memory(channel), ArrayTrace(address, np.zeros(4, np.uint8)), RunOptions(leap=False))
