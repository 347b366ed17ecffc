"""Channels and request streams for the tests: every standard, small enough for the plain oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from hw_configs.library import load_device
from simulator.dram.build import channel_of
from simulator.dram.machine import Channel, Controller

DEVICES = (
    "ddr3-1600k",
    "ddr4-2400r",
    "ramulator-ddr5-4800b",
    "lpddr4x-4266",
    "lpddr5-6400",
    "gddr6-14000",
    "hbm2-2000",
    "hbm3-6400",
)
REFRESH = {
    "ddr3-1600k": ("all-bank", "off"),
    "ddr4-2400r": ("all-bank", "off"),
    "ramulator-ddr5-4800b": ("all-bank", "same-bank", "off"),
    "lpddr4x-4266": ("all-bank", "per-bank", "off"),
    "lpddr5-6400": ("all-bank", "per-bank", "off"),
    "gddr6-14000": ("all-bank", "per-bank", "off"),
    "hbm2-2000": ("all-bank", "per-bank", "off"),
    "hbm3-6400": ("all-bank", "per-bank", "paired-per-bank", "off"),
}


def small(device: str, ranks: int = 1, rows: int = 16, **controller: object) -> Channel:
    """A shipped device with few rows, the plainest mapping and, where the standard has ranks, as many as wanted."""
    channel = channel_of(load_device(device))
    levels = tuple((name, ranks if name == "Rank" else size) for name, size in channel.levels)
    kind = channel.controller.kind
    made = replace(channel, levels=levels, rows=rows, controller=Controller(kind=kind, **controller))
    # More ranks have their turns within one tREFI, and so do pairs of banks.
    more = made.banks // channel.banks
    at_once = (
        dict(channel.levels).get("PseudoChannel", 1) if made.controller.refresh == "paired-per-bank" else 1
    )
    timing = {
        name: value * at_once // more if name in ("nREFIpb", "nREFIsb") else value
        for name, value in channel.timing.items()
    }
    return replace(made, timing=timing, mapping="RoBaRaCoCh")


@st.composite
def channels(draw: st.DrawFn) -> Channel:
    """Any standard with any controller."""
    device = draw(st.sampled_from(DEVICES))
    queue = st.integers(1, 12)
    channel = small(
        device,
        draw(st.sampled_from((1, 2, 3))),
        rows=draw(st.sampled_from((16, 16, 12))),
        read_queue=draw(queue),
        write_queue=draw(queue),
        low_watermark=draw(st.sampled_from((0.1, 0.2, 0.5))),
        high_watermark=draw(st.sampled_from((0.5, 0.8, 1.0))),
        scheduler=draw(st.sampled_from(("frfcfs", "frfcfs-rowhit"))),
        row_policy=draw(st.sampled_from(("open", "open", "closed", "capped", "timeout"))),
        cap=draw(st.integers(1, 4)),
        timeout=draw(st.sampled_from((20, 100))),
        refresh=draw(st.sampled_from(REFRESH[device])),
        clock_sync=draw(st.booleans()),
    )
    # Refresh often, so that short runs meet it.
    timing = {
        name: (900 if name == "nREFI" else 130 if name in ("nREFIpb", "nREFIsb") else value)
        for name, value in channel.timing.items()
    }
    timing["nREFI"] = max(timing["nREFI"], timing.get("nRFC", timing.get("nRFCab", 0)) + 400)
    if device == "hbm3-6400" and draw(st.booleans()):
        # Stacks of two or three layers, as tall stacks have them.
        levels = [*channel.levels[:2], ("Sid", draw(st.integers(2, 3))), *channel.levels[2:]]
        channel = replace(channel, levels=tuple(levels))
    if channel.controller.refresh in ("per-bank", "paired-per-bank", "same-bank"):
        # Each bank, pair or set has its turn once in tREFI.
        turns = len(channel.targets[0]) - channel.banks - channel.targets[1] or channel.banks
        at_once = (
            dict(channel.levels).get("PseudoChannel", 1) if "paired" in channel.controller.refresh else 1
        )
        timing["nREFI"] = 130 * turns // at_once
    sizes = [channel.rows, *(size for _, size in channel.levels)]
    mappings = ["RoBaRaCoCh", "ChRaBaRoCo"]
    if all(size & (size - 1) == 0 for size in sizes):
        # This one hashes columns into every level, which only a power of two of nodes stands.
        mappings.append("MOP4CLXOR")
    mapping = draw(st.sampled_from(mappings))
    return replace(channel, timing=timing, mapping=mapping)


@st.composite
def streams(draw: st.DrawFn, channel: Channel, most: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Transaction numbers and writes: sequential stretches, a few hot places, and anywhere."""
    total = channel.capacity_bytes // channel.transaction_bytes
    count = draw(st.integers(1, most))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    style = draw(st.sampled_from(("sequential", "hot", "random", "mixed")))
    start = int(random.integers(total))
    sequential = (start + np.arange(count)) % total
    hot = random.choice(random.integers(0, total, 6), count)
    anywhere = random.integers(0, total, count)
    which = {"sequential": 0, "hot": 1, "random": 2}.get(style)
    choice = random.integers(0, 3, count) if which is None else np.full(count, which)
    number = np.choose(choice, [sequential, hot, anywhere]).astype(np.int64)
    share = draw(st.sampled_from((0.0, 0.3, 0.7, 1.0)))
    return number, (random.random(count) < share).astype(np.uint8)
