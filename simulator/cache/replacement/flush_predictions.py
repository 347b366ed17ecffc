"""Paging with discard predictions, without chance: what may go goes; where nothing may, the whole cache is emptied.

The deterministic rule for discard bits of Antoniadis et al. (arXiv:2210.02775): with right bits there is always
something that may go, and a bit wrongly 'keep' costs at most one emptying. Here what may go stays until its room is
wanted, the one used longest ago first.
"""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    PASSED,
    USED,
    first_list,
    gone,
    is_empty,
    oldest,
    put,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.predicted import PredictionSettings

__all__ = ["FLUSH_PREDICTIONS"]

KEEP: Final = 1
SAFE: Final = 2


@compiled
def _leave(s: Any, out: Any, head: int, i: int) -> None:
    """The oldest of a list leaves."""
    last = oldest(s, head)
    take(s, last)
    s.number[USED] -= s.size[last]
    gone(out, last, i)


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        held = first_list(s, node) != 0
        if held:
            take(s, node)
        elif size > capacity:
            out.what[i] = PASSED
            continue
        else:
            while s.number[USED] + size > capacity and not is_empty(s, SAFE):
                _leave(s, out, SAFE, i)
            if s.number[USED] + size > capacity:
                while not is_empty(s, KEEP):
                    _leave(s, out, KEEP, i)
            s.size[node] = size
            s.number[USED] += size
        put(s, SAFE if hints[i] else KEEP, node)
        out.what[i] = HIT if held else ADMITTED


FLUSH_PREDICTIONS: Final = Policy(
    "flush-predictions", "one predicted bit, 'safe to drop': such objects go first; without one everything goes",
    "Antoniadis et al., arXiv:2210.02775 (flush when all bits are 0), as recalled", _run,
    settings=PredictionSettings, hint="discard bit",
)  # fmt: skip
