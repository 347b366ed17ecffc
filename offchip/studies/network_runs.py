"""Images per second and joules per image of a vision network on one device, its operators one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from hw_configs.device import Cpu
from hw_configs.library import load_system
from hw_configs.system import System
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.operators import Convolution, Norm
from workloads.workload import WorkloadOptions

__all__ = ["NetworkRun", "Rates", "without_folded_norms"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What a run gives: images per second, joules per image (the device's idle power in them), bytes per image."""

    images_s: float
    joules: float
    bytes: float


@dataclass(frozen=True, slots=True)
class NetworkRun:
    """A network as eager code runs it: norms, non-linearities and additions are passes of their own.

    ``folded``: batch norms behind a convolution are folded into its filters all the same. ``side``: of the image, 0 for
    the network's own. ``processor``: the system's first CPU runs it instead of its first worker.
    """

    model: str
    device: str
    batch: int
    dtype: str = "fp16"
    side: int = 0
    folded: bool = False
    phase: str | None = None
    prices: str = DEFAULT_COST_MODEL
    processor: bool = False

    def graph(self) -> Graph:
        """The operators of one pass or training step."""
        dims = {"height": self.side, "width": self.side} if self.side else {}
        what = WorkloadOptions(phase=self.phase, batch=self.batch, dtype=self.dtype, fused=False, dims=dims)
        graph = load_workload(self.model, what).phases[0].graph
        return without_folded_norms(graph) if self.folded else graph

    def rates(self) -> Rates:
        """The price of :meth:`graph`."""
        return _rates(self)


def without_folded_norms(graph: Graph) -> Graph:
    """The graph without batch norms right behind a convolution; whoever read their output reads the convolution's."""
    made = {tensor: operator for operator in graph.operators for tensor in operator.outputs}
    instead = {
        operator.outputs[0]: operator.inputs[0]
        for operator in graph.operators
        if isinstance(operator.work, Norm)
        and operator.work.norm == "batch"
        and operator.inputs[0] in made
        and isinstance(made[operator.inputs[0]].work, Convolution)
    }
    kept = tuple(
        replace(operator, inputs=tuple(instead.get(name, name) for name in operator.inputs))
        for operator in graph.operators
        if operator.outputs[0] not in instead
    )
    return replace(graph, operators=kept)


def _node(system: System, processor: bool) -> str:
    if not processor:
        return system.workers()[0].name
    return next(name for name, node in system.nodes.items() if isinstance(node.device, Cpu))


@cache
def _rates(run: NetworkRun) -> Rates:
    system = load_system(run.device)
    node = system.nodes[_node(system, run.processor)]
    memory = system.memories[node.memory or node.name]
    model, seconds, joules, moved = COST_MODELS.get(run.prices), 0.0, 0.0, 0
    for operator in run.graph().operators:
        cost = model.cost(operator, node, memory)
        seconds += cost.seconds + cost.launch_seconds
        joules += cost.compute_energy_j + cost.memory_energy_j
        moved += cost.read_bytes + cost.write_bytes
    envelope = getattr(node.device, "power", None)
    joules += seconds * (envelope.idle if envelope is not None else 0.0)
    return Rates(run.batch / seconds, joules / run.batch, moved / run.batch)
