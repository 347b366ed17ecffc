"""A plan tried: checked by the independent checker and run event by event; seconds, joules, or why it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hw_configs.problems import InfeasibleError, InputError
from mapping.placement.machine import Machine
from simulator.check import check
from simulator.plan import Compute, Plan, Transfer
from simulator.rewrite.apply import rewrite
from simulator.system.bound_plan import bind
from simulator.system.engine import run_events
from workloads.graph import Graph

__all__ = ["Trial", "try_plan"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a plan took; ``obstacle`` says why it cannot run, empty when it can."""

    seconds: float
    joules: float
    obstacle: str = ""
    ends: Mapping[str, float] = field(default_factory=dict)
    """When each operator ended."""


def try_plan(graph: Graph, machine: Machine, plan: Plan) -> Trial:
    """Run a plan of a graph."""
    try:
        written = rewrite(graph, plan)
        wrong = check(plan, written, machine.system, limit=1)
        if wrong:
            return Trial(float("inf"), float("inf"), str(wrong[0]))
        machine.lay_out(plan.kernels)
        run = run_events(written, bind(plan, written, machine.system), machine.system, machine.costs)
    except (InfeasibleError, InputError) as error:
        return Trial(float("inf"), float("inf"), str(error).splitlines()[0])
    finally:
        machine.lay_out({})
    joules, ends = 0.0, dict[str, float]()
    for record in run.records:
        if isinstance(record.task, Compute) and record.cost is not None:
            joules += record.cost.compute_energy_j + record.cost.memory_energy_j
            ends[record.task.operator] = record.end - run.start
        elif isinstance(record.task, Transfer):
            joules += machine.transfer_joules(record.task.source, record.task.target, record.moved_bytes)
    seconds = run.end - run.start
    return Trial(seconds, joules + machine.idle_w * seconds, "", ends)
