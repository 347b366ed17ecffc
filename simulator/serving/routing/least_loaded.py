"""Least loaded: the worker with the fewest requests or prompt tokens for its speed."""

from __future__ import annotations

from simulator.serving.routing.router import Pool, RouterOptions, least
from workloads.requests import Requests

__all__ = ["LeastLoaded"]


class LeastLoaded:
    """The worker with the least load; the first of several."""

    def __init__(self, _requests: Requests, options: RouterOptions) -> None:
        self.options = options

    def choose(self, _request: int, pool: Pool) -> int:
        """The worker with the least load."""
        return least(self.options.of(pool), pool.workers)
