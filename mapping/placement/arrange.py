"""Which segment takes which column, and which of alike devices serves it.

Segments of a class are equal, so the program only counts them. Three orders are written: *spread*, in which every
column recurs as evenly as its count allows, so that fetches find work to hide behind; *late*, the same with those that
fetch held back, so that the first fetches have more time; and *grouped*, in which segments of one
kind of device stand together, so that activations cross from device to device as seldom as possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from mapping.placement.columns import Column
from mapping.placement.draft import Draft
from mapping.placement.machine import Machine, Place
from mapping.placement.placement_plan import Placement
from mapping.placement.segments import Segment, SegmentClass
from workloads.graph import Graph

__all__ = ["ORDERS", "Order", "arranged", "sequences_of"]

Order = Literal["spread", "late", "grouped"]
ORDERS: Final[tuple[Order, ...]] = ("spread", "late", "grouped")
HELD_BACK: Final = {"spread": 0.5, "late": 2.0}
"""Segments by which those that fetch are held back: what is fetched at the start hides behind nothing."""
FULL: Final = 0.97
"""Share of a memory that is given away before another member is asked; the rest is for activations."""


def arranged(
    graph: Graph,
    machine: Machine,
    classes: Sequence[SegmentClass],
    columns: Sequence[Sequence[Column]],
    sequences: Sequence[Sequence[int]],
    ahead: int,
    hand_over_s: float,
) -> Placement:
    """The placement of all segments: of each class, the column of every member in turn."""
    given: list[tuple[int, Segment, Column]] = []
    place = {op.name: index for index, op in enumerate(graph.operators)}
    for found, own, chosen in zip(classes, columns, sequences, strict=True):
        for segment, index in zip(found.members, chosen, strict=True):
            given.append((place[next(segment.operators).name], segment, own[index]))
    given.sort(key=lambda entry: entry[0])
    draft = Draft(graph, machine)
    members = _Members(machine, [column for _, _, column in given])
    for _, segment, column in given:
        draft.add(segment, column.choices, members.serve(column), column.parked)
    return draft.placement(ahead, hand_over_s)


def sequences_of(
    taken: Sequence[Mapping[int, int]], columns: Sequence[Sequence[Column]], order: Order
) -> list[list[int]]:
    """Counts as an order of the members of each class."""
    return [_sequence(counts, own, order) for counts, own in zip(taken, columns, strict=True)]


def _sequence(counts: Mapping[int, int], columns: Sequence[Column], order: Order) -> list[int]:
    total = sum(counts.values())
    if order == "grouped":
        ranked = sorted(counts, key=lambda i: (columns[i].fetches, columns[i].choices[-1].device, i))
        return [index for index in ranked for _ in range(counts[index])]
    done = dict.fromkeys(counts, 0)
    found = []
    # What is fetched comes late among equals: at the start nothing hides it.
    ranked = sorted(counts, key=lambda i: (columns[i].fetches, i))
    for position in range(total):
        due = {i: counts[i] * (position + 1) / total - done[i] for i in ranked if done[i] < counts[i]}
        late = {i: HELD_BACK[order] * columns[i].fetches for i in due}
        index = max(due, key=lambda i: (due[i] - late[i], -ranked.index(i)))
        done[index] += 1
        found.append(index)
    return found


class _Members:
    """Deals segments over alike devices, in order, each up to its share of the bytes."""

    def __init__(self, machine: Machine, columns: Sequence[Column]) -> None:
        self.machine = machine
        self.total: dict[str, float] = {}
        for column in columns:
            for memory, size in column.held.items():
                self.total[memory] = self.total.get(memory, 0.0) + size
        self.given: dict[str, float] = {}
        self.used: dict[str, float] = {}
        self.turn: dict[str, int] = {}

    def serve(self, column: Column) -> dict[str, str]:
        """Devices and memories that stand in for those of the column's choices."""
        found: dict[str, str] = {}
        for place in {choice.place for choice in column.choices if not choice.members}:
            count = len(place.devices)
            if count == 1:
                continue
            index = self._member(place, column.held.get(place.memory, 0))
            found[place.device] = place.devices[index]
            found[place.memory] = place.memories[index]
        for memory in {choice.weights for choice in column.choices if choice.weights != choice.place.memory}:
            # Stores that are alike take turns, so that fetches come from all of them.
            stores = self.machine.alike(memory)
            if len(stores) > 1 and memory not in found:
                self.turn[memory] = self.turn.get(memory, -1) + 1
                found[memory] = stores[self.turn[memory] % len(stores)]
        return found

    def _member(self, place: Place, size: int) -> int:
        """The one whose turn it is, each up to an even share; where that has no room, the emptiest."""
        done, total = self.given.get(place.memory, 0.0), self.total.get(place.memory, 0.0)
        count = len(place.devices)
        index = min(int((done + size / 2) / total * count), count - 1) if total else 0
        used = [self.used.get(memory, 0.0) for memory in place.memories]
        if used[index] + size > self.machine.space(place.memories[index]).usable_bytes * FULL:
            index = min(range(count), key=used.__getitem__)
        self.given[place.memory] = done + size
        self.used[place.memories[index]] = used[index] + size
        return index
