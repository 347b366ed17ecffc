"""A training step as a program: tasks in streams, what they wait for, which wires they load, which bytes they hold.

A **class** stands for ``ranks`` devices that do equal work on equal wires; a class of one is one device. Each class has
**streams**, which take their tasks in order, as CUDA streams do. A task is computation (``seconds`` of it) or traffic:
``bytes`` over a **route** that take ``seconds`` when alone, and longer where others load the same **resources**. A task
starts when its stream has come to it and all tasks it waits for have ended; tasks of one **meeting** (a collective over
several classes) start and end together. At its start a task takes ``take`` bytes of its class's memory, at its end
``give`` more (negative: it frees them).

:class:`ProgramBuilder` writes programs task by task or, for a pass that comes again and again, block by block
(:class:`Block`). ``build`` checks what can be checked without running.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COMPUTE_KINDS", "Block", "Classes", "Edges", "ProgramBuilder", "Routes", "StepProgram", "Streams", "TaskKind",
    "Tasks",
]  # fmt: skip

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class TaskKind(IntEnum):
    """What a task's seconds count as. The first four compute; the others move bytes."""

    FORWARD = 0
    BACKWARD = 1
    RECOMPUTE = 2
    OPTIMIZER = 3
    TENSOR = 4
    SEQUENCE = 5
    """Context and Ulysses parallelism."""
    EXPERT = 6
    PIPELINE = 7
    DATA = 8
    """Gathering of weights and reduction of gradients."""
    SWAP = 9
    """To host memory or drives, and back."""
    LOADING = 10
    """Samples, on their way from drive or host memory."""


COMPUTE_KINDS: Final = (TaskKind.FORWARD, TaskKind.BACKWARD, TaskKind.RECOMPUTE, TaskKind.OPTIMIZER)


class Tasks(NamedTuple):
    """One entry per task. ``route`` and ``meeting`` are -1 where there is none; ``slows``: it takes cores of its device
    while it runs; ``label`` indexes the program's labels, ``micro_batch`` is -1 outside passes.
    """

    stream: Ints
    kind: Ints
    seconds: Floats
    bytes: Floats
    route: Ints
    meeting: Ints
    take: Ints
    give: Ints
    slows: Ints
    label: Ints
    micro_batch: Ints


class Edges(NamedTuple):
    """Rows of unequal length: row i is ``to[start[i]:start[i + 1]]``."""

    start: Ints
    to: Ints


class Streams(NamedTuple):
    """The tasks of each stream in order, and its class."""

    start: Ints
    to: Ints
    rank_class: Ints


class Routes(NamedTuple):
    """What each route loads: resources, bytes on each per byte of the task; and the resources' capacities."""

    start: Ints
    resource: Ints
    weight: Floats
    capacity: Floats


class Classes(NamedTuple):
    """Of each class: bytes held from step to step, and its speed of computation beside traffic that slows it."""

    held: Ints
    speed: Floats


@dataclass(frozen=True, eq=False)
class StepProgram:
    """A program that can be run; made by :class:`ProgramBuilder`.

    ``successors`` has the tasks that wait for each; ``members`` the tasks of each meeting. ``links``: bytes that a
    byte of each route puts on links, by name, over all the devices that the route's classes stand for.
    """

    tasks: Tasks
    waits: Ints
    """How many tasks each waits for."""
    successors: Edges
    streams: Streams
    members: Edges
    routes: Routes
    classes: Classes
    class_names: tuple[str, ...]
    class_ranks: tuple[int, ...]
    stream_names: tuple[str, ...]
    labels: tuple[str, ...]
    links: tuple[Mapping[str, float], ...]

    def __len__(self) -> int:
        return len(self.tasks.stream)

    def task_class(self) -> Ints:
        """The class of every task."""
        return self.streams.rank_class[self.tasks.stream]


@dataclass(frozen=True, eq=False)
class Block:
    """Tasks that come again and again, in program order; streams and waits are numbers inside the block.

    ``stream`` indexes the list of streams that the block is put on. ``before`` and ``after`` are pairs: task
    ``after[i]`` of the block waits for task ``before[i]`` of it.
    """

    stream: Ints
    kind: Ints
    seconds: Floats
    bytes: Floats
    route: Ints
    take: Ints
    give: Ints
    slows: Ints
    label: Ints
    before: Ints
    after: Ints

    def __len__(self) -> int:
        return len(self.stream)


@dataclass
class ProgramBuilder:
    """Writes a program. Numbers that its methods return name classes, streams, routes and tasks."""

    _names: list[str] = field(default_factory=list)
    _ranks: list[int] = field(default_factory=list)
    _held: list[int] = field(default_factory=list)
    _speed: list[float] = field(default_factory=list)
    _stream_names: list[str] = field(default_factory=list)
    _stream_class: list[int] = field(default_factory=list)
    _capacity: list[float] = field(default_factory=list)
    _routes: list[list[tuple[int, float]]] = field(default_factory=list)
    _links: list[Mapping[str, float]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)
    _chunks: list[tuple[Ints, Floats]] = field(default_factory=list)
    """Whole numbers and seconds of tasks that are finished, in order."""
    _open: list[tuple[int, ...]] = field(default_factory=list)
    _open_floats: list[tuple[float, float]] = field(default_factory=list)
    _before: list[Ints] = field(default_factory=list)
    _after: list[Ints] = field(default_factory=list)
    _open_waits: list[tuple[int, int]] = field(default_factory=list)
    _count: int = 0
    _meetings: int = 0

    def rank_class(self, name: str, ranks: int = 1, held_bytes: int = 0, speed_beside: float = 1.0) -> int:
        """A class of so many devices, with bytes that it holds before the step and after it.

        ``speed_beside``: how fast it computes beside traffic that slows it, 1 being as fast as without.
        """
        if ranks < 1 or not 0 < speed_beside <= 1:
            raise ValueError(f"class {name!r} of {ranks} ranks at speed {speed_beside}")
        self._names.append(name)
        self._ranks.append(ranks)
        self._held.append(held_bytes)
        self._speed.append(speed_beside)
        return len(self._names) - 1

    def stream(self, rank_class: int, name: str) -> int:
        """A stream of a class."""
        self._stream_names.append(name)
        self._stream_class.append(rank_class)
        return len(self._stream_names) - 1

    def resource(self, bytes_per_s: float) -> int:
        """Something that carries bytes: a direction of a wire, a port of a memory."""
        if not bytes_per_s > 0:
            raise ValueError(f"a resource of {bytes_per_s} bytes per second")
        self._capacity.append(bytes_per_s)
        return len(self._capacity) - 1

    def route(self, load: Mapping[int, float], links: Mapping[str, float] | None = None) -> int:
        """What a byte of a task loads: bytes by resource; ``links`` as in :class:`StepProgram`."""
        self._routes.append([(resource, weight) for resource, weight in load.items() if weight > 0])
        self._links.append(dict(links or {}))
        return len(self._routes) - 1

    def label(self, text: str) -> int:
        """The number of a label."""
        return self._labels.setdefault(text, len(self._labels))

    def meeting(self, count: int = 1) -> int:
        """The first number of so many new meetings."""
        self._meetings += count
        return self._meetings - count

    def add(
        self,
        stream: int,
        kind: TaskKind,
        seconds: float,
        *,
        label: str = "",
        after: Iterable[int] = (),
        traffic: tuple[float, int] = (0.0, -1),
        memory: tuple[int, int] = (0, 0),
        meeting: int = -1,
    ) -> int:
        """A task. ``traffic``: bytes and route; ``memory``: bytes taken at its start and given at its end."""
        moved, route = traffic
        slows = int(kind not in (*COMPUTE_KINDS, TaskKind.SWAP, TaskKind.LOADING))
        number = self._count
        self._open.append((stream, int(kind), route, meeting, *memory, slows, self.label(label), -1))
        self._open_floats.append((seconds, moved))
        self._open_waits += [(before, number) for before in after]
        self._count += 1
        return number

    def put(
        self, block: Block, streams: Sequence[int], micro_batch: int | Ints, meetings: Ints | None = None
    ) -> int:
        """A block's tasks on these streams; the number of its first task.

        ``micro_batch`` is one for all tasks or one for each.
        ``meetings``: the meeting of each of its tasks, -1 for what its class does alone; None: all of them.
        """
        self._close()
        count = len(block)
        met = np.full(count, -1, np.int64) if meetings is None else meetings
        whole = np.stack([
            np.asarray(streams, np.int64)[block.stream], block.kind, block.route, met, block.take, block.give,
            block.slows, block.label, np.broadcast_to(np.asarray(micro_batch, np.int64), count),
        ])  # fmt: skip
        self._chunks.append((whole, np.stack([block.seconds, block.bytes])))
        first = self._count
        self._before.append(block.before + first)
        self._after.append(block.after + first)
        self._count += count
        return first

    def wait(self, after: int, before: int) -> None:
        """Let task ``after`` wait for task ``before``."""
        self._open_waits.append((before, after))

    def build(self) -> StepProgram:
        """The program. Raises ``ValueError`` for numbers that name nothing: a defect of who wrote it."""
        self._close()
        whole = (
            np.concatenate([chunk[0] for chunk in self._chunks], axis=1)
            if self._chunks
            else np.zeros((9, 0), int)
        )
        exact = (
            np.concatenate([chunk[1] for chunk in self._chunks], axis=1) if self._chunks else np.zeros((2, 0))
        )
        tasks = Tasks(
            whole[0], whole[1], np.ascontiguousarray(exact[0]), np.ascontiguousarray(exact[1]), *whole[2:],
        )  # fmt: skip
        self._check(tasks)
        pairs = np.array(self._open_waits, np.int64).reshape(-1, 2)
        before = np.concatenate([*self._before, pairs[:, 0]])
        after = np.concatenate([*self._after, pairs[:, 1]])
        waits = np.bincount(after, minlength=self._count).astype(np.int64)
        by_stream = _rows(tasks.stream, len(self._stream_names))
        met = np.flatnonzero(tasks.meeting >= 0)
        members = _rows(tasks.meeting[met], self._meetings)
        entries = [pair for route in self._routes for pair in route]
        starts = np.cumsum([0, *(len(route) for route in self._routes)])
        routes = Routes(
            starts.astype(np.int64), np.array([r for r, _ in entries], np.int64),
            np.array([w for _, w in entries], np.float64), np.array(self._capacity, np.float64),
        )  # fmt: skip
        return StepProgram(
            tasks, waits, _rows(before, self._count, after),
            Streams(by_stream.start, by_stream.to, np.array(self._stream_class, np.int64)),
            Edges(members.start, met[members.to]), routes,
            Classes(np.array(self._held, np.int64), np.array(self._speed, np.float64)),
            tuple(self._names), tuple(self._ranks), tuple(self._stream_names), tuple(self._labels),
            tuple(self._links),
        )  # fmt: skip

    def _close(self) -> None:
        """Put tasks that were added one by one into a chunk."""
        if self._open:
            self._chunks.append(
                (np.array(self._open, np.int64).T.copy(), np.array(self._open_floats, np.float64).T.copy())
            )
            self._open, self._open_floats = [], []

    def _check(self, tasks: Tasks) -> None:
        for name, numbers, known in (
            ("stream", tasks.stream, len(self._stream_names)),
            ("route", tasks.route, len(self._routes)),
            ("meeting", tasks.meeting, self._meetings),
        ):
            if len(numbers) and (numbers.max() >= known or numbers.min() < -1):
                raise ValueError(f"a task names a {name} that there is not")
        if (tasks.seconds < 0).any() or (tasks.bytes < 0).any() or not np.isfinite(tasks.seconds).all():
            raise ValueError("a task takes less than no time, or moves less than no bytes")


def _rows(row: Ints, rows: int, to: Ints | None = None) -> Edges:
    """Entries by row, in their order; ``to`` is what each holds, its own number by default."""
    order = np.argsort(row, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)
    return Edges(start, order.astype(np.int64) if to is None else to[order].astype(np.int64))
