"""Runs a program of tasklets on a core, from instruction to instruction.

Of the tasklets that may issue, the one that has been able to for longest goes first (of equals the lower number), which
is the pipeline's round. A transfer starts when its instruction has issued and the one before it has ended. A barrier
opens for all when the last one's instruction has issued.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return, call-overload, call-arg"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.problems import PhysicsError
from simulator.upmem.program import BARRIER, KINDS, READ, RUN, WRITE, Core, Tasklet, check_program

__all__ = ["CoreRun", "run"]

Ints = npt.NDArray[np.int64]
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class CoreRun:
    """What a program took: cycles to the last instruction's and transfer's end, and what was counted."""

    cycles: int
    seconds: float
    instructions: int
    transfer_cycles: int
    """Cycles in which the transfer engine was busy."""
    read_bytes: int
    written_bytes: int

    @property
    def bytes_per_s(self) -> float:
        """Bytes of the bank read and written per second."""
        return (self.read_bytes + self.written_bytes) / self.seconds if self.seconds else 0.0


def run(program: tuple[Tasklet, ...], core: Core) -> CoreRun:
    """Run a program to its end; ``InputError`` for one that the core cannot run."""
    check_program(program, core)
    phases, steps, first = _flat(program)
    figures = np.array(
        [core.spacing, core.read_cycles, core.write_cycles, core.bytes_per_cycle], dtype=np.int64
    )
    counts = np.zeros(5, np.int64)
    _run(phases, steps, first, figures, counts)
    cycles, issued, busy, read, written = (int(count) for count in counts)
    if max(issued, busy) > cycles:
        raise PhysicsError(f"{issued} instructions and {busy} cycles of transfers in {cycles} cycles")
    return CoreRun(cycles, cycles / core.clock_hz, issued, busy, read, written)


def _flat(program: tuple[Tasklet, ...]) -> tuple[Ints, Ints, Ints]:
    """Rows of phases (first step, behind the last, times), of steps (kind, amount), and each tasklet's first phase."""
    phases: list[tuple[int, int, int]] = []
    steps: list[tuple[int, int]] = []
    first = [0]
    for tasklet in program:
        for phase in tasklet:
            if phase.steps and phase.times:
                begin = len(steps)
                steps += [(KINDS.index(step.kind), step.amount) for step in phase.steps]
                phases.append((begin, len(steps), phase.times))
        first.append(len(phases))
    return (
        np.array(phases, np.int64).reshape(-1, 3),
        np.array(steps, np.int64).reshape(-1, 2),
        np.array(first, np.int64),
    )


@compiled
def _run(phases: Ints, steps: Ints, first: Ints, figures: Ints, counts: Ints) -> None:
    spacing, read_cycles, write_cycles, rate = figures[0], figures[1], figures[2], figures[3]
    size = first.size - 1
    ready = np.zeros(size, np.int64)
    phase = first[:-1].copy()
    step = np.zeros(size, np.int64)
    done = np.zeros(size, np.int64)
    turns = np.zeros(size, np.int64)
    waits = np.zeros(size, np.int64)
    left = 0
    for t in range(size):
        if phase[t] == first[t + 1]:
            ready[t] = NEVER
        else:
            step[t] = phases[phase[t], 0]
            left += 1
    now = free = end = waiting = 0
    while left > 0:
        t = 0
        for other in range(1, size):
            if ready[other] < ready[t]:
                t = other
        cycle = max(now, ready[t])
        now = cycle + 1
        counts[1] += 1
        kind, amount = steps[step[t], 0], steps[step[t], 1]
        ready[t] = cycle + spacing
        end = max(end, cycle + 1)
        over = True
        if kind == RUN:
            done[t] += 1
            over = done[t] == amount
        elif kind == BARRIER:
            waits[t] = 1
            waiting += 1
            ready[t] = NEVER
        else:
            # Half a cycle's bytes take a whole one.
            takes = (read_cycles if kind == READ else write_cycles) + (amount + rate - 1) // rate
            free = max(free, cycle + 1) + takes
            ready[t] = max(ready[t], free)
            end = max(end, free)
            counts[2] += takes
            counts[3 if kind != WRITE else 4] += amount
        if over:
            done[t] = 0
            step[t] += 1
            if step[t] == phases[phase[t], 1]:
                turns[t] += 1
                if turns[t] == phases[phase[t], 2]:
                    turns[t] = 0
                    phase[t] += 1
                if phase[t] < first[t + 1]:
                    step[t] = phases[phase[t], 0]
                elif waits[t] == 0:
                    ready[t] = NEVER
                    left -= 1
        if waiting == left and waiting > 0:
            for other in range(size):
                if waits[other] == 1:
                    waits[other] = 0
                    ready[other] = cycle + spacing
                    if phase[other] == first[other + 1]:
                        ready[other] = NEVER
                        left -= 1
            waiting = 0
    counts[0] = end
