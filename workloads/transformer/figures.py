"""What a language model keeps in memory, whatever the prompt: cache per token, state, active weights.

The figures come from the tensors of decode steps at three capacities of the caches, so they hold for every kind of
layer: what still grows beyond every window is the cache per token; what has its size from the first token on is the
state of a sequence; what stops growing in between belongs to layers with a window (or chunks).
"""

from __future__ import annotations

from math import prod
from typing import Final

from workloads.graph import Graph, Role
from workloads.operators import GroupedProduct
from workloads.transformer.formats import Precision
from workloads.transformer.shape import Decoder
from workloads.transformer.step import Step
from workloads.workload import MemoryFigures

__all__ = ["memory_figures"]

BEYOND: Final = 2**32
"""A context longer than any window that a config may have."""
FURTHER: Final = 2**16
"""Tokens more; a whole number of blocks for caches that keep one entry for several tokens."""


def memory_figures(decoder: Decoder, precision: Precision, context: int) -> MemoryFigures:
    """Bytes of one sequence's caches with window layers at ``context`` tokens, and parameters active per token."""
    first, there, beyond, further = (
        _step(decoder, precision, capacity) for capacity in (1, context, BEYOND, BEYOND + FURTHER)
    )
    sizes = [_caches(graph) for graph in (first, there, beyond, further)]
    least, held, full, more = sizes
    growing = {name for name in full if more[name] != full[name]}
    fixed = {name for name in full if name not in growing and full[name] == least[name]}
    return MemoryFigures(
        kv_bytes_per_token=sum(more[name] - full[name] for name in growing) / FURTHER,
        state_bytes=sum(full[name] for name in fixed),
        window_bytes=sum(held[name] for name in full if name not in growing and name not in fixed),
        context=context,
        active_parameters=_active(first),
    )


def _step(decoder: Decoder, precision: Precision, capacity: int) -> Graph:
    # The import is late because phases are built with these figures beside them.
    from workloads.transformer.phases import step_graph

    return step_graph(
        decoder.model_type, decoder, precision, Step(1, 1, capacity, capacity, decode=True), True
    )


def _caches(graph: Graph) -> dict[str, int]:
    return {t.name: t.size_bytes for t in graph.tensors.values() if t.role is Role.KV_CACHE}


def _active(graph: Graph) -> int:
    """Elements of all weights but the experts that a token does not go to."""
    share: dict[str, float] = {}
    for op in graph.operators:
        used = op.work.active / op.work.groups if isinstance(op.work, GroupedProduct) else 1.0
        for name in op.inputs:
            if graph.tensors[name].is_weight:
                share[name] = max(share.get(name, 0.0), used)
    return round(sum(prod(graph.tensors[name].shape) * used for name, used in share.items()))
