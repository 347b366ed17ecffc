"""What a recorded trace holds, whatever tool wrote it: the nodes of one rank, each with its stream and its waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from workloads.operators import CollectiveWork, Custom, Work

__all__ = ["RankTrace", "RecordedNode", "Role", "clipped", "replayed_s"]

MAX_NAME: Final = 60
Role = Literal["host", "device", "collective", "send", "receive", "mark"]


@dataclass(frozen=True, slots=True)
class RecordedNode:
    """One thing that a rank did. It starts after its ``waits`` and after what stands before it on its stream.

    ``role``: work of the host's software, of the device, communication, or a mark that takes no time. ``moved_bytes``
    are those that it reads from its device's memory, ``written_bytes`` those that it writes, ``arriving_bytes`` those
    that it leaves there for its readers. ``peer`` and ``tag`` belong to messages, ``group`` (the ranks, in order)
    and ``group_name`` to collectives; an empty group is all ranks.
    """

    id: int
    name: str
    role: Role
    stream: str
    waits: tuple[int, ...] = ()
    work: Work = field(default_factory=Custom)
    source: str = ""
    dtype: str = "fp16"
    moved_bytes: int = 0
    written_bytes: int = 0
    arriving_bytes: int = 0
    measured_s: float | None = None
    peer: int = -1
    tag: int = 0
    group: tuple[int, ...] = ()
    group_name: str = ""


@dataclass(frozen=True, slots=True)
class RankTrace:
    """The nodes of one rank, in the order in which they were recorded."""

    rank: int
    file: str
    nodes: tuple[RecordedNode, ...]


def clipped(name: str) -> str:
    """A name short enough for a message: those of kernels run over lines."""
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."


def replayed_s(node: RecordedNode, durations: str) -> float | None:
    """The recorded time that a replay gives a node; None where it is for the simulator to say.

    ``durations`` is one of :data:`workloads.workload.DURATIONS`. Of ``measured``: whatever was measured. Of ``model``:
    the host's software, which no model here predicts, and work of which the trace says neither operations nor bytes.
    """
    if node.role in ("send", "receive", "mark"):
        return 0.0
    if durations == "measured" or node.role == "host":
        return 0.0 if node.measured_s is None and node.role == "host" else node.measured_s
    told = isinstance(node.work, CollectiveWork) or node.work.flops or node.moved_bytes or node.written_bytes
    return None if told else node.measured_s
