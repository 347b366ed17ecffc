"""What a core beside a DRAM bank is, and the programs that its tasklets run: instructions, transfers, barriers.

A core (UPMEM calls it a DPU) issues one instruction a cycle. Two instructions of a tasklet are at least ``spacing``
cycles apart, so that many tasklets are needed to fill the pipeline. Data lies in the bank (MRAM) and is worked on
in a scratchpad (WRAM); transfers between both go one at a time, each a fixed time and a time per byte, and the tasklet
that asked waits for its own (Gomez-Luna et al., arXiv:2105.03814, section 3).

A program is data: phases of a tasklet, each a list of steps that is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal, NamedTuple

from hw_configs.problems import InputError, Problem

__all__ = ["BARRIER", "READ", "RUN", "WRITE", "Core", "Phase", "Step", "Tasklet", "check_program"]

StepKind = Literal["run", "read", "write", "barrier"]
RUN: Final = 0
READ: Final = 1
WRITE: Final = 2
BARRIER: Final = 3
KINDS: Final[tuple[StepKind, ...]] = ("run", "read", "write", "barrier")
MOST_ISSUED: Final = 4_000_000_000
"""Instructions of one run; some minutes of work."""


@dataclass(frozen=True, slots=True)
class Core:
    """A core beside a bank; defaults are those of the 350 MHz UPMEM DPU.

    The figures are those of the PrIM paper (arXiv:2105.03814, sections 2.2 and 3.2), recalled and not read again.
    """

    clock_hz: float = 350e6
    spacing: int = 11
    """Cycles from an instruction of a tasklet to its next."""
    tasklets: int = 24
    """Hardware threads."""
    scratchpad_bytes: int = 64 << 10
    bank_bytes: int = 64 << 20
    read_cycles: int = 77
    """Of a transfer from the bank, whatever its size."""
    write_cycles: int = 61
    bytes_per_cycle: int = 2
    least_transfer: int = 8
    most_transfer: int = 2048

    def __post_init__(self) -> None:
        problems = [
            Problem(f"found {getattr(self, f.name)}; expected above 0", path=f.name)
            for f in fields(self)
            if not getattr(self, f.name) > 0
        ]
        if problems:
            raise InputError(problems)


class Step(NamedTuple):
    """``run``: so many instructions; ``read`` and ``write``: so many bytes; ``barrier``: until all are there."""

    kind: StepKind
    amount: int = 1


class Phase(NamedTuple):
    """Steps that a tasklet repeats."""

    steps: tuple[Step, ...]
    times: int = 1


Tasklet = tuple[Phase, ...]
"""The phases of a tasklet, one after another."""


def check_program(program: tuple[Tasklet, ...], core: Core) -> None:
    """Raise ``InputError`` with every problem of a program: tasklets, amounts, transfers, barriers that never open."""
    problems: list[Problem] = []
    if not 1 <= len(program) <= core.tasklets:
        problems.append(Problem(f"found {len(program)} tasklets; expected 1 to {core.tasklets}"))
    issued = 0
    for number, tasklet in enumerate(program):
        for place, phase in enumerate(tasklet):
            where = f"tasklet {number}, phase {place}"
            if phase.times < 0:
                problems.append(Problem(f"found {phase.times} times; expected 0 or more", path=where))
            for step in phase.steps:
                problems += [Problem(text, path=where) for text in _wrong(step, core)]
                issued += max(phase.times, 0) * (step.amount if step.kind == "run" else 1)
    meetings = {_meetings(tasklet) for tasklet in program}
    if len(meetings) > 1:
        problems.append(Problem(f"tasklets meet {sorted(meetings)} times; expected all as often"))
    if issued > MOST_ISSUED:
        problems.append(Problem(f"found {issued:,} instructions; expected up to {MOST_ISSUED:,}"))
    if problems:
        raise InputError(problems[:20])


def _wrong(step: Step, core: Core) -> list[str]:
    if step.kind not in KINDS:
        return [f"found step {step.kind!r}; expected one of {', '.join(KINDS)}"]
    if step.kind in ("read", "write"):
        least, most = core.least_transfer, core.most_transfer
        if step.amount % least or not least <= step.amount <= most:
            return [
                f"{step.kind}: found {step.amount} bytes; expected {least} to {most}, a multiple of {least}"
            ]
    return [] if step.amount >= 1 else [f"{step.kind}: found {step.amount}; expected 1 or more"]


def _meetings(tasklet: Tasklet) -> int:
    return sum(phase.times * sum(step.kind == "barrier" for step in phase.steps) for phase in tasklet)
