"""Times of a prefill or a decode step on one device, attention apart from the rest, operator by operator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hw_configs.library import load_system
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from workloads.graph import Role
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["PhaseTimes", "cache_bytes", "operator_seconds", "phase_times", "usable_bytes", "weight_bytes"]


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """Seconds of all attention operators, and of all others; launches are within. ``flops`` of all."""

    attention_s: float
    other_s: float
    flops: float

    @property
    def seconds(self) -> float:
        """Seconds of the phase."""
        return self.attention_s + self.other_s


@cache
def phase_times(
    model: str, device: str, phase: str, batch: int, tokens: int, prices: str = DEFAULT_COST_MODEL
) -> PhaseTimes:
    """A prefill of ``tokens``, or a decode step after ``tokens``, in FP16 on one device of that name."""
    system = load_system(device)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    model_of_cost = COST_MODELS.get(prices)
    options = WorkloadOptions(phase=phase, batch=batch, prompt=tokens, dtype="fp16")
    seconds, flops = {True: 0.0, False: 0.0}, 0.0
    for operator in load_workload(model, options).phases[0].graph.operators:
        cost = model_of_cost.cost(operator, node, memory)
        seconds[operator.kind == "attention"] += cost.seconds + cost.launch_seconds
        flops += operator.flops
    return PhaseTimes(seconds[True], seconds[False], flops)


@cache
def operator_seconds(model: str, device: str, name: str, prices: str = DEFAULT_COST_MODEL) -> float:
    """Seconds of one operator of a decode step of one token, its launch within."""
    system = load_system(device)
    node = system.workers()[0]
    options = WorkloadOptions(phase="decode", prompt=1, dtype="fp16")
    operators = load_workload(model, options).phases[0].graph.operators
    operator = next(operator for operator in operators if operator.name == name)
    cost = COST_MODELS.get(prices).cost(operator, node, system.memories[node.memory or node.name])
    return cost.seconds + cost.launch_seconds


@cache
def weight_bytes(model: str) -> int:
    """Bytes of a model's weights in FP16."""
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=1, dtype="fp16")).phases[0].graph
    return sum(tensor.size_bytes for tensor in graph.tensors.values() if tensor.role is Role.WEIGHT)


@cache
def cache_bytes(model: str) -> int:
    """Bytes of keys and values of one token in FP16: what the graph's cache grows by with one token more."""

    def held(tokens: int) -> int:
        options = WorkloadOptions(phase="decode", prompt=tokens, dtype="fp16")
        tensors = load_workload(model, options).phases[0].graph.tensors.values()
        return sum(tensor.size_bytes for tensor in tensors if tensor.role is Role.KV_CACHE)

    return held(1001) - held(1000)


def usable_bytes(device: str) -> int:
    """Bytes of a device's memory that programs can have."""
    system = load_system(device)
    node = system.workers()[0]
    return system.memories[node.memory or node.name].usable_bytes
