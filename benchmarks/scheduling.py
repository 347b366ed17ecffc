"""Scheduling benchmark: the public graphs beside CP-SAT's seconds, and whole networks at their three budgets.

``python benchmarks/scheduling.py [FOLDER] [--networks NAME ...] [--time-limit S]`` reads ``graph_results.csv`` and
its graphs below the folder (default: the copies in ``tests/reference/alloc``). Seconds are CPU seconds of this
process after the kernels are compiled; the reference's column ``cpsat_s`` was taken on another, busy machine and
serves as orientation. The ratio of traffic is against the best of the baselines.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

from mapping.scheduling import BASELINES, ScheduleProblem, check, least_peak, problem_from_graph, solve
from mapping.scheduling.kernels import load_kernels
from offchip.cli.output import print_table
from offchip.validation.registry import find_file
from workloads.graph_json import read_graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

DEFAULT_FOLDER = Path(__file__).parent.parent / "tests" / "reference" / "alloc"
NETWORKS = (
    "resnet-50", "densenet-121", "resnext-50", "mobilenet-v2", "inception-v3", "unet", "deeplab-v3",
    "r2plus1d-18", "s3d", "transformer-base", "vit-b-16", "nasnet-a-large", "amoebanet-d", "pnasnet-5-large",
    "darts-v2",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    load_kernels()
    rows = []
    with find_file(options.folder, "graph_results.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            problem = problem_from_graph(read_graph(find_file(options.folder, f"{row['graph']}.json")))
            measured = _measure(problem, int(row["scratchpad_bytes"]), options.time_limit)
            rows.append((row["graph"], row["budget"], row["optimal_bytes"], *measured, row["cpsat_s"]))
    columns = ("cost", "bound", "status", "states", "CPU s", "best baseline")
    print_table("public graphs", ("graph", "budget", "optimum", *columns, "CP-SAT s"), rows)
    rows = []
    for name in options.networks:
        graph = load_workload(name, WorkloadOptions(dtype="int8")).phases[0].graph
        for weights in ("stream", "resident"):
            problem = problem_from_graph(graph, weights)  # type: ignore[arg-type]
            low, high = problem.least_budget, least_peak(problem).peak_bytes
            for label, capacity in {"M_R": low, "M_H": (low + high) // 2, "M_P": high}.items():
                if label == "M_R" or low < high:
                    rows.append(
                        (name, weights, label, capacity, *_measure(problem, capacity, options.time_limit))
                    )
    print_table("networks, int8", ("network", "weights", "budget", "bytes", *columns), rows)
    seconds = [float(row[8]) for row in rows]
    print(f"CPU seconds: mean {sum(seconds) / len(seconds):.3f}, most {max(seconds):.2f}")


def _measure(problem: ScheduleProblem, capacity: int, limit: float) -> tuple[object, ...]:
    start = time.process_time()
    result = solve(problem, capacity, time_limit_s=limit)
    seconds = time.process_time() - start
    if result.schedule is None or check(problem, result.schedule, capacity):
        raise SystemExit(f"{problem.name}: no schedule in {capacity} bytes")
    best = min(run(problem, capacity).cost_bytes or 0 for run in BASELINES.values())
    return result.cost_bytes, result.bound_bytes, result.status, result.nodes, f"{seconds:.3f}", best


if __name__ == "__main__":
    main()
