"""What the engines' policies differ in, as one record of rules that the shared passes read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final, NamedTuple

from hw_configs.problems import InputError, Problem, bad_input
from simulator.serving.settings import EngineSettings

__all__ = ["UNLIMITED", "VLLM_ALONE", "PageGroup", "Reserve", "Rules", "refuse", "rules_of"]

UNLIMITED: Final = 1 << 40
"""Tokens of a step of an engine that counts requests alone."""


class PageGroup(NamedTuple):
    """Layers of a model whose cache lies alike in pages. ``pages``: how many each run of ``page_tokens`` takes.

    ``window``: tokens back that a layer looks at, itself included; 0: all. ``page_tokens`` 0: a state of ``pages``
    pages whatever the length.
    """

    page_tokens: int
    pages: int = 1
    window: int = 0


class Reserve(IntEnum):
    """What of a request is meant: by what must fit before it is admitted, or by what it is given then."""

    CHUNK = 0
    """What its first step computes."""
    KNOWN = 1
    """All that is known of it: its prompt, and what it had answered before a preemption."""
    WHOLE = 2
    """All up to its last token; what fits so, beside all others that run, is never preempted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Settings of an engine as the passes read them; tokens unless said otherwise."""

    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    block_size: int
    chunked: bool = True
    caching: bool = True
    priority: bool = False
    long_prefill_token_threshold: int = 0
    adaptive: bool = False
    reserve: Reserve = Reserve.KNOWN
    watermark: float = 0.0
    """Share of the blocks that admissions leave free."""
    drafts: int = 0
    lookahead: int = 0
    draft_slots: int = 0
    drop_last_hit_block: bool = False
    swap: bool = False
    host_blocks: int = 0
    """Blocks."""
    drive_blocks: int = 0
    """Blocks."""
    batch_at_once: bool = False
    """Admit only while nothing ran before the step."""
    prefill_alone: bool = False
    """A step computes prompts or answers, never both, and prompts as long as there are any that fit."""
    take: Reserve = Reserve.CHUNK
    """Whose blocks a request is given at admission."""

    def __post_init__(self) -> None:
        least = 1 + self.draft_slots
        if self.max_num_batched_tokens < least:
            raise bad_input(
                f"found {self.max_num_batched_tokens}; expected {least} or more: a token and its slots for drafts",
                path="engine.max_num_batched_tokens",
            )


def rules_of(settings: EngineSettings, block_size: int, host_blocks: int = 0, drive_blocks: int = 0) -> Rules:
    """The rules that settings give, as vLLM understands them. ``block_size``: tokens of a block of the cache."""
    spec = settings.speculation
    return Rules(
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_num_seqs=settings.max_num_active_seqs or settings.max_num_seqs,
        max_model_len=settings.max_model_len,
        block_size=block_size,
        chunked=settings.enable_chunked_prefill,
        caching=settings.enable_prefix_caching,
        priority=settings.policy == "priority",
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        adaptive=settings.long_prefill_token_threshold_adaptive,
        reserve=Reserve.KNOWN if settings.scheduler_reserve_full_isl else Reserve.CHUNK,
        watermark=settings.watermark,
        drafts=spec.tokens if spec else 0,
        lookahead=spec.lookahead if spec else 0,
        draft_slots=spec.draft_slots if spec else 0,
        drop_last_hit_block=bool(spec and spec.drop_last_hit_block),
        swap=settings.swap,
        host_blocks=host_blocks,
        drive_blocks=drive_blocks,
    )


VLLM_ALONE: Final = (
    "policy", "long_prefill_token_threshold", "long_prefill_token_threshold_adaptive", "max_num_active_seqs",
    "watermark",
)  # fmt: skip
"""Settings that no other policy knows."""


def refuse(settings: EngineSettings, names: Sequence[str]) -> None:
    """Raise ``InputError`` for each setting of ``names`` that is not at its default: the policy does not know it."""
    neutral = {field.name: field.default for field in fields(EngineSettings)}
    problems = [
        Problem(
            f"found {getattr(settings, name)!r}; the policy {settings.scheduler!r} does not know it",
            path=f"engine.{name}",
        )
        for name in names
        if getattr(settings, name) != neutral[name]
    ]
    if problems:
        raise InputError(problems)
