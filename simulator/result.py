"""What a simulation says: time, bytes, memory and energy, and the config and plan that made it.

A :class:`Result` is a typed object first; tables, JSON and traces are views of it. Time is in seconds from
the start of the run, energy in joules. Every figure is simulated; the cost model and the fidelity that made
it stand in the provenance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.shown import Shown, Table

if TYPE_CHECKING:
    import pandas

__all__ = [
    "DeviceUse",
    "MemoryUse",
    "PhaseResult",
    "Result",
    "Timeline",
    "WireUse",
    "without_numbers",
]

TIMELINE_ROWS_IN_JSON: Final = 10_000

_RANK_OR_BATCH: Final = re.compile(r"[@#]\d+")
_NUMBERS: Final = re.compile(r"(?<![^.\s])\d+(?![^.\s])")
"""Numbers that stand alone between dots: the layer in ``layers.17.mlp``."""


@dataclass
class Timeline:
    """Every task of the run, as columns in plan order, phase after phase."""

    task: list[str] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    """compute, transfer or collective."""
    operator: list[str] = field(default_factory=list)
    operator_kind: list[str] = field(default_factory=list)
    device: list[str] = field(default_factory=list)
    stream: list[str] = field(default_factory=list)
    phase: list[int] = field(default_factory=list)
    bound_by: list[str] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    launch: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)

    COLUMNS = (
        "task", "kind", "operator", "operator_kind", "device", "stream", "phase", "bound_by",
        "start", "end", "launch", "flops", "bytes", "energy",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.task)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per task; times in seconds, bytes moved, joules."""
        columns = [getattr(self, name) for name in self.COLUMNS]
        return [dict(zip(self.COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class PhaseResult:
    """One graph of the workload: when it ran and what it yielded."""

    name: str
    kind: str
    start_s: float
    end_s: float
    tokens: int
    flops: float

    @property
    def seconds(self) -> float:
        """How long the phase took."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class DeviceUse:
    """What a device did: kernel seconds, launch seconds, FLOPs."""

    device: str
    busy_s: float
    launch_s: float
    flops: float
    utilisation: float
    """Share of the run in which a kernel ran."""
    compute_utilisation: float
    """FLOPs done over FLOPs possible at the peak rates of the types used."""


@dataclass(frozen=True)
class WireUse:
    """What a wire carried, each way."""

    wire: str
    bytes_forward: float
    bytes_backward: float
    busy_s: float
    utilisation: float
    energy_j: float


@dataclass(frozen=True)
class MemoryUse:
    """What a memory held and moved. ``usable`` is the nominal capacity less what is reserved."""

    memory: str
    technology: str
    capacity_bytes: int
    usable_bytes: int
    resident_bytes: int
    """Persistent tensors that live here before and after the run."""
    peak_bytes: int
    peak_time_s: float
    live_at_peak: tuple[tuple[str, str, int], ...]
    """Tensor, role and bytes at the fullest moment, largest first."""
    read_bytes: float
    written_bytes: float
    curve_time_s: NDArray[np.float64]
    curve_bytes: NDArray[np.float64]


@dataclass(frozen=True)
class Result(Shown):
    """A whole run."""

    model: str
    system: str
    mapper: str
    makespan_s: float
    phases: tuple[PhaseResult, ...]
    timeline: Timeline
    devices: Mapping[str, DeviceUse]
    wires: Mapping[str, WireUse]
    memories: Mapping[str, MemoryUse]
    energy_j: Mapping[str, float]
    """Joules by component: compute, memory, link and idle of each device."""
    provenance: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    counters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What devices count beside time and energy, by memory: row hits, bytes of a kind, seconds of a part."""

    @property
    def total_energy_j(self) -> float:
        """Joules of all components."""
        return float(sum(self.energy_j.values()))

    def summary(self) -> dict[str, Any]:
        """The figures a person asks first, by name and in SI units."""
        prefill = [p for p in self.phases if p.kind == "prefill"]
        decode = [p for p in self.phases if p.kind == "decode"]
        tokens = sum(p.tokens for p in self.phases)
        summary: dict[str, Any] = {"makespan_s": self.makespan_s}
        if prefill:
            summary["time_to_first_token_s"] = prefill[-1].end_s
        if decode:
            steps = sum(p.seconds for p in decode)
            summary["decode_steps"] = len(decode)
            summary["time_per_token_s"] = steps / len(decode)
            summary["decode_tokens_per_s"] = sum(p.tokens for p in decode) / steps if steps else 0.0
        if tokens:
            summary["tokens"] = tokens
            summary["tokens_per_s"] = tokens / self.makespan_s if self.makespan_s else 0.0
        summary["flops"] = sum(p.flops for p in self.phases)
        summary["energy_j"] = self.total_energy_j
        if tokens:
            summary["energy_per_token_j"] = self.total_energy_j / tokens
        summary["bottleneck"] = self.bottleneck()
        return summary

    def bottleneck(self) -> str:
        """What most of the run's kernel, transfer and launch time is bound by, in words."""
        shares = self.time_by_bound()
        if not shares:
            return "nothing ran"
        bound, seconds = max(shares.items(), key=lambda item: item[1])
        return f"{bound} ({seconds / sum(shares.values()):.0%} of task time)"

    def time_by_bound(self) -> dict[str, float]:
        """Seconds of all tasks by what bounds them: compute, memory, launch, a wire, ..."""
        totals: dict[str, float] = {}
        line = self.timeline
        for bound, start, end, launch in zip(line.bound_by, line.start, line.end, line.launch, strict=True):
            if end > start:
                totals[bound] = totals.get(bound, 0.0) + end - start - launch
                if launch:
                    totals["launch"] = totals.get("launch", 0.0) + launch
        return totals

    def top_operators(self, count: int = 10) -> list[dict[str, Any]]:
        """Operators that took most time, summed over layers, devices and phases by the part of their name.

        ``layers.17.mlp.down`` counts as ``layers.*.mlp.down``.
        """
        line = self.timeline
        totals: dict[str, dict[str, Any]] = {}
        for index in range(len(line)):
            key = without_numbers(line.operator[index] or line.task[index])
            entry = totals.setdefault(
                key,
                {"operator": key, "kind": line.operator_kind[index], "calls": 0, "seconds": 0.0, "flops": 0.0,
                 "bytes": 0.0, "bound_by": {}},
            )  # fmt: skip
            seconds = line.end[index] - line.start[index]
            entry["calls"] += 1
            entry["seconds"] += seconds
            entry["flops"] += line.flops[index]
            entry["bytes"] += line.bytes[index]
            bounds = entry["bound_by"]
            bounds[line.bound_by[index]] = bounds.get(line.bound_by[index], 0.0) + seconds
        for entry in totals.values():
            entry["bound_by"] = max(entry["bound_by"].items(), key=lambda item: item[1])[0]
        return sorted(totals.values(), key=lambda e: (-e["seconds"], e["operator"]))[:count]

    def to_pandas(self) -> pandas.DataFrame:
        """The timeline as a data frame, one row per task, times in seconds; needs the extra ``results``."""
        import pandas

        return pandas.DataFrame({name: getattr(self.timeline, name) for name in Timeline.COLUMNS})

    def shown_tables(self) -> tuple[Table, ...]:
        """The run as tables."""
        from simulator.result_tables import simulation_tables

        return simulation_tables(self)

    def as_json(self) -> dict[str, Any]:
        """The result as plain data, as every result of the Python interface gives it."""
        return self.to_json()

    def to_json(self) -> dict[str, Any]:
        """The result as plain data: the same run gives the same bytes.

        The timeline stands in it up to 10,000 tasks; a longer one is written by ``--out`` only, and the
        field says so.
        """
        events = len(self.timeline)
        short = events <= TIMELINE_ROWS_IN_JSON
        return {
            "format": "offchip-result-1",
            "model": self.model,
            "system": self.system,
            "mapper": self.mapper,
            "summary": self.summary(),
            "phases": [
                {"name": p.name, "kind": p.kind, "start_s": p.start_s, "end_s": p.end_s, "tokens": p.tokens,
                 "flops": p.flops}
                for p in self.phases
            ],
            "top_operators": self.top_operators(20),
            "time_by_bound_s": self.time_by_bound(),
            "devices": {name: vars(use) for name, use in self.devices.items()},
            "links": {name: vars(use) for name, use in self.wires.items()},
            "memories": {name: _memory_json(use) for name, use in self.memories.items()},
            "energy_j": {**self.energy_j, "total": self.total_energy_j},
            "counters": {name: dict(figures) for name, figures in self.counters.items()},
            "timeline": {
                "events": events,
                "rows": self.timeline.rows() if short else None,
                "note": "" if short else "too long for this view; written as a table by --out DIR",
            },
            "warnings": list(self.warnings),
            "provenance": dict(self.provenance),
        }  # fmt: skip


def _memory_json(use: MemoryUse) -> dict[str, Any]:
    return {
        "technology": use.technology,
        "capacity_bytes": use.capacity_bytes,
        "usable_bytes": use.usable_bytes,
        "resident_bytes": use.resident_bytes,
        "peak_bytes": use.peak_bytes,
        "peak_time_s": use.peak_time_s,
        "live_at_peak": [
            {"tensor": tensor, "role": role, "bytes": size} for tensor, role, size in use.live_at_peak[:20]
        ],
        "live_at_peak_count": len(use.live_at_peak),
        "read_bytes": use.read_bytes,
        "written_bytes": use.written_bytes,
    }


def without_numbers(name: str) -> str:
    """An operator's name without layer, rank and micro-batch: what its copies have in common."""
    return _NUMBERS.sub("*", _RANK_OR_BATCH.sub("", name))
