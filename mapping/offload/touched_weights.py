"""Of a weight that is streamed, only what its operator touches has to come, and only once that is known.

A lookup touches the rows that it returns, a product per expert the weights that some token reaches. Which ones those
are stands in the indices that the operator reads: the ids of tokens, there from the start, or the router's choice,
known when it has chosen.
"""

from __future__ import annotations

from simulator.system.bound_plan import read_bytes
from workloads.graph import Graph, Operator

__all__ = ["brought_bytes", "chosen_by", "touched_bytes"]


def brought_bytes(graph: Graph, operator: Operator, weight: str) -> int:
    """Bytes of a weight that its operator needs: at least one, so that there is something to bring."""
    size = graph.tensors[weight].size_bytes
    return max(min(size, 1), read_bytes(operator, weight, size))


def touched_bytes(graph: Graph, operator: Operator, weight: str) -> int:
    """The field of that name of a transfer: 0 where all of the weight comes."""
    brought = brought_bytes(graph, operator, weight)
    return brought if brought < graph.tensors[weight].size_bytes else 0


def chosen_by(graph: Graph, operator: Operator) -> tuple[str, ...]:
    """The operators that make the indices by which an operator picks parts of its weights."""
    indices = (name for name in operator.inputs if graph.tensors[name].dtype in ("int32", "int64"))
    return tuple(dict.fromkeys(graph.producer[name] for name in indices if name in graph.producer))
