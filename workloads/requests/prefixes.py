"""What prompts share: system prompts, and trees of them (a company's, then a product's, then a tool's)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from hw_configs.config import Config, refuse
from workloads.requests.lengths import Tokens

__all__ = ["SharedPrefix", "draw_prefixes"]


class Level(Config):
    """One level of a tree: every node above has so many children of so many tokens."""

    tokens: Tokens
    children: Annotated[int, Field(ge=1, le=100_000)]


class SharedPrefix(Config):
    """A tree of prompts' beginnings. ``share`` of the requests (or sessions) begin with a path from root to leaf.

    Of a node's children the k-th is drawn with weight k to the power of minus ``skew``.
    """

    levels: Annotated[list[Level], Field(min_length=1, max_length=16)]
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    skew: Annotated[float, Field(ge=0, le=10)] = 0.0

    @model_validator(mode="after")
    def _countable(self) -> SharedPrefix:
        leaves = 1
        for level in self.levels:
            leaves *= level.children
        refuse(
            (("levels",), f"found a tree of {leaves} leaves; expected at most 2**39")
            if leaves > 2**39
            else None
        )
        return self


def draw_prefixes(
    law: SharedPrefix | None, count: int, rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """Of each request or session the segments it begins with; equal streams are the same text."""
    if law is None:
        return [[] for _ in range(count)]
    node = np.zeros(count, np.int64)
    streams = []
    first = 0
    width = 1
    for level in law.levels:
        weights = np.arange(1, level.children + 1, dtype=np.float64) ** -law.skew
        node = node * level.children + rng.choice(level.children, count, p=weights / weights.sum())
        streams.append(node + first)
        width *= level.children
        first += width
    has = rng.random(count) < law.share
    tokens = [level.tokens for level in law.levels]
    return [
        list(zip(path, tokens, strict=True)) if some else []
        for path, some in zip(np.stack(streams, 1).tolist(), has.tolist(), strict=True)
    ]
