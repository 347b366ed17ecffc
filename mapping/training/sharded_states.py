"""ZeRO: what n ranks with equal weights hold each, and what they send (Rajbhandari et al., arXiv:1910.02054).

Stage 1 divides the optimizer's state, stage 2 also gradients, stage 3 also weights. Per step and rank, in bytes of
weights W and gradients G over a ring: without ZeRO an all-reduce of G; stage 1 a reduce-scatter of G and, after
the update, an all-gather of W; stage 2 reduces each micro-batch's gradients at once, since nobody keeps them
whole; stage 3 gathers W for the forward and again for the backward pass of each micro-batch (section 7 of the
paper: 2, 2, 2 and 3 times the weights).

Gathering and reducing overlap with the passes that they serve: gradients with the backward pass, weights of stage
1 and 2 with the next forward pass, weights of stage 3 with the pass that reads them. What is not hidden counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ModelStates", "exposed_seconds"]


@dataclass(frozen=True, slots=True)
class ModelStates:
    """Bytes of a rank's weights, gradients, optimizer state; of the largest layer; how many parameters are trained."""

    weights: int
    gradients: int
    optimizer_state: int
    layer_weights: int = 0
    layer_gradients: int = 0
    trained_parameters: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer_state


def exposed_seconds(
    states: ModelStates,
    stage: int,
    micro_batches: int,
    forward_s: float,
    backward_s: float,
    seconds: Callable[[str, int], float],
) -> float:
    """Seconds of communication per step that no computation hides.

    ``forward_s`` and ``backward_s`` (recomputation included) are of one micro-batch; ``seconds`` prices a
    collective by kind and bytes.
    """
    reduce, gather = seconds("reduce_scatter", states.gradients), seconds("all_gather", states.weights)
    if stage == 0:
        return max(0.0, seconds("all_reduce", states.gradients) - backward_s)
    if stage == 1:
        return max(0.0, reduce - backward_s) + max(0.0, gather - forward_s)
    if stage == 2:
        return micro_batches * max(0.0, reduce - backward_s) + max(0.0, gather - forward_s)
    return micro_batches * (max(0.0, gather - forward_s) + max(0.0, gather + reduce - backward_s))
