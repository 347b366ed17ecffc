"""Plans by hand that give some operators of a decode step to the CPU and the others to the GPU."""

from __future__ import annotations

from collections.abc import Callable

from hw_configs.system import System
from simulator.plan import Compute, Home, Plan, Task, Transfer
from workloads.graph import Graph, Operator

Chooser = Callable[[Operator], bool]


def hybrid_plan(graph: Graph, system: System, on_cpu: Chooser, wait_s: float = 0.0) -> Plan:
    """Operators in the graph's order, each where ``on_cpu`` says; what crosses is copied once.

    ``wait_s``: of software before a copy to the GPU, which takes up again what the CPU did.
    """
    homes: dict[str, tuple[Home, ...]] = {}
    where: dict[str, set[str]] = {}
    tasks: list[Task] = []
    for operator in graph.operators:
        device = "cpu" if on_cpu(operator) else "gpu"
        memory = "host" if device == "cpu" else "gpu"
        for name in (*operator.inputs, *operator.updates):
            places = where.setdefault(name, set())
            if memory in places:
                continue
            if name not in graph.producer:
                homes[name] = (*homes.get(name, ()), Home(memory))
            else:
                (source,) = places
                moved = f"{name} to {memory}"
                tasks.append(
                    Transfer(
                        moved, f"to {memory}", name, source, memory, wait_s=wait_s if memory == "gpu" else 0.0
                    )
                )
            places.add(memory)
        tasks.append(Compute(operator.name, device, operator.name, device))
        for name in operator.outputs:
            where[name] = {memory}
    return Plan(graph.name, system.name, "hand", tuple(tasks), homes)
