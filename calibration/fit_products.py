"""Fits the constants of matrix products: 16 bits, narrow weights, 8 bits, 4 bits and FP32.

    python -m calibration.fit_products            # fit and write the products' keys of simulator/gpu/constants.json
    python -m calibration.fit_products --cross    # and leave each chip out in turn; print both

Rows: single operators and inference engines' kernels (``tests/reference/gpu``, ``tests/reference/kernels``). Narrower
arithmetic keeps what 16-bit rows tell about the memory system and the schedule, with a rate, a feed and an energy of
its own; so halving an element type can not make a product slower. What an engine's linear layer has beside the product
(the kernel that quantises its activation, launches, a library that does not split the reduction, the host's calls)
belongs to the setup of its rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.fit_memory_bound import ONE_ROW, fit_memory_share
from calibration.gpu_samples import (
    ENGINE_ROWS,
    ROOT,
    Sample,
    family_of_sample,
    measured_of,
    samples,
    weights_of,
)
from calibration.search import Limits, named, rounded, search
from offchip.validation.engine_rows import BLOCK_LIBRARIES, setup_name
from simulator.gpu import gemm, memory_bound
from simulator.gpu.constants import Constants
from simulator.gpu.request import PRODUCTS, Request
from simulator.gpu.rows import gemm_line, memory_line, predict

Array = NDArray[np.float64]
TARGET: Final = ROOT / "simulator" / "gpu" / "constants.json"

ONLY_ENGINES: Final = frozenset({"GDDR6/Ada"})
"""Memories whose share of bandwidth only engines' kernels tell: products and decoding."""

GEMM: Final[Limits] = {
    "e0": (0.98, 0.85, 1.0), "feed": (5.0, 0.5, 30.0), "feed_exponent": (0.6, 0.2, 0.95),
    "overlap": (3.0, 1.2, 8.0), "wave_cycles": (700.0, 50.0, 6000.0), "latency_us": (0.5, 0.2, 2.0),
    "l2_share": (0.6, 0.2, 1.0), "reduce_cycles": (3000.0, 300.0, 10000.0), "quantisation": (0.7, 0.0, 1.0),
    "epilogue": (0.8, 0.01, 1.5), "memory_overlap": (2.0, 1.2, 8.0), "access": (0.97, 0.7, 1.0),
    "l2_rate": (0.95, 0.3, 1.0), "store": (32.0, 4.0, 256.0), "promote": (2.0, 2.0, 2.0),
    "convert": (1.0, 1.0, 1.0), "vector_overlap": (8.0, 8.0, 8.0), "wave_cycles_async": (500.0, 50.0, 6000.0),
    "epilogue_async": (0.2, 0.01, 1.5), "store_async": (64.0, 4.0, 256.0),
    "epilogue_pins": (0.9, 0.01, 1.5), "kept": (0.6, 0.3, 1.0), "thrash": (3.0, 1.0, 8.0),
}  # fmt: skip
"""``promote``: instructions per sum and block of scales (multiply, add). ``convert``: per weight, of packed ones."""

TILES_ALONE: Final = {"tensor8": 0, "tensor4": 0}
"""Most rows that layers with narrow activations take to the vector units: CUTLASS and its like have tiles alone."""
CHIPS_OF_BOTH: Final = frozenset({"A100", "H100", "B200"})
"""Chips of which both tables have rows; one that is left out is left out of both."""
FREE_NARROW: Final = ("e0", "feed")
FREE_32: Final = (
    "store", "e0", "feed", "overlap", "wave_cycles", "latency_us", "quantisation", "epilogue", "memory_overlap",
    "access",
)  # fmt: skip
SETUPS_16: Final = ("graph-mean", "kernel", "vllm-hook-mean", "wall-incl-launch")
STARTS_16: Final = (
    (5.0, 1.0, 10.0), (5.5, 1.0, 15.0), (3.5, 1.0, 10.0), (27.0, 5.0, 60.0), (0.85, 0.6, 1.0), (2.3, 1.5, 3.5),
)  # fmt: skip
"""Launch in a graph, as profiler time, in a graph of kernels for pairs (10^3 cycles); wall-clock launch (us); library
share; pJ per FLOP."""
QUANTIZE: Final[Limits] = {
    "in_flight_kib": (24.0, 12.0, 64.0), "latency_us": (0.6, 0.6, 0.6), "row_us": (1.5, 0.1, 6.0),
    "keep": (0.7, 0.05, 1.0), "l2_share": (0.8, 0.2, 1.0), "access": (0.9, 0.4, 1.0),
    "exit_us": (0.3, 0.01, 2.0), "kept": (12.0, 2.0, 128.0), "packed_kib": ONE_ROW,
}  # fmt: skip
IN_GRAPHS: Final = ("graph-mean", "default", "vllm-hook-mean", "linear-layer", "engine-plugin")


def product_rows(rows: Sequence[Sample], *families: str) -> list[Sample]:
    """The rows whose product a family prices."""
    return [s for s in rows if family_of_sample(s) in families and s.row.operator.kind != "conv"]  # type: ignore[union-attr]


def fit_products(
    rows: Sequence[Sample], data: dict[str, Any], wanted: frozenset[str] = PRODUCTS, evaluations: int = 1500
) -> None:
    """Tensor-core products in 16 bits; then narrower ones and FP32 from there."""
    known: dict[str, Any] = {}
    chips = {s.sheet.memory for s in rows}
    fit_memory_share([*rows, *(s for s in _decodes() if s.sheet.memory in chips)], known)
    shares = data["memory_share"]
    for key, share in known["memory_share"].items():
        # Streams of memory-bound operators tell more than products do; those stand where there are any.
        if key in chips and (key not in shares or key in ONLY_ENGINES):
            shares[key] = share
    for key in ONLY_ENGINES - chips:
        shares.pop(key, None)
    fit_half(rows, data, evaluations)
    for name in BLOCK_LIBRARIES:
        data["setups"][f"block-layer-{name}"] = _setup(data, {"tensor8": 1}, ["tensor8"], TILES_ALONE)
    data["setups"]["linear-layer"] = _setup(data, {"tensor8": 1, "tensor4": 1}, ["tensor8"], TILES_ALONE)
    launches = data["setups"]["linear-layer"]["launch_kcycles"]
    for key in [key for key in launches if key.endswith("/paired")]:
        del launches[key]  # CUTLASS' kernels in these layers wait for the one before, whatever the chip
    data["setups"]["engine-plugin"] = _setup(data, {"integer8": 1}, [])
    fit_narrow(rows, data)
    if "widened" in wanted:
        fit_plugins(rows, data)
    if "simt32" in wanted:
        fit_wide(rows, data)


def _setup(
    data: dict[str, Any], splits: dict[str, int], by_rows: list[str], few_rows: dict[str, int] | None = None
) -> dict[str, Any]:
    """A setup as kernels in a graph, with launches of its own."""
    made = json.loads(json.dumps(data["setups"]["graph-mean"]))
    made["splits"], made["by_rows"], made["few_rows"] = splits, by_rows, dict(few_rows or {})
    return dict(made)


def fit_half(rows: Sequence[Sample], data: dict[str, Any], evaluations: int) -> None:
    """16-bit products of all ways of measuring."""
    chosen = product_rows(rows, "tensor16")
    data["tensor16"] = {name: limit[0] for name, limit in GEMM.items()}
    setups = data["setups"]
    lines = gemm_lines(chosen, data)
    named_setups = [setup_name(s.row) for s in chosen]
    timing = np.array([SETUPS_16.index(name) if name in SETUPS_16 else 0 for name in named_setups])
    clock_khz = np.array([s.sheet.clock for s in chosen]) / 1e3
    paired = np.array([s.sheet.launches == "paired" for s in chosen])
    # Launches are the GPU's own work and take cycles; kernels for pairs of multiprocessors overlap them with the kernel
    # before (programmatic dependent launch). What the wall clock adds is the host's, in microseconds.
    limits, count = [*GEMM.values(), *STARTS_16], len(GEMM)
    joules = lines[:, gemm.JF] / data["energy_pj"]["tensor16"]

    def predicted(x: Array) -> Array:
        lines[:, gemm.LIB] = np.where(timing == 1, x[count + 4], 1.0)
        lines[:, gemm.JF] = joules * x[count + 5]
        cycles = np.where(paired, x[count + 2], x[count + 0])
        cycles = np.where(timing == 1, x[count + 1], cycles)
        launch = np.where(timing == 3, x[count + 3], cycles * 1e6 / clock_khz)
        return np.asarray(gemm_us(lines, x[:count]) + launch)

    x = search(limits, predicted, measured_of(chosen), weights_of(chosen), rounds=3, evaluations=evaluations)
    data["tensor16"] = named(GEMM, x[:count])
    setups["kernel"]["launch_us"]["tensor16"] = 0.0
    setups["kernel"]["launch_kcycles"]["tensor16"] = rounded(x[count + 1])
    setups["wall-incl-launch"]["launch_us"]["tensor16"] = rounded(x[count + 3])
    setups["kernel"]["library"] = rounded(x[count + 4])
    for name in ("graph-mean", "default", "vllm-hook-mean"):
        for family in ("tensor16", "widened", "tensor8", "integer8", "tensor4"):
            setups[name]["launch_us"][family] = 0.0
            setups[name]["launch_kcycles"][family] = rounded(x[count])
            if paired.any():
                setups[name]["launch_kcycles"][f"{family}/paired"] = rounded(x[count + 2])
    data["energy_pj"]["tensor16"] = rounded(x[count + 5])


def fit_narrow(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """8-bit and 4-bit products, and the kernel that quantises activations before them in engines' layers."""
    for family, wider, ratio in (
        ("tensor8", "tensor16", 0.55),
        ("integer8", "tensor16", 0.5),
        ("tensor4", "tensor8", 0.6),
    ):
        data[family] = dict(data[wider])
        data["energy_pj"][family] = rounded(data["energy_pj"][wider] * ratio)
    data["memory_bound/quantize"] = {name: limit[0] for name, limit in QUANTIZE.items()}
    for family in ("tensor8", "tensor4"):
        chosen = [s for s in product_rows(rows, family) if setup_name(s.row) == "linear-layer"]
        if len(chosen) < 20:
            if family == "tensor4":
                data["tensor4"], ratio = dict(data["tensor8"]), data["energy_pj"]["tensor8"]
                data["energy_pj"]["tensor4"] = rounded(0.6 * ratio)
            continue
        _fit_layer(chosen, data, family)
    _fit_blocks(rows, data)


def _fit_layer(chosen: Sequence[Sample], data: dict[str, Any], family: str) -> None:
    """An engine's linear layers of one arithmetic: the product, its energy, and the quantising kernel with it."""
    lines = gemm_lines(chosen, data)
    before = np.array(
        [memory_line(Request(s.row.then[0], s.sheet, setup_of(s, data)), Constants(data)) for s in chosen]
    )
    clock = np.array([s.sheet.clock for s in chosen])
    start = data[family]
    limits = narrow_limits(start)
    # The product's own launch is that of any other; what the layer takes beyond it belongs to the quantising kernel.
    own = np.array([launch_us(data, "linear-layer", family, s) for s in chosen])
    joules = lines[:, gemm.JF] / data["energy_pj"][family]
    energy = data["energy_pj"][family]
    quantize = (
        list(QUANTIZE.values())
        if family == "tensor8"
        else [(v,) * 3 for v in data["memory_bound/quantize"].values()]
    )
    count, more = len(limits), len(QUANTIZE)
    limits += [*quantize, (energy, energy * 0.7, energy * 1.6), (4.0, 0.5, 12.0)]
    out = np.zeros((len(lines), memory_bound.RESULTS))

    def predicted(x: Array) -> Array:
        lines[:, gemm.JF] = joules * x[-2]
        memory_bound.memory_bound_rows(before, np.tile(x[count : count + more], (len(before), 1)), out)
        return np.asarray(gemm_us(lines, x[:count]) + own + out[:, 0] * 1e6 + x[-1] * 1e9 / clock)

    x = search(limits, predicted, measured_of(chosen), weights_of(chosen), rounds=2, evaluations=1500)
    data[family] = named(GEMM, x[:count])
    data["energy_pj"][family] = rounded(x[-2])
    if family == "tensor8":
        data["memory_bound/quantize"] = named(QUANTIZE, x[count : count + more])
        data["tensor4"] = dict(data["tensor8"])
        data["energy_pj"]["tensor4"] = rounded(0.6 * x[-2])
        for name, setup in data["setups"].items():
            if name in IN_GRAPHS or name.startswith("block-layer"):
                setup["launch_us"]["memory_bound/quantize"] = 0.0
                setup["launch_kcycles"]["memory_bound/quantize"] = rounded(x[-1])
    # Formats differ in the kernels that quantise to them; the layer's launch bears what they differ by.
    extra = x[-1] - data["setups"]["linear-layer"]["launch_kcycles"]["memory_bound/quantize"]
    table = data["setups"]["linear-layer"]["launch_kcycles"]
    for key in [key for key in table if key == family or key.startswith(f"{family}/")]:
        table[key] = rounded(max(0.0, table[key] + extra))


def narrow_limits(wider: dict[str, float]) -> list[tuple[float, float, float]]:
    """Limits within which twice the rate makes every tile at least as fast as the wider type does.

    The loss by feed grows by at most half, and the rate without loss stays above three quarters.
    """
    free = {
        "e0": (0.9 * wider["e0"], 0.75 * wider["e0"], 1.0),
        "feed": (1.2 * wider["feed"], 0.5 * wider["feed"], 1.5 * wider["feed"]),
    }
    return [free.get(name, (wider[name],) * 3) for name in GEMM]


def _fit_blocks(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Layers with block scales, which their engine calls from Python: a library's rate, the host's time per call."""
    found: dict[str, float] = {}
    for library in BLOCK_LIBRARIES:
        name = f"block-layer-{library}"
        chosen = [s for s in product_rows(rows, "tensor8") if setup_name(s.row) == name]
        setup = data["setups"][name]
        if len(chosen) < 8:
            setup["host_us"]["tensor8"] = 0.0
            continue
        generations = sorted({s.sheet.generation for s in chosen})
        place = np.array([generations.index(s.sheet.generation) for s in chosen])

        def predicted(
            x: Array, chosen: list[Sample] = chosen, setup: Any = setup, place: Any = place
        ) -> Array:
            setup["library_of"] = {"tensor8": float(x[0])}
            return np.asarray(np.maximum(layer_us(chosen, data), x[1:][place]))

        starts = [(150.0, 20.0, 500.0)] * len(generations)
        x = search(
            [(0.9, 0.4, 1.0), *starts],
            predicted,
            measured_of(chosen),
            weights_of(chosen),
            rounds=2,
            evaluations=60,
        )
        setup["library_of"] = {"tensor8": rounded(x[0])}
        setup["host_us"]["tensor8"] = rounded(float(np.mean(x[1:])))
        found[library] = setup["host_us"]["tensor8"]
        if len(generations) > 1:
            for generation, value in zip(generations, x[1:], strict=True):
                setup["host_us"][f"tensor8/{generation}"] = rounded(value)
    for library in BLOCK_LIBRARIES:
        setup = data["setups"][f"block-layer-{library}"]
        if not setup["host_us"].get("tensor8") and found:
            setup["host_us"]["tensor8"] = rounded(float(np.median(list(found.values()))))
        # The host's calls are the same where a chip computes such products in another type.
        for entry in [entry for entry in setup["host_us"] if entry.startswith("tensor8")]:
            for family in sorted(PRODUCTS):
                setup["host_us"][entry.replace("tensor8", family, 1)] = setup["host_us"][entry]


def fit_plugins(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Weight-only and SmoothQuant plug-ins: launches, and the rate and conversions of kernels with narrow weights.

    Those widen a weight in several instructions. Kernels laid out for it take one (Marlin, arXiv:2408.11743, section 3:
    two weights by three instructions, then a multiplication), which other setups assume.
    """
    data["widened"] = dict(data["tensor16"])
    setup = data["setups"]["engine-plugin"]
    setup["library_of"], setup["conversions"] = {"widened": 0.9}, 1.0
    for family in ("widened", "integer8"):
        chosen = [s for s in product_rows(rows, family) if setup_name(s.row) == "engine-plugin"]
        if len(chosen) < 20:
            continue
        lines = gemm_lines(chosen, data)
        clock = np.array([s.sheet.clock for s in chosen])
        start, energy = data[family], data["energy_pj"].get(family, 1.0)
        free: dict[str, tuple[float, float, float]] = {"convert": (3.0, 0.5, 10.0)}
        if family == "integer8":
            free = dict(zip(GEMM, narrow_limits(start), strict=True))
        limits = [free.get(n, (start[n],) * 3) for n in GEMM]
        more = (
            [(0.9, 0.5, 1.0), (energy,) * 3]
            if family == "widened"
            else [(1.0,) * 3, (energy, 0.6 * energy, 1.2 * energy)]
        )
        joules = lines[:, gemm.JF] / energy

        def predicted(x: Array, lines: Array = lines, clock: Array = clock, joules: Array = joules) -> Array:
            lines[:, gemm.LIB], lines[:, gemm.JF] = x[-3], joules * x[-2]
            return np.asarray(gemm_us(lines, x[:-3]) + x[-1] * 1e9 / clock)

        x = search(
            [*limits, *more, (12.0, 3.0, 30.0)], predicted, measured_of(chosen), weights_of(chosen), rounds=2,
            evaluations=500,
        )  # fmt: skip
        if family == "widened":
            setup["library_of"][family], setup["conversions"] = (
                rounded(x[-3]),
                rounded(x[list(GEMM).index("convert")]),
            )
        else:
            data[family], data["energy_pj"][family] = named(GEMM, x[:-3]), rounded(x[-2])
        for key in [key for key in setup["launch_kcycles"] if key == family or key.startswith(f"{family}/")]:
            setup["launch_kcycles"][key] = rounded(x[-1])


def fit_wide(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """FP32 products on the vector units."""
    chosen = product_rows(rows, "simt32")
    data["simt32"] = dict(data["tensor16"])
    if len(chosen) < 20:
        return
    lines = gemm_lines(chosen, data)
    limits = [GEMM[n] if n in FREE_32 else (data["simt32"][n],) * 3 for n in GEMM]
    joules = lines[:, gemm.JF] / data["energy_pj"]["simt32"]

    def predicted(x: Array) -> Array:
        lines[:, gemm.JF] = joules * x[-1]
        return np.asarray(gemm_us(lines, x[:-2]) + x[-2])

    x = search(
        [*limits, (8.0, 1.0, 60.0), (20.0, 5.0, 60.0)], predicted, measured_of(chosen), weights_of(chosen)
    )
    data["simt32"] = named(GEMM, x[:-2])
    data["setups"]["profiler"]["launch_us"]["simt32"] = rounded(x[-2])
    data["energy_pj"]["simt32"] = rounded(x[-1])


def setup_of(s: Sample, data: dict[str, Any]) -> Any:
    """The setup that a row was measured under."""
    return Constants(data).setup(setup_name(s.row))


def launch_us(data: dict[str, Any], name: str, family: str, s: Sample) -> float:
    """Launch of a product in a graph on a row's chip."""
    table = data["setups"][name]["launch_kcycles"]
    cycles = table.get(f"{family}/{s.sheet.launches}", table[family])
    return float(cycles * 1e9 / s.sheet.clock)


def gemm_lines(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """Kernel inputs of rows of products."""
    constants = Constants(data)
    requests = [
        Request(s.row.operator, s.sheet, setup_of(s, data)) for s in rows if s.row.operator is not None
    ]
    return np.array([gemm_line(r, constants) for r in requests])


def gemm_us(lines: Array, x: Array) -> Array:
    """Kernel microseconds of products."""
    out = np.zeros((len(lines), gemm.RESULTS))
    gemm.gemm_rows(lines, x, gemm.TILES, gemm.SPLITS, out)
    return np.asarray(out[:, 0] * 1e6)


def layer_us(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """Microseconds of rows as the model has them, all kernels of a row in turn, beside nothing of the host's."""
    return _sums(rows, data, lambda p: p.kernel_s + p.launch_s)


def predicted_us(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """Microseconds of rows as measured: a layer takes the longer of its kernels and the host's calls."""
    return _sums(rows, data, lambda p: p.seconds)


def _sums(rows: Sequence[Sample], data: dict[str, Any], of: Callable[[Any], float]) -> Array:
    requests, owner = [], []
    for i, s in enumerate(rows):
        assert s.row.operator is not None
        for operator in (s.row.operator, *s.row.then):
            requests.append(Request(operator, s.sheet, setup_of(s, data)))
            owner.append(i)
    out = np.zeros(len(rows))
    np.add.at(out, owner, [of(p) * 1e6 for p in predict(requests, Constants(data))])
    return out


def report(rows: Sequence[Sample], inside: Array, outside: Array | None) -> None:
    """Print errors by element type and chip: mean / median, and the median ratio, in sample and left out."""
    keys = [(s.row.cells.get("dtype", ""), s.row.gpu, s.row.cells.get("source", "")) for s in rows]
    measured = measured_of(rows)
    for key in sorted(set(keys)):
        mine = [i for i, k in enumerate(keys) if k == key]
        cells = []
        for predicted in (inside, outside):
            if predicted is not None:
                ratio = predicted[mine] / measured[mine]
                e = np.abs(ratio - 1) * 100
                cells.append(f"{e.mean():6.1f} / {np.median(e):5.1f} ({np.median(ratio):.2f})")
        print(f"{' '.join(key):48s} {len(mine):4d} " + "   ".join(cells), flush=True)


@cache
def _layers() -> tuple[Sample, ...]:
    return tuple(
        s for s in samples(ENGINE_ROWS) if s.row.operator is not None and s.row.operator.kind == "matmul"
    )


@cache
def _decodes() -> tuple[Sample, ...]:
    return tuple(s for s in samples(ENGINE_ROWS) if s.row.op == "attention_decode")


def layer_rows(chips: frozenset[str]) -> list[Sample]:
    """Products of inference engines on these chips, and on chips of which the other table has no rows."""
    others = frozenset(s.chip for s in _layers()) - CHIPS_OF_BOTH
    return [s for s in _layers() if s.chip in chips | others]


def all_rows() -> list[Sample]:
    """Every measured product."""
    rows = [s for s in samples() if s.row.operator is not None and s.row.operator.kind == "matmul"]
    return [*rows, *_layers()]


def main() -> None:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each chip out in turn")
    chosen = parser.parse_args()
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    rows, started = all_rows(), time.monotonic()
    fit_products(rows, data)
    TARGET.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(f"fitted {len(rows)} rows in {time.monotonic() - started:.0f} s", file=sys.stderr)
    inside = predicted_us(rows, data)
    report(rows, inside, None)
    if chosen.cross:
        for chip in sorted({s.chip for s in rows}):
            held = [i for i, s in enumerate(rows) if s.chip == chip]
            left = json.loads(json.dumps(data))
            wanted = frozenset(family_of_sample(rows[i]) for i in held)
            # Fewer evaluations than the fit that stands: enough to tell how it transfers.
            fit_products([s for s in rows if s.chip != chip], left, wanted, 600)
            kept = [rows[i] for i in held]
            print(f"left out {chip}: in sample, left out", flush=True)
            report(kept, inside[held], predicted_us(kept, left))


if __name__ == "__main__":
    main()
