"""The study of COSMA on its smaller networks; the whole of it runs with the slow tests."""

from __future__ import annotations

import pytest

from offchip.studies.cosma import HUMAN_DESIGNED, Row, network_rows


@pytest.mark.parametrize("name", ["resnet-50", "vit-b-16", "lraspp-mobilenet-v3"])
@pytest.mark.parametrize("weights", ["stream", "resident"])
def test_every_row_is_proven_no_scheme_is_better_and_nothing_moves_at_the_peak(
    name: str, weights: str
) -> None:
    sizes, rows = network_rows(name, HUMAN_DESIGNED[name], weights, ("M_R", "M_H", "M_P"))  # type: ignore[arg-type]
    assert [row.scratchpad_bytes for row in rows] == [
        sizes.required_bytes,
        sizes.half_bytes,
        sizes.peak_bytes,
    ]
    for row in rows:
        assert row.status == "optimal"
        assert row.cost_bytes == row.bound_bytes <= min(moved for _, moved in row.schemes)
    costs = [row.cost_bytes for row in rows]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0


def test_resnet_50_with_weights_moves_what_others_found() -> None:
    """602112 bytes at M_R with weights in 8 bits, as a public re-implementation of COSMA reports."""
    row: Row = network_rows("resnet-50", HUMAN_DESIGNED["resnet-50"], "resident", ("M_R",))[1][0]
    assert row.cost_bytes == 602112
