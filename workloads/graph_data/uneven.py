"""Populations of neurons with sparse, uneven connections: sizes, partners and strengths as different as a brain's.

No connectome is at hand, so one is made by rule, all of it assumptions: populations lie at random in a cube and are
numbered along one side; sizes, numbers of partners and strengths are spread by log-normal laws; strength falls with
distance. ``spread`` 0 makes all sizes and numbers of partners alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem

__all__ = ["PopulationGraph", "divided", "uneven_populations"]

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MOST_POPULATIONS: Final = 100_000
MOST_EDGES: Final = 20_000_000
REACH: Final = 0.15
"""Distance over which strength falls to 1/e, in sides of the cube."""


@dataclass(frozen=True, eq=False)
class PopulationGraph:
    """``neurons`` of each population; edges by source: ``targets[offsets[u]:offsets[u + 1]]`` with the synapses that
    one neuron of the source has there. A population may be its own target.
    """

    neurons: Floats
    offsets: Longs
    targets: Longs
    synapses: Floats

    def __post_init__(self) -> None:
        size = self.neurons.size
        told = {
            "neurons": bool(size and (self.neurons > 0).all()),
            "offsets": self.offsets.size == size + 1
            and self.offsets[0] == 0
            and bool((np.diff(self.offsets) >= 0).all())
            and self.offsets[-1] == self.targets.size == self.synapses.size,
            "targets": bool(((self.targets >= 0) & (self.targets < size)).all()),
            "synapses": bool((self.synapses >= 0).all()),
        }
        found = [
            Problem("does not fit the populations", path=name) for name, holds in told.items() if not holds
        ]
        if found:
            raise InputError(found)

    @property
    def sources(self) -> Longs:
        """The source of each edge."""
        return np.repeat(np.arange(self.neurons.size), np.diff(self.offsets))

    def stored_synapses(self) -> Floats:
        """Synapses that end at each population, where they are stored."""
        made = self.synapses * self.neurons[self.sources]
        return np.bincount(self.targets, made, minlength=self.neurons.size).astype(np.float64)


def uneven_populations(
    populations: int, neurons: float, synapses: float, partners: int, spread: float = 1.0, seed: int = 1
) -> PopulationGraph:
    """So many populations of ``neurons`` on average, each neuron with ``synapses``, on ``partners`` in the median.

    ``spread`` is the deviation of the logarithms. Raises ``InputError`` for numbers out of range.
    """
    told = {
        "populations": 2 <= populations <= MOST_POPULATIONS,
        "partners": 1 <= partners <= populations,
        "neurons": neurons >= 1,
        "synapses": synapses > 0,
        "spread": 0 <= spread <= 3,
    }
    found = [Problem("out of range", path=name) for name, holds in told.items() if not holds]
    if found:
        raise InputError(found)
    draw = np.random.default_rng(seed)
    places = draw.random((populations, 3))
    places = places[np.argsort(places[:, 0], kind="stable")]
    sizes = np.exp(spread * draw.standard_normal(populations))
    sizes *= neurons * populations / sizes.sum()
    counts = np.rint(partners * np.exp(spread * draw.standard_normal(populations))).astype(np.int64)
    counts = np.clip(counts, 1, populations)
    targets, strengths = [], []
    for one in range(populations):
        distance = np.sqrt(((places - places[one]) ** 2).sum(axis=1))
        strength = sizes * np.exp(-distance / REACH + spread * draw.standard_normal(populations))
        kept = np.sort(np.argpartition(strength, populations - counts[one])[populations - counts[one] :])
        targets.append(kept)
        strengths.append(synapses * strength[kept] / strength[kept].sum())
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return PopulationGraph(sizes, offsets, np.concatenate(targets), np.concatenate(strengths))


def divided(graph: PopulationGraph, most: float) -> PopulationGraph:
    """The graph with every population that stores more than ``most`` synapses in equal parts that do not.

    A neuron's synapses on a population are spread over its parts. Raises ``InputError`` for too many edges.
    """
    if not most > 0:
        raise InputError([Problem(f"found {most}; expected more than 0", path="most")])
    parts = np.maximum(1, np.ceil(graph.stored_synapses() / most)).astype(np.int64)
    sources = graph.sources
    if (edges := int((parts[sources] * parts[graph.targets]).sum())) > MOST_EDGES:
        raise InputError([Problem(f"{edges} edges would come; expected up to {MOST_EDGES}", path="most")])
    first = np.concatenate([[0], np.cumsum(parts)])
    # Edges to every part of the target, in the source's order, then the same edges for every part of the source.
    spread = np.repeat(np.arange(sources.size), parts[graph.targets])
    within = np.arange(spread.size) - np.repeat(
        np.cumsum(parts[graph.targets]) - parts[graph.targets], parts[graph.targets]
    )
    targets = first[graph.targets[spread]] + within
    synapses = graph.synapses[spread] / parts[graph.targets[spread]]
    begins = np.searchsorted(sources[spread], np.arange(graph.neurons.size + 1))
    owner = np.repeat(np.arange(graph.neurons.size), parts)
    rows = [np.arange(begins[one], begins[one + 1]) for one in owner]
    offsets = np.concatenate([[0], np.cumsum([row.size for row in rows])]).astype(np.int64)
    taken = np.concatenate(rows)
    return PopulationGraph((graph.neurons / parts)[owner], offsets, targets[taken], synapses[taken])
