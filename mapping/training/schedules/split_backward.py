"""1F1B with the backward pass in halves: weight halves wait until the rank's memory is full, then fill its gaps.

Source: Zero Bubble Pipeline Parallelism, arXiv:2401.10241, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from mapping.training.schedules.action import Action, PipelineSchedule, looped

__all__ = ["split_backward"]


def split_backward(name: str, micro_batches: int, warm_up: Sequence[int], most_live: int) -> PipelineSchedule:
    """Rank ``r`` begins with ``warm_up[r]`` forwards and never holds over ``most_live`` micro-batches.

    A rank lags behind with its weight halves for as long as it holds fewer; when its forwards are done, one weight
    half follows each input half, and those left come last.
    """
    orders = tuple(_order(rank, micro_batches, first, most_live) for rank, first in enumerate(warm_up))
    return PipelineSchedule(name, micro_batches, looped(len(warm_up), 1), orders)


def _order(rank: int, micro_batches: int, warm_up: int, most_live: int) -> tuple[Action, ...]:
    forward = min(warm_up, micro_batches)
    order = [Action(rank, "F", m) for m in range(forward)]
    weight = 0
    for backward in range(micro_batches):
        order.append(Action(rank, "I", backward))
        left = forward < micro_batches
        if not left or forward - weight == most_live:
            order.append(Action(rank, "W", weight))
            weight += 1
        if left:
            order.append(Action(rank, "F", forward))
            forward += 1
    order += [Action(rank, "W", m) for m in range(weight, micro_batches)]
    return tuple(order)
