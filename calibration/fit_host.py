"""Fit the host time of serving engines: one constant each, on whole-model rows, which nothing else is fitted on.

Usage: ``python -m calibration.fit_host [--write] [--sample N]``: on all rows, in a quarter of an hour of processor
time, or on at most N of each engine, evenly spread. A step's host time is the constant times (layers + sequences). For
each engine the constant is the one with the least mean |log(predicted / measured)| over the figures of its rows; every
other part of the prediction comes from single operators. Beside it stands the mean error on each hardware with the
constant of the others.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from hw_configs.output_file import replacing
from hw_configs.problems import OffchipError
from offchip.validation.end_to_end import ENGINES, Step, figures_of, step_of
from simulator.serving import engine_constants

ROWS = Path(__file__).parents[1] / "tests" / "reference" / "gpu" / "end_to_end.csv"
OUT = Path(engine_constants.__file__).with_name("engine_constants.json")
LARGEST_MS = 2.0


@dataclass(frozen=True)
class Row:
    """One measured row with the device times that the simulator gives."""

    hardware: str
    step: Step
    measured: dict[str, float]


def read_rows(engine: str, most: int = 0) -> list[Row]:
    """The rows of an engine that Offchip can run, of at most so many (0: all) of the file's, evenly spread."""
    with ROWS.open(encoding="utf-8") as stream:
        every = [
            c for c in csv.DictReader(stream) if c["framework"].lower() == engine and c["kind"] == "inference"
        ]
    places = np.unique(
        np.linspace(0, len(every) - 1, min(most or len(every), len(every))).round().astype(int)
    )
    found = []
    for cells in (every[i] for i in places):
        names = ("prefill_ms", "decode_ms_per_token") if cells["prefill_ms"] else ("throughput_tok_s",)
        try:
            step = step_of(cells, str(ROWS), ENGINES[engine])
        except OffchipError:
            continue
        if isinstance(step, Step):
            found.append(Row(cells["hardware"], step, {name: float(cells[name]) for name in names}))
    return found


def errors(rows: Iterable[Row], host_ms: float) -> np.ndarray:
    """log(predicted / measured) of every figure."""
    logs = []
    for row in rows:
        ours = figures_of(row.step, host_ms)
        logs += [np.log(ours[name] / value) for name, value in row.measured.items()]
    return np.array(logs)


def fit(rows: list[Row]) -> float:
    """The constant in milliseconds."""
    best = minimize_scalar(
        lambda ms: float(np.abs(errors(rows, ms)).mean()), bounds=(0.0, LARGEST_MS), method="bounded",
        options={"xatol": 1e-4},
    )  # fmt: skip
    return round(float(best.x), 4)


def percent(logs: np.ndarray) -> tuple[float, float]:
    """Mean and median of |predicted / measured - 1| in percent."""
    off = 100 * np.abs(np.exp(logs) - 1)
    return float(off.mean()), float(np.median(off))


def main() -> None:
    """Fit, print, and write the constants if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write simulator/serving/engine_constants.json")
    parser.add_argument("--sample", type=int, default=0, help="at most so many rows of each engine; 0: all")
    asked = parser.parse_args()
    constants = {}
    for engine in ENGINES:
        rows = read_rows(engine, asked.sample)
        host_ms = fit(rows)
        mean, median = percent(errors(rows, host_ms))
        print(f"{engine}: {host_ms} ms, {len(rows)} rows, mean {mean:.1f} %, median {median:.1f} %")
        for hardware in sorted({row.hardware for row in rows}):
            others = [row for row in rows if row.hardware != hardware]
            own = [row for row in rows if row.hardware == hardware]
            if others:
                m, d = percent(errors(own, fit(others)))
                print(
                    f"  {hardware}: {len(own)} rows, with the others' constant mean {m:.1f} %, median {d:.1f} %"
                )
        constants[engine] = {
            "layer_us": round(host_ms * 1e3, 1), "sequence_us": round(host_ms * 1e3, 1), "rows": len(rows),
            "mean_error_percent": round(mean, 1),
        }  # fmt: skip
    if asked.write:
        data = json.loads(OUT.read_text(encoding="utf-8"))
        for entries in data["whole_steps"].values():
            for entry in entries:
                entry.update(constants.get(entry["measured_as"], {}))
        with replacing(OUT) as part:
            part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
