"""The classes under which errors of operator tables are reported."""

from __future__ import annotations

from typing import Final

from offchip.validation.collective_rows import wire_of
from offchip.validation.reference_gpu import shipped_gpu
from simulator.cost.roofline import COMMUNICATION_KINDS, operator_class
from workloads.operator_table import TableRow

__all__ = ["collective_class", "row_class"]


def collective_class(row: TableRow) -> str:
    """all_reduce, send or other_collective within a node, ``_pcie`` where its GPUs have no NVLink; between_nodes."""
    assert row.operator is not None
    if wire_of(row) == "network":
        return "between_nodes"
    kind = row.operator.kind
    name = kind if kind in ("all_reduce", "send") else "other_collective"
    return f"{name}_pcie" if _over_pcie(row) else name


def _over_pcie(row: TableRow) -> bool:
    """Whether the row's board is a shipped one without NVLink."""
    gpu = shipped_gpu(row.gpu) if row.gpu else None
    return gpu is not None and gpu.architecture.peer_bandwidth is None and wire_of(row) != "network"


_OWN_CLASS: Final = {
    "moe": "experts", "mla_prefill": "latent_prefill", "mla_decode": "latent_decode",
    "gated_delta_net_context": "linear_attention", "gated_delta_net_generation": "linear_attention",
}  # fmt: skip
_SHARED_CLASS: Final = frozenset({"fp32", "tf32", "fp64", "fp16", "bf16", "fp8", "int8"})
"""Element types whose products have the classes of :func:`operator_class`; each other format is one of its own."""


def row_class(row: TableRow) -> str:
    """The class of any row that has an operator."""
    assert row.operator is not None
    if row.op in _OWN_CLASS:
        return _OWN_CLASS[row.op]
    if row.operator.kind in COMMUNICATION_KINDS:
        own = row.cells.get("kernel") == "custom"
        return f"engine_{collective_class(row)}" if own else collective_class(row)
    dtype = row.cells.get("dtype") or "fp16"
    if row.operator.kind == "matmul" and dtype not in _SHARED_CLASS:
        return f"gemm_{dtype}"
    return operator_class(row.operator)
