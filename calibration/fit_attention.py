"""Fits the constants of attention kernels, by generation of kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.gpu_samples import Sample, family_of_sample, measured_of, requests_of, weights_of
from calibration.search import Limits, named, rounded, search
from simulator.gpu import attention
from simulator.gpu.constants import Constants
from simulator.gpu.rows import attention_line
from simulator.gpu.sheet import ATTENTION_KERNELS

Array = NDArray[np.float64]

ATTENTION: Final[Limits] = {
    "tile_cycles_fa2": (6000, 500, 20000), "tile_cycles_fa3": (6500, 500, 20000),
    "tile_cycles_blackwell": (4000, 500, 20000), "block_cycles_fa2": (1000, 20, 8000),
    "block_cycles_fa3": (1000, 20, 8000), "block_cycles_blackwell": (1000, 20, 8000),
    "matrix_share": (0.92, 0.7, 1.0), "feed": (0.5, 0.05, 2.0), "softmax": (1.5, 1.0, 4.0),
    "overlap_serial": (1.2, 1.0, 6.0), "overlap_async": (3.0, 1.0, 8.0), "combine_us": (3.0, 0.3, 10.0),
    "reorder_us": (3.0, 0.3, 10.0), "memory_overlap": (4.0, 1.0, 8.0), "l2_share": (0.6, 0.2, 1.0),
    "access": (0.97, 0.7, 1.0),
}  # fmt: skip


def fit_attention(rows: Sequence[Sample], data: dict[str, Any], family: str) -> None:
    """One phase of attention: kernel constants, and the launches of each library's pipeline."""
    chosen = [s for s in rows if family_of_sample(s) == family]
    if len(chosen) < 20:
        return
    requests = requests_of(chosen, data)
    lines = np.array([attention_line(r, Constants(data)) for r in requests])
    own = lines[:, attention.CALIBRATION].astype(int)
    # A kernel without rows takes the mean of the others.
    seen = [index in own for index in range(3)]
    alone = np.array([s.row.timing == "kernel" for s in chosen])
    clock_khz = np.array([s.sheet.clock for s in chosen]) / 1e3
    limits = [*ATTENTION.values(), (16.0, 4, 30), (16.0, 4, 30), (16.0, 4, 30), (2.5, 1, 6)]
    count = len(ATTENTION)
    out = np.zeros((len(lines), attention.RESULTS))

    def predicted(x: Array) -> Array:
        attention.attention_rows(lines, x[:count], out)
        launch = np.where(alone, x[count + 3], x[count : count + 3][own] * 1e6 / clock_khz)
        return np.asarray(out[:, 0] * 1e6 + launch)

    x = search(limits, predicted, measured_of(chosen), weights_of(chosen), rounds=4)
    for start in (attention.TILE, attention.BLOCK, count):
        known = [x[start + i] for i in range(3) if seen[i]]
        for i in range(3):
            if not seen[i]:
                x[start + i] = float(np.exp(np.mean(np.log(known))))
    data[family] = named(ATTENTION, x[:count])
    for name in ("graph-mean", "default", "vllm-hook-mean"):
        setup = data["setups"][name]
        setup["launch_us"][family] = 0.0
        for index, generation in enumerate(ATTENTION_KERNELS):
            setup["launch_us"][f"{family}/{generation}"] = 0.0
            setup["launch_kcycles"][f"{family}/{generation}"] = rounded(x[count + index])
    data["setups"]["kernel"]["launch_us"][family] = rounded(x[count + 3])
    for setup in data["setups"].values():
        setup["launch_us"].setdefault("attention_alone", rounded(x[count + 3]))
