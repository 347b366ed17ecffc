"""What an operator costs on a spatial device: its products under their best loop nests, the rest on vector lanes.

Each layer of an operator (:mod:`simulator.accelerator.loop_nest.layers`) takes the mapping of least energy times delay,
found once for each layer and device. A device alone works in its outermost level, from and to which operands go; one
that works in its scratchpad has them in the level on chip, and the plan's transfers fill that. Words are the device's
own, whatever the model's element type, which must fit in them.

Softmax inside attention, and every operator that multiplies no matrices, runs on the lanes at the device's vector rate,
or as long as its tensors take to cross the memory's ports; a depthwise convolution does too where that is faster.
Operators of several layers run them one after another.
"""

from __future__ import annotations

from typing import Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace, Node
from mapping.loop_nest.fusion import Pieces
from simulator.accelerator.loop_nest.layers import layers_of
from simulator.accelerator.lowering import lowered
from simulator.cost.model import FREE_KINDS, OperatorCost, energy_per_operation, peak_rate
from simulator.cost.roofline import COMMUNICATION_KINDS, ROOFLINE
from workloads.dtypes import dtype_bits
from workloads.einsum import Einsum
from workloads.graph import Operator

__all__ = ["LOOP_NEST", "LoopNestModel"]

MOST_DEVICES: Final = 64
METRIC: Final = "edp"


class LoopNestModel:
    """The cost model ``loop-nest``; see the module's first lines."""

    name = "loop-nest"

    def __init__(self) -> None:
        self._stores: dict[int, Pieces] = {}

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        """The cost of an operator on a node that works in a memory; SI units.

        Raises ``InputError`` for an element type wider than the device's words.
        """
        device = node.device
        if (
            operator.kind in FREE_KINDS
            or operator.kind in COMMUNICATION_KINDS
            or not isinstance(device, SpatialAccelerator)
        ):
            return ROOFLINE.cost(operator, node, memory)
        if dtype_bits(operator.dtype) > device.word_bits.I:
            raise bad_input(
                f"{device.name} multiplies words of {device.word_bits.I} bits; {operator.name!r} is in "
                f"{operator.dtype} (--dtype)"
            )
        beside = _on_lanes(operator, device, node, memory)
        layers = layers_of(operator)
        if not layers:
            return beside
        mapped = self._mapped(operator, layers, node, device)
        work = lowered(operator)
        faster = work is not None and work.either and beside.seconds < mapped.seconds
        return beside if faster else mapped

    def least_seconds(self, operator: Operator, node: Node, memory: MemorySpace) -> float:
        """No mappings of an operator take less time; its cost is that of mappings that also spare energy."""
        cost = self.cost(operator, node, memory)
        device, layers = node.device, layers_of(operator)
        if not isinstance(device, SpatialAccelerator) or not layers or operator.kind in FREE_KINDS:
            return cost.seconds
        store = self._store(device)
        find = store.piece if node.scratchpad else store.layer
        chosen = sum(find(layer, METRIC).best[0].evaluation.latency_cycles for layer in layers)
        least = sum(find(layer, "latency").bound for layer in layers)
        return min(cost.seconds, max(0.0, cost.seconds - (chosen - least) / device.clock))

    def _mapped(
        self, operator: Operator, layers: tuple[Einsum, ...], node: Node, device: SpatialAccelerator
    ) -> OperatorCost:
        store = self._store(device)
        find = store.piece if node.scratchpad else store.layer
        found = [find(layer, METRIC).best[0].evaluation for layer in layers]
        work = lowered(operator)
        operations = work.vector_operations if work is not None else 0.0
        vector = operations / peak_rate(device.compute, "elementwise", operator.dtype) if operations else 0.0
        energy = operations * energy_per_operation(device.compute, operator.dtype)
        outer = [one.levels[0] for one in found]
        moving = sum(use.energy_j for use in outer)
        seconds = sum(one.latency_s for one in found)
        longest = max(found, key=lambda one: one.latency_s)
        bound = longest.bound_by[-1]
        if bound == longest.levels[0].name:
            bound = "scratchpad" if node.scratchpad else "memory"
        launch = device.compute.launch
        return OperatorCost(
            seconds + vector, launch, "launch" if launch > seconds + vector else bound,
            int(sum(use.busiest_read_bytes for use in outer)), int(sum(use.busiest_write_bytes for use in outer)),
            energy + sum(one.energy_j for one in found) - moving, moving,
        )  # fmt: skip

    def _store(self, device: SpatialAccelerator) -> Pieces:
        """The mappings found for a device."""
        store = self._stores.get(id(device))
        if store is None:
            if len(self._stores) >= MOST_DEVICES:
                self._stores.clear()
            # It holds the device, so that nothing else takes its identity.
            store = self._stores[id(device)] = Pieces(device)
        return store


def _on_lanes(
    operator: Operator, device: SpatialAccelerator, node: Node, memory: MemorySpace
) -> OperatorCost:
    """An operator on the vector lanes: its arithmetic, or its tensors once across the memory's ports."""
    arithmetic = (
        operator.flops / peak_rate(device.compute, "elementwise", operator.dtype) if operator.flops else 0.0
    )
    traffic = memory.traffic_seconds(operator.read_bytes, operator.write_bytes)
    where = "scratchpad" if node.scratchpad else "memory"
    seconds, launch = max(arithmetic, traffic), device.compute.launch
    bound = "launch" if launch > seconds else where if traffic > arithmetic else "compute"
    moving = operator.read_bytes * memory.energy_per_byte_read_j
    moving += operator.write_bytes * memory.energy_per_byte_written_j
    joules = operator.flops * energy_per_operation(device.compute, operator.dtype)
    return OperatorCost(seconds, launch, bound, operator.read_bytes, operator.write_bytes, joules, moving)


LOOP_NEST: Final = LoopNestModel()
