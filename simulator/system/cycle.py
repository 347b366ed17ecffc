"""Cycle fidelity: memories that are DRAM devices answer from the DRAM engine instead of by constants.

The run itself is the event engine's. What changes is where bytes get their time: an operator that works in a
DRAM device takes the bandwidth that the engine measures for the operator's access pattern, in place of the
cost model's memory efficiency, and a transfer's port has the bandwidth of a stream. Measurements are kept by
device and pattern. Memories that are no DRAM devices (HBM on a GPU's data sheet, flash) keep their model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hw_configs.dram import DramDevice
from hw_configs.system import MemorySpace, Node, System
from simulator.cost.model import CostModel, OperatorCost
from simulator.dram.patterns import AccessPattern, pattern_bandwidth
from workloads.dtypes import dtype_bits
from workloads.graph import Operator

__all__ = ["CycleMemory", "access_pattern", "engine_memories", "port_rates"]

_ROW_KINDS: Final = ("embedding", "gather", "scatter")
_BOUNDLESS: Final = 1e18
"""Bytes per second that no operator notices."""


def engine_memories(system: System) -> dict[str, DramDevice]:
    """The memories of a system that the DRAM engine stands for, by name."""
    nodes = system.nodes.values()
    return {node.name: node.device for node in nodes if isinstance(node.device, DramDevice)}


def port_rates(system: System) -> dict[str, float]:
    """Bytes per second that each such memory sustains on a stream."""
    return {
        name: pattern_bandwidth(device).bandwidth_bytes_per_s
        for name, device in engine_memories(system).items()
    }


def access_pattern(operator: Operator) -> AccessPattern:
    """How an operator touches memory: streams, rows of a table, or one head's part of a KV cache."""
    attributes, width = operator.attributes, dtype_bits(operator.dtype) / 8
    share = operator.write_bytes / max(1, operator.read_bytes + operator.write_bytes)
    # A tenth is finer than the answer depends on, and keeps the number of measurements small.
    share = round(share, 1)
    if operator.kind in _ROW_KINDS and isinstance(attributes.get("n"), int):
        return AccessPattern("gather", max(1, int(int(attributes["n"]) * width)), write_share=share)
    if operator.kind == "attention" and attributes.get("q_len") == 1:
        head = max(1, int(int(attributes.get("head_dim", 64)) * width))
        return AccessPattern("strided", head, head * max(1, int(attributes.get("kv_heads", 1))))
    return AccessPattern("stream", write_share=share)


class CycleMemory:
    """A cost model whose memory times in DRAM devices come from the engine; the rest is ``model``'s."""

    def __init__(self, model: CostModel, system: System) -> None:
        self.name = f"{model.name}, DRAM by the engine"
        self._model = model
        self._devices = engine_memories(system)
        # What the model says beside a memory that never makes it wait is the arithmetic alone. One object per
        # memory, because models remember memories by identity.
        self._boundless = {
            name: replace(system.memories[name], read_bandwidth=_BOUNDLESS, write_bandwidth=_BOUNDLESS)
            for name in self._devices
        }

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        """The operator's cost with its bytes at the measured rate; its arithmetic as the model has it."""
        device = self._devices.get(memory.name)
        whole = self._model.cost(operator, node, memory)
        moved = whole.read_bytes + whole.write_bytes
        if device is None or moved == 0:
            return whole
        alone = self._model.cost(operator, node, self._boundless[memory.name])
        rate = pattern_bandwidth(device, access_pattern(operator)).bandwidth_bytes_per_s
        traffic = moved / rate
        bound = "memory" if traffic > alone.seconds else alone.bound_by
        return replace(whole, seconds=max(alone.seconds, traffic), bound_by=bound)
