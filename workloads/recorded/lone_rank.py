"""One rank of a recorded job without the others: on one device its collectives take the time that was measured."""

from __future__ import annotations

from dataclasses import replace

from hw_configs.problems import bad_input
from workloads.operators import Custom
from workloads.recorded.nodes import RankTrace, clipped

__all__ = ["alone"]


def alone(trace: RankTrace, durations: str) -> tuple[RankTrace, list[str]]:
    """The rank as the only one, and a note; ``InputError`` where what it does with others was not measured."""
    met = [node for node in trace.nodes if node.role in ("collective", "send", "receive")]
    if not met:
        return replace(trace, rank=0), []
    if durations == "model" or any(node.measured_s is None or node.role != "collective" for node in met):
        raise bad_input(
            f"{trace.file} is the work of one of several ranks ({len(met)} communication nodes, first "
            f"{clipped(met[0].name)!r}); name a folder with the files of all ranks, or give the number of ranks, which "
            "all do alike: --tp N",
            path="--tp",
        )
    nodes = tuple(
        replace(node, role="device", work=Custom(), moved_bytes=0, written_bytes=0)
        if node.role == "collective"
        else node
        for node in trace.nodes
    )
    note = f"{trace.file}: its {len(met)} collectives take their measured time; other ranks are not simulated"
    return RankTrace(0, trace.file, nodes), [note]
