"""Fit the kernel of products of few rows (:mod:`simulator.gpu.few_rows`), on products of at most eight rows.

    python -m calibration.fit_few_rows            # fit and write its keys of simulator/gpu/constants.json
    python -m calibration.fit_few_rows --dry      # print errors before and after, write nothing

It comes after ``fit_products``: tiles keep their constants, and a row takes whichever is quicker. CUTLASS' layers with
scales have no such kernel; with one row they last longer by a time of their own where tiles span multiprocessors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.fit_products import TARGET, all_rows, predicted_us, product_rows
from calibration.gpu_samples import Sample, measured_of, weights_of
from calibration.search import Limits, named, rounded, search
from hw_configs.output_file import replacing
from offchip.validation.engine_rows import setup_name
from simulator.gpu.few_rows import LIMIT
from simulator.gpu.request import PRODUCTS
from workloads.operators import Product

Array = NDArray[np.float64]

FEW_ROWS: Final[Limits] = {
    "in_flight_kib": (24.0, 8.0, 64.0), "latency_us": (1.0, 0.6, 3.0), "step_us": (0.5, 0.05, 2.0),
    "overlap": (3.0, 1.2, 8.0),
}  # fmt: skip


def rows_of(s: Sample) -> int:
    """Rows of a sample's product."""
    work = s.row.operator.work if s.row.operator is not None else None
    return work.m if isinstance(work, Product) else 0


def fit_few_rows(rows: Sequence[Sample], data: dict[str, Any]) -> None:
    """Fit on all products of few rows whose library has the kernel."""
    data["few_rows"] = {name: limit[0] for name, limit in FEW_ROWS.items()}
    chosen = [s for s in product_rows(rows, *PRODUCTS) if rows_of(s) <= LIMIT]
    own = [s for s in chosen if not takes_tiles(s, data)]

    def predicted(x: Array) -> Array:
        data["few_rows"] = dict(zip(FEW_ROWS, x.tolist(), strict=True))
        return predicted_us(own, data)

    x = search(
        list(FEW_ROWS.values()), predicted, measured_of(own), weights_of(own), rounds=2, evaluations=120
    )
    data["few_rows"] = named(FEW_ROWS, x)
    fit_one_row(chosen, data)


def takes_tiles(s: Sample, data: dict[str, Any]) -> bool:
    """Whether the library of a row has no kernel for few rows."""
    return bool(data["setups"][setup_name(s.row)].get("few_rows"))


def fit_one_row(chosen: Sequence[Sample], data: dict[str, Any]) -> None:
    """What CUTLASS' 8-bit layer for pairs of multiprocessors takes longer with a single row: the median over rows."""
    table = data["setups"]["linear-layer"]["one_row_kcycles"] = {}
    single = [
        s for s in chosen
        if rows_of(s) == 1 and setup_name(s.row) == "linear-layer" and s.sheet.launches == "paired"
        and s.row.operator is not None and s.row.operator.dtype == "fp8"
    ]  # fmt: skip
    if len(single) >= 5:
        clock = np.array([s.sheet.clock for s in single])
        late = (measured_of(single) - predicted_us(single, data)) * clock / 1e9
        table["tensor8/paired"] = rounded(max(0.0, float(np.median(late))))


def errors(rows: Sequence[Sample], predicted: Array) -> str:
    """Mean and median of the errors, and the median ratio."""
    ratio = predicted / measured_of(rows)
    off = 100 * np.abs(ratio - 1)
    return f"{off.mean():5.1f} / {np.median(off):5.1f} ({np.median(ratio):.2f})"


def main() -> None:
    """Fit, report by type, chip and rows, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="write nothing")
    dry = parser.parse_args().dry
    data = json.loads(TARGET.read_text(encoding="utf-8"))
    few = [s for s in all_rows() if 1 <= rows_of(s) <= LIMIT]
    tiles = json.loads(json.dumps(data))
    for setup in tiles["setups"].values():
        setup["few_rows"], setup["one_row_kcycles"] = dict.fromkeys(PRODUCTS, 0), {}
    tiles.setdefault("few_rows", {name: limit[0] for name, limit in FEW_ROWS.items()})
    before = predicted_us(few, tiles)
    fit_few_rows(few, data)
    print(data["few_rows"], data["setups"]["linear-layer"]["one_row_kcycles"])
    after = predicted_us(few, data)
    keys = [(s.row.cells.get("dtype", ""), s.row.gpu, "1 row" if rows_of(s) == 1 else "2 to 8") for s in few]
    for key in [*sorted(set(keys)), None]:
        mine = [i for i, k in enumerate(keys) if key in (None, k)]
        own = [few[i] for i in mine]
        name = " ".join(key) if key else "all"
        print(
            f"{name:36s} {len(mine):4d}  tiles {errors(own, before[mine])}  both {errors(own, after[mine])}"
        )
    if not dry:
        with replacing(TARGET) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
