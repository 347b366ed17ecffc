"""Fits shares of memory bandwidth, and the constants of memory-bound kernels.

    python -m calibration.fit_memory_bound            # fit and write these keys of simulator/gpu/constants.json
    python -m calibration.fit_memory_bound --cross    # and leave each chip out in turn; prints errors

Reads ``tests/reference/gpu/operators.csv``: the table of engines' kernels has none that stand alone. What quantises an
activation is fitted with the products that it precedes (``fit_products.py``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.gpu_samples import (
    ROOT,
    Sample,
    family_of_sample,
    measured_of,
    requests_of,
    samples,
    weights_of,
)
from calibration.search import Limits, named, rounded, search
from simulator.gpu import memory_bound
from simulator.gpu.constants import Constants
from simulator.gpu.request import Request
from simulator.gpu.rows import memory_class, memory_line, predict

Array = NDArray[np.float64]
TARGET: Final = ROOT / "simulator" / "gpu" / "constants.json"

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

    x = search(limits, predicted, measured_of(rows), weights_of(rows), rounds=4, evaluations=1200)
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


def report(rows: Sequence[Sample], data: dict[str, Any], title: str) -> None:
    """Print mean and median errors and the median ratio, by class and GPU."""
    requests = requests_of(rows, data)
    ratio = np.array([p.seconds * 1e6 for p in predict(requests, Constants(data))]) / measured_of(rows)
    print(f"{title}: rows, mean, median (%), median ratio")
    names = [(memory_class(r.operator), s.row.gpu) for r, s in zip(requests, rows, strict=True)]
    for depth in (1, 2):
        for key in sorted({name[:depth] for name in names}):
            own = ratio[[name[:depth] == key for name in names]]
            off = np.abs(own - 1) * 100
            print(
                f"  {' '.join(key):36s} {len(own):4d} {off.mean():7.1f} {np.median(off):7.1f} {np.median(own):6.2f}"
            )


def main() -> None:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each chip out in turn")
    chosen = parser.parse_args()
    rows = [s for s in samples() if family_of_sample(s) == "memory_bound"]
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    fit_memory_bound(rows, data)
    TARGET.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    report(rows, data, "in sample")
    if chosen.cross:
        for chip in sorted({s.chip for s in rows}):
            left = json.loads(json.dumps(data))
            kept = [s for s in rows if s.chip != chip]
            left["memory_share"].update(shares_of(kept))
            known = {s.sheet.memory for s in kept}
            for key in {s.sheet.memory for s in rows if s.chip == chip} - known:
                left["memory_share"].pop(key, None)
            fit_memory_bound(kept, left)
            report([s for s in rows if s.chip == chip], left, f"left out {chip}")


def shares_of(rows: Sequence[Sample]) -> dict[str, float]:
    """Shares of bandwidth that these rows tell."""
    made: dict[str, Any] = {}
    fit_memory_share(rows, made)
    return {str(key): float(share) for key, share in made["memory_share"].items()}


if __name__ == "__main__":
    main()
