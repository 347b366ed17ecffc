"""MLCommons Chakra execution traces: compute, memory and communication nodes, one file per rank.

``num_ops`` are the FLOPs of a compute node and ``tensor_size`` the bytes it touches. A trace says neither the
precision, so fp16 is assumed, nor the kind of work, so a node of many FLOPs per byte is taken for a product, nor any
shape, so that product is priced as a square one of the same FLOPs, and any other node as one long row of the bytes it
touches. Nodes with ``is_cpu_op`` are the host's, on the thread ``tid``; others are a device's, on the stream ``stream``
(or ``tid``) where the trace names one. ``duration_micros`` is the measured time.

All ranks of a job are a folder or a pattern of files ``NAME.<rank>.et``; a file whose siblings lie beside it brings
them along. One file alone stands for ``--tp N`` ranks only where that is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from hw_configs.problems import InputError, Problem, bad_input
from workloads.dtypes import BITS
from workloads.graph import Attribute
from workloads.imported import refuse_resizing, uncosted_operators
from workloads.operators import (
    AllGather,
    AllReduce,
    AllToAll,
    Broadcast,
    CollectiveWork,
    Copy,
    Custom,
    Elementwise,
    Host,
    Product,
    Receive,
    ReduceScatter,
    Rows,
    Send,
    View,
    Work,
)
from workloads.recorded.chakra_file import NODE_TYPES, TraceNode, begins_trace, read_trace
from workloads.recorded.graph import recorded_graph, replicated
from workloads.recorded.lone_rank import alone
from workloads.recorded.nodes import RankTrace, RecordedNode, Role
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["IMPORTER"]

MAX_PROBLEMS: Final = 50
MAX_RANKS: Final = 65536
PRODUCT_INTENSITY: Final = 16
"""FLOPs per byte beyond which a compute node is taken for a product: pointwise work does less (assumption)."""

_COLLECTIVES: Final = (
    "all_reduce", "reduce", "all_gather", "gather", "scatter", "broadcast", "all_to_all", "reduce_scatter",
    "reduce_scatter_block", "barrier",
)  # fmt: skip
_COLLECTIVE: Final[Mapping[str, type[CollectiveWork]]] = {
    "all_reduce": AllReduce, "reduce": AllReduce, "all_gather": AllGather, "gather": AllGather,
    "scatter": Broadcast, "broadcast": Broadcast, "all_to_all": AllToAll, "reduce_scatter": ReduceScatter,
    "reduce_scatter_block": ReduceScatter, "barrier": AllReduce,
}  # fmt: skip
"""Rooted collectives run as the nearest one that all ranks take part in, which moves at least as much; a
barrier is a reduction of nothing. The trace's own name is kept as the operator's ``source``."""
_DTYPE: Final = "fp16"
"""The precision that is assumed of a trace."""
_RANK_IN_NAME: Final = re.compile(r"(?P<stem>.*)\.(?P<rank>\d{1,6})\.et", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class _File:
    """One rank's file, read."""

    rank: int
    path: Path
    nodes: Sequence[TraceNode]


# --- files -----------------------------------------------------------------------------------------------


def _files_of(path: Path) -> list[tuple[int, Path]]:
    """The files of all ranks with their ranks: those of a folder, of a pattern, or the siblings of one file."""
    if path.is_dir():
        return _numbered(sorted(path.glob("*.et")), str(path))
    if "*" in path.name:
        return _numbered(sorted(path.parent.glob(path.name)), str(path))
    found = _RANK_IN_NAME.fullmatch(path.name)
    if found is None:
        return [(0, path)]
    siblings = [
        other
        for other in path.parent.iterdir()
        if (match := _RANK_IN_NAME.fullmatch(other.name)) is not None and match["stem"] == found["stem"]
    ]
    return _numbered(siblings, str(path)) if len(siblings) > 1 else [(int(found["rank"]), path)]


def _numbered(paths: Sequence[Path], where: str) -> list[tuple[int, Path]]:
    ranks: dict[int, Path] = {}
    problems = []
    for path in paths:
        found = _RANK_IN_NAME.fullmatch(path.name)
        if found is None:
            problems.append(Problem("names no rank; expected NAME.<rank>.et", str(path)))
        elif int(found["rank"]) in ranks:
            other = ranks[int(found["rank"])].name
            message = f"is rank {int(found['rank'])}, as {other} is; name one trace: 'NAME.*.et'"
            problems.append(Problem(message, str(path)))
        else:
            ranks[int(found["rank"])] = path
    missing = [rank for rank in range(len(ranks)) if rank not in ranks]
    if not problems and missing:
        problems.append(Problem(f"there is no file of rank {missing[0]} beside {len(ranks)} others", where))
    if problems or not ranks:
        raise InputError(problems[:MAX_PROBLEMS] or [Problem("holds no file NAME.<rank>.et", where)])
    return sorted(ranks.items())


def _read(rank: int, path: Path) -> tuple[str, _File]:
    version, nodes = read_trace(path)
    if not nodes:
        raise bad_input("the trace holds no node", file=str(path))
    taken: set[int] = set()
    problems = []
    for node in nodes:
        if node.id in taken:
            problems.append(Problem(f"two nodes have the id {node.id}", str(path), None, node.name or None))
        taken.add(node.id)
    if problems:
        raise InputError(problems[:MAX_PROBLEMS])
    if all(node.start_us for node in nodes):
        return version, _File(rank, path, sorted(nodes, key=lambda node: (node.start_us, node.id)))
    return version, _File(rank, path, sorted(nodes, key=lambda node: node.id))


# --- nodes -----------------------------------------------------------------------------------------------


class _Reader:
    """Makes recorded nodes of one file's nodes, and collects what is wrong with them."""

    def __init__(self, file: _File, groups: Mapping[str, tuple[int, ...]], ranks: int) -> None:
        self.file, self.groups, self.ranks = file, groups, ranks
        self.problems: list[Problem] = []
        self.kept_apart = 0

    def trace(self) -> RankTrace:
        nodes = tuple(self._node(node) for node in self.file.nodes)
        if self.problems:
            more = len(self.problems) - MAX_PROBLEMS
            last = [Problem(f"and {more} more", str(self.file.path))] if more > 0 else []
            raise InputError([*self.problems[:MAX_PROBLEMS], *last])
        return RankTrace(self.file.rank, str(self.file.path), nodes)

    def _node(self, node: TraceNode) -> RecordedNode:
        role = _role(node)
        size = self._size(node)
        source = self._source(node, role)
        arriving = size if node.type == "memory_load" else 0
        moved = size if role in ("device", "collective") else 0
        return RecordedNode(
            node.id, node.name, role, _stream(node, role), (*node.data_dependencies, *node.control_dependencies),
            self._work(node, role, source, size), source, _DTYPE, moved, 0 if node.type == "compute" else moved,
            arriving, node.runtime_us * 1e-6 if node.runtime_us else None, self._peer(node, role),
            self._count(node, "comm_tag"), self._group(node, role), _text(node, "pg_name", "comm_group"),
        )  # fmt: skip

    def _problem(self, node: TraceNode, message: str) -> None:
        self.problems.append(Problem(message, str(self.file.path), None, node.name or f"node {node.id}"))

    def _count(self, node: TraceNode, *keys: str) -> int:
        """The first of the attributes that is there, a finite number of at least zero; 0 where none is."""
        for key in keys:
            value = node.attributes.get(key)
            if value is None:
                continue
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**60:
                return int(value)
            self._problem(node, f"{key}: found {value!r:.40}; expected a number of 0 or more")
            return 0
        return 0

    def _size(self, node: TraceNode) -> int:
        first = "tensor_size" if node.type == "compute" else "comm_size"
        return self._count(node, *dict.fromkeys((first, "tensor_size")))

    def _source(self, node: TraceNode, role: Role) -> str:
        """What the trace calls it."""
        if node.type not in NODE_TYPES:
            self._problem(
                node, f"found {node.type}; expected type 0 to {len(NODE_TYPES) - 1} ({', '.join(NODE_TYPES)})"
            )
        if role != "collective":
            return node.type
        index = node.attributes.get("comm_type")
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(_COLLECTIVES):
            return _COLLECTIVES[index]
        known = ", ".join(f"{number} {name}" for number, name in enumerate(_COLLECTIVES))
        self._problem(node, f"comm_type: found {index!r}; expected one of {known}")
        return _COLLECTIVES[0]

    def _peer(self, node: TraceNode, role: Role) -> int:
        if role not in ("send", "receive"):
            return -1
        key = "comm_dst" if role == "send" else "comm_src"
        if key not in node.attributes:
            self._problem(node, f"has no {key}; expected the rank at the other end")
        return self._count(node, key)

    def _group(self, node: TraceNode, role: Role) -> tuple[int, ...]:
        """The ranks of a collective: those that name its group, else as many neighbours as it says, else all."""
        if role != "collective":
            return ()
        named = self.groups.get(_text(node, "pg_name", "comm_group"), ())
        size = self._count(node, "comm_group_size", "group_size")
        if not size or size == self.ranks or len(named) == size or self.ranks == 1:
            return named if len(named) == size else ()
        if size > self.ranks or self.ranks % size:
            self._problem(node, f"its group has {size} ranks; there are {self.ranks}")
            return ()
        first = self.file.rank // size * size
        return tuple(range(first, first + size))

    def _work(self, node: TraceNode, role: Role, source: str, size: int) -> Work:
        if role == "host":
            return Host()
        if role == "collective":
            return _COLLECTIVE[source](bytes=0 if source == "barrier" else size)
        if role == "send":
            return Send(bytes=size, peer=self._count(node, "comm_dst"))
        if role == "receive":
            return Receive(bytes=size, peer=self._count(node, "comm_src"))
        if node.type == "compute":
            return _computed(float(self._count(node, "num_ops")), size)
        if node.type == "memory_load":
            return Copy(m=1, n=size)  # the bytes that arrive
        if node.type in ("memory_store", "storage", "checkpoint"):
            return _long_row(Copy, 0.0, size)
        return View()


def _role(node: TraceNode) -> Role:
    if node.attributes.get("is_cpu_op") is True:
        return "host"
    if node.type in ("collective", "send", "receive"):
        return cast(Role, node.type)
    return (
        "device"
        if node.type in ("compute", "memory_load", "memory_store", "storage", "checkpoint")
        else "mark"
    )


def _stream(node: TraceNode, role: Role) -> str:
    """The thread or stream that the trace names; empty where it names none."""
    if role in ("send", "receive", "mark"):
        return ""
    keys = ("tid",) if role == "host" else ("stream", "tid")
    number = next((node.attributes[key] for key in keys if key in node.attributes), None)
    return "" if number is None else f"{'thread' if role == 'host' else 'stream'} {number}"


def _text(node: TraceNode, *keys: str) -> str:
    return next((str(node.attributes[key]) for key in keys if node.attributes.get(key) not in (None, "")), "")


def _computed(flops: float, size: int) -> Work:
    """A square product of the FLOPs where there are many per byte, pointwise work otherwise."""
    if flops > PRODUCT_INTENSITY * size:
        side = max(1, round((flops / 2) ** (1 / 3)))
        square = Product(m=side, n=side, k=side)
        return replace(square, extra_flops=flops - square.flops)
    return _long_row(Elementwise, flops, size) if size else Custom()


def _long_row(kind: type[Rows], flops: float, size: int) -> Rows:
    elements = max(1, math.ceil(size * 8 / BITS[_DTYPE]))
    return kind(m=1, n=elements, flops_per_element=flops / elements)


# --- the workload ----------------------------------------------------------------------------------------


def _groups(files: Sequence[_File]) -> dict[str, tuple[int, ...]]:
    """The ranks that name each group, where several ranks' files are there to say it."""
    found: dict[str, dict[int, None]] = {}
    for file in files if len(files) > 1 else ():
        for node in file.nodes:
            name = _text(node, "pg_name", "comm_group") if _role(node) == "collective" else ""
            if name:
                found.setdefault(name, {})[file.rank] = None
    return {name: tuple(ranks) for name, ranks in found.items()}


class _ChakraImporter:
    """Reads Chakra traces; see :class:`workloads.importers.Importer`."""

    FORMAT = "a Chakra execution trace"

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the name, or by a first message that is the metadata of a trace."""
        if path.suffix.lower() == ".et":
            return True
        return head.lstrip()[:1] not in (b"{", b"[") and begins_trace(head)

    def gathers(self, path: Path) -> bool:
        """A folder with traces, or a pattern of them."""
        if path.is_dir():
            return next(path.glob("*.et"), None) is not None
        return "*" in path.name and path.suffix.lower() == ".et"

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The traces of all ranks as a workload of one phase."""
        refuse_resizing(options, str(path))
        if options.phase is not None:
            raise bad_input("a trace holds what ran; leave this option out", file=str(path), path="--phase")
        read = [_read(rank, file) for rank, file in _files_of(path)]
        files, schema = [file for _, file in read], read[0][0]
        traces, notes = self._ranks(files, options)
        replay = recorded_graph(files[0].path.stem, traces, options.durations)
        metadata: dict[str, Attribute] = {
            "format": "chakra",
            "schema": schema or "unknown",
            "ranks": len(traces),
            "durations": options.durations,
        }
        graph = replay.graph
        return Workload(
            graph.name, [Phase("forward", "forward", graph)], metadata, uncosted_operators(graph),
            notes=(*notes, *replay.notes),
        )  # fmt: skip

    def _ranks(self, files: Sequence[_File], options: WorkloadOptions) -> tuple[list[RankTrace], list[str]]:
        groups = _groups(files)
        if len(files) > 1:
            if options.ranks not in (0, len(files)):
                raise bad_input(
                    f"found {options.ranks}; the trace has the files of {len(files)} ranks", path="--tp"
                )
            notes = [f"ranks 0 to {len(files) - 1}, each by its own file, on a device each"]
            return [_Reader(file, groups, len(files)).trace() for file in files], notes
        count = options.ranks or 1
        if count > MAX_RANKS:
            raise bad_input(f"found {count}; expected at most {MAX_RANKS}", path="--tp")
        trace = _Reader(replace(files[0], rank=min(files[0].rank, count - 1)), groups, count).trace()
        if count == 1:
            lone, notes = alone(trace, options.durations)
            return [lone], notes
        note = (
            f"{files[0].path}: one rank's trace stands for all {count}; peers are those at the same distance"
        )
        return replicated(trace, count), [note]


IMPORTER: Final = _ChakraImporter()
