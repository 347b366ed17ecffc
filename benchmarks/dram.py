"""Requests per second of the DRAM engine, row by row beside the reference's own figure.

    python benchmarks/dram.py [FOLDER] [--requests N]

FOLDER holds ``configs.json`` and ``expected.csv`` (default: the rows in ``tests/reference/dram``; a column
``ramulator_req_per_s``, if there, is printed beside ours). One core, after compilation; time includes decoding
addresses and dealing, not making the trace. The last rows time long streams, where the engine leaps over
whole periods.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from offchip.validation.dram import channel_from_reference, geometry_from_reference
from simulator.dram.engine import Memory, RunOptions, simulate_trace
from simulator.dram.warm import warm_up
from workloads.memory_trace import ArrayTrace, generate, open_trace

REPEATS = 5
LINES = 400_000


def best_seconds(memory: Memory, trace: ArrayTrace, gap: int) -> float:
    """The shortest of several runs, in seconds of the processor."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        simulate_trace(memory, trace, RunOptions(gap=gap, leap=False, threads=1))
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parent.parent / "tests" / "reference" / "dram"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--requests", type=int, default=100_000_000, help="length of the long streams")
    chosen = parser.parse_args()
    configs = json.loads((chosen.folder / "configs.json").read_text(encoding="utf-8"))
    with (chosen.folder / "expected.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    warm_up()
    print(f"{'row':44s} {'M requests/s':>12s} {'reference':>10s} {'ratio':>7s}")
    ratios = []
    for row in rows:
        config = configs[row["config"]]
        count = int(row["n_requests"])
        memory = Memory(channel_from_reference(config))
        synthetic = generate(row["trace"], count, int(row["seed"]), geometry_from_reference(config))
        (requests,) = synthetic.chunks(count)
        ours = (
            count
            / best_seconds(memory, ArrayTrace(requests.address, requests.write), int(row["gap"] or 0))
            / 1e6
        )
        theirs = float(row.get("ramulator_req_per_s") or 0) / 1e6
        ratios += [ours / theirs] if theirs else []
        shown = f"{theirs:10.3f} {ours / theirs:6.1f}x" if theirs else f"{'-':>10s} {'-':>7s}"
        print(f"{row['id']:44s} {ours:12.2f} {shown}")
    if ratios:
        print(
            f"ratio: least {min(ratios):.1f}, median {sorted(ratios)[len(ratios) // 2]:.1f}, of {len(ratios)} rows"
        )
    for name in ("ddr4_2400r_1r", "hbm2_2000"):
        if name in configs:
            memory = Memory(channel_from_reference(configs[name]))
            trace = generate("seq_read", chosen.requests, 7, geometry_from_reference(configs[name]))
            started = time.process_time()
            result = simulate_trace(memory, trace)
            rate = chosen.requests / (time.process_time() - started) / 1e6
            share = result.leapt_requests / chosen.requests
            print(
                f"{name + ' stream of ' + format(chosen.requests, ','):44s} {rate:12.2f}   ({share:.1%} leapt over)"
            )
    print(f"{'reading text, lines: ' + format(LINES, ','):44s} {lines_per_second() / 1e6:12.2f}")


def lines_per_second() -> float:
    """Lines of a load/store trace read per second of the processor."""
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        path.write_text(
            "".join(f"LD 0x{address:x}\n" for address in random.integers(0, 2**33, LINES).tolist())
        )
        best = float("inf")
        for _ in range(REPEATS):
            started = time.process_time()
            for _ in open_trace(path).chunks(1 << 18):
                pass
            best = min(best, time.process_time() - started)
    return LINES / best


if __name__ == "__main__":
    main()
