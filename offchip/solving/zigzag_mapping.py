"""What a ZigZag mapping file decides, as decisions of :class:`~mapping.loop_nest.space.Fixed`.

``spatial_mapping`` says what runs along each dimension of the array, at most the size of the loop;
``temporal_ordering`` (from the innermost loop) is the order of the loops at every level. Which part of a loop stands at
which level is left to the search, as it is to ZigZag; counts of loops in an ordering have to be whole sizes or ``*``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input, nearest
from mapping.loop_nest.space import Fixed
from workloads.einsum import Einsum

__all__ = ["is_zigzag_mapping", "zigzag_decisions"]

_KEYS: Final = frozenset(
    {"name", "spatial_mapping", "temporal_ordering", "memory_operand_links", "core_allocation"}
)
_LINKS: Final = {"O": "O", "W": "I2", "I": "I1"}


def is_zigzag_mapping(data: Any) -> bool:
    """Whether a file's content is a mapping of ZigZag."""
    return (
        isinstance(data, list)
        and bool(data)
        and isinstance(data[0], Mapping)
        and "spatial_mapping" in data[0]
    )


def zigzag_decisions(
    data: list[Any], kind: str, layer: Einsum, device: SpatialAccelerator, file: str
) -> Fixed:
    """The decisions for a layer: of the entry with its name, else of its kind of operator, else the default.

    Raises ``InputError`` that names the field.
    """
    names = [str(entry.get("name")) if isinstance(entry, Mapping) else "" for entry in data]
    number = next((names.index(name) for name in (layer.name, kind, "default") if name in names), None)
    if number is None:
        raise bad_input(f"found no entry for {layer.name}, {kind} or default", file=file, path="name")
    entry, path = data[number], f"[{number}]"
    strange = sorted(set(entry) - _KEYS)
    if strange:
        raise bad_input("is not read", file=file, path=f"{path}.{strange[0]}")
    links = entry.get("memory_operand_links", _LINKS)
    if links != _LINKS:
        raise bad_input(f"found {links}; expected {_LINKS}", file=file, path=f"{path}.memory_operand_links")
    axes = {axis.axis: axis.size for memory in device.levels for axis in memory.fanout}
    spatial: dict[tuple[str, str], int] = {}
    for axis, loops in (entry.get("spatial_mapping") or {}).items():
        here = f"{path}.spatial_mapping.{axis}"
        if axis not in axes:
            raise bad_input(
                f"{device.name} has no {axis!r}", file=file, path=here, suggestion=nearest(axis, axes)
            )
        for text in loops:
            dim, _, count = (word.strip() for word in str(text).partition(","))
            if dim not in layer.sizes and kind and count == "1":
                continue
            if dim not in layer.sizes or not count.isdigit():
                raise bad_input(
                    f"found {text!r:.40}; expected a dim of {layer.name} and a count", file=file, path=here
                )
            spatial[axis, dim] = min(int(count), layer.sizes[dim])
        for dim in layer.sizes:
            spatial.setdefault((axis, dim), 1)
    order: list[str] = []
    for item in entry.get("temporal_ordering") or []:
        here = f"{path}.temporal_ordering"
        dim, count = str(item[0]), item[1]
        if dim not in layer.sizes or dim in order:
            raise bad_input(f"found {dim!r}; expected dims of {layer.name}, each once", file=file, path=here)
        along = 1
        for (_axis, other), parts in spatial.items():
            along *= parts if other == dim else 1
        if count not in ("*", "all") and count * along != layer.sizes[dim]:
            raise bad_input(
                f"{dim} runs {count} times beside {along} in space; its size is {layer.sizes[dim]}",
                file=file,
                path=here,
            )
        order.insert(0, dim)
    orders = {memory.name: tuple(order) for memory in device.levels} if order else {}
    return Fixed({}, spatial, orders)
