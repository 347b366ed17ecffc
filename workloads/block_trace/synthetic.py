"""Synthetic storage workloads, described as fio describes them: rw, bs, iodepth, size, rwmixread, ...

Every request is a function of the description, the seed and its number (SplitMix64 as a counter), so that any
stretch of ten million requests is made without the rest. Units are written out ("4 KiB"); in fio's own job
files they would be bare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hw_configs.config import Config, Size, SizeOrZero, parse, refuse
from hw_configs.problems import bad_input
from hw_configs.yaml_file import read_yaml
from workloads.block_trace.trace import MAX_REQUEST, READ, TRIM, WRITE, BlockRequests
from workloads.memory_trace.generators import splitmix64

__all__ = ["PATTERNS", "BlockWorkload", "SyntheticBlocks", "load_workload", "synthetic_blocks"]

PATTERNS: Final = ("read", "write", "rw", "randread", "randwrite", "randrw", "trim", "randtrim")
_MIXED: Final = ("rw", "randrw")
Percent = Annotated[float, Field(ge=0, le=100)]


class BlockWorkload(Config):
    """One fio-like job on a drive."""

    name: str = "job"
    description: str = ""
    rw: Literal["read", "write", "rw", "randread", "randwrite", "randrw", "trim", "randtrim"]
    """Sequential or random (rand...) reads, writes, or both mixed."""
    bs: Size = 4096.0
    """Bytes of a request."""
    iodepth: Annotated[int, Field(ge=1, le=65536)] = 32
    """Requests in flight (closed loop); without effect where ``rate_iops`` is given."""
    number_ios: Annotated[int, Field(ge=1, le=10**12)] = 100_000
    rwmixread: Percent = 50.0
    """Per cent of reads in rw and randrw."""
    size: Size | None = None
    """Bytes of the region that is used; all of the drive if not given."""
    offset: SizeOrZero = 0.0
    """Where the region starts."""
    rate_iops: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Requests per second of an open loop with exponential gaps."""
    zipf: Annotated[float, Field(ge=0, lt=5)] = 0.0
    """Exponent of Zipf's law over the blocks of the region for random accesses; 0: all alike."""
    randseed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    precondition: Literal["none", "fill", "age"] = "none"
    """What the drive went through before: nothing, one sequential fill, or a fill and random overwrites."""
    overwrites: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Random overwrites of an aged drive, in capacities."""

    @model_validator(mode="after")
    def _whole_bytes(self) -> Self:
        refuse(
            (("bs",), f"found {self.bs:g} bytes; expected 512 B to 1 GiB in whole bytes")
            if not 512 <= self.bs <= MAX_REQUEST or self.bs % 1
            else None,
            (("size",), "the region holds no request") if self.size and self.size < self.bs else None,
        )
        return self


@dataclass(frozen=True)
class SyntheticBlocks:
    """Requests of a workload on a drive of ``capacity`` bytes."""

    job: BlockWorkload
    capacity: int

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.name

    @property
    def count(self) -> int | None:
        """Number of requests."""
        return self.job.number_ios

    @property
    def blocks(self) -> int:
        """Requests that fit side by side into the region."""
        return self.region // int(self.job.bs)

    @property
    def region(self) -> int:
        """Bytes that are used."""
        rest = self.capacity - int(self.job.offset)
        return min(int(self.job.size), rest) if self.job.size is not None else rest

    def requests(self, start: int, count: int) -> BlockRequests:
        """Any stretch of the workload; the same for the same arguments."""
        job, total = self.job, np.uint64(self.blocks)
        index = np.arange(start, start + count, dtype=np.uint64)
        if job.rw.startswith("rand"):
            number = self._random(splitmix64(job.randseed, start, count))
        else:
            number = (splitmix64(job.randseed ^ 0xBA5E, 0, 1)[0] % total + index) % total
        address = number.astype(np.int64) * int(job.bs) + int(job.offset)
        return BlockRequests(
            self._operations(start, count), address, np.full(count, int(job.bs)), self._times(start, count)
        )

    def _random(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        total = self.blocks
        if self.job.zipf == 0:
            return words % np.uint64(total)
        # The continuous law inverted; a product with an odd number spreads the popular blocks over the region.
        share = ((words >> np.uint64(11)).astype(float) + 0.5) / 2**53
        a = 1 - self.job.zipf
        rank = np.exp(share * np.log(total)) if abs(a) < 1e-9 else (1 + share * (total**a - 1)) ** (1 / a)
        place = np.minimum(rank.astype(np.uint64) - np.uint64(1), np.uint64(total - 1))
        with np.errstate(over="ignore"):
            spread: npt.NDArray[np.uint64] = place * np.uint64(0x9E3779B1) % np.uint64(total)
        return spread

    def _operations(self, start: int, count: int) -> npt.NDArray[np.int64]:
        rw = self.job.rw
        if rw in _MIXED:
            draw = splitmix64(self.job.randseed ^ 0x5EED, start, count) % np.uint64(1_000_000)
            return np.where(draw < self.job.rwmixread * 10_000, READ, WRITE).astype(np.int64)
        one = TRIM if rw.endswith("trim") else (READ if rw.endswith("read") else WRITE)
        return np.full(count, one, np.int64)

    def _times(self, start: int, count: int) -> npt.NDArray[np.int64]:
        if self.job.rate_iops is None:
            return np.zeros(0, np.int64)
        # Exponential gaps of 4096 requests at a time are summed from the start of their group, whose own
        # start is exact; so any stretch can be made alone.
        group = 4096
        first = start // group
        last = (start + count - 1) // group
        words = splitmix64(self.job.randseed ^ 0x71AE, first * group, (last - first + 1) * group)
        share = ((words >> np.uint64(11)).astype(float) + 0.5) / 2**53
        gaps = -np.log(share).reshape(-1, group)
        gaps *= group / gaps.sum(axis=1, keepdims=True)
        whole = np.cumsum(gaps, axis=1) + group * np.arange(first, last + 1)[:, None]
        times = (whole.ravel() / self.job.rate_iops * 1e9).astype(np.int64)
        return times[start - first * group :][:count]

    def chunks(self, size: int) -> Iterator[BlockRequests]:
        """The workload from its beginning, at most ``size`` requests at a time."""
        for start in range(0, self.job.number_ios, size):
            yield self.requests(start, min(size, self.job.number_ios - start))


def synthetic_blocks(job: BlockWorkload, capacity: int) -> SyntheticBlocks:
    """The requests of a job on a drive. Raises ``InputError`` when its region does not fit."""
    made = SyntheticBlocks(job, capacity)
    if made.region < job.bs or (job.size is not None and job.offset + job.size > capacity):
        raise bad_input(
            f"{job.name}: offset {int(job.offset)} and size {int(job.size or job.bs)} leave the drive's "
            f"{capacity} bytes"
        )
    return made


def load_workload(path: str | Path) -> BlockWorkload:
    """A workload from a YAML file; ``InputError`` with every problem of it."""
    return parse(BlockWorkload, read_yaml(path))
