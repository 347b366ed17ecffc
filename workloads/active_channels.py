"""Products whose inputs are mostly zero: channels below a threshold are skipped, and their part of the weight not read.

With a threshold on its input, a product of one row needs the weights of the channels that are left. Rows choose for
themselves: several at once need the channels that any of them keeps. A sparse kernel reads a channel's weights as one
run, so the weight is stored by input channel. Which channels stay is data; how many is an input here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hw_configs.problems import bad_input
from workloads.graph import Graph, Operator, Role, make_operator
from workloads.operators import Product

__all__ = ["read_share", "with_active_channels"]


def read_share(kept: float, rows: int) -> float:
    """Share of the channels that some of so many rows keeps, each choosing evenly and for itself.

    >>> read_share(0.5, 1), read_share(0.5, 2)
    (0.5, 0.75)
    """
    return 1.0 - (1.0 - kept) ** rows


def with_active_channels(graph: Graph, kept: float, chosen: Callable[[Operator], bool]) -> Graph:
    """The graph with ``chosen`` products doing a share ``kept`` of their work, on weights read in part.

    Raises ``InputError`` for a share beyond 0 to 1.
    """
    if not 0 < kept <= 1:
        raise bad_input(f"found {kept:g}; expected above 0 up to 1", path="kept")
    return replace(
        graph,
        operators=tuple(
            _sparse(o, graph, kept) if _fits(o, graph) and chosen(o) else o for o in graph.operators
        ),
    )


def _fits(operator: Operator, graph: Graph) -> bool:
    return isinstance(operator.work, Product) and any(
        graph.tensors[n].role is Role.WEIGHT for n in operator.inputs
    )


def _sparse(operator: Operator, graph: Graph, kept: float) -> Operator:
    work = operator.work
    assert isinstance(work, Product)
    share = read_share(kept, work.m)
    weight = next(n for n in operator.inputs if graph.tensors[n].role is Role.WEIGHT)
    elements = round(share * work.n * work.k)
    stored = graph.tensors[weight].size_bytes * elements / (work.n * work.k)
    return make_operator(
        operator.name, replace(work, share=work.share * kept, weight_bytes=stored), operator.inputs, operator.outputs,
        graph.tensors, touched={weight: elements}, dtype=operator.dtype, place=operator.place, source=operator.source,
    )  # fmt: skip
