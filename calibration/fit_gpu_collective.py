"""Fits the constants of the GPU model's collectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.gpu_samples import Sample, is_collective, measured_of, weights_of
from calibration.search import Limits, named, rounded, search
from simulator.gpu import collective
from simulator.gpu.constants import Constants

Array = NDArray[np.float64]

COLLECTIVE: Final[Limits] = {
    "base_us": (8.0, 2, 20), "step_us": (1.0, 0.1, 5), "ll_share": (0.3, 0.02, 0.5),
    "ll128_base_us": (17, 3, 60), "ll128_step_us": (1.0, 0.1, 10), "ll128_share": (0.45, 0.1, 0.95),
    "simple_base_us": (30, 5, 120), "simple_step_us": (2.0, 0.1, 20), "simple_share": (0.72, 0.3, 1.0),
    "sharp_base_us": (40, 5, 120), "sharp_share": (0.55, 0.2, 1.0), "exchange_base_us": (9, 2, 40),
    "exchange_share": (0.65, 0.2, 1.0), "host_scale": (1.4, 1.0, 4.0), "host_share": (0.8, 0.4, 1.0),
    "network_base_us": (25, 1, 120), "network_step_us": (6, 0.2, 40), "network_share": (0.8, 0.8, 0.8),
    "ports": (4, 1, 8), "eager_skew_us": (15, 1, 60), "send_base_us": (9, 2, 60), "send_share": (0.77, 0.3, 1.0),
    "send_ll_base_us": (5, 1, 30), "send_ll_share": (0.05, 0.005, 0.5), "send_network_us": (24, 5, 60),
}  # fmt: skip


def collective_lines(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """Inputs of :func:`simulator.gpu.collective.collective_rows`."""
    from offchip.validation.gpu_collectives import collective_line

    constants = Constants(data)
    return np.array([collective_line(s.row, s.sheet, s.wire, s.host, constants) for s in rows])


def fit_collectives(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Protocols and latencies; network ports by generation."""
    chosen = [s for s in rows if is_collective(s)]
    if len(chosen) < 40:
        return
    names = sorted({s.sheet.generation for s in chosen})
    others = [name for name in names if name != "Ampere"]
    lines = collective_lines(chosen, data)
    place = np.array([names.index(s.sheet.generation) for s in chosen])
    across = lines[:, collective.WIRE] == 2
    count = len(COLLECTIVE)
    limits = [
        *COLLECTIVE.values(),
        *((0.9, 0.3, 2.5) for _ in others),
        *((data["network_bandwidth"].get(n, 25e9) / 1e9, 1.0, 60.0) for n in names),
    ]
    out = np.zeros(len(lines))

    def predicted(x: Array) -> Array:
        scales = np.array([1.0 if n == "Ampere" else x[count + others.index(n)] for n in names])
        ports = x[count + len(others) :] * 1e9
        lines[:, collective.SCALE] = scales[place]
        lines[:, collective.BW] = np.where(across, ports[place], lines[:, collective.BW])
        collective.collective_rows(lines, x[:count], out)
        return np.asarray(out * 1e6)

    x = search(limits, predicted, measured_of(chosen), weights_of(chosen), rounds=4, evaluations=3500)
    data["collective"] = named(COLLECTIVE, x[:count])
    scales = {n: rounded(x[count + i]) for i, n in enumerate(others)}
    if "Ampere" in names:
        scales["Ampere"] = 1.0
    data["collective_scale"] = {**scales, "default": rounded(float(np.mean(list(scales.values()))))}
    for i, n in enumerate(names):
        if any(s.sheet.generation == n and a for s, a in zip(chosen, across, strict=True)):
            data["network_bandwidth"][n] = float(rounded(x[count + len(others) + i])) * 1e9
