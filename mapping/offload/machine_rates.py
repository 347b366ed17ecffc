"""Rates of a machine for the block schedule, from its parts: links, drives and the cost models' kernels.

Nothing is fitted: a link carries what its narrowest part does, a drive what the drive model gives to large
sequential requests, and arithmetic runs as the cost model prices a layer's operators at the batch in question.
Software between them costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import InputError, bad_input
from hw_configs.system import Node, System
from mapping.offload.block_policy import BlockRates, Capacities
from mapping.placement.machine import Machine
from mapping.placement.single_device import candidates
from simulator.cost.model import DEFAULT_COST_MODEL
from simulator.flash.patterns import DrivePattern, drive_rate
from workloads.graph import Graph, Operator
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["block_machine", "capacities_of", "graph_rates", "rates_of"]

_SEQUENTIAL: Final = 1 << 20
_IN_FLIGHT: Final = 32
_OPERATIONS: Final[tuple[Literal["read", "write"], ...]] = ("read", "write")


def rates_of(
    system: System, model: str, prompt: int, gpu_batch: int = 32, cost_model: str = DEFAULT_COST_MODEL
) -> BlockRates:
    """The rates of a machine with a GPU, a host and a drive, for a model at a GPU batch.

    Without a drive the disk's rates are a byte per second, which no placement will use. Raises ``InputError``
    for a machine without a host whose memory links join to the GPU.
    """
    block_machine(system)
    prefill, decode = (_graph(model, phase, gpu_batch, prompt) for phase in ("prefill", "decode"))
    return _rates(system, prefill, decode, cost_model)


def graph_rates(decode: Graph, system: System, cost_model: str = DEFAULT_COST_MODEL) -> BlockRates:
    """Rates as the operators of a decode graph reach them; prefill is not part of it and takes the same."""
    return _rates(system, decode, decode, cost_model)


def _rates(system: System, prefill: Graph, decode: Graph, cost_model: str) -> BlockRates:
    gpu, cpu = block_machine(system)
    assert cpu.memory is not None
    machine = Machine(system, cost_model)
    down = machine.need_move(cpu.memory, gpu.memory or gpu.name).bytes_per_s
    up = machine.need_move(gpu.memory or gpu.name, cpu.memory).bytes_per_s
    read, written = _disk(machine, cpu.memory)

    def rate(graph: Graph, chosen: Callable[[Operator], bool], device: str) -> float:
        operators = [op for op in graph.operators if chosen(op)]
        priced = [machine.costs.operator(op, device) for op in operators]
        return sum(op.flops for op in operators) / sum(c.seconds + c.launch_seconds for c in priced)

    return BlockRates(
        host_to_gpu=down,
        gpu_to_host_cache=up,
        gpu_to_host_hidden=up,
        disk_to_host=read,
        host_to_disk_cache=written,
        host_to_disk_hidden=written,
        host_to_disk_decode=written,
        matmul_prefill=rate(prefill, _is_product, gpu.name),
        matmul_decode=rate(decode, _is_product, gpu.name),
        attention_prefill=rate(prefill, _is_attention, gpu.name),
        attention_decode=rate(decode, _is_attention, gpu.name),
        attention_host=rate(decode, _is_attention, cpu.name),
    )


def capacities_of(system: System) -> Capacities:
    """Usable bytes of GPU, host and all drives together."""
    gpu, cpu = block_machine(system)
    assert cpu.memory is not None
    drives = sum(system.memories[node.name].usable_bytes for node in system.of_kind("flash", "csd"))
    return Capacities(
        system.memories[gpu.memory or gpu.name].usable_bytes, system.memories[cpu.memory].usable_bytes, drives
    )


def block_machine(system: System) -> tuple[Node, Node]:
    """The GPU of a block schedule, and a processor whose memory links join to it; ``InputError`` without."""
    gpu = candidates(system)[0]
    for cpu in system.of_kind("cpu"):
        if cpu.memory is None or cpu.memory == gpu.memory:
            continue
        try:
            system.route(cpu.memory, gpu.memory or gpu.name)
        except InputError:
            continue
        return gpu, cpu
    raise bad_input(f"system {system.name!r} has no host memory beside that of {gpu.name!r}")


def _disk(machine: Machine, host: str) -> tuple[float, float]:
    """Read and write rate of all drives together, each behind its own link."""
    read = written = 0.0
    for node in machine.system.of_kind("flash", "csd"):
        assert isinstance(node.device, Flash | ComputationalStorage)
        for operation in _OPERATIONS:
            pattern = DrivePattern(operation, "sequential", _SEQUENTIAL, _IN_FLIGHT)
            drive = drive_rate(node.device, pattern).bandwidth_bytes_per_s
            if operation == "read":
                read += min(drive, machine.need_move(node.name, host).bytes_per_s)
            else:
                written += min(drive, machine.need_move(host, node.name).bytes_per_s)
    return read or 1.0, written or 1.0


@lru_cache(maxsize=64)
def _graph(model: str, phase: str, batch: int, prompt: int) -> Graph:
    options = WorkloadOptions(phase=phase, batch=batch, prompt=prompt)
    return load_workload(model, options).phases[0].graph


def _is_product(operator: Operator) -> bool:
    return operator.kind == "matmul" and operator.place.layer is not None and operator.name != "lm_head"


def _is_attention(operator: Operator) -> bool:
    return operator.kind == "attention"
