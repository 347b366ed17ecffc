"""The closed form of a library's collectives: its bounds and its direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.collective import schedule
from simulator.cost.collective_time import WIRES, collective_seconds
from simulator.cost.roofline import constants

KINDS = st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send"])
FIT = constants()["collective"]


@given(KINDS, st.integers(2, 64), st.integers(1, 1 << 34), st.floats(1e9, 1e12), st.sampled_from(WIRES))
def test_bounds_and_direction(kind: str, ranks: int, size: int, bandwidth: float, wire: str) -> None:
    seconds = collective_seconds(kind, ranks, size, bandwidth, FIT, wire)
    assert seconds >= schedule(kind, "ring", ranks, size).critical_bytes / bandwidth
    assert collective_seconds(kind, ranks, size, 2 * bandwidth, FIT, wire) <= seconds
    assert collective_seconds(kind, ranks, 2 * size, bandwidth, FIT, wire) >= seconds * (1 - 1e-9)


def test_one_rank_needs_no_time() -> None:
    assert collective_seconds("all_reduce", 1, 1 << 20, 1e9, FIT) == 0


def test_a_large_all_reduce_nears_the_wire() -> None:
    size = 1 << 29
    seconds = collective_seconds("all_reduce", 8, size, 300e9, FIT, "peer", "Ampere")
    bus_bandwidth = 2 * 7 / 8 * size / seconds
    assert bus_bandwidth == pytest.approx(222e9, rel=0.1), "measured on eight A100s at 512 MB"
