"""The order of a rank that carries micro-batches in two directions at once, as DualPipe and DualPipeV do.

Source: DeepSeek-V3, arXiv:2412.19437, section 3.2.1, and the eight steps of its public description. A forward and a
backward that overlap stand one after the other and are named as a pair; the rank where both directions meet does not
overlap its first pair.
"""

from __future__ import annotations

from mapping.training.schedules.action import Action
from mapping.training.schedules.passes import Passes

__all__ = ["two_ways_order"]


def two_ways_order(
    ranks: int, rank: int, micro_batches: int, near: int, far: int
) -> tuple[tuple[Action, ...], frozenset[int]]:
    """``near`` and ``far``: the rank's stages, of which micro-batches reach the near one first.

    ``ranks``: how many ranks a micro-batch passes before it turns to, or meets, the far stages; ``rank`` counts from
    where it enters; ``micro_batches`` of each stage, at least twice the ranks. The order, and the places of forward
    passes that overlap with the backward pass behind them.
    """
    after = ranks - 1 - rank
    passes = Passes()
    for _ in range(2 * after):
        passes.add(near, "F")
    for _ in range(rank + 1):
        passes.add(near, "F")
        passes.add(far, "F")
    for _ in range(after):
        passes.add_input_half(far)
        passes.pay()
        passes.add(far, "F")
    for turn in range(micro_batches - 2 * ranks + rank + 1):
        if turn or after:
            passes.add_pair(near, far)
        else:
            passes.add(near, "F")
            passes.add(far, "B")
        passes.add_pair(far, near)
    for _ in range(after):
        passes.add(far, "B")
        passes.add_pair(far, near)
    _drain(passes, rank + 1, near, far)
    for _ in range(after):
        passes.pay()
        passes.add_input_half(near)
    for _ in range(rank + 1):
        passes.pay()
    return tuple(passes.order), frozenset(passes.pairs)


def _drain(passes: Passes, rounds: int, near: int, far: int) -> None:
    """Backwards of both stages in turn: whole ones first, input halves for the second half of them."""
    for number in range(2 * rounds):
        stage = near if number % 2 else far
        if number < rounds:
            passes.add(stage, "B")
        else:
            passes.add_input_half(stage)
