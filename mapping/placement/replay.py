"""The plan of a recorded trace: each rank on a device of its own, each of its streams a stream of the plan.

What the trace gives a time is replayed with it, beside what else its device does, as its streams and the host's threads
did; the rest is priced, one operator of a device at a time. Messages leave when their sender is there; who waits for
a send waits until its bytes have arrived.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hw_configs.problems import bad_input
from hw_configs.system import System
from mapping.mapper import MapperOptions
from mapping.placement.single_device import candidates
from simulator.plan import Collective, Compute, Home, Plan, Task, Transfer
from workloads.graph import Graph, Operator
from workloads.operators import CollectiveWork, Send

__all__ = ["MAPPER", "Replay"]


class Replay:
    """The mapper ``replay``."""

    DESCRIPTION = "a recorded trace: rank by rank on devices, with its own streams and measured times"

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:  # noqa: ARG002
        """A plan over the first devices, as many as there are ranks; ``InputError`` for a graph without ranks."""
        unplaced = [op.name for op in graph.operators if not op.place.ranks]
        if unplaced:
            raise bad_input(
                f"{graph.name} is no recorded trace: operator {unplaced[0]!r} names no rank", path="--mapper"
            )
        ranks = 1 + max(max(op.place.ranks) for op in graph.operators)
        devices = [node.name for node in candidates(system)]
        if ranks > len(devices):
            message = (
                f"{graph.name} has {ranks} ranks; system {system.name!r} has {len(devices)} devices for them"
            )
            raise bad_input(message, path="--hw")
        writer = _Writer(graph, system, devices)
        tasks = tuple(writer.tasks())
        return Plan(graph.name, system.name, "replay", tasks, writer.homes)


MAPPER: Final = Replay()


class _Writer:
    def __init__(self, graph: Graph, system: System, devices: list[str]) -> None:
        self.graph, self.devices = graph, devices
        self.memory = {device: system.nodes[device].memory or device for device in devices}
        self.homes: dict[str, tuple[Home, ...]] = {}
        self.sent_by: dict[str, str] = {}
        """Tensor that says a send is done to the transfer that carries its message."""

    def tasks(self) -> Iterator[Task]:
        for op in self.graph.operators:
            if isinstance(op.work, CollectiveWork) and len(op.place.ranks) > 1:
                yield from self._meet(op)
            else:
                yield from self._run(op, self.devices[op.place.ranks[0]])

    def _run(self, op: Operator, device: str) -> Iterator[Task]:
        self._settle(op.inputs, device)
        yield Compute(
            op.name, f"{device}.{op.place.stream}", op.name, device, after=self._after(op.inputs),
            measured=op.measured_s is not None,
        )  # fmt: skip
        if isinstance(op.work, Send):
            done, message = op.outputs
            target = self.memory[self.devices[op.work.peer]]
            source = self.memory[device]
            if source != target:
                move = f"{op.name}: {source} to {target}"
                self.sent_by[done] = move
                yield Transfer(move, f"{source}->{target}", message, source, target)

    def _meet(self, op: Operator) -> Iterator[Task]:
        group = tuple(self.devices[rank] for rank in op.place.ranks)
        share = len(op.inputs) // len(group)
        for place, device in enumerate(group):
            inputs = op.inputs[place * share : (place + 1) * share]
            self._settle(inputs, device)
            yield Collective(
                f"{op.name} on {device}", f"{device}.{op.place.stream}", op.name, device, group,
                after=self._after(inputs), measured=op.measured_s is not None,
            )  # fmt: skip

    def _settle(self, inputs: tuple[str, ...], device: str) -> None:
        """What nobody made is there from the start."""
        for tensor in inputs:
            if tensor not in self.graph.producer and tensor not in self.homes:
                self.homes[tensor] = (Home(self.memory[device]),)

    def _after(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.sent_by[tensor] for tensor in inputs if tensor in self.sent_by)
