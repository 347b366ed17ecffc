"""How many bytes are live when operators run one after another in a given order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    peak, where, at_peak = now, "", -1
    for index, op in enumerate(operators):
        for name in op.outputs:
            if name not in live:
                live[name] = tensors[name].size_bytes
                now += live[name]
        if now > peak:
            peak, where, at_peak = now, op.name, index
        for name in {*op.inputs, *op.updates, *op.outputs}:
            if last[name] == index and name in live:
                now -= live.pop(name)
    return Footprint(persistent, peak, where, _live_at(graph, operators, last, at_peak))


def _live_at(
    graph: Graph, operators: tuple[Operator, ...], last: Mapping[str, int], index: int
) -> tuple[str, ...]:
    """Transient tensors that are live while the operator at ``index`` runs; before the first at -1."""
    born = dict.fromkeys((name for name in graph.tensors if name not in graph.producer), -1)
    for place, op in enumerate(operators):
        for name in op.outputs:
            born.setdefault(name, place)
    return tuple(
        name
        for name, tensor in graph.tensors.items()
        if tensor.role not in PERSISTENT_ROLES
        and name in born
        and born[name] <= index <= last.get(name, len(operators))
    )
