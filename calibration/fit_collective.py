"""Fits the constants of ``simulator/cost/collective_time.py``; called by ``fit_roofline.py``."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from offchip.validation.collective_rows import predicted_collective_us, wire_of
from offchip.validation.reference_gpu import ReferenceGpu
from simulator.cost.collective import schedule
from simulator.cost.roofline import generation
from workloads.operator_table import TableRow

Array = NDArray[np.float64]
Rows = list[tuple[TableRow, ReferenceGpu]]
NETWORK_BANDWIDTH: Final = 25e9
"""Bytes per second and port: HDR InfiniBand, an assumption whose error the fitted share absorbs."""
KEYS: Final = ("base_us", "step_us", "share", "simple_base_us", "simple_step_us", "simple_share", "copy")
LIMITS: Final = ((0.5, 200), (0.01, 50), (0.01, 1), (0.5, 400), (0.01, 100), (0.01, 1), (1e-4, 2))
START: Final = (8.0, 1.0, 0.4, 20.0, 3.0, 0.9, 0.3)
REFERENCE_GENERATION: Final = "Ampere"


def _loss(x: Array, c: dict[str, Array]) -> float:
    low, high = (np.log([limit[i] for limit in LIMITS]) for i in (0, 1))
    v = np.exp(np.clip(x, low, high))
    moved = (c["critical"] + v[6] * c["bytes"]) / c["bandwidth"] * 1e6
    quick = c["scale"] * (v[0] + v[1] * c["steps"]) + moved / v[2]
    simple = c["scale"] * (v[3] + v[4] * c["steps"]) + moved / v[5]
    predicted = np.maximum(np.minimum(quick, simple), c["critical"] / c["bandwidth"] * 1e6) + c["skew"]
    outside = np.maximum(low - x, 0) + np.maximum(x - high, 0)
    return float(np.mean(np.abs(np.log(predicted / c["measured"]))) + 0.01 * np.sum(outside))


def _columns(rows: Rows, fit: dict[str, Any]) -> dict[str, Array]:
    table: dict[str, list[float]] = {
        k: [] for k in ("critical", "bytes", "bandwidth", "steps", "scale", "skew", "measured")
    }
    for row, gpu in rows:
        assert row.operator is not None
        assert row.measured_us is not None
        ranks = int(row.cells["n_devices"])
        form = schedule(row.operator.kind, "ring", ranks, row.exchanged_bytes)
        wires = {"peer": gpu.wire_bandwidth, "host": gpu.host_bandwidth, "network": NETWORK_BANDWIDTH}
        bandwidth = wires[wire_of(row)]
        assert bandwidth is not None
        table["critical"].append(form.critical_bytes)
        table["bytes"].append(form.bytes)
        table["bandwidth"].append(bandwidth)
        table["steps"].append(1 if form.kind == "all_to_all" else form.steps)
        table["scale"].append(fit["latency_by_generation"].get(generation(gpu.gpu), 1.0))
        table["skew"].append(fit["eager_skew_us"] if row.timing == "kernel" and ranks > 2 else 0.0)
        table["measured"].append(row.measured_us)
    return {key: np.array(values) for key, values in table.items()}


def fit_collectives(rows: Rows) -> dict[str, Any]:
    """The constants from these rows: by wire for rings and for single messages, then what they share."""
    fit: dict[str, Any] = {
        "network_bandwidth": NETWORK_BANDWIDTH,
        "latency_by_generation": {REFERENCE_GENERATION: 1.0},
        "eager_skew_us": 10.0,
        "ring": {wire: dict(zip(KEYS, START, strict=True)) for wire in ("peer", "host", "network")},
        "send": {wire: dict(zip(KEYS, START, strict=True)) for wire in ("peer", "host", "network")},
    }
    for _ in range(3):
        for family in ("ring", "send"):
            for wire in ("peer", "host", "network"):
                chosen = [
                    r for r in rows if r[0].operator and (r[0].operator.kind == "send") == (family == "send")
                    and wire_of(r[0]) == wire
                ]  # fmt: skip
                if len(chosen) >= 8:
                    _fit_group(fit[family][wire], _columns(chosen, fit))
        _fit_shared(fit, rows)
    return fit


def _fit_group(own: dict[str, float], c: dict[str, Array]) -> None:
    x = np.log([own[key] for key in KEYS])
    for _ in range(2):
        x = minimize(_loss, x, args=(c,), method="Powell").x
        x = minimize(_loss, x, args=(c,), method="Nelder-Mead", options={"maxfev": 2500, "adaptive": True}).x
    for key, value, limit in zip(KEYS, np.exp(x), LIMITS, strict=True):
        own[key] = float(np.clip(value, *limit))


def _fit_shared(fit: dict[str, Any], rows: Rows) -> None:
    """Latency by generation and eager skew, each the median residual of rows too small to use bandwidth."""
    ratios: dict[str, list[float]] = {}
    skews: list[float] = []
    for row, gpu in rows:
        assert row.operator is not None
        assert row.measured_us is not None
        small = row.exchanged_bytes <= 1 << 17
        if wire_of(row) != "peer" or row.operator.kind == "send" or not small:
            continue
        predicted = predicted_collective_us(row, gpu, fit)
        assert predicted is not None
        scale = fit["latency_by_generation"].get(generation(gpu.gpu), 1.0)
        if row.timing != "kernel":
            ratios.setdefault(generation(gpu.gpu), []).append(scale * row.measured_us / predicted)
        elif int(row.cells["n_devices"]) > 2:
            skews.append(row.measured_us - predicted + fit["eager_skew_us"])
    for name, values in ratios.items():
        if name != REFERENCE_GENERATION:
            fit["latency_by_generation"][name] = float(np.median(values))
    if skews:
        fit["eager_skew_us"] = max(0.0, float(np.median(skews)))
