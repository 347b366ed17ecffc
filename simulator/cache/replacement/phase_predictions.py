"""Paging with phase predictions: of what is unmarked, first what the next phase is said to do without.

Mark&Predict of Antoniadis et al. (arXiv:2210.02775): marking, whose choice among unmarked pages is drawn from those
with the bit "not in the next phase" as long as there are such.
"""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import (
    ADMITTED,
    COUNT,
    HIT,
    NEWER,
    OLDER,
    PASSED,
    PLACE,
    USED,
    draw,
    first_list,
    gone,
    put,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.predicted import PredictionSettings

__all__ = ["PHASE_PREDICTIONS"]

MARKED, WITHOUT, WITH = 1, 2, 3
"""Places: marked; unmarked and said to be wanted in this phase or not (columns 0 and 1 of ``Nodes.times``)."""
COUNTS: Final = 2
"""Place in ``Nodes.number`` of how many stand in either column."""


@compiled
def _drop(s: Any, column: int, at: int) -> Any:
    node = s.times[at, column]
    held = s.number[COUNTS + column] - 1
    s.number[COUNTS + column] = held
    last = s.times[held, column]
    s.times[at, column] = last
    s.at[last] = at
    return node


@compiled
def _unmark_all(s: Any) -> None:
    node = s.link[MARKED, NEWER]
    while node != MARKED:
        column = 0 if s.link[node, COUNT] else 1
        held = s.number[COUNTS + column]
        s.times[held, column] = node
        s.at[node] = held
        s.number[COUNTS + column] = held + 1
        s.link[node, PLACE] = WITHOUT + column
        node = s.link[node, NEWER]
    s.link[MARKED, NEWER] = s.link[MARKED, OLDER] = MARKED
    s.weight[MARKED] = 0


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        place = first_list(s, node)
        if place:
            if place != MARKED:
                _drop(s, place - WITHOUT, s.at[node])
                put(s, MARKED, node)
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
            continue
        else:
            while s.number[USED] + size > capacity:
                if s.number[COUNTS] + s.number[COUNTS + 1] == 0:
                    _unmark_all(s)
                column = 0 if s.number[COUNTS] else 1
                last = _drop(s, column, draw(s, s.number[COUNTS + column]))
                s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                gone(out, last, i)
            s.size[node] = size
            s.number[USED] += size
            put(s, MARKED, node)
            out.what[i] = ADMITTED
        s.link[node, COUNT] = hints[i]


PHASE_PREDICTIONS: Final = Policy(
    "phase-predictions", "one predicted bit, 'not in the next phase': marking that drops such objects first",
    "Antoniadis et al., arXiv:2210.02775 (Mark&Predict), as recalled and as implemented by others", _run,
    settings=PredictionSettings, hint="phase bit", ranked=True, times=2, random=True,
)  # fmt: skip
