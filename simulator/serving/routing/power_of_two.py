"""Power of two choices: two workers drawn at random, the less loaded of them.

Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 12(10), 2001: two loads suffice.
"""

from __future__ import annotations

import numpy as np

from simulator.serving.routing.router import Pool, RouterOptions
from workloads.requests import Requests

__all__ = ["PowerOfTwo"]


class PowerOfTwo:
    """Draws two different workers with the options' seed; the first drawn where they are equal."""

    def __init__(self, _requests: Requests, options: RouterOptions) -> None:
        self.options = options
        self.random = np.random.default_rng([options.seed, 2])

    def choose(self, _request: int, pool: Pool) -> int:
        """The less loaded of two."""
        count = len(pool.workers)
        if count == 1:
            return int(pool.workers[0])
        one = int(self.random.integers(count))
        other = int(self.random.integers(count - 1))
        other += other >= one
        load = self.options.of(pool)
        return int(pool.workers[other if load[other] < load[one] else one])
