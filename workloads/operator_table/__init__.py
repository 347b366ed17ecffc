"""Tables of single operators: :mod:`.table` reads them, a file per family says what its rows mean."""

from workloads.operator_table.table import COLUMNS, OPS, OperatorTable, TableRow, read_operator_table

__all__ = ["COLUMNS", "OPS", "OperatorTable", "TableRow", "read_operator_table"]
