"""Cycle fidelity: memories that are DRAM devices answer from the DRAM engine instead of by constants.

The run itself is the event engine's. What changes is where bytes get their time and energy: an operator that
works in a DRAM device takes the bandwidth and the energy per byte that the engine measures for the operator's
access pattern, in place of the cost model's memory efficiency; a transfer meets the rates at which the device
streams reads and writes. Measurements are kept by device and pattern. The latency of a transfer's first byte
stays the idle one: the rest of the bytes queue behind it, which the rate says already. Memories that are no
DRAM devices (HBM on a GPU's data sheet, flash) keep their model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hw_configs.dram import DramDevice
from hw_configs.system import MemorySpace, Node, System
from simulator.cost.model import CostModel, OperatorCost
from simulator.dram.patterns import AccessPattern, pattern_bandwidth
from simulator.system.costs import MeasuredMemory
from workloads.dtypes import dtype_bits
from workloads.graph import Operator
from workloads.operators import Attention, Embedding, Gather, Scatter

__all__ = ["CycleMemory", "access_pattern", "engine_memories", "measured_memories"]

_BOUNDLESS: Final = 1e18
"""Bytes per second that no operator notices."""


def engine_memories(system: System) -> dict[str, DramDevice]:
    """The memories of a system that the DRAM engine stands for, by name."""
    nodes = system.nodes.values()
    return {node.name: node.device for node in nodes if isinstance(node.device, DramDevice)}


def measured_memories(system: System) -> dict[str, MeasuredMemory]:
    """What each such memory sustains on a stream of reads and on one of writes, and what a byte costs there."""
    found = {}
    for name, device in engine_memories(system).items():
        read = pattern_bandwidth(device)
        write = pattern_bandwidth(device, AccessPattern("stream", write_share=1.0))
        found[name] = MeasuredMemory(
            read.bandwidth_bytes_per_s, write.bandwidth_bytes_per_s, read.energy_per_byte_j,
            write.energy_per_byte_j,
        )  # fmt: skip
    return found


def access_pattern(operator: Operator) -> AccessPattern:
    """How an operator touches memory: streams, rows of a table, or the heads of a KV cache side by side."""
    work, width = operator.work, dtype_bits(operator.dtype) / 8
    share = operator.write_bytes / max(1, operator.read_bytes + operator.write_bytes)
    # A tenth is finer than the answer depends on, and keeps the number of measurements small.
    share = round(share, 1)
    if isinstance(work, Embedding | Gather | Scatter):
        return AccessPattern("gather", max(1, int(work.n * width)), write_share=share)
    if isinstance(work, Attention) and work.q_len == 1:
        head = max(1, int(work.head_dim * dtype_bits(work.kv_dtype or operator.dtype) / 8))
        return AccessPattern("strided", head, head * work.kv_heads, lanes=work.kv_heads)
    return AccessPattern("stream", write_share=share)


class CycleMemory:
    """A cost model whose memory times and energies in DRAM devices come from the engine; the rest is
    ``model``'s.
    """

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
        found = pattern_bandwidth(device, access_pattern(operator))
        traffic = moved / found.bandwidth_bytes_per_s
        bound = "memory" if traffic > alone.seconds else alone.bound_by
        return replace(
            whole,
            seconds=max(alone.seconds, traffic),
            bound_by=bound,
            memory_energy_j=moved * found.energy_per_byte_j,
        )
