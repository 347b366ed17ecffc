"""The least time on a scratchpad machine, with DMA running under the arithmetic.

What counts as time is the simulator's answer for the plan of a schedule. Candidates are the schedule of least
traffic, those of the baselines, and each of them with fetches moved ahead: a tensor may come so many steps before
its use as the bytes of those steps allow, so that the transfer runs while other operators compute. The bound is
the larger of all operators' compute times in a row (on a spatial device each under its fastest mapping) and the bytes
that must cross the wire at its full rate. The
search over candidates is a heuristic; the gap is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InfeasibleError
from hw_configs.system import Node, System
from mapping.deadline import Budget
from mapping.loop_nest.cost_model import LOOP_NEST
from mapping.scheduling.baselines import BASELINES
from mapping.scheduling.check import check
from mapping.scheduling.kernels import load_kernels
from mapping.scheduling.lowering import scratchpad_of, to_plan
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import Schedule, ScheduleResult, Status
from mapping.scheduling.solving import solve
from mapping.scheduling.stays import Stays, assemble, find_addresses, peak_bytes_of
from simulator.simulate import simulate
from workloads.graph import Graph
from workloads.workload import Phase, Workload

__all__ = ["fetch_ahead", "solve_timed"]

_AHEAD: Final = (1, 2, 4, 8)
_NODES: Final = 20_000


def solve_timed(
    problem: ScheduleProblem,
    graph: Graph,
    system: System,
    scratchpad_bytes: int,
    *,
    time_limit_s: float | None = 60.0,
    fidelity: str = "event",
    seed: int = 0,
) -> ScheduleResult:
    """The schedule of the least simulated time among the candidates, with a bound.

    Raises ``InputError`` when the system has no scratchpad machine, ``InfeasibleError`` when the machine has less
    scratchpad than asked for.
    """
    node, off_chip = scratchpad_of(system)
    usable = int(system.memories[node.memory or node.name].usable_bytes)
    if scratchpad_bytes > usable:
        raise InfeasibleError(
            f"{node.name!r} has {usable} bytes of scratchpad; {scratchpad_bytes} were asked for"
        )
    if time_limit_s is not None:
        load_kernels()
    budget = Budget(time_limit_s)
    least = solve(problem, scratchpad_bytes, time_limit_s=None if time_limit_s is None else time_limit_s / 2)
    if least.schedule is None:
        return replace(least, objective="time")

    def run(schedule: Schedule, at: str) -> tuple[float, float]:
        plan = to_plan(graph, problem, schedule, system, "scratchpad")
        workload = Workload(graph.name, (Phase("forward", "forward", graph),))
        result = simulate(workload, system, lambda _graph, _system: plan, fidelity=at)
        line = result.timeline
        computing = sum(
            end - start
            for kind, start, end in zip(line.kind, line.start, line.end, strict=True)
            if kind == "compute"
        )
        return result.makespan_s, computing

    _, computing = run(least.schedule, "analytic")
    computing -= _spared(graph, system, node)
    bound = max(computing, _wire_seconds(system, node.memory or node.name, off_chip, least))
    best, seconds, engine, tried = least.schedule, run(least.schedule, fidelity)[0], "least traffic", 1
    for name, schedule in _candidates(problem, scratchpad_bytes, least.schedule):
        if budget.spent or seconds <= bound:
            break
        took = run(schedule, fidelity)[0]
        tried += 1
        if took < seconds:
            best, seconds, engine = schedule, took, name
    status: Status = "optimal" if seconds <= bound * (1 + 1e-9) else "feasible"
    words = None if status == "optimal" else (
        "not proved fastest: the bound is all arithmetic in a row, or all compulsory bytes at the wire's full rate"
    )  # fmt: skip
    return ScheduleResult(
        status, "auto", engine, scratchpad_bytes, best, best.cost_bytes, least.bound_bytes,
        peak_bytes_of(problem, best), budget.elapsed, tried, seed, "time", explanation=words,
        time_s=seconds, bound_time_s=min(bound, seconds), notes={"machine": f"{system.name}, {fidelity} fidelity"},
    )  # fmt: skip


def _spared(graph: Graph, system: System, node: Node) -> float:
    """Seconds that a spatial device's operators would take less if each had its fastest mapping.

    The mappings are chosen before the schedule. What they move on chip does not depend on it, so time is all that the
    two stages can lose, and this much at most of the arithmetic.
    """
    if not isinstance(node.device, SpatialAccelerator):
        return 0.0
    memory = system.memories[node.memory or node.name]
    return sum(
        LOOP_NEST.cost(op, node, memory).seconds - LOOP_NEST.least_seconds(op, node, memory)
        for op in graph.operators
    )


def _wire_seconds(system: System, pad: str, off_chip: str, least: ScheduleResult) -> float:
    """Seconds in which the bytes that must come in, or go out, cross the slowest wire between the memories."""
    assert least.schedule is not None
    inward = sum(move.size_bytes for move in least.schedule.transfers if move.kind == "load")
    outward = sum(move.size_bytes for move in least.schedule.transfers if move.kind == "store")
    rate = min(
        (system.wires[wire].link.bandwidth for wire, _ in system.route(off_chip, pad)), default=float("inf")
    )
    return max(inward, outward) / rate


def _candidates(problem: ScheduleProblem, capacity: int, least: Schedule) -> Iterator[tuple[str, Schedule]]:
    """Fetches ahead in the schedule of least traffic first, then the baselines likewise."""
    yield from _variants(problem, capacity, "least traffic", least)
    seen = [least]
    for name, run in BASELINES.items():
        other = run(problem, capacity).schedule
        if other is not None and other not in seen:
            seen.append(other)
            yield name, other
            yield from _variants(problem, capacity, name, other)


def _variants(
    problem: ScheduleProblem, capacity: int, name: str, schedule: Schedule
) -> Iterator[tuple[str, Schedule]]:
    for steps in _AHEAD:
        ahead = fetch_ahead(problem, schedule, capacity, steps)
        if ahead is not None:
            yield f"{name}, fetched up to {steps} ahead", ahead


def fetch_ahead(problem: ScheduleProblem, schedule: Schedule, capacity: int, steps: int) -> Schedule | None:
    """The schedule with every load and retrieve up to so many steps earlier, as far as bytes and addresses allow.

    None when nothing moves or no addresses are found.
    """
    order = tuple(problem.operator_index[name] for name in schedule.order)
    spans = [(problem.tensor_index[s.tensor], s.start, s.end) for s in schedule.residences]
    live = [problem.operators[o].workspace_bytes for o in order]
    ended: dict[int, list[int]] = {}
    for t, start, end in spans:
        ended.setdefault(t, []).append(end)
        for step in range(start, end):
            live[step] += problem.tensors[t].size_bytes
    fetched = {
        (problem.tensor_index[move.tensor], move.step)
        for move in schedule.transfers
        if move.kind in ("load", "retrieve")
    }
    moved = []
    for t, start, end in sorted(spans, key=lambda span: (span[1], span[0])):
        begin = start
        if (t, start) in fetched:
            # Not before the stay that was dropped has ended.
            floor = max([other for other in ended[t] if other <= start], default=0)
            size = problem.tensors[t].size_bytes
            while begin > max(floor, start - steps, 0) and live[begin - 1] + size <= capacity:
                begin -= 1
                live[begin] += size
        moved.append((t, begin, end))
    if sorted(moved) == sorted(spans):
        return None
    stays = Stays(order, tuple(sorted(moved, key=lambda span: (span[1], span[0]))))
    found = find_addresses(problem, stays, capacity, max_nodes=_NODES)
    if found.status not in ("optimal", "feasible") or found.offsets is None:
        return None
    made = assemble(problem, stays, found.offsets.tolist())
    return None if check(problem, made, capacity) else made
