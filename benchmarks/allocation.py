"""Allocation benchmark: hard instances at their capacity, gaps by kind, and a million buffers from file to file.

``python benchmarks/allocation.py [FOLDER] [--time-limit S]`` solves the instances of ``allocation_results.csv`` below
the folder (default: the copies in ``tests/reference/alloc``), beside MiniMalloc's CPU seconds, and CP-SAT's of this run
where OR-tools is installed. MiniMalloc's were taken on another, busy machine and serve as orientation.
``--kind cut|loose|random [--buffers N] [--seeds K]`` minimises seeded instances instead and prints their gaps.
``--many N`` writes a file of N buffers, and runs ``offchip solve alloc`` on it as a user does; the ratio is that of
the whole run's seconds to the time limit. Seconds are CPU seconds of this process where not said otherwise, after the
kernels are compiled.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from allocation_instances import KINDS, many

from mapping.allocation import AllocationProblem, check, solve
from mapping.allocation.csv_format import to_csv, write_text
from mapping.allocation.importers import read_problem
from mapping.allocation.kernels import load_kernels
from offchip.cli.output import print_table
from offchip.validation.registry import find_file

DEFAULT_FOLDER = Path(__file__).parent.parent / "tests" / "reference" / "alloc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--kind", choices=[kind for kind in KINDS if kind != "many"])
    parser.add_argument("--buffers", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--many", type=int, metavar="N")
    options = parser.parse_args()
    load_kernels(many=True)
    if options.many is not None:
        from_file_to_file(options.many, options.time_limit)
    elif options.kind is not None:
        gaps(options.kind, options.buffers, options.seeds, options.time_limit)
    else:
        at_capacity(options.folder, options.time_limit)


def at_capacity(folder: Path, limit: float) -> None:
    """The hard instances below their capacity, beside the other solvers."""
    rows = []
    total = reference_total = 0.0
    with_cp_sat = importlib.util.find_spec("ortools") is not None
    with find_file(folder, "allocation_results.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            problem = read_problem(find_file(folder, f"{row['instance']}.csv"))
            capacity = int(row["capacity"])
            start = time.process_time()
            result = solve(problem, capacity, time_limit_s=limit)
            seconds = time.process_time() - start
            if result.offsets is None or check(problem, result.offsets.tolist(), capacity):
                raise SystemExit(f"{row['instance']}: no plan below {capacity}")
            reference = float(row["minimalloc_user_s"] or "nan")
            total, reference_total = total + seconds, reference_total + reference
            other = (cp_sat(problem, capacity, limit),) if with_cp_sat else ()
            rows.append(
                (row["instance"], len(problem), result.peak_bytes, result.bound_bytes, result.status, result.engine,
                 result.nodes, f"{seconds:.2f}", f"{reference:.2f}", *other)
            )  # fmt: skip
    none = ("",) if with_cp_sat else ()
    rows.append(("total", "", "", "", "", "", "", f"{total:.2f}", f"{reference_total:.2f}", *none))
    columns = ("instance", "buffers", "peak", "bound", "status", "engine", "nodes", "CPU s", "MiniMalloc CPU s",
               *(("CP-SAT, CPU s",) if with_cp_sat else ()))  # fmt: skip
    print_table("allocation below the capacity", columns, rows)


def cp_sat(problem: AllocationProblem, capacity: int, limit: float) -> str:
    """CP-SAT's answer and CPU seconds for the same question, one worker."""
    from ortools.sat.python import cp_model

    model: Any = cp_model.CpModel()
    spans, places = [], []
    for i in range(len(problem)):
        low, high, size = int(problem.lower[i]), int(problem.upper[i]), int(problem.size[i])
        spans.append(model.new_fixed_size_interval_var(low, high - low, ""))
        places.append(model.new_fixed_size_interval_var(model.new_int_var(0, capacity - size, ""), size, ""))
    model.add_no_overlap_2d(spans, places)
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit
    solver.parameters.num_workers = 1
    start = time.process_time()
    status = solver.status_name(solver.solve(model)).lower()
    return f"{status}, {time.process_time() - start:.2f}"


def gaps(kind: str, buffers: int, seeds: int, limit: float) -> None:
    """The least peaks found for seeded instances of one kind, and how far they are from the proven bound."""
    rows = []
    each = []
    for seed in range(seeds):
        problem = KINDS[kind](buffers, seed)
        start = time.process_time()
        result = solve(problem, time_limit_s=limit)
        assert result.peak_bytes is not None
        assert result.offsets is not None
        if check(problem, result.offsets.tolist(), result.peak_bytes):
            raise SystemExit(f"{problem.name}: the plan does not hold")
        each.append(100 * (result.peak_bytes / result.bound_bytes - 1))
        rows.append(
            (problem.name, len(problem), result.peak_bytes, result.bound_bytes, f"{each[-1]:.3f}", result.engine,
             result.nodes, f"{time.process_time() - start:.2f}")
        )  # fmt: skip
    closed = sum(gap == 0 for gap in each)
    rows.append((f"{closed} of {seeds} closed", "", "", "", f"{sum(each) / len(each):.3f}", "", "", ""))
    columns = ("instance", "buffers", "peak", "bound", "above bound %", "engine", "nodes", "CPU s")
    print_table(f"least peak, limit {limit:g} s", columns, rows)


def from_file_to_file(count: int, limit: float) -> None:
    """A file of many buffers through the command line, as one process of its own."""
    problem = many(count, 0)
    with tempfile.TemporaryDirectory() as folder:
        source, plan = Path(folder) / "big.csv", Path(folder) / "plan.csv"
        write_text(source, to_csv(problem))
        offchip = Path(sys.executable).with_name("offchip")
        command = [str(offchip), "solve", "alloc", str(source), "--minimize", "--quiet"]
        start = time.perf_counter()
        subprocess.run([*command, "--time-limit", f"{limit:g}", "--out", str(plan)], check=True)
        wall = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        offsets = read_problem(plan).fixed.tolist()
    wrong = check(problem, offsets)
    columns = ("buffers", "wall s", "CPU s", "GiB", "wall / limit", "plan read back")
    cpu = used.ru_utime + used.ru_stime
    row = (count, f"{wall:.1f}", f"{cpu:.1f}", f"{used.ru_maxrss / 2**20:.2f}", f"{wall / limit:.2f}",
           str(wrong[0]) if wrong else "holds")  # fmt: skip
    print_table("from file to file", columns, [row])


if __name__ == "__main__":
    main()
