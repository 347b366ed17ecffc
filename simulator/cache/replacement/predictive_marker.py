"""PredictiveMarker: marking that trusts predicted next uses until a chain of evictions grows longer than H_k.

A phase begins with no mark. An object that the phase did not begin with starts a chain: the unmarked object that is
predicted to be used last leaves. When an object that left in this phase comes back, its chain goes on: the same rule
as long as the chain has at most H_k (1 + 1/2 + ... + 1/k) members, then any unmarked object.
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
from simulator.cache.replacement.predicted import DistanceSettings
from simulator.cache.replacement.ranking import HELD, rank_add, rank_drop

__all__ = ["PREDICTIVE_MARKER"]

MARKED, UNMARKED = 1, 2
PHASE: Final = 3
"""Place in ``Nodes.number`` of the phase's number; ``Nodes.times`` holds in which phase an object left."""


@compiled
def _new_phase(s: Any) -> None:
    node = s.link[MARKED, NEWER]
    harmonic, members = 0.0, 0
    while node != MARKED:
        after = s.link[node, NEWER]
        rank_add(s, node, s.key[node], 0)
        s.link[node, PLACE] = UNMARKED
        members += 1
        harmonic += 1.0 / members
        node = after
    s.link[MARKED, NEWER] = s.link[MARKED, OLDER] = MARKED
    s.weight[MARKED] = 0
    s.number[PHASE] += 1
    s.real[0] = harmonic


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        place = first_list(s, node)
        if place:
            if place == UNMARKED:
                rank_drop(s, s.at[node])
                put(s, MARKED, node)
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
            continue
        else:
            while s.number[USED] + size > capacity:
                if s.number[HELD] == 0:
                    _new_phase(s)
                came_back = s.times[node, 0] == s.number[PHASE]
                chain = s.link[node, COUNT] if came_back else 0
                trusted = not came_back or chain <= s.real[0]
                last = rank_drop(s, 0 if trusted else draw(s, s.number[HELD]))
                s.link[last, COUNT] = chain + 1
                s.times[last, 0] = s.number[PHASE]
                s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                gone(out, last, i)
            s.size[node] = size
            s.number[USED] += size
            put(s, MARKED, node)
            out.what[i] = ADMITTED
        s.key[node] = -float(hints[i])


PREDICTIVE_MARKER: Final = Policy(
    "predictive-marker", "marking that drops what is predicted to be used last, unless that goes wrong too often",
    "Lykouris, Vassilvitskii, arXiv:1802.05399", _run, settings=DistanceSettings, hint="next use", ranked=True, times=1,
    random=True,
)  # fmt: skip
