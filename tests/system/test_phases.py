"""Phases of a workload run one after another over the same weights."""

from __future__ import annotations

import json

from machines import move, op, plan, run_task, tensors, two_gpus

from hw_configs.system import System
from simulator.plan import Plan
from simulator.simulate import simulate
from workloads.graph import Graph, Role
from workloads.workload import Phase, Workload


def phase(name: str, size: int = 1000) -> Phase:
    graph = Graph(name, tensors({"w": size}, {"w": Role.WEIGHT}), (op("use", ["w"]),), structure=name)
    return Phase(name, "decode", graph, 1)


def planner(graph: Graph, machine: System) -> Plan:
    """Phase 'far' keeps the weight in the host's memory, every other phase on the GPU."""
    if graph.name == "far":
        tasks = [move("w", "host", "gpu0"), run_task("use", "gpu0")]
        return plan(graph, machine, tasks, {"w": "host"})
    return plan(graph, machine, [run_task("use", "gpu0")], {"w": "gpu0"})


def test_weights_that_change_their_home_between_phases_are_warned_of() -> None:
    machine = two_gpus()
    near = Workload("near", (phase("near"), phase("also near"), phase("near")))
    assert simulate(near, machine, planner).warnings == ()
    mixed = Workload("mixed", (phase("near"), phase("far")))
    (warning,) = simulate(mixed, machine, planner).warnings
    assert warning.startswith("1000 B of weights and caches live elsewhere in phase 'far'")


def test_a_plan_is_written_once_per_structure_and_phases_follow_one_another() -> None:
    asked: list[str] = []

    def counting(graph: Graph, machine: System) -> Plan:
        asked.append(graph.name)
        return planner(graph, machine)

    workload = Workload("w", (phase("far"), phase("near"), phase("far", 3000)))
    result = simulate(workload, two_gpus(), counting, cost_model="roofline-peak")
    assert asked == ["far", "near"]
    seconds = [round(p.seconds, 6) for p in result.phases]
    assert seconds == [1.0, 0.0, 3.0]
    assert result.wires["up0"].bytes_backward == 4000
    again = simulate(workload, two_gpus(), counting, cost_model="roofline-peak")
    assert json.dumps(result.to_json()) == json.dumps(again.to_json())
