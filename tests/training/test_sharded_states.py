"""ZeRO's memory and traffic against the paper's own arithmetic (arXiv:1910.02054, sections 5 and 7)."""

from __future__ import annotations

import pytest

from mapping.training.layer_states import StateBytes
from mapping.training.sharded_states import ModelStates, exposed_seconds

PARAMETERS = 7_500_000_000
STATES = ModelStates(2 * PARAMETERS, 2 * PARAMETERS, 12 * PARAMETERS, 10, 10)


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_sixteen_bytes_per_parameter_over_sixty_four_ranks(stage: int, gigabytes: float) -> None:
    states = StateBytes(2 * PARAMETERS, 2 * PARAMETERS, 12 * PARAMETERS)
    assert states.held(stage, 64) / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert states.held(stage, 1) == 16 * PARAMETERS


def test_traffic_in_units_of_the_weights() -> None:
    """A ring moves a whole buffer once for a scatter or a gather, twice for an all-reduce."""
    weight = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}

    def sent(stage: int, micro_batches: int) -> float:
        """What is exposed when passes take no time and a second moves a byte."""
        moved = exposed_seconds(
            STATES, stage, micro_batches, 0.0, 0.0, lambda kind, size: float(weight[kind] * size)
        )
        return moved / STATES.weights

    assert [sent(stage, 1) for stage in (0, 1, 2, 3)] == [2, 2, 2, 3]
    assert sent(3, 4) == 4 * 3


def test_only_what_passes_do_not_hide_counts() -> None:
    def seconds(kind: str, size: int) -> float:
        return {"all_reduce": 2.0, "reduce_scatter": 1.0, "all_gather": 1.0}[kind]

    assert exposed_seconds(STATES, 0, 1, 1.0, 3.0, seconds) == 0.0
    assert exposed_seconds(STATES, 0, 1, 1.0, 0.5, seconds) == 1.5
    assert exposed_seconds(STATES, 1, 1, 0.25, 3.0, seconds) == 0.75
    assert exposed_seconds(STATES, 3, 2, 0.5, 1.5, seconds) == 2 * (0.5 + 0.5)
