"""How long the exchanges of a step take: a GPU library's collectives, an engine's own all-reduce, or bare wires.

``library``: NCCL as :mod:`simulator.gpu.collective` prices it, or, for an all-reduce inside a node, the kernel that
serving engines bring along, whichever is quicker; both are in the same kernel of collectives
(:mod:`simulator.system.gpu_library`). ``wires``: messages on the system's bare wires, as ``offchip simulate
--collective wires`` puts them at ``analytic`` fidelity.
"""

from __future__ import annotations

from typing import Final, Literal

from hw_configs.problems import bad_input
from hw_configs.system import Node, System
from simulator.cost.by_device import BY_DEVICE
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GPU
from simulator.gpu.sheet import GpuSheet
from simulator.serving.device_share import Exchange
from simulator.system.costs import CostTable
from simulator.system.gpu_library import RankWires, library_time, wires_between
from workloads.graph import Operator
from workloads.operators import AllGather, AllReduce, AllToAll, CollectiveWork, ReduceScatter, Send, Work

__all__ = ["Exchanges", "gpus_of"]

_WORK: Final[dict[str, type[CollectiveWork]]] = {
    "all_reduce": AllReduce, "all_gather": AllGather, "reduce_scatter": ReduceScatter, "all_to_all": AllToAll,
}  # fmt: skip


def gpus_of(system: System) -> list[Node]:
    """The GPUs of a system, in its order. ``InputError`` where there is none: steps are priced on GPUs alone."""
    from hw_configs.device import Gpu

    found = [node for node in system.nodes.values() if isinstance(node.device, Gpu)]
    if not found:
        raise bad_input(f"system {system.name!r} has no GPU; serving steps are priced on GPUs")
    return found


class Exchanges:
    """Prices exchanges among the first GPUs of a system; more of them than it has lie on several like it."""

    def __init__(self, system: System, by: Literal["library", "wires"] = "library") -> None:
        self.system, self.by = system, by
        self._gpus = gpus_of(system)
        self.per_node = len(self._gpus)
        first = self._gpus[0]
        self._sheet: GpuSheet = GPU.sheet(first, system.memories[first.memory or first.name])
        self._wires = CostTable(system, BY_DEVICE) if by == "wires" else None
        self._known: dict[Exchange, float] = {}

    def seconds(self, exchange: Exchange) -> float:
        """Seconds of an exchange; of two ways to do it the quicker."""
        known = self._known.get(exchange)
        if known is None:
            known = min([self._one_way(exchange), *(self._one_way(other) for other in exchange.also)])
            self._known[exchange] = known
        return known

    def _one_way(self, exchange: Exchange) -> float:
        if exchange.ranks < 2 or exchange.size <= 0:
            return 0.0
        if self._wires is not None and exchange.ranks <= self.per_node:
            devices = tuple(node.name for node in self._gpus[: exchange.ranks])
            work: Work = (
                Send(bytes=exchange.size) if exchange.kind == "send"
                else _WORK[exchange.kind](bytes=exchange.size, group=exchange.ranks)
            )  # fmt: skip
            operator = Operator("exchange", work, (), ())
            if exchange.kind == "send":
                devices = devices[:2]
            return self._wires.seconds_alone(self._wires.rounds(operator, devices))
        return self._library(exchange)

    def across_nodes(self, exchange: Exchange) -> float:
        """Seconds of an exchange between devices of different nodes, over one network port each."""
        return self._library(exchange, across=True) if exchange.size > 0 else 0.0

    def _library(self, exchange: Exchange, across: bool = False) -> float:
        ranks = exchange.ranks
        wires = None
        if not across and ranks <= self.per_node:
            wires = wires_between(self.system, self._gpus[:ranks])
        if wires is None:
            port = shipped_constants().network_bandwidth(self._sheet.generation)
            wires = RankWires("network", port, min(self.per_node, ranks))
        return library_time(exchange.kind, ranks, exchange.size, wires, self._sheet, True).seconds
