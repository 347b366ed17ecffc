"""Requests per second of the drive engine, row by row beside the reference's own figure.

    python benchmarks/flash.py [FOLDER] [--requests N]

FOLDER holds ``configs/ID.json`` and ``expected.csv`` (default: the rows in ``tests/reference/flash``; its column
``ref_ios_per_cpu_s`` is the reference's requests per second of user CPU on one core). Ours is user CPU of one
core too, after compilation, the drive's building included, making the requests not. The last part builds a
drive of a terabyte, and runs a long random write under collection.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from offchip.validation.flash import drive_from_reference, workload_from_reference
from simulator.flash.drive import Drive
from simulator.flash.engine import DriveRun, RunOptions, simulate_drive
from simulator.flash.warm import warm_up
from workloads.block_trace import BlockWorkload, synthetic_blocks

REPEATS = 5


def user_seconds(work: Callable[[], Any]) -> float:
    """User CPU seconds of a call."""
    started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - started


def row_seconds(config: dict[str, Any]) -> float:
    """The median of several runs of a row."""
    drive = drive_from_reference(config)
    trace = workload_from_reference(config, drive.capacity_bytes)
    options = RunOptions(outstanding=int(config["workload"]["outstanding"]), partial=False)
    return statistics.median(
        user_seconds(lambda: simulate_drive(drive, trace, options)) for _ in range(REPEATS)
    )


def terabyte() -> Drive:
    """One TiB in 16 KiB pages: 8 channels of 4 dies with 4 planes, 7 % to spare."""
    drive = Drive(
        channels=8, chips_per_channel=4, dies_per_chip=1, planes_per_die=4, blocks_per_plane=369,
        pages_per_block=1536, page_bytes=16384, logical_pages=1, read_ns=(50_000,), program_ns=(450_000,),
        erase_ns=3_500_000, bus_ns_per_byte=Fraction(10, 12), name="1 TiB",
    )  # fmt: skip
    return replace(drive, logical_pages=2**40 // drive.page_bytes)


def long_run(requests: int) -> None:
    """Random 4 KiB writes to a small drive, nearly all of them under collection."""
    drive = replace(
        terabyte(), blocks_per_plane=128, pages_per_block=64, page_bytes=4096, logical_pages=1,
        gc_threshold_blocks=8,
    )  # fmt: skip
    drive = replace(drive, logical_pages=int(drive.physical_pages * 0.8))
    job = BlockWorkload(name="long", rw="randwrite", bs=4096.0, number_ios=requests)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: list[Any] = []
    trace = synthetic_blocks(job, drive.capacity_bytes)
    seconds = user_seconds(lambda: found.append(simulate_drive(drive, trace, RunOptions())))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    result = found[0]
    print(
        f"{requests:,} random writes: {requests / seconds / 1e6:.2f} M requests/s, write amplification "
        f"{result.write_amplification:.2f}, {result.counts['gc_executions']:,} collections, {grown:.0f} MiB"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parent.parent / "tests" / "reference" / "flash"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--requests", type=int, default=10_000_000, help="length of the long run")
    chosen = parser.parse_args()
    with (chosen.folder / "expected.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    warm_up()
    print(f"{'row':36s} {'M requests/s':>12s} {'reference':>10s} {'ratio':>7s}")
    ratios = []
    for row in rows:
        config = json.loads((chosen.folder / "configs" / f"{row['id']}.json").read_text(encoding="utf-8"))
        ours = int(config["workload"]["requests"]) / row_seconds(config)
        theirs = float(row.get("ref_ios_per_cpu_s") or 0)
        ratios += [ours / theirs] if theirs else []
        shown = f"{theirs / 1e6:10.3f} {ours / theirs:6.1f}x" if theirs else f"{'-':>10s} {'-':>7s}"
        print(f"{row['id']:36s} {ours / 1e6:12.2f} {shown}")
    if ratios:
        print(
            f"ratio: least {min(ratios):.1f}, median {statistics.median(ratios):.1f}, of {len(ratios)} rows"
        )
    drive = terabyte()
    seconds = user_seconds(lambda: DriveRun.begin(drive, RunOptions()))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{drive.capacity_bytes / 2**40:.2f} TiB built in {seconds:.2f} s; the process holds {memory:.0f} MiB"
    )
    long_run(chosen.requests)


if __name__ == "__main__":
    main()
