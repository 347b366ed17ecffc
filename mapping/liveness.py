"""How many bytes are live when operators run one after another in a given order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workloads.graph import PERSISTENT_ROLES, Graph, Operator

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """Bytes that an order needs: those of persistent tensors, and the most of anything else at once."""

    persistent_bytes: int
    transient_peak_bytes: int
    peak_operator: str
    live_at_peak: tuple[str, ...]
    """Transient tensors that are live at the peak."""

    @property
    def bytes(self) -> int:
        """What a memory that holds everything needs."""
        return self.persistent_bytes + self.transient_peak_bytes


def footprint(graph: Graph, order: Iterable[Operator] | None = None) -> Footprint:
    """The footprint of a graph in an order (the program order by default).

    A tensor lives from the operator that makes it to its last reader; graph inputs from the start; graph
    outputs to the end.
    """
    operators = tuple(order) if order is not None else graph.operators
    last: dict[str, int] = {}
    for index, op in enumerate(operators):
        for name in (*op.inputs, *op.updates, *op.outputs):
            last[name] = index
    for name in graph.outputs:
        last[name] = len(operators)
    tensors = graph.tensors
    persistent = sum(t.size_bytes for t in tensors.values() if t.role in PERSISTENT_ROLES)
    made = graph.producer
    live = {
        name: t.size_bytes
        for name, t in tensors.items()
        if t.role not in PERSISTENT_ROLES and name not in made
    }
    now = sum(live.values())
    peak, where, at_peak = now, "", tuple(live)
    for index, op in enumerate(operators):
        for name in op.outputs:
            if name not in live:
                live[name] = tensors[name].size_bytes
                now += live[name]
        if now > peak:
            peak, where, at_peak = now, op.name, tuple(live)
        for name in {*op.inputs, *op.updates, *op.outputs}:
            if last[name] == index and name in live:
                now -= live.pop(name)
    return Footprint(persistent, peak, where, at_peak)
