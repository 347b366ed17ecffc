"""The kernel that runs a program: from event to event, with traffic that shares wires fairly.

A running task belongs to its stream, so that there are at most as many events ahead as streams; those that a changed
rate has overtaken are known by their number and dropped. Traffic runs at its own rate (bytes over seconds alone) as
long as every resource has room; where one has not, rates are max-min fair (progressive filling, as in
:mod:`simulator.link.flows`): all rise together until a resource is full or a task has its own rate. Only tasks joined
by shared resources are looked at. Computation of a class runs at its ``speed`` while traffic that slows it runs.

Everything that ends at one moment ends before anything starts at it, so that bytes freed can be taken.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.training.program import COMPUTE_KINDS, Classes, Edges, Routes, StepProgram, Streams, Tasks

__all__ = ["Outcome", "run_kernel"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROOM: Final = 1 - 1e-9
"""A resource is full from this share of its capacity on."""


class Outcome(NamedTuple):
    """When each task ran; what let it start, -1 for nothing; and bytes of each class: at most, and at the end."""

    start: Floats
    end: Floats
    cause: Ints
    peak: Ints
    left: Ints


class _Traffic(NamedTuple):
    """Tasks that move bytes, by number, and the load of each resource. ``counts``: [active tasks, stamp of marks]."""

    left: Floats
    since: Floats
    rate: Floats
    own: Floats
    wanted: Floats
    active: Ints
    place: Ints
    mark: Ints
    used: Floats
    on: Ints
    seen: Ints
    room: Floats
    rising: Floats
    counts: Ints


class _Lanes(NamedTuple):
    """Of each stream: place of its next task, the task that runs (-1: none), and number of its last event."""

    head: Ints
    running: Ints
    number: Ints
    arrived: Ints
    left: Floats
    since: Floats


class _Ahead(NamedTuple):
    """Events to come as a heap, [how many], and the number of the next."""

    time: Floats
    stream: Ints
    number: Ints
    order: Ints
    counts: Ints


class _Given(NamedTuple):
    """The program's arrays; ``traffic_from`` is the first kind of task that moves bytes."""

    tasks: Tasks
    successors: Edges
    streams: Streams
    members: Edges
    routes: Routes
    classes: Classes
    traffic_from: int


class _Waiting(NamedTuple):
    """Waits left and last wait that ended of each task, members there of each meeting, streams to look at."""

    waits: Ints
    last: Ints
    there: Ints
    stack: Ints
    queued: Ints
    depth: Ints


@compiled
def _before(ahead: _Ahead, a: int, b: int) -> bool:
    if ahead.time[a] != ahead.time[b]:
        return bool(ahead.time[a] < ahead.time[b])
    return bool(ahead.order[a] < ahead.order[b])


@compiled
def _swap(ahead: _Ahead, a: int, b: int) -> None:
    ahead.time[a], ahead.time[b] = ahead.time[b], ahead.time[a]
    ahead.stream[a], ahead.stream[b] = ahead.stream[b], ahead.stream[a]
    ahead.number[a], ahead.number[b] = ahead.number[b], ahead.number[a]
    ahead.order[a], ahead.order[b] = ahead.order[b], ahead.order[a]


@compiled
def _sink(ahead: _Ahead, at: int) -> None:
    count = ahead.counts[0]
    while True:
        least, child = at, 2 * at + 1
        for other in (child, child + 1):
            if other < count and _before(ahead, other, least):
                least = other
        if least == at:
            return
        _swap(ahead, at, least)
        at = least


@compiled
def _announce(ahead: _Ahead, lanes: _Lanes, time: float, stream: int) -> None:
    """The event of a stream's running task, in place of any before."""
    lanes.number[stream] += 1
    if ahead.counts[0] == len(ahead.time):
        # Drop what has been overtaken; at most one event per stream is left.
        kept = 0
        for i in range(ahead.counts[0]):
            if ahead.number[i] == lanes.number[ahead.stream[i]]:
                ahead.time[kept], ahead.stream[kept] = ahead.time[i], ahead.stream[i]
                ahead.number[kept], ahead.order[kept] = ahead.number[i], ahead.order[i]
                kept += 1
        ahead.counts[0] = kept
        for i in range(kept // 2, -1, -1):
            _sink(ahead, i)
    at = ahead.counts[0]
    ahead.time[at], ahead.stream[at] = time, stream
    ahead.number[at], ahead.order[at] = lanes.number[stream], ahead.counts[1]
    ahead.counts[0] += 1
    ahead.counts[1] += 1
    while at > 0 and _before(ahead, at, (at - 1) // 2):
        _swap(ahead, at, (at - 1) // 2)
        at = (at - 1) // 2


@compiled
def _next(ahead: _Ahead, lanes: _Lanes) -> int:
    """Leave the next event that still holds at the top; whether there is one."""
    while ahead.counts[0]:
        if ahead.number[0] == lanes.number[ahead.stream[0]]:
            return 1
        ahead.counts[0] -= 1
        _swap(ahead, 0, ahead.counts[0])
        _sink(ahead, 0)
    return 0


@compiled
def _go(flows: _Traffic, ahead: _Ahead, lanes: _Lanes, stream: int, now: float) -> None:
    """Set the event of a stream's traffic by what is left of it and its rate."""
    task = lanes.running[stream]
    _announce(ahead, lanes, now + flows.left[task] / flows.rate[task], stream)


@compiled
def _mark(flows: _Traffic, tasks: Tasks, routes: Routes, seed: int) -> int:
    """Mark every active task that shared resources join to resources of a route; how many there are."""
    flows.counts[1] += 1
    stamp, found = flows.counts[1], 0
    for k in range(routes.start[seed], routes.start[seed + 1]):
        flows.seen[routes.resource[k]] = stamp
    grew = True
    while grew:
        grew = False
        for i in range(flows.counts[0]):
            task = flows.active[i]
            if flows.mark[task] == stamp:
                continue
            first, last = routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]
            for k in range(first, last):
                if flows.seen[routes.resource[k]] == stamp:
                    flows.mark[task] = stamp
                    break
            if flows.mark[task] == stamp:
                found += 1
                for k in range(first, last):
                    if flows.seen[routes.resource[k]] != stamp:
                        flows.seen[routes.resource[k]] = stamp
                        grew = True
    return found


@compiled
def _fill(flows: _Traffic, tasks: Tasks, routes: Routes, found: int) -> None:
    """Fair rates of the marked tasks, to ``wanted``."""
    stamp = flows.counts[1]
    for i in range(flows.counts[0]):
        task = flows.active[i]
        if flows.mark[task] == stamp:
            flows.wanted[task] = -1.0
            for k in range(routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]):
                flows.rising[routes.resource[k]] = 0.0
                flows.room[routes.resource[k]] = routes.capacity[routes.resource[k]]
    for i in range(flows.counts[0]):
        task = flows.active[i]
        if flows.mark[task] == stamp:
            for k in range(routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]):
                flows.rising[routes.resource[k]] += routes.weight[k]
    while found > 0:
        level, tightest, capped = np.inf, -1, -1
        for i in range(flows.counts[0]):
            task = flows.active[i]
            if flows.mark[task] != stamp or flows.wanted[task] >= 0:
                continue
            if flows.own[task] < level or (flows.own[task] == level and tightest >= 0):
                level, tightest, capped = flows.own[task], -1, task
            for k in range(routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]):
                r = routes.resource[k]
                if flows.room[r] < level * flows.rising[r]:
                    level, tightest, capped = flows.room[r] / flows.rising[r], r, -1
        for i in range(flows.counts[0]):
            task = flows.active[i]
            if flows.mark[task] != stamp or flows.wanted[task] >= 0:
                continue
            first, last = routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]
            held = task == capped
            for k in range(first, last):
                held = held or routes.resource[k] == tightest
            if held:
                flows.wanted[task] = level
                found -= 1
                for k in range(first, last):
                    r = routes.resource[k]
                    flows.room[r] = max(flows.room[r] - level * routes.weight[k], 0.0)
                    flows.rising[r] = max(flows.rising[r] - routes.weight[k], 0.0)


@compiled
def _share(
    flows: _Traffic, tasks: Tasks, routes: Routes, ahead: _Ahead, lanes: _Lanes, seed: int, now: float
) -> None:
    """Find the rates of all tasks anew that resources of a route join."""
    found = _mark(flows, tasks, routes, seed)
    _fill(flows, tasks, routes, found)
    stamp = flows.counts[1]
    for i in range(flows.counts[0]):
        task = flows.active[i]
        if flows.mark[task] == stamp:
            for k in range(routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]):
                flows.used[routes.resource[k]] = 0.0
    for i in range(flows.counts[0]):
        task = flows.active[i]
        if flows.mark[task] != stamp:
            continue
        for k in range(routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]):
            flows.used[routes.resource[k]] += flows.wanted[task] * routes.weight[k]
        if flows.wanted[task] != flows.rate[task]:
            flows.left[task] = max(flows.left[task] - flows.rate[task] * (now - flows.since[task]), 0.0)
            flows.since[task], flows.rate[task] = now, flows.wanted[task]
            _go(flows, ahead, lanes, tasks.stream[task], now)


@compiled
def _join(
    flows: _Traffic, tasks: Tasks, routes: Routes, ahead: _Ahead, lanes: _Lanes, task: int, now: float
) -> None:
    """Begin a task's traffic; it leaves all others as they are where every resource has room."""
    first, last = routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]
    own, spare = tasks.bytes[task] / max(tasks.seconds[task], 1e-300), True
    for k in range(first, last):
        own = min(own, routes.capacity[routes.resource[k]] / routes.weight[k])
    for k in range(first, last):
        r = routes.resource[k]
        spare = spare and (
            flows.on[r] == 0 or flows.used[r] + own * routes.weight[k] <= routes.capacity[r] * ROOM
        )
        flows.on[r] += 1
    flows.place[task] = flows.counts[0]
    flows.active[flows.counts[0]] = task
    flows.counts[0] += 1
    flows.left[task], flows.since[task], flows.own[task], flows.rate[task] = tasks.bytes[task], now, own, 0.0
    if not spare:
        _share(flows, tasks, routes, ahead, lanes, tasks.route[task], now)
        return
    flows.rate[task] = own
    for k in range(first, last):
        flows.used[routes.resource[k]] += own * routes.weight[k]
    _go(flows, ahead, lanes, tasks.stream[task], now)


@compiled
def _leave(
    flows: _Traffic, tasks: Tasks, routes: Routes, ahead: _Ahead, lanes: _Lanes, task: int, now: float
) -> None:
    """End a task's traffic; others go on as before unless a resource they share with it was full."""
    spare = True
    for k in range(routes.start[tasks.route[task]], routes.start[tasks.route[task] + 1]):
        r = routes.resource[k]
        spare = spare and (flows.on[r] == 1 or flows.used[r] <= routes.capacity[r] * ROOM)
        flows.on[r] -= 1
        flows.used[r] = 0.0 if flows.on[r] == 0 else flows.used[r] - flows.rate[task] * routes.weight[k]
    flows.counts[0] -= 1
    last = flows.active[flows.counts[0]]
    flows.active[flows.place[task]] = last
    flows.place[last] = flows.place[task]
    if not spare:
        _share(flows, tasks, routes, ahead, lanes, tasks.route[task], now)


@compiled
def _look(waiting: _Waiting, stream: int) -> None:
    """Note that a stream may be able to start its next task."""
    if not waiting.queued[stream]:
        waiting.queued[stream] = 1
        waiting.stack[waiting.depth[0]] = stream
        waiting.depth[0] += 1


@compiled
def _book(out: Outcome, rank_class: int, size: int) -> None:
    out.left[rank_class] += size
    out.peak[rank_class] = max(out.peak[rank_class], out.left[rank_class])


@compiled
def _pace(
    busy: Ints, classes: Classes, streams: Streams, ahead: _Ahead, lanes: _Lanes, change: int, now: float
) -> None:
    """Slow a class's computation down, or let it go: ``change`` is its class + 1 where traffic begins, minus that else.

    ``busy`` counts traffic of each class that slows it.
    """
    rank_class = abs(change) - 1
    busy[rank_class] += 1 if change > 0 else -1
    turned = busy[rank_class] == (1 if change > 0 else 0)
    speed = classes.speed[rank_class]
    if not turned or speed == 1.0:
        return
    before, after = (1.0, speed) if change > 0 else (speed, 1.0)
    for stream in range(len(streams.rank_class)):
        if (
            streams.rank_class[stream] == rank_class
            and lanes.running[stream] >= 0
            and lanes.left[stream] >= 0
        ):
            done = (now - lanes.since[stream]) * before
            lanes.left[stream] = max(lanes.left[stream] - done, 0.0)
            lanes.since[stream] = now
            _announce(ahead, lanes, now + lanes.left[stream] / after, stream)


@compiled
def _begin(
    task: int, tasks: Tasks, streams: Streams, lanes: _Lanes, waiting: _Waiting, out: Outcome, now: float
) -> int:
    """Note that a task runs from now on; its class."""
    stream = tasks.stream[task]
    lanes.running[stream] = task
    lanes.left[stream] = -1.0
    out.start[task] = now
    place = lanes.head[stream]
    earlier = streams.to[place - 1] if place > streams.start[stream] else -1
    last = waiting.last[task]
    out.cause[task] = last
    if earlier >= 0 and (last < 0 or out.end[earlier] >= out.end[last]):
        out.cause[task] = earlier
    return int(streams.rank_class[stream])


@compiled
def _end(
    task: int, successors: Edges, tasks: Tasks, lanes: _Lanes, waiting: _Waiting, out: Outcome, now: float
) -> None:
    """Note that a task has ended: its stream goes on, and so may those of tasks that waited for it."""
    stream = tasks.stream[task]
    out.end[task] = now
    lanes.running[stream] = -1
    lanes.number[stream] += 1
    lanes.arrived[stream] = 0
    lanes.head[stream] += 1
    _look(waiting, stream)
    for k in range(successors.start[task], successors.start[task + 1]):
        later = successors.to[k]
        waiting.waits[later] -= 1
        waiting.last[later] = task
        if waiting.waits[later] == 0:
            _look(waiting, tasks.stream[later])


@compiled
def _events(
    given: _Given, flows: _Traffic, ahead: _Ahead, lanes: _Lanes, waiting: _Waiting, out: Outcome
) -> int:
    """Run everything; how many tasks ended."""
    tasks, streams, routes, classes = given.tasks, given.streams, given.routes, given.classes
    members = given.members
    now, done, rank_class = 0.0, 0, 0
    busy = np.zeros(len(classes.held), np.int64)
    while True:
        while waiting.depth[0]:
            waiting.depth[0] -= 1
            stream = waiting.stack[waiting.depth[0]]
            waiting.queued[stream] = 0
            place = lanes.head[stream]
            if place == streams.start[stream + 1] or lanes.running[stream] >= 0 or lanes.arrived[stream]:
                continue
            task = streams.to[place]
            if waiting.waits[task] > 0:
                continue
            meeting, lead = tasks.meeting[task], task
            if meeting >= 0:
                lanes.arrived[stream] = 1
                waiting.there[meeting] += 1
                if waiting.there[meeting] < members.start[meeting + 1] - members.start[meeting]:
                    continue
                lead = members.to[members.start[meeting]]
                cause = -1
                for k in range(members.start[meeting], members.start[meeting + 1]):
                    member = members.to[k]
                    rank_class = _begin(member, tasks, streams, lanes, waiting, out, now)
                    _book(out, rank_class, tasks.take[member])
                    if member == task:
                        cause = out.cause[member]
                    if tasks.slows[member]:
                        _pace(busy, classes, streams, ahead, lanes, rank_class + 1, now)
                for k in range(members.start[meeting], members.start[meeting + 1]):
                    out.cause[members.to[k]] = cause
            else:
                rank_class = _begin(task, tasks, streams, lanes, waiting, out, now)
                _book(out, rank_class, tasks.take[task])
                if tasks.slows[task]:
                    _pace(busy, classes, streams, ahead, lanes, rank_class + 1, now)
            if tasks.route[lead] >= 0 and tasks.bytes[lead] > 0:
                _join(flows, tasks, routes, ahead, lanes, lead, now)
            elif tasks.kind[lead] >= given.traffic_from:
                _announce(ahead, lanes, now + tasks.seconds[lead], tasks.stream[lead])
            else:
                speed = classes.speed[rank_class] if busy[rank_class] else 1.0
                lanes.left[stream], lanes.since[stream] = tasks.seconds[task], now
                _announce(ahead, lanes, now + tasks.seconds[task] / speed, stream)
        if not _next(ahead, lanes):
            return done
        now = ahead.time[0]
        while _next(ahead, lanes) and ahead.time[0] == now:
            lead = lanes.running[ahead.stream[0]]
            if tasks.route[lead] >= 0 and tasks.bytes[lead] > 0:
                lanes.number[tasks.stream[lead]] += 1
                _leave(flows, tasks, routes, ahead, lanes, lead, now)
            meeting = tasks.meeting[lead]
            first = members.start[meeting] if meeting >= 0 else 0
            last = members.start[meeting + 1] if meeting >= 0 else 1
            for k in range(first, last):
                task = members.to[k] if meeting >= 0 else lead
                _end(task, given.successors, tasks, lanes, waiting, out, now)
                rank_class = streams.rank_class[tasks.stream[task]]
                _book(out, rank_class, tasks.give[task])
                if tasks.slows[task]:
                    _pace(busy, classes, streams, ahead, lanes, -(rank_class + 1), now)
                done += 1


def run_kernel(program: StepProgram) -> Outcome:
    """Run a program; tasks that never started have NaN as their times."""
    n, streams = len(program), len(program.streams.rank_class)
    resources = len(program.routes.capacity)

    def whole(size: int, value: int = 0) -> Ints:
        return np.full(size, value, np.int64)

    out = Outcome(
        np.full(n, np.nan), np.full(n, np.nan), whole(n, -1), program.classes.held.copy(),
        program.classes.held.copy(),
    )  # fmt: skip
    flows = _Traffic(
        np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), whole(streams), whole(n), whole(n),
        np.zeros(resources), whole(resources), whole(resources), np.zeros(resources), np.zeros(resources), whole(2),
    )  # fmt: skip
    most = 2 * streams + 8
    ahead = _Ahead(np.zeros(most), whole(most), whole(most), whole(most), whole(2))
    lanes = _Lanes(
        program.streams.start[:-1].copy(), whole(streams, -1), whole(streams), whole(streams), np.zeros(streams),
        np.zeros(streams),
    )  # fmt: skip
    waiting = _Waiting(
        program.waits.copy(), whole(n, -1), whole(len(program.members.start) - 1), np.arange(streams)[::-1].copy(),
        whole(streams, 1), whole(1, streams),
    )  # fmt: skip
    given = _Given(
        program.tasks, program.successors, program.streams, program.members, program.routes, program.classes,
        len(COMPUTE_KINDS),
    )  # fmt: skip
    _events(given, flows, ahead, lanes, waiting, out)
    return out
