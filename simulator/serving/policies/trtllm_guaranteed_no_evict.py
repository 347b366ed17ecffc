"""Policy ``trtllm-guaranteed-no-evict``: what is admitted runs to its end.

A request is admitted, in order of arrival, if the blocks of its last token are free beside those that all running
requests have still to take; the first that does not fit ends the pass. Blocks of the prompt are taken at admission,
others when they are needed. Chunked context and block reuse as set. Source: TensorRT-LLM,
``GuaranteedNoEvictScheduler`` (``cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp``) and ``MicroBatchScheduler``.
Not modelled: a request waits there for the step in which an equal prefix is computed, and reuses it in the next; here
it reuses it at once.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.serving.engine import Engine
from simulator.serving.rules import VLLM_ALONE, Reserve, refuse, rules_of
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests

__all__ = ["make"]


def make(requests: Requests, settings: EngineSettings, space: KvSpace) -> Engine:
    """The scheduler of one replica."""
    refuse(settings, ("swap", *VLLM_ALONE))
    rules = replace(rules_of(settings, space.block_tokens), reserve=Reserve.WHOLE, take=Reserve.KNOWN)
    return Engine(requests, rules, space)
