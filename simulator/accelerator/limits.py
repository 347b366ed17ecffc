"""What a scratchpad machine cannot do, whatever a plan says: read by the checker of plans.

Operands flow past a memory only on a machine with a scratchpad or on a GPU, only to be read, and from a memory that a
path joins to it. As many transfers are under way at once as there are DMA engines.
"""

from __future__ import annotations

from collections.abc import Iterator

from hw_configs.device import dma_engines
from hw_configs.problems import InputError, nearest
from hw_configs.system import Node, System
from simulator.plan import Compute, Plan
from workloads.graph import Operator

__all__ = ["beyond_engines", "cannot_stream"]


def cannot_stream(task: Compute, operator: Operator, node: Node, system: System) -> Iterator[str]:
    """Why a compute task cannot take its ``streamed`` operands from its ``source``."""
    if not node.scratchpad and node.device.kind != "gpu":
        yield f"streams operands into {task.device!r}, which is no GPU and works in no scratchpad"
    elif task.source not in system.memories or task.source == node.memory:
        near = nearest(task.source, system.memories)
        hint = f" (did you mean {near!r}?)" if near else ""
        yield f"streams from {task.source!r}, which is no memory outside it{hint}"
    else:
        try:
            system.route(task.source, node.memory or task.device)
        except InputError:
            yield f"no link path joins {task.source!r} to {node.memory!r}"
    for tensor in task.streamed:
        if tensor not in operator.inputs or tensor in operator.updates:
            yield f"streams {tensor!r}, which {operator.name!r} does not only read"


def beyond_engines(plan: Plan, system: System) -> Iterator[tuple[str, str]]:
    """First tasks of streams of transfers that a scratchpad has no DMA engine for, each with the reason."""
    streams: dict[str, dict[str, str]] = {}
    for task in plan.tasks:
        if task.kind == "transfer":
            for memory in (task.source, task.target):
                if system.nodes[memory].scratchpad:
                    streams.setdefault(memory, {}).setdefault(task.stream, task.name)
    for memory, used in streams.items():
        engines = dma_engines(system.nodes[memory].device)
        for name in list(used.values())[engines:]:
            yield name, f"moves bytes on a stream beyond the {engines} DMA engines of {memory!r}"
