"""How ranks with equal weights share their states: what ZeRO's stage leaves open, as fully sharded frameworks name it.

The stage itself is the setup's ``zero_stage``. Hybrid sharding divides inside groups of ``shard_ranks`` and keeps
copies across them (PyTorch FSDP's HYBRID_SHARD, arXiv:2304.11277, section 3.2; MiCS, arXiv:2205.00119).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hw_configs.problems import InputError, Problem

__all__ = ["WHOLE", "Sharding"]

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sharding:
    """Choices of sharded data parallelism.

    ``shard_ranks``: how many neighbours share one copy of the states; None is all that hold equal weights.
    ``prefetch``: layers whose weights are gathered ahead of the one at work (stage 3). ``reshard``: whether gathered
    weights are given up after the forward pass; else they stay until the last backward pass of the step.
    ``bucket_bytes``: gradients and weights of neighbouring layers go together until they are so large.
    ``each_micro_batch``: whether gradients are reduced after every micro-batch; None is what the stage needs to hold
    no whole gradients (2 and 3). ``overlap``: gradients are reduced beside the backward pass, and weights of stage 1
    and 2 gathered beside the forward pass that follows; else both stand between the passes and the next step.
    """

    shard_ranks: int | None = None
    prefetch: int = 1
    reshard: bool = True
    bucket_bytes: int = 25 * MIB
    each_micro_batch: bool | None = None
    overlap: bool = True

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InputError(problems)

    def _problems(self) -> Iterator[Problem]:
        for name, value, least in (
            ("shard_ranks", self.shard_ranks, 1), ("prefetch", self.prefetch, 0),
            ("bucket_bytes", self.bucket_bytes, 1),
        ):  # fmt: skip
            if value is not None and value < least:
                yield Problem(f"found {value}; expected {least} or more", path=name)

    def reduces_each(self, stage: int) -> bool:
        """Whether gradients are reduced after every micro-batch under a ZeRO stage."""
        return stage >= 2 if self.each_micro_batch is None else self.each_micro_batch


WHOLE: Final = Sharding()
"""One copy of the states over all ranks that hold equal weights."""
