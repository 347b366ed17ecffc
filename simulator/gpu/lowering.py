"""Operators that run as others do: convolutions as implicit products, recurrences as products per step.

Lowering keeps FLOPs and compulsory bytes; it only says which kernel's shape prices them. An operator that
lacks the attributes of its kind, or whose kind no kernel knows, is priced by its bytes.
"""

from __future__ import annotations

from simulator.gpu.conv import as_product
from workloads.graph import Operator, legacy_replace

__all__ = ["lowered"]

_NEEDED = {
    "matmul": frozenset({"m", "n", "k"}),
    "grouped_matmul": frozenset({"m", "n", "k"}),
    "attention": frozenset({"batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len"}),
}


def lowered(operator: Operator) -> Operator:
    """The operator as a product, attention or memory-bound kernel."""
    kind = operator.kind
    if kind == "conv":
        return as_product(operator)
    if kind == "recurrent":
        return _recurrent(operator)
    needed = _NEEDED.get(kind)
    if needed is None or needed <= operator.attributes.keys():
        return operator
    if operator.flops:
        return _product_of_flops(operator)
    return legacy_replace(operator, kind="elementwise", attributes={})


def _recurrent(operator: Operator) -> Operator:
    """One product per step over the gates; the steps follow one another, so they are not one tall product."""
    a = operator.attributes
    if not all(name in a for name in ("batch", "sequence", "hidden")) or not operator.flops:
        return _product_of_flops(operator)
    depth = float(a["hidden"]) + float(a.get("input_size", a["hidden"]))
    rows = float(a["batch"]) * float(a["sequence"])
    columns = max(1.0, operator.flops / (2 * rows * depth))
    return legacy_replace(
        operator,
        kind="matmul",
        attributes={"m": int(a["batch"]), "n": int(columns), "k": int(depth), "batch": int(a["sequence"])},
    )


def _product_of_flops(operator: Operator) -> Operator:
    """A square product of the same FLOPs, for an operator that does not say its shape."""
    side = max(1, round((operator.flops / 2) ** (1 / 3)))
    return legacy_replace(operator, kind="matmul", attributes={"m": side, "n": side, "k": side})
