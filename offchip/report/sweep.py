"""The data of a sweep's page, read from the folder that ``offchip sweep --out`` wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from offchip.sweep.analysis import Sweep
from offchip.sweep.sensitivity import effects
from offchip.sweep.store import Row, open_store

__all__ = ["MAX_CELLS", "MAX_POINTS", "sweep_page"]

MAX_POINTS: Final = 100_000
MAX_CELLS: Final = 2_000_000
"""Figures times points that a page carries; objectives always have their place, other figures may not."""

_ENDINGS: Final = (
    ("_per_s", None), ("_per_usd", None), ("_per_j", None), ("_s", "time"), ("_j", "energy"), ("bytes", "size"),
    ("_w", "power"), ("_m2", "area"), ("_usd", "price"),
)  # fmt: skip


def sweep_page(folder: Path) -> dict[str, Any]:
    """Everything the page of a sweep shows, as plain data; ``InputError`` when the folder holds none."""
    with open_store(folder) as store:
        sweep = Sweep.read(store)
        counts = store.counts()
    meta = sweep.meta
    rows = sweep.rows[:MAX_POINTS]
    place = {row.number: index for index, row in enumerate(rows)}
    front = [place[row.number] for row in sweep.front() if row.number in place]
    names = [entry["name"] for entry in meta["parameters"]]
    stages = meta["stages"]
    stage = rows[0].stage if rows else 0
    statuses, status = _codes([row.status for row in rows])
    reasons, reason = _codes([row.reason for row in rows])
    return {
        "kind": "sweep",
        "title": f"Sweep {meta['name']}",
        "stages": stages,
        "stage": stage,
        "expected": meta["expected"],
        "rows": len(sweep.rows),
        "shown": len(rows),
        "counts": [[stages[at], state, count] for (at, state), count in counts.items()],
        "number": [row.number for row in rows],
        "statuses": statuses,
        "status": status,
        "reasons": reasons,
        "reason": reason,
        "parameters": [_parameter(entry, rows) for entry in meta["parameters"]],
        "figures": _figures(sweep, rows),
        "objectives": meta["objectives"],
        "front": front,
        "best": sweep.best(),
        "refused": [[text, count] for text, count in sweep.reasons().items()],
        "effects": {
            objective.name: [
                {"parameter": e.parameter, "share": e.share, "span": e.span, "relative": e.relative}
                for e in effects(rows, names, objective.name)
            ]
            for objective in sweep.objectives
        },
        "provenance": {key: meta[key] for key in _PROVENANCE if key in meta},
    }


_PROVENANCE: Final = ("name", "file", "space_digest", "code", "seed", "stages", "space")


def _parameter(entry: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """A column of one parameter: numbers as they are, choices as places in a list of names."""
    values = [row.parameters.get(entry["name"]) for row in rows]
    numbers = entry["kind"] == "number" and all(_is_number(value) for value in values if value is not None)
    data: dict[str, Any] = {
        "name": entry["name"],
        "path": entry["path"],
        "dimension": entry["dimension"],
        "number": numbers,
    }
    if numbers:
        data["values"] = values
    else:
        data["names"], data["values"] = _codes(["–" if value is None else str(value) for value in values])
    return data


def _figures(sweep: Sweep, rows: Sequence[Row]) -> list[dict[str, Any]]:
    found: dict[str, None] = dict.fromkeys(objective.name for objective in sweep.objectives)
    for row in rows:
        found.update(dict.fromkeys(name for name, value in row.figures.items() if _is_number(value)))
    room = max(MAX_CELLS // max(len(rows), 1), len(sweep.objectives))
    return [
        {
            "name": name,
            "dimension": _dimension(name),
            "values": [
                float(f"{value:.7g}") if _is_number(value := row.figures.get(name)) else None for row in rows
            ],
        }
        for name in list(found)[:room]
    ]


def _dimension(name: str) -> str | None:
    """What a figure is measured in, by the ending of its name; None for counts, shares and expressions."""
    if not name.replace(".", "_").isidentifier():
        return None
    return next((dimension for ending, dimension in _ENDINGS if name.endswith(ending)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _codes(values: Sequence[str]) -> tuple[list[str], list[int]]:
    names: dict[str, int] = {}
    codes = [names.setdefault(value, len(names)) for value in values]
    return list(names), codes
