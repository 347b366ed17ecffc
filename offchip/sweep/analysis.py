"""What a finished (or growing) sweep says: its best points, its Pareto front, why points were refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hw_configs.problems import bad_input, nearest
from offchip.sweep.expression import parse_expression
from offchip.sweep.pareto import front
from offchip.sweep.run import objective_table
from offchip.sweep.space import Objective
from offchip.sweep.store import Row, Store

__all__ = ["Sweep", "compared"]

MAX_REASONS = 10


@dataclass(frozen=True)
class Sweep:
    """A sweep as read from its store: rows of the highest fidelity each point has reached."""

    meta: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    rows: tuple[Row, ...]

    @staticmethod
    def read(store: Store, stage: int | None = None) -> Sweep:
        """The rows of one stage, or of the last stage that has any."""
        meta = store.meta()
        if not meta:
            raise bad_input("the sweep in this folder has not begun", file=str(store.path))
        objectives = tuple(
            Objective(o["name"], parse_expression(o["expression"]), 1 if o["direction"] == "minimise" else -1)
            for o in meta["objectives"]
        )
        if stage is None:
            stage = max((at for at, _ in store.counts()), default=0)
        return Sweep(meta, objectives, tuple(store.rows(stage)))

    def best(self) -> list[dict[str, Any]]:
        """The best point of each objective; the first of equals."""
        rows, table = objective_table(self.objectives, self.rows)
        found = []
        for index, objective in enumerate(self.objectives if rows else ()):
            row = rows[int(table[:, index].argmin())]
            found.append(
                {"objective": objective.name, "direction": objective.direction,
                 "value": row.figures[objective.name], "number": row.number, "parameters": dict(row.parameters)}
            )  # fmt: skip
        return found

    def front(self) -> list[Row]:
        """The rows that no other beats in every objective, in the order of the first."""
        rows, table = objective_table(self.objectives, self.rows)
        if not rows or not self.objectives:
            return []
        on = [i for i, keep in enumerate(front(table)) if keep]
        return [rows[i] for i in sorted(on, key=lambda i: (*table[i], rows[i].number))]

    def ranked(self, figure: str, count: int, largest: bool = False) -> list[Row]:
        """The points with the least (or most) of a figure."""
        rows = [
            row
            for row in self.rows
            if row.status == "ok" and isinstance(row.figures.get(figure), int | float)
        ]
        if not rows:
            known = sorted({name for row in self.rows for name in row.figures})
            raise bad_input(
                f"no point has a figure {figure!r}", path="--by", suggestion=nearest(figure, known)
            )
        sign = -1 if largest else 1
        return sorted(rows, key=lambda row: (sign * row.figures[figure], row.number))[:count]

    def reasons(self) -> dict[str, int]:
        """Why points were refused or failed, most frequent first; figures in the words count as equal."""
        counts = Counter(
            f"{row.status}: {_figureless(row.reason)}" for row in self.rows if row.status != "ok"
        )
        return dict(counts.most_common(MAX_REASONS))


def _figureless(reason: str) -> str:
    """The first clause of a reason with its figures replaced, so that equal causes read alike."""
    return re.sub(r"(?<![\w.-])[-+]?\d[\d.]*(?:e[-+]?\d+)?(?![\w-])", "#", reason.split(";")[0])[:160]


def compared(one: Sweep, other: Sweep) -> dict[str, Any]:
    """Two sweeps of the same objectives: their best, their equal points, and their common front."""
    shared = [o for o in one.objectives if o.name in {p.name for p in other.objectives}]
    if not shared:
        raise bad_input("the two sweeps have no objective in common")
    rows, table = objective_table(shared, one.rows)
    more_rows, more = objective_table(shared, other.rows)
    both = np.concatenate((table, more))
    on = front(both) if len(both) else np.zeros(0, dtype=bool)
    place = {json.dumps(dict(row.parameters), sort_keys=True): i for i, row in enumerate(rows)}
    pairs = [
        (place[key], j)
        for j, row in enumerate(more_rows)
        if (key := json.dumps(dict(row.parameters), sort_keys=True)) in place
    ]
    entries = []
    for index, objective in enumerate(shared):
        ratios = [more[j, index] / table[i, index] for i, j in pairs if table[i, index]]
        entries.append(
            {
                "objective": objective.name,
                "one": objective.sign * float(table[:, index].min()) if len(table) else None,
                "other": objective.sign * float(more[:, index].min()) if len(more) else None,
                "median_ratio": float(np.median(ratios)) if ratios else None,
            }
        )
    return {
        "objectives": entries,
        "equal_parameters": len(pairs),
        "front_one": int(on[: len(table)].sum()),
        "front_other": int(on[len(table) :].sum()),
    }
