"""The classes under which errors of operator tables are reported."""

from __future__ import annotations

from offchip.validation.collective_rows import wire_of
from simulator.cost.roofline import COMMUNICATION_KINDS, operator_class
from workloads.operator_table import TableRow

__all__ = ["collective_class", "row_class"]


def collective_class(row: TableRow) -> str:
    """all_reduce, send or other_collective within a node; between_nodes for everything else."""
    assert row.operator is not None
    if wire_of(row) == "network":
        return "between_nodes"
    kind = row.operator.kind
    return kind if kind in ("all_reduce", "send") else "other_collective"


def row_class(row: TableRow) -> str:
    """The class of any row that has an operator."""
    assert row.operator is not None
    return collective_class(row) if row.operator.kind in COMMUNICATION_KINDS else operator_class(row.operator)
