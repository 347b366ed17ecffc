"""Spatial accelerators from ZigZag's hardware files (``memories`` from the innermost outwards, ``operational_array``).

A memory serves some dimensions of the array with one instance and is there anew along the others
(``served_dimensions``). Its costs are of all bits of its widest port in a cycle, sizes are bits
(zigzag's docs/source/hardware.rst). The outermost memory is where data begin and is taken as unbounded; every loop may
run along every dimension. Costs that CACTI would find, and areas in units of its own, are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hw_configs.device import SpatialAccelerator, made_accelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import OPERANDS, Operand
from hw_configs.yaml_file import Document

__all__ = ["is_zigzag_architecture", "read_zigzag_architecture"]

_LINKS: Final[Mapping[str, Operand]] = {"I1": "I", "I2": "W", "O": "O"}
_MEMORY: Final = frozenset(
    {"size", "r_cost", "w_cost", "area", "latency", "operands", "ports", "served_dimensions", "auto_cost_extraction",
     "mem_type", "double_buffering_support"}
)  # fmt: skip
_PORT: Final = frozenset({"name", "type", "bandwidth_min", "bandwidth_max", "allocation"})
_ARRAY: Final = frozenset({"unit_energy", "unit_area", "dimensions", "sizes", "input_precision"})


def is_zigzag_architecture(data: Any) -> bool:
    """Whether a file's content is hardware of ZigZag."""
    return isinstance(data, Mapping) and {"memories", "operational_array"} <= set(data)


def read_zigzag_architecture(
    document: Document, bits: Mapping[Operand, int] | None = None
) -> SpatialAccelerator:
    """The accelerator of a hardware file; ``bits`` are those of the workload's words (otherwise 8, 8 and 16).

    Raises ``InputError`` that names the field.
    """
    file, data = document.file, document.data
    _known(data, frozenset({"name", "memories", "operational_array"}), file, "")
    array = data["operational_array"]
    _known(array, _ARRAY, file, "operational_array")
    dimensions = dict(zip(array.get("dimensions", ()), array.get("sizes", ()), strict=False))
    if not dimensions or not len(array["dimensions"]) == len(array["sizes"]) == len(dimensions):
        raise bad_input("expected dimensions with as many sizes", file=file, path="operational_array")
    memories = list(data["memories"].items())[::-1]
    served = [_served(name, memory, dimensions, file) for name, memory in memories]
    levels = []
    for number, (name, memory) in enumerate(memories):
        inner = served[number + 1] if number + 1 < len(served) else set[str]()
        if not inner <= served[number]:
            raise bad_input(
                f"{memories[number + 1][0]!r} serves {', '.join(sorted(inner - served[number]))}, which {name!r} "
                "outside it does not; expected memories that serve no more than those outside them",
                file=file, path=f"memories.{memories[number + 1][0]}.served_dimensions",
            )  # fmt: skip
        level = _level(name, memory, number == 0, file)
        level["fanout"] = [
            {"axis": axis, "size": dimensions[axis], "multicast": ["I", "W"], "reduce": ["O"]}
            for axis in dimensions if axis in served[number] - inner
        ]  # fmt: skip
        levels.append(level)
    absent = [operand for operand in OPERANDS if operand not in levels[0]["holds"]]
    if absent or served[0] != set(dimensions):
        why = f"does not hold {absent[0]}" if absent else "does not serve the whole array"
        raise bad_input(
            f"the outermost memory {why}; expected one where all data begin, such as a DRAM", file=file,
            path=f"memories.{memories[0][0]}",
        )  # fmt: skip
    return made_accelerator(
        {
            "kind": "spatial", "name": str(data.get("name", "zigzag")), "clock": 1e9,
            "description": f"from {file}; clock of 1 GHz assumed, {memories[0][0]} taken as unbounded",
            "word_bits": dict(bits or {"I": 8, "W": 8, "O": 16}),
            "mac_energy": float(array.get("unit_energy", 0)) * 1e-12, "levels": levels,
        },
        file,
    )  # fmt: skip


def _served(name: str, memory: Any, dimensions: Mapping[str, int], file: str) -> set[str]:
    path = f"memories.{name}"
    _known(memory, _MEMORY, file, path)
    found = memory.get("served_dimensions", [])
    strange = [dim for dim in found if dim not in dimensions]
    if strange:
        raise bad_input(f"the array has no {strange[0]!r}", file=file, path=f"{path}.served_dimensions")
    return set(found)


def _level(name: str, memory: Mapping[str, Any], outermost: bool, file: str) -> dict[str, Any]:
    path = f"memories.{name}"
    strange = [operand for operand in memory.get("operands", ()) if operand not in _LINKS]
    if strange or not memory.get("operands"):
        raise bad_input(f"found {strange}; expected some of I1, I2, O", file=file, path=f"{path}.operands")
    if memory.get("auto_cost_extraction"):
        raise bad_input("costs of CACTI are not there; give r_cost and w_cost", file=file,
                        path=f"{path}.auto_cost_extraction")  # fmt: skip
    width = {"read": 0.0, "write": 0.0}
    shared = 0.0
    for number, port in enumerate(memory.get("ports", ())):
        _known(port, _PORT, file, f"{path}.ports[{number}]")
        kind, rate = str(port.get("type")), float(port["bandwidth_max"]) / 8
        if kind == "read_write":
            shared += rate
        elif kind in width:
            width[kind] += rate
        else:
            raise bad_input(f"found {kind!r}; expected read, write or read_write", file=file,
                            path=f"{path}.ports[{number}].type")  # fmt: skip
    level: dict[str, Any] = {
        "name": name, "holds": [_LINKS[o] for o in memory["operands"]],
        "one_port": shared > 0 and not any(width.values()),
    }  # fmt: skip
    widest = max((float(port["bandwidth_max"]) / 8 for port in memory.get("ports", ())), default=0.0)
    for key, cost in (("read", "r_cost"), ("write", "w_cost")):
        rate = width[key] + shared
        if not rate:
            raise bad_input(f"has no port that can {key}", file=file, path=f"{path}.ports")
        if memory.get(cost) is None:
            raise bad_input("is missing", file=file, path=f"{path}.{cost}")
        level[f"{key}_width"] = rate
        level[f"{key}_energy"] = float(memory[cost]) * 1e-12 / widest
    if not outermost:
        level["capacity"] = float(memory.get("size", 0)) / 8
    return level


def _known(found: Any, known: frozenset[str], file: str, path: str) -> None:
    if not isinstance(found, Mapping):
        raise bad_input("expected names with values", file=file, path=path or None)
    strange = [str(key) for key in found if key not in known]
    if strange:
        raise bad_input(
            f"is not read; expected {', '.join(sorted(known))}",
            file=file,
            path=".".join(filter(None, (path, strange[0]))),
        )
