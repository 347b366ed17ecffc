"""Who may allocate next when memory is short, so that a plan whose list order fits always finishes.

Streams run ahead of one another, and a stream that takes the last bytes for later can starve the task that
would free some. The list order of a plan is a way to finish, so it serves as the safe sequence of the
banker's algorithm (Dijkstra, EWD 623): an allocation out of turn is granted only if all allocations that
stand before it would still fit, one after another, beside it. Where the list order itself does not fit,
whatever fits is granted in list order, and the run may stall.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from simulator.system.bound_plan import BoundPlan
from simulator.system.memory import MemoryLedger

__all__ = ["Admission", "last_moments"]


class Admission:
    """Grants allocations of one run. Tasks are named by their index in the plan."""

    def __init__(self, bound: BoundPlan, ledger: MemoryLedger) -> None:
        self.bound, self.ledger = bound, ledger
        self.order: dict[str, list[int]] = {}
        self.place: dict[int, int] = {}
        for index, made in enumerate(bound.makes):
            if made:
                queue = self.order.setdefault(bound.copies[made[0]].memory, [])
                self.place[index] = len(queue)
                queue.append(index)
        self.granted = [False] * len(bound.tasks)
        self.frontier = dict.fromkeys(self.order, 0)
        self.until: dict[int, int] = {}
        """Copy -> last place in its memory's order at which it still lives, one after another."""
        self.begins: dict[int, int] = {}
        """Copy -> first place in its memory's order at which it holds bytes of its own."""
        self.used = {memory: self._in_turn(memory) for memory in self._contended()}

    def size(self, index: int) -> int:
        """Bytes that a task allocates."""
        copies, tensors = self.bound.copies, self.ledger.tensors
        fresh = [number for number in self.bound.makes[index] if not copies[number].over]
        return sum(copies[number].size(tensors) for number in fresh)

    def may(self, index: int, memory: str) -> bool:
        """Whether a task may allocate now: there is room, and nobody before it is starved."""
        size = self.size(index)
        if self.ledger.room(memory) < size:
            return False
        first, place = self.frontier[memory], self.place[index]
        used = self.used.get(memory)
        if used is None or place <= first:
            return True
        return int(used[first:place].max()) + size <= self.ledger.usable[memory]

    def grant(self, index: int, memory: str) -> None:
        """Note that a task has allocated."""
        order, first = self.order[memory], self.frontier[memory]
        used = self.used.get(memory)
        if used is not None:
            used[first : self.place[index]] += self.size(index)
        self.granted[index] = True
        while first < len(order) and self.granted[order[first]]:
            first += 1
        self.frontier[memory] = first

    def release(self, number: int) -> None:
        """Note that a copy is gone, perhaps before its turn."""
        copy = self.bound.copies[number]
        used = self.used.get(copy.memory)
        if used is not None:
            size = copy.size(self.ledger.tensors)
            used[self.frontier[copy.memory] : self.until[number] + 1] -= size

    def inherit(self, number: int) -> None:
        """Note that a copy holds the bytes that it was written over, perhaps before its turn."""
        copy = self.bound.copies[number]
        used = self.used.get(copy.memory)
        if used is not None:
            size = copy.size(self.ledger.tensors)
            used[self.frontier[copy.memory] : self.begins[number]] += size

    def _contended(self) -> set[str]:
        """Memories in which several streams allocate more than would fit at once."""
        bound, tensors = self.bound, self.ledger.tensors
        total = dict.fromkeys(self.order, 0)
        for copy in bound.copies:
            if copy.memory in total:
                total[copy.memory] += copy.size(tensors)
        return {
            memory
            for memory, order in self.order.items()
            if total[memory] > self.ledger.usable[memory]
            and len({bound.tasks[index].stream for index in order}) > 1
        }

    def _in_turn(self, memory: str) -> NDArray[np.int64] | None:
        """Bytes held right after each allocation when tasks run in list order; None if that does not fit."""
        order = self.order[memory]
        change = np.zeros(len(order) + 1, np.int64)
        last = last_moments(self.bound)
        maker = {number: index for index in order for number in self.bound.makes[index]}
        for number, copy in enumerate(self.bound.copies):
            if copy.memory != memory:
                continue
            size = copy.size(self.ledger.tensors)
            begin = 0 if copy.home else self.place[maker[number]] + copy.over
            self.begins[number] = begin
            stays = copy.kept or number not in last
            self.until[number] = len(order) - 1 if stays else bisect_right(order, last[number]) - 1
            if copy.over and self.until[number] < begin:
                continue
            change[begin] += size
            change[self.until[number] + 1] -= size
        used = np.cumsum(change[:-1])
        return used if len(used) and int(used.max()) <= self.ledger.usable[memory] else None


def last_moments(bound: BoundPlan) -> dict[int, int]:
    """Copy -> index of the task after which it goes; the ranks of a collective leave together."""
    last: dict[int, int] = {}
    for index, used in enumerate(bound.uses):
        task = bound.tasks[index]
        end = index
        if task.kind == "collective":
            end = index - task.group.index(task.device) + len(task.group) - 1
        for number in used:
            last[number] = max(last.get(number, end), end)
    return last
