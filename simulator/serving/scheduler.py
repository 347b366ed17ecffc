"""What a scheduling policy of a serving engine is: it is told of arrivals and outputs, and says who runs next.

The engine's clock, the price of a step and where requests come from are none of its business. A policy is one file
under ``simulator/serving/policies/`` with one entry in :data:`SCHEDULERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.registry import Registry
from simulator.serving.rules import PageGroup
from simulator.serving.settings import EngineSettings
from simulator.serving.step import ScheduledStep, StepOutcome
from workloads.requests import Requests

__all__ = ["SCHEDULERS", "Admission", "KvSpace", "Scheduler"]

Ints = npt.NDArray[np.int64]


class KvSpace(NamedTuple):
    """Cache memory of one replica. ``blocks``: whole blocks of ``block_tokens`` that requests can have (no null block).

    ``block_bytes`` on all devices of the replica together; ``sequence_bytes``: states that a request has whatever its
    length. ``host_blocks``, ``drive_blocks``: places in slower memories to swap or offload to. ``groups``: where layers
    differ in what they keep, or memory is mapped in pages of its own; then ``blocks`` counts such pages, and prefixes
    are not shared (:mod:`simulator.serving.pages`).
    """

    blocks: int
    block_tokens: int
    block_bytes: float
    sequence_bytes: float = 0.0
    host_blocks: int = 0
    groups: tuple[PageGroup, ...] = ()
    drive_blocks: int = 0


class Admission(NamedTuple):
    """A request taken from the queue: tokens found in the cache, and whether it had run before."""

    request: int
    hit: int
    resumed: bool


class Scheduler(Protocol):
    """One replica's scheduler. ``schedule`` and ``complete`` take turns; requests may be added before either."""

    def add(self, request: int, arrival_s: float | None = None) -> None:
        """A request has arrived, at ``arrival_s`` (else when it was sent). Raises ``InfeasibleError`` if it never fits.

        The time matters under policy ``priority`` alone.
        """
        ...

    def schedule(self) -> ScheduledStep:
        """Decide the next step. It may be empty though requests are there (after preemptions)."""
        ...

    def complete(self, accepted: Ints) -> StepOutcome:
        """The step has run: of each entry of the step so many drafts were accepted. Frees what ended."""
        ...

    def drop(self, request: int) -> None:
        """Forget a request (a worker failed, a client left); its blocks are free."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        ...

    @property
    def running(self) -> int:
        """Requests that run."""
        ...

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        ...

    @property
    def preempted(self) -> Ints:
        """Requests preempted by the last ``schedule``, in order."""
        ...

    @property
    def admitted(self) -> list[Admission]:
        """Requests admitted by the last ``schedule``, in order."""
        ...


MakeScheduler = Callable[[Requests, EngineSettings, KvSpace], Scheduler]

SCHEDULERS: Final[Registry[MakeScheduler]] = Registry(
    "scheduling policy",
    "offchip.schedulers",
    {
        "orca": "simulator.serving.policies.orca:make",
        "prefill-first": "simulator.serving.policies.prefill_first:make",
        "sglang": "simulator.serving.policies.sglang:make",
        "static": "simulator.serving.policies.static:make",
        "trtllm-guaranteed-no-evict": "simulator.serving.policies.trtllm_guaranteed_no_evict:make",
        "trtllm-max-utilization": "simulator.serving.policies.trtllm_max_utilization:make",
        "vllm": "simulator.serving.policies.vllm:make",
    },
)
"""Scheduling policies by name."""
