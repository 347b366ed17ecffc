"""Round robin: each worker in turn; one that is down is passed over."""

from __future__ import annotations

import numpy as np

from simulator.serving.routing.router import Pool, RouterOptions
from workloads.requests import Requests

__all__ = ["RoundRobin"]


class RoundRobin:
    """The next worker after the last one chosen."""

    def __init__(self, _requests: Requests, _options: RouterOptions) -> None:
        self.last = -1

    def choose(self, _request: int, pool: Pool) -> int:
        """The first worker of the pool after the last one chosen, or the first of all."""
        place = int(np.searchsorted(pool.workers, self.last, side="right"))
        self.last = int(pool.workers[place % len(pool.workers)])
        return self.last
