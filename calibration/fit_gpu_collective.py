"""Fits the constants of the GPU model's collectives.

    python -m calibration.fit_gpu_collective [--cross]

Reads the rows of communication of ``tests/reference/gpu`` and ``tests/reference/kernels``; writes the keys of
collectives of ``simulator/gpu/constants.json``. Wires in turn: what NCCL does over NVLink, an engine's own all-reduce,
PCIe, the network between nodes, single messages. ``--cross`` leaves each chip out in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.gpu_samples import ROOT, Sample, is_collective, measured_of, samples, weights_of
from calibration.search import Limits, rounded, search
from simulator.gpu import collective
from simulator.gpu.constants import Constants

Array = NDArray[np.float64]
TARGET: Final = ROOT / "simulator" / "gpu" / "constants.json"
KERNELS: Final = ROOT / "tests" / "reference" / "kernels" / "kernels.csv"

COLLECTIVE: Final[Limits] = {
    "base_us": (8.0, 2, 20), "step_us": (1.0, 0.1, 5), "ll_share": (0.3, 0.02, 0.5),
    "ll128_base_us": (17, 3, 60), "ll128_step_us": (1.0, 0.1, 10), "ll128_share": (0.45, 0.1, 0.95),
    "simple_base_us": (30, 5, 120), "simple_step_us": (2.0, 0.1, 20), "simple_share": (0.72, 0.3, 1.0),
    "sharp_base_us": (40, 5, 120), "sharp_share": (0.55, 0.2, 1.0), "exchange_base_us": (9, 2, 40),
    "exchange_share": (0.65, 0.2, 1.0), "host_scale": (1.4, 1.0, 4.0), "host_share": (0.8, 0.4, 1.0),
    "network_base_us": (25, 1, 120), "network_step_us": (6, 0.2, 40), "network_share": (0.8, 0.8, 0.8),
    "ports": (0.6, 0.2, 1.0), "eager_skew_us": (15, 1, 60), "send_base_us": (9, 2, 60), "send_share": (0.77, 0.3, 1.0),
    "send_ll_base_us": (5, 1, 30), "send_ll_share": (0.05, 0.005, 0.5), "send_network_us": (24, 5, 60),
    "exchange_step_us": (1.0, 0.05, 5), "pair_share": (0.8, 0.5, 1.0), "socket_crossings": (2.0, 1.0, 2.5),
    "one_base_us": (3.7, 1, 10), "one_rank_us": (0.1, 0.01, 2), "one_share": (0.65, 0.3, 1.0),
    "two_base_us": (2.5, 0.5, 20),
    "block_us": (0.1, 0.001, 1.0), "box_scale": (0.8, 0.2, 2.0), "box_share": (0.8, 0.4, 1.0),
    "box_ll_share": (0.5, 0.1, 1.0), "exchange_network_us": (15.0, 15.0, 15.0),
}  # fmt: skip
"""Start and limits. ``exchange_network_us`` and ``network_share`` are assumptions: what DeepEP's low-latency kernels
on ports of 50 GB/s (docs/legacy.md of deepseek-ai/DeepEP)."""


def collective_lines(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """Inputs of :func:`simulator.gpu.collective.collective_rows`."""
    from offchip.validation.gpu_collectives import collective_line

    constants = Constants(data)
    return np.array([collective_line(s.row, s.sheet, s.wire, s.host, constants) for s in rows])


STAGES: Final[dict[str, tuple[str, ...]]] = {
    "peer": (
        "base_us", "step_us", "ll_share", "ll128_base_us", "ll128_step_us", "ll128_share", "simple_base_us",
        "simple_step_us", "simple_share", "sharp_base_us", "sharp_share", "exchange_base_us", "exchange_step_us",
        "exchange_share", "pair_share", "eager_skew_us",
    ),
    "engine": ("one_base_us", "one_rank_us", "one_share", "two_base_us", "block_us"),
    "host": ("host_scale", "host_share"),
    "box": ("box_scale", "box_share", "box_ll_share", "socket_crossings"),
    "network": ("network_base_us", "network_step_us", "ports"),
    "send": ("send_base_us", "send_share", "send_ll_base_us", "send_ll_share", "send_network_us"),
}  # fmt: skip
"""Constants by what they say, in the order in which they are fitted; later ones rest on earlier ones."""
REFERENCE: Final = "Ampere"
LARGE_SEND: Final = 16e6
"""Bytes of a message whose time is the port's."""


def stage_of(line: Array) -> str:
    """The stage that a row's inputs belong to."""
    if line[collective.KIND] == collective.KINDS.index("send"):
        return "send"
    if line[collective.WIRE] == collective.WIRES.index("network"):
        return "network"
    if line[collective.WIRE] == collective.WIRES.index("host"):
        return "box" if line[collective.SOCKET] > 0 else "host"
    return "engine" if line[collective.ENGINE] > 0 else "peer"


def fit_collectives(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Protocols and latencies, wire by wire; latencies and network ports by generation."""
    chosen = [s for s in rows if is_collective(s)]
    if len(chosen) < 40:
        return
    data["collective"] = {name: limit[0] for name, limit in COLLECTIVE.items()}
    for table in ("collective_scale", "engine_scale"):
        data[table] = {REFERENCE: 1.0, "default": 1.0}
    _ports_of_sends(chosen, data)
    stages = [stage_of(line) for line in collective_lines(chosen, data)]
    for stage in STAGES:
        mine = [s for s, own in zip(chosen, stages, strict=True) if own == stage]
        if len(mine) >= 8:
            _fit_stage(stage, mine, data)


def _ports_of_sends(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Bandwidth of a network port by generation, from the largest single messages; all-reduces refine it."""
    lines = collective_lines(rows, data)
    rates: dict[str, list[float]] = {}
    for s, line in zip(rows, lines, strict=True):
        across = line[collective.WIRE] == collective.WIRES.index("network")
        if stage_of(line) == "send" and across and line[collective.BYTES] >= LARGE_SEND:
            rates.setdefault(s.sheet.generation, []).append(line[collective.BYTES] / s.measured * 1e6)
    share = data["collective"]["network_share"]
    data["network_bandwidth"].update(
        {name: rounded(float(np.max(found)) / share) for name, found in sorted(rates.items())}
    )


def _fit_stage(stage: str, rows: list[Sample], data: dict[str, Any]) -> None:
    """One stage's constants, and its table by generation where it has one."""
    table = {"peer": "collective_scale", "engine": "engine_scale", "network": "network_bandwidth"}.get(stage)
    generations = sorted({s.sheet.generation for s in rows})
    free = [name for name in generations if table and (name != REFERENCE or table == "network_bandwidth")]
    lines = collective_lines(rows, data)
    place = [generations.index(s.sheet.generation) for s in rows]
    names = STAGES[stage]
    at = [collective.CONSTANTS.index(name) for name in names]
    x = Constants(data).array("collective", collective.CONSTANTS).copy()
    own_limits = (25.0, 1.0, 60.0) if table == "network_bandwidth" else (1.0, 0.3, 2.5)
    limits = [*(COLLECTIVE[name] for name in names), *(own_limits for _ in free)]
    out = np.zeros(len(lines))
    column = {"collective_scale": collective.SCALE, "engine_scale": collective.ENGINE}

    def predicted(z: Array) -> Array:
        x[at] = z[: len(names)]
        given = dict(zip(free, z[len(names) :], strict=True))
        if table:
            by_generation = np.array([given.get(name, 1.0) for name in generations])[place]
            if table == "network_bandwidth":
                lines[:, collective.BW] = by_generation * 1e9
            else:
                lines[:, column[table]] = by_generation
        collective.collective_rows(lines, x, out)
        return np.asarray(out * 1e6)

    found = search(limits, predicted, measured_of(rows), weights_of(rows), rounds=4, evaluations=2500)
    data["collective"].update({name: rounded(v) for name, v in zip(names, found, strict=False)})
    given = {name: rounded(v) for name, v in zip(free, found[len(names) :], strict=True)}
    if table == "network_bandwidth":
        data[table].update({name: value * 1e9 for name, value in given.items()})
    elif table:
        scales = {**({REFERENCE: 1.0} if REFERENCE in generations else {}), **given}
        data[table] = {**scales, "default": rounded(float(np.mean(list(scales.values()))))}


def collective_samples() -> list[Sample]:
    """Rows of communication of both tables."""
    return [*(s for s in samples() if is_collective(s)), *engine_exchanges()]


def engine_exchanges() -> list[Sample]:
    """Rows of communication of the table of engines' kernels."""
    return [s for s in samples(KERNELS) if is_collective(s)]


def predicted_us(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """Microseconds of each row."""
    out = np.zeros(len(rows))
    constants = Constants(data).array("collective", collective.CONSTANTS)
    collective.collective_rows(collective_lines(rows, data), constants, out)
    return np.asarray(out * 1e6)


def report(rows: Sequence[Sample], predicted: Array, title: str) -> None:
    """Print mean / median errors and the median ratio, by class and GPU."""
    from offchip.validation.operator_groups import row_class

    ratio = predicted / measured_of(rows)
    errors = np.abs(ratio - 1.0) * 100
    print(f"{title}: {len(rows)} rows")
    for depth in (1, 2):
        keys = [(row_class(s.row), s.row.gpu)[:depth] for s in rows]
        for key in sorted(set(keys)):
            mine = [i for i, other in enumerate(keys) if other == key]
            e, middle = errors[mine], float(np.median(ratio[mine]))
            print(f"  {' '.join(key):44s} {len(mine):4d} {e.mean():7.1f} {np.median(e):6.1f} {middle:6.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each chip out in turn")
    chosen = parser.parse_args(arguments)
    rows = collective_samples()
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    fit_collectives(rows, data)
    TARGET.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    report(rows, predicted_us(rows, data), "in sample")
    if chosen.cross:
        outside = np.zeros(len(rows))
        for chip in sorted({s.chip for s in rows}):
            held = [i for i, s in enumerate(rows) if s.chip == chip]
            own = json.loads(json.dumps(data))
            fit_collectives([s for s in rows if s.chip != chip], own)
            outside[held] = predicted_us([rows[i] for i in held], own)
        report(rows, outside, "chip left out")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
