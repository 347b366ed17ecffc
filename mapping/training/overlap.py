"""What of sharded communication shows in a step when a framework runs it layer by layer beside the passes.

FSDP gathers a layer's weights while the layer before computes and reduces its gradients while the next one computes
(Zhao et al., PyTorch FSDP, arXiv:2304.11277, section 3.3); Megatron's buckets do the same with gradients in the last
micro-batch and weights in the first. The first layer's gather and the last one's reduction have nothing beside them.

A collective is a kernel: its channels take multiprocessors and its bytes memory, so that what computes beside it is
slower for as long. Measured on A100 and H100 training GPT and Llama models, :data:`SLOWED` in the mean (Characterizing
Compute-Communication Overlap in GPU-Accelerated Distributed Deep Learning, arXiv:2507.03114, abstract).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["GRADIENT_BYTES", "SLOWED", "Sharing", "shown_seconds"]

SLOWED: Final = 0.189
"""Share by which computation is slower while a collective runs beside it."""
GRADIENT_BYTES: Final = 2
"""Bytes of a gradient as the graph makes it."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What ranks with equal weights exchange: their ZeRO stage, layers, bytes of weights and gradients on the wires."""

    stage: int
    layers: int
    weight_bytes: float
    gradient_bytes: float
    micro_batches: int


def shown_seconds(
    sharing: Sharing, forward_s: float, backward_s: float, seconds: Callable[[str, int], float]
) -> float:
    """Seconds of a step that sharded communication adds: what sticks out of the passes, and what slows them.

    ``forward_s`` and ``backward_s`` (recomputation included) are of one micro-batch; ``seconds`` prices a collective by
    kind and bytes of the whole buffer.
    """
    layers = max(sharing.layers, 1)
    weights, gradients = round(sharing.weight_bytes / layers), round(sharing.gradient_bytes / layers)
    if sharing.stage == 0:
        reduce = seconds("all_reduce", gradients)
        return _beside(layers * reduce, backward_s, reduce)
    gather, reduce = seconds("all_gather", weights), seconds("reduce_scatter", gradients)
    if sharing.stage == 3:
        forward = _beside(layers * gather, forward_s, gather)
        # Both kinds pass over the same wires, one after another.
        backward = _beside(layers * (gather + reduce), backward_s, reduce)
        return sharing.micro_batches * (forward + backward)
    backward = _beside(layers * reduce, backward_s, reduce)
    times = sharing.micro_batches if sharing.stage == 2 else 1
    return times * backward + _beside(layers * gather, forward_s, gather)


def _beside(communication_s: float, computation_s: float, alone_s: float) -> float:
    """Seconds added where communication runs beside computation, ``alone_s`` of it with nothing beside."""
    hidden = max(0.0, min(communication_s - alone_s, computation_s))
    return communication_s - hidden + SLOWED * hidden
