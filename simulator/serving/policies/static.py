"""Policy ``static``: a batch is formed when nothing runs, and runs until its last request has ended.

As ``orca`` in all else: whole prompts, memory to the end at admission, no sharing. A request that ends before the
others leaves the batch and is computed no further; its place stays empty. Source: request-level scheduling as Yu et
al. describe it (OSDI 2022, section 3), TensorRT-LLM's ``StaticBatchScheduler``
(``cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp``).
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
        batch_at_once=True,
    )
    return Engine(requests, rules, space)
