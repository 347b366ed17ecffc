"""Policy ``orca``: iteration-level scheduling; requests join at any step, with their whole prompt.

Each step runs all that run, and admits in order of arrival while there are places (``max_num_seqs``) and blocks for
all tokens that a request can come to. Nobody is preempted, prompts are not cut, nothing is shared; tokens of a step
are not limited. Source: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI
2022, algorithm 1 (its slots of ``max_tokens`` are blocks here).
"""

from __future__ import annotations

from dataclasses import replace

from simulator.serving.engine import Engine
from simulator.serving.rules import UNLIMITED, VLLM_ALONE, Reserve, refuse, rules_of
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests

__all__ = ["make"]


def make(requests: Requests, settings: EngineSettings, space: KvSpace) -> Engine:
    """The scheduler of one replica."""
    refuse(settings, ("swap", *VLLM_ALONE))
    rules = replace(
        rules_of(settings, space.block_tokens),
        max_num_batched_tokens=UNLIMITED,
        chunked=False,
        caching=False,
        reserve=Reserve.WHOLE,
        take=Reserve.WHOLE,
    )
    return Engine(requests, rules, space)
