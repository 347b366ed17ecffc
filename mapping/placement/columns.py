"""Ways to place one segment: who runs each unit and what lives where, with what that takes.

A *column* is a choice for every unit of a segment. Its seconds are those of the segment alone with everything that can
be fetched ahead already there; its loads are seconds of every device, wire and memory port, those of fetching included.
A step can be no shorter than the sum of the segments' own seconds, since each waits for the one before, nor than what
any resource has to carry.

Of columns that no other beats in every respect only those are kept that differ; which are beaten is proved by
comparing seconds, loads and bytes one by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from hw_configs.device import Pim
from hw_configs.problems import InfeasibleError, InputError
from mapping.placement.draft import Draft, ExpertPart, UnitChoice, pim_layout
from mapping.placement.machine import Machine, Place
from mapping.placement.placement_plan import fetched_bytes, write_placement
from mapping.placement.segments import Segment, SegmentClass, Unit, saved_activations
from simulator.plan import Compute, PlanNotes, Transfer
from simulator.rewrite.apply import rewrite
from simulator.system.bound_plan import bind
from simulator.system.engine import run_events
from workloads.dtypes import size_bytes
from workloads.expert_frequency import ExpertFrequency
from workloads.graph import Graph, Operator
from workloads.operators import Attention, GroupedProduct

__all__ = ["Column", "Scope", "columns_of", "unit_choices"]

MOST_COLUMNS: Final = 4_000
"""Of one class; where units have more ways together, all units of products but the largest share theirs."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be chosen: devices that compute, memories that hold weights and caches; None: any."""

    devices: frozenset[str] | None = None
    weights: frozenset[str] | None = None
    caches: frozenset[str] | None = None
    """Memories; where weights or caches may live."""
    frequency: ExpertFrequency = field(default_factory=ExpertFrequency)
    """How often experts are wanted."""
    by_role: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Devices that may run units of a role; a role that is not there: any."""
    hand_over_s: float = 0.0
    """Seconds of software whenever the work goes on at another device."""

    def computes(self, place: Place, role: str = "") -> bool:
        """Whether a place may compute, or run units of a role."""
        allowed = self.devices is None or place.device in self.devices
        return allowed and (role not in self.by_role or place.device in self.by_role[role])

    def holds(self, memory: str, *, cache: bool) -> bool:
        """Whether a memory may hold weights, or caches."""
        among = self.caches if cache else self.weights
        return among is None or memory in among


@dataclass(frozen=True, slots=True)
class Column:
    """A choice for each unit, and what one segment of it takes."""

    choices: tuple[UnitChoice, ...]
    seconds: float
    loads: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each device (``run NAME``), wire and port."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Bytes of weights and caches in each memory."""
    joules: float = 0.0
    fetched: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Bytes that the largest fetch ahead brings at once, by its way from memory to memory."""
    wanted: Mapping[str, int] = field(default_factory=dict)
    """Bytes of experts that come into each memory once their router has run."""
    pim_rows: int = 0
    parked: str = ""
    """The memory in which activations wait for the backward pass; empty where they stay."""

    @property
    def fetches(self) -> bool:
        """Whether something is fetched each time."""
        return any(choice.fetches for choice in self.choices)

    @property
    def begins_in(self) -> str:
        """The memory in which its first unit works."""
        return self.choices[0].place.memory

    @property
    def ends_in(self) -> str:
        """The memory in which its last unit works."""
        return self.choices[-1].place.memory


def columns_of(graph: Graph, machine: Machine, found: SegmentClass, scope: Scope) -> list[Column]:
    """The columns of a class that are worth having; empty where no choice of devices can run it."""
    segment = found.example
    ways = [unit_choices(graph, machine, unit, scope) for unit in segment.units]
    prices: dict[tuple[UnitChoice, ...], _Price | None] = {}
    columns: list[Column] = []
    for choices in _combined(graph, segment, ways):
        settled = tuple(choice.settled for choice in choices)
        if settled not in prices:
            prices[settled] = _price(graph, machine, segment, settled, scope.hand_over_s)
        price = prices[settled]
        if price is not None:
            column = _column(graph, machine, segment, choices, price)
            columns += _with_activations(graph, machine, segment, column)
    return _worth_having(columns)


def unit_choices(graph: Graph, machine: Machine, unit: Unit, scope: Scope) -> list[UnitChoice]:
    """Everything that one unit may do on a machine: any device that can run it, weights in any memory it reaches."""
    found: list[UnitChoice] = []
    has_weights = bool(unit.weights(graph)) or (unit.role != "attend" and bool(unit.caches(graph)))
    for place in machine.general:
        if not scope.computes(place, unit.role) or any(
            machine.cost(op, place.device) is None for op in unit.operators
        ):
            continue
        weights = _homes(machine, place, scope, cache=False) if has_weights else [place.memory]
        if unit.role != "attend":
            found += [UnitChoice(place, home) for home in weights]
            continue
        caches = _homes(machine, place, scope, cache=True)
        found += [UnitChoice(place, home, cache) for home in weights for cache in caches]
    if unit.role == "attend":
        found += _inside(machine, unit, scope)
    if unit.role == "experts":
        found += _in_groups(machine, unit, scope, sorted({choice.place for choice in found}, key=_by_device))
    return found


def _by_device(place: Place) -> str:
    return place.device


def _in_groups(machine: Machine, unit: Unit, scope: Scope, places: Sequence[Place]) -> Iterator[UnitChoice]:
    """Experts in two groups: the most wanted where they are run at once, the others elsewhere or fetched when wanted.

    Also all experts fetched when wanted. The cut runs over eighths of the experts.
    """
    products = [op for op in unit.operators if isinstance(op.work, GroupedProduct)]
    work = products[0].work
    assert isinstance(work, GroupedProduct)
    layer = products[0].place.layer
    if len({op.work.groups for op in products if isinstance(op.work, GroupedProduct)}) > 1:
        return
    shares = scope.frequency.shares(work.groups, max(1, min(work.active, work.groups)), layer)
    ways = [(place, home) for place in places for home in _homes(machine, place, scope, cache=False)]
    at_hand = [(place, home) for place, home in ways if home == place.memory]
    for place, home in ways:
        if home != place.memory:
            yield UnitChoice(place, place.memory, parts=(ExpertPart(work.groups, 1.0, place, home),))
    cuts = sorted({work.groups * eighth // 8 for eighth in range(1, 8)} - {0})
    for (first, own), (second, other) in itertools.product(at_hand, ways):
        if (first, own) == (second, other):
            continue
        for hot in cuts:
            rows = math.fsum(shares[:hot])
            if 0 < rows < 1:
                hottest = ExpertPart(hot, rows, first, own)
                yield UnitChoice(
                    first,
                    first.memory,
                    parts=(hottest, ExpertPart(work.groups - hot, 1.0 - rows, second, other)),
                )


def _homes(machine: Machine, place: Place, scope: Scope, *, cache: bool) -> list[str]:
    """Memories from which a place can be fed, its own first; not those of another place that computes on its own."""
    own = [place.memory] if scope.holds(place.memory, cache=cache) else []
    for memory in machine.stores:
        kind = machine.system.nodes[memory].device.kind
        if memory == place.memory or kind in ("gpu", "pim", "accelerator", "spatial"):
            continue
        if scope.holds(memory, cache=cache) and machine.move(memory, place.memory) is not None:
            own.append(memory)
    return own


def _inside(machine: Machine, unit: Unit, scope: Scope) -> Iterator[UnitChoice]:
    """Attention in drives or PIM memories, over caches that lie in them."""
    from simulator.csd.model import engine_serves
    from simulator.pim.operators import host_of

    (op, *others) = unit.operators
    work = op.work
    if others or not isinstance(work, Attention) or work.q_len != 1:
        return
    for place in machine.places:
        node = machine.system.nodes[place.device]
        if not scope.computes(place, "attend") or not scope.holds(place.memory, cache=True):
            continue
        if place.kind == "csd" and engine_serves(op, node):
            yield UnitChoice(place, place.memory, place.memory, members=True)
        if (
            place.kind == "pim"
            and host_of(machine.system, node) is not None
            and _fits_pim(op, machine, place)
        ):
            yield UnitChoice(place, place.memory, place.memory, members=True)


def _fits_pim(op: Operator, machine: Machine, place: Place) -> bool:
    """Whether the layouts of PIM memories serve such attention, and it reads nothing beside its cache."""
    from simulator.pim.recipes import refused_attention

    work, device = op.work, machine.system.nodes[place.memory].device
    if not isinstance(work, Attention) or not isinstance(device, Pim):
        return False
    # Logits of sinks would need a home beside every member, where a draft gives a tensor one.
    if work.sink_logits or refused_attention(work):
        return False
    return size_bytes(8, work.kv_dtype or op.dtype) == 8 * device.element_bytes


def _combined(
    graph: Graph, segment: Segment, ways: Sequence[list[UnitChoice]]
) -> Iterator[tuple[UnitChoice, ...]]:
    """Choices of all units together; where those are too many, all units of products but the largest share theirs."""
    total = math.prod(len(choices) for choices in ways)
    if total <= MOST_COLUMNS:
        yield from itertools.product(*ways)
        return
    sizes = [sum(graph.tensors[name].size_bytes for name in unit.weights(graph)) for unit in segment.units]
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    plain = [i for i, unit in enumerate(segment.units) if unit.role == "products" and i != largest]
    others = [i for i in range(len(ways)) if i not in plain]
    shared = (
        [choice for choice in ways[plain[0]] if all(choice in ways[i] for i in plain)] if plain else [None]
    )
    for together in shared:
        for combination in itertools.product(*(ways[i] for i in others)):
            chosen = dict(zip(others, combination, strict=True))
            yield tuple(chosen.get(i, together) for i in range(len(ways)))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _Price:
    """What a segment takes with everything at hand."""

    seconds: float
    loads: Mapping[str, float]
    joules: float
    pim_rows: int


def _price(
    graph: Graph, machine: Machine, segment: Segment, choices: tuple[UnitChoice, ...], hand_over_s: float
) -> _Price | None:
    """Run a segment alone, event by event; None where it cannot run so.

    What it takes in is where it is read first: what a segment pays when the one before ended elsewhere is not its own.
    """
    part = _cut_out(graph, segment)
    try:
        draft = Draft(part, machine)
        draft.add(segment, choices)
        placement = draft.placement(hand_over_s=hand_over_s)
        plan = write_placement(part, machine.system, placement, "co-place", PlanNotes())
        written = rewrite(part, plan)
        machine.lay_out(plan.kernels)
        run = run_events(written, bind(plan, written, machine.system), machine.system, machine.costs)
    except (InfeasibleError, InputError):
        return None
    finally:
        machine.lay_out({})
    loads = machine.seconds_on(run.carried_bytes)
    seconds = joules = 0.0
    for record in run.records:
        if isinstance(record.task, Compute):
            seconds = max(seconds, record.end)
            assert record.cost is not None
            busy = record.cost.seconds + record.cost.launch_seconds
            device = f"run {record.task.device}"
            loads[device] = loads.get(device, 0.0) + busy
            joules += record.cost.compute_energy_j + record.cost.memory_energy_j
            drawn = machine.costs.traffic(record.task.device, record.cost)
            if drawn is not None:
                for name, weight in drawn.load.items():
                    loads[name] = loads.get(name, 0.0) + drawn.bytes * weight / machine.costs.capacity[name]
        elif isinstance(record.task, Transfer):
            joules += machine.transfer_joules(record.task.source, record.task.target, record.moved_bytes)
    return _Price(seconds, loads, joules, _pim_rows(graph, machine, segment, choices))


def _pim_rows(graph: Graph, machine: Machine, segment: Segment, choices: tuple[UnitChoice, ...]) -> int:
    rows = 0
    for unit, choice in zip(segment.units, choices, strict=True):
        if choice.members and choice.place.kind == "pim":
            rows += sum(
                pim_layout(graph, machine, op, choice.place, 1 / choice.place.count)[1]
                for op in unit.operators
            )
    return rows


def _cut_out(graph: Graph, segment: Segment) -> Graph:
    """A segment as a graph of its own."""
    operators = tuple(segment.operators)
    names: dict[str, None] = {}
    for op in operators:
        names.update(dict.fromkeys((*op.inputs, *op.outputs, *op.updates)))
    return Graph("segment", {name: graph.tensors[name] for name in names}, operators)


def _column(
    graph: Graph, machine: Machine, segment: Segment, choices: tuple[UnitChoice, ...], price: _Price
) -> Column:
    loads, held = dict(price.loads), dict[str, int]()
    fetched, wanted = dict[tuple[str, str], int](), dict[str, int]()
    joules = price.joules
    for unit, choice in zip(segment.units, choices, strict=True):
        for what in _lives(graph, unit, choice):
            held[what.home] = held.get(what.home, 0) + what.size
            if not what.moved:
                continue
            if what.late:
                # Its way is part of the segment's own run.
                wanted[what.at] = wanted.get(what.at, 0) + what.moved
                continue
            way = (what.home, what.at)
            fetched[way] = max(fetched.get(way, 0), what.moved)
            move = machine.need_move(what.home, what.at)
            members = len(machine.alike(what.home))
            for name, weight in move.load.items():
                # Members of a group share what comes from all of them, each on wires of its own.
                share = members if machine.own_to_member(name, what.home) else 1
                loads[name] = (
                    loads.get(name, 0.0) + what.moved * weight / machine.costs.capacity[name] / share
                )
            joules += machine.transfer_joules(what.home, what.at, what.moved)
            if what.back:
                for name, weight in machine.need_move(what.at, what.home).load.items():
                    loads[name] = loads.get(name, 0.0) + what.back * weight / machine.costs.capacity[name]
                joules += machine.transfer_joules(what.at, what.home, what.back)
    return Column(choices, price.seconds, loads, held, joules, fetched, wanted, price.pim_rows)


def _with_activations(graph: Graph, machine: Machine, segment: Segment, column: Column) -> Iterator[Column]:
    """A segment of the forward pass with what it saves for the backward pass where it is made, or parked elsewhere."""
    size = sum(graph.tensors[name].size_bytes for name in saved_activations(graph, segment))
    at = column.ends_in
    if not size:
        yield column
        return
    yield replace(column, held={**column.held, at: column.held.get(at, 0) + size})
    for memory in machine.stores:
        away, back = machine.move(at, memory), machine.move(memory, at)
        bare = machine.system.nodes[memory].compute is None
        if memory == at or away is None or back is None or not bare:
            continue
        loads = dict(column.loads)
        for move in (away, back):
            for name, weight in move.load.items():
                loads[name] = loads.get(name, 0.0) + size * weight / machine.costs.capacity[name]
        way = (memory, at)
        yield replace(
            column,
            loads=loads,
            held={**column.held, memory: column.held.get(memory, 0) + size},
            fetched={**column.fetched, way: max(column.fetched.get(way, 0), size)},
            parked=memory,
        )


class _Lives(NamedTuple):
    """Bytes with a home, and how many of them are moved to where they are used each time."""

    home: str
    size: int
    at: str
    moved: int
    late: bool = False
    back: int = 0
    """Bytes that operators changed and that go home again."""


def _lives(graph: Graph, unit: Unit, choice: UnitChoice) -> Iterator[_Lives]:
    """Where a unit's weights and caches live, and what of them moves."""
    at = choice.place.memory
    weights = unit.weights(graph)
    experts = {name for name in weights if choice.parts and _of_experts(graph, unit, name)}
    plain = sum(graph.tensors[name].size_bytes for name in weights if name not in experts)
    whole = sum(graph.tensors[name].size_bytes for name in experts)
    moved = sum(
        fetched_bytes(graph, op, name, late=False)
        for op in unit.operators
        for name in dict.fromkeys((*op.inputs, *op.updates))
        if name in weights and name not in experts
    )
    changed = {name for op in unit.operators for name in op.updates}
    back = sum(graph.tensors[name].size_bytes for name in weights if name in changed)
    if plain:
        away = choice.weights != at
        yield _Lives(choice.weights, plain, at, moved if away else 0, False, back if away else 0)
    cache = sum(graph.tensors[name].size_bytes for name in unit.caches(graph))
    if cache:
        home = choice.cache or choice.weights
        yield _Lives(home, cache, at, cache if home != at and not choice.members else 0)
    total = sum(part.experts for part in choice.parts)
    for part in choice.parts:
        size = whole * part.experts // total
        yield _Lives(
            part.weights, size, part.place.memory, _wanted(graph, unit, part) if part.fetches else 0, True
        )


def _of_experts(graph: Graph, unit: Unit, name: str) -> bool:
    groups = next(op.work.groups for op in unit.operators if isinstance(op.work, GroupedProduct))
    return graph.tensors[name].shape[:1] == (groups,)


def _wanted(graph: Graph, unit: Unit, part: ExpertPart) -> int:
    """Bytes of a part's weights that a step brings at most."""
    total = 0.0
    for op in unit.operators:
        if isinstance(op.work, GroupedProduct):
            bytes_each = max(graph.tensors[name].size_bytes for name in op.inputs) / op.work.groups
            total += bytes_each * min(part.experts, op.work.touched)
    return round(total)


def _worth_having(columns: list[Column]) -> list[Column]:
    """Columns that no other one of the same ends beats or equals in seconds, joules, every load and all bytes held."""
    ends: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        ends.setdefault((column.begins_in, column.ends_in), []).append(column)
    return [column for alike in ends.values() for column in _unbeaten(alike)]


def _unbeaten(columns: list[Column]) -> list[Column]:
    ranked = sorted(columns, key=lambda c: (c.seconds, sum(c.loads.values()), sum(c.held.values())))
    kinds = ("loads", "held", "fetched", "wanted")
    names = sorted({(kind, str(name), name) for c in columns for kind in kinds for name in getattr(c, kind)})
    figures = np.array(
        [
            [c.seconds, c.joules, c.pim_rows, *(getattr(c, kind).get(name, 0.0) for kind, _, name in names)]
            for c in ranked
        ],
        dtype=float,
    )
    kept: list[int] = []
    for index in range(len(ranked)):
        if not kept or not np.any(np.all(figures[kept] <= figures[index], axis=1)):
            kept.append(index)
    return [ranked[index] for index in kept]
