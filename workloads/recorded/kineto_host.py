"""What a profile's host threads did, as marks that devices see: launches, and calls that wait for a device.

Between two marks a thread runs software of which nothing depends on a device, so that time is replayed as it
was recorded, whatever happened in it. A launch ends where the call had handed its work over; what a waiting
call took after the device had finished is host time as well, the wait itself is not. A thread that made no mark
while another made some is taken to have waited for the last of those (autograd's threads and the one that
called them hand over so); its time runs from there. What a kernel waited for beyond its launch, its stream and
recorded synchronisation (the way to an idle device) is kept as a latency.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from workloads.recorded.kineto_file import KinetoEvent, KinetoTrace

__all__ = ["Launch", "Mark", "Marks", "marks_of"]

_SLACK_US = 1.0
"""Clocks of host and device agree to about so much (assumption)."""
_LOOK_BACK = 4096
"""Launches among which the last of each other stream is looked for."""
_WAITING = ("synchronize", "memcpydtoh", "memcpyhtod")
_CALLS = ("cuda_runtime", "cuda_driver")


@dataclass(slots=True)
class Launch:
    """A device event, what it waits for beside its stream and its launch, and its latency beyond those."""

    event: KinetoEvent
    stream: int
    mark: int
    """Index of the mark that launched it; -1 where that was not recorded."""
    after: list[int] = field(default_factory=list)
    """Indices of launches on other streams."""
    latency_us: float = 0.0


@dataclass(slots=True)
class Mark:
    """A moment of a host thread: its own time before it, and the launches whose end it waits for."""

    thread: str
    name: str
    end_us: float
    took_us: float = 0.0
    after: int = -1
    """Index of a mark of another thread that it waits for."""
    awaits: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Marks:
    """All marks in the order of their ends, and all launches in the order in which they were launched."""

    marks: list[Mark]
    launches: list[Launch]
    start_us: float
    end_us: float


def marks_of(trace: KinetoTrace) -> Marks:
    """The marks and launches of one rank's profile."""
    events = [*trace.host, *trace.device]
    start = min(event.start_us for event in events)
    end = max(event.end_us for event in events)
    calls = sorted((e for e in trace.host if e.category in _CALLS), key=lambda e: (e.start_us, e.end_us))
    work = {e.number("correlation"): e for e in reversed(trace.device) if e.number("correlation") is not None}
    found = Marks([], [], start, end)
    _Walk(found, trace, work).through(calls)
    _tails(found, trace)
    _time_of_marks(found)
    _latencies(found)
    return found


class _Walk:
    """Goes through the calls of all threads in time and makes marks of those that a device sees."""

    def __init__(self, found: Marks, trace: KinetoTrace, work: dict[int | None, KinetoEvent]) -> None:
        self.found, self.work = found, work
        self.launched: dict[int, Launch] = {}
        self.joins: dict[str, float] = {}
        """Thread to the moment of its last cudaStreamWaitEvent that no kernel has followed."""
        self.awaited = {e.number("correlation"): e for e in trace.sync}
        self.orphans = [e for e in trace.device if e.number("correlation") is None]
        seen = {id(e) for e in work.values()}
        self.orphans += [e for e in trace.device if id(e) not in seen and e.number("correlation") is not None]

    def through(self, calls: Iterable[KinetoEvent]) -> None:
        known = set()
        for call in calls:
            known.add(call.number("correlation"))
            event = self.work.get(call.number("correlation"))
            lowered = call.name.lower()
            if event is not None:
                self._launch(call, event)
            elif "streamwaitevent" in lowered:
                self.joins[_thread(call)] = call.end_us
            elif any(word in lowered for word in _WAITING):
                self._wait(call)
        left = [event for key, event in self.work.items() if key not in known]
        for event in sorted([*left, *self.orphans], key=lambda e: e.start_us):
            self.found.launches.append(Launch(event, _stream(event), -1))

    def _launch(self, call: KinetoEvent, event: KinetoEvent) -> None:
        cut = min(call.end_us, max(call.start_us, event.start_us))
        mark = Mark(_thread(call), call.name, cut)
        self.found.marks.append(mark)
        launch = Launch(event, _stream(event), len(self.found.marks) - 1)
        if _thread(call) in self.joins:
            launch.after = self._joined(launch, self.joins.pop(_thread(call)))
        number = len(self.found.launches)
        self.found.launches.append(launch)
        if "memcpy" in event.category and event.end_us <= call.end_us + _SLACK_US and call.end_us > cut:
            # The call returned when the bytes had arrived: a copy of pageable memory.
            self.found.marks.append(Mark(_thread(call), f"{call.name} returns", call.end_us, awaits=[number]))

    def _joined(self, launch: Launch, asked_us: float) -> list[int]:
        """Of each other stream the last kernel launched before the join and ended before this one began."""
        last: dict[int, int] = {}
        for number, other in self._latest():
            ended = other.event.end_us <= launch.event.start_us + _SLACK_US
            before = other.mark < 0 or self.found.marks[other.mark].end_us <= asked_us
            if other.stream != launch.stream and other.stream not in last and ended and before:
                last[other.stream] = number
        return sorted(last.values())

    def _latest(self) -> Iterator[tuple[int, Launch]]:
        """The latest launches, last first."""
        launches = self.found.launches
        last = len(launches) - 1
        return ((number, launches[number]) for number in range(last, max(-1, last - _LOOK_BACK), -1))

    def _wait(self, call: KinetoEvent) -> None:
        """A call that returns when a device has finished what was launched before it."""
        sync = self.awaited.get(call.number("correlation"))
        named = [] if sync is None else [sync.number(key) for key in ("wait_on_stream", "stream")]
        stream = next((number for number in named if number is not None and number >= 0), -1)
        last: dict[int, int] = {}
        for number, other in self._latest():
            wanted = stream < 0 or other.stream == stream
            if wanted and other.stream not in last and other.event.end_us <= call.end_us + _SLACK_US:
                last[other.stream] = number
        self.found.marks.append(Mark(_thread(call), call.name, call.start_us))
        self.found.marks.append(
            Mark(_thread(call), f"{call.name} returns", call.end_us, awaits=sorted(last.values()))
        )


def _tails(found: Marks, trace: KinetoTrace) -> None:
    """What each thread did after its last mark."""
    ends: dict[str, float] = {}
    for event in trace.host:
        thread = _thread(event)
        ends[thread] = max(ends.get(thread, 0.0), event.end_us)
    last: dict[str, float] = {}
    for mark in found.marks:
        last[mark.thread] = mark.end_us
    for thread, end in sorted(ends.items()):
        if end > last.get(thread, found.start_us):
            found.marks.append(Mark(thread, "rest", end))


def _time_of_marks(found: Marks) -> None:
    """Each mark's own time: from the last one of its thread, of another between, or from what it waited for."""
    order = sorted(range(len(found.marks)), key=lambda i: (found.marks[i].end_us, i))
    own: dict[str, int] = {}
    before: list[int] = []
    ends: list[float] = []
    for index in order:
        mark = found.marks[index]
        began = found.marks[own[mark.thread]].end_us if mark.thread in own else found.start_us
        if mark.awaits:
            began = max(began, *(min(found.launches[n].event.end_us, mark.end_us) for n in mark.awaits))
        else:
            other = before[bisect_right(ends, mark.end_us) - 1] if before else -1
            if other >= 0 and found.marks[other].thread != mark.thread and found.marks[other].end_us >= began:
                mark.after = other
                began = found.marks[other].end_us
        mark.took_us = max(mark.end_us - began, 0.0)
        own[mark.thread] = index
        before.append(index)
        ends.append(mark.end_us)


def _latencies(found: Marks) -> None:
    free: dict[int, float] = {}
    order = sorted(range(len(found.launches)), key=lambda i: found.launches[i].event.start_us)
    for index in order:
        launch = found.launches[index]
        ready = [free.get(launch.stream, found.start_us)]
        if launch.mark >= 0:
            ready.append(found.marks[launch.mark].end_us)
        ready += [found.launches[number].event.end_us for number in launch.after]
        launch.latency_us = max(launch.event.start_us - max(ready), 0.0)
        free[launch.stream] = launch.event.end_us


def _thread(event: KinetoEvent) -> str:
    return "/".join(event.lane)


def _stream(event: KinetoEvent) -> int:
    number = event.number("stream")
    if number is None:
        text = event.lane[1]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return number
