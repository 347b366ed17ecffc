"""What a training rank's work costs on a system: operators, collectives among ranks, copies to host memory.

Operators of equal kind, shape and traffic are priced once. Rank ``r`` lies on the ``r``-th device; which ranks are
neighbours the setup's layout says (:mod:`mapping.training.rank_layout`). Copies to host memory count the ranks that
share a wire: what a rank gets when all copy at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from hw_configs.problems import InputError, bad_input
from hw_configs.system import MemorySpace, Node, System
from mapping.training.rank_layout import first_group
from mapping.training.setup import TrainingSetup
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL, peak_rate
from simulator.system.costs import CostTable
from simulator.system.gpu_library import GpuLibrary, library_of
from simulator.training.wires import Party, Wiring
from workloads.graph import Operator
from workloads.operators import KINDS, CollectiveWork, Message

__all__ = ["HostPath", "Prices"]


@dataclass(frozen=True, slots=True)
class HostPath:
    """Where one device's swapped bytes go: a host memory, its share of it, and bytes per second each way."""

    memory: str
    share_bytes: int
    out_rate: float
    back_rate: float


@dataclass
class Prices:
    """Prices for ranks on a system's computing devices; one object serves many setups."""

    system: System
    cost_model: str = DEFAULT_COST_MODEL
    _table: CostTable = field(init=False, repr=False)
    _library: GpuLibrary | None = field(init=False, repr=False)
    _operators: dict[tuple[object, ...], float] = field(default_factory=dict, repr=False)
    _groups: dict[tuple[str, int, tuple[str, ...]], float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.devices = _training_devices(self.system)
        model = COST_MODELS.get(self.cost_model)
        self._library = library_of(self.system, model)
        self._table = CostTable(self.system, model, library=self._library)

    @cached_property
    def wiring(self) -> Wiring:
        """Exchanges among ranks that lie on the devices in order."""
        return Wiring(self.system, self.devices, self._table, self._library)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: rank for rank, name in enumerate(self.devices)}

    @property
    def node(self) -> Node:
        """The device that stands for all; they are alike."""
        return self.system.nodes[self.devices[0]]

    @property
    def memory(self) -> MemorySpace:
        """The memory that a rank trains in."""
        return self.system.memories[self.node.memory or self.node.name]

    def peak(self, dtype: str) -> float:
        """FLOP/s of one device's matrix units."""
        assert self.node.compute is not None
        return peak_rate(self.node.compute, "matmul", dtype)

    def operator(self, op: Operator) -> float:
        """Seconds of an operator, its launch included."""
        key = (
            op.work, op.dtype, op.place.training_pass == "backward", op.reads, op.writes, op.beside_read,
            op.beside_written, op.residency, op.measured_s,
        )  # fmt: skip
        if key not in self._operators:
            cost = self._table.model.cost(op, self.node, self.memory)
            self._operators[key] = cost.seconds + cost.launch_seconds
        return self._operators[key]

    def forget_operators(self) -> None:
        """Drop the prices of operators, for a calibration that changes a constant beneath them."""
        self._operators.clear()

    def group(self, setup: TrainingSetup, kind: str) -> tuple[str, ...]:
        """The devices of the first rank's group, of a kind of :func:`~mapping.training.rank_layout.groups_of`."""
        return tuple(self.devices[rank] for rank in first_group(setup, kind))

    def collective(self, kind: str, size: int, group: tuple[str, ...]) -> float:
        """Seconds of a collective of so many bytes that has the wires to itself."""
        if len(group) < 2 or size <= 0:
            return 0.0
        key = (kind, size, group)
        if key not in self._groups:
            work = KINDS[kind]
            assert issubclass(work, CollectiveWork | Message)
            if self.system.cluster is not None:
                ranks = tuple(self._numbers[name] for name in group)
                self._groups[key] = self.wiring.exchange(Party((ranks,)), kind, size).seconds
                return self._groups[key]
            op = Operator(kind, work(bytes=size, group=len(group)), (), ())
            self._groups[key] = self._table.collective_seconds(op, group)
        return self._groups[key]

    def host(self, ranks: int) -> HostPath:
        """Host memory of the first rank when ``ranks`` devices copy at once; ``InputError`` without any."""
        paths = [self._nearest_host(name) for name in self.devices[:ranks]]
        own = paths[0]
        sharing = sum(1 for memory, _, _ in paths if memory == own[0])
        out_load: dict[str, int] = {}
        back_load: dict[str, int] = {}
        for _, out, back in paths:
            for resource in out:
                out_load[resource] = out_load.get(resource, 0) + 1
            for resource in back:
                back_load[resource] = back_load.get(resource, 0) + 1
        capacity = self._table.capacity
        return HostPath(
            own[0],
            self.system.memories[own[0]].usable_bytes // sharing,
            min(capacity[resource] / out_load[resource] for resource in own[1]),
            min(capacity[resource] / back_load[resource] for resource in own[2]),
        )

    def host_of(self, device: str) -> str:
        """The host memory nearest to a device."""
        return self._nearest_host(device)[0]

    def _memories_beside(self, device: str) -> Iterable[MemorySpace]:
        """Memories of a device's machine; of the system, where it is one machine."""
        memories, cluster = self.system.memories, self.system.cluster
        if cluster is None:
            return memories.values()
        own = cluster.machines[cluster.places[device][0]].names.values()
        return [memories[name] for name in own if name in memories]

    def _nearest_host(self, device: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The DRAM with the shortest path to a device, and the resources of the paths to it and from it."""
        memory = self.system.nodes[device].memory or device
        best: tuple[int, str] | None = None
        for space in self._memories_beside(device):
            if self.system.nodes[space.name].device.kind != "dram" or space.name == memory:
                continue
            try:
                hops = len(self.system.route(memory, space.name))
            except InputError:
                continue
            if best is None or hops < best[0]:
                best = (hops, space.name)
        if best is None:
            raise bad_input(
                f"system {self.system.name!r} has no host memory that {device!r} has a path to", path="--hw"
            )
        out = self._table.path(memory, best[1]).resources
        back = self._table.path(best[1], memory).resources
        return best[1], out, back


def _training_devices(system: System) -> tuple[str, ...]:
    """The devices that train: all of the kind with the most arithmetic, in the file's order."""
    workers = system.workers()
    if not workers:
        raise bad_input(f"system {system.name!r} has no device that computes", path="--hw")

    def rate(node: Node) -> float:
        assert node.compute is not None
        try:
            return peak_rate(node.compute, "matmul", "bf16")
        except InputError:
            return 0.0

    best = max(workers, key=rate)
    return tuple(node.name for node in workers if node.group == best.group)
