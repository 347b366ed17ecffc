"""Fit what a GPU draws beside arithmetic and DRAM: a part for being at work, and one for bytes on their way.

Usage: ``python -m calibration.fit_power [--write]``. Splitwise's rows give a request's mean power as a share of the
board's limit. What idle power and the model's energy of arithmetic and DRAM leave of it is taken as a share of
the limit that a board at work draws whatever it does (clocks, leakage, polling), plus an energy per DRAM byte
for its way through L2, crossbar and registers; both by least absolute deviations, into the entry ``power`` of
``simulator/gpu/constants.json``. Times are not touched: the power limit's effect on clocks is fitted on single
operators, where boards run at the limit and these parts are in the energy per operation. The rows are all of one
board, so there is none left out to check.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from hw_configs.output_file import replacing
from offchip.validation.end_to_end import MODELS
from offchip.validation.reference_gpu import machine_of
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GpuModel

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "tests" / "reference" / "gpu" / "end_to_end.csv"
TARGET = ROOT / "simulator" / "gpu" / "constants.json"
ENGINE = "vllm (modified; splitwise paper)"


@dataclass(frozen=True)
class Sample:
    """One row: its label, watts per board measured and unexplained, DRAM bytes per second, limit less idle."""

    label: str
    watts: float
    left_watts: float
    bytes_per_s: float
    room_watts: float


def samples() -> list[Sample]:
    """Every row with a mean power."""
    found = []
    with ROWS.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["framework"].lower() != ENGINE or not float(row["power_frac_tdp_avg"] or 0):
                continue
            found.append(_sample(row))
    return found


def _sample(row: dict[str, str]) -> Sample:
    devices, batch, prompt, output = (
        int(float(row[name])) for name in ("n_devices", "batch", "input_tokens", "output_tokens")
    )
    system = machine_of(row["hardware"], devices)
    assert system is not None
    power = next(node for node in system.workers() if node.name.startswith("gpu")).device.power  # type: ignore[union-attr]
    assert power is not None
    model = MODELS[row["model"].lower()]
    first = _energy(model, system.name, devices, "prefill", batch, prompt)
    step = _energy(model, system.name, devices, "decode", batch, prompt + output // 2)
    joules, moved = (a + (output - 1) * b for a, b in zip(first, step, strict=True))
    seconds = 1e-3 * (float(row["prefill_ms"]) + (output - 1) * float(row["decode_ms_per_token"]))
    watts = float(row["power_frac_tdp_avg"]) * power.tdp
    left = watts - power.idle - joules / devices / seconds
    label = f"{row['model']} on {devices} x {row['hardware']}"
    return Sample(label, watts, left, moved / devices / seconds, power.tdp - power.idle)


def _energy(
    model: str, system: str, devices: int, phase: str, batch: int, tokens: int
) -> tuple[float, float]:
    """Joules of arithmetic and DRAM on all devices, without the parts that are fitted here, and DRAM bytes."""
    from mapping.mapper import MapperOptions, plan_writer
    from offchip.api import load_model, load_system
    from simulator.rewrite.apply import rewrite

    cost = GpuModel("gpu-eager", "kernel", shipped_constants().without_way())
    target = load_system(system)
    graph = load_model(model, phase=phase, batch=batch, prompt=tokens).phases[0].graph
    plan = plan_writer("tensor-pipeline").plan(graph, target, MapperOptions(devices))
    split = rewrite(graph, plan)
    joules = moved = 0.0
    for task in plan.tasks:
        if task.kind == "compute":
            node = target.nodes[task.device]
            found = cost.cost(
                split.operator_by_name[task.operator], node, target.memories[node.memory or node.name]
            )
            joules += found.compute_energy_j + found.memory_energy_j
            moved += found.read_bytes + found.write_bytes
    return joules, moved


def main() -> None:
    """Fit, print, and write the share if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write simulator/gpu/constants.json")
    write = parser.parse_args().write
    rows = samples()
    table = np.array([[row.room_watts, row.bytes_per_s * 1e-12] for row in rows])
    left = np.array([row.left_watts for row in rows])
    # Three rows with long pauses lie far off; in a sum of absolutes they move nothing.
    share, way = minimize(
        lambda x: float(np.abs(left - table @ x).sum()),
        (0.2, 100.0),
        method="Nelder-Mead",
        options={"xatol": 1e-6},
    ).x
    off = np.abs(left - table @ (share, way)) / [row.watts for row in rows]
    for name in sorted({row.label for row in rows}):
        own = [row for row in rows if row.label == name]
        watts, left = (
            float(np.median([getattr(row, key) for row in own])) for key in ("watts", "left_watts")
        )
        print(f"{name}: {len(own)} rows, {watts:.0f} W measured, {left:.0f} W unexplained")
    print(
        f"active share {share:.3f}, {way:.1f} pJ per byte; median error of {len(rows)} rows {np.median(off):.1%}"
    )
    if write:
        data = json.loads(TARGET.read_text(encoding="utf-8"))
        data["power"] = {
            "active_share": round(float(share), 3),
            "way_pj_per_byte": round(float(way), 1),
        }
        with replacing(TARGET) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
