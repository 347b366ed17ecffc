"""Settings of a serving engine, by the engines' own names where they have one; how a replica lies on devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hw_configs.problems import InputError, Problem
from hw_configs.typed_fields import wrong_types

__all__ = ["ENGINES", "EngineSettings", "Layout", "Speculation"]

ENGINES: Final = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Draft tokens of a step. ``acceptance``: chance of each, where the one before it was accepted."""

    method: Literal["ngram", "draft-model", "eagle", "mtp"]
    tokens: int
    acceptance: float = 0.7
    draft_model: str = ""
    lookahead: int = 0
    """Tokens for which blocks are taken beyond those of the step."""
    draft_slots: int = 0
    """Input tokens that each scheduled request costs in addition."""
    drop_last_hit_block: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a replica lies on devices."""

    tp: int = 1
    """Devices that share each product."""
    pp: int = 1
    """Stages of layers."""
    attention_dp: int = 1
    """Groups of ``tp`` devices that each serve requests of their own and share the experts."""
    moe_tp: int = 0
    """Devices that share each expert; 0: as the rest of the model."""
    moe_ep: int = 0
    """Groups that have experts of their own; 0: one."""

    @property
    def devices(self) -> int:
        """Devices of a replica."""
        return self.tp * self.pp * self.attention_dp


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine's operator sets; defaults are vLLM's.

    ``max_num_active_seqs`` 0: as ``max_num_seqs``. ``policy``: order of the queue. ``watermark``: share of the blocks
    that admissions leave free. ``scheduler_reserve_full_isl``: admit only what fits with its whole prompt.
    """

    engine: str = "vllm"
    version: str = ""
    scheduler: str = "vllm"
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    max_num_active_seqs: int = 0
    max_model_len: int = 1 << 20
    block_size: int = 16
    gpu_memory_utilization: float = 0.92
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    cuda_graphs: bool = True
    async_scheduling: bool = True
    swap: bool = False
    """Move a preempted request's blocks to the host instead of computing them again."""
    speculation: Speculation | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        least = {
            "max_num_batched_tokens": 1, "max_num_seqs": 1, "max_num_active_seqs": 0, "max_model_len": 2,
            "block_size": 1, "long_prefill_token_threshold": 0,
        }  # fmt: skip
        problems += [
            Problem(f"found {getattr(self, name)}; expected {bound} or more", path=f"engine.{name}")
            for name, bound in least.items()
            if isinstance(getattr(self, name), int) and getattr(self, name) < bound
        ]
        if problems:
            raise InputError(problems)
