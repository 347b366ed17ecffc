"""Accesses per second of the CPU cache engine, beside pycachesim (C) and the plain oracle on the same accesses.

    python benchmarks/cpu_cache.py [--accesses N]

All is processor time of one core; ours after compilation, reading the arrays included. pycachesim runs three levels of
LRU, with loads handed to it as one iterable; the oracle is the plain Python of tests/cpu_cache. Then one line for each
shipped device with prefetchers and translation, and one for each format of trace file.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from hw_configs.cpu_cache import CpuCache
from hw_configs.library import catalog, load_device
from simulator.cpu_cache.engine import simulate_cpu_cache
from tests.cpu_cache.machines import device, level
from tests.cpu_cache.oracle import Machine
from workloads.program_trace import ArrayProgram, generate_program, open_program

LEVELS = ((64, 8), (1024, 8), (8192, 16))


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The processor time of the shortest of a few runs."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def theirs(address: list[int]) -> float | None:
    """Seconds of pycachesim; None where it is not installed."""
    try:
        import cachesim
    except ImportError:
        return None
    below: Any = None
    levels = []
    for number, (sets, ways) in reversed(list(enumerate(LEVELS))):
        below = cachesim.Cache(f"L{number}", sets, ways, 64, "LRU", store_to=below, load_from=below)
        levels.insert(0, below)
    memory = cachesim.MainMemory()
    memory.load_to(levels[-1])
    memory.store_from(levels[-1])
    machine = cachesim.CacheSimulator(levels[0], memory)
    return seconds(lambda: machine.load(address, 8), 1)


def beside(name: str, address: np.ndarray) -> None:
    """One line: ours, theirs and the oracle's."""
    made = device(
        **{
            n: level(*size, 3**k * 2)
            for k, (n, size) in enumerate(zip(("l1d", "l2", "l3"), LEVELS, strict=True))
        }
    )
    program = ArrayProgram(address, size=8)
    simulate_cpu_cache(made, ArrayProgram(address[:100], size=8))
    ours = address.size / seconds(lambda: simulate_cpu_cache(made, program))
    other = theirs(address.tolist())
    few = address[: min(address.size, 50_000)].tolist()
    oracle = Machine(made)
    plain = len(few) / seconds(lambda: [oracle.access(0, a) for a in few], 1)
    ratio = f"{ours * other / address.size:5.1f} x pycachesim, " if other else "pycachesim is not installed, "
    print(f"{name:22} {ours / 1e6:7.2f} M/s  {ratio}{ours / plain:6.0f} x plain Python")


def files(accesses: int) -> None:
    """Accesses per second read from each format."""
    lines = {
        "ramulator": lambda n: b"%d %d\n" % (n % 5, n * 64), "pin": lambda n: b"0x%x: R 0x%x 8\n" % (n, n * 64),
        "lackey": lambda n: b" L %08x,8\n" % (n * 64), "gem5": lambda n: b"r,%d,8,0,%d\n" % (n * 64, n),
        "champsim": lambda n: struct.pack("<Q8B6Q", n, *[0] * 8, 0, 0, n * 64, 0, 0, 0),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, line in lines.items():
            path = Path(folder) / f"t.{name}"
            path.write_bytes(b"".join(line(n + 1) for n in range(accesses)))
            count = sum(part.kind.size for part in open_program(path).chunks(1 << 16))
            took = seconds(lambda path=path: [None for _ in open_program(path).chunks(1 << 16)], 1)
            print(f"read {name:17} {count / took / 1e6:7.2f} M/s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accesses", type=int, default=1_000_000)
    count = parser.parse_args().accesses
    random = np.random.default_rng(1)
    beside("stream", np.arange(count, dtype=np.int64) * 8)
    beside("random in 32 KiB", random.integers(0, 4096, count) * 8)
    beside("random in 4 MiB", random.integers(0, 2**19, count) * 8)
    beside("random in 256 MiB", random.integers(0, 2**25, count) * 8)
    program = generate_program(f"copy:{count // 2}")
    for entry in catalog().values():
        if entry.kind == "device" and "cpu-cache" in entry.path.parts:
            made = load_device(entry.name)
            assert isinstance(made, CpuCache)
            rate = count / seconds(lambda made=made: simulate_cpu_cache(made, program), 1)
            print(f"{entry.name:22} {rate / 1e6:7.2f} M/s  copy, with prefetchers and translation")
    files(min(count, 200_000))


if __name__ == "__main__":
    main()
