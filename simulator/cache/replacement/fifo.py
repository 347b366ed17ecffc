"""FIFO: the object that entered first leaves first."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import ADMITTED, HIT, PASSED, first_list, gone, oldest, put, take
from simulator.cache.replacement.policy import Policy

__all__ = ["FIFO"]


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        if first_list(s, node):
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.weight[1] + size > capacity:
                last = oldest(s, 1)
                take(s, last)
                gone(out, last, i)
            s.size[node] = size
            put(s, 1, node)
            out.what[i] = ADMITTED


FIFO: Final = Policy("fifo", "the object that entered first leaves first", "folklore", _run)
