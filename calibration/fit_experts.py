"""Fits the constants of products per expert, library by library, on measured layers of experts.

    python -m calibration.fit_experts [--cross]

Reads ``tests/reference/kernels/kernels.csv``, rows of op moe; the other kernels of a layer (sorting, non-linearity,
narrow copies, sums) are priced with their own constants, which stay as they are. Writes the keys ``experts/...`` of
``simulator/gpu/constants.json``. A library is fitted over all chips that ran it; one on which a single generation lies
far from the others (``OWN_GENERATION``) has constants of that generation too. ``--cross`` leaves each chip out in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.gpu_samples import ROOT, Sample, measured_of, samples
from calibration.search import Limits, named, rounded, search
from simulator.gpu import grouped
from simulator.gpu.constants import Constants
from simulator.gpu.expert_lines import grouped_line, library_of
from simulator.gpu.request import Request
from simulator.gpu.rows import predict
from workloads.operators import GroupedProduct
from workloads.operators.products import EXPERT_LIBRARIES

Array = NDArray[np.float64]

KERNELS: Final = ROOT / "tests" / "reference" / "kernels" / "kernels.csv"
TARGET: Final = ROOT / "simulator" / "gpu" / "constants.json"
EXPERTS: Final[Limits] = {
    "e0": (0.75, 0.15, 1.0), "feed": (4.0, 0.5, 60.0), "share": (0.95, 0.1, 1.0), "overlap": (3.0, 1.2, 8.0),
    "tile_us": (0.5, 0.01, 8.0), "expert_us": (0.05, 0.001, 4.0), "take_in": (32.0, 2.0, 128.0),
    "launch_kcycles": (8.0, 0.5, 120.0), "widening": (0.7, 0.3, 1.0),
    "blocked_us": (0.5, 0.01, 12.0),
}  # fmt: skip
SORT_PASS_US: Final = (1.4, 0.05, 3.0)
"""Microseconds of a sort's pass; other sorts than those of libraries take the median of theirs."""
OWN_GENERATION: Final = (("cutlass", "Hopper"),)
"""CUTLASS' grouped kernels for Hopper are of an older make than those for Blackwell."""


def start() -> dict[str, Any]:
    """Constants before any fit, by key."""
    plain = {name: limit[0] for name, limit in EXPERTS.items()}
    keys = [f"experts/{name}" for name in EXPERT_LIBRARIES if name]
    return {"sort": {"pass_us": 0.0}, **{key: dict(plain) for key in keys}}


def expert_rows(file: Path = KERNELS) -> list[Sample]:
    """The measured layers of experts."""
    return [s for s in samples(file) if s.row.op == "moe"]


def parts_of(s: Sample, constants: Constants) -> list[Request]:
    """The kernels of a layer, in turn."""
    from offchip.validation.engine_rows import setup_name

    assert s.row.operator is not None
    setup = constants.setup(setup_name(s.row))
    return [Request(operator, s.sheet, setup) for operator in (s.row.operator, *s.row.then)]


def key_of(request: Request) -> str:
    """The key whose constants a product per expert takes when all are there."""
    work = request.operator.work
    assert isinstance(work, GroupedProduct)
    name = library_of(work, request.operator, request.sheet)
    own = (name, request.sheet.generation)
    return f"experts/{name}/{own[1]}" if own in OWN_GENERATION else f"experts/{name}"


def fit_experts(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """The constants of every library that these rows hold, into ``data``; others take the mean of those fitted."""
    for key in [key for key in data if key.startswith("experts/")]:
        del data[key]
    data.update(start())
    constants = Constants(data)
    by_key: dict[str, list[int]] = {}
    requests = [parts_of(s, constants) for s in rows]
    products = [[r for r in parts if isinstance(r.operator.work, GroupedProduct)] for parts in requests]
    for index, mine in enumerate(products):
        by_key.setdefault(key_of(mine[0]), []).append(index)
    passes: dict[str, float] = {}
    for key, chosen in sorted(by_key.items(), key=lambda item: (-len(item[1]), item[0])):
        beside = np.array([
            sum(p.seconds for p in predict([r for r in requests[i] if r not in products[i]], constants)) * 1e6
            for i in chosen
        ])  # fmt: skip
        lines = np.array([grouped_line(r, constants) for i in chosen for r in products[i]])
        digits = np.array([sum(digits_of(r) for r in requests[i]) for i in chosen])
        library = key.split("/")[1]
        # Two makes of one library share its sort, which the make with more rows tells.
        held = (passes[library],) * 3 if library in passes else SORT_PASS_US
        data[key], passes[library] = fit_library(lines, (beside, digits), [rows[i] for i in chosen], held)
    data["sort"] = {
        "pass_us": float(np.median(list(passes.values()))) if passes else SORT_PASS_US[0],
        **passes,
    }
    seen = [data[key] for key in by_key]
    for key in start():
        if key.startswith("experts/") and key not in by_key and seen:
            data[key] = {name: float(np.median([one[name] for one in seen])) for name in EXPERTS}


def digits_of(request: Request) -> float:
    """Binary digits of a sort's keys, which are its passes; 0 of other operators."""
    if request.operator.kind != "sort":
        return 0.0
    return Constants({"sort": {"pass_us": 1e6}}).sort_seconds(request.operator)


def fit_library(
    lines: Array, other: tuple[Array, Array], rows: Sequence[Sample], pass_us: tuple[float, float, float]
) -> tuple[dict[str, float], float]:
    """One library's constants, and its sort's; two products to a row, what runs beside them, and passes of sorts."""
    beside, digits = other
    out = np.zeros((len(lines), grouped.RESULTS))
    clock = np.array([s.sheet.clock for s in rows])

    def predicted(x: Array) -> Array:
        grouped.grouped_rows(lines, np.broadcast_to(x[:-1], (len(lines), len(x) - 1)), out)
        kernels = out[:, 0].reshape(-1, 2).sum(axis=1) * 1e6
        return np.asarray(kernels + 2 * x[grouped.LAUNCH] * 1e9 / clock + beside + x[-1] * digits)

    measured = measured_of(rows)
    chips = [s.chip for s in rows]
    weights = np.array([chips.count(chip) ** -0.3 for chip in chips])
    limits = [*EXPERTS.values(), pass_us]
    x = search(limits, predicted, measured, weights, rounds=3, evaluations=1500)
    return named(EXPERTS, x[:-1]), rounded(x[-1])


def predicted_us(rows: Sequence[Sample], data: dict[str, Any]) -> Array:
    """Microseconds of each layer."""
    constants = Constants(data)
    parts = [parts_of(s, constants) for s in rows]
    found = iter(predict([r for one in parts for r in one], constants))
    return np.array([sum(next(found).seconds for _ in one) * 1e6 for one in parts])


def report(rows: Sequence[Sample], predicted: Array, title: str) -> None:
    """Print mean / median errors, by chip, library and element type."""
    errors = np.abs(predicted / measured_of(rows) - 1.0) * 100
    ratio = predicted / measured_of(rows)
    print(f"{title}: {len(rows)} rows, {errors.mean():.1f} / {np.median(errors):.1f} %")
    keys = [(s.chip, _library(s), s.row.cells.get("dtype", "")) for s in rows]
    for key in sorted(set(keys)):
        mine = [i for i, other in enumerate(keys) if other == key]
        e = errors[mine]
        print(
            f"    {' '.join(key):44s} {len(mine):4d} {e.mean():6.1f} {np.median(e):6.1f} {np.median(ratio[mine]):6.2f}"
        )


def _library(s: Sample) -> str:
    return next(part.work.library for part in s.row.then if isinstance(part.work, GroupedProduct)) or "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cross", action="store_true", help="leave each chip out in turn")
    chosen = parser.parse_args(arguments)
    rows = expert_rows()
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    fit_experts(rows, data)
    TARGET.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    report(rows, predicted_us(rows, data), "in sample")
    if chosen.cross:
        outside = np.zeros(len(rows))
        for chip in sorted({s.chip for s in rows}):
            held = [i for i, s in enumerate(rows) if s.chip == chip]
            own = dict(data)
            fit_experts([s for s in rows if s.chip != chip], own)
            outside[held] = predicted_us([rows[i] for i in held], own)
        report(rows, outside, "chip left out")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
