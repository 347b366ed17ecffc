"""The three scratchpad sizes that a network is studied at, as COSMA names them (arXiv:2311.18246).

M_R is the largest need of one operator: below it nothing runs. M_P is the least peak of any order: from there on
nothing has to leave the scratchpad. M_H lies half way. Each exists for activations alone (weights stream past)
and for activations with the weights of the operator that runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mapping.scheduling.orders import least_peak
from mapping.scheduling.problem import Weights, problem_from_graph
from workloads.graph import Graph

__all__ = ["Budgets", "budgets"]

GRAIN_BYTES: Final = 256
"""M_H is rounded up to a multiple of it."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """M_R, M_H and M_P in bytes. ``peak_bound_bytes`` is below M_P where the search for it was cut short."""

    weights: Weights
    operators: int
    required_bytes: int
    half_bytes: int
    peak_bytes: int
    peak_bound_bytes: int
    bounding_operator: str
    """The operator that needs most."""
    seconds: float

    @property
    def proven(self) -> bool:
        """Whether no order has a lower peak."""
        return self.peak_bytes == self.peak_bound_bytes


def budgets(graph: Graph, weights: Weights, time_limit_s: float | None = 60.0) -> Budgets:
    """The budgets of a graph with weights streamed or resident; ``InputError`` for a graph without operators."""
    problem = problem_from_graph(graph, weights)
    needs = problem.need_bytes
    largest = max(range(len(needs)), key=needs.__getitem__)
    peak = least_peak(problem, time_limit_s=time_limit_s)
    required = problem.least_budget
    half = -(-(required + peak.peak_bytes) // (2 * GRAIN_BYTES)) * GRAIN_BYTES
    return Budgets(
        weights, len(problem.operators), required, min(half, peak.peak_bytes), peak.peak_bytes,
        peak.bound_bytes, problem.operators[largest].name, peak.seconds,
    )  # fmt: skip
