"""Plain checkers: threads by a heap of events, products by dictionaries, bytes by sets of granules."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from typing import Any


def run(phases: Sequence[Any], machine: Any) -> float:
    """Seconds of phases on a machine, one event after the other."""
    per_clock = machine.memory_bandwidth / machine.clock
    latency = machine.memory_latency * machine.clock
    start = 0.0
    for phase in phases:
        tasks = [list(range(a, b)) for a, b in zip(phase.begins, phase.begins[1:], strict=False)]
        hands: list[list[int]] = [[] for _ in range(machine.threads)]
        nexts = list(range(machine.threads))
        shared = iter(tasks)
        free_pipeline = [start] * machine.pipelines
        free = {"scratchpad": start, "memory": start}
        events = [(start, thread, "choose") for thread in range(machine.threads)]
        over = start
        while events:
            now, thread, what = heapq.heappop(events)
            if what == "choose":
                finished = False
                while not hands[thread]:
                    if phase.dynamic:
                        task = next(shared, None)
                    else:
                        task = tasks[nexts[thread]] if nexts[thread] < len(tasks) else None
                        nexts[thread] += machine.threads
                    if task is None:
                        finished = True
                        break
                    hands[thread] = list(task)
                if finished:
                    over = max(over, now)
                    continue
                part = phase.segments[hands[thread][0]]
                if part[3]:
                    free["memory"] = max(now, free["memory"]) + part[4] / per_clock
                    now = free["memory"] + part[3] * latency
                heapq.heappush(events, (now, thread, "work"))
                continue
            instructions, accesses, atomics, _, _, written = phase.segments[hands[thread].pop(0)]
            own = thread // machine.threads_per_pipeline
            begin = max(now, free_pipeline[own])
            done = free_pipeline[own] = begin + instructions
            if accesses or atomics:
                free["scratchpad"] = (
                    max(begin, free["scratchpad"]) + (accesses + atomics) / machine.scratchpad_rate
                )
            if accesses:
                behind = machine.scratchpad_latency
                done = max(done + accesses * behind, free["scratchpad"] + behind)
            if written:
                free["memory"] = max(now, free["memory"]) + written / per_clock
            heapq.heappush(events, (done, thread, "choose"))
        start = max(over, *free.values())
    return start / machine.clock


def rows_of(matrix: Any) -> list[dict[int, float]]:
    return [
        dict(zip(matrix.indices[a:b].tolist(), matrix.values[a:b].tolist(), strict=True))
        for a, b in zip(matrix.offsets, matrix.offsets[1:], strict=False)
    ]


def product(left: Any, right: Any) -> list[dict[int, float]]:
    """The rows of the product."""
    others = rows_of(right)
    found = []
    for row in rows_of(left):
        sums: dict[int, float] = defaultdict(float)
        for inner, value in row.items():
            for column, other in others[inner].items():
                sums[column] += value * other
        found.append(dict(sums))
    return found


def touched(begin: int, end: int, granule: int) -> int:
    """Bytes of the granules that hold the bytes from begin to end."""
    return granule * len({byte // granule for byte in range(begin, end)})
