"""Session affinity: all turns of a session go to one worker, the least loaded one when it began."""

from __future__ import annotations

from simulator.serving.routing.router import Pool, RouterOptions, least
from workloads.requests import Requests

__all__ = ["SessionAffinity", "session_roots"]


def session_roots(requests: Requests) -> list[int]:
    """The first request of each request's session: where following ``after`` ends."""
    roots: list[int] = []
    for request, after in enumerate(requests.after.tolist()):
        roots.append(request if after < 0 else roots[after])
    return roots


class SessionAffinity:
    """The worker of the session's last turn; a new one where that is down."""

    def __init__(self, requests: Requests, options: RouterOptions) -> None:
        self.options = options
        self.root = session_roots(requests)
        self.home: dict[int, int] = {}

    def choose(self, request: int, pool: Pool) -> int:
        """The session's worker."""
        root = self.root[request]
        home = self.home.get(root, -1)
        if home not in pool.workers:
            home = self.home[root] = least(self.options.of(pool), pool.workers)
        return home
