"""Fits the constants of attention kernels, plain and latent, by the kernel that runs.

    python -m calibration.fit_attention            # fit and write these families of simulator/gpu/constants.json
    python -m calibration.fit_attention --cross    # and leave each chip out in turn; prints errors

Reads ``operators.csv`` and ``kernels.csv`` of ``tests/reference``. A kernel without rows takes the mean of the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
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
from simulator.gpu import attention
from simulator.gpu.attention_lines import attention_line
from simulator.gpu.constants import Constants
from simulator.gpu.request import ATTENTION_FAMILIES
from simulator.gpu.rows import launch_key, predict

Array = NDArray[np.float64]

KERNEL_ROWS: Final = ROOT / "tests" / "reference" / "kernels" / "kernels.csv"
TARGET: Final = ROOT / "simulator" / "gpu" / "constants.json"
FAMILIES: Final = ATTENTION_FAMILIES
_STARTS: Final = {
    "tile_cycles": (6000.0, 500.0, 40000.0), "block_cycles": (1000.0, 20.0, 12000.0), "softmax": (1.5, 1.0, 6.0),
    "energy": (1.2, 1.0, 2.0), "overlap": (1.5, 1.0, 8.0),
}  # fmt: skip
ATTENTION: Final[Limits] = {
    **{f"{name}_{kernel}": limits for name, limits in _STARTS.items() for kernel in attention.KERNELS},
    "matrix_share": (0.92, 0.7, 1.0), "feed": (0.5, 0.05, 2.0),
    "combine_cycles": (5000.0, 500.0, 20000.0),
    "reorder_cycles": (5000.0, 500.0, 20000.0), "swap_cycles": (2000.0, 100.0, 8000.0),
    "memory_overlap": (4.0, 1.0, 8.0), "l2_share": (0.6, 0.2, 1.0), "access": (0.97, 0.7, 1.0),
    "quantise_cycles": (1500.0, 100.0, 12000.0), "quantise_elements": (2.0, 0.2, 40.0),
    "token_cycles": (200.0, 10.0, 3000.0),
}  # fmt: skip
IN_TURN: Final = "blackwell"
"""The kernels for tensor memory, which take two tiles in turn (FlashAttention-4; TensorRT-LLM): what one waits for, the
other's products and exponentials hide."""
HIDDEN: Final = (100.0, 20.0, 400.0)
"""Cycles of a block of keys that they show beside them at most. Without this limit the latency would stand for the
exponentials of short heads, and units of twice the rate (Blackwell Ultra) would change nothing."""
LAUNCH: Final = (12.0, 1.0, 40.0)
"""Thousands of cycles."""
ALONE: Final = (2.5, 1.0, 6.0)
"""us of a kernel that stands alone."""


def attention_samples() -> list[Sample]:
    """The rows of both tables that hold attention."""
    rows = samples()
    rows += samples(KERNEL_ROWS)
    return [s for s in rows if family_of_sample(s) in FAMILIES]


def _launches(family: str) -> list[str]:
    plain = [f"{family}/{kernel}" for kernel in attention.KERNELS]
    return plain + ([f"{name}/contiguous" for name in plain] if family == "attention_prefill" else [])


def fit_attention(rows: Sequence[Sample], data: dict[str, Any], family: str) -> None:
    """One family of attention: kernel constants, and the launches of each library's pipeline."""
    chosen = [s for s in rows if family_of_sample(s) == family]
    names = _launches(family)
    for setup in data["setups"].values():
        for name in names:
            setup["launch_us"].setdefault(name, 0.0)
            setup["launch_kcycles"].setdefault(name, LAUNCH[0])
    if len(chosen) < 20:
        return
    requests = requests_of(chosen, data)
    lines = np.array([attention_line(r, Constants(data)) for r in requests])
    keys = [launch_key(family, r) for r in requests]
    place = np.array([names.index(key) if key in names else 0 for key in keys])
    alone = np.array([s.row.timing == "kernel" for s in chosen])
    clock_khz = np.array([s.sheet.clock for s in chosen]) / 1e3
    count = len(ATTENTION)
    limits = _held(family, set(lines[:, attention.CALIBRATION].astype(int)))
    limits += [LAUNCH if name in keys else (LAUNCH[0],) * 3 for name in names]
    limits += [ALONE if alone.any() else (ALONE[0],) * 3]
    out = np.zeros((len(lines), attention.RESULTS))

    def predicted(x: Array) -> Array:
        attention.attention_rows(lines, x[:count], out)
        launch = np.where(alone, x[-1], x[count:-1][place] * 1e6 / clock_khz)
        return np.asarray(out[:, 0] * 1e6 + launch)

    x = search(limits, predicted, measured_of(chosen), weights_of(chosen), rounds=5)
    for index in sorted(set(lines[:, attention.CALIBRATION].astype(int))):
        # Then kernel by kernel: a search in so many directions at once leaves those of few rows behind.
        own = [at for at in range(len(limits)) if _belongs(at, index)]
        held = [(x[i], *limit[1:]) if i in own else (x[i],) * 3 for i, limit in enumerate(limits)]
        mine = lines[:, attention.CALIBRATION].astype(int) == index
        weights = np.where(mine, weights_of(chosen), 0.0)
        x = search(held, predicted, measured_of(chosen), weights, rounds=3, evaluations=400)
    _take_means(x, limits, names)
    data[family] = named(ATTENTION, x[:count])
    for timing, setup in data["setups"].items():
        setup["launch_us"].setdefault("attention_alone", rounded(x[-1]))
        for name, kilocycles in zip(names, x[count:-1], strict=True):
            # A kernel that was timed alone has no launch beside it but the profiler's own.
            setup["launch_us"][name] = rounded(x[-1]) if timing == "kernel" else 0.0
            setup["launch_kcycles"][name] = 0.0 if timing == "kernel" else rounded(kilocycles)


def _belongs(at: int, kernel: int) -> bool:
    """Whether a constant is one kernel's own: its latencies, its softmax, its energy, its launches."""
    first, size = len(ATTENTION), len(attention.KERNELS)
    if at < size * len(_STARTS):
        return at % size == kernel
    return at >= first and (at - first) % size == kernel


def _held(family: str, seen: set[int]) -> list[tuple[float, float, float]]:
    """Limits in which constants that no row can tell are held at their start."""
    made = dict(ATTENTION)
    if family == "attention_prefill":
        made[f"block_cycles_{IN_TURN}"] = HIDDEN
    for index, kernel in enumerate(attention.KERNELS):
        if index not in seen:
            for name in _STARTS:
                made[f"{name}_{kernel}"] = (_STARTS[name][0],) * 3
    unused = {"combine_cycles", "reorder_cycles", "swap_cycles"} if "prefill" in family else set()
    if family.startswith("latent"):
        unused |= {"reorder_cycles", "swap_cycles"}
    for name in unused:
        made[name] = (ATTENTION[name][0],) * 3
    return list(made.values())


def _take_means(x: Array, limits: Sequence[tuple[float, float, float]], names: Sequence[str]) -> None:
    """Kernels without rows take the geometric mean of the others; contiguous launches too."""
    size = len(attention.KERNELS)
    groups = [
        range(start, start + size)
        for start in (attention.TILE, attention.BLOCK, attention.SOFTMAX, attention.ENERGY, attention.OVERLAP)
    ]
    first = len(ATTENTION)
    groups += [range(first + at, first + at + size) for at in range(0, len(names), size)]
    for group in groups:
        known = [x[i] for i in group if limits[i][2] > limits[i][1]]
        for i in group:
            if known and limits[i][2] <= limits[i][1]:
                x[i] = float(np.exp(np.mean(np.log(known))))


def predicted_us(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """The model's microseconds."""
    return np.array([p.seconds * 1e6 for p in predict(requests_of(rows, data), Constants(data))])


def report(rows: Sequence[Sample], predicted: Array, title: str, key: Callable[[Sample], str]) -> None:
    """Print mean, median and 95th percentile of errors and the median ratio by a key."""
    errors = np.abs(predicted / measured_of(rows) - 1) * 100
    ratio = predicted / measured_of(rows)
    print(f"\n{title}: rows, mean, median, 95th percentile (%), median ratio")
    for name in sorted({key(s) for s in rows}):
        mine = [i for i, s in enumerate(rows) if key(s) == name]
        e = errors[mine]
        figures = (
            f"{e.mean():7.1f} {np.median(e):7.1f} {np.quantile(e, 0.95):7.1f} {np.median(ratio[mine]):6.2f}"
        )
        print(f"{name:70s} {len(mine):5d} {figures}")


def by_family(s: Sample) -> str:
    """The family of a row and its table."""
    table = "engines" if s.row.timing == "cuda-graph-mean" else "operators"
    return f"{family_of_sample(s)}, {table}"


def by_kernel(s: Sample) -> str:
    """Family, chip and what ran."""
    cells = s.row.cells
    return f"{family_of_sample(s)} {s.row.gpu} {cells.get('kernel') or cells.get('label', '')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each chip out in turn")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="fit these families alone")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    chosen = parser.parse_args(arguments)
    families = chosen.family or list(FAMILIES)
    rows = [s for s in attention_samples() if family_of_sample(s) in families]
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    for family in families:
        fit_attention(rows, data, family)
    inside = predicted_us(rows, data)
    report(rows, inside, "in sample", by_family)
    report(rows, inside, "in sample", by_kernel)
    if not chosen.dry:
        TARGET.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if chosen.cross:
        outside = np.zeros(len(rows))
        for chip in sorted({s.chip for s in rows}):
            kept = [s for s in rows if s.chip != chip]
            held = [i for i, s in enumerate(rows) if s.chip == chip]
            other = json.loads(json.dumps(data))
            for family in families:
                fit_attention(kept, other, family)
            outside[held] = predicted_us([rows[i] for i in held], other)
        report(rows, outside, "chip left out", by_family)
        report(rows, outside, "chip left out", by_kernel)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
