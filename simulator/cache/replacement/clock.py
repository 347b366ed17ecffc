"""CLOCK: FIFO in which an object that was used gets another turn for each use that its counter holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import Settings, count
from simulator.cache.replacement.nodes import (
    ADMITTED,
    COUNT,
    HIT,
    PASSED,
    Nodes,
    first_list,
    gone,
    oldest,
    put,
    renew,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy

__all__ = ["CLOCK", "ClockSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSettings(Settings):
    """Of CLOCK."""

    bits: int = count(1, "width of the counter of uses", least=1, most=30, unit="bit")


def _start(s: Nodes, settings: Any) -> None:
    s.number[3] = 2**settings.bits - 1


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity, most = s.number[0], s.number[3]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        if first_list(s, node):
            if s.link[node, COUNT] < most:
                s.link[node, COUNT] += 1
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.weight[1] + size > capacity:
                last = oldest(s, 1)
                while s.link[last, COUNT] > 0:
                    s.link[last, COUNT] -= 1
                    renew(s, 1, last)
                    last = oldest(s, 1)
                take(s, last)
                gone(out, last, i)
            s.size[node] = size
            s.link[node, COUNT] = 0
            put(s, 1, node)
            out.what[i] = ADMITTED


CLOCK: Final = Policy(
    "clock",
    "FIFO with another turn for what was used",
    "Corbato, MIT MAC-M-384, 1968",
    _run,
    _start,
    ClockSettings,
)
