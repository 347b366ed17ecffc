"""The best mapping of a layer on a spatial accelerator, with a proof or a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InfeasibleError, NoAnswerError, PhysicsError, bad_input
from mapping.deadline import Budget
from mapping.loop_nest.floors import floors
from mapping.loop_nest.kernel import Found, search
from mapping.loop_nest.shares import EDP, ENERGY, LATENCY
from mapping.loop_nest.space import Fixed, Space, Spreads, map_space
from simulator.accelerator.loop_nest.evaluate import Evaluation, evaluate
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread
from workloads.einsum import Einsum

__all__ = ["METRICS", "BestMapping", "MappingAnswer", "Metric", "best_mapping"]

Metric = Literal["energy", "latency", "edp"]
METRICS: Final[tuple[Metric, ...]] = ("energy", "latency", "edp")
_NUMBERS: Final = {"energy": ENERGY, "latency": LATENCY, "edp": EDP}
_AGREES: Final = 1e-9
MOST_KEPT: Final = 1000
_NOTHING: Final = Fixed()


@dataclass(frozen=True, slots=True)
class BestMapping:
    """One mapping and what it costs."""

    nest: LoopNest
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class MappingAnswer:
    """The best mappings found, best first.

    ``value`` and ``bound`` are joules, cycles or joule-cycles by ``metric``; no mapping is below ``bound``.
    """

    metric: Metric
    best: tuple[BestMapping, ...]
    value: float
    bound: float
    status: Literal["optimal", "feasible"]
    seconds: float
    nodes: int

    @property
    def gap(self) -> float:
        """How far the value may be above the least, relative to it."""
        return (self.value - self.bound) / self.value if self.value else 0.0

    def to_json(self, device: SpatialAccelerator) -> dict[str, Any]:
        """Plain data, names with their units."""
        unit = {"energy": "j", "latency": "cycles", "edp": "j_cycles"}[self.metric]
        return {
            "objective": self.metric, "status": self.status, f"value_{unit}": self.value, f"bound_{unit}": self.bound,
            "gap": self.gap, "seconds": self.seconds, "nodes": self.nodes,
            "mappings": [
                {"mapping": found.nest.to_json(device), **found.evaluation.to_json()} for found in self.best
            ],
        }  # fmt: skip


def best_mapping(
    device: SpatialAccelerator,
    layer: Einsum,
    metric: str = "energy",
    *,
    fixed: Fixed = _NOTHING,
    top: int = 1,
    time_limit_s: float | None = None,
) -> MappingAnswer:
    """The mapping of exact factors that takes the least energy, cycles, or product of both.

    ``top`` keeps so many; ``fixed`` holds what is decided already. Raises ``InputError`` for an unknown metric or fixed
    names that do not exist, ``InfeasibleError`` where no mapping is legal, ``NoAnswerError`` where the time was over
    before one was found.
    """
    if metric not in _NUMBERS:
        raise bad_input(f"found {metric!r}; expected {', '.join(METRICS)}", path="--objective")
    if not 1 <= top <= MOST_KEPT:
        raise bad_input(f"found {top}; expected 1 to {MOST_KEPT}", path="--top")
    space, spreads = map_space(device, layer, fixed)
    arithmetic = layer.macs * device.mac_energy * float(space.zeros.products[0])
    given = (space, floors(space), arithmetic, _NUMBERS[metric], top)
    # Stopped before it begins: the time limit is not for compiling it.
    search(*given, np.ones_like(Budget(None).stop))
    budget = Budget(time_limit_s)
    with budget.running():
        found = search(*given, budget.stop)
    stopped = bool(budget.stop[0]) and found.bound < found.value[0]
    if not np.isfinite(found.value[0]):
        if stopped:
            raise NoAnswerError(f"no mapping of {layer.name} was found within {budget.elapsed:.3g} s")
        raise InfeasibleError(f"no mapping of {layer.name} on {device.name} is legal: {_why(device, fixed)}")
    best = tuple(_mappings(found, space, spreads, device, layer))
    _agree(best[0].evaluation, metric, float(found.value[0]))
    status: Literal["optimal", "feasible"] = "feasible" if stopped else "optimal"
    known: Metric = next(name for name in METRICS if name == metric)
    value = float(found.value[0])
    bound = min(float(found.bound), value)
    return MappingAnswer(known, best, value, bound, status, budget.elapsed, int(found.nodes))


def _mappings(
    found: Found, space: Space, spreads: Spreads, device: SpatialAccelerator, layer: Einsum
) -> list[BestMapping]:
    """The kept mappings as nests, each once."""
    nests: dict[LoopNest, None] = {}
    for value, choice in zip(found.value, found.choice, strict=True):
        if np.isfinite(value):
            nests[_nest(choice, space, spreads, device)] = None
    return [BestMapping(nest, evaluate(nest, device, layer)) for nest in nests]


def _nest(choice: Any, space: Space, spreads: Spreads, device: SpatialAccelerator) -> LoopNest:
    tile = len(space.size) - 1
    levels = []
    for number, memory in enumerate(device.levels):
        inner, spread, order = (int(index) for index in choice[number])
        node = space.spread[number, spread]
        loops = space.extent[tile] // space.extent[inner] // space.extent[node]
        outer_first = [int(d) for d in space.order[number, order][::-1]]
        temporal = tuple((spreads.dims[d], int(loops[d])) for d in outer_first if loops[d] > 1)
        spatial = tuple(
            Spread(spreads.dims[d], axis.axis, int(space.extent[along[spread], d]))
            for axis, along in zip(memory.fanout, spreads.axes[number], strict=True)
            for d in range(len(spreads.dims))
            if space.extent[along[spread], d] > 1
        )
        levels.append(NestLevel(temporal, spatial))
        tile = inner
    return LoopNest(tuple(levels))


def _agree(evaluation: Evaluation, metric: str, value: float) -> None:
    """The search's figure against that of the model, which counts in another way."""
    cycles, energy = evaluation.latency_cycles, evaluation.energy_j
    said = {"energy": energy, "latency": cycles, "edp": energy * cycles}[metric]
    if abs(said - value) > _AGREES * max(abs(said), abs(value)):
        raise PhysicsError(f"the search counts {value:g} for a mapping that costs {said:g}")


def _why(device: SpatialAccelerator, fixed: Fixed) -> str:
    if fixed != _NOTHING:
        return "what is fixed leaves tiles that no level can hold, or loops that the others cannot complete"
    sizes = ", ".join(f"{memory.name} {memory.text_capacity()}" for memory in device.levels if memory.bounded)
    return f"no tiles fit the levels together ({sizes})"
