"""Loop nests from Timeloop's mapping files.

Each entry names a level (``target``) and gives its loops: ``factors`` as ``C=4 K=8`` or a list, ``permutation`` from
the innermost dimension outwards, and for spatial ones the position (``split``) from which dimensions run along the
second axis. A factor of 0 is what the others leave of the dimension. Ragged factors (``P=4,3``) and levels that keep
other tensors than the accelerator says are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input, nearest
from hw_configs.spatial import OPERANDS
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread
from workloads.einsum import Einsum

__all__ = ["is_timeloop_mapping", "read_timeloop_mapping"]

_KEYS: Final = frozenset({"target", "type", "factors", "permutation", "split", "keep", "bypass"})
_INITIALS: Final = {"i": "I", "w": "W", "o": "O"}
Loops = dict[tuple[int, str], list[tuple[str, int]]]


def is_timeloop_mapping(data: Any) -> bool:
    """Whether a file's content is a mapping of Timeloop."""
    return isinstance(data, Mapping) and isinstance(data.get("mapping"), list)


def read_timeloop_mapping(
    data: Mapping[str, Any], device: SpatialAccelerator, layer: Einsum, file: str
) -> LoopNest:
    """The loop nest of a mapping file's content on an accelerator whose levels have its targets' names.

    Raises ``InputError`` that names the field.
    """
    names = [memory.name for memory in device.levels]
    loops: Loops = {}
    split: dict[int, int] = {}
    for number, entry in enumerate(data["mapping"]):
        path = f"mapping[{number}]"
        if not isinstance(entry, Mapping) or set(entry) - _KEYS:
            raise bad_input(f"expected {', '.join(sorted(_KEYS))}", file=file, path=path)
        target = str(entry.get("target"))
        if target not in names:
            raise bad_input(
                f"{device.name} has no level {target!r}", file=file, path=f"{path}.target",
                suggestion=nearest(target, names),
            )  # fmt: skip
        level, kind = names.index(target), str(entry.get("type"))
        if kind in ("datatype", "bypass"):
            _same_tensors(entry, device, level, file, path)
            continue
        if kind not in ("temporal", "spatial") or (level, kind) in loops:
            raise bad_input(
                f"found {kind!r}; expected temporal, spatial or datatype, once a level", file=file, path=path
            )
        loops[level, kind] = _loops(entry, layer, file, path)
        if kind == "spatial":
            split[level] = _split(entry, len(loops[level, kind]), file, path)
    return _nest(_completed(loops, layer, file), split, device, file)


def _loops(entry: Mapping[str, Any], layer: Einsum, file: str, path: str) -> list[tuple[str, int]]:
    """Dims with counts, innermost first, those of the permutation before the others."""
    factors = entry.get("factors", [])
    counts: dict[str, int] = {}
    for word in factors.split() if isinstance(factors, str) else factors:
        dim, equals, count = str(word).partition("=")
        if dim not in layer.sizes or not equals or not (count.isascii() and count.isdigit()):
            raise bad_input(
                f"found {word!r:.40}; expected DIM=COUNT with a dim of {layer.name}", file=file, path=f"{path}.factors",
                suggestion=nearest(dim, layer.sizes),
            )  # fmt: skip
        counts[dim] = int(count)
    said = entry.get("permutation", [])
    order = (
        list(said.replace(",", " ").split() if " " in said or "," in said else said)
        if isinstance(said, str)
        else said
    )
    unknown = [dim for dim in order if dim not in layer.sizes]
    if unknown or len(set(order)) < len(order):
        raise bad_input(
            f"found {said!r:.60}; expected dims of {layer.name}, each once",
            file=file,
            path=f"{path}.permutation",
        )
    rest = [dim for dim in layer.sizes if dim not in order]
    return [(dim, counts.get(dim, 1)) for dim in (*order, *rest)]


def _split(entry: Mapping[str, Any], dims: int, file: str, path: str) -> int:
    """How many dims of the permutation run along the first axis; all of them where nothing is said."""
    found = entry.get("split", dims)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= max(dims, found):
        raise bad_input(f"found {found!r:.20}; expected a position", file=file, path=f"{path}.split")
    return found


def _completed(loops: Loops, layer: Einsum, file: str) -> Loops:
    """Factors of 0 become what the others leave."""
    for dim, size in layer.sizes.items():
        left, open_at = size, 0
        for found in loops.values():
            for name, count in found:
                if name == dim and count == 0:
                    open_at += 1
                elif name == dim:
                    left = -(-left // count)
        if open_at > 1:
            raise bad_input(f"found several factors of 0 for {dim}; expected one", file=file, path="mapping")
        for key, found in loops.items():
            loops[key] = [(name, left if name == dim and count == 0 else count) for name, count in found]
    return loops


def _nest(loops: Loops, split: Mapping[int, int], device: SpatialAccelerator, file: str) -> LoopNest:
    levels = []
    for number, memory in enumerate(device.levels):
        temporal = tuple(
            (dim, count) for dim, count in reversed(loops.get((number, "temporal"), [])) if count > 1
        )
        spreads = []
        for position, (dim, count) in enumerate(loops.get((number, "spatial"), [])):
            if count == 1:
                continue
            along = 0 if position < split[number] else 1
            if along >= len(memory.fanout):
                raise bad_input(
                    f"{dim}={count} runs along axis {along + 1} below {memory.name!r}, which has {len(memory.fanout)}",
                    file=file, path="mapping",
                )  # fmt: skip
            spreads.append(Spread(dim, memory.fanout[along].axis, count))
        levels.append(NestLevel(temporal, tuple(spreads)))
    return LoopNest(tuple(levels))


def _same_tensors(
    entry: Mapping[str, Any], device: SpatialAccelerator, level: int, file: str, path: str
) -> None:
    """Whether a level keeps what the accelerator says it holds."""
    holds = device.levels[level].holds
    for key, wanted in (("keep", True), ("bypass", False)):
        for name in entry.get(key) or []:
            operand = _INITIALS.get(str(name)[:1].lower())
            if operand not in OPERANDS or (operand in holds) != wanted:
                raise bad_input(
                    f"{device.levels[level].name!r} holds {' '.join(holds)}; the file says {key}: {name}",
                    file=file, path=f"{path}.{key}",
                )  # fmt: skip
