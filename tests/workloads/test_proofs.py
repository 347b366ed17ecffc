"""What a training step moves, counted by hand for weights with and without a master copy."""

from __future__ import annotations

import pytest

from tests.typed import operator_of
from workloads.graph import Graph, Role, Tensor
from workloads.training import training_step
from workloads.weight_updates import ADAM_FLOPS


@pytest.mark.parametrize(
    ("dtype", "states", "read", "written"),
    [
        # Gradient; master copy, two moments: read. Weight, master copy, two moments: written.
        ("fp16", 3, 2 + 12, 2 + 12),
        ("bf16", 3, 2 + 12, 2 + 12),
        # Gradient; the weight itself, which has no other copy, two moments: read. Weight, moments: written.
        ("fp32", 2, 4 + 4 + 8, 4 + 8),
    ],
)
def test_the_optimizer_reads_gradient_states_and_a_weight_without_a_copy(
    dtype: str, states: int, read: int, written: int
) -> None:
    width = {"fp16": 2, "bf16": 2, "fp32": 4}[dtype]
    tensors = [
        Tensor("x", (4, 3), dtype),
        Tensor("W", (5, 3), dtype, Role.WEIGHT),
        Tensor("y", (4, 5), dtype),
    ]
    up = operator_of(
        "matmul", 120, 27 * width, 20 * width, name="up", inputs=("x", "W"), outputs=("y",), m=4, n=5, k=3
    )
    graph = training_step(Graph("one", {t.name: t for t in tensors}, (up,), ("y",)))
    step = graph.operator_by_name["optimizer.W"]
    assert step.updates[0] == "W"
    assert len(step.updates) == 1 + states
    assert (step.read_bytes, step.write_bytes) == (15 * read, 15 * written)
    assert step.flops == 15 * ADAM_FLOPS
