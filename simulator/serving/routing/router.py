"""What a router sees and says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from hw_configs.registry import Registry
from workloads.requests import Requests

__all__ = ["ROUTERS", "MakeRouter", "Pool", "Router", "RouterOptions", "least"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Pool(NamedTuple):
    """The workers that a request may go to, ascending by number, and what each has to do.

    ``tokens`` are those of the prompts of requests that are there: what an answer will be long, no router knows.
    Loads are divided by the workers' speeds.
    """

    workers: Ints
    requests: Floats
    tokens: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterOptions:
    """Options of all rules. ``load``: what counts as load, requests or prompt tokens.

    ``imbalance``: prefix-aware leaves the worker that knows a prompt best when that has more than so many times the
    least load, and at least ``slack_requests`` requests (or a thousand tokens for each) more.
    ``remembered``: prefixes that prefix-aware remembers of each worker.
    """

    load: Literal["requests", "tokens"] = "requests"
    imbalance: float = 1.5
    slack_requests: int = 8
    remembered: int = 65536
    seed: int = 0

    def __post_init__(self) -> None:
        if self.load not in ("requests", "tokens"):
            raise bad_input(f"found {self.load!r}; expected requests or tokens", path="router.load")
        if not (self.imbalance >= 1 and self.slack_requests >= 0 and self.remembered >= 1):
            raise bad_input("expected imbalance from 1, slack from 0 and one prefix or more", path="router")

    def of(self, pool: Pool) -> Floats:
        """Each worker's load."""
        return pool.tokens if self.load == "tokens" else pool.requests


class Router(Protocol):
    """Chooses workers, request by request."""

    def choose(self, request: int, pool: Pool, /) -> int:
        """The number of a worker of the pool, which is never empty."""
        ...


def least(load: Floats, workers: Ints) -> int:
    """The worker with the least load; the first of several."""
    return int(workers[int(np.argmin(load))])


MakeRouter = Callable[[Requests, RouterOptions], Router]

_HERE: Final = "simulator.serving.routing"
ROUTERS: Final[Registry[MakeRouter]] = Registry(
    "router",
    "offchip.routers",
    {
        "least-loaded": f"{_HERE}.least_loaded:LeastLoaded",
        "power-of-two": f"{_HERE}.power_of_two:PowerOfTwo",
        "prefix-aware": f"{_HERE}.prefix_aware:PrefixAware",
        "round-robin": f"{_HERE}.round_robin:RoundRobin",
        "session-affinity": f"{_HERE}.session_affinity:SessionAffinity",
    },
)
"""Rules of routing by name."""
