"""What a service is: its workers, how requests find them, what joins them, and when they fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Final, Literal, NamedTuple

from hw_configs.problems import InputError, Problem
from hw_configs.system import System
from simulator.serving.replica import Worker
from simulator.serving.routing import ROUTERS, RouterOptions

__all__ = ["Failure", "FrontEnd", "Service"]

_ROLES: Final = ("both", "prefill", "decode")


class Failure(NamedTuple):
    """A worker stops at ``at_s`` and loses all that it holds; it is back, empty, at ``back_s``."""

    worker: int
    at_s: float
    back_s: float = inf


class FrontEnd(NamedTuple):
    """What requests pass one after another before a worker sees them (HTTP, tokeniser)."""

    request_s: float
    """Seconds of each request."""
    token_s: float
    """Seconds of each prompt token."""


NO_FRONT_END: Final = FrontEnd(0.0, 0.0)


@dataclass(frozen=True)
class Service:
    """Workers and what stands between them and their requests.

    With workers of role ``prefill`` and ``decode``, the first compute prompts and first tokens and send the cache over
    ``system``'s links, ``layers``: each layer's while the next is computed; ``end``: all of it after the prompt.
    ``first_token``: the client has it when the ``prefill`` worker has computed it, or with the second, from the worker
    for ``decode``, as engines send it whose decode worker answers the client. ``handover_s``: seconds from a cache's
    arrival until the worker for decode knows of it. ``front_end``: what requests pass before they are routed.
    ``retry_s``: seconds until the requests of a failed worker are sent again.
    """

    workers: tuple[Worker, ...]
    router: str = "round-robin"
    options: RouterOptions = field(default_factory=RouterOptions)
    decode_router: str = "least-loaded"
    system: System | None = None
    transfer: Literal["layers", "end"] = "layers"
    first_token: Literal["prefill", "decode"] = "prefill"
    failures: tuple[Failure, ...] = ()
    retry_s: float = 0.0
    handover_s: float = 0.0
    front_end: FrontEnd = NO_FRONT_END
    seed: int = 0
    keep_gaps: bool = False
    """Whether every gap between tokens is kept, not only how often each length came."""

    def __post_init__(self) -> None:
        problems = [*self._roles(), *self._failures()]
        if not (isfinite(self.retry_s) and self.retry_s >= 0):
            problems.append(Problem(f"found {self.retry_s}; expected 0 s or more", path="service.retry_s"))
        if problems:
            raise InputError(problems)
        ROUTERS.get(self.router), ROUTERS.get(self.decode_router)

    @property
    def apart(self) -> bool:
        """Whether prefill and decode are on different workers."""
        return any(worker.role != "both" for worker in self.workers)

    def of_role(self, *roles: str) -> list[int]:
        """Numbers of the workers with one of these roles."""
        return [number for number, worker in enumerate(self.workers) if worker.role in roles]

    def _roles(self) -> list[Problem]:
        if not self.workers:
            return [Problem("a service needs a worker", path="service.workers")]
        found = {worker.role for worker in self.workers}
        problems = [
            Problem(f"found {role!r}; expected one of {', '.join(_ROLES)}", path="worker.role")
            for role in sorted(found - set(_ROLES))
        ]
        problems += [
            Problem(
                f"{worker.name}: expected a speed above 0, one group and one layer or more", path="worker"
            )
            for worker in self.workers
            if not (worker.speed > 0 and worker.groups >= 1 and worker.layers >= 1)
        ]
        if found - {"both"} and found != {"prefill", "decode"}:
            words = "workers for prefill and for decode go together, without others beside them"
            problems.append(Problem(words, path="worker.role"))
        if self.transfer not in ("layers", "end"):
            problems.append(
                Problem(f"found {self.transfer!r}; expected layers or end", path="service.transfer")
            )
        for name, costs in (("front_end", self.front_end), ("handover_s", (self.handover_s,))):
            if not all(isfinite(cost) and cost >= 0 for cost in costs):
                problems.append(Problem("expected 0 s or more", path=f"service.{name}"))
        if self.first_token not in ("prefill", "decode"):
            words = f"found {self.first_token!r}; expected prefill or decode"
            problems.append(Problem(words, path="service.first_token"))
        if self.apart and (self.system is None or not all(worker.devices for worker in self.workers)):
            words = "prefill and decode apart need a system, and the devices of each worker in it"
            problems.append(Problem(words, path="service.system"))
        elif self.apart and self.system is not None:
            lost = [d for worker in self.workers for d in worker.devices if d not in self.system.nodes]
            problems += [
                Problem(f"the system has no device {name!r}", path="worker.devices") for name in lost
            ]
        return problems

    def _failures(self) -> list[Problem]:
        problems, free = [], [0.0] * len(self.workers)
        for failure in in_order(self.failures):
            if not 0 <= failure.worker < len(self.workers):
                problems.append(Problem(f"there is no worker {failure.worker}", path="service.failures"))
            elif not (isfinite(failure.at_s) and free[failure.worker] <= failure.at_s < failure.back_s):
                words = f"worker {failure.worker} can't fail at {failure.at_s} s and be back at {failure.back_s} s"
                problems.append(Problem(words, path="service.failures"))
            else:
                free[failure.worker] = failure.back_s
        return problems


def in_order(failures: Sequence[Failure]) -> list[Failure]:
    """Failures by time."""
    return sorted(failures, key=lambda failure: (failure.at_s, failure.worker))
