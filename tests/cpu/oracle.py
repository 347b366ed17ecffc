"""A CPU's products reckoned plainly: weight by weight block, chunk by chunk, thread by thread.

Nothing here is shared with :mod:`simulator.cpu` but the table of measured rates.
"""

from __future__ import annotations

import math

from hw_configs.device import Cpu
from simulator.cpu.rates import kernel_rate


def product_clocks(cpu: Cpu, dtype: str, m: int, n: int, k: int) -> float:
    """Clocks of one core for a whole product of block-quantised weights, one row of activations after another."""
    rate = kernel_rate(cpu, dtype)
    block = 32 if cpu.isa == "amx" else 8
    many = min(rate.gemm, 0.999 * block * rate.dot)
    # Two unknowns, two measurements: unpack + add = 1 / dot; unpack / block + add = 1 / many.
    unpack = (1 / rate.dot - 1 / many) / (1 - 1 / block)
    add = 1 / rate.dot - unpack
    if unpack <= 0:
        unpack, add = 0.0, 1 / rate.dot
    clocks = 0.0
    for row in range(m):
        if row % block == 0:
            clocks += n * k * unpack
        clocks += n * k * add
    return clocks


def busiest_share(tasks: int, threads: int) -> int:
    """Tasks of the thread that gets most, dealt out one by one."""
    given = [0] * threads
    for task in range(tasks):
        given[task % threads] += 1
    return max(given)


def product_seconds(cpu: Cpu, dtype: str, m: int, n: int, k: int) -> float:
    """Arithmetic seconds of the busiest core."""
    tasks = math.ceil(n / 16) * math.ceil(m / 16)
    threads = min(cpu.threads or cpu.cores, cpu.cores)
    one = product_clocks(cpu, dtype, m, n, k) / tasks
    return one * busiest_share(tasks, min(threads, tasks)) / cpu.clock


def stream_bytes_per_s(cpu: Cpu, pins: float, technology: str, cores: int) -> float:
    """What cores draw: the least of pins, cores, chiplets and what crosses between sockets."""
    share = 0.9 if technology.startswith("DDR4") else 0.82 if technology.startswith("DDR5") else 0.8
    bounds = [share * pins, cores * (cpu.core_bandwidth or 0.0)]
    if cpu.dies is not None:
        used = set()
        for core in range(cores):
            used.add(core % cpu.dies.count)
        bounds.append(len(used) * cpu.dies.bandwidth)
    if cpu.sockets > 1:
        assert cpu.socket_link is not None
        if cpu.placement == "interleaved":
            # Each socket reads 1 / S of all bytes, of which all but 1 / S come in over its link.
            incoming = 1 / cpu.sockets * (1 - 1 / cpu.sockets)
            bounds.append(cpu.socket_link / incoming)
        if cpu.placement == "one-socket":
            bounds[0] /= cpu.sockets
            outgoing = (cpu.sockets - 1) / cpu.sockets
            bounds.append(cpu.socket_link / outgoing)
    return min(bounds)
