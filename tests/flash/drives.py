"""Small drives and workloads for the tests, and strategies that draw them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from simulator.flash.drive import Drive, HostPort
from workloads.block_trace import ArrayBlocks

PAGE = 4096


def drive(**changes) -> Drive:
    """Two channels, two chips, one die, two planes, 16 blocks of 8 pages."""
    base = {
        "channels": 2, "chips_per_channel": 2, "dies_per_chip": 1, "planes_per_die": 2,
        "blocks_per_plane": 16, "pages_per_block": 8, "page_bytes": PAGE, "logical_pages": 512,
        "read_ns": (25_000,), "program_ns": (300_000,), "erase_ns": 2_000_000,
        "bus_ns_per_byte": Fraction(3), "host": HostPort(4.0, 4), "gc_threshold_blocks": 4,
        "gc_reserve_blocks": 2, "name": "small",
    }  # fmt: skip
    return Drive(**(base | changes))


def blocks(operations, pages, size: int = PAGE) -> ArrayBlocks:
    """Whole-page requests."""
    pages = np.asarray(pages, np.int64)
    return ArrayBlocks(np.asarray(operations, np.int64), pages * PAGE, np.full(pages.size, size))


@st.composite
def geometries(draw, collecting: bool = False) -> Drive:
    """A small drive; with ``collecting`` one so small that writes soon need collection."""
    channels, chips, dies, planes = (draw(st.integers(1, most)) for most in (3, 2, 2, 3))
    pages = draw(st.integers(2, 6))
    per_plane = draw(st.integers(6, 9)) if collecting else 40
    total = channels * chips * dies * planes
    room = (per_plane - 3) * pages * total
    logical = draw(st.integers(max(room // 2, 1), room)) if collecting else room // 2
    reads = tuple(draw(st.lists(st.integers(1_000, 60_000), min_size=1, max_size=3)))
    return replace(
        drive(),
        channels=channels, chips_per_channel=chips, dies_per_chip=dies, planes_per_die=planes,
        blocks_per_plane=per_plane, pages_per_block=pages, logical_pages=logical, read_ns=reads,
        program_ns=tuple(draw(st.integers(50_000, 400_000)) for _ in reads),
        placement="".join(draw(st.permutations("CWDP"))),
        die_interleaving=draw(st.booleans()),
        multi_plane=draw(st.booleans()),
        gc_threshold_blocks=draw(st.integers(2, 4)),
        gc_reserve_blocks=draw(st.integers(1, 3)),
    )  # fmt: skip
