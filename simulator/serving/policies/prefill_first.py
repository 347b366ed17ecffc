"""Policy ``prefill-first``: prompts before answers, in steps of their own.

As long as a waiting prompt fits, or one was cut, a step computes prompts alone, up to the budget; else it is a decode
of all that run. A request is admitted if the blocks of its last token are free beside those that all running requests
have still to take. What SGLang does of requests that share no prefix, but for its estimate of what is still to come,
which admits more where the cache is short (:mod:`simulator.serving.policies.sglang` has it).
Source: SGLang 0.5, ``python/sglang/srt/managers/scheduler.py`` (``get_next_batch_to_run``).
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
    rules = rules_of(settings, space.block_tokens)
    return Engine(
        requests, replace(rules, reserve=Reserve.WHOLE, take=Reserve.KNOWN, prefill_alone=True), space
    )
