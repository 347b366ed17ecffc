"""Bounds that no machine can break, held against every result.

The checks look at the finished records alone, not at how an engine made them: energy is not negative, no
operator is faster than its data-sheet roof or draws more than its device can cool, no device or stream does two
things at once (recorded operators apart, which streams of their device may have overlapped), no run is shorter
than its critical path or than any resource's work, bytes into a wire equal bytes moved by tasks, no memory's
ports pass more bytes than their time allows, kernels and copies and streamed operands together, and no memory
holds more than it has. A breach is a defect of Offchip and raises :class:`PhysicsError`, which names the
operator or the resource.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from hw_configs.device import Accelerator, ComputationalStorage
from hw_configs.problems import PhysicsError
from hw_configs.system import MemorySpace, Node, System
from simulator.accelerator.operand_buffer import products_share
from simulator.cost.model import operator_rate
from simulator.link.flows import Load
from simulator.plan import Compute, Transfer
from simulator.system.costs import CostTable
from simulator.system.drives import flash_bandwidth
from simulator.system.engine import PhaseRun, TaskRecord
from simulator.system.host_path import bounced_memory
from workloads.graph import Graph

__all__ = ["check_phase"]

_ROUNDING = 1e-9


def check_phase(run: PhaseRun, graph: Graph, system: System, costs: CostTable) -> None:
    """Raise ``PhysicsError`` with the first bound that a phase breaks."""
    for breach in _breaches(run, graph, system, costs):
        raise PhysicsError(f"{graph.name}: {breach}")


def _breaches(run: PhaseRun, graph: Graph, system: System, costs: CostTable) -> Iterator[str]:
    yield from _operators_below_roof(run, graph, system)
    yield from _operators_above_power(run, system)
    yield from _overlaps(run)
    yield from _shorter_than_critical_path(run, graph)
    yield from _bytes_not_conserved(run, graph, costs)
    yield from _ports_overdrawn(run, system)
    yield from _memory_out_of_bounds(run)


def _slack(run: PhaseRun) -> float:
    # Clock times carry the rounding of the absolute time they were added to.
    return _ROUNDING * max(run.end - run.start, 0.0) + 4 * math.ulp(max(run.end, 1e-9))


def _operators_below_roof(run: PhaseRun, graph: Graph, system: System) -> Iterator[str]:
    rates: dict[tuple[str, str, str, str], float] = {}
    for record in run.records:
        cost = record.cost
        if cost is None:
            continue
        name = record.task.operator
        if not (cost.compute_energy_j >= 0 and cost.memory_energy_j >= 0):
            yield f"operator {name!r} has negative energy"
        if not (cost.seconds >= 0 and cost.launch_seconds >= 0):
            yield f"operator {name!r} takes {cost.launch_seconds:g} + {cost.seconds:g} s"
        if isinstance(record.task, Compute) and record.task.measured:
            continue  # on the machine where it was recorded; there is no roof of this one over it
        node = system.nodes[record.task.device]
        operator = graph.operator_by_name[name]
        roof = 0.0
        if operator.flops and node.compute is not None:
            key = (record.task.device, operator.kind, operator.dtype, getattr(operator.work, "kv_dtype", ""))
            if key not in rates:
                rates[key] = operator_rate(node.compute, operator)
            done = operator.flops
            if isinstance(node.device, Accelerator) and not node.scratchpad:
                done *= products_share(operator, node.device)
            roof = done / rates[key]
        memory = system.memories[node.memory or node.name]
        roof = max(roof, _seen_from(node, memory).traffic_seconds(cost.read_bytes, cost.write_bytes))
        took = record.end - record.start
        if not took >= roof * (1 - 1e-6) - _slack(run):
            yield f"operator {name!r} took {took:.6g} s, below its roof of {roof:.6g} s on {node.name}"


def _works_inside(node: Node, memory: MemorySpace) -> bool:
    """Whether a device reaches its memory without that memory's ports: the compute of a drive."""
    return isinstance(node.device, ComputationalStorage) and memory.name == node.name


def _seen_from(node: Node, memory: MemorySpace) -> MemorySpace:
    """A memory as a device's kernels meet it: a drive's own compute takes the path inside the drive."""
    if not _works_inside(node, memory) or not isinstance(node.device, ComputationalStorage):
        return memory
    inside = node.device.internal_bandwidth
    read, write = max(memory.read_bandwidth, inside), max(memory.write_bandwidth, inside)
    return replace(memory, read_bandwidth=read, write_bandwidth=write, ports=1)


def _operators_above_power(run: PhaseRun, system: System) -> Iterator[str]:
    """No operator's mean power, idle included, is above what its device can cool.

    Memory counts where it is the device's own. Copies to and from that memory are not in an operator's energy.
    """
    for record in run.records:
        if record.cost is None:
            continue
        node = system.nodes[record.task.device]
        power = getattr(node.device, "power", None)
        took = record.end - record.start
        if power is None or took <= 0:
            continue
        joules = record.cost.compute_energy_j
        if node.memory == node.name:
            joules += record.cost.memory_energy_j
        if joules > (power.tdp - power.idle) * (took * (1 + 1e-6) + _slack(run)):
            watts = power.idle + joules / took
            yield (
                f"operator {record.task.operator!r} draws {watts:.6g} W on {node.name}, "
                f"above its TDP of {power.tdp:g} W"
            )


def _overlaps(run: PhaseRun) -> Iterator[str]:
    """One device computes one operator at a time, and one stream holds one task at a time."""
    slack = _slack(run)
    lanes: dict[str, list[TaskRecord]] = {}
    for record in run.records:
        if isinstance(record.task, Compute) and not record.task.measured:
            lanes.setdefault(f"device {record.task.device}", []).append(record)
        lanes.setdefault(f"stream {record.task.stream}", []).append(record)
    for lane, records in lanes.items():
        records.sort(key=lambda r: (r.start, r.end))
        for before, after in pairwise(records):
            if after.start < before.end - slack:
                yield f"{lane} runs {before.task.name!r} and {after.task.name!r} at once"


def _shorter_than_critical_path(run: PhaseRun, graph: Graph) -> Iterator[str]:
    """The longest chain of data dependencies, each operator at the time it took, fits in the run."""
    took: dict[str, float] = {}
    for record in run.records:
        if record.cost is not None:
            seconds = record.end - record.start
            took[record.task.operator] = min(took.get(record.task.operator, seconds), seconds)
    # Only the flow of values counts: an update need not wait for readers of a copy in another memory.
    reach: dict[str, float] = {}
    longest, last = 0.0, ""
    for operator in graph.operators:
        read = (*operator.inputs, *operator.updates)
        end = max((reach.get(name, 0.0) for name in read), default=0.0) + took.get(operator.name, 0.0)
        for name in (*operator.outputs, *operator.updates):
            reach[name] = end
        if end > longest:
            longest, last = end, operator.name
    if longest > (run.end - run.start) + _slack(run) * 10:
        yield f"the critical path to {last!r} takes {longest:.6g} s, the run only {run.end - run.start:.6g} s"


def _bytes_not_conserved(run: PhaseRun, graph: Graph, costs: CostTable) -> Iterator[str]:
    """What tasks moved is what crossed the wires, and no wire was busy longer than the run."""
    system = costs.system
    expected: dict[str, float] = {}

    def moved(load: Load, size: float) -> None:
        for resource, weight in load.items():
            expected[resource] = expected.get(resource, 0.0) + size * weight

    for record in run.records:
        task = record.task
        if task.kind == "transfer":
            moved(costs.path_of(task).load, record.moved_bytes)
        elif task.kind == "compute":
            if task.streamed:
                moved(costs.stream_path(task.source, task.device).load, record.moved_bytes)
        elif task.device == task.group[0]:
            memory = {device: system.nodes[device].memory or device for device in task.group}
            for round_ in costs.rounds(graph.operator_by_name[task.operator], task.group):
                for source, target, size in round_.sends:
                    moved(costs.path(memory[source], memory[target]).load, size)
    for resource in {**expected, **run.carried_bytes}:
        carried = run.carried_bytes.get(resource, 0.0)
        if not math.isclose(carried, expected.get(resource, 0.0), rel_tol=1e-9, abs_tol=1):
            yield f"{resource} carried {carried:.0f} bytes, tasks moved {expected.get(resource, 0.0):.0f}"
        capacity = costs.capacity[resource]
        if carried > capacity * (run.end - run.start) * (1 + 1e-6) + capacity * _slack(run) + 1:
            yield f"{resource} carried {carried:.0f} bytes, more than its bandwidth allows in the run"
    for wire in system.wires.values():
        for resource in (wire.name, wire.name + ">", wire.name + "<"):
            if run.busy_seconds.get(resource, 0.0) > (run.end - run.start) * (1 + 1e-6) + _slack(run):
                yield f"wire {wire.name!r} was busy longer than the run"


@dataclass
class _Passed:
    """Bytes that passed a memory's ports, and those that a drive's own compute moved behind them."""

    read: float = 0.0
    written: float = 0.0
    inside: float = 0.0


def _ports_overdrawn(run: PhaseRun, system: System) -> Iterator[str]:
    """The bytes of kernels, copies and streamed operands together take no more time than a memory had."""
    had = (run.end - run.start) * (1 + 1e-6) + _slack(run)
    for name, passed in _passed(run, system).items():
        memory = system.memories[name]
        needs = memory.traffic_seconds(passed.read, passed.written)
        if needs > had + 1 / min(memory.read_bandwidth, memory.write_bandwidth):
            yield (
                f"memory {name!r} passed {passed.read:.0f} bytes read and {passed.written:.0f} written, which "
                f"takes {needs:.6g} s of its {memory.ports} port(s), in {run.end - run.start:.6g} s"
            )
        device = system.nodes[name].device
        total = passed.read + passed.written + passed.inside
        if isinstance(device, ComputationalStorage) and total > flash_bandwidth(device) * had + 1:
            yield f"the flash of {name!r} passed {total:.0f} bytes, more than its channels carry in the run"


def _passed(run: PhaseRun, system: System) -> dict[str, _Passed]:
    found = {name: _Passed() for name in system.memories}
    for record in run.records:
        task, cost = record.task, record.cost
        if isinstance(task, Transfer):
            found[task.source].read += record.moved_bytes
            found[task.target].written += record.received_bytes
            host = bounced_memory(system, task)
            if host is not None:
                found[host].read += record.moved_bytes
                found[host].written += record.moved_bytes
            continue
        here = system.nodes[task.device].memory or task.device
        if cost is None:
            found[here].read += record.moved_bytes
            found[here].written += record.received_bytes
            continue
        if isinstance(task, Compute) and task.streamed:
            found[task.source].read += record.moved_bytes
        read = max(cost.read_bytes - record.moved_bytes, 0.0)
        if _works_inside(system.nodes[task.device], system.memories[here]):
            found[here].inside += read + cost.write_bytes
        else:
            found[here].read += read
            found[here].written += cost.write_bytes
    return found


def _memory_out_of_bounds(run: PhaseRun) -> Iterator[str]:
    ledger = run.ledger
    for memory, entries in ledger.entries.items():
        if not entries:
            continue
        used = 0
        for _, tensor, change in entries:
            used += change
            if used < 0:
                yield f"memory {memory!r} gave back more than it held, last {tensor!r}"
            if used > ledger.usable[memory]:
                yield f"memory {memory!r} held {used} bytes of {ledger.usable[memory]}, last {tensor!r}"
