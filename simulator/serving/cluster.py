"""A service of one worker or several, run from arrivals to last tokens: the door to the loops that do it.

:mod:`simulator.serving.service_loop` runs every service, a step at a time. :mod:`simulator.serving.quick` is the same
loop with its workers' steps in compiled code, for the services whose workers that code knows; the record is the same to
the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

from simulator.serving.quick import QuickLoop, can_be_quick
from simulator.serving.record import ServiceRecord
from simulator.serving.service import Service
from simulator.serving.service_loop import ServiceLoop
from simulator.serving.taken import bounds_of
from workloads.requests import Requests

__all__ = ["run_service"]


def run_service(
    requests: Requests, service: Service, advance: Callable[[int], None] | None = None
) -> ServiceRecord:
    """Serve all requests to their ends.

    ``advance`` is told of requests answered, some at a time. An interrupt ends the run, and what was computed until
    then is the record: requests without all their tokens were not answered.
    Raises ``InfeasibleError`` where some can never end: longer than a worker's memory, or no worker left.
    """
    bound = any(worker.most_requests for worker in service.workers)
    quick = not bound and can_be_quick(requests, service) and not _bounded(requests, service)
    loop = QuickLoop(requests, service) if quick else ServiceLoop(requests, service)
    return loop.run(advance)


def _bounded(requests: Requests, service: Service) -> bool:
    """Whether some worker can't answer what another can."""
    return any(mask is not None for mask in bounds_of(requests, service.workers))
