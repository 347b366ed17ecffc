"""A second, slow way to run a program: all that runs is looked at again after every change, in plain Python.

It shares no code with the kernel: rates are found by raising all of them in small certain steps (the next resource
that fills or task that has enough), time goes to the earliest end, and memory is counted in a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from simulator.training.program import COMPUTE_KINDS, StepProgram


@dataclass
class Run:
    """When every task ran, and bytes of each class: at most, and at the end."""

    start: list[float]
    end: list[float]
    peak: list[int]
    held: list[int]


@dataclass
class Running:
    """Tasks that run as one, and how much of their work is left."""

    members: list[int]
    left: float
    own: float
    load: dict[int, float] = field(default_factory=dict)
    computes: bool = False


def fair(running: list[Running], capacity: list[float]) -> list[float]:
    """Max-min fair rates: all rise until something is full."""
    rates = [0.0] * len(running)
    rising = set(range(len(running)))
    while rising:
        step = min(running[i].own - rates[i] for i in rising)
        for resource, most in enumerate(capacity):
            grows = sum(running[i].load.get(resource, 0.0) for i in rising)
            if grows:
                used = sum(rates[i] * running[i].load.get(resource, 0.0) for i in range(len(running)))
                step = min(step, (most - used) / grows)
        for i in rising:
            rates[i] += max(step, 0.0)
        full = {
            resource
            for resource, most in enumerate(capacity)
            if sum(rates[i] * running[i].load.get(resource, 0.0) for i in range(len(running)))
            >= most * (1 - 1e-12)
        }
        rising = {
            i for i in rising if rates[i] < running[i].own * (1 - 1e-12) and not full & set(running[i].load)
        }
    return rates


def run_slowly(program: StepProgram) -> Run:
    """Run a program; raises ``RuntimeError`` where it never ends."""
    tasks, count = program.tasks, len(program)
    rank_class = [int(program.streams.rank_class[s]) for s in tasks.stream]
    waits: list[set[int]] = [set() for _ in range(count)]
    for before in range(count):
        for k in range(program.successors.start[before], program.successors.start[before + 1]):
            waits[int(program.successors.to[k])].add(before)
    queue = [
        [int(program.streams.to[k]) for k in range(program.streams.start[s], program.streams.start[s + 1])]
        for s in range(len(program.streams.rank_class))
    ]
    meetings: dict[int, list[int]] = {}
    for task in range(count):
        if tasks.meeting[task] >= 0:
            meetings.setdefault(int(tasks.meeting[task]), []).append(task)
    start, end = [math.nan] * count, [math.nan] * count
    held = [int(x) for x in program.classes.held]
    peak = list(held)
    running: list[Running] = []
    now = 0.0
    while True:
        grew = True
        while grew:
            grew = False
            heads = {tasks_of[0] for tasks_of in queue if tasks_of}
            ready = {
                task
                for task in heads
                if math.isnan(start[task]) and all(not math.isnan(end[before]) for before in waits[task])
            }
            for task in sorted(ready):
                if not math.isnan(start[task]):
                    continue
                group = meetings.get(int(tasks.meeting[task]), [task])
                if not set(group) <= ready:
                    continue
                grew = True
                for member in group:
                    start[member] = now
                    held[rank_class[member]] += int(tasks.take[member])
                    peak[rank_class[member]] = max(peak[rank_class[member]], held[rank_class[member]])
                running.append(one_of(program, group))
        if not running:
            break
        busy = {rank_class[member] for item in running for member in item.members if tasks.slows[member]}
        capacity = [float(c) for c in program.routes.capacity]
        rates = fair(running, capacity)
        for place, item in enumerate(running):
            if item.computes and rank_class[item.members[0]] in busy:
                rates[place] = float(program.classes.speed[rank_class[item.members[0]]])
        step = min(item.left / rate for item, rate in zip(running, rates, strict=True))
        now += step
        going = []
        for item, rate in zip(running, rates, strict=True):
            item.left -= rate * step
            if item.left > 1e-12 * max(rate, 1.0) * max(now, 1e-30):
                going.append(item)
                continue
            for member in item.members:
                end[member] = now
                held[rank_class[member]] += int(tasks.give[member])
                queue[int(tasks.stream[member])].pop(0)
        running = going
    if any(math.isnan(moment) for moment in end):
        raise RuntimeError("the program never ends")
    return Run(start, end, peak, held)


def one_of(program: StepProgram, group: list[int]) -> Running:
    """What a task or meeting has to do, and how fast it does so when alone."""
    tasks, lead = program.tasks, group[0]
    if int(tasks.kind[lead]) < len(COMPUTE_KINDS):
        return Running(group, float(tasks.seconds[lead]), 1.0, {}, True)
    size, seconds = float(tasks.bytes[lead]), float(tasks.seconds[lead])
    route = int(tasks.route[lead])
    if route < 0 or size == 0:
        return Running(group, seconds, 1.0)
    load = {
        int(program.routes.resource[k]): float(program.routes.weight[k])
        for k in range(program.routes.start[route], program.routes.start[route + 1])
    }
    own = min(
        [size / seconds if seconds else math.inf] + [program.routes.capacity[r] / w for r, w in load.items()]
    )
    return Running(group, size, float(own), load)
