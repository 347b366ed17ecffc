"""Allocation benchmark: the hard instances at their capacity, beside MiniMalloc's CPU seconds.

``python benchmarks/allocation.py [FOLDER] [--time-limit S]`` reads ``allocation_results.csv`` and the instances
below the folder (default: the copies in ``tests/reference/alloc``). Seconds are CPU seconds of this process after
the kernels are compiled; the reference's were taken on another, busy machine and serve as orientation.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

from mapping.allocation import AllocationProblem, check, solve
from mapping.allocation.importers import read_problem
from offchip.cli.output import print_table
from offchip.validation.registry import find_file

DEFAULT_FOLDER = Path(__file__).parent.parent / "tests" / "reference" / "alloc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    small = AllocationProblem.from_arrays([0, 1, 2, 0], [2, 3, 4, 1], [3, 2, 3, 1])
    for capacity in (5, 4, None):
        solve(small, capacity, max_nodes=2000, engine="search")
    rows = []
    total = reference_total = 0.0
    table = find_file(options.folder, "allocation_results.csv")
    with table.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            problem = read_problem(find_file(options.folder, f"{row['instance']}.csv"))
            capacity = int(row["capacity"])
            start = time.process_time()
            result = solve(problem, capacity, time_limit_s=options.time_limit)
            seconds = time.process_time() - start
            if result.offsets is None or check(problem, result.offsets.tolist(), capacity):
                raise SystemExit(f"{row['instance']}: no plan below {capacity}")
            reference = float(row["minimalloc_user_s"] or "nan")
            total, reference_total = total + seconds, reference_total + reference
            rows.append(
                (row["instance"], len(problem), result.peak_bytes, result.bound_bytes, result.status, result.engine,
                 result.nodes, f"{seconds:.2f}", f"{reference:.2f}")
            )  # fmt: skip
    rows.append(("total", "", "", "", "", "", "", f"{total:.2f}", f"{reference_total:.2f}"))
    columns = (
        "instance",
        "buffers",
        "peak",
        "bound",
        "status",
        "engine",
        "nodes",
        "CPU s",
        "MiniMalloc CPU s",
    )
    print_table("allocation below the capacity", columns, rows)


if __name__ == "__main__":
    main()
