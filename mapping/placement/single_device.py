"""Everything on one device: the plan when none is asked for.

The first GPU that holds the whole graph runs it in program order; without a GPU, the first device that
computes. When none is large enough, the error says by how much the largest falls short, which tensors hold
the bytes, and what could help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.settings import Settings, name_of
from hw_configs.system import Node, System
from mapping.liveness import Footprint, footprint
from mapping.mapper import MapperOptions
from simulator.cost.collective import COLLECTIVE_KINDS
from simulator.plan import Compute, Home, Plan
from simulator.system.memory import memory_report
from workloads.graph import PERSISTENT_ROLES, Graph, Role

__all__ = ["MAPPER", "SingleDevice", "candidates", "too_large"]

_PREFERRED: Final = ("gpu", "pim", "accelerator", "spatial", "csd", "cpu")
COMMUNICATION: Final = frozenset({*COLLECTIVE_KINDS, "receive"})
"""Kinds in which several ranks take part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleDeviceSettings(Settings):
    """Settings of ``single-device``."""

    device: str | None = name_of("the device to use", absent="the first that holds the graph")


class SingleDevice:
    """The mapper ``single-device``; the setting ``device`` names the device to use."""

    DESCRIPTION = "everything on the first device that holds it, in program order"
    SETTINGS = SingleDeviceSettings

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """A plan on one device; ``InfeasibleError`` with the memory report when none is large enough."""
        refuse_communication(graph)
        nodes = candidates(system)
        device = options.of(SingleDeviceSettings).device
        if device is not None:
            nodes = [system.node(device)]
        need = footprint(graph)
        for node in nodes:
            memory = node.memory or node.name
            if need.bytes <= system.memories[memory].usable_bytes:
                return _plan_on(graph, system, node, memory)
        raise too_large(graph, system, nodes, need)


MAPPER: Final = SingleDevice()


def candidates(system: System) -> list[Node]:
    """Devices that can run a graph, GPUs first; ``InputError`` when the system has none."""
    workers = system.workers()
    if not workers:
        idle = [node.name for node in system.nodes.values() if node.compute is not None]
        if idle:
            raise bad_input(
                f"{idle[0]!r} has no memory of its own; name a system that gives it one "
                "(see 'offchip hw list --kind system')"
            )
        raise bad_input(f"system {system.name!r} has no device that computes")
    rank = {kind: index for index, kind in enumerate(_PREFERRED)}
    best = min(rank.get(node.device.kind, len(rank)) for node in workers)
    return [node for node in workers if rank.get(node.device.kind, len(rank)) == best]


def refuse_communication(graph: Graph) -> None:
    """Raise ``InputError`` for a graph in which ranks communicate: one device cannot run it."""
    found = [op for op in graph.operators if op.kind in COMMUNICATION]
    if found:
        raise bad_input(
            f"{graph.name} is the work of one of several ranks ({len(found)} communication operators, first "
            f"{found[0].name!r}); give the number of ranks, which all run it: --tp N",
            path="--tp",
        )


def too_large(graph: Graph, system: System, nodes: list[Node], need: Footprint) -> InfeasibleError:
    """The memory report of a graph that no device holds."""
    space = max(
        (system.memories[node.memory or node.name] for node in nodes), key=lambda memory: memory.usable_bytes
    )
    live = [t for t in graph.tensors.values() if t.role in PERSISTENT_ROLES]
    live += [graph.tensors[name] for name in need.live_at_peak]
    report = memory_report(
        space.name,
        need.bytes,
        space.usable_bytes,
        space.capacity_bytes,
        [(tensor, tensor.size_bytes) for tensor in live],
    )
    weights = sum(t.size_bytes for t in live if t.role is Role.WEIGHT)
    levers = [
        "a narrower element type (--dtype)",
        "weights streamed from another memory (--mapper stream-weights)",
    ]
    if weights < space.usable_bytes:
        levers.insert(0, "a smaller batch or context (--batch, --prompt)")
    if any(node.scratchpad for node in nodes):
        levers.insert(0, "a plan that fills the scratchpad as it goes (--mapper scratchpad-tiled)")
    alike = sum(1 for node in system.workers() if node.device.kind == nodes[0].device.kind)
    levers.append(
        "more devices (--tp N, --pp N)" if alike > 1 else "a system with more devices, and --tp N or --pp N"
    )
    return InfeasibleError(f"{graph.name} does not fit: {report}\n  what could help: {'; '.join(levers)}")


def _plan_on(graph: Graph, system: System, node: Node, memory: str) -> Plan:
    homes = {name: (Home(memory),) for name in graph.tensors if name not in graph.producer}
    tasks = tuple(
        Compute(op.name, f"{node.name}.compute", operator=op.name, device=node.name) for op in graph.operators
    )
    return Plan(graph.name, system.name, "single-device", tasks, homes)
