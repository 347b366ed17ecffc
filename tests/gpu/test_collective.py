"""Collectives: wires, protocols, growth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu import collective
from simulator.gpu.constants import shipped_constants


def seconds(
    kind: str, ranks: int, size: float, wire: str = "peer", bandwidth: float = 450e9, **other: float
) -> float:
    row = {
        "kind": collective.KINDS.index(kind), "ranks": ranks, "bytes": size, "bandwidth": bandwidth,
        "wire": collective.WIRES.index(wire), "scale": 1.0, "sharp": 0.0, "per_node": 8.0, "eager": 0.0, "socket": 0.0,
        "engine": 0.0, **other,
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


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]),
    st.sampled_from([2, 4, 8]),
    sizes,
)
def test_a_pcie_box_shares_the_path_between_its_sockets(kind: str, ranks: int, size: float) -> None:
    box = seconds(kind, ranks, size, "host", 32e9, socket=8e9)
    assert seconds(kind, ranks, 2 * size, "host", 32e9, socket=8e9) >= box
    assert seconds(kind, ranks, size, "host", 32e9, socket=4e9) >= box
    assert seconds(kind, ranks, size, "host", 64e9, socket=8e9) <= box * (1 + 1e-12)
    # Half the ranks lie beyond the path: a quarter of every buffer, or one link of a ring, crosses it at least.
    crosses = {"all_to_all": size * ranks / 4, "all_reduce": 2 * size * (ranks - 1) / ranks}
    least = crosses.get(kind, size * (ranks - 1) / ranks) if ranks > 2 else 0.0
    assert box >= least / 8e9 * (1 - 1e-9)
    if ranks < 8:
        assert seconds(kind, 8, size, "host", 32e9, socket=8e9) >= box * (1 - 1e-9)


def test_ranks_of_a_box_would_be_many_times_too_fast_with_lanes_of_their_own() -> None:
    assert seconds("all_gather", 8, 2**24, "host", 32e9, socket=8e9) > 5 * seconds(
        "all_gather", 8, 2**24, "host", 32e9
    )


def plain_engine(ranks: int, size: float, bandwidth: float, scale: float) -> float:
    """An engine's own all-reduce: one shot or two, whichever is quicker."""
    x = dict(
        zip(collective.CONSTANTS, shipped_constants().array("collective", collective.CONSTANTS), strict=True)
    )
    start = x["one_base_us"] + x["one_rank_us"] * (ranks - 2)
    start += x["block_us"] * math.log2(1 + size * (ranks - 1) / 4096)
    one = scale * start * 1e-6 + size * (ranks - 1) / (bandwidth * x["one_share"])
    two = scale * (start + x["two_base_us"]) * 1e-6 + 2 * size * (ranks - 1) / ranks / (
        bandwidth * x["one_share"]
    )
    return min(one, two)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([2, 4, 8]), sizes, st.floats(0.5, 2.0))
def test_an_engine_takes_its_own_all_reduce_where_it_is_quicker(
    ranks: int, size: float, scale: float
) -> None:
    library, both = seconds("all_reduce", ranks, size), seconds("all_reduce", ranks, size, engine=scale)
    least = 2 * size * (ranks - 1) / ranks / 450e9
    assert both == pytest.approx(max(least, min(library, plain_engine(ranks, size, 450e9, scale))), rel=1e-9)
    assert seconds("all_reduce", ranks, 2 * size, engine=scale) >= both
    assert seconds("all_gather", ranks, size, engine=scale) == seconds("all_gather", ranks, size)


def test_small_all_reduces_of_an_engine_take_a_few_microseconds() -> None:
    assert seconds("all_reduce", 8, 4096, engine=1.0) < 8e-6 < seconds("all_reduce", 8, 4096)


def test_an_engine_has_no_kernel_of_its_own_over_pcie() -> None:
    given = {"socket": 8e9, "bandwidth": 32e9}
    library = seconds("all_reduce", 4, 2**16, "host", **given)
    assert seconds("all_reduce", 4, 2**16, "host", engine=1.0, **given) == library


@pytest.mark.parametrize(
    ("ranks", "dispatch_us", "combine_us"),
    [(16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369), (256, 194, 360)],
)
def test_dispatch_and_combine_between_nodes(ranks: int, dispatch_us: float, combine_us: float) -> None:
    """DeepEP's low-latency kernels on H800 with a port of 50 GB/s each: 128 tokens of 7,168, eight experts, FP8
    there and BF16 back (docs/legacy.md of deepseek-ai/DeepEP, MIT)."""
    there = 128 * 8 * 7168 * (1 + 4 / 128)
    assert seconds("all_to_all", ranks, there, "network", 50e9) * 1e6 == pytest.approx(dispatch_us, rel=0.12)
    back = 128 * 8 * 7168 * 2
    assert seconds("all_to_all", ranks, back, "network", 50e9) * 1e6 == pytest.approx(combine_us, rel=0.12)
