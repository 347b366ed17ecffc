"""Time per prediction of the analytic cost model: one operator alone, and the rows of a table.

    python benchmarks/predict.py

Bounds: 20 us for an operator alone (a generation has some 50,000), 100 us for a row with all around it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from offchip.prediction import predict_row
from offchip.validation.reference_gpu import ReferenceGpus
from simulator.cost.model import COST_MODELS
from simulator.cost.roofline import COMMUNICATION_KINDS
from workloads.operator_table import read_operator_table

DATA = Path(__file__).resolve().parent.parent / "tests" / "reference" / "gpu"


def main() -> int:
    """Print the three times; 1 if a bound is broken."""
    start = time.perf_counter()
    rows = read_operator_table(DATA / "operators.csv").rows
    reading = (time.perf_counter() - start) / len(rows)
    gpus = ReferenceGpus(DATA / "hardware.csv")
    placed = [(row, gpu) for row in rows if (gpu := gpus.find(row.gpu)) is not None]
    start = time.perf_counter()
    for row, gpu in placed:
        predict_row(row, gpu)
    table = (time.perf_counter() - start) / len(placed)
    model = COST_MODELS.get("roofline")
    operators = [
        (row.operator, gpu)
        for row, gpu in placed
        if row.operator is not None and row.operator.kind not in COMMUNICATION_KINDS
    ]
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for operator, gpu in operators:
            model.cost(operator, gpu.node, gpu.memory)
        best = min(best, (time.perf_counter() - start) / len(operators))
    print(
        f"operator alone {best * 1e6:.2f} us, row {table * 1e6:.2f} us, reading a row {reading * 1e6:.2f} us"
    )
    return 0 if best < 20e-6 and table < 100e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
