"""Communication between ranks: collectives and messages. Links set their time, not devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from workloads.operators.work import Work, count, named

__all__ = [
    "AllGather", "AllReduce", "AllToAll", "Broadcast", "CollectiveWork", "Message", "Receive", "ReduceScatter", "Send",
]  # fmt: skip

_ROLES: Final = ("", "tensor", "context", "ulysses", "pipeline", "expert", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveWork(Work):
    """``group`` ranks exchange ``bytes``, the size of the whole result (of a rank's input for all-to-all)."""

    communicates: ClassVar[bool] = True

    bytes: int = count("B", "size of the whole result", least=0)
    group: int = count("ranks", "ranks that take part; 0: as many as the plan has", 0, 0)
    parallel: str = named("degree of parallelism whose ranks these are", "", _ROLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce(CollectiveWork):
    """Every rank gets the sum."""

    kind: ClassVar[str] = "all_reduce"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllGather(CollectiveWork):
    """Every rank gets all parts."""

    kind: ClassVar[str] = "all_gather"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceScatter(CollectiveWork):
    """Every rank gets its part of the sum."""

    kind: ClassVar[str] = "reduce_scatter"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllToAll(CollectiveWork):
    """Every rank sends a part to every other."""

    kind: ClassVar[str] = "all_to_all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast(CollectiveWork):
    """One rank's bytes go to all."""

    kind: ClassVar[str] = "broadcast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Work):
    """``bytes`` from one rank to another."""

    communicates: ClassVar[bool] = True

    bytes: int = count("B", "size of the message", least=0)
    peer: int = count("rank", "the rank at the other end", 0, 0)
    group: int = count("ranks", "ranks that meet, where a trace stands for all of them; 0: two", 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send(Message):
    """Point-to-point communication, this rank sending."""

    kind: ClassVar[str] = "send"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive(Message):
    """Point-to-point communication, this rank receiving."""

    kind: ClassVar[str] = "receive"
