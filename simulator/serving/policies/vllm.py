"""Policy ``vllm``: continuous batching as the scheduler of vLLM 0.32.0 does it, decision by decision.

Source: ``vllm/v1/core/sched/scheduler.py``, ``kv_cache_manager.py`` and ``block_pool.py`` of vLLM 0.32.0 (Apache-2.0);
Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023. Held step by
step against recordings of that scheduler (``offchip validate scheduler``).
"""

from __future__ import annotations

from simulator.serving.engine import Engine
from simulator.serving.rules import rules_of
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests

__all__ = ["make"]


def make(requests: Requests, settings: EngineSettings, space: KvSpace) -> Engine:
    """The scheduler of one replica."""
    return Engine(
        requests, rules_of(settings, space.block_tokens, space.host_blocks, space.drive_blocks), space
    )
