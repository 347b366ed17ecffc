"""Validation kind ``flash``: IOPS, latencies, commands and write amplification against an event-driven simulator.

A folder holds ``configs/ID.json`` (host, device, timing, ftl, workload) and ``expected.csv`` (one run per row).
Drive and workload are made from the JSON alone. Random numbers differ between programs, so statistics are
compared, each within the tolerance that the reference's README suggests for its kind of row.
"""

from __future__ import annotations

import csv
import fnmatch
import json
import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from hw_configs.problems import InputError, OffchipError, bad_input, nearest
from offchip.validation.registry import Options, RowResult, Verdict, find_file

__all__ = ["drive_from_reference", "run", "run_row", "workload_from_reference"]

_POLICIES: Final = {
    "GREEDY": "greedy", "RGA": "d-choices", "RANDOM": "random", "RANDOM_P": "random-full",
    "RANDOM_PP": "random-invalid", "FIFO": "fifo",
}  # fmt: skip
_BITS: Final = {"SLC": 1, "MLC": 2, "TLC": 3, "QLC": 4}
_IGNORED: Final = ("id", "variant")
_PERCENT_POINTS: Final = ("chip_busy_executing", "channel_busy_transferring")
_SHOWN: Final = (
    "requests", "sim_time_s", "iops", "bandwidth_MBps", "lat_mean_us", "lat_min_us", "lat_max_us",
    "lat_read_mean_us", "lat_read_max_us", "lat_write_mean_us", "lat_write_max_us", "host_read_transactions",
    "host_write_transactions", "flash_read_cmds", "flash_multiplane_read_cmds", "flash_program_cmds",
    "flash_multiplane_program_cmds", "flash_erase_cmds", "gc_executions", "gc_page_moves_mean",
    "write_amplification", *_PERCENT_POINTS,
)  # fmt: skip


def drive_from_reference(config: Mapping[str, Any]) -> Any:
    """The drive that one ``configs/ID.json`` describes. Raises ``InputError`` for what is not modelled."""
    from simulator.flash.drive import BusCommands, Drive, HostPort

    device, timing, ftl, host = (config[key] for key in ("device", "timing_ns", "ftl", "host"))
    cell = timing["cell"]
    if cell not in _BITS:
        raise bad_input(f"unknown cell type {cell!r}; known: {', '.join(_BITS)}")
    policy = ftl["gc_victim"]
    if policy not in _POLICIES:
        raise bad_input(f"unknown GC policy {policy!r}", suggestion=nearest(policy, _POLICIES))
    for name, value in (("gc_copyback", False), ("preconditioned", False)):
        if ftl.get(name, value) != value:
            raise bad_input(f"ftl.{name}: {ftl[name]} is not modelled")
    if device.get("suspend", "NONE") != "NONE":
        raise bad_input(f"device.suspend: the reference's {device['suspend']!r} never happens there")
    scheme = str(ftl["allocation_scheme"])
    blocks = int(device["blocks_per_plane"])
    planes = (
        int(device["channels"]) * int(device["chips_per_channel"]) * int(device["dies_per_chip"])
        * int(device["planes_per_die"])
    )  # fmt: skip
    physical = planes * blocks * int(device["pages_per_block"])
    stop = int(ftl.get("gc_stop_writes_below_free_blocks", 10))
    threshold = int(ftl.get("gc_threshold_blocks_effective", ftl["gc_threshold_free_block_ratio"] * blocks))
    choices = int(np.log2(blocks)) if policy == "RGA" else 0
    return Drive(
        channels=int(device["channels"]),
        chips_per_channel=int(device["chips_per_channel"]),
        dies_per_chip=int(device["dies_per_chip"]),
        planes_per_die=int(device["planes_per_die"]),
        blocks_per_plane=blocks,
        pages_per_block=int(device["pages_per_block"]),
        page_bytes=int(device["page_bytes"]),
        logical_pages=int(physical * (1 - float(ftl["over_provisioning"]))),
        read_ns=_by_type(timing["read_lsb_csb_msb"], _BITS[cell]),
        program_ns=_by_type(timing["program_lsb_csb_msb"], _BITS[cell]),
        erase_ns=int(timing["erase"]),
        bus_ns_per_byte=_bus(device),
        commands=BusCommands(
            _command(timing, "read"), _command(timing, "program"), _command(timing, "erase")
        ),
        host=HostPort(
            bytes_per_ns=float(host["pcie_lanes"]) * float(host["pcie_lane_GBps"]),
            lanes=int(host["pcie_lanes"]),
            payload=int(host["tlp_max_payload_bytes"]),
            overhead=int(host["tlp_overhead_bytes"]),
            submission_entry=int(host["sqe_bytes_transferred"]),
            completion_entry=int(host["cqe_bytes_transferred"]),
            queue_entries=int(host["queue_entries"]),
            fetch_size=int(host["queue_fetch_size"]),
        ),
        placement=scheme,
        die_interleaving=bool(device.get("die_interleaving", False)),
        gc_policy=_POLICIES[policy],  # type: ignore[arg-type]
        gc_choices=choices,
        gc_threshold_blocks=max(stop, threshold),
        gc_reserve_blocks=stop,
        gc_preemptible=bool(ftl.get("gc_preemptible", False)),
        gc_hard_blocks=max(1, int(float(ftl.get("gc_hard_threshold", 0.005)) * blocks)),
        wear_levelling_gap=int(ftl.get("static_wear_leveling_threshold_erases", 100)),
        translation_frontier=True,
        name=str(config.get("id", "drive")),
    )


def _by_type(times: list[int], bits: int) -> tuple[int, ...]:
    """Times of LSB, CSB and MSB pages of the page types that the cell has."""
    kept = {1: [0], 2: [0, -1]}.get(bits, list(range(len(times))))
    chosen = [int(times[index]) for index in kept]
    return tuple(chosen + [chosen[-1]] * (bits - len(chosen)))


def _bus(device: Mapping[str, Any]) -> Fraction:
    """Ns per byte of a channel: what two bytes take, as the reference counts it."""
    width = int(device["channel_width_bytes"])
    if "channel_ns_per_2_bytes_effective" in device:
        return Fraction(str(device["channel_ns_per_2_bytes_effective"])) / (2 * width)
    return Fraction(2 * (1000 // int(device["channel_rate_MTps_nominal"])), 2 * width)


def _command(timing: Mapping[str, Any], kind: str) -> tuple[int, int]:
    """Bus time of a command for one plane, and for each further one."""
    table = {int(n): int(ns) for n, ns in timing[f"{kind}_command_ns_by_planes"].items()}
    return table[1], table.get(2, table[1]) - table[1]


def workload_from_reference(config: Mapping[str, Any], capacity: int) -> Any:
    """The requests that a configuration's workload makes on a drive of that capacity."""
    from workloads.block_trace import ArrayBlocks

    job = config["workload"]
    count, size, step = (int(job[key]) for key in ("requests", "request_bytes", "alignment_bytes"))
    rng = np.random.default_rng(int(job.get("seed", 1)))
    places = int(capacity * float(job.get("working_set_percent_of_logical", 100)) / 100) // step
    places -= max(-(-size // step) - 1, 0)
    address = str(job["address"])
    if places < 1:
        raise bad_input("the working set holds no request")
    if "random" in address and "sequential" not in address:
        number = rng.integers(0, places, count)
    elif "sequential" in address:
        # Steps of the request's size from an aligned place chosen by chance, without a turn at the end of the
        # drive where that can be avoided: it would break up the pairs of planes for the rest of the run.
        stride = max(size // step, 1)
        turn = max(places // stride, 1)
        number = (int(rng.integers(0, max(turn - count, 1))) + np.arange(count)) % turn * stride
    else:
        raise bad_input(f"unknown address pattern {address!r}")
    write = rng.random(count) * 100 >= float(job["read_percent"])
    return ArrayBlocks(
        write.astype(np.int64), number * step, np.full(count, size), name=str(config.get("id", ""))
    )


def run_row(config: Mapping[str, Any]) -> Any:
    """Run one configuration; the engine's result."""
    from simulator.flash.engine import RunOptions, simulate_drive

    drive = drive_from_reference(config)
    job = config["workload"]
    aligned = not (
        int(job["request_bytes"]) % drive.page_bytes or int(job["alignment_bytes"]) % drive.page_bytes
    )
    partial = not aligned and float(job["read_percent"]) < 100
    options = RunOptions(outstanding=int(job["outstanding"]), partial=partial, seed=int(job.get("seed", 1)))
    return simulate_drive(drive, workload_from_reference(config, drive.capacity_bytes), options)


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:  # noqa: ARG001
    """Every row whose id matches the glob, in file order."""
    from simulator.flash.warm import warm_up

    table = find_file(folder, "expected.csv")
    with table.open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    if not records or "id" not in records[0]:
        raise bad_input("the column 'id' is missing", file=str(table), line=1)
    warm_up()
    for record in records:
        name = record["id"]
        if fnmatch.fnmatchcase(name, rows or "*"):
            yield _validate(table.parent / "configs" / f"{name}.json", record)


def _validate(file: Path, record: Mapping[str, str]) -> RowResult:
    name = record["id"]
    expected = {key: float(record[key]) for key in _SHOWN if record.get(key)}
    if not file.is_file():
        return RowResult(name, expected, {}, 0.0, "unsupported", None, f"no file {file.name}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        started = time.process_time()
        result = run_row(config)
        seconds = time.process_time() - started
    except (InputError, KeyError, ValueError, TypeError) as error:
        note = f"no key {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        return RowResult(name, expected, {}, 0.0, "unsupported", None, note)
    except OffchipError as error:
        return RowResult(name, expected, {}, 0.0, "failed", None, str(error))
    ours = figures(result)
    wrong = [key for key in expected if not _within(key, expected, ours, config)]
    verdict: Verdict = "off" if wrong else "ok"
    error_of = ours["iops"] / expected["iops"] - 1 if expected.get("iops") else None
    groups = {"kind": "collection" if expected.get("gc_executions") else config["workload"]["address"][:10]}
    note = f"outside tolerance: {', '.join(wrong)}" if wrong else ""
    return RowResult(name, expected, ours, seconds, verdict, error_of, note, groups)


def figures(result: Any) -> dict[str, Any]:
    """A result under the reference's column names."""
    counts = result.counts
    runs = counts["gc_executions"]
    ours: dict[str, Any] = {
        "requests": result.requests,
        "sim_time_s": result.time_s,
        "iops": result.iops,
        "bandwidth_MBps": result.bandwidth_bytes_per_s / 1e6,
        "lat_mean_us": result.latency.mean_ns / 1e3,
        "lat_min_us": result.latency.least_ns / 1e3,
        "lat_max_us": result.latency.most_ns / 1e3,
        "host_read_transactions": counts["host_pages_read"],
        "host_write_transactions": counts["host_pages_written"],
        "flash_read_cmds": counts["read_commands"],
        "flash_multiplane_read_cmds": counts["multiplane_read_commands"],
        "flash_program_cmds": counts["program_commands"],
        "flash_multiplane_program_cmds": counts["multiplane_program_commands"],
        "flash_erase_cmds": counts["erase_commands"],
        "gc_executions": runs,
        "chip_busy_executing": float(result.unit_utilisation.mean()),
        "channel_busy_transferring": float(result.channel_utilisation.mean()),
    }
    for kind, latency in (("read", result.read_latency), ("write", result.write_latency)):
        if latency.count:
            ours[f"lat_{kind}_mean_us"] = latency.mean_ns / 1e3
            ours[f"lat_{kind}_max_us"] = latency.most_ns / 1e3
    if runs:
        ours["gc_page_moves_mean"] = counts["gc_page_moves"] / runs
    if result.write_amplification is not None:
        ours["write_amplification"] = result.write_amplification
    return ours


def _within(
    key: str, expected: Mapping[str, float], ours: Mapping[str, Any], config: Mapping[str, Any]
) -> bool:
    """Whether a figure is inside its tolerance, by the kind of its row; some figures have none."""
    tolerance = _tolerance(key, expected, config)
    if tolerance is None:
        return True
    if key not in ours:
        return False
    if key in _PERCENT_POINTS:
        return bool(abs(ours[key] - expected[key]) <= tolerance)
    return bool(abs(ours[key] - expected[key]) <= tolerance * abs(expected[key]) + 1e-9)


def _tolerance(key: str, expected: Mapping[str, float], config: Mapping[str, Any]) -> float | None:
    job = config["workload"]
    sequential = "sequential" in str(job["address"])
    collecting = bool(expected.get("gc_executions"))
    if key in _PERCENT_POINTS:
        return 0.03
    if key in ("requests", "host_read_transactions", "host_write_transactions") and (
        key == "requests" or job["read_percent"] in (0, 100)
    ):
        return 0.0
    if key in ("write_amplification", "gc_executions"):
        return 0.01
    if key in ("iops", "lat_mean_us", "sim_time_s", "bandwidth_MBps"):
        if collecting:
            return 0.1
        if sequential or int(job["outstanding"]) == 1:
            return 0.001
        return 0.015 if 0 < job["read_percent"] < 100 else 0.01
    if key == "lat_max_us" and not collecting:
        return 0.05 if sequential else 0.25
    return None
