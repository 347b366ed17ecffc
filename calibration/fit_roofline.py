"""Fits the constants of the analytic roofline on published measurements of single operators.

    python -m calibration.fit_roofline            # fit, cross-validate, write constants and residuals
    python -m calibration.fit_roofline --check    # the same, but only say whether the files are current

Reads ``tests/reference/gpu/operators.csv``, writes ``simulator/cost/roofline_constants.json`` and the tables
of ``docs/validation.md``. End-to-end measurements are never read. Each constant is global, or belongs to a
GPU generation; every error table is given twice: fitted on all rows, and with the rows of the GPU left out of
the fit. The loss is the mean absolute logarithm of predicted over measured time.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from calibration.fit_collective import fit_collectives
from hw_configs.catalog import known_name
from offchip.validation.collective_rows import predicted_collective_us
from offchip.validation.operator_groups import collective_class
from offchip.validation.reference_gpu import ReferenceGpu, ReferenceGpus
from offchip.validation.timing import added_us
from simulator.cost.model import roof_seconds
from simulator.cost.roofline import (
    COMMUNICATION_KINDS,
    ROW_IN_REGISTERS,
    ROWS_PER_UNIT,
    Roofline,
    generation,
    half_rate,
    operator_class,
    power_share,
    query_tile,
    sequences,
    soft_max,
    tiling_loss,
)
from workloads.graph import Operator
from workloads.operator_table import TableRow, read_operator_table
from workloads.operators import Norm, Softmax

Array = NDArray[np.float64]
ROOT: Final = Path(__file__).resolve().parent.parent
DATA: Final = ROOT / "tests" / "reference" / "gpu"
CONSTANTS: Final = ROOT / "simulator" / "cost" / "roofline_constants.json"
PAGE: Final = ROOT / "docs" / "validation.md"
CLASSES: Final = (
    "gemm16", "gemm8", "gemm32", "bmm", "attention_prefill", "attention_decode", "norm", "elementwise",
    "softmax", "scalar_norm", "scalar_activation", "scalar_rotary",
)  # fmt: skip
MATRIX_CLASSES: Final = ("gemm16", "gemm8", "attention_prefill", "attention_decode", "conv")
KEYS: Final = ("launch_us", "compute", "memory", "overlap", "tile_us", "reread", "l2_share")
POWER_CLASSES: Final = ("gemm32", "bmm", "conv32")
WALL: Final = "wall-incl-launch"
"""The timing method that includes the host's work, whose addition is fitted per class: host paths differ."""
_STREAMING: Final = {"compute": 0.5, "overlap": 4.0}
FIXED: Final[dict[str, dict[str, float]]] = {
    **dict.fromkeys(("norm", "elementwise", "softmax"), _STREAMING),
    **dict.fromkeys(("scalar_norm", "scalar_activation", "scalar_rotary"), _STREAMING),
    "gemm32": {"launch_us": 4.0, "memory": 0.8, "overlap": 2.0},
    "bmm": {"launch_us": 4.0},
    "attention_decode": {"compute": 0.5},
}
"""Constants that the rows of a class cannot tell, because another roof always decides: assumptions."""
ROUNDS: Final = 3


@dataclass(frozen=True)
class Sample:
    """One measured row and what the model's form needs of it; seconds are microseconds here."""

    row: TableRow
    gpu: ReferenceGpu
    name: str
    arithmetic_us: float
    traffic_us: float
    tiles: float
    read_us: float
    in_flight: float
    measured_us: float


def samples() -> list[Sample]:
    """Every measured operator that is not communication."""
    gpus = ReferenceGpus(DATA / "hardware.csv", shipped=False)
    found = []
    for row in read_operator_table(DATA / "operators.csv").rows:
        operator, gpu = row.operator, gpus.find(row.gpu)
        if operator is None or gpu is None or row.measured_us is None or operator.kind in COMMUNICATION_KINDS:
            continue
        compute = gpu.gpu.compute
        arithmetic, traffic = roof_seconds(operator, compute, gpu.memory)
        name = operator_class(operator)
        if name == "attention_prefill":
            arithmetic *= tiling_loss(operator, gpu.gpu.multiprocessors, query_tile(gpu.gpu))
        tiles = sequences(operator) / gpu.gpu.multiprocessors if name == "attention_decode" else 0.0
        read_us = operator.read_bytes / gpu.memory.read_bandwidth * 1e6
        in_flight = rows_in_flight(operator, gpu)
        found.append(
            Sample(
                row, gpu, name, arithmetic * 1e6, traffic * 1e6, tiles, read_us, in_flight, row.measured_us
            )
        )
    return found


def rows_in_flight(operator: Operator, gpu: ReferenceGpu) -> float:
    """Bytes of the rows in flight over the L2 size; 0 for what is never read a second time from DRAM."""
    l2 = gpu.gpu.l2.size
    if not isinstance(operator.work, Norm | Softmax) or operator.read_bytes <= l2:
        return 0.0
    rows, columns = operator.work.m, operator.work.n
    if columns <= ROW_IN_REGISTERS:
        return 0.0
    return min(rows, ROWS_PER_UNIT * gpu.gpu.multiprocessors) * (operator.read_bytes / rows) / l2


def starting_point() -> dict[str, Any]:
    """Constants before any fit: assumptions that the fit keeps, and first values for those it replaces."""
    classes: dict[str, dict[str, float]] = {
        name: {"launch_us": 4.0, "compute": 0.7, "memory": 0.8, "overlap": 2.0} for name in CLASSES
    }
    classes["attention_decode"]["tile_us"] = 3.0
    for name in ("norm", "softmax"):
        classes[name] |= {"reread": 1.0, "l2_share": 0.5}
    for name, fixed in FIXED.items():
        classes[name] |= fixed
    return {
        "classes": classes,
        "matrix_classes": list(MATRIX_CLASSES),
        "half_rate_gain": 1.0,
        "memory_by_generation": {"default": 1.0},
        "power_classes": list(POWER_CLASSES),
        "power": {
            "share_of_tdp": 0.8,
            "fp32_pj_per_flop": 14.0,
            "process_scale": {
                "Pascal": 1.0, "Volta": 1.0, "Turing": 1.0, "Ampere": 0.6, "Ada": 0.33, "Hopper": 0.33,
                "Blackwell": 0.33, "default": 0.33,
            },
        },
        "timing_us": {WALL: 20.0} | {f"{WALL}:{name}": 0.0 for name in CLASSES},
    }  # fmt: skip


@dataclass
class Columns:
    """Samples of one class as arrays."""

    a: Array
    m: Array
    tiles: Array
    read: Array
    in_flight: Array
    y: Array
    wall: Array
    half: Array
    generations: list[str]
    sheets: list[ReferenceGpu]


def columns(rows: list[Sample]) -> Columns:
    """The arrays of a class's samples."""

    def array(values: Iterable[float]) -> Array:
        return np.fromiter(values, dtype=np.float64)

    return Columns(
        array(s.arithmetic_us for s in rows),
        array(s.traffic_us for s in rows),
        array(s.tiles for s in rows),
        array(s.read_us for s in rows),
        array(s.in_flight for s in rows),
        array(s.measured_us for s in rows),
        array(float(s.row.timing == WALL) for s in rows),
        array(float(half_rate(s.gpu.gpu)) for s in rows),
        [generation(s.gpu.gpu) for s in rows],
        [s.gpu for s in rows],
    )


def predict(name: str, own: dict[str, float], fit: dict[str, Any], c: Columns) -> Array:
    """The model's form over arrays, in microseconds: ``Roofline.cost`` plus the timing's extra."""
    compute = np.full_like(c.a, own["compute"])
    if name in MATRIX_CLASSES:
        compute = compute * np.where(c.half > 0, fit["half_rate_gain"], 1.0)
    if name in POWER_CLASSES:
        shares = {id(g): power_share(g.gpu, fit) for g in c.sheets}
        compute = np.minimum(compute, np.array([shares[id(g)] for g in c.sheets]))
    shares_of = fit["memory_by_generation"]
    memory = own["memory"] * np.array([shares_of.get(g, shares_of["default"]) for g in c.generations])
    traffic = c.m
    if "reread" in own:
        traffic = c.m + own["reread"] * c.read * np.minimum(1.0, c.in_flight / own["l2_share"])
    kernel = soft_max(c.a / np.minimum(compute, 1.0), traffic / np.minimum(memory, 1.0), own["overlap"])
    table = fit["timing_us"]
    extra = c.wall * (table[WALL] + table[f"{WALL}:{name}"])
    total: Array = own["launch_us"] + own.get("tile_us", 0.0) * c.tiles + kernel + extra
    return total


def _descend(loss: Callable[[Array], float], start: Array) -> Array:
    x = start
    for _ in range(2):
        x = minimize(loss, x, method="Powell", options={"xtol": 1e-4, "ftol": 1e-6}).x
        x = minimize(loss, x, method="Nelder-Mead", options={"maxfev": 1500, "adaptive": True}).x
    return np.asarray(x, dtype=np.float64)


def fit_class(name: str, fit: dict[str, Any], c: Columns) -> None:
    """Fit the constants of one class, the rest of the constants held still; changes ``fit`` in place."""
    own = fit["classes"][name]
    fixed = FIXED.get(name, {})
    keys = [key for key in KEYS if key in own]
    keys = [key for key in keys if key not in fixed]
    limits = {"launch_us": (0.3, 15.0), "compute": (0.05, 1.0), "memory": (0.05, 0.98), "overlap": (1.0, 8.0),
              "tile_us": (0.05, 50.0), "reread": (0.01, 3.0), "l2_share": (0.05, 4.0)}  # fmt: skip
    powered = name == "gemm32"

    def unpack(x: Array) -> tuple[dict[str, float], float]:
        values = {key: float(np.clip(np.exp(v), *limits[key])) for key, v in zip(keys, x, strict=False)}
        values = {key: {**values, **fixed}[key] for key in own}
        outside = sum(
            max(0.0, np.log(limits[key][0]) - v, v - np.log(limits[key][1]))
            for key, v in zip(keys, x, strict=False)
        )
        return values, float(outside)

    def loss(x: Array) -> float:
        values, outside = unpack(x)
        if powered:
            fit["power"]["fp32_pj_per_flop"] = float(np.exp(np.clip(x[-1], 0, 4)))
        predicted = predict(name, values, fit, c)
        return float(np.mean(np.abs(np.log(predicted / c.y)))) + 0.01 * outside

    start = [np.log(own[key]) for key in keys] + (
        [np.log(fit["power"]["fp32_pj_per_flop"])] if powered else []
    )
    best = _descend(loss, np.array(start))
    loss(best)
    fit["classes"][name] = unpack(best)[0]


def fit_shared(fit: dict[str, Any], by_class: dict[str, Columns]) -> None:
    """Fit what classes share, from rows that one effect dominates; changes ``fit`` in place.

    Memory by generation: rows that take twice as long to move as to compute. Half-rate gain: the reverse, on
    boards with half-rate matrix units. Timing: rows whose kernel is shorter than the extra.
    """
    ratios: dict[str, list[float]] = {}
    gains: list[float] = []
    extras: dict[str, list[float]] = {key: [] for key in fit["timing_us"]}
    for name, c in by_class.items():
        own = fit["classes"][name]
        predicted = predict(name, own, fit, c)
        table = fit["memory_by_generation"]
        for i, g in enumerate(c.generations):
            if c.m[i] > 2 * c.a[i] and c.m[i] > 20 and name != "attention_prefill" and not c.wall[i]:
                ratios.setdefault(g, []).append(table.get(g, table["default"]) * predicted[i] / c.y[i])
            if c.half[i] and name in MATRIX_CLASSES and c.a[i] > 2 * c.m[i] and c.a[i] > 50:
                gains.append(fit["half_rate_gain"] * predicted[i] / c.y[i])
            key = f"{WALL}:{name}"
            if c.wall[i] and c.a[i] + c.m[i] < own["launch_us"]:
                extras[key].append(fit["timing_us"][key] + c.y[i] - predicted[i])
    for g, values in ratios.items():
        fit["memory_by_generation"][g] = float(np.median(values))
    known = [v for g, v in fit["memory_by_generation"].items() if g != "default"]
    fit["memory_by_generation"]["default"] = float(np.exp(np.mean(np.log(known)))) if known else 1.0
    if gains:
        fit["half_rate_gain"] = max(1.0, float(np.median(gains)))
    for key, extra in extras.items():
        if extra:
            fit["timing_us"][key] = max(-20.0, float(np.median(extra)))


def fit_all(rows: list[Sample]) -> dict[str, Any]:
    """All operator constants from these samples."""
    fit = starting_point()
    by_class = {name: columns([s for s in rows if s.name == name]) for name in CLASSES}
    by_class = {name: c for name, c in by_class.items() if len(c.y) >= 5}
    for _ in range(ROUNDS):
        for name, c in by_class.items():
            fit_class(name, fit, c)
        fit_shared(fit, by_class)
    for name, c in by_class.items():
        fit_class(name, fit, c)
    return fit


NOT_MEASURED: Final = {"conv": "gemm16", "conv32": "gemm32", "lookup": "elementwise", "other": "elementwise"}
"""Classes that no row covers, and the class whose constants they take: assumptions."""
ASSUMED: Final = {
    "cpu": {"compute": 0.6, "memory": 0.7},
    "accelerator": {"compute": 0.7, "memory": 0.8},
    "csd": {"compute": 0.6, "memory": 0.8},
    "pim": {"compute": 0.7, "memory": 0.8},
}
"""Shares reached by devices without measurements: conservative assumptions."""


def constants_file(fit: dict[str, Any], collective: dict[str, Any], rows: list[Sample]) -> dict[str, Any]:
    """The content of the constants file: rounded constants, each group with its source and rows."""
    fit = copy.deepcopy(fit)
    for name, other in NOT_MEASURED.items():
        fit["classes"][name] = {**fit["classes"][other], "rows": 0, "source": f"assumption: as {other}"}
    for name in CLASSES:
        chosen = [s for s in rows if s.name == name]
        sources = sorted({s.row.cells.get("source", "") for s in chosen})
        note = f"fitted on {', '.join(sources)}"
        if name in FIXED:
            note += f"; {' and '.join(FIXED[name])} assumed"
        fit["classes"][name] |= {"rows": len(chosen), "source": note}
    content = {
        "about": "Written by calibration/fit_roofline.py. Times in microseconds; shares of data-sheet peaks.",
        "gpu": fit,
        "notes": {
            "memory_by_generation": "fitted: share of bandwidth reached, relative to the class's own share",
            "half_rate_gain": "fitted on boards whose matrix rate is at most 2.5 times the FP32 vector rate",
            "power.fp32_pj_per_flop": "fitted on FP32 products of power-limited boards, 16/12 nm process",
            "power.process_scale": "assumption: energy per FP32 operation relative to 16/12 nm",
            "power.share_of_tdp": "assumption: share of the board's power left to arithmetic",
            "timing_us": "fitted: what a timing method adds to kernel and launch time",
            "collective": "fitted, except network_bandwidth (bytes/s per port), an assumption",
            "assumed": "assumption: no measurements of these devices",
        },
        "collective": collective,
        "assumed": ASSUMED,
    }
    rounded: dict[str, Any] = _rounded(content)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def predictions(content: dict[str, Any], rows: list[Sample]) -> Array:
    """Microseconds of each sample by the shipped model itself, with the timing method's addition."""
    model = Roofline("fit", content)
    out = []
    for s in rows:
        assert s.row.operator is not None
        cost = model.cost(s.row.operator, s.gpu.node, s.gpu.memory)
        extra = added_us(s.row.timing, s.name, content["gpu"])
        out.append((cost.seconds + cost.launch_seconds) * 1e6 + extra)
    return np.array(out)


def collective_rows() -> list[tuple[TableRow, ReferenceGpu]]:
    """Every measured row of communication."""
    gpus = ReferenceGpus(DATA / "hardware.csv", shipped=False)
    found = []
    for row in read_operator_table(DATA / "operators.csv").rows:
        gpu = gpus.find(row.gpu)
        if row.operator is not None and row.operator.kind in COMMUNICATION_KINDS and gpu is not None:
            found.append((row, gpu))
    return found


def errors(predicted: Array, measured: Array) -> str:
    """Mean, median and 95th percentile of the absolute error in %, and the median ratio."""
    off = np.abs(predicted / measured - 1) * 100
    return (
        f"{np.mean(off):.1f} | {np.median(off):.1f} | {np.percentile(off, 95):.0f} | "
        f"{np.median(predicted / measured):.2f}"
    )


@dataclass
class Table:
    """One measured figure per row, predicted in and out of sample, with the names to group by."""

    names: list[str]
    gpus: list[str]
    measured: Array
    fitted: Array
    held_out: Array

    def lines(self, group: list[str], head: str) -> list[str]:
        """A Markdown table by group."""
        out = [
            f"| {head} | rows | mean | median | p95 | ratio | mean, left out | median | p95 | ratio |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name in sorted(set(group)):
            mask = np.array([entry == name for entry in group])
            known = mask & (self.held_out > 0)
            left = errors(self.held_out[known], self.measured[known]) if known.any() else "- | - | - | -"
            fitted = errors(self.fitted[mask], self.measured[mask])
            out.append(f"| {name} | {mask.sum()} | {fitted} | {left} |")
        return out


def board(gpu: str) -> str:
    """The board behind a source's name; two names of one board are left out together."""
    return known_name(gpu) or gpu.lower()


def cross_validate(
    rows: list[Sample], links: list[tuple[TableRow, ReferenceGpu]]
) -> tuple[dict[str, Any], Table]:
    """The fit on everything, and every row's prediction with its board left out of the fit."""
    content = constants_file(fit_all(rows), fit_collectives(links), rows)
    names = [s.name for s in rows] + [collective_class(row) for row, _ in links]
    gpus = [s.row.gpu for s in rows] + [row.gpu for row, _ in links]
    measured = np.array([s.measured_us for s in rows] + [row.measured_us or 0.0 for row, _ in links])
    fitted = np.concatenate([predictions(content, rows), _link_predictions(content, links)])
    held_out = np.zeros_like(measured)
    for out in sorted({board(gpu) for gpu in gpus}):
        kept, left = ([s for s in rows if (board(s.row.gpu) == out) == side] for side in (False, True))
        links_kept, links_left = (
            [r for r in links if (board(r[0].gpu) == out) == side] for side in (False, True)
        )
        part = constants_file(fit_all(kept), fit_collectives(links_kept), kept)
        mask = np.array([board(gpu) == out for gpu in gpus])
        held_out[mask] = np.concatenate([predictions(part, left), _link_predictions(part, links_left)])
        print(f"left out {out}: {errors(held_out[mask], measured[mask])}", file=sys.stderr, flush=True)
    return content, Table(names, gpus, measured, fitted, held_out)


def _link_predictions(content: dict[str, Any], links: list[tuple[TableRow, ReferenceGpu]]) -> Array:
    return np.array([predicted_collective_us(row, gpu, content["collective"]) or 0.0 for row, gpu in links])


def write_page(table: Table) -> str:
    """The page with its two tables replaced."""
    text = PAGE.read_text(encoding="utf-8")
    for mark, group, head in (("class", table.names, "class"), ("gpu", table.gpus, "GPU")):
        start, end = f"<!-- residuals by {mark} -->", f"<!-- end of residuals by {mark} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = "\n".join([before + start, *table.lines(group, head), end + after])
    return text


def main() -> int:
    """Fit, cross-validate, print, and write or check the two files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument(
        "--quick", action="store_true", help="fit and write the constants, no cross-validation"
    )
    arguments = parser.parse_args()
    rows, links = samples(), collective_rows()
    if arguments.quick:
        content = constants_file(fit_all(rows), fit_collectives(links), rows)
        CONSTANTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        predicted = predictions(content, rows)
        for name in CLASSES:
            mask = np.array([s.name == name for s in rows])
            measured = np.array([s.measured_us for s in rows])
            print(f"{name:20} {mask.sum():5} {errors(predicted[mask], measured[mask])}")
        linked = _link_predictions(content, links)
        for name in sorted({collective_class(row) for row, _ in links}):
            mask = np.array([collective_class(row) == name for row, _ in links])
            measured = np.array([row.measured_us or 0.0 for row, _ in links])
            print(f"{name:20} {mask.sum():5} {errors(linked[mask], measured[mask])}")
        return 0
    content, table = cross_validate(rows, links)
    for group, head in ((table.names, "class"), (table.gpus, "GPU")):
        print("\n".join(table.lines(group, head)))
    wanted = {CONSTANTS: json.dumps(content, indent=2) + "\n", PAGE: write_page(table)}
    stale = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    if arguments.check:
        print("stale: " + ", ".join(str(path) for path in stale) if stale else "all files are current")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
