"""A spatial device as a board: its outermost level beside the chip, the one on chip as a scratchpad that plans fill.

A device by itself works in its outermost level. Plans that place tensors on chip need both levels as memories, and a
path between them as wide as the outermost level's ports.
"""

from __future__ import annotations

from dataclasses import replace

from hw_configs.device import SpatialAccelerator
from hw_configs.link import OnChip
from hw_configs.problems import bad_input
from hw_configs.spatial import HOME, why_no_home
from hw_configs.system import Node, System, Wire

__all__ = ["as_board", "why_no_scratchpad"]


def why_no_scratchpad(device: SpatialAccelerator) -> str:
    """Why a plan can't place tensors on a spatial device's chip; "" where it can."""
    why = why_no_home(device.name, device.levels)
    if not why and device.levels[HOME].capacity is None:
        name = device.levels[HOME].name
        why = f"{name!r} of {device.name} is files side by side; expected one capacity for all operands"
    return why


def as_board(system: System) -> System:
    """The system of a spatial device alone as a board with a scratchpad; any other system as it is.

    Raises ``InputError`` where the device has no level on chip in which tensors can live.
    """
    nodes = list(system.nodes.values())
    if len(nodes) != 1 or not isinstance(nodes[0].device, SpatialAccelerator) or nodes[0].scratchpad:
        return system
    (node,), device = nodes, nodes[0].device
    assert isinstance(device, SpatialAccelerator)
    if why := why_no_scratchpad(device):
        raise bad_input(why, path="--hw")
    outer = device.levels[0]
    chip = replace(node, scratchpad=True, memory=node.name)
    # The memory beside the chip: the same device without its units.
    name = f"{node.name}-{outer.name}"
    memory = Node(name, name, device.model_copy(update={"compute": None}), name)
    link = OnChip(
        kind="onchip", name="dma", latency=0.0, bandwidth=max(outer.read_width, outer.write_width) * device.clock,
        duplex="half" if outer.one_port else "full",
    )  # fmt: skip
    wire = Wire(f"onchip:{node.name}-{name}", link, ((node.name, name),))
    return replace(system, nodes={node.name: chip, name: memory}, wires={wire.name: wire})
