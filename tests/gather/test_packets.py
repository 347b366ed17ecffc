"""PCIe requests are those of a count byte by byte, and follow closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_link
from hw_configs.problems import InputError
from simulator.gather.packets import COMPLETION_BYTES, PacketRule, Packets, count_packets, zero_copy_rate
from simulator.gather.table import FeatureTable
from tests.gather import oracle

SIZES = st.sampled_from([32, 64, 128])


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 400), st.integers(0, 300), SIZES, st.sampled_from([1, 2, 4, 8]), st.booleans(),
       st.lists(st.integers(0, 9), max_size=4))  # fmt: skip
def test_requests_are_the_oracles(
    row_bytes: int, base: int, request: int, element: int, shift: bool, rows: list[int]
) -> None:
    table = FeatureTable(10, row_bytes, base)
    found = count_packets(table, np.array(rows, np.int64), PacketRule(request, element, shift))
    assert (found.requests, found.payload_bytes) == oracle.packets(table, rows, request, element, shift)


@given(st.integers(1, 64), SIZES)
def test_aligned_rows_need_their_bytes_over_the_request(lines: int, request: int) -> None:
    table = FeatureTable(100, lines * 128)
    for shift in (True, False):
        found = count_packets(table, np.arange(100), PacketRule(request, 4, shift))
        assert found == Packets(100 * lines * 128 // request, table.bytes)


@given(st.integers(1, 4096))
def test_any_row_at_an_aligned_address_needs_the_ceiling(row_bytes: int) -> None:
    found = count_packets(FeatureTable(1, row_bytes), np.array([0]), PacketRule(128))
    assert found.requests == -(-row_bytes // 128)


def test_the_shift_saves_the_second_line_of_every_warp() -> None:
    # 1204 bytes (301 x fp32) from an address that is 4 beyond a line: 10 warps, 9 of them on two lines.
    table = FeatureTable(1, 1204, base=132)
    plain = count_packets(table, np.array([0]), PacketRule(128, 4, shift=False))
    shifted = count_packets(table, np.array([0]), PacketRule(128, 4, shift=True))
    assert plain.requests == 19
    assert shifted.requests == 10


@pytest.mark.parametrize(("payload", "bound"), [(32, "tags"), (128, "wire")])
def test_small_requests_wait_for_tags_and_large_ones_for_the_wire(payload: int, bound: str) -> None:
    link = load_link("pcie3-x16")
    found = zero_copy_rate(link, Packets(10, 10 * payload), 1.3e-6)
    expected = 256 * 32 / 1.3e-6 if bound == "tags" else link.lane_rate * 128 / (128 + COMPLETION_BYTES)
    assert found == (pytest.approx(expected), bound)
    assert zero_copy_rate(link, Packets(10, 10 * payload), 2.6e-6)[0] <= found[0]


def test_the_lane_rate_holds_headers_and_payload() -> None:
    link = load_link("pcie4-x16")
    assert link.lane_rate == pytest.approx(16e9 / 8 * 128 / 130 * 16)
    assert link.payload_rate == pytest.approx(link.lane_rate * 256 / 282)
    measured = link.model_copy(update={"sustained_bandwidth": link.payload_rate / 2})
    many = Packets(10, 1280)
    assert zero_copy_rate(measured, many, 1e-6)[0] == pytest.approx(zero_copy_rate(link, many, 1e-6)[0] / 2)


def test_pages_of_rows() -> None:
    table = FeatureTable(50, 700, base=4000)
    rows = np.array([0, 7, 49])
    assert table.pages_of(rows).tolist() == [len(oracle.pages(table, row)) for row in rows.tolist()]
    expected = sorted({page for row in rows.tolist() for page in oracle.pages(table, row)})
    assert table.distinct_pages(rows).tolist() == expected


@pytest.mark.parametrize(
    "call", [lambda: PacketRule(16), lambda: PacketRule(128, 3), lambda: FeatureTable(0, 4), lambda: FeatureTable(1, 0),
             lambda: FeatureTable(1, 4, -1)],
)  # fmt: skip
def test_what_is_refused(call) -> None:
    with pytest.raises(InputError):
        call()
