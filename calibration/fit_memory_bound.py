"""Fits shares of memory bandwidth, and the constants of memory-bound kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.gpu_samples import Sample, family_of_sample, measured_of, requests_of, weights_of
from calibration.search import Limits, named, rounded, search
from simulator.gpu import memory_bound
from simulator.gpu.constants import Constants
from simulator.gpu.request import Request
from simulator.gpu.rows import memory_class, memory_line

Array = NDArray[np.float64]

MEMORY: Final[Limits] = {
    "in_flight_kib": (32.0, 1.0, 128.0), "latency_us": (0.6, 0.6, 0.6), "row_us": (0.8, 0.05, 20.0),
    "keep": (0.7, 0.05, 1.0), "l2_share": (0.8, 0.2, 1.0), "access": (0.97, 0.5, 1.0),
    "exit_us": (0.3, 0.01, 2.0), "kept": (12.0, 2.0, 128.0), "packed_kib": (8.0, 8.0, 8.0),
}  # fmt: skip

ONE_ROW: Final = (0.0, 0.0, 0.0)
"""``packed_kib`` of libraries that give each row a thread block of its own; others are assumed, as no row is narrow."""
SCALAR_CLASSES: Final = ("norm", "elementwise", "gated", "rotary")


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
    limits = [
        *(MEMORY | ({"packed_kib": ONE_ROW} if key.endswith("/scalar") else {})).values(),
        *launch,
        (45.0, 5.0, 60.0) if host.any() else (0.0, 0.0, 0.0),
    ]
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
