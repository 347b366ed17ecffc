"""Time per prediction of the GPU model, one operator at a time and batched.

    python -m benchmarks.gpu

Prints microseconds of processor time per operator over the public rows, best of five rounds, and milliseconds of a
decode step of 70 billion parameters whose graph stands already. The targets are 100 us alone, 10 us batched and 50 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from offchip.api import load_model
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
    step = load_model("llama-3.1-70b", phase="decode", prompt=4096, batch=16).phases[0].graph.operators
    computing = [operator for operator in step if operator.kind not in COMMUNICATION_KINDS]
    whole = best(lambda: GPU.costs(computing, gpu.node, gpu.memory), 1) / 1e3
    print(f"a step   {whole:7.1f} ms of decoding 70 billion parameters ({len(computing)} operators)")


if __name__ == "__main__":
    main()
