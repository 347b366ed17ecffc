"""Scheduling for a scratchpad machine as mappers: the exact methods, and each baseline in its own right.

Every one writes the same kind of plan, so that ``simulate`` compares them on one footing: the same machine, the
same transfers counted, only order, residency and addresses differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hw_configs.problems import InfeasibleError, NoAnswerError
from hw_configs.settings import Settings, name_of, seconds, word
from hw_configs.system import System
from mapping.mapper import MapperOptions
from mapping.scheduling.baselines import BASELINES
from mapping.scheduling.lowering import LoweredNotes, scratchpad_of, to_plan
from mapping.scheduling.problem import Weights, problem_from_graph
from mapping.scheduling.result import Schedule, ScheduleResult
from simulator.plan import Plan
from workloads.graph import Graph

__all__ = ["MAPPER", "BaselineSettings", "ScheduleNotes", "ScheduleSettings", "Scheduled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings(Settings):
    """Settings of the baselines of scheduling."""

    weights: Weights = word(
        "stream", "past the scratchpad, or resident in it while their operator runs", ("stream", "resident")
    )
    device: str | None = name_of("the accelerator to use", absent="the first with a scratchpad")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings(BaselineSettings):
    """Settings of the exact methods."""

    method: Literal["auto", "decompose", "divide", "given-order", "ilp"] = word(
        "auto", "how the order is searched", ("auto", "decompose", "divide", "given-order", "ilp")
    )
    objective: Literal["bytes", "peak"] = word("bytes", "what is made least", ("bytes", "peak"))
    time_limit: float = seconds(60.0, "time for the search")


@dataclass(frozen=True)
class ScheduleNotes(LoweredNotes):
    """The schedule's proof: status, bound and peak, and who found it."""

    status: str = ""
    bound_bytes: int = 0
    peak_bytes: int | None = None
    engine: str = ""


class Scheduled:
    """One scheduling method; ``baseline`` names one of :data:`BASELINES`, the empty text the exact methods."""

    def __init__(self, baseline: str = "") -> None:
        self._baseline = baseline
        self.SETTINGS: type[BaselineSettings] = BaselineSettings if baseline else ScheduleSettings
        order, _, policy = baseline.partition("/")
        self.DESCRIPTION = "operator order, addresses and replacement on a scratchpad, with a proof"
        if policy:
            self.DESCRIPTION = f"scratchpad baseline: order {order}, replacement {policy}"
        elif baseline:
            self.DESCRIPTION = "scratchpad baseline: static arena, greedy by size"

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan; ``InfeasibleError`` when an operator does not fit the scratchpad."""
        chosen = options.of(self.SETTINGS)
        node, _ = scratchpad_of(system, chosen.device)
        capacity = int(system.memories[node.memory or node.name].usable_bytes)
        problem = problem_from_graph(graph, chosen.weights)
        if isinstance(chosen, ScheduleSettings):
            # Only the exact methods need the search and its kernels.
            from mapping.scheduling.solving import solve

            result = solve(
                problem, capacity, method=chosen.method, objective=chosen.objective, time_limit_s=chosen.time_limit
            )  # fmt: skip
        else:
            result = BASELINES[self._baseline](problem, capacity)
        schedule = _schedule(result)
        notes = ScheduleNotes(
            result.cost_bytes, problem.weights, status=result.status, bound_bytes=result.bound_bytes,
            peak_bytes=result.peak_bytes, engine=result.engine,
        )  # fmt: skip
        return to_plan(graph, problem, schedule, system, _name(self._baseline), node.name, notes)


def _schedule(result: ScheduleResult) -> Schedule:
    if result.status == "infeasible":
        raise InfeasibleError(result.explanation or "there is no schedule")
    if result.schedule is None:
        raise NoAnswerError(result.explanation or "no schedule was found in the time")
    return result.schedule


def _name(baseline: str) -> str:
    return "scratchpad-" + baseline.replace("/", "-") if baseline else "scratchpad"


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
