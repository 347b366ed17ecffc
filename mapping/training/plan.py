"""A training step as a plan with addresses: every rank's operators, and the three streams of token-wise swapping.

Each device has a compute stream, one for copies to host memory and one for copies back. A layer's swapped tensors
leave as soon as the forward pass has made them. Two rounding buffers hold them: even layers use one, odd layers
the other, so that layer i + 2 waits until layer i has left; in the backward pass layer i is fetched while layer
i + 1 works, once layer i + 2 has given its buffer up (MEMO, arXiv:2407.12117, section 4.1). The last two layers
stay where they are.

Device memory is laid out from the bottom: model states and their gradients, the two buffers, then all other
activations at the addresses of the two-level plan. The simulator checks that no two live tensors share a byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hw_configs.problems import InfeasibleError, bad_input
from mapping.training.pricing import Prices
from mapping.training.rank_step import RankStep
from mapping.training.requests import GRANULE_BYTES, request_sequence
from mapping.training.setup import TrainingSetup
from mapping.training.two_level_addresses import plan_memory
from simulator.cost.collective import COLLECTIVE_KINDS
from simulator.plan import Collective, Compute, Home, Plan, PlanNotes, Split, Task, Transfer
from workloads.graph import Graph, Operator

__all__ = ["Layout", "TrainingNotes", "executable", "lay_out", "training_plan", "without_addresses"]


@dataclass(frozen=True)
class TrainingNotes(PlanNotes):
    """How the step is divided, what its device memory comes to, and the two rounding buffers in it."""

    setup: Mapping[str, Any]
    planned_peak_bytes: int
    rounding_buffer_bytes: int


@dataclass(frozen=True)
class Layout:
    """Byte offsets in a device's memory, equal on all ranks.

    ``address`` has every tensor that a rank's graph names; ``peak_bytes`` is the end of the last.
    """

    address: Mapping[str, int]
    states_bytes: int
    buffer_bytes: int
    peak_bytes: int


def executable(setup: TrainingSetup) -> str:
    """Why a setup's step has no plan with an address for every tensor; "" when it has one.

    Such a plan's ranks all meet in each collective, so only one degree of parallelism may have several ranks. Any
    other step runs as a program (:mod:`mapping.training.step_program`).
    """
    wide = [name for name in ("tensor", "ulysses", "context", "pipeline", "data") if getattr(setup, name) > 1]
    if len(wide) > 1:
        return f"ranks of {' and '.join(wide)} parallelism meet in different groups"
    if wide and wide[0] in ("pipeline", "data"):
        return f"{wide[0]} parallelism has no collectives in a rank's graph"
    if setup.zero_stage and setup.shards > 1:
        return "ZeRO's collectives are not in a rank's graph"
    if setup.states != "device":
        return "its states do not stay on the devices, or move beside the step"
    if not setup.loading.nothing:
        return "it loads samples"
    if setup.micro_batches > 1:
        return "the step has several micro-batches"
    return ""


def lay_out(step: RankStep) -> Layout:
    """Where each tensor of a rank lies; see the module's first lines."""
    graph = step.graph
    sequence = request_sequence(graph, step.elsewhere)
    asked = dict(zip(sequence.names, range(len(sequence)), strict=True))
    address: dict[str, int] = {}
    top = 0
    for name, tensor in graph.tensors.items():
        if name not in asked and name not in step.elsewhere and _is_used(graph, name):
            address[name] = top
            top += _granules(tensor.size_bytes)
    states = top
    buffer = max(
        (sum(_granules(graph.tensors[n].size_bytes) for n in names) for names in step.swapped.values()),
        default=0,
    )
    for layer, names in step.swapped.items():
        place = states + (layer % 2) * buffer
        for name in names:
            address[name] = place
            place += _granules(graph.tensors[name].size_bytes)
    base = states + 2 * buffer
    plan = plan_memory(sequence)
    for name, block in asked.items():
        if name in graph.tensors:
            address[name] = base + int(plan.offsets[block])
    return Layout(address, states, buffer, base + plan.peak_bytes)


def training_plan(step: RankStep, prices: Prices) -> Plan:
    """The plan of a step on the first devices of the system.

    Raises ``InputError`` when :func:`executable` has an objection, ``InfeasibleError`` when device memory is
    too small for the layout.
    """
    objection = executable(step.setup)
    if objection:
        raise bad_input(f"this setup has no plan with addresses: {objection}")
    layout = lay_out(step)
    usable = prices.memory.usable_bytes
    if layout.peak_bytes > usable:
        raise InfeasibleError(
            f"the step needs {layout.peak_bytes} bytes of device memory with its addresses planned; "
            f"{prices.memory.name!r} has {usable}"
        )
    writer = _Writer(step, prices, layout)
    splits = {op.name: Split("replicated", writer.devices) for op in step.graph.operators}
    notes = TrainingNotes(step.setup.to_json(), layout.peak_bytes, layout.buffer_bytes)
    tasks = tuple(writer.tasks())
    return Plan(
        step.graph.name, prices.system.name, "choose-training", tasks, writer.homes(), splits, notes=notes
    )


class _Writer:
    def __init__(self, step: RankStep, prices: Prices, layout: Layout) -> None:
        self.step, self.graph, self.layout = step, step.graph, layout
        self.devices = prices.devices[: step.setup.devices]
        self.memory = {name: prices.system.nodes[name].memory or name for name in self.devices}
        self.host = {}
        if step.swapped:
            self.host = {name: prices.host_of(name) for name in self.devices}
        layers = sorted(step.swapped)
        self.ashore = layers[:-2]
        """Layers whose tensors go to host memory; the last two stay in the buffers."""
        self.layer_of = {name: layer for layer, names in step.swapped.items() for name in names}
        self._read_graph()

    def _read_graph(self) -> None:
        """Which operator writes a swapped tensor last, reads it last in the forward pass, starts and ends a layer."""
        self.written: dict[str, int] = {}
        self.forward_end: dict[str, int] = {}
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        ashore = set(self.ashore)
        for index, op in enumerate(self.graph.operators):
            layer, which = op.place.layer, op.place.training_pass
            if layer is not None and which == "forward":
                self.starts.setdefault(layer, index)
            if layer is not None and which in ("backward", "recompute"):
                self.ends[layer] = index
            if which != "forward":
                continue
            for name in (*op.inputs, *op.outputs, *op.updates):
                if self.layer_of.get(name) in ashore:
                    self.forward_end[name] = index
            for name in (*op.outputs, *op.updates):
                if self.layer_of.get(name) in ashore:
                    self.written[name] = index
        self.leaving: dict[int, list[str]] = {}
        for name, index in self.written.items():
            self.leaving.setdefault(index, []).append(name)
        self.last_stored: dict[int, str] = {}
        for name in sorted(self.written, key=self.written.__getitem__):
            self.last_stored[self.layer_of[name]] = name
        self.fetched_after: dict[int, int] = {}
        for layer in self.ashore:
            if layer + 2 in self.ends:
                self.fetched_after[self.ends[layer + 2]] = layer

    def tasks(self) -> Iterator[Task]:
        """All tasks in an order that is valid one after another."""
        for index, op in enumerate(self.graph.operators):
            for rank, device in enumerate(self.devices):
                yield self._work(index, op, rank, device)
            for name in self.leaving.get(index, ()):
                for rank, device in enumerate(self.devices):
                    yield self._store(name, rank, device)
            if index in self.fetched_after:
                yield from self._fetch(self.fetched_after[index], op)

    def _work(self, index: int, op: Operator, rank: int, device: str) -> Task:
        after: tuple[str, ...] = ()
        layer = op.place.layer
        if layer is not None and self.starts.get(layer) == index and layer - 2 in self.last_stored:
            after = (f"store {self.last_stored[layer - 2]}@{rank}",)
        frees = tuple(
            (f"{name}@{rank}", self.memory[device])
            for name in dict.fromkeys((*op.inputs, *op.updates))
            if self.forward_end.get(name) == index and self.written[name] != index
        )
        addresses = {f"{name}@{rank}": self.layout.address[name] for name in op.outputs}
        if op.kind in COLLECTIVE_KINDS:
            return Collective(
                f"{op.name}@{rank}", f"{device}.compute", op.name, device, group=self.devices,
                after=after, frees=frees, addresses=addresses,
            )  # fmt: skip
        return Compute(
            f"{op.name}@{rank}", f"{device}.compute", f"{op.name}@{rank}", device,
            after=after, frees=frees, addresses=addresses,
        )  # fmt: skip

    def _store(self, name: str, rank: int, device: str) -> Task:
        tensor, memory = f"{name}@{rank}", self.memory[device]
        # A tensor that no later forward operator reads leaves with its copy to host memory.
        frees = ((tensor, memory),) if self.forward_end[name] == self.written[name] else ()
        return Transfer(
            f"store {tensor}", f"{device}.to_host", tensor=tensor, source=memory,
            target=self.host[device], frees=frees,
        )  # fmt: skip

    def _fetch(self, layer: int, after: Operator) -> Iterator[Task]:
        for name in self.step.swapped[layer]:
            for rank, device in enumerate(self.devices):
                tensor = f"{name}@{rank}"
                yield Transfer(
                    f"fetch {tensor}", f"{device}.from_host", tensor=tensor,
                    source=self.host[device], target=self.memory[device], after=(f"{after.name}@{rank}",),
                    addresses={tensor: self.layout.address[name]},
                )  # fmt: skip

    def homes(self) -> dict[str, tuple[Home, ...]]:
        """Model states and inputs, on every rank."""
        found: dict[str, tuple[Home, ...]] = {}
        for name in self.graph.tensors:
            if name in self.graph.producer or not _is_used(self.graph, name):
                continue
            for rank, device in enumerate(self.devices):
                found[f"{name}@{rank}"] = (Home(self.memory[device], self.layout.address[name]),)
        return found


def _granules(size: int) -> int:
    return -(-size // GRANULE_BYTES) * GRANULE_BYTES


def _is_used(graph: Graph, name: str) -> bool:
    """Whether some operator touches a tensor; rewriting may leave names behind that none does."""
    return bool(graph.consumers[name]) or name in graph.producer


def without_addresses(plan: Plan) -> Plan:
    """The plan with tensors free to lie anywhere, to see what the addresses cost."""
    tasks = tuple(replace(task, addresses={}) for task in plan.tasks)
    homes = {name: tuple(Home(home.memory) for home in entries) for name, entries in plan.homes.items()}
    return replace(plan, tasks=tasks, homes=homes)
