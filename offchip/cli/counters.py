"""What devices counted beside time and energy, as tables a person reads: row hits, bytes over pins, parts of time."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["counter_rows"]

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


def counter_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """Rows of name and figure for one memory's counters; what is zero is left out."""
    from hw_configs.units import format_quantity

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
