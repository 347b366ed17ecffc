"""Fits the constants of the GPU model on published measurements of single operators.

    python -m calibration.fit_gpu            # fit and write simulator/gpu/constants.json
    python -m calibration.fit_gpu --cross    # and leave each GPU out in turn; write docs/gpu-model.md

Reads ``tests/reference/gpu/operators.csv``, for attention ``tests/reference/kernels/kernels.csv`` too, and the shipped
device files. End-to-end measurements are never
read. Each constant is global, or belongs to a memory technology, a GPU generation, a kernel library or a way
to measure. Each (GPU, source) weighs with its row count to the power 0.7; ``search.py`` has the loss and the search.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration import fit_attention, fit_linear_attention, gpu_report
from calibration.fit_experts import expert_rows, fit_experts
from calibration.fit_few_rows import fit_few_rows
from calibration.fit_gpu_collective import COLLECTIVE, collective_lines, engine_exchanges, fit_collectives
from calibration.fit_memory_bound import MEMORY, fit_memory_bound, fit_memory_share
from calibration.fit_products import GEMM, all_rows, fit_products, layer_rows
from calibration.fit_products import predicted_us as kernels_us
from calibration.gpu_samples import (
    ROOT,
    Sample,
    class_of,
    family_of_sample,
    is_collective,
    measured_of,
    samples,
    source_of,
)
from simulator.gpu import collective, memory_bound
from simulator.gpu.constants import Constants
from simulator.gpu.request import PRODUCTS

Array = NDArray[np.float64]

TARGET: Final = ROOT / "simulator" / "gpu" / "constants.json"


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
        "energy_pj": {"tensor16": 2.3, "tensor8": 1.15, "integer8": 1.15, "tensor4": 0.7, "simt32": 20.0},
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
        "engine_scale": {"Ampere": 1.0, "default": 1.0},
        "network_bandwidth": {"Ampere": 8e9, "Hopper": 40e9, "default": 25e9},
    }
    for family in sorted(PRODUCTS):
        data[family] = {name: limit[0] for name, limit in GEMM.items()}
    for family in fit_attention.FAMILIES:
        data[family] = {name: limit[0] for name, limit in fit_attention.ATTENTION.items()}
    for name in memory_bound.CLASSES:
        data[f"memory_bound/{name}"] = {key: limit[0] for key, limit in MEMORY.items()}
    data["collective"] = {name: limit[0] for name, limit in COLLECTIVE.items()}
    return data


CROSS_EVALUATIONS: Final = 500
"""Of a search for products with a chip left out; fewer than of the fit that stands, enough to tell how it transfers."""


def fit_all(
    rows: Sequence[Sample], wanted: frozenset[str] = frozenset(), without: str = ""
) -> dict[str, Any]:
    """All constants from these rows; with ``wanted``, those of other families may stay at their start.

    To attention come the rows of engines' kernels (``fit_attention.py``, ``fit_linear_attention.py``) but for those
    of the chip ``without``.
    """
    data = starting_point()
    fit_memory_share(rows, data)
    if not wanted or wanted & PRODUCTS:
        products = [*rows, *layer_rows(frozenset(s.chip for s in rows))]
        if without:
            fit_products(products, data, wanted, CROSS_EVALUATIONS)
        else:
            fit_products(products, data)
    engines = [s for s in samples(fit_attention.KERNEL_ROWS) if s.chip != without]
    for family in fit_attention.FAMILIES:
        if not wanted or family in wanted:
            fit_attention.fit_attention([*rows, *engines], data, family)
    for family in fit_linear_attention.FAMILIES:
        fit_linear_attention.fit_linear_attention(engines, data, family)
    if not wanted or "memory_bound" in wanted:
        fit_memory_bound(rows, data)
    if not wanted or "collective" in wanted:
        left_out = {s.chip for s in samples()} - {s.chip for s in rows}
        fit_collectives([*rows, *(s for s in engine_exchanges() if s.chip not in left_out)], data)
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


def predicted_us(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """The model's microseconds for rows, as their timing would show them."""
    out = np.zeros(len(rows))
    computing = [i for i, s in enumerate(rows) if not is_collective(s)]
    out[computing] = kernels_us([rows[i] for i in computing], data)
    talking = [i for i, s in enumerate(rows) if is_collective(s)]
    if talking:
        seconds = np.zeros(len(talking))
        lines = collective_lines([rows[i] for i in talking], data)
        collective.collective_rows(lines, Constants(data).array("collective", collective.CONSTANTS), seconds)
        out[talking] = seconds * 1e6
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each GPU out in turn and write the page")
    parser.add_argument("--out", type=Path, default=TARGET)
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    rows = samples()
    data = fit_all(rows)
    fit_experts(expert_rows(), data)
    fit_few_rows(all_rows(), data)
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
        data = fit_all([s for s in rows if s.chip != chip], wanted, chip)
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
