"""Communication of an operator table."""

from __future__ import annotations

from typing import Final

from workloads.operator_table.cells import Built, Cells, Rule, UnfitError
from workloads.operators import AllGather, AllReduce, AllToAll, Broadcast, CollectiveWork, ReduceScatter, Send

__all__ = ["OPS"]


def _group(c: Cells) -> int:
    group = c("n_devices", 2)
    if group < 2:
        raise UnfitError("communication needs n_devices of 2 or more")
    return group


def _collective(kind: type[CollectiveWork]) -> Rule:
    def build(c: Cells) -> Built:
        size, group = c("bytes"), _group(c)
        return Built(kind(bytes=size, group=group), size, size)

    return build


def _send(c: Cells) -> Built:
    size, _ = c("bytes"), _group(c)
    return Built(Send(bytes=size, peer=1), size, size)


OPS: Final[dict[str, Rule]] = {
    "all_reduce": _collective(AllReduce), "allreduce": _collective(AllReduce),
    "all_gather": _collective(AllGather), "allgather": _collective(AllGather),
    "reduce_scatter": _collective(ReduceScatter),
    "alltoall": _collective(AllToAll), "all_to_all": _collective(AllToAll),
    "broadcast": _collective(Broadcast),
    "send_recv": _send, "send": _send,
}  # fmt: skip
