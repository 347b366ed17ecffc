"""Runs a plan with real bytes: a scratchpad that is one byte array, and copies into and out of it.

Independent of whatever wrote or simulated the plan. Every tensor has bytes of its own, the truth; an operator
that finds all its inputs true leaves its outputs true. The list of a plan says which copy of a tensor each task
means, and where it lies; the tasks run at the times the simulation gave them. What a task fills is spoiled from
its start until its end, what it reads must be true at both moments, and a copy is spoiled when its last user has
ended: a transfer that runs ahead of the list into bytes still in use is found out.
"""

import zlib
from dataclasses import dataclass, field

import numpy as np

POOL = np.frombuffer(np.random.default_rng(7).bytes(1 << 24), np.uint8)
SPOILED = 0xA5


def truth(tensor, size):
    """The bytes of a tensor: from a place in the pool that its name gives, again and again if it is large."""
    start = zlib.crc32(tensor.encode()) % (1 << 20)
    return POOL[start : start + size] if start + size <= len(POOL) else np.resize(POOL[start:], size)


@dataclass
class Stay:
    """One copy of a tensor at [low, high) of the scratchpad, and the tasks that have to do with it."""

    tensor: str
    low: int
    high: int
    users: set = field(default_factory=set)


@dataclass
class Work:
    """What one task reads and fills: stays in the scratchpad, tensors outside."""

    reads: list
    outside_reads: list
    fills: list
    outside_fills: list
    over: list = field(default_factory=list)
    """Filled at the end, over an input that is true until then."""


def paper(plan, graph, pad, size):
    """Each task's work, by a walk through the list."""
    here, works = {}, []

    def stay(tensor):
        assert tensor in here, f"the list has no copy of {tensor} in the scratchpad"
        return here[tensor]

    for index, task in enumerate(plan.tasks):
        if task.kind == "compute":
            operator = graph.operator_by_name[task.operator]
            inputs = list(dict.fromkeys(operator.inputs))
            work = Work([stay(t) for t in inputs if t not in task.streamed], list(task.streamed), [], [])
            made = operator.outputs
        elif task.target == pad:
            work, made = Work([], [task.tensor], [], []), (task.tensor,)
        else:
            work, made = Work([stay(task.tensor)], [], [], [task.tensor]), ()
        for tensor in made:
            low = task.addresses[tensor]
            here[tensor] = Stay(tensor, low, low + graph.tensors[tensor].size_bytes)
            assert low >= 0, f"{tensor} begins before the scratchpad"
            assert here[tensor].high <= size, f"{tensor} ends beyond the scratchpad"
            under = task.in_place.get(tensor) if task.kind == "compute" else None
            if under is not None:
                assert here[under].low == low, f"{tensor} is not where {under} is"
                assert here[under].high >= here[tensor].high, f"{tensor} is larger than {under}"
                assert (under, pad) in task.frees, f"{under} is wanted beside {tensor}"
            (work.fills if under is None else work.over).append(here[tensor])
        for copy in (*work.reads, *work.fills, *work.over):
            copy.users.add(index)
        for tensor, memory in task.frees:
            if memory == pad:
                here.pop(tensor).users.add(index)
        works.append(work)
    return works


def execute(plan, graph, records, pad, size):
    """Play the records of a run (in plan order) over real bytes; the number of operands compared."""
    memory = np.full(size, SPOILED, np.uint8)
    outside = {t: truth(t, graph.tensors[t].size_bytes) for t in plan.homes}
    works = paper(plan, graph, pad, size)
    touched = [[] for _ in works]
    for stay in {id(s): s for work in works for s in (*work.reads, *work.fills, *work.over)}.values():
        for user in stay.users:
            touched[user].append(stay)
    compared = 0
    for _, _, _, index, begins in sorted(_moments(records)):
        task, work = plan.tasks[index], works[index]
        found = [(s.tensor, memory[s.low : s.high]) for s in work.reads]
        found += [(t, outside[t]) for t in work.outside_reads]
        for tensor, bytes_ in found:
            assert np.array_equal(bytes_, truth(tensor, len(bytes_))), f"{task.name} finds wrong {tensor}"
            assert len(bytes_) == graph.tensors[tensor].size_bytes
        compared += len(found)
        for stay in work.fills:
            memory[stay.low : stay.high] = SPOILED if begins else truth(stay.tensor, stay.high - stay.low)
        if begins:
            continue
        for tensor in work.outside_fills:
            outside[tensor] = found[0][1].copy()
        for stay in touched[index]:
            stay.users.discard(index)
            if not stay.users:
                memory[stay.low : stay.high] = SPOILED
        for stay in work.over:
            memory[stay.low : stay.high] = truth(stay.tensor, stay.high - stay.low)
    for tensor in graph.outputs:
        assert np.array_equal(outside[tensor], truth(tensor, graph.tensors[tensor].size_bytes)), tensor
    return compared


def _moments(records):
    """(time, rank, place, task, whether it begins): ends before begins, an instant whole between them."""
    for index, record in enumerate(records):
        instant = record.end == record.start
        yield record.start, 1 if instant else 2, 2 * index, index, True
        yield record.end, 1 if instant else 0, 2 * index + 1, index, False
