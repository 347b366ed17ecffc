"""How fast pipeline schedules are run in time: ``python benchmarks/pipeline_schedules.py [--ranks N]``.

Each schedule is written, packed and run by the compiled kernel, and run once by a plain Python walk over the same
orders in the same process; the last column is the ratio of the two. The exit code is 1 when their makespans differ or
a run takes over 50 ms.
"""

from __future__ import annotations

import argparse
import sys
import time

from hw_configs.problems import InputError
from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.run import StageTimes, pack, run_schedule
from mapping.training.schedules.write import SCHEDULES, write_schedule
from offchip.cli.output import print_table

RUNS = 20
MOST_MS = 50.0
SECONDS = {"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0, "S": 0.25, "T": 0.5}


def plain(schedule: PipelineSchedule) -> float:
    """The makespan by a walk from rank to rank over dictionaries."""
    stages, ranks = schedule.stages, len(schedule.orders)
    forward: dict[tuple[int, int], float] = {}
    gradient: dict[tuple[int, int], float] = {}
    shares: dict[tuple[str, int], list[float]] = {}
    here, clock = [0] * ranks, [0.0] * ranks
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(schedule.orders):
            while here[rank] < len(order):
                s, kind, m = order[here[rank]]
                needs: list[float | None] = []
                if kind == "F" and s % stages:
                    needs.append(forward.get((s - 1, m)))
                elif kind in "BI":
                    needs.append(forward.get((s, m)))
                    if (s + 1) % stages:
                        needs.append(gradient.get((s + 1, m)))
                    elif schedule.vocabulary_barriers:
                        done = shares.get(("ST"[schedule.vocabulary_barriers - 1], m), [])
                        needs.append(max(done) if len(done) == ranks else None)
                elif kind == "S":
                    needs.append(forward.get((stages - 1, m)))
                elif kind == "T":
                    done = shares.get(("S", m), [])
                    needs.append(max(done) if len(done) == ranks else None)
                if None in needs:
                    break
                clock[rank] = max([clock[rank], *(need or 0.0 for need in needs)]) + SECONDS[kind]
                if kind == "F":
                    forward[s, m] = clock[rank]
                elif kind in "BI":
                    gradient[s, m] = clock[rank]
                elif kind in "ST":
                    shares.setdefault((kind, m), []).append(clock[rank])
                here[rank] += 1
                moved = True
    return max(clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--micro-batches", type=int, default=512)
    options = parser.parse_args()
    times = StageTimes(logits_s=SECONDS["S"], logit_gradient_s=SECONDS["T"])
    run_schedule(write_schedule("1f1b", 2, 2), times)
    rows, failed = [], False
    for name in SCHEDULES:
        begun = time.perf_counter()
        try:
            schedule = write_schedule(name, options.ranks, options.micro_batches)
        except InputError:
            continue
        written = time.perf_counter()
        packed = pack(schedule)
        ready = time.perf_counter()
        each = []
        for _ in range(RUNS):
            start = time.perf_counter()
            run = run_schedule(packed, times)
            each.append(time.perf_counter() - start)
        start = time.perf_counter()
        slow = plain(schedule)
        whole = time.perf_counter() - start
        best = min(each)
        failed |= abs(slow - run.makespan_s) > 1e-6 * slow or best * 1e3 > MOST_MS
        rows.append(
            (name, len(packed.stage), f"{written - begun:.2f}", f"{ready - written:.2f}", f"{best * 1e3:.2f}",
             f"{whole * 1e3:.0f}", f"{whole / best:.0f}")
        )  # fmt: skip
    columns = ("schedule", "actions", "write s", "pack s", "run ms", "plain Python ms", "ratio")
    print_table(f"{options.ranks} ranks, {options.micro_batches} micro-batches", columns, rows)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
