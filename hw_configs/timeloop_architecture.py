"""Spatial accelerators from Timeloop's architecture files, versions 0.3 (``subtree``, ``local``) and 0.4 (``nodes``).

Storage becomes a level, containers and arrays become axes, a unit with ``mac`` in its class becomes the arithmetic. The
files hold no energies (Accelergy has them): ours are those published by technology and size
(:mod:`hw_configs.access_energy`, :mod:`hw_configs.arithmetic`). Of ``constraints`` those that describe the machine are
read: which data spaces a level keeps, and which dims run along an axis (``permutation``, ``split``, factors of 1). What
is not understood is refused by its field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hw_configs.arithmetic import mac_energy
from hw_configs.device import SpatialAccelerator, made_accelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import OPERANDS, Operand
from hw_configs.yaml_file import Document

__all__ = ["TIMELOOP_TAGS", "is_timeloop_architecture", "read_timeloop_architecture"]

TIMELOOP_TAGS: Final = frozenset({"!Container", "!Component", "!Parallel", "!Nothing", "!Hierarchical"})
_DRAM: Final = {"ddr3": "ddr3", "ddr4": "ddr4", "hbm2": "hbm2", "gddr6": "gddr6"}
_LPDDR4_PJ: Final = 40.0
"""Per byte, 5 pJ a bit: an assumption."""
_UNBOUND: Final = float(2**30)
"""Bytes a clock where a file bounds no bandwidth."""
_SAME: Final[Mapping[str, str]] = {
    "memory_depth": "depth", "entries": "depth", "memory_width": "width", "word_bits": "datawidth", "block_size":
    "cluster_size", "num_banks": "n_banks", "meshx": "mesh_x", "meshy": "mesh_y", "mesh": "mesh_x",
}  # fmt: skip
_HARMLESS: Final = frozenset(
    {
        "n_rdwr_ports",
        "n_rd_ports",
        "n_wr_ports",
        "nports",
        "num_ports",
        "n_ports",
        "update_fifo_depth",
        "latency",
    }
)
"""Attributes that only Accelergy asks about."""
_STORAGE: Final = frozenset(
    {"depth", "width", "datawidth", "cluster_size", "n_banks", "read_bandwidth", "write_bandwidth", "technology",
     "type", "mesh_x", "mesh_y", "sizekb", "system", "global_cycle_seconds"}
)  # fmt: skip
_UNITS: Final = frozenset(
    {"multiplier_width", "adder_width", "width", "datawidth", "technology", "mesh_x", "mesh_y"}
)
_INITIALS: Final[Mapping[str, Operand]] = {"i": "I", "a": "I", "w": "W", "b": "W", "o": "O", "z": "O"}
_ARRAY: Final = re.compile(r"(.+?)\[(\d+)\.\.(\d+)\]")


@dataclass(frozen=True)
class _Part:
    """A component with what it inherits; ``across`` are axes (name, size, rules) between it and what stands outside."""

    name: str
    kind: str
    attributes: Mapping[str, Any]
    constraints: Mapping[str, Any]
    path: str
    across: list[tuple[str, int, Any]] = field(default_factory=list)
    mesh: tuple[int, int] = (1, 1)
    """Of version 0.3: instances along x and y."""


def is_timeloop_architecture(data: Any) -> bool:
    """Whether a file's content is an architecture of Timeloop."""
    return isinstance(data, Mapping) and isinstance(data.get("architecture"), Mapping)


def read_timeloop_architecture(document: Document) -> SpatialAccelerator:
    """The accelerator of an architecture file. Raises ``InputError`` that names the field."""
    file = document.file
    top = document.data["architecture"]
    _known(top, {"version", "nodes", "subtree", "name", "!"}, file, "architecture")
    if "nodes" in top:
        parts = _nested(top["nodes"], {}, file, "architecture.nodes")
    elif "subtree" in top:
        parts = _tree(top["subtree"], {}, 1, file, "architecture.subtree")
    else:
        raise bad_input("expected nodes (0.4) or subtree (0.3)", file=file, path="architecture")
    units = [part for part in parts if "mac" in part.kind.lower() or part.kind.lower() == "compute"]
    stores = [part for part in parts if part not in units]
    if len(units) != 1 or parts[-1] is not units[0] or not stores:
        raise bad_input("expected storage from the outermost inwards and one unit of class intmac or fpmac at the end",
                        file=file, path="architecture")  # fmt: skip
    if stores[0].kind.lower() != "dram":
        raise bad_input(
            f"the outermost storage is {stores[0].name!r} of class {stores[0].kind}; expected DRAM, where data begin",
            file=file, path=stores[0].path,
        )  # fmt: skip
    outside = [*stores[1:], units[0]]
    levels = [
        _level(part, inner, number == 0, file)
        for number, (part, inner) in enumerate(zip(stores, outside, strict=True))
    ]
    bits = {}
    for operand in OPERANDS:
        holders = [part for part, level in zip(stores, levels, strict=True) if operand in level["holds"]]
        bits[operand] = int(holders[-1].attributes.get("datawidth", 8)) if holders else 8
    technology = units[0].attributes.get("technology", "45nm")
    name = str(next((p.attributes["system"] for p in parts if "system" in p.attributes), "timeloop"))
    words = ", ".join(f"{operand} {width}" for operand, width in bits.items())
    seconds = float(units[0].attributes.get("global_cycle_seconds", 1e-9))
    clock = "its clock" if "global_cycle_seconds" in units[0].attributes else "clock of 1 GHz assumed"
    data = {
        "kind": "spatial", "name": name, "clock": 1 / seconds, "word_bits": bits,
        "description": f"from {file}; {clock}; words as wide as in the innermost storage ({words} bits)",
        "process": str(technology), "mac_type": _type_of(units[0], file),
        "mac_energy": mac_energy(_type_of(units[0], file), _nm(technology, units[0], file)), "levels": levels,
    }  # fmt: skip
    return made_accelerator(data, file)


def _type_of(part: _Part, file: str) -> str:
    found = part.attributes.get(
        "multiplier_width", part.attributes.get("width", part.attributes.get("datawidth", 8))
    )
    kind = ("fp" if part.kind.lower().startswith("fp") else "int") + str(found)
    if kind not in ("int8", "int16", "int32", "fp16", "fp32"):
        raise bad_input(f"found {kind}; expected int8, int16, int32, fp16 or fp32", file=file, path=part.path)
    return kind


def _nm(found: Any, part: _Part, file: str) -> float:
    text = str(found).removesuffix("nm").strip()
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 7 <= size <= 45:
        raise bad_input(
            f"found {found!r:.20}; expected 7 to 45 nm", file=file, path=f"{part.path}.attributes.technology"
        )
    return size


def _level(part: _Part, inner: _Part, outermost: bool, file: str) -> dict[str, Any]:
    """A storage as a level, with the axes down to what stands next inside."""
    said = part.attributes
    strange = [key for key in said if key not in _STORAGE | _HARMLESS]
    if strange:
        raise bad_input("is not read", file=file, path=f"{part.path}.attributes.{strange[0]}")
    level: dict[str, Any] = {"name": part.name, "holds": _holds(part, file)}
    word = float(said.get("datawidth", 8)) / 8
    for key in ("read", "write"):
        rate = said.get(f"{key}_bandwidth")
        level[f"{key}_width"] = float(rate) * word if rate else _UNBOUND
    level["banks"] = int(said.get("n_banks", 1))
    if outermost:
        kind = str(said.get("type", "ddr4")).lower()
        if kind == "lpddr4":
            level["read_energy"] = level["write_energy"] = _LPDDR4_PJ * 1e-12
        elif kind in _DRAM:
            level["energy"] = {"kind": _DRAM[kind]}
        else:
            raise bad_input(f"found {kind!r}; expected one of {', '.join((*_DRAM, 'lpddr4'))}", file=file,
                            path=f"{part.path}.attributes.type")  # fmt: skip
    else:
        size = (
            float(said["sizekb"]) * 1024
            if "sizekb" in said
            else (float(said.get("depth", 0)) * float(said.get("width", said.get("datawidth", 8))) / 8)
        )
        if not size > 0:
            raise bad_input("has no depth and width", file=file, path=part.path)
        level["capacity"] = size
        level["energy"] = {"kind": "sram", "technology": _nm(said.get("technology", "45nm"), part, file)}
    across = list(inner.across)
    if inner.mesh != part.mesh:
        for name, outer, own in (("X", part.mesh[0], inner.mesh[0]), ("Y", part.mesh[1], inner.mesh[1])):
            if own % outer:
                raise bad_input(
                    f"{own} instances below {outer} do not divide evenly", file=file, path=inner.path
                )
            across.append((f"{inner.name}.{name}", own // outer, "any"))
    level["fanout"] = [
        {"axis": name, "size": size, "dims": dims, "multicast": ["I", "W"], "reduce": ["O"]}
        for name, size, dims in across if size > 1
    ]  # fmt: skip
    return level


def _holds(part: _Part, file: str) -> list[Operand]:
    """The operands that a storage keeps: all, those of ``keep``, or all but those of ``bypass``."""
    path = f"{part.path}.constraints"
    _known(
        part.constraints,
        {"dataspace"},
        file,
        path,
        "is a decision about a mapping, which --fix takes; is not read here",
    )
    said = part.constraints.get("dataspace", {})
    _known(said, {"keep", "bypass"}, file, f"{path}.dataspace")
    keep, bypass = (
        [_operand(name, file, f"{path}.dataspace") for name in said.get(key) or []]
        for key in ("keep", "bypass")
    )
    held = [o for o in OPERANDS if o not in bypass and (o in keep or not keep)]
    if not held:
        raise bad_input("keeps no data space", file=file, path=path)
    return held


def _operand(name: Any, file: str, path: str) -> Operand:
    found = _INITIALS.get(str(name)[:1].lower())
    if found is None:
        raise bad_input(
            f"found {name!r:.40}; expected Inputs, Weights, Outputs or A, B, Z", file=file, path=path
        )
    return found


def _nested(nodes: Any, inherited: Mapping[str, Any], file: str, path: str) -> list[_Part]:
    """Components of version 0.4, outermost first."""
    parts: list[_Part] = []
    waiting: list[tuple[str, int, Any]] = []
    above = dict(inherited)
    for number, node in enumerate(nodes if isinstance(nodes, list) else [None]):
        here = f"{path}[{number}]"
        tag = node.get("!") if isinstance(node, Mapping) else None
        if tag not in TIMELOOP_TAGS:
            raise bad_input(f"expected one of {', '.join(sorted(TIMELOOP_TAGS))}", file=file, path=here)
        assert isinstance(node, Mapping)
        if tag == "!Nothing":
            continue
        if tag in ("!Parallel", "!Hierarchical"):
            _known(node, {"!", "nodes"}, file, here)
            inner = _nested(node.get("nodes"), above, file, f"{here}.nodes")
            if inner:
                inner[0].across[:0] = waiting
                waiting = []
            parts += inner
            continue
        _known(
            node,
            {"!", "name", "class", "subclass", "attributes", "constraints", "spatial", "required_actions"},
            file,
            here,
        )
        name = str(node.get("name", "node"))
        axes = _axes(node, name, file, here)
        own = _attributes(node.get("attributes"))
        if tag == "!Container":
            above |= own
            above.setdefault("system", name)
            waiting += axes
            continue
        limits = {
            key: value
            for key, value in (node.get("constraints") or {}).items()
            if key != "spatial" or not axes
        }
        part = _Part(name, str(node.get("class", "")), {**above, **own}, limits, here, [*waiting, *axes])
        parts.append(part)
        waiting = []
    if waiting:
        raise bad_input(
            "an array stands inside everything else; expected components in it", file=file, path=path
        )
    return parts


def _axes(node: Mapping[str, Any], name: str, file: str, path: str) -> list[tuple[str, int, Any]]:
    """Arrays of a node, with the dims that its spatial constraints let run along each."""
    said = {key.lower(): value for key, value in (node.get("spatial") or {}).items()}
    _known(said, {"meshx", "meshy"}, file, f"{path}.spatial")
    sizes = [int(said.get(key, 1)) for key in ("meshx", "meshy")]
    limits = (node.get("constraints") or {}).get("spatial", {})
    where = f"{path}.constraints.spatial"
    _known(limits, {"permutation", "factors", "split"}, file, where)
    order = _names(limits.get("permutation", []))
    excluded = set()
    for word in _words(limits.get("factors", [])):
        dim, equals, count = word.partition("=")
        if not equals or count != "1" or "<" in dim:
            raise bad_input(f"found {word!r:.30}; expected DIM=1, a dim that does not run there", file=file,
                            path=f"{where}.factors")  # fmt: skip
        excluded.add(dim)
    if excluded and not order:
        raise bad_input("factors need a permutation that names all dims", file=file, path=where)
    split = int(limits.get("split", len(order) if sizes[1] == 1 else 0 if sizes[0] == 1 else len(order)))
    found = []
    for axis, size, dims in (("X", sizes[0], order[:split]), ("Y", sizes[1], order[split:])):
        allowed: Any = [dim for dim in dims if dim not in excluded] if order else "any"
        if size > 1 and allowed == []:
            raise bad_input(f"nothing may run along mesh{axis}", file=file, path=where)
        found.append((f"{name}.{axis}", size, allowed))
    return found


def _tree(trees: Any, inherited: Mapping[str, Any], copies: int, file: str, path: str) -> list[_Part]:
    """Components of version 0.3, outermost first: those of a subtree, then those of the subtrees in it."""
    parts: list[_Part] = []
    if not isinstance(trees, list) or len(trees) != 1:
        raise bad_input("expected one subtree; several side by side are not read", file=file, path=path)
    tree, here = trees[0], f"{path}[0]"
    _known(tree, {"name", "attributes", "local", "subtree"}, file, here)
    name, count = _copies(str(tree.get("name", "tree")))
    above = {**inherited, **_attributes(tree.get("attributes"))}
    above.setdefault("system", name)
    for number, entry in enumerate(tree.get("local", [])):
        own = f"{here}.local[{number}]"
        _known(entry, {"name", "class", "subclass", "attributes"}, file, own)
        short, more = _copies(str(entry.get("name", "part")))
        said = {**above, **_attributes(entry.get("attributes"))}
        instances = copies * count * more
        across = int(said.get("mesh_x", instances if instances > 1 else 1))
        if instances % across:
            raise bad_input(f"meshX {across} does not divide {instances} instances", file=file, path=own)
        parts.append(
            _Part(short, str(entry.get("class", "")), said, {}, own, [], (across, instances // across))
        )
    if "subtree" in tree:
        parts += _tree(tree["subtree"], above, copies * count, file, f"{here}.subtree")
    return parts


def _copies(name: str) -> tuple[str, int]:
    """A name and how many of it there are: ``PE[0..167]`` is 168."""
    found = _ARRAY.fullmatch(name)
    return (name, 1) if found is None else (found[1], int(found[3]) - int(found[2]) + 1)


def _attributes(found: Any) -> dict[str, Any]:
    plain = {str(key).replace("-", "_").lower(): value for key, value in (found or {}).items()}
    return {_SAME.get(key, key): value for key, value in plain.items()}


def _words(found: Any) -> Sequence[str]:
    return [str(word) for word in (found.replace(",", " ").split() if isinstance(found, str) else found)]


def _names(found: Any) -> list[str]:
    words = list(_words(found))
    return list(words[0]) if len(words) == 1 and isinstance(found, str) else words


def _known(found: Any, known: set[str], file: str, path: str, why: str = "is not read") -> None:
    if not isinstance(found, Mapping):
        raise bad_input("expected names with values", file=file, path=path)
    strange = [key for key in found if key not in known]
    if strange:
        raise bad_input(
            f"{why}; expected {', '.join(sorted(known - {'!'}))}", file=file, path=f"{path}.{strange[0]}"
        )
