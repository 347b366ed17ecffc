"""Layers from ZigZag's workload files: a list with an equation, sizes of its loops, and bits of its words.

``O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]`` with ``dimension_relations`` such as ``ix=2*ox+1*fx``. Operators
that multiply nothing (pools, additions) are told by their type. Padding is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hw_configs.problems import bad_input
from hw_configs.spatial import OPERANDS, Operand
from workloads.einsum import Einsum, read_einsum

__all__ = ["ZigZagLayers", "is_zigzag_workload", "read_zigzag_workload"]

_KEYS: Final = frozenset(
    {"id", "name", "operator_type", "equation", "dimension_relations", "loop_dims", "loop_sizes", "operand_precision",
     "operand_source"}
)  # fmt: skip
_OPERAND: Final = re.compile(r"\s*([A-Za-z]\w*)\s*((?:\[\w+\])+)\s*")
_RELATION: Final = re.compile(r"\s*(\w+)\s*=\s*(?:(\d+)\s*\*\s*)?(\w+)\s*\+\s*(?:(\d+)\s*\*\s*)?(\w+)\s*")


@dataclass(frozen=True)
class ZigZagLayers:
    """The layers, the kinds of those that multiply nothing, the type of each layer, and the bits of their words."""

    layers: tuple[Einsum, ...]
    others: tuple[str, ...]
    types: Mapping[str, str]
    bits: Mapping[Operand, int]


def is_zigzag_workload(data: Any) -> bool:
    """Whether a file's content is a workload of ZigZag."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], Mapping) and "equation" in data[0]


def read_zigzag_workload(data: list[Any], file: str) -> ZigZagLayers:
    """The layers of a workload file's content. Raises ``InputError`` that names the field."""
    layers, others, types = [], [], {}
    bits: dict[Operand, int] = {}
    for number, entry in enumerate(data):
        path = f"[{number}]"
        if not isinstance(entry, Mapping) or set(entry) - _KEYS:
            strange = sorted(set(entry) - _KEYS) if isinstance(entry, Mapping) else [""]
            raise bad_input(
                f"is not read; expected {', '.join(sorted(_KEYS))}", file=file, path=f"{path}.{strange[0]}"
            )
        kind = str(entry.get("operator_type", ""))
        equation = str(entry.get("equation", ""))
        if "*" not in equation or kind == "Pooling":
            others.append(kind)
            continue
        layer = _layer(entry, f"{kind}{entry.get('id', number)}", file, path)
        layers.append(layer)
        types[layer.name] = kind
        own = _bits(entry, file, path)
        if bits and own != bits:
            raise bad_input(f"found {own} where an earlier layer has {bits}; expected one precision", file=file,
                            path=f"{path}.operand_precision")  # fmt: skip
        bits = own
    if not layers:
        raise bad_input("no layer multiplies anything", file=file)
    return ZigZagLayers(tuple(layers), tuple(others), types, bits)


def _layer(entry: Mapping[str, Any], name: str, file: str, path: str) -> Einsum:
    where = f"{path}.equation"
    made, plus, factors = str(entry["equation"]).partition("+=")
    parts = [_OPERAND.fullmatch(text) for text in (made, *factors.split("*"))]
    found = {part[1]: re.findall(r"\[(\w+)\]", part[2]) for part in parts if part is not None}
    if not plus or len(parts) != 3 or set(found) != set(OPERANDS):
        raise bad_input("expected O[..]+=I[..]*W[..]", file=file, path=where)
    dims = [str(dim) for dim in entry.get("loop_dims", [])]
    sizes = entry.get("loop_sizes", [])
    if len(dims) != len(sizes):
        raise bad_input(
            f"found {len(sizes)} sizes for {len(dims)} loops", file=file, path=f"{path}.loop_sizes"
        )
    sums: dict[str, list[list[Any]]] = {}
    for text in entry.get("dimension_relations", []):
        relation = _RELATION.fullmatch(str(text))
        if relation is None:
            raise bad_input(
                f"found {text!r:.40}; expected a=2*b+1*c", file=file, path=f"{path}.dimension_relations"
            )
        sums[relation[1].upper()] = [
            [relation[3].upper(), int(relation[2] or 1)], [relation[5].upper(), int(relation[4] or 1)],
        ]  # fmt: skip
    tensors = {
        operand: [sums.get(axis.upper(), [[axis.upper(), 1]]) for axis in axes]
        for operand, axes in found.items()
    }
    content = {
        "name": str(entry.get("name", name)),
        "dims": dict(zip((dim.upper() for dim in dims), sizes, strict=True)),
        "tensors": tensors,
    }
    return read_einsum(content, f"{file}: {path}")


def _bits(entry: Mapping[str, Any], file: str, path: str) -> dict[Operand, int]:
    said = entry.get("operand_precision", {})
    found: dict[Operand, int] = {}
    for operand in OPERANDS:
        width = said.get(operand, 0)
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise bad_input(
                f"found {width!r:.20}; expected bits", file=file, path=f"{path}.operand_precision.{operand}"
            )
        found[operand] = width
    return found
