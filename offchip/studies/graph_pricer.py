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

    def __init__(self, model: str, device: str, *, reads: float = 1.0) -> None:
        """``reads``: how often a decode step's attention reads the cache."""
        self.products = [phase_times(model, device, "prefill", 1, count).other_s for count in POINTS]
        one_by_one = [phase_times(model, device, "decode", count, 1).other_s for count in POINTS]
        self.outputs = [max(a - b, 0.0) for a, b in zip(one_by_one, self.products, strict=True)]
        """A prefill has one row of logits, decode one for each request."""
        self.per_read = reads * phase_times(model, device, "decode", 32, READ).attention_s / (32 * READ)
        self.per_pair = phase_times(model, device, "prefill", 1, POINTS[-1]).attention_s / (
            POINTS[-1] ** 2 / 2
        )

    def price(self, step: ScheduledStep) -> StepCost:
        """The cost of a step."""
        tokens, context = step.tokens.astype(np.float64), step.context.astype(np.float64)
        single = step.tokens == 1
        pairs = tokens * (context + tokens / 2)
        seconds = float(np.interp(tokens.sum(), POINTS, self.products))
        seconds += float(np.interp(np.count_nonzero(step.samples), POINTS, self.outputs))
        seconds += self.per_read * float((context + 1)[single].sum()) + self.per_pair * float(
            pairs[~single].sum()
        )
        return StepCost(seconds, seconds, 0.0, 0.0, 0.0)
