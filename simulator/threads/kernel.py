"""A phase of tasks on many threads, from event to event; times are clocks.

Two events a segment: its reads are asked for, and they have come. Whoever is earliest goes next, of equal ones the
thread of the lowest number, so that memory, pipelines and the scratchpad serve in the order in which they are asked.
"""

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled, inlined

__all__ = ["run_phase"]

_INSTRUCTIONS, _ACCESSES, _ATOMICS, _TRIPS, _READ, _WRITE = range(6)
NEVER = np.inf


@inlined
def _before(clock, one, other):  # type: ignore[no-untyped-def]
    return clock[one] < clock[other] or (clock[one] == clock[other] and one < other)


@compiled
def run_phase(segments, begins, dynamic, pipelines, each, rates, start, waited):  # type: ignore[no-untyped-def]
    """Clock at which the phase is over. ``rates``: accesses a clock, access latency, memory bytes a clock, its latency.

    ``waited`` is filled with the clocks that threads waited for reads, for a pipeline, and for the scratchpad.
    """
    rate, access_latency, bytes_per_clock, read_latency = rates[0], rates[1], rates[2], rates[3]
    threads, tasks = pipelines * each, begins.size - 1
    clock = np.full(threads, start)
    segment, end = np.zeros(threads, np.int64), np.zeros(threads, np.int64)
    last_task = np.full(threads, -1, np.int64)
    reading = np.zeros(threads, np.bool_)
    queue = np.arange(threads)
    pipeline_free = np.full(pipelines, start)
    scratchpad_free, memory_free, over, taken = start, start, start, 0
    while True:
        thread = queue[0]
        now = clock[thread]
        if now == NEVER:
            break
        if not reading[thread]:
            while segment[thread] == end[thread]:
                if dynamic:
                    task, taken = taken, taken + 1
                else:
                    task = thread if last_task[thread] < 0 else last_task[thread] + threads
                last_task[thread] = task
                if task >= tasks:
                    clock[thread] = NEVER
                    over = max(over, now)
                    break
                segment[thread], end[thread] = begins[task], begins[task + 1]
            if clock[thread] != NEVER:
                part = segments[segment[thread]]
                if part[_TRIPS] > 0:
                    memory_free = max(now, memory_free) + part[_READ] / bytes_per_clock
                    clock[thread] = memory_free + part[_TRIPS] * read_latency
                    waited[0] += clock[thread] - now
                reading[thread] = True
        else:
            part = segments[segment[thread]]
            pipeline = thread // each
            begin = max(now, pipeline_free[pipeline])
            waited[1] += begin - now
            pipeline_free[pipeline] = begin + part[_INSTRUCTIONS]
            done = begin + part[_INSTRUCTIONS]
            asked = part[_ACCESSES] + part[_ATOMICS]
            if asked > 0:
                scratchpad_free = max(begin, scratchpad_free) + asked / rate
                if part[_ACCESSES] > 0:
                    came = max(done + part[_ACCESSES] * access_latency, scratchpad_free + access_latency)
                    waited[2] += came - done
                    done = came
            if part[_WRITE] > 0:
                memory_free = max(now, memory_free) + part[_WRITE] / bytes_per_clock
            clock[thread] = done
            reading[thread] = False
            segment[thread] += 1
        # The thread at the front has a later time now: let it sink.
        place = 0
        while True:
            child = 2 * place + 1
            if child >= threads:
                break
            if child + 1 < threads and _before(clock, queue[child + 1], queue[child]):
                child += 1
            if not _before(clock, queue[child], queue[place]):
                break
            queue[place], queue[child] = queue[child], queue[place]
            place = child
    return max(over, memory_free, scratchpad_free)
