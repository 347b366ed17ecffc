"""Levels of a cache of objects: size, replacement policy, and time where it is stated."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from hw_configs.config import Bandwidth, Config, Latency, Size, refuse

__all__ = ["CacheLevel", "level_faults"]


class CacheLevel(Config):
    """One level; a request that misses asks the next one."""

    name: str
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


def level_faults(levels: list[CacheLevel]) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with levels together: none, or names given twice."""
    names = [level.name for level in levels]
    faults: list[tuple[tuple[str, ...], str]] = []
    if not names:
        faults.append((("levels",), "a cache has at least one level"))
    faults += [
        (("levels",), f"{name!r} is given twice") for name in sorted({n for n in names if names.count(n) > 1})
    ]
    return faults
