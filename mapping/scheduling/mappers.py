"""Scheduling for a scratchpad machine as mappers: the exact methods, and each baseline in its own right.

Every one writes the same kind of plan, so that ``simulate`` compares them on one footing: the same machine, the
same transfers counted, only order, residency and addresses differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hw_configs.problems import InfeasibleError, NoAnswerError, bad_input
from hw_configs.system import System
from mapping.mapper import MapperOptions
from mapping.scheduling.baselines import BASELINES
from mapping.scheduling.lowering import scratchpad_of, to_plan
from mapping.scheduling.problem import Weights, problem_from_graph
from mapping.scheduling.result import ScheduleResult
from simulator.plan import Plan
from workloads.graph import Graph

__all__ = ["MAPPER", "Scheduled"]


class Scheduled:
    """One scheduling method; ``baseline`` names one of :data:`BASELINES`, the empty text the exact methods."""

    def __init__(self, baseline: str = "") -> None:
        self._baseline = baseline
        settings = {
            "weights": "stream (past the scratchpad) or resident (whole while their operator runs)",
            "device": "the accelerator to use",
        }
        if baseline:
            order, _, policy = baseline.partition("/")
            self.DESCRIPTION = (
                f"scratchpad baseline: order {order}, replacement {policy}"
                if policy
                else "scratchpad baseline: static arena, greedy by size"
            )
        else:
            self.DESCRIPTION = "operator order, addresses and replacement on a scratchpad, with a proof"
            settings |= {
                "method": "auto, decompose, divide or ilp",
                "objective": "bytes (auto) or peak",
                "time-limit": "seconds (60)",
            }
        self.SETTINGS: Mapping[str, str] = MappingProxyType(settings)

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan; ``InfeasibleError`` when an operator does not fit the scratchpad."""
        settings = options.settings
        node, _ = scratchpad_of(system, settings.get("device"))
        capacity = int(system.memories[node.memory or node.name].usable_bytes)
        weights: Weights = "resident" if settings.get("weights") == "resident" else "stream"
        if settings.get("weights", "stream") != weights:
            raise bad_input(
                f"found {settings['weights']!r}; expected stream or resident", path="--set weights"
            )
        problem = problem_from_graph(graph, weights)
        if self._baseline:
            result = BASELINES[self._baseline](problem, capacity)
        else:
            from mapping.scheduling.solving import solve

            result = solve(
                problem, capacity,
                method=settings.get("method", "auto"),  # type: ignore[arg-type]
                objective=settings.get("objective", "bytes"),  # type: ignore[arg-type]
                time_limit_s=_seconds(settings.get("time-limit", "60")),
            )  # fmt: skip
        return to_plan(
            graph, problem, _schedule(result), system, _name(self._baseline), node.name, _notes(result)
        )


def _schedule(result: ScheduleResult):  # type: ignore[no-untyped-def]
    if result.status == "infeasible":
        raise InfeasibleError(result.explanation or "there is no schedule")
    if result.schedule is None:
        raise NoAnswerError(result.explanation or "no schedule was found in the time")
    return result.schedule


def _notes(result: ScheduleResult) -> dict[str, object]:
    return {
        "status": result.status,
        "cost_bytes": result.cost_bytes,
        "bound_bytes": result.bound_bytes,
        "peak_bytes": result.peak_bytes,
        "engine": result.engine,
    }


def _name(baseline: str) -> str:
    return "scratchpad-" + baseline.replace("/", "-") if baseline else "scratchpad"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86400:
        raise bad_input(f"found {text!r}; expected seconds from above 0 to 86400", path="--set time-limit")
    return value


MAPPER: Final = Scheduled()
GIVEN_BELADY: Final = Scheduled("given/belady")
GIVEN_LRU: Final = Scheduled("given/lru")
GIVEN_GREEDY: Final = Scheduled("given/greedy-ilp")
MIN_PEAK_BELADY: Final = Scheduled("min-peak/belady")
MIN_PEAK_LRU: Final = Scheduled("min-peak/lru")
MIN_PEAK_GREEDY: Final = Scheduled("min-peak/greedy-ilp")
DEPTH_FIRST_BELADY: Final = Scheduled("depth-first/belady")
DEPTH_FIRST_LRU: Final = Scheduled("depth-first/lru")
DEPTH_FIRST_GREEDY: Final = Scheduled("depth-first/greedy-ilp")
STATIC_ARENA: Final = Scheduled("static-arena")
