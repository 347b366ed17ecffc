"""Which setup of the GPU model a row was measured under: its timing, and for products the library that it names.

Rows of inference engines time a linear layer as the engine runs it. Which library that is decides launches, splits of
the reduction and the rate; a layer that its engine calls from Python shows the host's time where that is longer.
"""

from __future__ import annotations

from typing import Final

from workloads.operator_table import TableRow
from workloads.operator_table.products import PLUGIN

__all__ = ["BLOCK_LIBRARIES", "setup_name"]

GRAPH: Final = ("graph-mean", "cuda-graph-mean")
BLOCK_LIBRARIES: Final = ("deepgemm", "flashinfer", "cutlass", "triton")
"""Libraries of products with block scales, as their kernels' names begin."""


def setup_name(row: TableRow) -> str:
    """The name of the row's setup: its timing, or that of the library that ran a product within a CUDA graph."""
    if row.operator is None or row.operator.kind != "matmul" or row.timing not in GRAPH:
        return row.timing
    kernel = row.cells.get("kernel", "").lower()
    if kernel.startswith(PLUGIN):
        return "engine-plugin"
    if not row.then:
        return "graph-mean"
    if row.cells.get("dtype") == "fp8_block":
        library = next((name for name in BLOCK_LIBRARIES if kernel.startswith(name)), "deepgemm")
        return f"block-layer-{library}"
    return "linear-layer"
