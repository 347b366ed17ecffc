"""Levels of a cache of objects: size, replacement policy, and time where it is stated."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from hw_configs.config import Bandwidth, Config, Latency, Size, refuse

__all__ = ["CacheLevel"]


class CacheLevel(Config):
    """One level; a request that misses asks the next one."""

    size: Size
    policy: str = "lru"
    """Replacement policy, a name of ``offchip caches list``."""
    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Of the policy, as ``offchip caches show POLICY`` lists them."""
    latency: Latency | None = None
    """Of a look-up, whether it hits or not."""
    bandwidth: Bandwidth | None = None
    """At which it hands out what it holds."""

    @model_validator(mode="after")
    def _whole_bytes(self) -> Self:
        refuse((("size",), "holds less than a byte") if self.size < 1 else None)
        return self
