"""Accesses per second through a GPU's memory path, beside the plain oracle on the same accesses.

    python -m benchmarks.gpu_memory

Processor time of one core, after compilation, the making of the trace not counted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hw_configs.device import Gpu
from hw_configs.library import load_system
from simulator.gpu_memory.engine import GpuMemoryRun
from simulator.gpu_memory.machine import Options
from tests.gpu_memory.oracle import Oracle
from tests.gpu_memory.oracle import Path as PlainPath
from workloads.gpu_trace import generate_kernel
from workloads.gpu_trace.kernels import Launch

CASES = (
    ("stream:2000000:rounds=400", True), ("stream:16000000:rounds=40", False), ("matmul:2048:2048:4096", True),
    ("matmul:2048:2048:4096", False), ("paged-attention:32:32:8:2000:128", True), ("gather:1000000:512:200000", True),
    ("strided:2000000:128", True),
)  # fmt: skip


def main() -> None:
    """One line a case."""
    system = load_system("h100-sxm")
    gpu = system.of_kind("gpu")[0].device
    assert isinstance(gpu, Gpu)
    memory = next(iter(system.memories.values()))
    for text, l1 in (("stream:10000", True), *CASES):
        chunks = list(generate_kernel(text, Launch(gpu.multiprocessors)).chunks(1 << 15))
        run = GpuMemoryRun.begin(gpu, memory, Options(l1=l1))
        started = time.process_time()
        for chunk in chunks:
            for _ in run.feed(chunk):
                pass
        seconds = time.process_time() - started
        result = run.result(text)
        if text == "stream:10000":
            continue
        first = chunks[0]
        few = list(zip(*(column[:2000].tolist() for column in first[:4]), strict=True))
        started = time.process_time()
        Oracle(PlainPath(sms=132, l1_sets=128, l1_ways=16, l2_sets=12800, l2_ways=16, partitions=2)).run(few)
        plain = (time.process_time() - started) / len(few)
        ours = seconds / result.accesses
        rates = f"{1e-6 / ours:6.1f} M accesses/s {result.lines / seconds / 1e6:6.1f} M lines/s"
        print(f"{text:34} {'L1' if l1 else 'no L1':5} {rates} {plain / ours:6.0f} x plain Python")


if __name__ == "__main__":
    main()
