"""Graph files from before operators had typed fields, and files that leave a figure to be worked out.

Such a file states FLOPs where a kind now has a figure per element, per token or per parameter, counts a bias or the
backward pass in those FLOPs alone, and keeps what a trace said beside the fields. Here it is put where it belongs now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final

from workloads.operators import (
    KINDS,
    Convolution,
    Custom,
    GroupedProduct,
    Optimizer,
    Product,
    Recurrence,
    Rows,
    Work,
)
from workloads.operators.parse import read_work
from workloads.operators.work import MAX_COUNT, FieldValue

if TYPE_CHECKING:
    from workloads.graph import Tensor

__all__ = ["typed_fields"]

_OF_A_TRACE: Final = frozenset(
    {
        "node_id",
        "num_ops",
        "tensor_size",
        "comm_size",
        "comm_type",
        "comm_tag",
        "comm_src",
        "comm_dst",
        "pg_name",
    }
)
_OF_A_CHOICE: Final = frozenset({"k", "groups", "top_groups"})
BACKWARD_ATTENTION: Final = 2.5
MOST_BESIDE: Final = 8.0
"""FLOPs per element of a product's operand or result that may come beside it: bias, combination, interpolation."""


def typed_fields(
    kind: str,
    values: Mapping[str, Any],
    flops: float | None,
    outputs: Sequence[Tensor],
    common: Mapping[str, FieldValue],
) -> tuple[dict[str, Any], str]:
    """The fields of a kind, with what a file leaves out, and the name of the one that the stated FLOPs gave.

    ``common`` is what the file says of the operator's place and source.
    """
    own, fields = dict(values), KINDS[kind]
    if "node_id" in own:
        own = {key: value for key, value in own.items() if key not in _OF_A_TRACE}
        if issubclass(fields, Product) and not {"m", "n", "k"} & own.keys():
            side = max(1, round(((flops or 0.0) / 2) ** (1 / 3)))
            return {**own, "m": side, "n": side, "k": side, "extra_flops": (flops or 0.0) - 2.0 * side**3}, ""
    if kind == "scatter":
        own = {key: value for key, value in own.items() if key not in _OF_A_CHOICE}
    if own.pop("graph_input", None) is True:
        own["function"] = "load"
    if issubclass(fields, Rows) and not {"m", "n"} & own.keys() and outputs:
        shape = max(outputs, key=lambda tensor: prod(tensor.shape)).shape
        columns = shape[-1] if shape else 1
        own |= {"m": prod(shape) // columns if columns else 0, "n": columns}
    if flops is None or "extra_flops" in own or "share" in own:
        return own, ""
    return _with_flops(fields, own, flops, common)


def _with_flops(
    kind: type[Work], own: dict[str, Any], flops: float, common: Mapping[str, FieldValue]
) -> tuple[dict[str, Any], str]:
    """The fields with what the stated FLOPs say of them."""
    if issubclass(kind, Custom):
        return {**own, "extra_flops": flops}, "extra_flops"
    for owner, field, counted in (
        (Rows, "flops_per_element", ("m", "n")),
        (Optimizer, "flops_per_parameter", ("parameters",)),
        (Recurrence, "flops_per_token", ("batch", "sequence", "directions")),
    ):
        if issubclass(kind, owner) and field not in own:
            sides = [own.get(name, 1) for name in counted]
            whole = all(isinstance(side, int) and 0 < side <= MAX_COUNT for side in sides)
            return {**own, field: flops / prod(sides) if whole else 0.0}, field if whole else ""
    work, problems = read_work(kind.kind, own)
    if work is None or problems:
        return own, ""
    if kind.kind == "attention" and common.get("pass") == "backward":
        close = abs(flops - BACKWARD_ATTENTION * work.flops) <= 1e-9 * flops
        return ({**own, "share": BACKWARD_ATTENTION} if close else own), ""
    extra = flops - work.flops
    if isinstance(work, Product | GroupedProduct | Convolution) and _per_element(work, extra):
        return {**own, "extra_flops": extra}, ""
    if isinstance(work, GroupedProduct) and common.get("source_type") in ("MoE", "QMoE"):
        return {**own, "share": 2.0}, ""
    return own, ""


def _per_element(work: Product | GroupedProduct | Convolution, extra: float) -> bool:
    """Whether FLOPs are a few whole ones for each element of an operand or result."""
    if isinstance(work, Convolution):
        pixels = work.batch * work.out_height * work.out_width
        sides = [pixels * work.out_channels, pixels * work.in_channels]
    else:
        times = work.batch if isinstance(work, Product) else 1
        sides = [times * work.m * work.n, times * work.m * work.k, times * work.n * work.k]
    return any(0 < extra <= MOST_BESIDE * side and extra % side == 0 for side in sides if side)
