"""The independent judge of a schedule: replays it step by step on bytes. Shares no code with any engine.

Keeps which byte of the scratchpad belongs to whom, what lies off-chip, and complains where a promise breaks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import Residence, Schedule

__all__ = ["Violation", "check"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise at a step."""

    kind: str
    step: int
    message: str

    def __str__(self) -> str:
        return self.message


def check(
    problem: ScheduleProblem, schedule: Schedule, scratchpad_bytes: int, limit: int = 20
) -> list[Violation]:
    """Everything that is wrong with a schedule, at most ``limit`` items; an empty list means that it holds.

    Checks: every operator once and after what it needs; residences inside the scratchpad, never two on one
    byte; every input, output and workspace there at its step; each residence filled by its producer, a load or
    a retrieve; nothing retrieved that was never written; first loads and stores exactly where compulsory. Two
    tensors may share bytes at one step alone, where the operator may write one over the other.
    """
    found = _order(problem, schedule)
    if found:
        return found[:limit]
    found = [*_space(problem, schedule, scratchpad_bytes), *_presence(problem, schedule)]
    found += _filled(problem, schedule)
    found += _traffic(problem, schedule)
    return sorted(found, key=lambda item: item.step)[:limit]


def _order(problem: ScheduleProblem, schedule: Schedule) -> list[Violation]:
    names = sorted(op.name for op in problem.operators)
    if sorted(schedule.order) != names:
        return [Violation("order", 0, "the order does not hold every operator exactly once")]
    step = {name: at for at, name in enumerate(schedule.order)}
    found = []
    for op in problem.operators:
        waits = [*op.after, *(problem.tensors[t].producer for t in op.inputs)]
        for other in (problem.operators[w].name for w in waits if w >= 0):
            if step[other] >= step[op.name]:
                message = f"{op.name!r} at step {step[op.name]} runs before {other!r} at step {step[other]}"
                found.append(Violation("order", step[op.name], message))
    return found


def _over(problem: ScheduleProblem, schedule: Schedule) -> dict[tuple[str, int], Residence]:
    """What is written over what: (output, its step) to the stay of the input, which ends there, at one address."""
    found: dict[tuple[str, int], Residence] = {}
    begins = {(stay.tensor, stay.start): stay for stay in schedule.residences}
    ends = {(stay.tensor, stay.end): stay for stay in schedule.residences}
    by_name = {op.name: op for op in problem.operators}
    for step, name in enumerate(schedule.order):
        for pair in by_name[name].in_place:
            made = begins.get((problem.tensors[pair.output].name, step))
            for t in pair.inputs:
                under = ends.get((problem.tensors[t].name, step + 1))
                if (
                    made is not None
                    and under is not None
                    and under.offset == made.offset
                    and under.size_bytes >= made.size_bytes
                ):
                    found.setdefault((made.tensor, step), under)
    return found


def _space(problem: ScheduleProblem, schedule: Schedule, capacity: int) -> list[Violation]:
    found = []
    over = _over(problem, schedule)
    size = {tensor.name: tensor.size_bytes for tensor in problem.tensors}
    for stay in schedule.residences:
        if stay.tensor not in size:
            found.append(Violation("tensor", stay.start, f"unknown tensor {stay.tensor!r}"))
        elif stay.size_bytes != size[stay.tensor]:
            message = f"{stay.tensor!r} has {size[stay.tensor]} bytes, not {stay.size_bytes}"
            found.append(Violation("tensor", stay.start, message))
        if not 0 <= stay.start < stay.end <= len(schedule.order):
            found.append(
                Violation("time", stay.start, f"{stay.tensor!r} stays from {stay.start} to {stay.end}")
            )
    by_name = {op.name: op for op in problem.operators}
    for step, (name, there) in enumerate(zip(schedule.order, _by_step(schedule), strict=True)):
        held = [
            (s.offset, s.offset + s.size_bytes, repr(s.tensor))
            for s in there
            # At its first step, what is written over an input lies in the bytes of that.
            if s.size_bytes > 0 and (s.start != step or (s.tensor, step) not in over)
        ]
        op = by_name[name]
        if op.workspace_bytes > 0:
            if name not in schedule.workspaces:
                found.append(Violation("workspace", step, f"the workspace of {name!r} has no address"))
            else:
                at = schedule.workspaces[name]
                held.append((at, at + op.workspace_bytes, f"the workspace of {name!r}"))
        held.sort()
        for low, high, who in held:
            if low < 0 or high > capacity:
                message = f"step {step}: {who} lies at {low} to {high}, outside the {capacity} bytes"
                found.append(Violation("capacity", step, message))
        for (_, high, who), (low, _, other) in itertools.pairwise(held):
            if low < high:
                message = f"step {step}: {who} and {other} share the bytes {low} to {high}"
                found.append(Violation("overlap", step, message))
    return found


def _by_step(schedule: Schedule) -> Iterator[list[Residence]]:
    """The residences at each step, in the order in which the schedule lists them."""
    begins: dict[int, list[int]] = {}
    for index, stay in enumerate(schedule.residences):
        begins.setdefault(max(stay.start, 0), []).append(index)
    there: list[int] = []
    for step in range(len(schedule.order)):
        there = [i for i in there if step < schedule.residences[i].end]
        there += [i for i in begins.get(step, ()) if step < schedule.residences[i].end]
        yield [schedule.residences[i] for i in sorted(there)]


def _presence(problem: ScheduleProblem, schedule: Schedule) -> list[Violation]:
    found = []
    stays: dict[str, list[Residence]] = {}
    for stay in schedule.residences:
        stays.setdefault(stay.tensor, []).append(stay)
    by_name = {op.name: op for op in problem.operators}
    for step, name in enumerate(schedule.order):
        op = by_name[name]
        for t in (*op.inputs, *op.outputs):
            tensor = problem.tensors[t].name
            count = sum(s.start <= step < s.end for s in stays.get(tensor, ()))
            if count != 1:
                message = f"step {step}: {name!r} needs {tensor!r}, which is there {count} times"
                found.append(Violation("presence", step, message))
    return found


def _filled(problem: ScheduleProblem, schedule: Schedule) -> list[Violation]:
    """Each residence is filled once: by its producer's step or by one load or retrieve at its start."""
    found = []
    step_of = {name: at for at, name in enumerate(schedule.order)}
    tensors = {tensor.name: tensor for tensor in problem.tensors}
    fetched: dict[tuple[str, int], int] = {}
    for move in schedule.transfers:
        if move.kind in ("load", "retrieve"):
            fetched[move.tensor, move.step] = fetched.get((move.tensor, move.step), 0) + 1
    for stay in schedule.residences:
        tensor = tensors.get(stay.tensor)
        if tensor is None:
            continue
        made = step_of[problem.operators[tensor.producer].name] if tensor.producer >= 0 else -1
        times = fetched.pop((stay.tensor, stay.start), 0) + (made == stay.start)
        if times != 1:
            message = f"step {stay.start}: {stay.tensor!r} comes to lie there, filled {times} times"
            found.append(Violation("fill", stay.start, message))
        if stay.start < made:
            message = f"step {stay.start}: {stay.tensor!r} lies there before it is made at step {made}"
            found.append(Violation("fill", stay.start, message))
    for tensor_name, step in fetched:
        found.append(Violation("fill", step, f"step {step}: {tensor_name!r} is fetched to no place"))
    return found


def _traffic(problem: ScheduleProblem, schedule: Schedule) -> list[Violation]:
    """Off-chip side: what is written and read, in order of time."""
    found: list[Violation] = []
    tensors = {tensor.name: tensor for tensor in problem.tensors}
    off_chip = {tensor.name for tensor in problem.tensors if tensor.producer < 0}
    stays: dict[str, list[Residence]] = {}
    for stay in schedule.residences:
        stays.setdefault(stay.tensor, []).append(stay)
    gone = {(stay.tensor, stay.end) for stay in _over(problem, schedule).values()}
    touched: set[str] = set()
    stored: set[str] = set()
    last = (0, 0)
    for move in schedule.transfers:
        tensor = tensors.get(move.tensor)
        key = (move.step, int(move.kind in ("load", "retrieve")))
        where = f"step {move.step}: {move.kind} of {move.tensor!r}"
        if key < last:
            found.append(Violation("time", move.step, f"{where} stands out of order"))
        last = max(last, key)
        if tensor is None or move.size_bytes != tensor.size_bytes:
            found.append(Violation("tensor", move.step, f"{where} has a wrong size or name"))
            continue
        if move.kind in ("spill", "store"):
            # What is written over is lost before the step that its stay ends with is over.
            inside = any(
                s.start < move.step <= s.end - ((s.tensor, s.end) in gone) for s in stays.get(move.tensor, ())
            )
            if not inside:
                found.append(Violation("traffic", move.step, f"{where} finds nothing to write"))
            if move.kind == "store" and not tensor.is_output:
                found.append(Violation("traffic", move.step, f"{where} is no graph output"))
            if move.kind == "spill" and tensor.is_output:
                found.append(
                    Violation("traffic", move.step, f"{where}: a graph output is stored, not spilled")
                )
            if move.kind == "store" and move.tensor in stored:
                found.append(Violation("traffic", move.step, f"{where} happens twice"))
            stored |= {move.tensor} if move.kind == "store" else set()
            off_chip.add(move.tensor)
            continue
        if move.kind == "load" and (tensor.producer >= 0 or move.tensor in touched):
            found.append(Violation("traffic", move.step, f"{where} is not the compulsory first one"))
        if move.kind == "retrieve" and tensor.producer < 0 and move.tensor not in touched:
            found.append(Violation("traffic", move.step, f"{where} is the first, compulsory one: a load"))
        if move.tensor not in off_chip and not _starts_off_chip(problem, move.tensor):
            found.append(Violation("traffic", move.step, f"{where} was never written"))
        touched.add(move.tensor)
    for tensor in problem.tensors:
        if tensor.is_output and tensor.producer >= 0 and tensor.name not in stored:
            message = f"the graph output {tensor.name!r} is never stored"
            found.append(Violation("traffic", len(schedule.order), message))
    return found


def _starts_off_chip(problem: ScheduleProblem, name: str) -> bool:
    """A graph input that an operator of its own loads lies off-chip from the start."""
    tensor = problem.tensors[problem.tensor_index[name]]
    return tensor.copy_free and not tensor.is_output
