"""Runs phases of work on a machine of many threads and holds the result against its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hw_configs.many_threads import ManyThreads
from hw_configs.problems import PhysicsError
from simulator.threads.kernel import run_phase
from simulator.threads.work import Phase, Totals, totals

__all__ = ["ThreadRun", "least_clocks", "run_threads"]


@dataclass(frozen=True, slots=True)
class ThreadRun:
    """What a run took. ``phase_s``: by phase; ``busy``: shares of the time by part; ``waits``: of all threads' time."""

    time_s: float
    phase_s: tuple[tuple[str, float], ...]
    work: Totals
    busy: dict[str, float]
    waits: dict[str, float]

    @property
    def bound_by(self) -> str:
        """The part that is busy longest."""
        return max(self.busy, key=lambda name: self.busy[name])


def least_clocks(machine: ManyThreads, phase: Phase) -> float:
    """Clocks that no order of a phase's tasks can undercut: what each part has to serve, and the longest task."""
    sums = phase.segments.sum(axis=0)
    per_clock = machine.memory_bandwidth / machine.clock
    parts = [
        sums[0] / machine.pipelines,
        (sums[1] + sums[2]) / machine.scratchpad_rate,
        (sums[4] + sums[5]) / per_clock,
    ]
    latency = machine.memory_latency * machine.clock
    own = (
        phase.segments[:, 0]
        + machine.scratchpad_latency * phase.segments[:, 1]
        + latency * phase.segments[:, 3]
    )
    chained = np.add.reduceat(np.append(own, 0), phase.begins[:-1]) if phase.tasks else np.zeros(1)
    chained = np.where(np.diff(phase.begins) > 0, chained, 0) if phase.tasks else chained
    return float(max(*parts, chained.max(initial=0.0)))


def run_threads(machine: ManyThreads, phases: Sequence[Phase]) -> ThreadRun:
    """Phases one after the other, each on all threads. Raises ``PhysicsError`` where one is faster than it can be."""
    rates = np.array([
        machine.scratchpad_rate, machine.scratchpad_latency, machine.memory_bandwidth / machine.clock,
        machine.memory_latency * machine.clock,
    ])  # fmt: skip
    waited, clock, spans = np.zeros(3), 0.0, []
    for phase in phases:
        end = float(run_phase(
            phase.segments, phase.begins, phase.dynamic, machine.pipelines, machine.threads_per_pipeline, rates,
            clock, waited,
        ))  # fmt: skip
        least = least_clocks(machine, phase)
        if end - clock < least * (1 - 1e-9):
            raise PhysicsError(
                f"phase {phase.name!r} took {end - clock:g} clocks; it cannot take less than {least:g}"
            )
        spans.append((phase.name, (end - clock) / machine.clock))
        clock = end
    work = totals(phases)
    whole = max(clock, 1e-300)
    busy = {
        "pipelines": work.instructions / machine.pipelines / whole,
        "scratchpad": (work.accesses + work.atomics) / machine.scratchpad_rate / whole,
        "memory": work.memory_bytes / rates[2] / whole,
    }
    names = ("memory", "pipeline", "scratchpad")
    waits = {name: float(part) / whole / machine.threads for name, part in zip(names, waited, strict=True)}
    return ThreadRun(clock / machine.clock, tuple(spans), work, busy, waits)
