"""Lanes over one port: bytes a clock as counted by hand."""

from __future__ import annotations

import pytest

from offchip.studies.lane_orders import read_rate, run


@pytest.mark.parametrize("lanes", [1, 3, 4, 16])
def test_keys_pass_once_for_so_many_queries_and_queries_once(lanes: int) -> None:
    rounds = -(-129 // lanes)
    clocks = rounds * 129 * 24
    assert read_rate(run(lanes, "M")) == pytest.approx((rounds * 129 + 129) * 768 / clocks)


@pytest.mark.parametrize("lanes", [1, 3, 4, 16])
def test_keys_side_by_side_pass_for_every_query(lanes: int) -> None:
    rounds = -(-129 // lanes)
    assert read_rate(run(lanes, "N")) == pytest.approx((129 * 129 + 129) * 768 / (129 * rounds * 24))
