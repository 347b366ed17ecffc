"""Fits the constants of the GPU model on published measurements of single operators.

    python -m calibration.fit_gpu            # fit and write simulator/gpu/constants.json
    python -m calibration.fit_gpu --cross    # and leave each GPU out in turn; write docs/gpu-model.md

Reads ``tests/reference/gpu/operators.csv`` and the shipped device files. End-to-end measurements are never
read. Each constant is global, or belongs to a memory technology, a GPU generation, a kernel library or a way
to measure. The loss is the mean absolute logarithm of predicted over measured time, where no row counts for more
than a factor of e and each (GPU, source) weighs with its row count to the power 0.7. The search is
Nelder-Mead from fixed starting points with fixed simplices: the same rows give the same constants.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from calibration import gpu_report
from offchip.validation.reference_gpu import ReferenceGpus
from simulator.cost.model import roof_seconds
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.gpu import attention, collective, gemm, memory_bound
from simulator.gpu.constants import Constants
from simulator.gpu.rows import (
    Request,
    attention_line,
    family_of,
    gemm_line,
    memory_class,
    memory_line,
    predict,
)
from simulator.gpu.sheet import GpuSheet, gpu_sheet
from workloads.operator_table import TableRow, read_operator_table

Array = NDArray[np.float64]
ROOT: Final = Path(__file__).resolve().parent.parent
DATA: Final = ROOT / "tests" / "reference" / "gpu"
TARGET: Final = ROOT / "simulator" / "gpu" / "constants.json"
WORST: Final = 1.0
"""Most that one row adds to the loss, as a logarithm."""

# Starting points and limits: name -> (start, least, most). Where least equals most the value is an assumption.
Limits = dict[str, tuple[float, float, float]]
GEMM: Final[Limits] = {
    "e0": (0.98, 0.85, 1.0), "feed": (5.0, 0.5, 30.0), "feed_exponent": (0.8, 0.2, 1.5),
    "overlap": (3.0, 1.2, 8.0), "wave_cycles": (700.0, 50.0, 6000.0), "latency_us": (0.5, 0.2, 2.0),
    "l2_share": (0.6, 0.2, 1.0), "reduce_cycles": (3000.0, 300.0, 10000.0), "quantisation": (0.7, 0.0, 1.0),
    "epilogue": (0.4, 0.01, 1.0), "memory_overlap": (2.0, 1.2, 8.0), "access": (0.97, 0.7, 1.0),
    "l2_rate": (0.95, 0.3, 1.0), "store": (32.0, 4.0, 256.0),
}  # fmt: skip
ATTENTION: Final[Limits] = {
    "tile_cycles_fa2": (6000, 500, 20000), "tile_cycles_fa3": (6500, 500, 20000),
    "tile_cycles_blackwell": (4000, 500, 20000), "block_cycles_fa2": (1000, 20, 8000),
    "block_cycles_fa3": (1000, 20, 8000), "block_cycles_blackwell": (1000, 20, 8000),
    "matrix_share": (0.92, 0.7, 1.0), "feed": (0.5, 0.05, 2.0), "softmax": (1.5, 1.0, 4.0),
    "overlap_serial": (1.2, 1.0, 6.0), "overlap_async": (3.0, 1.0, 8.0), "combine_us": (3.0, 0.3, 10.0),
    "reorder_us": (3.0, 0.3, 10.0), "memory_overlap": (4.0, 1.0, 8.0), "l2_share": (0.6, 0.2, 1.0),
    "access": (0.97, 0.7, 1.0),
}  # fmt: skip
MEMORY: Final[Limits] = {
    "in_flight_kib": (32.0, 1.0, 128.0), "latency_us": (0.6, 0.6, 0.6), "row_us": (0.8, 0.05, 20.0),
    "keep": (0.7, 0.05, 1.0), "l2_share": (0.8, 0.2, 1.0), "access": (0.97, 0.5, 1.0),
    "exit_us": (0.3, 0.01, 2.0), "kept": (12.0, 2.0, 128.0),
}  # fmt: skip
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
SCALAR_CLASSES: Final = ("norm", "elementwise", "gated", "rotary")


@dataclass(frozen=True)
class Sample:
    """One measured row with its GPU."""

    row: TableRow
    sheet: GpuSheet
    chip: str
    wire: float
    host: float
    roof: tuple[float, float]

    @property
    def measured(self) -> float:
        """Measured microseconds."""
        assert self.row.measured_us is not None
        return self.row.measured_us


def chip_of(gpu: str) -> str:
    """The chip of a board: all boards of it are left out together.

    >>> chip_of("A100-PCIe-40GB"), chip_of("RTX-4090")
    ('A100', 'RTX-4090')
    """
    parts = gpu.split("-")
    return "-".join(parts[:2]) if parts[0] == "RTX" else parts[0]


def samples(file: Path | None = None) -> list[Sample]:
    """Every measured row whose operator and GPU are known."""
    gpus = ReferenceGpus(DATA / "hardware.csv")
    found = []
    sheets: dict[str, GpuSheet] = {}
    for row in read_operator_table(file or DATA / "operators.csv").rows:
        gpu = gpus.find(row.gpu)
        if row.operator is None or gpu is None or row.measured_us is None:
            continue
        if row.gpu not in sheets:
            sheets[row.gpu] = gpu_sheet(gpu.gpu, gpu.memory)
        roof = (0.0, 0.0)
        if row.operator.kind not in COMMUNICATION_KINDS:
            roof = roof_seconds(row.operator, gpu.gpu.compute, gpu.memory)
        found.append(
            Sample(
                row, sheets[row.gpu], chip_of(row.gpu), gpu.wire_bandwidth or 0, gpu.host_bandwidth or 0, roof
            )
        )
    return found


def is_collective(sample: Sample) -> bool:
    """Whether a row is communication."""
    assert sample.row.operator is not None
    return sample.row.operator.kind in COMMUNICATION_KINDS


def starting_point() -> dict[str, Any]:
    """Constants before any fit."""

    def setup(other: float, **given: Any) -> dict[str, Any]:
        made: dict[str, Any] = {
            "launch_us": {"other": other}, "launch_kcycles": {"other": 0.0}, "host_us": {"other": 0.0},
            "rotation": 0, "library": 1.0,
            "previous": False, "vectorised": True, "eager": False, "cache_write": False,
        }  # fmt: skip
        made.update(given)
        return made

    data: dict[str, Any] = {
        "about": "Written by calibration/fit_gpu.py from public measurements; see docs/gpu-model.md.",
        "memory_share": {"default": 0.87},
        "energy_pj": {"tensor16": 2.3, "tensor8": 1.15, "simt32": 20.0},
        "setups": {
            "default": setup(2.2),
            "graph-mean": setup(2.2, rotation=6, cache_write=True),
            "kernel": setup(2.0, library=0.85, previous=True, vectorised=False, eager=True),
            "vllm-hook-mean": setup(2.2, previous=True, cache_write=True),
            "profiler": setup(3.0),
            "wall-incl-launch": setup(25.0, rotation=1),
            "nccl-tests-mean": setup(0.0),
        },
        "collective_scale": {"Ampere": 1.0, "default": 1.0},
        "network_bandwidth": {"Ampere": 8e9, "Hopper": 40e9, "default": 25e9},
    }
    for family in ("tensor16", "tensor8", "simt32"):
        data[family] = {name: limit[0] for name, limit in GEMM.items()}
    for family in ("attention_decode", "attention_prefill"):
        data[family] = {name: limit[0] for name, limit in ATTENTION.items()}
    for name in memory_bound.CLASSES:
        data[f"memory_bound/{name}"] = {key: limit[0] for key, limit in MEMORY.items()}
    data["collective"] = {name: limit[0] for name, limit in COLLECTIVE.items()}
    return data


# --- the search ---------------------------------------------------------------------------------------------


def loss_of(predicted: Array, measured: Array, weights: Array) -> float:
    """Weighted mean absolute logarithm, each row's share cut at :data:`WORST`."""
    errors = np.minimum(np.abs(np.log(np.maximum(predicted, 1e-3) / measured)), WORST)
    return float(np.sum(weights * errors) / np.sum(weights))


def search(
    limits: Sequence[tuple[float, float, float]],
    predicted: Callable[[Array], Array],
    measured: Array,
    weights: Array,
    rounds: int = 3,
    evaluations: int = 2500,
) -> Array:
    """Constants within their limits that minimise the loss; a pull of 0.002 towards the start breaks ties."""
    table = np.array(limits, dtype=np.float64)
    start, least, most = table[:, 0], table[:, 1], table[:, 2]
    free = np.flatnonzero(most > least)

    def unpack(z: Array) -> Array:
        x = start.copy()
        x[free] = np.clip(start[free] * np.exp(z), least[free], most[free])
        return x

    def loss(z: Array) -> float:
        return loss_of(predicted(unpack(z)), measured, weights) + 0.002 * float(np.mean(z * z))

    z = np.zeros(len(free))
    for turn in range(rounds):
        simplex = np.vstack([z, z + 0.25 * (-1) ** turn * np.eye(len(z))])
        options = {
            "maxfev": evaluations,
            "adaptive": True,
            "initial_simplex": simplex,
            "xatol": 1e-4,
            "fatol": 1e-6,
        }
        z = minimize(loss, z, method="Nelder-Mead", options=options).x
    return unpack(z)


def weights_of(rows: Sequence[Sample]) -> Array:
    """Row weights: each (GPU, source) counts with its number of rows to the power 0.7."""
    keys = [(s.row.gpu, s.row.cells.get("source", "")) for s in rows]
    return np.array([count**-0.3 for count in _counts(keys)])


def _counts(keys: list[tuple[str, str]]) -> list[int]:
    totals: dict[tuple[str, str], int] = {}
    for key in keys:
        totals[key] = totals.get(key, 0) + 1
    return [totals[key] for key in keys]


def measured_of(rows: Sequence[Sample]) -> Array:
    """Measured microseconds."""
    return np.array([s.measured for s in rows])


def requests_of(rows: Sequence[Sample], data: dict[str, Any]) -> list[Request]:
    """The rows as the model's requests under these constants."""
    constants = Constants(data)
    made = []
    for s in rows:
        assert s.row.operator is not None
        made.append(Request(s.row.operator, s.sheet, constants.setup(s.row.timing)))
    return made


# --- memory ---------------------------------------------------------------------------------------------------


def fit_memory_share(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Share of bandwidth by memory technology and generation: the best tenth of long streaming rows."""
    reached: dict[str, list[float]] = {}
    for s in rows:
        operator = s.row.operator
        assert operator is not None
        arithmetic, traffic = s.roof
        moved = operator.read_bytes + operator.write_bytes
        if traffic * 1e6 > 40 and traffic > 3 * arithmetic and moved > 4 * s.sheet.l2_bytes:
            reached.setdefault(s.sheet.memory, []).append(traffic * 1e6 / s.measured)
    table = {
        key: float(np.quantile(values, 0.9)) for key, values in sorted(reached.items()) if len(values) >= 5
    }
    table = {key: min(0.97, round(share, 4)) for key, share in table.items()}
    table["default"] = round(float(np.median(list(table.values()))), 4) if table else 0.87
    data["memory_share"] = table


# --- products -------------------------------------------------------------------------------------------------

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


# --- attention ------------------------------------------------------------------------------------------------

GENERATIONS: Final = ("fa2", "fa3", "blackwell")


def fit_attention(rows: Sequence[Sample], data: dict[str, Any], family: str) -> None:
    """One phase of attention: kernel constants, and the launches of each library's pipeline."""
    chosen = [s for s in rows if family_of_sample(s) == family]
    if len(chosen) < 20:
        return
    requests = requests_of(chosen, data)
    lines = np.array([attention_line(r, Constants(data)) for r in requests])
    own = np.maximum(lines[:, attention.KERNEL].astype(int) - 1, 0)
    # A kernel without rows takes the mean of the others.
    seen = [index in own for index in range(3)]
    alone = np.array([s.row.timing == "kernel" for s in chosen])
    clock_khz = np.array([s.sheet.clock for s in chosen]) / 1e3
    limits = [*ATTENTION.values(), (16.0, 4, 30), (16.0, 4, 30), (16.0, 4, 30), (2.5, 1, 6)]
    count = len(ATTENTION)
    out = np.zeros((len(lines), attention.RESULTS))

    def predicted(x: Array) -> Array:
        attention.attention_rows(lines, x[:count], out)
        launch = np.where(alone, x[count + 3], x[count : count + 3][own] * 1e6 / clock_khz)
        return np.asarray(out[:, 0] * 1e6 + launch)

    x = search(limits, predicted, measured_of(chosen), weights_of(chosen), rounds=4)
    for start in (attention.TILE, attention.BLOCK, count):
        known = [x[start + i] for i in range(3) if seen[i]]
        for i in range(3):
            if not seen[i]:
                x[start + i] = float(np.exp(np.mean(np.log(known))))
    data[family] = named(ATTENTION, x[:count])
    for name in ("graph-mean", "default", "vllm-hook-mean"):
        setup = data["setups"][name]
        setup["launch_us"][family] = 0.0
        for index, generation in enumerate(GENERATIONS):
            setup["launch_us"][f"{family}/{generation}"] = 0.0
            setup["launch_kcycles"][f"{family}/{generation}"] = rounded(x[count + index])
    data["setups"]["kernel"]["launch_us"][family] = rounded(x[count + 3])
    for setup in data["setups"].values():
        setup["launch_us"].setdefault("attention_alone", rounded(x[count + 3]))


# --- memory-bound ---------------------------------------------------------------------------------------------


def fit_memory_bound(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Each class and implementation, with the launches of its timings."""
    chosen = [s for s in rows if family_of_sample(s) == "memory_bound"]
    requests = requests_of(chosen, data)
    for name in memory_bound.CLASSES:
        for style in (True, False):
            mine = [
                i for i, r in enumerate(requests)
                if memory_class(r.operator) == name and r.setup.vectorised == style
            ]  # fmt: skip
            key = f"memory_bound/{name}" + ("" if style else "/scalar")
            if len(mine) >= 4:
                fit_class([chosen[i] for i in mine], [requests[i] for i in mine], data, key)
    data["memory_bound/lookup"] = dict(data["memory_bound/elementwise"])


def fit_class(rows: list[Sample], requests: list[Request], data: dict[str, Any], key: str) -> None:
    """One class of one implementation; changes ``data`` in place."""
    lines = np.array([memory_line(r, Constants(data)) for r in requests])
    timings = sorted({s.row.timing for s in rows})
    place = np.array([timings.index(s.row.timing) for s in rows])
    host = np.array([s.row.timing == "wall-incl-launch" for s in rows])
    launch = [(35.0, 3.0, 60.0) if t == "wall-incl-launch" else (4.0, 0.5, 20.0) for t in timings]
    to_us = np.where(host, 1.0, 1e9 / np.array([s.sheet.clock for s in rows]))
    limits = [*MEMORY.values(), *launch, (45.0, 5.0, 60.0) if host.any() else (0.0, 0.0, 0.0)]
    out = np.zeros((len(lines), memory_bound.RESULTS))

    def predicted(x: Array) -> Array:
        memory_bound.memory_bound_rows(lines, np.tile(x[: len(MEMORY)], (len(lines), 1)), out)
        total = out[:, 0] * 1e6 + x[len(MEMORY) : -1][place] * to_us
        return np.asarray(np.where(host, np.maximum(total, x[-1]), total))

    x = search(limits, predicted, measured_of(rows), weights_of(rows), rounds=2, evaluations=1200)
    data[key] = named(MEMORY, x[: len(MEMORY)])
    name = key.split("/")[1]
    for index, timing in enumerate(timings):
        setup, launched = data["setups"][timing], rounded(x[len(MEMORY) + index])
        wall = timing == "wall-incl-launch"
        setup["launch_us"][f"memory_bound/{name}"] = launched if wall else 0.0
        if not wall:
            setup["launch_kcycles"][f"memory_bound/{name}"] = launched
    if host.any():
        data["setups"]["wall-incl-launch"]["host_us"][f"memory_bound/{name}"] = rounded(x[-1])


# --- collectives ----------------------------------------------------------------------------------------------


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


# --- all ------------------------------------------------------------------------------------------------------


def family_of_sample(s: Sample) -> str:
    """The model's family of a row; "collective" for communication."""
    assert s.row.operator is not None
    return "collective" if is_collective(s) else family_of(s.row.operator)


def named(limits: Limits, x: Array) -> dict[str, float]:
    """Constants by name, to four digits."""
    return {name: rounded(value) for name, value in zip(limits, x, strict=True)}


def rounded(value: float) -> float:
    """To four significant digits: more is noise."""
    return float(f"{value:.4g}")


def fit_all(rows: Sequence[Sample], wanted: frozenset[str] = frozenset()) -> dict[str, Any]:
    """All constants from these rows; with ``wanted``, those of other families may stay at their start."""
    data = starting_point()
    fit_memory_share(rows, data)
    if not wanted or wanted & {"tensor16", "tensor8", "simt32"}:
        fit_products(rows, data)
    for family in ("attention_decode", "attention_prefill"):
        if not wanted or family in wanted:
            fit_attention(rows, data, family)
    if not wanted or "memory_bound" in wanted:
        fit_memory_bound(rows, data)
    if not wanted or "collective" in wanted:
        fit_collectives(rows, data)
    return data


def provenance(rows: Sequence[Sample]) -> dict[str, Any]:
    """What the constants rest on: rows by source and by family."""
    sources, families = (
        sorted(names) for names in ({source_of(s) for s in rows}, {family_of_sample(s) for s in rows})
    )
    return {
        "loss": "weighted mean of min(|log(predicted / measured)|, 1); Nelder-Mead, fixed starts",
        "rows": len(rows),
        "rows_by_source": {name: sum(source_of(s) == name for s in rows) for name in sources},
        "rows_by_family": {name: sum(family_of_sample(s) == name for s in rows) for name in families},
        "assumed": "memory_bound latency_us, collective network_share, setups' rotation, lookup as elementwise",
    }


def source_of(s: Sample) -> str:
    """The source of a row."""
    return s.row.cells.get("source", "")


def predicted_us(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """The model's microseconds for rows, as their timing would show them."""
    out = np.zeros(len(rows))
    computing = [i for i, s in enumerate(rows) if not is_collective(s)]
    for i, p in zip(
        computing, predict(requests_of([rows[i] for i in computing], data), Constants(data)), strict=True
    ):
        out[i] = p.seconds * 1e6
    talking = [i for i, s in enumerate(rows) if is_collective(s)]
    if talking:
        seconds = np.zeros(len(talking))
        lines = collective_lines([rows[i] for i in talking], data)
        collective.collective_rows(lines, Constants(data).array("collective", collective.CONSTANTS), seconds)
        out[talking] = seconds * 1e6
    return out


def class_of(s: Sample) -> str:
    """The class of the error tables, named as in the peers' tables."""
    operator = s.row.operator
    assert operator is not None
    if is_collective(s):
        ranks = float(s.row.cells.get("n_devices") or 2)
        if ranks > float(s.row.cells.get("devices_per_node") or ranks):
            return "internode_comm"
        return {"all_reduce": "all_reduce", "send": "send_recv"}.get(operator.kind, "other_collective")
    family = family_of(operator)
    if family == "simt32":
        return "bmm" if operator.attributes.get("batch", 1) != 1 else "gemm_fp32"
    if family in ("tensor16", "tensor8"):
        return "gemm" if family == "tensor16" else "gemm_fp8"
    if family == "memory_bound":
        name = memory_class(operator)
        return "elementwise" if name in ("elementwise", "gated", "lookup") else name
    return family


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each GPU out in turn and write the page")
    parser.add_argument("--out", type=Path, default=TARGET)
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    rows = samples()
    data = fit_all(rows)
    data["fit"] = provenance(rows)
    if chosen.out.is_file():
        # Fitted elsewhere (fit_power.py), on what these constants leave open.
        data.update(
            {key: value for key, value in json.loads(chosen.out.read_text()).items() if key == "power"}
        )
    write(chosen.out, json.dumps(data, indent=2) + "\n")
    print(f"fitted {len(rows)} rows in {time.monotonic() - started:.0f} s", file=sys.stderr)
    inside = predicted_us(rows, data)
    report(rows, inside, "in sample")
    if chosen.cross:
        outside = cross_validate(rows)
        report(rows, outside, "left out")
        classes, gpus = [class_of(s) for s in rows], [s.row.gpu for s in rows]
        text = gpu_report.tables(classes, gpus, measured_of(rows), inside, outside)
        gpu_report.write_page(f"{gpu_report.constants_table(data)}\n{text}", write)
        gpu_report.draw(classes, measured_of(rows), inside, outside)
    return 0


def cross_validate(rows: Sequence[Sample]) -> Array:
    """Each row's prediction from constants that no row of its chip went into."""
    out = np.zeros(len(rows))
    for chip in sorted({s.chip for s in rows}):
        held = [i for i, s in enumerate(rows) if s.chip == chip]
        wanted = frozenset(family_of_sample(rows[i]) for i in held)
        data = fit_all([s for s in rows if s.chip != chip], wanted)
        out[held] = predicted_us([rows[i] for i in held], data)
        print(f"left out {chip}", file=sys.stderr)
    return out


def report(rows: Sequence[Sample], predicted: Array, title: str) -> None:
    """Print errors by class, and by class and GPU."""
    errors = np.abs(predicted / measured_of(rows) - 1) * 100
    classes = [class_of(s) for s in rows]
    print(f"\n{title}: rows, mean, median, 95th percentile (%), median ratio")
    for name in sorted(set(classes)):
        mine = [i for i, c in enumerate(classes) if c == name]
        line(name, mine, errors, predicted, rows)
        for key in sorted({(rows[i].row.gpu, rows[i].row.cells.get("source", "")) for i in mine}):
            part = [i for i in mine if (rows[i].row.gpu, rows[i].row.cells.get("source", "")) == key]
            line("    " + " ".join(key), part, errors, predicted, rows)


def line(name: str, mine: list[int], errors: Array, predicted: Array, rows: Sequence[Sample]) -> None:
    """Print one line of the table."""
    e = errors[mine]
    ratio = np.median(predicted[mine] / measured_of([rows[i] for i in mine]))
    print(
        f"{name:42s} {len(mine):5d} {e.mean():7.1f} {np.median(e):7.1f} {np.quantile(e, 0.95):7.1f} {ratio:6.3f}"
    )


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    scratch = path.with_suffix(path.suffix + ".part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
