"""What a simulation shows to a person: headline, operators, memories, links, counters, energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hw_configs.shown import Table
from hw_configs.units import format_quantity

if TYPE_CHECKING:
    from simulator.result import MemoryUse, Result

__all__ = ["simulation_tables"]

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


def simulation_tables(result: Result) -> tuple[Table, ...]:
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
    level = f"{levels['cost_model']} costs, {levels['fidelity']} fidelity; device time, no host software"
    rows.append(("simulated with", level))
    return rows


def _operator_rows(result: Result) -> list[tuple[str, ...]]:
    entries = result.top_operators(10)
    line = result.timeline
    whole = sum(end - start for start, end in zip(line.start, line.end, strict=True)) or 1.0
    return [
        (e["operator"], e["kind"], str(e["calls"]), _time(e["seconds"]), f"{e['seconds'] / whole:.1%}",
         e["bound_by"])
        for e in entries
    ]  # fmt: skip


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
