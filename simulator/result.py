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
from hw_configs.units import format_quantity

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

_BYTES = {
    "vector_bytes": "vectors to the units",
    "result_bytes": "results to the host",
    "read_bytes": "plain reads",
    "written_bytes": "plain writes",
}
_ENERGY = {
    "activate": "rows opened and closed",
    "column": "columns read for the units",
    "mac": "the units",
    "buffer": "buffers",
    "access": "plain accesses inside",
    "io": "pins",
}


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
    host_s: float = 0.0
    """What an engine's host took for the step; 0 without an engine."""
    host_added_s: float = 0.0
    """What of it lies in the phase's time, because it did not pass beside the devices."""

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
        if self.provenance.get("host"):
            summary["host_s"] = sum(p.host_s for p in self.phases)
            summary["host_added_s"] = sum(p.host_added_s for p in self.phases)
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
        return _tables(self)

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
                 "flops": p.flops, **({"host_s": p.host_s, "host_added_s": p.host_added_s} if p.host_s else {})}
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


def _tables(result: Result) -> tuple[Table, ...]:
    """The run as tables, the figures asked first at the top."""
    title = f"{result.model} on {result.system}, plan by {result.mapper or 'the file given'}"
    operators = ("operator", "kind", "calls", "time", "share", "bound by")
    memories = ("memory", "used", "usable", "nominal", "share", "holds most")
    tables = [
        Table(title, ("", ""), tuple(_headline(result))),
        Table("\nTop operators", operators, tuple(_operator_rows(result))),
        Table(
            "\nMemory at its fullest", memories, tuple(_memory_row(use) for use in result.memories.values())
        ),
    ]
    if result.wires:
        tables.append(Table("\nLinks", ("link", "forward", "backward", "busy"), tuple(_wire_rows(result))))
    for memory, figures in result.counters.items():
        tables.append(Table(f"\nCounted in {memory}", ("", ""), tuple(_counter_rows(figures))))
    tables.append(Table("\nEnergy", ("component", "energy", "share"), tuple(_energy_rows(result))))
    return tuple(tables)


def _time(seconds: float) -> str:
    return format_quantity(seconds, "time")


def _size(value: float) -> str:
    return format_quantity(value, "size")


def _energy(joules: float) -> str:
    return format_quantity(joules, "energy")


def _headline(result: Result) -> list[tuple[str, str]]:
    summary = result.summary()
    rows = [("total time", _time(summary["makespan_s"]))]
    if "time_to_first_token_s" in summary:
        rows.append(("time to first token", _time(summary["time_to_first_token_s"])))
    if "time_per_token_s" in summary:
        rate = f"{summary['decode_tokens_per_s']:.4g} tokens/s"
        rows.append(("time per token", f"{_time(summary['time_per_token_s'])} ({rate})"))
    rows.append(("bottleneck", summary["bottleneck"]))
    rows.append(("work", f"{summary['flops']:.4g} FLOP"))
    for use in result.devices.values():
        share = f"{use.utilisation:.1%} busy, {use.compute_utilisation:.1%} of peak FLOPs"
        rows.append((use.device, share))
    energy = _energy(summary["energy_j"])
    if "energy_per_token_j" in summary:
        energy += f" ({_energy(summary['energy_per_token_j'])}/token)"
    rows.append(("energy", energy))
    levels = result.provenance
    host = levels.get("host")
    software = (
        "device time, no host software" if not host else f"device time and the host of {host['engine']}"
    )
    rows.append(
        ("simulated with", f"{levels['cost_model']} costs, {levels['fidelity']} fidelity; {software}")
    )
    if host:
        rows.append(("host time", _host_row(summary, host, len(result.phases))))
    return rows


def _host_row(summary: Mapping[str, Any], host: Mapping[str, Any], steps: int) -> str:
    """How much the engine's host takes a step, what of it shows, and where the figure comes from."""
    total, added = (_time(summary[name] / max(steps, 1)) for name in ("host_s", "host_added_s"))
    origin = host["source"] if "source" in host else f"assumption: {host['assumption']}"
    shows = "" if added == total else f", {added} of it not beside the devices"
    return f"{total} a step{shows}; {host['engine']}, versions {host['versions']} ({origin})"


def _operator_rows(result: Result) -> list[tuple[str, ...]]:
    entries = result.top_operators(10)
    line = result.timeline
    whole = sum(end - start for start, end in zip(line.start, line.end, strict=True)) or 1.0
    return [
        (_clipped(e["operator"]), e["kind"], str(e["calls"]), _time(e["seconds"]), f"{e['seconds'] / whole:.1%}",
         e["bound_by"])
        for e in entries
    ]  # fmt: skip


def _clipped(name: str) -> str:
    """A name as a table shows it: those of recorded kernels run over lines."""
    return name if len(name) <= 60 else name[:57] + "..."


def _memory_row(use: MemoryUse) -> tuple[str, ...]:
    roles: dict[str, int] = {}
    for _, role, size in use.live_at_peak:
        roles[role] = roles.get(role, 0) + size
    most = sorted(roles.items(), key=lambda item: -item[1])[:3]
    holds = ", ".join(f"{role} {_size(size)}" for role, size in most)
    share = f"{use.peak_bytes / use.usable_bytes:.1%}"
    return (
        use.memory,
        _size(use.peak_bytes),
        _size(use.usable_bytes),
        _size(use.capacity_bytes),
        share,
        holds,
    )


def _wire_rows(result: Result) -> list[tuple[str, ...]]:
    return [
        (use.wire, _size(use.bytes_forward), _size(use.bytes_backward), f"{use.utilisation:.1%}")
        for use in result.wires.values()
    ]


def _energy_rows(result: Result) -> list[tuple[str, str, str]]:
    total = result.total_energy_j or 1.0
    ranked = sorted(result.energy_j.items(), key=lambda item: -item[1])
    rows = [(name, _energy(joules), f"{joules / total:.1%}") for name, joules in ranked if joules > 0]
    if len(rows) > 12:
        rest = sum(joules for _, joules in ranked[12:])
        rows = [*rows[:12], (f"{len(rows) - 12} more", _energy(rest), f"{rest / total:.1%}")]
    return rows


def _counter_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """Rows of name and figure for one memory's counters; what is zero is left out."""
    rows: list[tuple[str, str]] = []
    accesses = figures.get("column_accesses", 0.0)
    if accesses:
        rate = 1 - figures.get("row_misses", 0.0) / accesses
        rows.append(("row hits", f"{rate:.2%} of {accesses:.4g} column accesses"))
    if figures.get("refreshes"):
        rows.append(("refreshes", f"{figures['refreshes']:.4g}"))
    if figures.get("macs"):
        rows.append(("multiply-accumulates in the banks", f"{figures['macs']:.4g}"))
    rows += [
        (text, format_quantity(figures[name], "size")) for name, text in _BYTES.items() if figures.get(name)
    ]
    parts = {
        name[:-2]: v for name, v in figures.items() if name.endswith("_s") and name != "host_busy_s" and v > 0
    }
    whole = sum(parts.values()) or 1.0
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        rows.append(
            (
                f"time in {name.replace('_', ' ')}",
                f"{format_quantity(seconds, 'time')} ({seconds / whole:.1%})",
            )
        )
    joules = {name[:-2]: v for name, v in figures.items() if name.endswith("_j") and v > 0}
    for name, energy in sorted(joules.items(), key=lambda item: -item[1]):
        rows.append((f"energy of {_ENERGY.get(name, name)}", format_quantity(energy, "energy")))
    return rows
