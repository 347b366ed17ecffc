"""What an operator costs on a CPU: clocks of its cores against what their memory brings, and the threads' meetings.

Arithmetic and traffic overlap as far as cores run ahead of their misses; what a kernel finds in the last-level cache
crosses no pins. All threads meet after every operator that an engine runs (:func:`simulator.cpu.work.demand` counts
them): the device's ``launch`` is one such meeting of all cores of one socket. They meet at a counter whose cache line
goes from core to core (ggml's barrier), so that a meeting grows with the threads, and more across sockets.
"""

from __future__ import annotations

from typing import Final

from hw_configs.device import Cpu
from hw_configs.system import MemorySpace, Node
from simulator.cost.model import OperatorCost, arithmetic_joules, energy_per_operation, operator_rate
from simulator.cost.roofline import soft_max
from simulator.cpu.memory import cache_bytes_per_s, reach, stays_in_cache
from simulator.cpu.work import demand
from workloads.graph import Operator

__all__ = ["barrier_seconds", "cpu_cost"]

OVERLAP: Final = 4.0
"""Exponent that joins arithmetic and traffic: two threads of a Ryzen 9 7950X decode q6_k at 8.93 tokens/s, where one
does 5.38 and four 9.97 (ik_llama.cpp, pull request 130), which is an exponent of 4 to 4.5."""
FAR_BARRIER: Final = 1.0
"""What a line's way to another socket takes beyond one inside a socket, in such ways (assumption). Threads come in any
order, so that of S sockets all but 1/S of the ways lead to another."""


def barrier_seconds(cpu: Cpu) -> float:
    """One meeting of the threads; the device's ``launch`` where every core of one socket has one.

    >>> from hw_configs.library import load_device
    >>> cpu = load_device("epyc-7763")
    >>> round(barrier_seconds(cpu) * 1e6, 3), round(barrier_seconds(cpu.model_copy(update={"threads": 16})) * 1e6, 3)
    (5.0, 1.25)
    """
    share = (cpu.threads or cpu.cores) / cpu.cores
    return cpu.compute.launch * share * cpu.sockets * (1 + FAR_BARRIER * (1 - 1 / cpu.sockets))


def cpu_cost(operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
    """The cost of an operator on a CPU that works in a memory; SI units.

    Raises ``InputError`` for an element type that the CPU has no rate for.
    """
    cpu = node.device
    assert isinstance(cpu, Cpu)
    asked = demand(operator, cpu)
    least = operator.flops / operator_rate(cpu.compute, operator) if operator.flops else 0.0
    arithmetic = max(asked.clocks * asked.uneven / (asked.cores * cpu.clock), least)
    held = stays_in_cache(cpu, asked.passing + asked.written)
    read = asked.streamed if held else asked.streamed + asked.passing
    written = 0.0 if held else asked.written
    drawn = reach(cpu, memory, asked.cores)
    traffic = max(drawn.seconds(read, written, memory.ports), memory.traffic_seconds(read, written))
    near = (asked.again + (asked.passing + asked.written if held else 0.0)) / cache_bytes_per_s(
        cpu, asked.cores
    )
    seconds = float(soft_max(arithmetic, traffic, OVERLAP)) + near + asked.beside_s
    launch = asked.barriers * barrier_seconds(cpu)
    bound = max((arithmetic, "compute"), (traffic, "memory"), (near, "cache"), (launch, "launch"))[1]
    moving = read * memory.energy_per_byte_read_j + written * memory.energy_per_byte_written_j
    joules = operator.flops * energy_per_operation(cpu.compute, operator.dtype)
    joules = arithmetic_joules(joules, moving, seconds + launch, node, memory)
    return OperatorCost(seconds, launch, bound, int(read), int(written), joules, moving)
