"""What a machine would gain from more of one thing: 10 GB more of a memory, a wire or a memory twice as fast.

Each variant is asked the same question again, counts not whole, so that the answer is the value of the next gigabyte or
lane and not of rounding. A variant with other rates is priced again from its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from hw_configs.problems import InfeasibleError, NoAnswerError
from hw_configs.system import AnyLink, System
from mapping.deadline import is_late
from mapping.placement.column_program import Program, bound_columns
from mapping.placement.columns import Column
from mapping.placement.machine import Machine, Place
from mapping.placement.question import CoPlaceSettings, Question, ask
from mapping.solver import SolverOptions

__all__ = ["Lever", "levers"]

MORE_BYTES: Final = 10e9
FASTER: Final = 2.0
SOLVE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Lever:
    """A change of the machine, and by which share the objective falls (below zero: it rises)."""

    change: str
    gain: float


def levers(question: Question, settings: CoPlaceSettings, *, wires: bool = True) -> list[Lever]:
    """Every change with what it gains, most first; what gains less than a thousandth is left out.

    Members of a group are alike, so that one of them is asked about. ``wires`` is whether to ask about wires and bare
    memories as well, for which the whole graph is priced again each time.
    """
    base = _value(question)
    if base is None or base <= 0:
        return []
    found: list[Lever] = []
    asked: set[str] = set()
    for change, variant in _variants(question, settings, wires):
        if change in asked:
            continue
        asked.add(change)
        value = _value(variant)
        if value is not None and 1 - value / base > 1e-3:
            found.append(Lever(change, 1 - value / base))
        if is_late():
            break
    return sorted(found, key=lambda lever: -lever.gain)


def _value(question: Question) -> float | None:
    try:
        return bound_columns(question.program, question.capacity, SolverOptions(time_limit_s=SOLVE_S)).bound
    except (InfeasibleError, NoAnswerError):
        return None


def _variants(question: Question, settings: CoPlaceSettings, wires: bool) -> Iterator[tuple[str, Question]]:
    capacity, machine = question.capacity, question.machine
    for memory in machine.stores:
        group = machine.system.nodes[memory].group
        wider = replace(capacity, usable={**capacity.usable, memory: capacity.usable[memory] + MORE_BYTES})
        yield f"10 GB more in {group}", replace(question, capacity=wider)
    for place in machine.general:
        group = machine.system.nodes[place.device].group
        yield (
            f"{group} twice as fast, its memory too",
            replace(question, program=_quicker(question.program, place)),
        )
    for change, system in _faster(machine.system) if wires else ():
        if is_late():
            return
        try:
            yield change, ask(question.graph, Machine(system), settings)
        except InfeasibleError:
            continue


def _quicker(program: Program, place: Place) -> Program:
    """The program where a device takes half the time for everything."""
    run, ports = f"run {place.device}", (place.memory, f"{place.memory}:read", f"{place.memory}:write")

    def changed(column: Column) -> Column:
        saved = column.loads.get(run, 0.0) * (1 - 1 / FASTER)
        loads = {
            name: load / FASTER if name == run or name in ports else load
            for name, load in column.loads.items()
        }
        return replace(column, seconds=max(column.seconds - saved, 0.0), loads=loads)

    return replace(program, columns=tuple([changed(column) for column in own] for own in program.columns))


def _faster(system: System) -> Iterator[tuple[str, System]]:
    """Systems with one kind of wire, or one memory outside of a device that computes, twice as fast."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, wire in system.wires.items():
        one, other = wire.ends[0]
        ends = (system.nodes[one].group, system.nodes[other].group)
        kinds.setdefault(ends, []).append(name)
    for (one, other), names in kinds.items():
        wires = {
            name: replace(wire, link=_twice(wire.link)) if name in names else wire
            for name, wire in system.wires.items()
        }
        memory = next((n for n in (one, other) if _bare(system, n)), "")
        # The way from a processor to its memory is as fast as the memory.
        faster = replace(system, wires=wires)
        if memory:
            yield f"{memory} twice as fast", _with_faster_memory(faster, memory)
        else:
            yield f"wires between {one} and {other} twice as fast", faster


def _bare(system: System, group: str) -> bool:
    """Whether a group is memory and nothing else."""
    nodes = [node for node in system.nodes.values() if node.group == group]
    return all(
        node.compute is None and node.name in system.memories and node.device.kind == "dram" for node in nodes
    )


def _twice(link: AnyLink) -> AnyLink:
    return link.model_copy(update={"bandwidth": link.bandwidth * FASTER})


def _with_faster_memory(system: System, group: str) -> System:
    spaces = {
        name: replace(
            space,
            read_bandwidth=space.read_bandwidth * FASTER,
            write_bandwidth=space.write_bandwidth * FASTER,
        )
        if system.nodes[name].group == group
        else space
        for name, space in system.memories.items()
    }
    system.__dict__["memories"] = spaces
    return system
