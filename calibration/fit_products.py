"""Fits the constants of matrix products: 16 bits, 8 bits and FP32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.gpu_samples import Sample, family_of_sample, measured_of, requests_of, weights_of
from calibration.search import Limits, named, rounded, search
from simulator.gpu import gemm
from simulator.gpu.constants import Constants
from simulator.gpu.rows import (
    gemm_line,
)

Array = NDArray[np.float64]

GEMM: Final[Limits] = {
    "e0": (0.98, 0.85, 1.0), "feed": (5.0, 0.5, 30.0), "feed_exponent": (0.8, 0.2, 1.5),
    "overlap": (3.0, 1.2, 8.0), "wave_cycles": (700.0, 50.0, 6000.0), "latency_us": (0.5, 0.2, 2.0),
    "l2_share": (0.6, 0.2, 1.0), "reduce_cycles": (3000.0, 300.0, 10000.0), "quantisation": (0.7, 0.0, 1.0),
    "epilogue": (0.4, 0.01, 1.0), "memory_overlap": (2.0, 1.2, 8.0), "access": (0.97, 0.7, 1.0),
    "l2_rate": (0.95, 0.3, 1.0), "store": (32.0, 4.0, 256.0),
}  # fmt: skip

FREE_8: Final = (
    "e0",
    "feed",
    "overlap",
    "wave_cycles",
    "latency_us",
    "quantisation",
    "epilogue",
    "memory_overlap",
)

FREE_32: Final = ("store", "e0", "feed", "overlap", "wave_cycles", "latency_us", "quantisation", "epilogue", "memory_overlap", "access")  # fmt: skip  # noqa: E501

SETUPS_16: Final = ("graph-mean", "kernel", "vllm-hook-mean", "wall-incl-launch")

STARTS_16: Final = (
    (5.0, 1.0, 10.0), (5.5, 1.0, 15.0), (3.5, 1.0, 10.0), (27.0, 5.0, 60.0), (0.85, 0.6, 1.0), (2.3, 1.5, 3.5),
)  # fmt: skip
"""Launch in a graph, as profiler time, in a graph on Blackwell (10^3 cycles); wall-clock launch (us); library
share; pJ per FLOP."""


def fit_products(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Tensor-core products in 16 bits, then those in 8 bits and FP32 ones from there."""
    chosen = [s for s in rows if family_of_sample(s) == "tensor16"]
    if len(chosen) >= 20:
        setups = data["setups"]
        lines, timing = gemm_lines(chosen, data)
        clock_khz = np.array([s.sheet.clock for s in chosen]) / 1e3
        paired = np.array([s.sheet.generation == "Blackwell" for s in chosen])
        # Launches are the GPU's own work and take cycles; Blackwell overlaps them with the kernel before
        # (programmatic dependent launch). What the wall clock adds is the host's, in microseconds.
        limits = [*GEMM.values(), *STARTS_16]
        count = len(GEMM)
        joules = lines[:, gemm.JF] / data["energy_pj"]["tensor16"]

        def predicted(x: Array) -> Array:
            lines[:, gemm.LIB] = np.where(timing == 1, x[count + 4], 1.0)
            lines[:, gemm.JF] = joules * x[count + 5]
            cycles = np.where(paired, x[count + 2], x[count + 0])
            cycles = np.where(timing == 1, x[count + 1], cycles)
            launch = np.where(timing == 3, x[count + 3], cycles * 1e6 / clock_khz)
            return np.asarray(gemm_us(lines, x[:count]) + launch)

        x = search(limits, predicted, measured_of(chosen), weights_of(chosen))
        data["tensor16"] = named(GEMM, x[:count])
        setups["kernel"]["launch_us"]["tensor16"] = 0.0
        setups["kernel"]["launch_kcycles"]["tensor16"] = rounded(x[count + 1])
        setups["wall-incl-launch"]["launch_us"]["tensor16"] = rounded(x[count + 3])
        setups["kernel"]["library"] = rounded(x[count + 4])
        for name in ("graph-mean", "default", "vllm-hook-mean"):
            setups[name]["launch_us"]["tensor16"] = 0.0
            setups[name]["launch_kcycles"]["tensor16"] = rounded(x[count])
            if paired.any():
                setups[name]["launch_kcycles"]["tensor16/Blackwell"] = rounded(x[count + 2])
        data["energy_pj"]["tensor16"] = rounded(x[count + 5])
        data["energy_pj"]["tensor8"] = rounded(x[count + 5] / 2)
    fit_narrow(rows, data)
    fit_wide(rows, data)


def fit_narrow(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """FP8 products; what 16-bit rows tell about the memory system is kept."""
    data["tensor8"] = dict(data["tensor16"])
    chosen = [s for s in rows if family_of_sample(s) == "tensor8"]
    launch = 9.0
    if len(chosen) >= 20:
        lines, _ = gemm_lines(chosen, data)
        clock_khz = np.array([s.sheet.clock for s in chosen]) / 1e3
        limits = [GEMM[n] if n in FREE_8 else (data["tensor8"][n],) * 3 for n in GEMM]
        limits[0] = (0.6, 0.3, 1.0)
        x = search(
            [*limits, (9.0, 3.0, 20.0)],
            lambda x: gemm_us(lines, x[:-1]) + x[-1] * 1e6 / clock_khz,
            measured_of(chosen),
            weights_of(chosen),
        )
        data["tensor8"] = named(GEMM, x[:-1])
        launch = rounded(x[-1])
    for name in ("graph-mean", "default", "vllm-hook-mean"):
        data["setups"][name]["launch_us"]["tensor8"] = 0.0
        data["setups"][name]["launch_kcycles"]["tensor8"] = launch


def fit_wide(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """FP32 products on the vector units."""
    chosen = [s for s in rows if family_of_sample(s) == "simt32"]
    data["simt32"] = dict(data["tensor16"])
    if len(chosen) < 20:
        return
    lines, _ = gemm_lines(chosen, data)
    limits = [GEMM[n] if n in FREE_32 else (data["simt32"][n],) * 3 for n in GEMM]
    joules = lines[:, gemm.JF] / data["energy_pj"]["simt32"]

    def predicted(x: Array) -> Array:
        lines[:, gemm.JF] = joules * x[-1]
        return np.asarray(gemm_us(lines, x[:-2]) + x[-2])

    x = search(
        [*limits, (8.0, 1.0, 60.0), (20.0, 5.0, 60.0)], predicted, measured_of(chosen), weights_of(chosen)
    )
    data["simt32"] = named(GEMM, x[:-2])
    data["setups"]["profiler"]["launch_us"]["simt32"] = rounded(x[-2])
    data["energy_pj"]["simt32"] = rounded(x[-1])


def gemm_lines(rows: Sequence[Sample], data: dict[str, Any]) -> tuple[Array, NDArray[np.int64]]:
    """Kernel inputs, and each row's index into :data:`SETUPS_16`."""
    constants = Constants(data)
    lines = np.array([gemm_line(r, constants) for r in requests_of(rows, data)])
    timing = np.array([SETUPS_16.index(s.row.timing) if s.row.timing in SETUPS_16 else 0 for s in rows])
    return lines, timing


def gemm_us(lines: Array, x: Array) -> Array:
    """Kernel microseconds of products."""
    out = np.zeros((len(lines), gemm.RESULTS))
    gemm.gemm_rows(lines, x, gemm.TILES, gemm.SPLITS, out)
    return np.asarray(out[:, 0] * 1e6)
