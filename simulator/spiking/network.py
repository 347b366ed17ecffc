"""Spiking networks: populations of leaky neurons or of given spikes, and the projections between them.

A neuron integrates exponential currents exactly over a tick. The network is data; :mod:`simulator.spiking.run` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hw_configs.problems import InputError, Problem

__all__ = ["Network", "Neuron", "Plasticity", "Population", "Projection"]

MOST_SYNAPSES = 10_000_000
Pattern = Literal["one-to-one", "all-to-all", "all-to-others"]


def _positive(record: object, names: tuple[str, ...]) -> None:
    """Raise ``InputError`` for fields that are not above 0."""
    low = [(name, getattr(record, name)) for name in names if not getattr(record, name) > 0]
    if low:
        raise InputError([Problem(f"found {value}; expected more than 0", path=name) for name, value in low])


@dataclass(frozen=True, slots=True)
class Neuron:
    """Leaky integrate-and-fire with exponential currents; times in ticks, volts from rest, nA and nF as PyNN counts.

    After a spike the potential is at rest for ``refractory`` ticks.
    """

    capacity: float
    leak: float
    current_decay: float
    threshold: float
    refractory: int = 1

    def __post_init__(self) -> None:
        _positive(self, ("capacity", "leak", "current_decay", "threshold"))
        if self.refractory < 0:
            raise InputError([Problem(f"found {self.refractory}; expected 0 or more", path="refractory")])


@dataclass(frozen=True, slots=True)
class Population:
    """``size`` neurons alike; without ``neuron`` their spikes are given."""

    name: str
    size: int
    neuron: Neuron | None = None


@dataclass(frozen=True, slots=True)
class Plasticity:
    """Spike pairs change the weight: ``gain`` for the source first, else ``loss``, falling off over ``decay`` ticks.

    A target's spike is seen after the projection's delay; coinciding spikes count as a loss. Changes are summed and the
    weight is put between 0 and ``most`` when the source spikes next.
    """

    gain: float
    loss: float
    decay: float
    most: float

    def __post_init__(self) -> None:
        _positive(self, ("decay", "most"))


@dataclass(frozen=True, slots=True)
class Projection:
    """Synapses of one weight (below 0: inhibitory) and delay in ticks, from ``first`` of the source on.

    ``pattern``: one-to-one takes as many source neurons as the target has; ``all-to-others`` leaves out a neuron's own.
    """

    source: str
    target: str
    pattern: Pattern
    weight: float
    delay: int = 1
    first: int = 0
    plasticity: Plasticity | None = None

    def pairs(self, sources: int, targets: int) -> list[tuple[int, int]]:
        """(source, target) of each synapse, for populations of such sizes."""
        if self.pattern == "one-to-one":
            return [(self.first + n, n) for n in range(targets)]
        itself = self.pattern == "all-to-all"
        return [(s, t) for s in range(self.first, sources) for t in range(targets) if itself or s != t]


@dataclass(frozen=True, slots=True)
class Network:
    """Populations and projections; raises ``InputError`` for names, sizes and delays that do not fit."""

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]

    def __post_init__(self) -> None:
        sizes = {population.name: population.size for population in self.populations}
        found = []
        if len(sizes) < len(self.populations):
            found.append(Problem("two populations of one name", path="populations"))
        found += [
            Problem(f"found {p.size} neurons; expected 1 or more", path=p.name)
            for p in self.populations
            if p.size < 1
        ]
        synapses = 0
        for place, wire in enumerate(self.projections):
            path = f"projections[{place}]"
            missing = [name for name in (wire.source, wire.target) if name not in sizes]
            found += [Problem(f"no population {name}", path=path) for name in missing]
            if missing:
                continue
            if any(p.name == wire.target and p.neuron is None for p in self.populations):
                found.append(Problem(f"the spikes of {wire.target} are given: it takes no input", path=path))
            if wire.delay < 1:
                found.append(Problem(f"found a delay of {wire.delay}; expected 1 tick or more", path=path))
            needed = sizes[wire.target] if wire.pattern == "one-to-one" else 1
            if not 0 <= wire.first <= sizes[wire.source] - needed:
                found.append(Problem(f"{wire.source} has too few neurons from {wire.first} on", path=path))
            synapses += sizes[wire.target] * (
                1 if wire.pattern == "one-to-one" else max(0, sizes[wire.source] - wire.first)
            )
        if synapses > MOST_SYNAPSES:
            found.append(Problem(f"found {synapses} synapses; expected up to {MOST_SYNAPSES}"))
        if found:
            raise InputError(found)

    def begins(self) -> dict[str, int]:
        """Number of each population's first neuron, in the order of the populations."""
        begins, at = {}, 0
        for population in self.populations:
            begins[population.name] = at
            at += population.size
        return begins

    @property
    def neurons(self) -> int:
        """Of all populations, given spikes too."""
        return sum(population.size for population in self.populations)
