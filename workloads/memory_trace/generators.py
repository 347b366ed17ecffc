"""Synthetic memory traces: streams, strides, random and mixed accesses, GEMV weights, KV-cache gathers.

Every trace is a function of its pattern, its length, a seed and the geometry of the memory, and any stretch
of it can be made without the rest, so that 100 M requests need no more memory than one chunk. Random numbers
are SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) used as a counter: value k of stream s mixes (s + k + 1)
golden-ratio steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.memory_trace.trace import Period, Requests

__all__ = ["PATTERNS", "Geometry", "SyntheticTrace", "generate", "splitmix64"]

Words = npt.NDArray[np.uint64]
MOST_REQUESTS: Final = 2**40
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(seed: int, start: int, count: int) -> Words:
    """Values ``start`` to ``start + count`` of stream ``seed``."""
    with np.errstate(over="ignore"):
        index = np.arange(start + 1, start + count + 1, dtype=np.uint64)
        z = np.uint64(seed % 2**64) * _GOLDEN + index * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a pattern must know of the memory it walks.

    ``row_transactions`` fit in one row of one bank; ``ranks`` counts all levels above the bank group together
    (ranks, pseudo-channels, stacks).
    """

    transaction_bytes: int
    row_transactions: int
    ranks: int
    bank_groups: int
    banks: int
    rows: int

    def __post_init__(self) -> None:
        problems = [
            Problem(f"found {value}; expected a power of two", path=name)
            for name, value in (("transaction_bytes", self.transaction_bytes),)
            if value < 1 or value & (value - 1)
        ]
        problems += [Problem("found 0; expected 1 or more", path="transactions")] * (self.transactions < 1)
        if problems:
            raise InputError(problems)

    @property
    def stripe(self) -> int:
        """Transactions of one row of every bank."""
        return self.row_transactions * self.ranks * self.bank_groups * self.banks

    @property
    def transactions(self) -> int:
        """Transactions of the whole memory."""
        return self.stripe * self.rows


@dataclass(frozen=True)
class _Stretch:
    """Requests ``start`` to ``start + count`` of a trace are wanted."""

    start: int
    count: int
    seed: int
    geometry: Geometry
    base: np.uint64

    @property
    def index(self) -> Words:
        return np.arange(self.start, self.start + self.count, dtype=np.uint64)

    def random(self, per_request: int = 1) -> Words:
        return splitmix64(self.seed, self.start * per_request, self.count * per_request)


_Made = tuple[Words, npt.NDArray[np.bool_] | None]
"""Transaction numbers (before wrapping into the memory) and which of them are writes (None: none)."""


def _stream(s: _Stretch) -> _Made:
    return s.base + s.index, None


def _random(s: _Stretch) -> _Made:
    return s.random(), None


def _stride_row(s: _Stretch) -> _Made:
    """A new row of the same bank every time (where the row is the top field of the mapping)."""
    return s.base + s.index * np.uint64(s.geometry.stripe), None


def _stride_bank(s: _Stretch) -> _Made:
    """One access per row, walking ranks, bank groups and banks before the next row."""
    return s.base + s.index * np.uint64(s.geometry.row_transactions), None


def _bank_group_spread(s: _Stretch) -> _Made:
    """Turn about over the bank groups, row hits inside each bank."""
    g = s.geometry
    groups, row = np.uint64(g.bank_groups), np.uint64(g.row_transactions)
    i = s.index
    group, column, deeper = i % groups, (i // groups) % row, i // (groups * row)
    return s.base + column + group * np.uint64(g.row_transactions * g.ranks) + deeper * np.uint64(
        g.stripe
    ), None


def _mixed_random(s: _Stretch) -> _Made:
    """Random addresses, one third of them writes."""
    r = s.random(2)
    return r[0::2], (r[1::2] % np.uint64(3)) == 0


def _mixed_stream(s: _Stretch) -> _Made:
    """Two sequential read streams and one sequential write stream, a quarter of the memory apart."""
    i = s.index
    which = i % np.uint64(3)
    return s.base + which * np.uint64(s.geometry.transactions // 4) + i // np.uint64(3), which == 2


def _gemv(s: _Stretch) -> _Made:
    """Weights read in order; one result written after every row of weights."""
    row = np.uint64(s.geometry.row_transactions)
    k, j = s.index // (row + np.uint64(1)), s.index % (row + np.uint64(1))
    write = j == row
    half = np.uint64(s.geometry.transactions // 2)
    return np.where(write, s.base + half + k, s.base + k * row + j), write


def _hot_set(s: _Stretch) -> _Made:
    """Random over 64 rows of every bank: hits and conflicts mixed."""
    return s.base + s.random() % np.uint64(s.geometry.stripe * 64), None


def _reuse(s: _Stretch) -> _Made:
    """Half writes over 512 transactions: forwarding and coalescing."""
    r = s.random(2)
    return s.base + r[0::2] % np.uint64(512), (r[1::2] & np.uint64(1)) == 0


def _kv_gather(s: _Stretch) -> _Made:
    """Keys and values of scattered tokens: 16 transactions in a row, then another place."""
    run = np.uint64(16)
    first, within = s.index // run, s.index % run
    starts = splitmix64(
        s.seed, int(first[0]) if s.count else 0, int(first[-1] - first[0]) + 1 if s.count else 0
    )
    where = starts[(first - first[0]).astype(np.int64)] if s.count else starts
    return s.base + where // run * run + within, None


_MAKERS: Final[dict[str, Callable[[_Stretch], _Made]]] = {
    "seq_read": _stream,
    "rand_read": _random,
    "stride_row": _stride_row,
    "stride_bank": _stride_bank,
    "bg_spread": _bank_group_spread,
    "mix21_rand": _mixed_random,
    "mix21_stream": _mixed_stream,
    "gemv": _gemv,
    "hot_rand": _hot_set,
    "rw_reuse": _reuse,
    "kv_gather": _kv_gather,
}

PATTERNS: Final = tuple(_MAKERS)
"""Names of the synthetic patterns."""


def _period(pattern: str, g: Geometry) -> Period | None:
    """The smallest stretch after which a pattern repeats itself a row further on."""
    tx = g.transaction_bytes
    stripe = g.stripe * tx
    if pattern == "seq_read":
        return Period(g.stripe, stripe)
    if pattern == "stride_row":
        return Period(1, stripe)
    if pattern == "stride_bank":
        return Period(g.ranks * g.bank_groups * g.banks, stripe)
    if pattern == "bg_spread":
        return Period(g.bank_groups * g.row_transactions, stripe)
    if pattern == "mix21_stream":
        return Period(3 * g.stripe, stripe)
    return None


def _inside(transactions: Words, g: Geometry) -> Words:
    """Transaction numbers wrapped into the memory."""
    total = g.transactions
    wrapped: Words = (
        transactions % np.uint64(total) if total & (total - 1) else transactions & np.uint64(total - 1)
    )
    return wrapped


@dataclass(frozen=True)
class SyntheticTrace:
    """``count`` requests of a pattern over a memory of the given geometry."""

    pattern: str
    count: int | None
    seed: int
    geometry: Geometry
    name: str = ""

    @property
    def period(self) -> Period | None:
        """When the pattern repeats itself (wrapping at the end of the memory ends that)."""
        return _period(self.pattern, self.geometry)

    def requests(self, start: int, count: int) -> Requests:
        """Any stretch of the trace; the same for the same arguments."""
        g = self.geometry
        stripe = np.uint64(g.stripe)
        base = _inside(splitmix64(self.seed ^ 0xBA5E, 0, 1), g)[0] // stripe * stripe
        with np.errstate(over="ignore"):
            transactions, write = _MAKERS[self.pattern](_Stretch(start, count, self.seed, g, base))
        address = (_inside(transactions, g) * np.uint64(g.transaction_bytes)).astype(np.int64)
        written = np.zeros(count, np.uint8) if write is None else write.astype(np.uint8)
        return Requests(address, written, np.zeros(0, np.int64))

    def chunks(self, size: int) -> Iterator[Requests]:
        """The trace from its beginning, at most ``size`` requests at a time."""
        assert self.count is not None
        for start in range(0, self.count, size):
            yield self.requests(start, min(size, self.count - start))


def generate(pattern: str, count: int, seed: int, geometry: Geometry) -> SyntheticTrace:
    """The trace of a pattern by name. Raises ``InputError`` for an unknown pattern or a length below one."""
    if pattern not in _MAKERS:
        raise bad_input(
            f"unknown pattern {pattern!r}; known: {', '.join(PATTERNS)}",
            suggestion=nearest(pattern, PATTERNS),
        )
    if count < 1 or not math.isfinite(count):
        raise bad_input(f"found {count} requests; expected 1 or more")
    if count > MOST_REQUESTS:
        raise bad_input(f"found {count} requests; expected at most {MOST_REQUESTS}")
    return SyntheticTrace(pattern, count, seed, geometry, f"{pattern}:{count}:{seed}")
