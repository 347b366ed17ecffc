"""What a run of caches found, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.cache.distances import ReuseDistances

__all__ = ["CacheResult", "Curve", "CurvePoint", "LevelResult", "PolicyResult", "Window"]


@dataclass(frozen=True, slots=True)
class LevelResult:
    """One level. ``requests`` from above without what was written back; sizes in bytes.

    ``bytes_up``: fetched from below; ``bytes_down``: written to what is below, as objects left or passed by;
    ``dirty_bytes``: written and still only here at the end.
    """

    name: str
    policy: str
    size: int
    requests: int
    hits: int
    request_bytes: int
    hit_bytes: int
    admitted: int
    evicted: int
    bytes_up: int
    bytes_down: int
    dirty_bytes: int
    time_s: float | None

    @property
    def miss_ratio(self) -> float:
        """Share of the requests that reached the level and missed."""
        return 1 - self.hits / self.requests if self.requests else 0.0

    @property
    def byte_miss_ratio(self) -> float:
        """The same by bytes asked for."""
        return 1 - self.hit_bytes / self.request_bytes if self.request_bytes else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "miss_ratio": self.miss_ratio, "byte_miss_ratio": self.byte_miss_ratio,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """Misses since the window before, until ``requests``; distinct ``objects`` and their bytes so far."""

    requests: int
    misses: int
    objects: int
    distinct_bytes: int


@dataclass(frozen=True)
class PolicyResult:
    """A trace through one cache or hierarchy. A miss is a request that no level held, writes included."""

    label: str
    requests: int
    total_bytes: int
    misses: int
    miss_bytes: int
    levels: tuple[LevelResult, ...]
    windows: tuple[Window, ...] = field(repr=False)

    @property
    def miss_ratio(self) -> float:
        """Misses over requests."""
        return self.misses / self.requests if self.requests else 0.0

    @property
    def byte_miss_ratio(self) -> float:
        """Bytes missed over bytes asked for."""
        return self.miss_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def time_per_request_s(self) -> float | None:
        """Mean time in caches by their stated latencies and bandwidths; None unless all levels state one."""
        times = [level.time_s for level in self.levels]
        if not self.requests or any(time is None for time in times):
            return None
        return sum(time for time in times if time is not None) / self.requests

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "label": self.label, "requests": self.requests, "bytes": self.total_bytes, "misses": self.misses,
            "miss_bytes": self.miss_bytes, "miss_ratio": self.miss_ratio, "byte_miss_ratio": self.byte_miss_ratio,
            "time_per_request_s": self.time_per_request_s, "levels": [level.as_json() for level in self.levels],
            "over_time": [[w.requests, w.misses] for w in self.windows],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Miss ratios of one size; ``error``: standard error where sampled, 0 where exact."""

    size: int
    miss_ratio: float
    byte_miss_ratio: float | None
    error: float = 0.0


@dataclass(frozen=True)
class Curve:
    """Miss ratios over sizes. ``method``: one pass, sampled, or a run for each size."""

    label: str
    method: str
    points: tuple[CurvePoint, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        points = [[p.size, p.miss_ratio, p.byte_miss_ratio, p.error] for p in self.points]
        return {"label": self.label, "method": self.method, "points": points}


def _size(value: float) -> str:
    return format_quantity(float(value), "size")


@dataclass(frozen=True)
class CacheResult(Shown):
    """A trace through caches, policy by policy; figures of the trace itself where they were asked for."""

    trace: str
    requests: int
    objects: int
    distinct_bytes: int
    written: int
    runs: tuple[PolicyResult, ...]
    distances: ReuseDistances | None = None
    curves: tuple[Curve, ...] = ()
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """The result as plain data."""
        found: dict[str, Any] = {
            "trace": self.trace, "requests": self.requests, "objects": self.objects,
            "distinct_bytes": self.distinct_bytes, "written": self.written, "interrupted": self.interrupted,
            "runs": [run.as_json() for run in self.runs],
        }  # fmt: skip
        if self.runs:
            found["working_set"] = [[w.requests, w.objects, w.distinct_bytes] for w in self.runs[0].windows]
        if self.distances is not None:
            found["reuse_distances"] = self.distances.octaves()
            found["sampled_share"] = self.distances.rate
        if self.curves:
            found["curves"] = [curve.as_json() for curve in self.curves]
        return found

    def shown_tables(self) -> tuple[Table, ...]:
        """Policies, levels where there are several, reuse distances, curves."""
        tables = [self._trace(), self._policies()]
        if any(len(run.levels) > 1 or run.levels[0].bytes_down for run in self.runs):
            tables.append(self._levels())
        if self.distances is not None:
            total = max(self.distances.requests, 1)
            rows = tuple((_size(d), n, f"{100 * n / total:.2f} %") for d, n in self.distances.octaves())
            tables.append(Table("reuse distances (distinct bytes)", ("up to", "requests", "share"), rows))
        tables.extend(_curve_table(curve) for curve in self.curves)
        return tuple(tables)

    def _trace(self) -> Table:
        rows = (
            ("trace", self.trace), ("requests", self.requests), ("objects", self.objects),
            ("distinct bytes", _size(self.distinct_bytes)), ("written requests", self.written),
        )  # fmt: skip
        return Table("", ("", ""), rows)

    def _policies(self) -> Table:
        timed = any(run.time_per_request_s is not None for run in self.runs)
        rows = []
        for run in self.runs:
            row: tuple[object, ...] = (
                run.label, run.misses, f"{run.miss_ratio:.6f}", f"{run.byte_miss_ratio:.6f}", _size(run.miss_bytes)
            )  # fmt: skip
            time = run.time_per_request_s
            rows.append((*row, "" if time is None else format_quantity(time, "time")) if timed else row)
        columns = ("policy", "misses", "miss ratio", "byte miss ratio", "bytes missed")
        return Table("caches", (*columns, "time per request") if timed else columns, tuple(rows))

    def _levels(self) -> Table:
        rows = tuple(
            (run.label, level.name, level.policy, _size(level.size), level.requests, level.hits,
             f"{level.miss_ratio:.6f}", _size(level.bytes_up), _size(level.bytes_down), _size(level.dirty_bytes))
            for run in self.runs for level in run.levels
        )  # fmt: skip
        columns = (
            "cache", "level", "policy", "size", "requests", "hits", "miss ratio", "fetched from below",
            "written below", "left written",
        )  # fmt: skip
        return Table("levels", columns, rows)


def _curve_table(curve: Curve) -> Table:
    step = max(len(curve.points) // 16, 1)
    sampled = any(point.error for point in curve.points)
    rows = []
    for point in curve.points[::step]:
        row: tuple[object, ...] = (
            _size(point.size), f"{point.miss_ratio:.6f}",
            "" if point.byte_miss_ratio is None else f"{point.byte_miss_ratio:.6f}",
        )  # fmt: skip
        rows.append((*row, f"{point.error:.6f}") if sampled else row)
    columns = ("size", "miss ratio", "byte miss ratio")
    return Table(
        f"miss ratio over size: {curve.label} ({curve.method})",
        (*columns, "standard error") if sampled else columns, tuple(rows),
    )  # fmt: skip
