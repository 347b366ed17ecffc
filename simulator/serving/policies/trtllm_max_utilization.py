"""Policy ``trtllm-max-utilization``: as many requests as fit now; the last started is paused when blocks run out.

A request is admitted, in order of arrival, if the blocks of all that is known of it are free, and takes them. Where a
running request does not get its next block, the last started one is paused: its blocks are freed, it stands first
among those that wait, and nobody is admitted in that step. Source: TensorRT-LLM, ``MaxUtilizationScheduler``
(``cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp``). Not modelled: a request waits there for the step in which
an equal prefix is computed, and reuses it in the next; here it reuses it at once.
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
    refuse(settings, VLLM_ALONE)
    rules = replace(
        rules_of(settings, space.block_tokens, space.host_blocks, space.drive_blocks),
        reserve=Reserve.KNOWN,
        take=Reserve.KNOWN,
    )
    return Engine(requests, rules, space)
