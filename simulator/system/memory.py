"""Who holds how many bytes in which memory, over the time of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hw_configs.problems import InfeasibleError
from hw_configs.system import System
from hw_configs.units import format_quantity
from workloads.graph import Graph, Tensor

__all__ = ["MemoryLedger", "Peak", "memory_report", "out_of_memory"]


@dataclass(frozen=True, slots=True)
class Peak:
    """The fullest moment of a memory: when, how many bytes, and what was live."""

    memory: str
    time_s: float
    bytes: int
    live: tuple[tuple[str, int], ...]


class MemoryLedger:
    """Books of every memory: allocations and releases in time order."""

    def __init__(self, system: System, graph: Graph) -> None:
        self.usable = {name: space.usable_bytes for name, space in system.memories.items()}
        self.tensors = graph.tensors
        self.used = dict.fromkeys(self.usable, 0)
        self.entries: dict[str, list[tuple[float, str, int]]] = {name: [] for name in self.usable}
        self._peak: dict[str, tuple[int, int]] = dict.fromkeys(self.usable, (0, 0))

    def room(self, memory: str) -> int:
        """Bytes that are free now."""
        return self.usable[memory] - self.used[memory]

    def allocate(self, tensor: str, memory: str, time_s: float, size: int | None = None) -> None:
        """Book a copy of all of a tensor, or of ``size`` bytes of it; the caller has seen to it that there is room."""
        self._book(tensor, memory, time_s, self.tensors[tensor].size_bytes if size is None else size)

    def release(self, tensor: str, memory: str, time_s: float, size: int | None = None) -> None:
        """Drop such a copy."""
        self._book(tensor, memory, time_s, -(self.tensors[tensor].size_bytes if size is None else size))

    def _book(self, tensor: str, memory: str, time_s: float, change: int) -> None:
        entries = self.entries[memory]
        entries.append((time_s, tensor, change))
        self.used[memory] += change
        if self.used[memory] > self._peak[memory][0]:
            self._peak[memory] = (self.used[memory], len(entries))

    def peak_bytes(self, memory: str) -> int:
        """Most bytes ever booked in a memory."""
        return self._peak[memory][0]

    def peak(self, memory: str) -> Peak:
        """The fullest moment of a memory, with the copies live then, largest first."""
        most, count = self._peak[memory]
        live: dict[str, int] = {}
        entries = self.entries[memory][:count]
        for _, tensor, change in entries:
            live[tensor] = live.get(tensor, 0) + change
        time_s = entries[-1][0] if entries else 0.0
        present = sorted(
            ((t, size) for t, size in live.items() if size), key=lambda item: (-item[1], item[0])
        )
        return Peak(memory, time_s, most, tuple(present))


def memory_report(
    memory: str, needed: int, usable: int, capacity: int, live: Iterable[tuple[Tensor, int]]
) -> str:
    """Why something does not fit: by how much, which roles and tensors, and what could help."""
    tensors = list(live)
    roles: dict[str, int] = {}
    for tensor, size in tensors:
        roles[tensor.role.value] = roles.get(tensor.role.value, 0) + size
    shown = sorted(tensors, key=lambda item: (-item[1], item[0].name))[:5]

    def size_of(value: float) -> str:
        return format_quantity(value, "size")

    by_role = ", ".join(
        f"{role} {size_of(size)}" for role, size in sorted(roles.items(), key=lambda item: -item[1]) if size
    )
    largest = ", ".join(f"{tensor.name} {size_of(size)}" for tensor, size in shown)
    return (
        f"{memory} needs {size_of(needed)} and has {size_of(usable)} usable of {size_of(capacity)}: "
        f"short by {size_of(needed - usable)}\n  by role: {by_role}\n  largest: {largest}"
    )


def out_of_memory(
    ledger: MemoryLedger,
    system: System,
    waiting: Mapping[str, tuple[str, int]],
    levers: str,
) -> InfeasibleError:
    """The error of a run that stalled: for each memory the task that waits, and what holds the bytes."""
    lines = []
    for memory, (task, size) in waiting.items():
        live: dict[str, int] = {}
        for _, tensor, change in ledger.entries[memory]:
            live[tensor] = live.get(tensor, 0) + change
        holders = [(ledger.tensors[tensor], size_now) for tensor, size_now in live.items() if size_now]
        report = memory_report(
            memory,
            ledger.used[memory] + size,
            ledger.usable[memory],
            system.memories[memory].capacity_bytes,
            holders,
        )
        lines.append(f"out of memory at {task}: {report}\n  {levers}")
    return InfeasibleError("\n".join(lines))
