"""Layers of experts and collectives against engines' rows: a bound per class, the error of the fit and a tenth more."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import fit_experts, fit_gpu_collective
from calibration.gpu_samples import measured_of
from offchip.validation.operator_groups import row_class
from simulator.gpu.constants import shipped_constants

BOUNDS = {
    "experts": (13.7, 9.7), "all_reduce": (9.8, 7.9), "all_reduce_pcie": (9.0, 6.9), "other_collective": (9.9, 7.6),
    "other_collective_pcie": (14.6, 9.6), "engine_all_reduce": (9.5, 7.2), "engine_all_reduce_pcie": (18.1, 8.6),
}  # fmt: skip


@pytest.fixture(scope="module")
def errors() -> dict[str, np.ndarray]:
    data = dict(shipped_constants().data)
    layers = fit_experts.expert_rows()
    talk = [s for s in fit_gpu_collective.collective_samples() if s.row.id.startswith("p")]
    predicted = np.concatenate(
        [fit_experts.predicted_us(layers, data), fit_gpu_collective.predicted_us(talk, data)]
    )
    off = np.abs(predicted / measured_of([*layers, *talk]) - 1) * 100
    classes = np.array([row_class(s.row) for s in (*layers, *talk)])
    return {name: off[classes == name] for name in set(classes)}


def test_every_class_has_a_bound(errors: dict[str, np.ndarray]) -> None:
    assert set(errors) == set(BOUNDS)


@pytest.mark.parametrize("name", BOUNDS)
def test_errors_stay_within_their_bounds(errors: dict[str, np.ndarray], name: str) -> None:
    mean, median = BOUNDS[name]
    assert errors[name].mean() < mean
    assert np.median(errors[name]) < median


def test_constants_of_another_library_would_break_the_bound(errors: dict[str, np.ndarray]) -> None:
    data = dict(shipped_constants().data)
    data["experts/trtllm"] = data["experts/triton_ogs"]
    layers = fit_experts.expert_rows()
    off = np.abs(fit_experts.predicted_us(layers, data) / measured_of(layers) - 1) * 100
    assert off.mean() > BOUNDS["experts"][0]
