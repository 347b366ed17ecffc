"""The price of a serving step from the graphs of one device, for studies whose subject is the cache, not the step.

Products by the number of tokens (linear between graphs of some sizes), attention of single tokens by the contexts
they read, attention of chunks by the pairs of tokens. No software of an engine, no exchange.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from offchip.studies.phase_times import phase_times
from simulator.serving.step import ScheduledStep, StepCost

__all__ = ["GraphPricer"]

POINTS: Final = (1, 8, 32, 128, 512, 2048, 8192)
READ: Final = 4096
"""Context of the graph from which the time per token read is taken."""


class GraphPricer:
    """Prices steps of a model in FP16 on one device."""

    def __init__(self, model: str, device: str, most: int = POINTS[-1]) -> None:
        """``most``: tokens of the largest graphs, for models with few positions."""
        self.points = [count for count in POINTS if count <= most]
        read = min(READ, most // 2)
        self.products = [phase_times(model, device, "prefill", 1, count).other_s for count in self.points]
        one_by_one = [phase_times(model, device, "decode", count, 1).other_s for count in self.points]
        self.outputs = [max(a - b, 0.0) for a, b in zip(one_by_one, self.products, strict=True)]
        """A prefill has one row of logits, decode one for each request."""
        self.per_read = phase_times(model, device, "decode", 32, read).attention_s / (32 * read)
        largest = self.points[-1]
        self.per_pair = phase_times(model, device, "prefill", 1, largest).attention_s / (largest**2 / 2)

    def price(self, step: ScheduledStep) -> StepCost:
        """The cost of a step."""
        tokens, context = step.tokens.astype(np.float64), step.context.astype(np.float64)
        single = step.tokens == 1
        pairs = tokens * (context + tokens / 2)
        seconds = float(np.interp(tokens.sum(), self.points, self.products))
        seconds += float(np.interp(np.count_nonzero(step.samples), self.points, self.outputs))
        seconds += self.per_read * float((context + 1)[single].sum()) + self.per_pair * float(
            pairs[~single].sum()
        )
        return StepCost(seconds, seconds, 0.0, 0.0, 0.0)
