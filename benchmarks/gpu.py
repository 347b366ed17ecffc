"""Time per prediction of the GPU model, one operator at a time and batched.

    python -m benchmarks.gpu

Prints microseconds of processor time per operator over the public rows, best of five rounds. The targets are
100 us alone and 10 us batched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from offchip.validation.reference_gpu import ReferenceGpus
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.gpu.model import GPU
from workloads.operator_table import read_operator_table

ROWS = Path(__file__).resolve().parent.parent / "tests" / "reference" / "gpu" / "operators.csv"
ROUNDS = 5


def best(work: Callable[[], object], count: int) -> float:
    work()
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        rounds.append((time.process_time() - start) / count * 1e6)
    return min(rounds)


def main() -> None:
    gpu = ReferenceGpus().find("h100-sxm")
    assert gpu is not None
    operators = [
        row.operator
        for row in read_operator_table(ROWS).rows
        if row.operator is not None and row.operator.kind not in COMMUNICATION_KINDS
    ]
    some = operators[::10]
    alone = best(lambda: [GPU.cost(operator, gpu.node, gpu.memory) for operator in some], len(some))
    batched = best(lambda: GPU.predict_rows(operators, gpu.node, gpu.memory), len(operators))
    print(f"alone    {alone:7.1f} us per operator ({len(some)} operators)")
    print(f"batched  {batched:7.1f} us per operator ({len(operators)} operators)")


if __name__ == "__main__":
    main()
