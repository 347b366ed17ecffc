"""Products per expert of an operator table."""

from __future__ import annotations

from typing import Final

from workloads.operator_table.cells import Built, Cells, Rule
from workloads.operators import GroupedProduct

__all__ = ["OPS"]


def _grouped_gemm(c: Cells) -> Built:
    """``active``: experts that some row reaches."""
    m, n, k, groups = c("m"), c("n"), c("k"), c("groups")
    touched = min(c("active", groups), groups, m)
    weight = c.weight_dtype
    read = c.size(m * k) + touched * c.size(k * n, weight)
    work = GroupedProduct(
        m=m, n=n, k=k, groups=groups, expected_groups=float(touched), weight_dtype=c.narrow(weight)
    )
    return Built(work, read, c.size(m * n, c.output_dtype()))


OPS: Final[dict[str, Rule]] = {"grouped_gemm": _grouped_gemm, "moe": _grouped_gemm}
