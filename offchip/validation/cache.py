"""Validation kind ``cache``: misses and byte miss ratios against libCacheSim, row by row.

A folder holds ``replacement.csv``; every row names a trace by its recipe, a policy and a size. Misses have to be the
same number, byte miss ratios to 1e-9, and the trace itself has to have the row's SHA-256.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, bad_input
from offchip.validation.registry import Options, RowResult, Verdict, find_file

__all__ = ["POLICY_NAMES", "run"]

POLICY_NAMES: Final[Mapping[str, str]] = {
    "FIFO": "fifo", "LRU": "lru", "Clock": "clock", "LFU": "lfu", "ARC": "arc", "SLRU": "slru", "TwoQ": "2q",
    "LIRS": "lirs", "S3FIFO": "s3-fifo", "Sieve": "sieve", "LRUK": "lru-k", "MQ": "mq", "GDSF": "gdsf",
    "Belady": "belady",
}  # fmt: skip
"""libCacheSim's names, and those here."""
RATIO_WITHIN: Final = 1e-9
_COLUMNS: Final = (
    "id", "trace", "requests", "objects", "seed", "sizes", "cache_bytes", "policy", "misses", "byte_miss_ratio",
    "trace_sha256_16",
)  # fmt: skip


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:  # noqa: ARG001
    """Every row whose id matches the glob, in file order."""
    table = find_file(folder, "replacement.csv")
    with table.open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    missing = [name for name in _COLUMNS if not records or name not in records[0]]
    if missing:
        raise bad_input(f"the columns {', '.join(missing)} are missing", file=str(table), line=1)
    hashes: dict[str, str] = {}
    for record in records:
        if fnmatch.fnmatchcase(record["id"], rows or "*"):
            yield _validate(record, hashes)


def _validate(record: Mapping[str, str], hashes: dict[str, str]) -> RowResult:
    from simulator.cache.hierarchy import Level
    from simulator.cache.simulate import Hierarchy, simulate_caches
    from workloads.cache_trace import open_pattern

    name = record["id"]
    groups = {"policy": record["policy"], "sizes": record["sizes"]}
    try:
        expected = {"misses": int(record["misses"]), "byte_miss_ratio": float(record["byte_miss_ratio"])}
        if record["policy"] not in POLICY_NAMES:
            return RowResult(
                name, expected, {}, 0.0, "unsupported", None, f"no policy {record['policy']!r}", groups
            )
        recipe = ":".join(record[key] for key in ("trace", "requests", "objects", "seed"))
        trace = open_pattern(f"{recipe}:sizes={record['sizes']}")
        level = Level.of("cache", int(record["cache_bytes"]), POLICY_NAMES[record["policy"]])
        if recipe not in hashes:
            hashes[recipe] = _digest(trace)
        started = time.process_time()
        found = simulate_caches(trace, [Hierarchy(name, (level,))]).runs[0]
        seconds = time.process_time() - started
    except (InputError, ValueError) as error:
        return RowResult(name, {}, {}, 0.0, "unsupported", None, str(error).splitlines()[0], groups)
    ours = {
        "misses": found.misses,
        "byte_miss_ratio": found.byte_miss_ratio,
        "trace_sha256_16": hashes[recipe],
    }
    wrong = []
    if ours["trace_sha256_16"] != record["trace_sha256_16"]:
        wrong.append("the trace is another one")
    if ours["misses"] != expected["misses"]:
        wrong.append(f"misses: found {ours['misses']}, expected {expected['misses']}")
    if abs(found.byte_miss_ratio - expected["byte_miss_ratio"]) > RATIO_WITHIN:
        wrong.append("byte miss ratio")
    verdict: Verdict = "off" if wrong else "ok"
    error_of = found.misses / expected["misses"] - 1 if expected["misses"] else None
    return RowResult(name, expected, ours, seconds, verdict, error_of, "; ".join(wrong), groups)


def _digest(trace: object) -> str:
    from workloads.cache_trace.patterns import Pattern

    assert isinstance(trace, Pattern)
    found = hashlib.sha256()
    for number, chunk in enumerate(trace.chunks(1 << 18)):
        found.update((("," if number else "") + ",".join(map(str, chunk.object.tolist()))).encode())
    return found.hexdigest()[:16]
