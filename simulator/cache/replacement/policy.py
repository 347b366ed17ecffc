"""What a replacement policy is, and where policies are registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from hw_configs.problems import bad_input
from hw_configs.registry import Registry
from hw_configs.settings import NoSettings, Settings
from simulator.cache.replacement.nodes import Nodes

__all__ = ["POLICIES", "Hint", "Policy", "insist"]

Hint = Literal["nothing", "next use", "discard bit", "phase bit"]
"""What a policy wants to know of a request: nothing, the number of the request that next asks for the object
(``NEVER`` without one), whether the object may go before that, or whether the next phase does without it."""


def _plain(nodes: Nodes, settings: Any) -> None:
    """A policy without figures of its own."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A replacement policy. ``source``: where its rule stands.

    ``kernel(nodes, requested, sizes, hints, events)`` runs a chunk of requests and keeps its state in the nodes;
    ``start(nodes, settings)`` writes the policy's figures into an empty one and raises ``InputError`` for a capacity
    that it cannot work with. ``ranked``, ``extra`` and ``times`` ask for arrays of the nodes. ``stack``: with objects
    of one size, a larger cache holds all that a smaller one does.
    ``exact``: the hint is the future itself, not a prediction of it. ``beside``: policies that run on the same
    requests; the kernel gets what became of each (a tuple of ``Events``) in place of the hints.
    """

    name: str
    description: str
    source: str
    kernel: Callable[[Nodes, Any, Any, Any, Any], None]
    start: Callable[[Nodes, Any], None] = _plain
    settings: type[Settings] = NoSettings
    hint: Hint = "nothing"
    ranked: bool = False
    extra: bool = False
    times: int = 0
    stack: bool = False
    exact: bool = False
    random: bool = False
    beside: tuple[str, ...] = ()


def insist(nodes: Nodes, bytes_: int, what: str, name: str) -> None:
    """Refuses a capacity that leaves a part of the cache without a byte."""
    if bytes_ < 1:
        raise bad_input(f"{int(nodes.number[0])} bytes leave {what} of '{name}' none", path="--size")


POLICIES: Final[Registry[Policy]] = Registry(
    "policy",
    "offchip.cache_policies",
    {
        "arc": "simulator.cache.replacement.arc:ARC",
        "belady": "simulator.cache.replacement.belady:BELADY",
        "belady-size": "simulator.cache.replacement.belady_size:BELADY_SIZE",
        "blind-oracle": "simulator.cache.replacement.belady:BLIND_ORACLE",
        "clock": "simulator.cache.replacement.clock:CLOCK",
        "discard-predictions": "simulator.cache.replacement.discard_predictions:DISCARD_PREDICTIONS",
        "fifo": "simulator.cache.replacement.fifo:FIFO",
        "flush-predictions": "simulator.cache.replacement.flush_predictions:FLUSH_PREDICTIONS",
        "gdsf": "simulator.cache.replacement.gdsf:GDSF",
        "lfu": "simulator.cache.replacement.lfu:LFU",
        "lirs": "simulator.cache.replacement.lirs:LIRS",
        "lru": "simulator.cache.replacement.lru:LRU",
        "lru-k": "simulator.cache.replacement.lru_k:LRU_K",
        "marking": "simulator.cache.replacement.marking:MARKING",
        "mq": "simulator.cache.replacement.mq:MQ",
        "phase-predictions": "simulator.cache.replacement.phase_predictions:PHASE_PREDICTIONS",
        "predictive-marker": "simulator.cache.replacement.predictive_marker:PREDICTIVE_MARKER",
        "random": "simulator.cache.replacement.random:RANDOM",
        "robust-discard": "simulator.cache.replacement.robust_discard:ROBUST_DISCARD",
        "s3-fifo": "simulator.cache.replacement.s3_fifo:S3_FIFO",
        "sieve": "simulator.cache.replacement.sieve:SIEVE",
        "slru": "simulator.cache.replacement.slru:SLRU",
        "2q": "simulator.cache.replacement.two_q:TWO_Q",
    },
)
