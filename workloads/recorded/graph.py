"""The ranks of a recorded trace as one graph: their operators, the collectives in which they meet, their messages.

A trace says what a node waits for, not what it reads, so each node makes one tensor for those that wait for it, of
size 0. What arrives in a device's memory (a load, a message) is a tensor of its bytes, which lives until the nodes
that waited for its arrival have ended: a lower bound of memory. The n-th collective of a group is the same one on all
of its ranks; the n-th message from one rank to another with a tag is received by the n-th receive of that tag. A
message is sent when its sender is there, whether or not its receiver is; a message that no receive takes still crosses
the wires.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from hw_configs.problems import InputError, Problem, bad_input
from workloads.graph import Attribute, Graph, Operator, Place, Tensor, check_graph
from workloads.operators import AllToAll, CollectiveWork, Receive, Send, View
from workloads.recorded.nodes import RankTrace, RecordedNode, replayed_s
from workloads.recorded.order import in_order, without_cycles

__all__ = ["Replay", "recorded_graph"]

MAX_PROBLEMS = 50
_STREAMS = {"host": "host", "device": "compute", "collective": "communication", "mark": "host"}
"""Where nodes run of which the trace says no stream; sends and receives run on streams of their own."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A graph of all ranks, and what has to be said of it, a line each."""

    graph: Graph
    notes: tuple[str, ...]


def recorded_graph(name: str, ranks: Sequence[RankTrace], durations: str) -> Replay:
    """The graph of a trace's ranks; ``InputError`` where ranks do not meet, or wait for one another in a circle."""
    joined = _Ranks(name, ranks, durations)
    graph = joined.graph()
    replayed = sum(1 for op in graph.operators if op.measured_s and op.kind != "host")
    if replayed:
        joined.notes.append(
            f"{replayed} of {len(graph.operators)} operators take the time that was measured; what they moved and "
            "drew is not known, and counts in neither bytes nor energy"
        )
    return Replay(graph, tuple(joined.notes))


@dataclass(slots=True)
class _Met:
    """One collective: the key of each rank's node, by rank."""

    members: dict[int, int] = field(default_factory=dict)


class _Ranks:
    """All nodes under keys: ``place * ranks + rank``, so that equal places stand together."""

    def __init__(self, name: str, ranks: Sequence[RankTrace], durations: str) -> None:
        self.name, self.traces, self.durations = name, ranks, durations
        self.count = len(ranks)
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self.node: dict[int, RecordedNode] = {}
        self.waits: dict[int, list[int]] = {}
        self.file = ranks[0].file
        self.alike = all(trace.file == self.file for trace in ranks)
        for trace in ranks:
            self._take(trace)
        self.meeting: dict[int, _Met] = self._meetings()
        self.sent: dict[int, int] = self._messages()
        if self.problems:
            more = len(self.problems) - MAX_PROBLEMS
            last = [Problem(f"and {more} more", self.file)] if more > 0 else []
            raise InputError([*self.problems[:MAX_PROBLEMS], *last])

    def _take(self, trace: RankTrace) -> None:
        waits, cut = without_cycles(trace.nodes)
        if trace.rank == self.traces[0].rank or not self.alike:
            self.notes += cut.told(trace.file)
        for place, (node, before) in enumerate(zip(trace.nodes, waits, strict=True)):
            key = place * self.count + trace.rank
            self.node[key] = node
            self.waits[key] = [other * self.count + trace.rank for other in before]

    def _rank(self, key: int) -> int:
        return key % self.count

    def _problem(self, key: int, message: str) -> None:
        if self._rank(key) != self.traces[0].rank and self.alike:
            return  # the same is wrong on every rank that one trace stands for
        where = next(trace.file for trace in self.traces if trace.rank == self._rank(key))
        self.problems.append(Problem(message, where, None, self.node[key].name or None))

    # --- who meets whom ----------------------------------------------------------------------------------

    def _meetings(self) -> dict[int, _Met]:
        """The collective of each key that takes part in one."""
        queues: dict[tuple[str, tuple[int, ...]], dict[int, list[int]]] = {}
        for key in sorted(self.node):
            node = self.node[key]
            if node.role != "collective":
                continue
            group = node.group or tuple(range(self.count))
            if self._rank(key) not in group or max(group) >= self.count:
                message = f"its group of ranks is {_listed(group)}; expected some of 0 to {self.count - 1}, with rank "
                self._problem(key, f"{message}{self._rank(key)} among them")
                continue
            queues.setdefault((node.group_name, group), {}).setdefault(self._rank(key), []).append(key)
        found: dict[int, _Met] = {}
        for (_, group), by_rank in queues.items():
            for keys in zip_longest(*(by_rank.get(rank, []) for rank in group)):
                self._meet(group, keys, found)
        return found

    def _meet(self, group: tuple[int, ...], keys: Sequence[int | None], found: dict[int, _Met]) -> None:
        there = [key for key in keys if key is not None]
        first = self.node[there[0]]
        if len(there) < len(group):
            missing = [rank for rank, key in zip(group, keys, strict=True) if key is None]
            self._problem(
                there[0], f"ranks {_listed(group)} meet in it, and rank {missing[0]} has no collective left"
            )
            return
        for key in there[1:]:
            other = self.node[key]
            if other.work != first.work:
                self._problem(
                    key,
                    f"is {_told(other.work)} on rank {self._rank(key)}; it meets {first.name!r}, "
                    f"{_told(first.work)} on rank {self._rank(there[0])}",
                )
                return
        met = _Met(dict(zip(group, there, strict=True)))
        for key in there:
            found[key] = met

    def _messages(self) -> dict[int, int]:
        """Key of each receive to the key of the send whose message it takes; a receive is made for each other send."""
        waiting: dict[tuple[int, int, int], list[int]] = {}
        for key in sorted(self.node):
            node = self.node[key]
            if node.role not in ("send", "receive"):
                continue
            if not 0 <= node.peer < self.count or node.peer == self._rank(key):
                whom = f"{node.role}s {'to' if node.role == 'send' else 'from'} rank {node.peer}"
                self._problem(
                    key, f"{whom}; there are ranks 0 to {self.count - 1}, and this is rank {self._rank(key)}"
                )
            elif node.role == "send":
                waiting.setdefault((self._rank(key), node.peer, node.tag), []).append(key)
        found = {}
        for key in sorted(key for key, node in self.node.items() if node.role == "receive"):
            node = self.node[key]
            queue = waiting.get((node.peer, self._rank(key), node.tag), [])
            if queue:
                found[key] = queue.pop(0)
                if _size(self.node[found[key]]) != _size(node):
                    self._problem(
                        key, f"expects {_size(node)} B; rank {node.peer} sends {_size(self.node[found[key]])}"
                    )
            elif 0 <= node.peer < self.count and node.peer != self._rank(key):
                self._problem(
                    key, f"waits for a message of tag {node.tag} from rank {node.peer}, which sends no more"
                )
        left = [key for queue in waiting.values() for key in queue]
        for key in sorted(left):
            self._make_receive(key, found)
        if left:
            self.notes.append(
                f"{self.file}: {len(left)} messages that no receive takes cross the wires all the same"
            )
        return found

    def _make_receive(self, sender: int, found: dict[int, int]) -> None:
        sent = self.node[sender]
        place = max(self.node) // self.count + 1
        key = place * self.count + sent.peer
        work = Receive(bytes=_size(sent), peer=self._rank(sender))
        self.node[key] = RecordedNode(-1, f"arrival of {sent.name}", "receive", "", (), work, "receive")
        self.waits[key] = []
        found[key] = sender

    # --- operators ---------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        """All operators, in an order in which each comes after what it waits for."""
        self.label = self._labels()
        self.tensors: dict[str, Tensor] = {}
        self.position: dict[int, int] = {}
        self.starts: dict[int, str] = {}
        operators: list[Operator] = []
        for key in self._ordered():
            for member in self._members(key):
                self.position[member] = len(self.position)
            operators += self._operators(key)
        read = {tensor for op in operators for tensor in op.inputs}
        outputs = tuple(
            t for op in operators for t in op.outputs if t not in read and not self.tensors[t].size_bytes
        )
        metadata: dict[str, Attribute] = {
            "format": "recorded",
            "ranks": self.count,
            "durations": self.durations,
        }
        return check_graph(
            Graph(self.name, self.tensors, tuple(operators), outputs, metadata=metadata), self.file
        )

    def _members(self, key: int) -> list[int]:
        return list(self.meeting[key].members.values()) if key in self.meeting else [key]

    def _first(self, key: int) -> int:
        """The key that stands for all of a collective."""
        return next(iter(self.meeting[key].members.values())) if key in self.meeting else key

    def _ordered(self) -> list[int]:
        waits: dict[int, list[int]] = {}
        for key, before in self.waits.items():
            mine = waits.setdefault(self._first(key), [])
            mine += [self._first(other) for other in before]
            if key in self.sent:
                mine.append(self.sent[key])
        took = {key: node.measured_s or 0.0 for key, node in self.node.items()}
        order = in_order(waits, took)
        if order is None:
            raise bad_input("its ranks wait for one another in a circle", file=self.file)
        return order

    def _labels(self) -> dict[int, str]:
        """A name for each key; names repeat in traces, so the id follows a name that is not the first of its rank."""
        taken: set[str] = set()
        label: dict[int, str] = {}
        for key in sorted(self.node):
            node = self.node[key]
            name = node.name or f"node {node.id}"
            rank = f"@{self._rank(key)}" if self.count > 1 else ""
            made = name + rank
            if made in taken:
                made = f"{name} #{node.id}{rank}" if node.id >= 0 else f"{name} {key}{rank}"
            taken.add(made)
            label[key] = made
        return label

    def _operators(self, key: int) -> Iterable[Operator]:
        if key in self.meeting:
            yield from self._collective(self.meeting[key])
            return
        node, name = self.node[key], self.label[key]
        inputs = self._needs(key)
        outputs = [self._tensor(f"{name}.done", 0)]
        work = node.work
        if node.role == "send":
            outputs.append(self._tensor(f"{name}.message", _size(node)))
        elif node.role == "receive":
            inputs.append(f"{self.label[self.sent[key]]}.message")
        elif node.arriving_bytes:
            outputs.append(self._tensor(f"{name}.data", node.arriving_bytes))
        yield Operator(
            name, work, tuple(inputs), tuple(outputs), dtype=node.dtype, reads=(0,) * len(inputs),
            writes=(0,) * len(outputs), beside_read=node.moved_bytes, beside_written=node.written_bytes,
            place=Place(ranks=(self._rank(key),), stream=self._stream(node)),
            measured_s=replayed_s(node, self.durations), source=node.source,
        )  # fmt: skip

    def _collective(self, met: _Met) -> Iterable[Operator]:
        """The collective, after a join on each rank that has to wait for more than one thing."""
        keys = list(met.members.values())
        node, ranks = self.node[keys[0]], tuple(met.members)
        inputs = []
        for rank, key in met.members.items():
            needs = self._needs(key)
            if len(needs) > 1:
                join = f"{self.label[key]}.ready"
                yield Operator(
                    join, View(), tuple(needs), (self._tensor(f"{join}.done", 0),), reads=(0,) * len(needs),
                    writes=(0,), place=Place(ranks=(rank,), stream=self._stream(self.node[key])), measured_s=0.0,
                    source="join",
                )  # fmt: skip
                needs = [f"{join}.done"]
            inputs += needs or [self._start_of(rank)]
        outputs = [self._tensor(f"{self.label[key]}.done", 0) for key in keys]
        times = [replayed_s(self.node[key], self.durations) for key in keys]
        known = [time for time in times if time is not None]
        yield Operator(
            self.label[keys[0]], node.work, tuple(inputs), tuple(outputs), dtype=node.dtype, reads=(0,) * len(inputs),
            writes=(0,) * len(outputs), beside_read=node.moved_bytes, beside_written=node.written_bytes,
            place=Place(ranks=ranks, stream=self._stream(node)), measured_s=min(known) if known else None,
            source=node.source,
        )  # fmt: skip

    def _needs(self, key: int) -> list[str]:
        """What a node reads: of each stream the last thing it waits for, which ends after those before it."""
        latest: dict[tuple[int, str], int] = {}
        found: dict[str, None] = {}
        for other in self.waits[key]:
            before = self.node[other]
            for arrived in (f"{self.label[other]}.data", self._message_of(other)):
                if arrived in self.tensors:
                    found[arrived] = None
            lane = (self._rank(other), self._stream(before))
            if before.role in ("send", "receive"):
                found[f"{self.label[other]}.done"] = None
            elif lane not in latest or self.position[other] > self.position[latest[lane]]:
                latest[lane] = other
        return [*found, *(f"{self.label[other]}.done" for other in latest.values())]

    def _message_of(self, key: int) -> str:
        return f"{self.label[self.sent[key]]}.message" if key in self.sent else ""

    def _start_of(self, rank: int) -> str:
        if rank not in self.starts:
            self.starts[rank] = self._tensor(f"start of rank {rank}", 0)
        return self.starts[rank]

    def _tensor(self, name: str, size: int) -> str:
        self.tensors[name] = Tensor(name, (size,), "uint8")
        return name

    def _stream(self, node: RecordedNode) -> str:
        if node.role in ("send", "receive"):
            return f"{node.role} {node.peer}"
        return node.stream or _STREAMS[node.role]


def _size(node: RecordedNode) -> int:
    assert isinstance(node.work, Send | Receive)
    return node.work.bytes


def _listed(ranks: Sequence[int]) -> str:
    """Ranks as a person writes them.

    >>> _listed((0, 1, 2, 3)), _listed((0, 4))
    ('0 to 3', '0, 4')
    """
    if len(ranks) > 2 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return ", ".join(map(str, ranks))


def _told(work: object) -> str:
    if isinstance(work, CollectiveWork):
        each = " of each rank" if isinstance(work, AllToAll) else ""
        return f"{work.kind} of {work.bytes} B{each}"
    return type(work).__name__


def replicated(trace: RankTrace, count: int) -> list[RankTrace]:
    """One rank's trace as that of ``count`` ranks that do alike.

    Peers keep their distance; groups are of neighbours and keep their size.
    """
    return [
        replace(
            trace, rank=rank, nodes=tuple(_of_rank(node, trace.rank, rank, count) for node in trace.nodes)
        )
        for rank in range(count)
    ]


def _of_rank(node: RecordedNode, was: int, rank: int, count: int) -> RecordedNode:
    if node.role == "collective" and node.group:
        size = len(node.group)
        first = rank // size * size
        return replace(node, group=tuple(range(first, first + size)))
    if node.role not in ("send", "receive") or not 0 <= node.peer < count:
        return node
    peer = (node.peer + rank - was) % count
    work = node.work
    assert isinstance(work, Send | Receive)
    return replace(node, peer=peer, work=replace(work, peer=peer))
