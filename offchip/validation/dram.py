"""Validation kind ``dram``: cycles, counts, latencies and command-stream hashes against Ramulator 2.1.

A folder holds ``configs.json`` (one device per key: organisation, timing in ticks, controller, constraints)
and ``expected.csv`` (one run per row). Devices are built from the JSON alone and traces are generated from
the columns ``trace``, ``n_requests``, ``seed`` and ``gap``.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from hw_configs.problems import InputError, OffchipError, PhysicsError, bad_input, nearest
from offchip.validation.registry import Options, RowResult, Verdict, find_file

__all__ = ["channel_from_reference", "geometry_from_reference", "run", "unread_keys"]

_INPUTS: Final = frozenset(
    {
        "id", "config", "trace", "n_requests", "seed", "gap", "ramulator_cpu_s", "ramulator_req_per_s",
        "ramulator_cycles_per_s",
    }
)  # fmt: skip
_MEASURED: Final = "ramulator_"
_KINDS: Final = {"GenericDDR": "ddr", "LPDDR5": "lpddr5", "HBM12": "hbm2", "HBM34": "hbm3"}
_SCHEDULERS: Final = {"FRFCFS": "frfcfs", "FRFCFS-RowHit": "frfcfs-rowhit"}
_CLOCKS: Final = {"need_sync": "sync", "always_on": "always on"}
_POLICIES: Final = {"Open": "open", "ClosedCAP": "capped"}
_REFRESH: Final = {
    "AllBank": "all-bank",
    "PerBank": "per-bank",
    "NoRefresh": "off",
    "HBM34PerBankRefresh": "paired-per-bank",
}
_SCOPES: Final = {
    "DDR3": "Rank", "DDR4": "Rank", "DDR5": "Rank", "LPDDR5": "Rank", "GDDR6": "Channel", "HBM1": "Channel",
    "HBM2": "PseudoChannel", "HBM3": "PseudoChannel", "HBM4": "PseudoChannel",
}  # fmt: skip
"""What an all-bank refresh covers, by standard."""
_READ_KEYS: Final = {
    "": {
        "impl", "wr_low_watermark", "wr_high_watermark", "read_buffer_size", "write_buffer_size",
        "priority_buffer_size", "wck_sync_mode", "scheduler", "refresh_manager", "row_policy", "addr_mapper",
    },
    "scheduler": {"impl"},
    "refresh_manager": {"impl", "scatter_interval"},
    "row_policy": {"impl", "cap"},
    "addr_mapper": {"impl"},
}  # fmt: skip
"""The keys of a controller that this module reads, by part."""
_QUIET_KEYS: Final = frozenset({"debug", "id", "name", "path", "clock_ratio", "channel_id"})
"""Keys that change no command."""
_LEVEL_KEYS: Final = {
    "Sid": ("sid", "stack", "stackid", "stack_id"),
    "PseudoChannel": ("pseudo_channel", "pc"),
}
"""Other spellings of a level's size in an organisation."""


def _choose(table: Mapping[str, str], name: str, what: str) -> Any:
    if name not in table:
        raise bad_input(
            f"unknown {what} {name!r}; known: {', '.join(table)}", suggestion=nearest(name, table)
        )
    return table[name]


def unread_keys(config: Mapping[str, Any]) -> list[str]:
    """Settings of a controller that no part of the engine knows: set, and not read."""
    control = config["controller"]
    parts = {"": control, **{part: control.get(part) or {} for part in _READ_KEYS if part}}
    unread = []
    for part, known in _READ_KEYS.items():
        for key, value in parts[part].items():
            if key not in known | _QUIET_KEYS and value not in (None, False, 0, [], {}):
                unread.append(f"{part}.{key}" if part else key)
    return sorted(unread)


def _level_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Fan-out of every level down to the bank; one that the organisation does not name follows from the
    geometry's totals.
    """
    organisation = {str(key).lower(): value for key, value in config["organization"].items()}
    names = [name for name in config["levels"] if name not in ("Row", "Column")]
    sizes: dict[str, int] = {}
    for name in names:
        spellings = (name.lower(), *_LEVEL_KEYS.get(name, ()))
        found = next((int(organisation[key]) for key in spellings if key in organisation), None)
        if name == "Channel":
            sizes[name] = 1
        elif found is not None:
            sizes[name] = found
    geometry = config["geometry"]
    total = int(geometry["ranks"]) * int(geometry["bankgroups"]) * int(geometry["banks"])
    left = [name for name in names if name not in sizes]
    stated = 1
    for size in sizes.values():
        stated *= size
    if len(left) == 1 and total % stated == 0:
        sizes[left[0]] = total // stated
    elif left or stated != total:
        raise bad_input(
            f"the organisation's levels ({', '.join(f'{k} {v}' for k, v in sizes.items())}) do not make the "
            f"geometry's {total} banks",
            path="organization",
        )
    return {name: sizes[name] for name in names}


def channel_from_reference(config: Mapping[str, Any]) -> Any:
    """The channel that one entry of ``configs.json`` describes.

    Raises ``InputError`` for a controller, scheduler, policy, refresh or mapping that the engine does not have,
    and ``KeyError`` for a missing key.
    """
    from simulator.dram.machine import Channel, Constraint, Controller

    control = config["controller"]
    geometry, timing = config["geometry"], config["timing_ticks"]
    standard = config["standard"]
    levels = tuple(_level_sizes(config).items())
    policy = control.get("row_policy") or {"impl": "Open"}
    refresh = control.get("refresh_manager") or {"impl": "AllBank"}
    clock = _choose(_CLOCKS, control.get("wck_sync_mode", "need_sync"), "data clock mode")
    controller = Controller(
        kind=_choose(_KINDS, control["impl"], "controller"),
        read_queue=int(control.get("read_buffer_size", 32)),
        write_queue=int(control.get("write_buffer_size", 32)),
        priority_queue=int(control.get("priority_buffer_size", 1568)),
        low_watermark=float(control.get("wr_low_watermark", 0.2)),
        high_watermark=float(control.get("wr_high_watermark", 0.8)),
        scheduler=_choose(_SCHEDULERS, control.get("scheduler", {"impl": "FRFCFS"})["impl"], "scheduler"),
        row_policy=_choose(_POLICIES, policy["impl"], "row policy"),
        cap=int(policy.get("cap", 4)),
        refresh=_choose(_REFRESH, refresh["impl"], "refresh manager"),
        refresh_scatter=max(int(refresh.get("scatter_interval", 0)), 0),
        clock_sync=clock == "sync",
    )
    constraints = tuple(
        Constraint(
            rule["level"], tuple(rule["preceding"]), tuple(rule["following"]), int(rule["latency"]),
            int(rule.get("window", 1)), bool(rule.get("other_siblings", False)),
        )
        for rule in config["constraints"]
    )  # fmt: skip
    burst = int(timing.get("nBL", timing.get("nBL_min", 1)))
    return Channel(
        standard=standard,
        levels=levels,
        rows=int(geometry["rows"]),
        columns=int(geometry["cols_tx"]),
        transaction_bytes=int(geometry["tx_bytes"]),
        tick_s=float(config["tick_ps"]) * 1e-12,
        read_latency=int(config["read_latency_ticks"]),
        write_latency=int(timing.get("nCWL", 0)) + burst,
        burst=burst,
        timing={name: int(value) for name, value in timing.items() if isinstance(value, int | float)},
        constraints=constraints,
        refresh_level=_choose(_SCOPES, standard, "standard"),
        mapping=control.get("addr_mapper", {"impl": "RoBaRaCoCh"})["impl"],
        controller=controller,
        command_ticks={name: int(value) for name, value in config.get("command_ticks", {}).items()},
        ticks_per_clock=int(config.get("ticks_per_ck", 1)),
    )


def geometry_from_reference(config: Mapping[str, Any]) -> Any:
    """What the trace generator needs to know of a device."""
    from workloads.memory_trace import Geometry

    g = config["geometry"]
    return Geometry(
        int(g["tx_bytes"]),
        int(g["cols_tx"]),
        int(g["ranks"]),
        int(g["bankgroups"]),
        int(g["banks"]),
        int(g["rows"]),
    )


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:  # noqa: ARG001
    """Every row whose id matches the glob, in file order."""
    from simulator.dram.warm import warm_up

    table = find_file(folder, "expected.csv")
    configs = json.loads(find_file(folder, "configs.json").read_text(encoding="utf-8"))
    with table.open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    warm_up()
    for record in records:
        name = record.get("id") or _name(record)
        if not fnmatch.fnmatchcase(name, rows or "*"):
            continue
        expected = {
            key: text for key, text in record.items() if key not in _INPUTS and not key.startswith(_MEASURED)
        }
        try:
            ours, seconds = _one(configs, record)
        except (InputError, KeyError, TypeError, ValueError) as error:
            note = f"no key {error}" if isinstance(error, KeyError) else str(error)
            yield RowResult(name, expected, {}, 0.0, "unsupported", None, note)
            continue
        except OffchipError as error:
            yield RowResult(name, expected, {}, 0.0, "failed", None, str(error))
            continue
        # An empty cell says nothing.
        wrong = [key for key, text in expected.items() if text and key in ours and not _same(text, ours[key])]
        error_of = abs(float(ours["cycles_drain"]) / float(record["cycles_drain"]) - 1)
        verdict: Verdict = "off" if wrong else "ok"
        notes = [f"differs: {', '.join(wrong)}"] if wrong else []
        notes += [f"not read: controller.{key}" for key in unread_keys(configs[record["config"]])]
        yield RowResult(name, expected, ours, seconds, verdict, error_of, "; ".join(notes))


def _name(record: Mapping[str, str]) -> str:
    gap = f"-g{record['gap']}" if record.get("gap", "0") not in ("", "0") else ""
    return f"{record['config']}-{record['trace']}-{record['seed']}-{record['n_requests']}{gap}"


def _same(expected: str, ours: object) -> bool:
    """Counts, hashes and texts must be equal; printed decimals in the places that were printed."""
    if isinstance(ours, float):
        places = len(expected.partition(".")[2])
        return bool(abs(ours - float(expected)) <= 0.5 * 10**-places * (1 + 1e-6) + 1e-12)
    return str(ours) == expected


def _one(configs: Mapping[str, Any], record: Mapping[str, str]) -> tuple[dict[str, Any], float]:
    from simulator.dram.engine import Commands, Memory, RunOptions, run_recorded, simulate_trace
    from workloads.memory_trace import ArrayTrace, generate

    if record["config"] not in configs:
        raise bad_input(
            f"configs.json has no device {record['config']!r}", suggestion=nearest(record["config"], configs)
        )
    config = configs[record["config"]]
    channel = channel_from_reference(config)
    synthetic = generate(
        record["trace"], int(record["n_requests"]), int(record["seed"]), geometry_from_reference(config)
    )
    (requests,) = synthetic.chunks(int(record["n_requests"]))
    trace = ArrayTrace(requests.address, requests.write, name=synthetic.name)
    digest = hashlib.sha256()
    batches: list[Commands] = []
    memory = Memory(channel, name=record["config"])
    options = RunOptions(gap=int(record.get("gap") or 0), record=True, commands=batches.append, leap=False)
    result, (channel_run,) = run_recorded(memory, trace, options)
    # The engine's own time: the same run without writing anything down.
    started = time.perf_counter()
    again = simulate_trace(memory, trace, RunOptions(gap=options.gap, leap=False))
    seconds = time.perf_counter() - started
    if again.cycles_drain != result.cycles_drain:
        raise PhysicsError(
            f"recording changed the run: {result.cycles_drain} and {again.cycles_drain} cycles"
        )
    for batch in batches:
        digest.update("".join(f"{line}\n" for line in batch.lines()).encode())
    recording = channel_run.recording
    assert recording is not None
    counts = result.commands
    activates = counts.get("ACT1", counts.get("ACT", 0))
    served_reads = result.reads - result.reads_forwarded
    latencies = recording.latency[requests.write == 0]
    ordered = np.sort(latencies)
    word = (requests.address.astype(np.uint64) << np.uint64(1)) | requests.write.astype(np.uint64)

    def rank(share: float) -> int:
        return int(ordered[int(share * (ordered.size - 1))]) if ordered.size else 0

    ours: dict[str, Any] = {
        "reads": result.reads,
        "writes": result.writes,
        "cycles_accept": result.cycles_accept,
        "cycles_drain": result.cycles_drain,
        "row_hits": result.row_hits,
        "row_misses": result.row_misses,
        "row_conflicts": result.row_conflicts,
        "read_row_hits": result.read_row_hits,
        "write_row_hits": result.write_row_hits,
        "reads_forwarded": result.reads_forwarded,
        "writes_coalesced": result.writes_coalesced,
        "refreshes": counts.get("REFab", 0) + counts.get("REFpb", 0),
        "activates": activates,
        "precharges_bank": counts.get("PREpb", 0),
        "precharges_all": counts.get("PREab", 0),
        "read_latency_mean": float(f"{result.read_latency_mean:.4f}"),
        "read_latency_p50": rank(0.5),
        "read_latency_p99": rank(0.99),
        "read_latency_max": int(ordered[-1]) if ordered.size else 0,
        "sim_avg_read_latency": float(f"{np.float32(result.latency_sum / max(served_reads, 1)):.6g}"),
        "bandwidth_GBps": float(f"{result.bandwidth_bytes_per_s / 1e9:.4f}"),
        "commands": sum(counts.values()),
        "command_counts": ";".join(f"{name}={counts[name]}" for name in sorted(counts)),
        "command_sha256": digest.hexdigest(),
        "accept_sha256": hashlib.sha256(recording.accept.astype("<i8").tobytes()).hexdigest(),
        "read_latency_sha256": hashlib.sha256(latencies.astype("<i8").tobytes()).hexdigest(),
        "trace_sha256": hashlib.sha256(word.astype("<u8").tobytes()).hexdigest(),
    }
    return ours, seconds
