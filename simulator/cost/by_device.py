"""The default cost model: every kind of device by its own.

GPUs go to :mod:`simulator.gpu`, accelerators that state a dataflow to :mod:`simulator.accelerator`, spatial ones to the
loop nests that are best on them, attention in computational storage to :mod:`simulator.csd`, CPUs to
:mod:`simulator.cpu`, and everything else to the roofline.
"""

from __future__ import annotations

from typing import Final

from hw_configs.device import Cpu, Gpu, SpatialAccelerator
from hw_configs.system import MemorySpace, Node
from simulator.accelerator.model import SCRATCHPAD
from simulator.cost.model import COST_MODELS, FREE_KINDS, OperatorCost
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.cpu.model import cpu_cost
from simulator.csd.model import drive_attention, engine_serves
from simulator.gpu.model import EAGER, GPU, GpuModel
from workloads.graph import Operator

__all__ = ["BY_DEVICE", "BY_DEVICE_EAGER", "ByDevice"]


class ByDevice:
    """Asks the model of the device that an operator runs on; ``gpu`` is the one for GPUs."""

    def __init__(self, name: str, gpu: GpuModel) -> None:
        self.name = name
        self.gpu = gpu

    def at_cycle_fidelity(self) -> ByDevice:
        """The same with the L2 of GPUs simulated."""
        return ByDevice(f"{self.name}, L2 by simulation", self.gpu.with_simulated_l2())

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        """The cost of an operator on a node that works in a memory; ``InputError`` if it can't run there."""
        if isinstance(node.device, Gpu) and operator.kind not in FREE_KINDS:
            return self.gpu.cost(operator, node, memory)
        if isinstance(node.device, Cpu) and operator.kind not in FREE_KINDS | COMMUNICATION_KINDS:
            return cpu_cost(operator, node, memory)
        if engine_serves(operator, node):
            return drive_attention(operator, node, memory)
        if isinstance(node.device, SpatialAccelerator) and operator.kind not in FREE_KINDS:
            return COST_MODELS.get("loop-nest").cost(operator, node, memory)
        # Devices without a dataflow are the roofline's there.
        return SCRATCHPAD.cost(operator, node, memory)


BY_DEVICE: Final = ByDevice("by-device", GPU)
BY_DEVICE_EAGER: Final = ByDevice("by-device-eager", EAGER)
