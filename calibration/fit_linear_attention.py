"""Fits the constants of linear attention and of its short convolution.

    python -m calibration.fit_linear_attention            # fit and write these families of simulator/gpu/constants.json
    python -m calibration.fit_linear_attention --cross    # and leave each chip out in turn; prints errors

Reads ``kernels.csv`` of ``tests/reference``. A kernel without rows takes the mean of the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.fit_attention import KERNEL_ROWS, TARGET, by_kernel, predicted_us, report
from calibration.gpu_samples import Sample, family_of_sample, measured_of, requests_of, samples, weights_of
from calibration.search import Limits, named, rounded, search
from simulator.gpu import linear_attention
from simulator.gpu.attention_lines import convolution_line, linear_line
from simulator.gpu.constants import Constants
from simulator.gpu.rows import launch_key

Array = NDArray[np.float64]

FAMILIES: Final = ("linear_attention", "short_convolution")
_STARTS: Final = {"fill_cycles": (12000.0, 500.0, 60000.0), "step_cycles": (3000.0, 100.0, 20000.0)}
LINEAR: Final[Limits] = {
    **{f"{name}_{kernel}": limits for name, limits in _STARTS.items() for kernel in linear_attention.KERNELS},
    "matrix_share": (0.7, 0.7, 0.7), "token_passes": (8.0, 1.0, 40.0), "state_passes": (3.0, 1.0, 12.0),
    "overlap": (4.0, 1.0, 8.0), "decode_cycles": (4000.0, 500.0, 12000.0), "l2_share": (0.6, 0.2, 1.0),
    "access": (0.9, 0.5, 1.0),
}  # fmt: skip
"""``matrix_share``: assumption; a chunk's latency takes up what it leaves."""
CONVOLUTION: Final[Limits] = {
    "token_cycles": (400.0, 50.0, 2000.0), "flight_gb_per_s": (9.0, 2.0, 40.0), "l2_share": (0.6, 0.2, 1.0),
    "access": (0.9, 0.5, 1.0),
}  # fmt: skip
LAUNCHES: Final = {
    "linear_attention": {
        **dict.fromkeys((f"linear_attention/{kernel}" for kernel in linear_attention.KERNELS), (6.0, 1.0, 40.0)),
        "linear_attention/decode": (4.0, 4.0, 4.0),
    },
    "short_convolution": {
        "short_convolution/prefill": (4.0, 1.0, 8.0), "short_convolution/update": (3.5, 1.0, 8.0),
    },
}  # fmt: skip
"""Thousands of cycles. Decode's floor is ``decode_cycles`` beside an assumed launch as of other small kernels."""

Kernel = Callable[[Array, Array, Array], None]


def fit_linear_attention(rows: Sequence[Sample], data: dict[str, Any], family: str) -> None:
    """One of the families, with its launches."""
    chosen = [s for s in rows if family_of_sample(s) == family]
    limits = LINEAR if family == "linear_attention" else CONVOLUTION
    launches = LAUNCHES[family]
    data.setdefault(family, {name: limit[0] for name, limit in limits.items()})
    for setup in data["setups"].values():
        for name, limit in launches.items():
            setup["launch_us"].setdefault(name, 0.0)
            setup["launch_kcycles"].setdefault(name, limit[0])
    requests = requests_of(chosen, data)
    line = linear_line if family == "linear_attention" else convolution_line
    kernel: Kernel = linear_attention.linear_attention_rows
    if family == "short_convolution":
        kernel = linear_attention.short_convolution_rows
    lines = np.array([line(r, Constants(data)) for r in requests])
    keys = [launch_key(family, r) for r in requests]
    place = np.array([list(launches).index(key) for key in keys])
    clock_khz = np.array([s.sheet.clock for s in chosen]) / 1e3
    free = _free(limits, launches, keys)
    count, out = len(limits), np.zeros((len(lines), linear_attention.RESULTS))

    def predicted(x: Array) -> Array:
        kernel(lines, x[:count], out)
        return np.asarray(out[:, 0] * 1e6 + x[count:][place] * 1e6 / clock_khz)

    x = search(free, predicted, measured_of(chosen), weights_of(chosen), rounds=5)
    _take_means(x, free, [*limits, *launches])
    data[family] = named(limits, x[:count])
    for setup in data["setups"].values():
        for name, kilocycles in zip(launches, x[count:], strict=True):
            setup["launch_kcycles"][name] = rounded(kilocycles)


def _free(limits: Limits, launches: Limits, keys: Sequence[str]) -> list[tuple[float, float, float]]:
    """Limits in which constants that no row can tell are held at their start."""
    made = []
    for name, limit in {**limits, **launches}.items():
        kernel = next((k for k in linear_attention.KERNELS if name.endswith(k)), "")
        held = (kernel and f"linear_attention/{kernel}" not in keys) or (
            name in launches and name not in keys
        )
        made.append((limit[0],) * 3 if held else limit)
    return made


def _take_means(x: Array, limits: Sequence[tuple[float, float, float]], names: Sequence[str]) -> None:
    """Kernels without rows take the geometric mean of the others."""
    for start in ("fill_cycles_", "step_cycles_", "linear_attention/"):
        group = [i for i, name in enumerate(names) if name.startswith(start) and not name.endswith("/decode")]
        known = [x[i] for i in group if limits[i][2] > limits[i][1]]
        for i in group:
            if known and limits[i][2] <= limits[i][1]:
                x[i] = float(np.exp(np.mean(np.log(known))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each chip out in turn")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    chosen = parser.parse_args(arguments)
    rows = [s for s in samples(KERNEL_ROWS) if family_of_sample(s) in FAMILIES]
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    for family in FAMILIES:
        fit_linear_attention(rows, data, family)
    inside = predicted_us(rows, data)
    for key in (family_of_sample, by_kernel):
        report(rows, inside, "in sample", key)
    if not chosen.dry:
        TARGET.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if chosen.cross:
        outside = np.zeros(len(rows))
        for chip in sorted({s.chip for s in rows}):
            other = json.loads(json.dumps(data))
            for family in FAMILIES:
                fit_linear_attention([s for s in rows if s.chip != chip], other, family)
            held = [i for i, s in enumerate(rows) if s.chip == chip]
            outside[held] = predicted_us([rows[i] for i in held], other)
        for key in (family_of_sample, by_kernel):
            report(rows, outside, "chip left out", key)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
