"""Who exchanges with whom in a step's program: groups of ranks as classes see them, and the wires between them.

A collective's group is known by its **key**: the kind of group, and the classes whose ranks are in it. Where one class
stands for whole groups the exchange is that class's own task, loading the wires of all those groups; where a group's
ranks are several classes it is their meeting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mapping.training.pricing import Prices
from mapping.training.rank_layout import groups_of, pipeline_rank
from mapping.training.setup import TrainingSetup
from simulator.training.program import ProgramBuilder
from simulator.training.wires import Exchange, Load, Party, add_routes

__all__ = ["Actor", "Exchanges", "Key"]

Key = tuple[str, tuple[int, ...]]
"""A kind of group, and the numbers of the actors whose ranks are in it."""


@dataclass(frozen=True)
class Actor:
    """A class of the program: its number, its place in the pipeline, its ranks and streams."""

    number: int
    pipe: int
    ranks: tuple[int, ...]
    lanes: tuple[int, ...]
    gather: int
    reduce: int
    to_host: int
    from_host: int


@dataclass
class Exchanges:
    """What exchanges of a program take, and their routes."""

    setup: TrainingSetup
    prices: Prices
    builder: ProgramBuilder
    actors: Sequence[Actor]
    loads: dict[tuple[object, ...], Load] = field(default_factory=dict)
    routes: dict[tuple[object, ...], int] = field(default_factory=dict)
    parties: dict[Key, Party] = field(default_factory=dict)
    keys: dict[tuple[str, int], Key] = field(default_factory=dict)
    groups: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    meetings: dict[tuple[object, ...], int] = field(default_factory=dict)
    exchanges: dict[tuple[Key, str, int], tuple[Exchange, int]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    """Capacities of what is shared by time, all 1."""
    alone: dict[tuple[object, ...], tuple[float, float]] = field(default_factory=dict)
    """Latency and seconds per byte of copies of one rank alone."""

    def __post_init__(self) -> None:
        self.actor_of = {rank: actor.number for actor in self.actors for rank in actor.ranks}
        ranks = range(self.setup.devices)
        self.pipe_stride = next((rank for rank in ranks if pipeline_rank(self.setup, rank) == 1), 0)

    def peer(self, actor: Actor, pipe: int) -> int:
        """The actor with an actor's place in another rank of the pipeline."""
        return self.actor_of[actor.ranks[0] + (pipe - actor.pipe) * self.pipe_stride]

    def key(self, family: str, actor: Actor) -> Key:
        """The group of an actor's ranks; its party is found at the first call."""
        known, place = self.keys, (family, actor.number)
        if place not in known:
            groups = self._of_family(family)
            mine = next(group for group in groups if actor.ranks[0] in group)
            key: Key = (family, tuple(sorted({self.actor_of[rank] for rank in mine})))
            if key not in self.parties:
                own = tuple(g for g in groups if tuple(sorted({self.actor_of[r] for r in g})) == key[1])
                self.parties[key] = Party(own)
            known[place] = key
        return known[place]

    def _of_family(self, family: str) -> tuple[tuple[int, ...], ...]:
        """All groups of a family; ``send p q`` are pairs, ``replica p q`` ranks that hold the same stage twice."""
        known = self.groups
        if family not in known:
            word, *ends = family.split()
            if ends:
                setup = self.setup
                one, other = int(ends[0]), int(ends[1])
                known[family] = tuple(
                    (rank, rank + (other - one) * self.pipe_stride)
                    for rank in range(setup.devices)
                    if pipeline_rank(setup, rank) == one
                )
            else:
                known[family] = groups_of(self.setup, word)
        return known[family]

    def take(self, key: Key, kind: str, size: int) -> tuple[Exchange, int]:
        """What a collective takes, and its route."""
        place = (key, kind, size)
        if place not in self.exchanges:
            party = self.parties[key]
            found = self.prices.wiring.exchange(party, kind, size)
            route = -1
            if found.bytes > 0:
                name = (*key, found.pattern)
                if name not in self.routes:
                    self.routes[name] = len(self.routes)
                    self.loads[name] = self.prices.wiring.load(party, found.pattern)
                route = self.routes[name]
            self.exchanges[place] = (found, route)
        return self.exchanges[place]

    def meeting(self, key: Key, *instance: object) -> int:
        """The meeting of a group's actors over one exchange; -1 where one actor stands for the whole group."""
        if len(key[1]) == 1:
            return -1
        place = (key, *instance)
        if place not in self.meetings:
            self.meetings[place] = self.builder.meeting()
        return self.meetings[place]

    def send(self, actor: Actor, pipe: int, size: int) -> tuple[Exchange, int]:
        """What an actor's message to another rank of the pipeline takes, from all its ranks at once, and its route."""
        family = f"send {actor.pipe} {pipe}"
        key: Key = (family, (actor.number,))
        if key not in self.parties:
            own = set(actor.ranks)
            self.parties[key] = Party(tuple(pair for pair in self._of_family(family) if pair[0] in own))
        return self.take(key, "send", size)

    def copy(self, actor: Actor, size: int, *, to_host: bool) -> tuple[Exchange, int]:
        """What a copy of so many bytes to host memory (or back) takes, from all an actor's ranks at once."""
        name = ("copy", actor.number, to_host)
        if name not in self.routes:
            wiring = self.prices.wiring
            hosts = {
                device: self.prices.host_of(device)
                for device in map(self.prices.devices.__getitem__, actor.ranks)
            }
            self.routes[name] = len(self.routes)
            self.loads[name], latency = wiring.copies(actor.ranks, to_host, hosts)
            load, _ = wiring.copies(actor.ranks[:1], to_host, hosts)
            slowest = max(weight / wiring.capacity(resource) for resource, weight in load.items())
            self.alone[name] = (latency, slowest)
        latency, slowest = self.alone[name]
        return Exchange(latency + size * slowest, float(size), "copy"), self.routes[name]

    def in_turn(self, actor: Actor, what: str) -> int:
        """The route of work that an actor's part of a machine does for one at a time, or for several at shares of its
        time: its bytes are seconds.
        """
        name = ("time", what, actor.number)
        if name not in self.routes:
            resource = f"{what} of {actor.number}"
            self.routes[name], self.loads[name], self.times[resource] = len(self.routes), {resource: 1.0}, 1.0
        return self.routes[name]

    def add_routes(self) -> None:
        """Give the program its routes, when all that loads wires is known."""
        add_routes(self.builder, self.loads, self.prices.wiring, self.times)
