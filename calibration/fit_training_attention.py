"""Fit the attention kernels of training (:mod:`simulator.gpu.training_attention`) to published tables.

    python -m calibration.fit_training_attention          # fit and write its keys of simulator/gpu/constants.json
    python -m calibration.fit_training_attention --dry    # print errors, write nothing

Rows are ``tests/reference/training/attention.csv``: TFLOP/s that the libraries' authors printed. Those marked held are
fitted by nobody. A library has a share of the matrix rate, exponentials and cycles per tile for each direction; none
belongs to a chip. FlashAttention-4's four rows leave cycles per tile as FlashAttention-3's.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibration.fit_products import TARGET
from hw_configs.device import Gpu
from hw_configs.library import load_system
from hw_configs.output_file import replacing
from simulator.gpu.attention_lines import training_line
from simulator.gpu.constants import Constants
from simulator.gpu.request import Request
from simulator.gpu.sheet import gpu_sheet
from simulator.gpu.training_attention import CONSTANTS, LIBRARIES, training_attention_rows
from workloads.graph import Operator, Place
from workloads.operators import Attention

Array = NDArray[np.float64]
ROWS: Final = Path(__file__).parent.parent / "tests" / "reference" / "training" / "attention.csv"
BACKWARD: Final = 2.5
LIMITS: Final = {
    "share": (0.5, 0.2, 1.0),
    "exponentials": (0.5, 0.0, 6.0),
    "tile_cycles": (3000.0, 0.0, 60000.0),
}
"""Start, least and most of each constant."""


def table() -> list[dict[str, str]]:
    """The published rows."""
    with ROWS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines_of(rows: list[dict[str, str]], data: dict[str, Any], way: str) -> Array:
    """Inputs of the kernel for rows in one direction."""
    # A benchmark of one kernel has all of the board's limit.
    constants = Constants({**data, "power": {**data["power"], "sustained_share": 1.0}})
    lines = []
    for row in rows:
        system = load_system(row["gpu"])
        node = next(iter(system.nodes.values()))
        assert isinstance(node.device, Gpu)
        sheet = gpu_sheet(node.device, system.memories[node.name])
        length = int(row["sequence"])
        work = Attention(
            batch=int(row["batch"]), heads=int(row["heads"]), kv_heads=int(row["heads"]), head_dim=int(row["head_dim"]),
            q_len=length, kv_len=length, causal=row["causal"] == "1", library=row["kernel"],
            share=BACKWARD if way == "backward" else 1.0,
        )  # fmt: skip
        operator = Operator("attention", work, (), (), dtype="fp16", place=Place(training_pass=way))
        lines.append(training_line(Request(operator, sheet, constants.setup("default")), constants))
    return np.array(lines)


def measured(row: dict[str, str]) -> float:
    """Seconds of a row, by the FLOPs that its source counts: half of all pairs under a causal mask."""
    pairs = int(row["sequence"]) ** 2 * (0.5 if row["causal"] == "1" else 1.0)
    forward = 4.0 * int(row["batch"]) * int(row["heads"]) * int(row["head_dim"]) * pairs
    times = {"forward": 1.0, "backward": BACKWARD, "both": 1 + BACKWARD}[row["direction"]]
    return forward * times / (float(row["tflops"]) * 1e12)


def predicted(rows: list[dict[str, str]], lines: dict[str, Array], values: dict[str, float]) -> Array:
    """Seconds of rows under given constants."""
    own = np.array([values[name] for name in CONSTANTS])
    total = np.zeros(len(rows))
    for way in ("forward", "backward"):
        out = np.zeros((len(rows), 3))
        training_attention_rows(lines[way], own, out)
        used = np.array([row["direction"] in (way, "both") for row in rows])
        total += np.where(used, out[:, 0], 0.0)
    return total


def fit(data: dict[str, Any]) -> dict[str, float]:
    """The constants that fit the rows which are not held."""
    values = {name: LIMITS[name.rsplit("_", 2)[0]][0] for name in CONSTANTS}
    rows = table()
    for library in LIBRARIES:
        own = [row for row in rows if row["kernel"] == library and row["split"] == "fitted"]
        names = [name for name in CONSTANTS if name.endswith(library)]
        if library == "fa4":
            values |= {name: values[name.replace("fa4", "fa3")] for name in names}
            names = [name for name in names if not name.startswith("tile_cycles")]
        lines = {way: lines_of(own, data, way) for way in ("forward", "backward")}
        limits = np.array([LIMITS[name.rsplit("_", 2)[0]] for name in names])
        times = np.array([measured(row) for row in own])

        values |= _fitted(own, lines, times, names, limits, values)
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def _fitted(
    rows: list[dict[str, str]],
    lines: dict[str, Array],
    times: Array,
    names: list[str],
    limits: Array,
    values: dict[str, float],
) -> dict[str, float]:
    """The named constants that fit rows, the others as they are; a soft loss, for single rows that stand out."""
    least, reach = limits[:, 1], limits[:, 2] - limits[:, 1]

    def tried(x: Array) -> dict[str, float]:
        return dict(zip(names, (least + x * reach).tolist(), strict=True))

    def residual(x: Array) -> Array:
        return np.asarray(np.log(predicted(rows, lines, values | tried(x)) / times))

    start = (limits[:, 0] - least) / reach
    return tried(least_squares(residual, start, bounds=(0.0, 1.0), loss="soft_l1", f_scale=0.05).x)


def report(data: dict[str, Any]) -> str:
    """Errors by library, direction and split."""
    rows, text = table(), []
    lines = {way: lines_of(rows, data, way) for way in ("forward", "backward")}
    ratio = predicted(rows, lines, data["training_attention"]) / np.array([measured(row) for row in rows])
    for key in sorted({(row["kernel"], row["direction"], row["gpu"], row["split"]) for row in rows}):
        chosen = [
            r for r, row in zip(ratio, rows, strict=True)
            if (row["kernel"], row["direction"], row["gpu"], row["split"]) == key
        ]  # fmt: skip
        off = np.abs(np.array(chosen) - 1) * 100
        text.append(
            f"{' '.join(key):40} {len(chosen):3} rows, mean {off.mean():5.1f} %, worst {off.max():5.1f} %"
        )
    return "\n".join(text)


def main() -> None:
    """Fit, report, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    data["training_attention"] = fit(data)
    print(report(data))
    if not arguments.dry:
        with replacing(TARGET) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
