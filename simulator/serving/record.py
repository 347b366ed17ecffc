"""What a run of a service leaves behind: columns per request, per step, per transfer and per gap between tokens.

Results, reports and studies read this and nothing else. While a run goes on, a :class:`Recorder` grows the columns in
packed arrays, so that no Python object is kept per token or per step.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["RequestColumns", "ServiceRecord", "StepColumns", "TokenGaps", "TransferColumns"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_CODES: Final = {"Ints": "q", "Floats": "d"}


@dataclass(frozen=True, eq=False)
class Columns:
    """Arrays of one length by name."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(getattr(self, fields(self)[0].name))

    def to_dict(self) -> dict[str, npt.NDArray[Any]]:
        """The columns by name."""
        return {column.name: getattr(self, column.name) for column in fields(self)}


@dataclass(frozen=True, eq=False)
class RequestColumns(Columns):
    """One row a request, in the order of their numbers. Times in seconds from the run's beginning; NaN: never."""

    arrival_s: Floats
    """When it was sent; of a closed loop or a session, not the file's time."""
    first_scheduled_s: Floats
    """Start of the first step that computed something for it."""
    first_token_s: Floats
    last_token_s: Floats
    tokens: Ints
    """Tokens of its answer that were delivered, each once."""
    preemptions: Ints
    cached_prompt_tokens: Ints
    """Prompt tokens found in a cache when it was first admitted."""
    replica: Ints
    """Worker that gave the last token; -1: none."""
    prefill_replica: Ints
    """Worker that gave the first token; another where prefill and decode are apart."""
    retries: Ints
    """Times that it began again because its worker had failed."""
    transfer_s: Floats
    """Seconds from the end of its prompt until its cache was at the worker that goes on with it."""


@dataclass(frozen=True, eq=False)
class StepColumns(Columns):
    """One row a step, in the order of their starts; a replica's groups are one step."""

    replica: Ints
    start_s: Floats
    seconds: Floats
    """As long as it ran: less than its cost where the worker failed."""
    device_s: Floats
    host_s: Floats
    communication_s: Floats
    joules: Floats
    tokens: Ints
    """Tokens computed: of prompts, last tokens, drafts."""
    prefill_tokens: Ints
    """Of ``tokens``, those of prompts, and of answers that are computed again."""
    sequences: Ints
    waiting: Ints
    """Requests that wait, once the step is scheduled."""
    running: Ints
    free_blocks: Ints
    delivered: Ints
    """Tokens that the step brought to clients."""
    lost: Ints
    """1: the worker failed in it, and nothing of it counts."""


@dataclass(frozen=True, eq=False)
class TransferColumns(Columns):
    """One row a cache that went from one worker to another, in the order of their ends."""

    request: Ints
    source: Ints
    target: Ints
    ready_s: Floats
    """When its prompt was computed; NaN where that was lost before."""
    begin_s: Floats
    """When a target was booked: before ``ready_s`` where layers leave early, after it where no target had room."""
    end_s: Floats
    bytes: Floats
    joules: Floats
    """Of the wires, and of the memories that it was read from and written to."""
    lost: Ints
    """1: a worker had failed when it came."""


@dataclass(frozen=True, eq=False)
class TokenGaps:
    """Seconds between a request's successive tokens, over all requests: each value once, with how often.

    ``request`` and ``gap_s`` hold every gap in the order of delivery where a run was asked to keep them, else nothing.
    """

    values_s: Floats
    """Ascending and distinct."""
    counts: Ints
    request: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    gap_s: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def total(self) -> int:
        """Number of gaps."""
        return int(self.counts.sum())

    def mean(self) -> float:
        """Mean gap in seconds; NaN without gaps."""
        return float(self.values_s @ self.counts / self.total) if self.total else float("nan")

    def quantile(self, share: float) -> float:
        """The gap in seconds that at least this share of all gaps do not exceed; NaN without gaps.

        >>> TokenGaps(np.array([0.1, 0.5]), np.array([99, 1])).quantile(0.99)
        0.1
        """
        if not self.total:
            return float("nan")
        rank = max(int(np.ceil(share * self.total - 1e-9)), 1)
        return float(self.values_s[np.searchsorted(np.cumsum(self.counts), rank)])


@dataclass(frozen=True, eq=False)
class ServiceRecord:
    """All that a run leaves. ``workers``: names by number; ``devices``: devices of each."""

    requests: RequestColumns
    steps: StepColumns
    transfers: TransferColumns
    gaps: TokenGaps
    workers: tuple[str, ...]
    devices: tuple[int, ...]
    end_s: float
    """When the last token came."""
    lost_tokens: int = 0
    """Tokens that were computed again after failures, beyond those delivered."""
    down_s: tuple[float, ...] = ()
    """Seconds that each worker was down until the end."""
    moved_bytes: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Cache bytes that came from the host's memory, went there, came from drives, went there."""
    rejected: dict[int, str] = field(default_factory=dict)
    """Requests that no worker could ever answer, and why."""

    def with_rejected(self, kept: npt.NDArray[np.bool_], rejected: dict[int, str]) -> ServiceRecord:
        """The record of all requests, of which those where ``kept`` holds were served and the others rejected."""
        place = np.flatnonzero(kept)
        columns = {}
        for name, own in self.requests.to_dict().items():
            none = -1 if name in ("replica", "prefill_replica") else 0
            columns[name] = np.full(len(kept), np.nan if own.dtype.kind == "f" else none, own.dtype)
            columns[name][place] = own
        transfers = replace(self.transfers, request=place[self.transfers.request])
        gaps = replace(self.gaps, request=place[self.gaps.request])
        return replace(
            self, requests=RequestColumns(**columns), transfers=transfers, gaps=gaps, rejected=rejected
        )

    def to_bytes(self) -> bytes:
        """Every column one after another: two runs are the same when these are."""
        parts = [self.requests, self.steps, self.transfers]
        arrays = [a for part in parts for a in part.to_dict().values()]
        arrays += [self.gaps.values_s, self.gaps.counts, self.gaps.request, self.gaps.gap_s]
        return b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)


class Growing:
    """Rows of a kind of columns while they are made."""

    def __init__(self, kind: type[Columns]) -> None:
        self.kind = kind
        self.columns = [array(_CODES[str(column.type)]) for column in fields(kind)]
        self.appends = [column.append for column in self.columns]
        self.names = [column.name for column in fields(kind)]

    def add(self, *row: float) -> int:
        """Append a row in the order of the kind's fields; its place."""
        for append, value in zip(self.appends, row, strict=True):
            append(value)  # type: ignore[arg-type]
        return len(self.columns[0]) - 1

    def set(self, place: int, name: str, value: float) -> None:
        """Change one entry."""
        self.columns[self.names.index(name)][place] = value  # type: ignore[call-overload]

    def done(self) -> Any:
        """The columns as arrays of their own."""
        made = [
            np.array(column, np.int64 if column.typecode == "q" else np.float64) for column in self.columns
        ]
        return self.kind(*made)


class GapCounter:
    """Counts gaps between tokens exactly; ``keep`` keeps each of them as well."""

    def __init__(self, keep: bool = False) -> None:
        self.values, self.counts = array("d"), array("q")
        self.keep = keep
        self.request: list[Ints] = []
        self.gap: list[Floats] = []

    def add(self, request: Ints, gaps: Floats) -> None:
        """One gap of each request."""
        if not len(gaps):
            return
        if self.keep:
            self.request.append(request.copy())
            self.gap.append(gaps.copy())
        if gaps[0] == gaps[-1] and (gaps == gaps[0]).all():
            self.values.append(float(gaps[0]))
            self.counts.append(len(gaps))
            return
        values, counts = np.unique(gaps, return_counts=True)
        self.values.extend(values.tolist())
        self.counts.extend(counts.tolist())

    def done(self) -> TokenGaps:
        """All gaps so far."""
        values, place = np.unique(np.array(self.values, np.float64), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, place, np.array(self.counts, np.int64))
        if not self.request:
            return TokenGaps(values, counts)
        return TokenGaps(values, counts, np.concatenate(self.request), np.concatenate(self.gap))
