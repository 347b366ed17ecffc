"""Models of which a CPU computes a part, as engines were measured to run them: what comes out, near or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from hw_configs.library import load_system
from simulator.simulate import simulate
from tests.cpu.hybrid import Chooser, hybrid_plan
from workloads.graph import Operator
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

REFERENCE = Path(__file__).parents[1] / "reference" / "cpu"


def first_layers(count: int) -> Chooser:
    """The first so many layers, the embedding and the output layer, as llama.cpp leaves them to the CPU."""
    return lambda op: op.place.layer is None or op.place.layer < count


def experts_of(count: int) -> Chooser:
    """The routed experts of so many layers."""

    def chosen(op: Operator) -> bool:
        layer = op.place.layer
        return layer is not None and layer < count and ".experts." in op.name and not op.name.endswith("sort")

    return chosen


@dataclass(frozen=True)
class Row:
    name: str
    model: str
    system: str
    on_cpu: Chooser
    measured: float
    ratio: float
    with_waits: float
    """The same with 276 us of software a layer, before what the CPU made goes back to the GPU."""


ROWS = (
    Row(
        "qwen-layers",
        str(REFERENCE / "qwen2.5-14b.json"),
        "rtx-2080-core-i9-10900x",
        first_layers(6),
        20.8,
        1.44,
        1.43,
    ),
    Row("qwen-experts", "qwen3-30b-a3b", "rtx-2080-core-i9-10900x", experts_of(36), 36.7, 1.72, 1.06),
    Row("deepseek-one", "deepseek-v3", "rtx-4090-xeon-6454s", experts_of(61), 8.73, 1.68, 1.36),
    Row("deepseek-two", "deepseek-v3", "rtx-4090-2x-xeon-6454s", experts_of(61), 12.208, 1.62, 1.23),
)
"""Published: Qwen2.5-14B Q4 with 42 of 48 layers and Qwen3-30B-A3B with 12 of 48 layers' experts on a GPU of 8 GB and
an i9-10900X; DeepSeek-V3 Q4 by KTransformers with eight experts on one socket and on two (its
13.69 tokens/s are of six experts)."""


def tokens_per_s(row: Row, wait_s: float) -> float:
    system = load_system(row.system)
    workload = load_workload(row.model, WorkloadOptions(phase="decode", prompt=512, dtype="q4_k"))
    result = simulate(
        workload, system, lambda graph, machine: hybrid_plan(graph, machine, row.on_cpu, wait_s)
    )
    return 1 / result.makespan_s


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_hybrid_decode_comes_as_near_as_the_page_says(row: Row) -> None:
    assert tokens_per_s(row, 0.0) / row.measured == pytest.approx(row.ratio, abs=0.006)
    assert tokens_per_s(row, 276e-6) / row.measured == pytest.approx(row.with_waits, abs=0.006)
