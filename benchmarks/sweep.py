"""How fast a sweep is: ``python benchmarks/sweep.py [--points N]``.

10,000 analytic points of a Llama-3-8B decode step go through the whole of a sweep (store and all) on one worker
and on two; beside them a sample of the same points by a plain loop over ``simulate``, which is the baseline.
The exit code is 1 when two workers do fewer than 1,000 points per second, or memory grows with the points.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hw_configs.problems import InfeasibleError
from offchip import api
from offchip.sweep.machine import Machines
from offchip.sweep.points import points_of
from offchip.sweep.pool import Pool
from offchip.sweep.run import run_sweep, serial
from offchip.sweep.space import Space
from offchip.sweep.space_file import load_space
from offchip.sweep.store import open_store

SPACE = """
name: llama-3-8b-decode
model: llama-3-8b
hw: a100-80gb
options: {{phase: decode}}
vary:
  batch: [1, 2, 4, 8, 16, 32, 64, 128]
  prompt: [512, 1024, 2048, 4096, 8192]
  gpu.memory.bandwidth: {{range: [1 TB/s, 2 TB/s], count: 10}}
  gpu.memory.capacity: {{range: [40 GB, 80 GB], count: 5}}
  gpu.power.idle: {{range: [40 W, 100 W], count: {count}}}
objectives: {{time_per_token_s: minimise, tokens_per_j: maximise}}
"""
TARGET = 1000.0
GROWTH_MIB = 64.0


def swept(space: Space, folder: Path, jobs: int) -> tuple[float, float]:
    """Points per second of a whole sweep, and of the part after the first tenth, when all workers are up."""
    times: list[tuple[int, float]] = [(0, time.perf_counter())]

    def heard(_stage: int, _expected: int, _kept: int, rows: list[object]) -> None:
        times.append((times[-1][0] + len(rows), time.perf_counter()))

    def executor(cache: Path):
        return serial(space, cache) if jobs == 1 else Pool(space, jobs, cache)

    run_sweep(space, folder, executor, notice=heard)
    done, end = times[-1]
    early, at = next(entry for entry in times if entry[0] >= done // 10)
    return done / (end - times[0][1]), (done - early) / (end - at)


def looped(space: Space, count: int) -> float:
    """Seconds per point of a plain loop over ``simulate`` for every so-manieth point."""
    points = list(points_of(space))
    chosen = points[:: max(len(points) // count, 1)][:count]
    machines = Machines()
    start = time.perf_counter()
    for _, values in chosen:
        settings = space.settings(values)
        changes = {path: value for path, value in settings.items() if path.startswith("gpu.")}
        system = machines.system("a100-80gb", changes)
        try:
            api.simulate(
                "llama-3-8b", system, phase="decode", batch=settings["batch"], prompt=settings["prompt"],
                fidelity="analytic",
            )  # fmt: skip
        except InfeasibleError:
            continue
    return (time.perf_counter() - start) / len(chosen)


def peak_mib(points: int) -> float:
    """Peak memory of a process that sweeps so many points."""
    code = (
        "import sys, tempfile; sys.path.insert(0, 'benchmarks'); import sweep\n"
        f"print(sweep.peak_of({points}))"
    )
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def peak_of(points: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        swept(space_of(Path(folder), points), Path(folder) / "out", 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def space_of(folder: Path, points: int) -> Space:
    path = folder / "space.yaml"
    path.write_text(SPACE.format(count=max(points // 2000, 2)))
    return load_space(path)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=10_000)
    points = parser.parse_args().points
    rates = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        space = space_of(folder, points)
        for jobs in (1, 2):
            rates[jobs] = swept(space, folder / f"out{jobs}", jobs)
        tables = []
        for jobs in (1, 2):
            with open_store(folder / f"out{jobs}") as store:
                tables.append([row.outcome() for row in store.rows()])
        assert tables[0] == tables[1], "the table depends on the number of workers"
        ok = sum(row[3] == "ok" for row in tables[0])
        each = looped(space, 100)
    small, large = peak_mib(4000), peak_mib(max(points, 20_000))
    print(f"{len(tables[0])} points, {ok} run, the others do not fit")
    for jobs, (rate, steady) in rates.items():
        print(f"{jobs} worker(s): {rate:8.0f} points/s, {rate * each:5.1f} times the plain loop; "
              f"{steady:.0f} points/s once all workers are up")  # fmt: skip
    print(f"plain loop over simulate: {1 / each:8.0f} points/s")
    print(f"from one worker to two: {rates[2][0] / rates[1][0]:.2f}, "
          f"{rates[2][1] / rates[1][1]:.2f} once all are up")  # fmt: skip
    print(f"peak memory: {small:.0f} MiB at 4000 points, {large:.0f} MiB at {max(points, 20_000)}")
    return int(rates[2][0] < TARGET or large - small > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
