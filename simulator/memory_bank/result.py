"""What a bank found: hits by level, bytes and time of a context, and the same for other sizes of the cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity

__all__ = ["BankResult", "CachePoint", "LevelResult", "MemoryTimes"]


@dataclass(frozen=True, slots=True)
class LevelResult:
    """A level of the tree."""

    level: int
    blocks: int
    block_bytes: int
    hit_rate: float


@dataclass(frozen=True, slots=True)
class CachePoint:
    """One size of the cache; 0 keeps the blocks of the last context alone."""

    cache_bytes: int
    hit_rate: float
    """Of blocks."""
    byte_hit_rate: float
    fetched_bytes: float
    """Of a context, on average."""
    latency_mean_s: float = 0.0
    latency_p50_s: float = 0.0
    latency_p99_s: float = 0.0

    def timed(self, seconds: npt.NDArray[np.float64]) -> CachePoint:
        """With the times of all contexts."""
        p50, p99 = (float(np.quantile(seconds, q, method="inverted_cdf")) for q in (0.5, 0.99))
        return replace(self, latency_mean_s=float(seconds.mean()), latency_p50_s=p50, latency_p99_s=p99)


@dataclass(frozen=True)
class BankResult(Shown):
    """A bank beside a model on a machine.

    ``token_s`` is the least time of a token: the model's and the fetched weights through the worker's memory once.
    """

    bank: str
    machine: str
    place: str
    source: str
    worker: str
    bank_bytes: int
    context_bytes: int
    anchor_bytes: int
    contexts: int
    tokens: int
    token_s: float
    levels: tuple[LevelResult, ...]
    point: CachePoint
    caches: tuple[CachePoint, ...]

    @property
    def fetch_share(self) -> float:
        """A context's fetch over the least time of its tokens."""
        return self.point.latency_mean_s / (self.tokens * self.token_s)

    def as_json(self) -> dict[str, Any]:
        """Plain data in SI units."""
        return {"kind": "hierarchical", **asdict(self), "fetch_share": self.fetch_share}

    def shown_tables(self) -> list[Table]:
        """A context's cost, its levels, and other sizes of the cache."""
        point = self.point
        facts = (
            ("bank", format_quantity(self.bank_bytes, "size")),
            ("taken by a context", format_quantity(self.context_bytes, "size")),
            ("fetched for a context, mean", format_quantity(point.fetched_bytes, "size")),
            ("time of a fetch, mean", format_quantity(point.latency_mean_s, "time")),
            ("time of a fetch, p50", format_quantity(point.latency_p50_s, "time")),
            ("time of a fetch, p99", format_quantity(point.latency_p99_s, "time")),
            ("least time of a token", format_quantity(self.token_s, "time")),
            (f"fetch over {self.tokens} tokens", f"{100 * self.fetch_share:.1f} %"),
        )
        levels = tuple(
            (
                level.level,
                level.blocks,
                format_quantity(level.block_bytes, "size"),
                f"{100 * level.hit_rate:.1f} %",
            )
            for level in self.levels
        )
        caches = tuple(
            (
                format_quantity(p.cache_bytes, "size"), f"{100 * p.hit_rate:.1f} %", f"{100 * p.byte_hit_rate:.1f} %",
                format_quantity(p.fetched_bytes, "size"), f"{p.latency_mean_s * 1e3:.3f}",
                f"{p.latency_p99_s * 1e3:.3f}",
            )
            for p in self.caches
        )  # fmt: skip
        columns = ("cache", "hits", "hits by bytes", "fetched", "mean ms", "p99 ms")
        return [
            Table(f"{self.bank} on {self.machine}: {self.source} to {self.worker}", ("", ""), facts),
            Table("levels", ("level", "blocks", "block", "hits"), levels),
            Table("caches", columns, caches),
        ]


@dataclass(frozen=True)
class MemoryTimes(Shown):
    """A memory that runs for every token, beside its model; times of one step of all sequences."""

    memory: str
    kind: str
    beside: str
    machine: str
    batch: int
    model_bytes: int
    memory_bytes: int
    model_s: float
    memory_s: float

    @property
    def after_s(self) -> float:
        """One after the other on one device."""
        return self.model_s + self.memory_s

    @property
    def together_s(self) -> float:
        """Beside one another on two devices of the same kind."""
        return max(self.model_s, self.memory_s)

    def as_json(self) -> dict[str, Any]:
        """Plain data in SI units."""
        return {
            **asdict(self), "after_s": self.after_s, "together_s": self.together_s,
            "slowdown_after": self.after_s / self.model_s, "slowdown_together": self.together_s / self.model_s,
        }  # fmt: skip

    def shown_tables(self) -> list[Table]:
        """Bytes and times of a step."""
        rows = (
            ("model", self.beside, format_quantity(self.model_bytes, "size"), f"{self.model_s * 1e3:.3f}", "1.00"),
            ("memory", self.memory, format_quantity(self.memory_bytes, "size"), f"{self.memory_s * 1e3:.3f}",
             f"{self.memory_s / self.model_s:.2f}"),
            ("one after the other", "", "", f"{self.after_s * 1e3:.3f}", f"{self.after_s / self.model_s:.2f}"),
            ("on two devices", "", "", f"{self.together_s * 1e3:.3f}", f"{self.together_s / self.model_s:.2f}"),
        )  # fmt: skip
        title = f"{self.memory} beside {self.beside} on {self.machine}, one token of {self.batch}"
        return [Table(title, ("", "name", "weights", "ms", "over the model"), rows)]
