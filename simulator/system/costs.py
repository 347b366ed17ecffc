"""What tasks cost on one system: operators through the cost model, transfers and collectives through routes.

Resources are named strings: a wire's direction (``pcie:gpu-cpu>``), a half-duplex wire, and the ports of
memories (:mod:`simulator.system.ports`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace, System
from simulator.cost.collective import ALGORITHMS, AUTO, BARE_WIRES, CHOICES, schedule
from simulator.cost.model import CostModel, OperatorCost
from simulator.flash.patterns import DrivePattern, drive_rate
from simulator.link.flows import Load
from simulator.plan import Task, Transfer
from simulator.system.drives import MeasuredRates, drive_ports, engine_drives, flash_bandwidth
from simulator.system.far_memory import faulted_bytes_per_s, zero_copy_bytes_per_s
from simulator.system.host_path import bounce_bytes_per_s, bounced_memory, mapped_scan
from simulator.system.ports import MemoryPorts, together
from workloads.graph import Graph, Operator
from workloads.operators import CollectiveWork, Message

if TYPE_CHECKING:
    from simulator.pim.operators import PimCosts
    from simulator.pim.recipes import Kernel
    from simulator.system.gpu_library import GpuLibrary

__all__ = [
    "CHUNK_READERS",
    "MEASURED",
    "CostTable",
    "MeasuredMemory",
    "Path",
    "Round",
    "Traffic",
    "measured_cost",
]

CHUNK_READERS: Final = 32
"""Reads in flight when a host fetches chunks: 32 threads (LLM in a flash, arXiv:2312.11514, section 4)."""


@dataclass(frozen=True, slots=True)
class Path:
    """From one memory to another: what a flow crosses, and the latency of its first byte."""

    load: Load
    """Bytes on each resource per byte of the flow."""
    latency_s: float
    narrowest: str
    """The wire or memory port that bounds a flow with the path to itself."""
    share: float = 1.0
    """Of the bytes that are asked for, those that flow: what a page cache holds does not."""
    software_s_per_byte: float = 0.0
    """Of software before the flow, per byte that is asked for."""

    def startup_s(self, size: float, wait_s: float) -> float:
        """From the start of a transfer to its first byte."""
        return wait_s + self.latency_s + size * self.software_s_per_byte

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources, from the source to the target."""
        return tuple(self.load)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a kernel draws on its memory: bytes on the port that it fills most, and what the others carry per byte.

    So kernels that meet on a port share its time evenly, whatever else they read and write.
    """

    bytes: float
    load: Load


@dataclass(frozen=True, slots=True)
class Round:
    """Messages of a collective that run side by side: how many hops follow one another, who sends what.

    Where a library says how long the whole collective takes, its latencies are the library's and hops are none.
    """

    hops: int
    sends: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """What a memory was measured to do on a stream, in place of what its data sheet promises."""

    read_bytes_per_s: float
    write_bytes_per_s: float
    read_j_per_byte: float
    write_j_per_byte: float


MEASURED: Final = "measured"
"""What bounds an operator that takes its measured time."""


def measured_cost(operator: Operator) -> OperatorCost:
    """The cost of an operator that takes the time it was measured with: what it moved and drew is not known."""
    assert operator.measured_s is not None
    return OperatorCost(operator.measured_s, 0.0, MEASURED, 0, 0, 0.0, 0.0)


class CostTable:
    """Costs on one system, remembered. One table serves all phases of a run.

    ``collective`` is an algorithm, or ``wires``: the faster one for a collective's size and ranks, judged with the
    wires to itself; ``auto`` is the same but among ranks that ``library`` serves. There the library says how long a
    collective takes on wires of its own; its bytes cross the wires beside whatever else is on them, and it ends no
    sooner than they are over. ``measured`` are memories that were measured instead of stated. ``drives``: where a
    drive's ports get their rates, the closed form or the drive engine.
    """

    def __init__(
        self,
        system: System,
        model: CostModel,
        collective: str = AUTO,
        measured: Mapping[str, MeasuredMemory] | None = None,
        drives: Literal["closed", "event"] = "event",
        library: GpuLibrary | None = None,
    ) -> None:
        if collective not in CHOICES:
            known = ", ".join(CHOICES)
            raise bad_input(f"found {collective!r}; expected one of {known}", path="--collective")
        self.system, self.model, self.collective = system, model, collective
        self._library = library if collective == AUTO else None
        self._measured = measured or {}
        self._drives: Literal["closed", "event"] = drives
        # Keyed by identity: the decode steps of a generation share the operators that do not change.
        self._operators: dict[tuple[int, str], tuple[Operator, OperatorCost]] = {}
        self._paths: dict[tuple[str, str, int, int], Path] = {}
        self._stream_paths: dict[tuple[str, str], Path] = {}
        self._faulted_paths: dict[tuple[str, str], Path] = {}
        self._host_paths: dict[tuple[str, str, bool, int], Path] = {}
        self._files: dict[tuple[str, str], tuple[int, int]] = {}
        self._device_ways: dict[str, tuple[Load, Load]] = {}
        self._rounds: dict[tuple[str, int, tuple[str, ...]], tuple[Round, ...]] = {}
        self._kernels: Mapping[str, Kernel] = {}
        self._kernel_costs: PimCosts | None = None

    def lay_out(self, kernels: Mapping[str, Kernel], costs: PimCosts | None) -> None:
        """Take the costs of these operators from their layout on a PIM memory from here on."""
        self._kernels, self._kernel_costs = kernels, costs

    def map_files(self, tasks: Iterable[Task], homes: Iterable[tuple[str, str]], graph: Graph) -> None:
        """Note what a plan maps from drives into memories, and the room that its homes (tensor, memory) leave there.

        All that is mapped from a drive is one file that every run of the plan scans once.
        """
        mapped = {
            (task.source, task.target, task.tensor)
            for task in tasks
            if isinstance(task, Transfer) and task.mapped
        }
        files: dict[tuple[str, str], tuple[int, int]] = {}
        held: dict[str, int] = {}
        for tensor, memory in homes if mapped else ():
            held[memory] = held.get(memory, 0) + graph.tensors[tensor].size_bytes
        for source, target, tensor in mapped:
            size, _ = files.get((source, target), (0, 0))
            room = self.system.memories[target].usable_bytes - held.get(target, 0)
            files[source, target] = (size + graph.tensors[tensor].size_bytes, max(room, 0))
        if files != self._files:
            self._files, self._host_paths = files, {}

    def operator(self, operator: Operator, device: str, start_s: float = 0.0) -> OperatorCost:
        """Cost of an operator on a node, working in the node's memory.

        Operators on a PIM memory cost what they cost at ``start_s``, for refresh keeps to its own clock.
        """
        if self._kernel_costs is not None:
            kernel = self._kernels.get(operator.name)
            if kernel is not None:
                return self._kernel_costs.cost(operator, device, kernel, start_s)
        key = (id(operator), device)
        known = self._operators.get(key)
        if known is None:
            node = self.system.nodes[device]
            memory = self.system.memories[node.memory or device]
            known = (operator, self.model.cost(operator, node, memory))
            if len(self._operators) > 200_000:
                self._operators.clear()
            self._operators[key] = known
        return known[1]

    def faulted_path(self, source: str, target: str) -> Path:
        """The path of what a GPU's page faults bring."""
        if (source, target) not in self._faulted_paths:
            rate = faulted_bytes_per_s(self.system, source, target)
            found = self._path(source, target)
            self._faulted_paths[source, target] = self._at_most(found, f"{target}:faults", rate)
        return self._faulted_paths[source, target]

    def path_of(self, task: Transfer) -> Path:
        """The path of a transfer, as it says that it moves."""
        if task.faults:
            return self.faulted_path(task.source, task.target)
        if task.mapped or task.pageable:
            key = (task.source, task.target, task.mapped, task.readers)
            if key not in self._host_paths:
                self._host_paths[key] = self._mapped(task) if task.mapped else self._bounced(task)
            return self._host_paths[key]
        return self.path(task.source, task.target, task.chunk_bytes, task.readers)

    def path(self, source: str, target: str, chunk_bytes: int = 0, readers: int = 0) -> Path:
        """The path of a copy from one memory to another; ``InputError`` when no link joins them.

        Bytes that lie in a drive in chunks of ``chunk_bytes`` come no faster than the drive reads such chunks
        from random places, ``readers`` at a time; 0 means that they lie together.
        """
        key = (source, target, chunk_bytes, readers or CHUNK_READERS)
        if key not in self._paths:
            found = self._path(source, target)
            self._paths[key] = self._in_chunks(found, *key) if chunk_bytes else found
        return self._paths[key]

    def stream_path(self, source: str, device: str) -> Path:
        """The path of operands that flow from a memory into a device past the device's own memory."""
        if (source, device) not in self._stream_paths:
            node = self.system.nodes[device]
            found = self._path(source, node.memory or device, enter=False)
            if node.device.kind == "gpu":
                rate = zero_copy_bytes_per_s(self.system, source, device)
                found = self._at_most(found, f"{device}:requests", rate)
            self._stream_paths[source, device] = found
        return self._stream_paths[source, device]

    def traffic(self, device: str, cost: OperatorCost, streamed_bytes: float = 0.0) -> Traffic | None:
        """What a kernel draws on the memory that its device works in; None for one that draws nothing there.

        ``streamed_bytes`` of what it reads come by a path beside that memory.
        """
        read, written = max(cost.read_bytes - streamed_bytes, 0.0), float(cost.write_bytes)
        if read + written <= 0 or cost.seconds <= 0:
            return None
        reading, writing = self._ways(device)
        if reading is writing:
            return Traffic(read + written, reading)
        passed = together([(read, reading), (written, writing)])
        most = max(passed.values())
        return Traffic(most, {resource: size / most for resource, size in passed.items()})

    def _ways(self, device: str) -> tuple[Load, Load]:
        """What a byte crosses that a device's kernels read, and one that they write; one object if alike."""
        if device not in self._device_ways:
            memory = self.system.nodes[device].memory or device
            ports, inside = self._ports[memory], self.system.nodes[memory].device
            if memory == device and isinstance(inside, ComputationalStorage):
                reading = writing = ports.inside()
            else:
                reading = ports.crossed("read", self.capacity)
                writing = ports.crossed("write", self.capacity)
            self._device_ways[device] = (reading, reading if reading == writing else writing)
        return self._device_ways[device]

    def rounds(self, operator: Operator, devices: tuple[str, ...]) -> tuple[Round, ...]:
        """The rounds of a collective operator over the ranks' devices.

        Steps in which the same ranks send the same shares to the same ranks, as those of a ring do, follow
        one another without a gap, so they are one round with all their bytes and one latency per step.
        """
        assert isinstance(operator.work, CollectiveWork | Message)
        key = (operator.kind, operator.work.bytes, devices)
        if key not in self._rounds:
            self._rounds[key] = self._find_rounds(*key)
        return self._rounds[key]

    def library_seconds(self, operator: Operator, devices: tuple[str, ...]) -> float:
        """Least seconds of a collective, whatever its bytes take on the wires; 0 where no library serves the ranks."""
        assert isinstance(operator.work, CollectiveWork | Message)
        time = self._library and self._library.time(operator.kind, operator.work.bytes, devices)
        return time.seconds if time else 0.0

    def collective_seconds(self, operator: Operator, devices: tuple[str, ...]) -> float:
        """Time of a collective that has the wires to itself."""
        assert isinstance(operator.work, CollectiveWork | Message)
        time = self._library and self._library.time(operator.kind, operator.work.bytes, devices)
        alone = self.seconds_alone(self.rounds(operator, devices))
        # Between nodes a library makes a ring over every rail; each has its share of the bytes.
        return max(time.seconds, alone / time.rings) if time else alone

    @cached_property
    def capacity(self) -> dict[str, float]:
        """Bytes per second of every resource; those of ports are found when they are first asked for."""
        later = {name: rate for ports in self._ports.values() for name, rate in ports.rates.items()}
        rates = MeasuredRates(later)
        for wire in self.system.wires.values():
            for forward in (True, False):
                rates[self._wire(wire.name, forward)] = wire.link.bandwidth
        return rates

    @cached_property
    def _ports(self) -> dict[str, MemoryPorts]:
        drives = engine_drives(self.system)
        return {name: self._ports_of(space, drives) for name, space in self.system.memories.items()}

    def _ports_of(
        self, space: MemorySpace, drives: Mapping[str, Flash | ComputationalStorage]
    ) -> MemoryPorts:
        device, found = self.system.nodes[space.name].device, self._measured.get(space.name)
        even = found is None and space.read_bandwidth == space.write_bandwidth
        if space.name in drives:
            reading, writing = drive_ports(drives[space.name], self._drives)
            even = False
        elif found is not None:
            reading, writing = (lambda: found.read_bytes_per_s), (lambda: found.write_bytes_per_s)
        else:
            reading, writing = (lambda: space.read_bandwidth), (lambda: space.write_bandwidth)
        flash = flash_bandwidth(device) if isinstance(device, ComputationalStorage) else None
        return MemoryPorts(space.name, space.ports, even, reading, writing, flash)

    def joules_per_byte(self, memory: str, *, written: bool) -> float:
        """Energy of a byte that a transfer reads from a memory or writes to it."""
        found = self._measured.get(memory)
        if found is not None:
            return found.write_j_per_byte if written else found.read_j_per_byte
        space = self.system.memories[memory]
        return space.energy_per_byte_written_j if written else space.energy_per_byte_read_j

    def _path(self, source: str, target: str, *, enter: bool = True) -> Path:
        route = self.system.route(source, target)
        latency = self.system.memories[source].latency_s
        latency += sum(self.system.wires[wire].link.latency for wire, _ in route)
        load = self._ports[source].crossed("read", self.capacity)
        for name in (self._wire(wire, forward) for wire, forward in route):
            load[name] = load.get(name, 0.0) + 1.0
        if enter:
            for name, weight in reversed(self._ports[target].crossed("write", self.capacity).items()):
                load[name] = load.get(name, 0.0) + weight
        return self._with_narrowest(load, latency)

    def _with_narrowest(self, load: Load, latency_s: float) -> Path:
        narrowest = min(load, key=self.capacity.__getitem__)
        return Path(load, latency_s, narrowest.rstrip("<>"))

    def _in_chunks(self, path: Path, source: str, target: str, chunk_bytes: int, readers: int) -> Path:
        """The path with one more resource: the drive's readers, which all copies of such chunks share."""
        device = self.system.nodes[source].device
        if source == target or not isinstance(device, Flash | ComputationalStorage):
            return path
        rate = drive_rate(device, DrivePattern("read", "random", chunk_bytes, readers))
        name = f"{source}:read {readers} x {chunk_bytes} B"
        self.capacity[name] = rate.bandwidth_bytes_per_s
        return self._with_narrowest({**path.load, name: 1.0}, path.latency_s)

    def _at_most(self, path: Path, name: str, rate: float | None) -> Path:
        """The path with one more resource of so many bytes per second, if any."""
        if rate is None:
            return path
        self.capacity[name] = rate
        return self._with_narrowest({**path.load, name: 1.0}, path.latency_s)

    def _mapped(self, task: Transfer) -> Path:
        """What page faults bring of a mapped file; a file that nobody told of is larger than its cache."""
        device = self.system.nodes[task.source].device
        assert isinstance(device, Flash | ComputationalStorage)
        found = mapped_scan(device, *self._files.get((task.source, task.target), (1, 0)))
        readers = max(task.readers, 1)
        name = f"{task.source}:mapped x {readers}"
        path = self._at_most(self._path(task.source, task.target), name, readers * found.bytes_per_s)
        touches = found.touch_s_per_byte / readers
        return replace(path, share=found.miss_share, software_s_per_byte=touches)

    def _bounced(self, task: Transfer) -> Path:
        """A copy whose host end is not pinned: one core copies it through a buffer in the same memory."""
        path = self._path(task.source, task.target)
        host = bounced_memory(self.system, task)
        if host is None:
            return path
        load = dict(path.load)
        ways: tuple[Literal["read", "write"], ...] = ("read", "write")
        for way in ways:
            for name, weight in self._ports[host].crossed(way, self.capacity).items():
                load[name] = load.get(name, 0.0) + weight
        board = task.target if host == task.source else task.source
        rate = bounce_bytes_per_s(self.system, host)
        return self._at_most(replace(path, load=load), f"{board}:bounce", rate)

    def _find_rounds(self, kind: str, size: int, devices: tuple[str, ...]) -> tuple[Round, ...]:
        algorithms = ALGORITHMS if self.collective in (AUTO, BARE_WIRES) else (self.collective,)
        candidates = [self._rounds_by(algorithm, kind, size, devices) for algorithm in algorithms]
        time = self._library and self._library.time(kind, size, devices)
        if time:
            candidates = [tuple(replace(round_, hops=0) for round_ in rounds) for rounds in candidates]
            if time.multicast:
                candidates = [_through_the_switch(size, devices)]
        return min(candidates, key=self.seconds_alone)

    def seconds_alone(self, rounds: tuple[Round, ...]) -> float:
        """Time of a collective that has the wires to itself: latencies, and the fullest wire of each round."""
        seconds, nodes = 0.0, self.system.nodes
        for round_ in rounds:
            latency, load = 0.0, dict[str, float]()
            for source, target, size in round_.sends:
                path = self.path(nodes[source].memory or source, nodes[target].memory or target)
                latency = max(latency, path.latency_s)
                for resource, weight in path.load.items():
                    load[resource] = load.get(resource, 0.0) + size * weight
            seconds += latency * round_.hops
            seconds += max((total / self.capacity[name] for name, total in load.items()), default=0.0)
        return seconds

    def _rounds_by(self, algorithm: str, kind: str, size: int, devices: tuple[str, ...]) -> tuple[Round, ...]:
        form = schedule(kind, algorithm, len(devices), size)
        rounds: list[tuple[int, dict[tuple[int, int], int]]] = []
        shape: dict[tuple[int, int], int] = {}
        for step in range(form.steps):
            messages = list(form.messages(step))
            before, shape = shape, {(m.source, m.target): len(m.chunks) for m in messages}
            hops, sent = rounds.pop() if rounds and before == shape else (0, {})
            for m in messages:
                sent[m.source, m.target] = sent.get((m.source, m.target), 0) + m.bytes
            rounds.append((hops + 1, sent))
        return tuple(
            Round(hops, tuple((devices[a], devices[b], total) for (a, b), total in sent.items()))
            for hops, sent in rounds
        )

    def _wire(self, name: str, forward: bool) -> str:
        if self.system.wires[name].link.duplex == "half":
            return name
        return name + (">" if forward else "<")


def _through_the_switch(size: int, devices: tuple[str, ...]) -> tuple[Round, ...]:
    """An all-reduce that the switch adds up: each port sends the buffer and a part of the sum, and gets as much.

    Every rank's buffer goes to the switch, which hands each rank the sum of its part; that part goes to the switch
    again, and the whole sum to every rank.
    """
    count = len(devices)
    through = size + -(-size // count)
    following = (*devices[1:], devices[0])
    return (Round(0, tuple((a, b, through) for a, b in zip(devices, following, strict=True))),)
