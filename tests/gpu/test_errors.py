"""The model against the public rows: a bound per class, so that a regression fails.

Bounds are the errors on the day of the fit, and a tenth more. docs/gpu-model.md has them beside the errors on
rows of GPUs that no constant has seen.
"""

from __future__ import annotations

import numpy as np
import pytest

from calibration.fit_attention import KERNEL_ROWS
from calibration.fit_gpu import predicted_us
from calibration.gpu_samples import class_of, family_of_sample, measured_of, samples
from simulator.gpu.constants import shipped_constants

BOUNDS = {
    "gemm": (8.0, 5.6), "gemm_fp8": (14.0, 8.8), "gemm_fp32": (16.0, 12.0), "bmm": (18.0, 15.0),
    "attention_prefill": (8.4, 6.1), "attention_decode": (13.1, 5.7), "norm": (11.9, 6.5),
    "elementwise": (9.6, 2.6), "rotary": (11.5, 9.1), "softmax": (16.0, 13.5), "all_reduce": (18.4, 9.2),
    "other_collective": (11.2, 8.2), "send_recv": (22.0, 14.5), "internode_comm": (35.0, 17.0),
}  # fmt: skip
# Mean errors of the best peer with figures for these rows: a roofline with three tuned constants per class.
PEER = {
    "gemm": 11.6, "gemm_fp8": 25.3, "gemm_fp32": 20.3, "bmm": 21.9, "attention_prefill": 23.3,
    "attention_decode": 27.2, "norm": 26.7, "elementwise": 22.8, "rotary": 25.1, "softmax": 29.9,
    "all_reduce": 33.2, "other_collective": 22.5, "send_recv": 21.4, "internode_comm": 55.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def errors() -> dict[str, np.ndarray]:
    rows = samples()
    assert len(rows) == 4294
    off = np.abs(predicted_us(rows, dict(shipped_constants().data)) / measured_of(rows) - 1) * 100
    classes = np.array([class_of(row) for row in rows])
    return {name: off[classes == name] for name in set(classes)}


def test_every_class_has_a_bound(errors: dict[str, np.ndarray]) -> None:
    assert set(errors) == set(BOUNDS) == set(PEER)


@pytest.mark.parametrize("name", BOUNDS)
def test_errors_stay_within_their_bounds(errors: dict[str, np.ndarray], name: str) -> None:
    mean, median = BOUNDS[name]
    assert errors[name].mean() < mean
    assert np.median(errors[name]) < median
    assert errors[name].mean() < PEER[name]


ENGINES = {
    "attention_prefill": (11.8, 8.2), "attention_decode": (9.0, 6.2), "latent_decode": (11.1, 7.0),
    "latent_prefill": (9.1, 6.1), "linear_attention": (10.2, 4.4), "short_convolution": (8.9, 7.3),
}  # fmt: skip
"""The same for rows of engines' kernels."""


@pytest.fixture(scope="module")
def engine_errors() -> dict[str, np.ndarray]:
    rows = [row for row in samples(KERNEL_ROWS) if family_of_sample(row) in ENGINES]
    off = np.abs(predicted_us(rows, dict(shipped_constants().data)) / measured_of(rows) - 1) * 100
    families = np.array([family_of_sample(row) for row in rows])
    return {name: off[families == name] for name in ENGINES}


@pytest.mark.parametrize("name", ENGINES)
def test_errors_on_engines_kernels_stay_within_their_bounds(
    engine_errors: dict[str, np.ndarray], name: str
) -> None:
    mean, median = ENGINES[name]
    assert engine_errors[name].mean() < mean
    assert np.median(engine_errors[name]) < median
