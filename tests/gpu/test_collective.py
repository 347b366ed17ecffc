"""Collectives: wires, protocols, growth."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu import collective
from simulator.gpu.constants import shipped_constants


def seconds(
    kind: str, ranks: int, size: float, wire: str = "peer", bandwidth: float = 450e9, **other: float
) -> float:
    row = {
        "kind": collective.KINDS.index(kind), "ranks": ranks, "bytes": size, "bandwidth": bandwidth,
        "wire": collective.WIRES.index(wire), "scale": 1.0, "sharp": 0.0, "per_node": 8.0, "eager": 0.0, **other,
    }  # fmt: skip
    out = np.zeros(1)
    lines = np.array([[float(row[name]) for name in collective.COLUMNS]])
    constants = shipped_constants().array("collective", collective.CONSTANTS)
    collective.collective_rows(lines, constants, out)
    return float(out[0])


kinds = st.sampled_from(collective.KINDS)
wires = st.sampled_from(collective.WIRES)
sizes = st.integers(0, 34).map(lambda e: float(2**e))


@settings(max_examples=200, deadline=None)
@given(kinds, st.integers(2, 16), sizes, wires)
def test_grows_with_bytes_and_never_beats_the_wire(kind: str, ranks: int, size: float, wire: str) -> None:
    took = seconds(kind, ranks, size, wire)
    assert seconds(kind, ranks, 2 * size, wire) >= took
    assert seconds(kind, ranks, size, wire, bandwidth=900e9) <= took
    sent = {"all_reduce": 2 * size * (ranks - 1) / ranks, "send": size, "broadcast": size}.get(
        kind, size * (ranks - 1) / ranks
    )
    assert took >= sent / (450e9 * 8) * (1 - 1e-9)
    if wire != "network":
        assert took >= sent / 450e9 * (1 - 1e-9)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]), st.integers(2, 15), sizes)
def test_more_ranks_never_faster(kind: str, ranks: int, size: float) -> None:
    assert seconds(kind, ranks + 1, size) >= seconds(kind, ranks, size) * (1 - 1e-9)


def test_one_rank_needs_nothing() -> None:
    assert seconds("all_reduce", 1, 1e9) == 0.0


def test_the_switch_adds() -> None:
    assert seconds("all_reduce", 8, 2**29, sharp=1.0) < seconds("all_reduce", 8, 2**29)


def test_small_messages_pay_latency_and_large_ones_bandwidth() -> None:
    assert seconds("all_reduce", 8, 1024) / seconds("all_reduce", 8, 2048) > 0.95
    assert seconds("all_reduce", 8, 2**32) / seconds("all_reduce", 8, 2**31) > 1.9
