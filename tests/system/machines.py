"""Small machines and graphs built in Python, whose times can be worked out by hand.

Bandwidths of a few bytes per second keep the arithmetic readable. No such machine exists, so the devices are
constructed without the schema's checks of what is possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hw_configs.device import Cache, Compute, Cpu, Flash, FlashStore, Gpu, Memory, Switch
from hw_configs.gpu_architecture import architecture_document, parse_architecture
from hw_configs.link import OnChip
from hw_configs.system import AnyDevice, MemorySpace, Node, System, Wire
from simulator.cost.model import OperatorCost
from simulator.plan import Compute as ComputeTask
from simulator.plan import Home, Plan, Task, Transfer
from simulator.system.analytic import run_analytic
from simulator.system.bound_plan import bind
from simulator.system.costs import CostTable
from simulator.system.engine import PhaseRun, run_events
from workloads.graph import KINDS, Graph, Operator, Role, Tensor
from workloads.operators import FieldValue

PLAIN = parse_architecture(architecture_document("apple-g13", None))
"""No matrix units, no parts of the L2, nothing measured."""
COMPUTE = Compute(matrix={"fp16": 1e12}, vector={"fp32": 1e11})


class GivenSeconds:
    """A cost model that takes an operator's time from ``measured_s``, and its launch from ``source`` (seconds).

    No kernel is faster than its bytes.
    """

    name = "given"

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        traffic = memory.traffic_seconds(operator.read_bytes, operator.write_bytes)
        seconds = max(operator.measured_s or 0.0, traffic)
        launch = float(operator.source or 0.0)
        return OperatorCost(seconds, launch, "compute", operator.read_bytes, operator.write_bytes, 0.0, 0.0)


def ram(capacity: int, bandwidth: float, latency: float = 0.0, ports: int = 1) -> Memory:
    return Memory.model_construct(
        ports=ports, technology="RAM", capacity=float(capacity), reserved=0.0, bandwidth=bandwidth, latency=latency,
        energy_per_byte=0.0,
    )  # fmt: skip


def gpu(name: str, memory: Memory | None) -> Gpu:
    return Gpu.model_construct(
        kind="gpu",
        name=name,
        architecture=PLAIN,
        multiprocessors=4,
        clock=1e9,
        compute=COMPUTE,
        l2=Cache.model_construct(size=1.0, bandwidth=None),
        l1_per_multiprocessor=Cache.model_construct(size=1.0, bandwidth=None),
        memory=memory,
        power=None,
    )


def cpu(name: str, memory: Memory | None) -> Cpu:
    return Cpu.model_construct(kind="cpu", name=name, compute=COMPUTE, memory=memory, power=None)


def drive(name: str, capacity: int, read: float, write: float, latency: float = 0.0, ports: int = 2) -> Flash:
    store = FlashStore.model_construct(
        ports=ports,
        capacity=float(capacity), read_bandwidth=read, write_bandwidth=write, read_latency=latency,
        write_latency=latency, energy_per_byte_read=0.0, energy_per_byte_written=0.0,
    )  # fmt: skip
    return Flash.model_construct(kind="flash", name=name, interface="NVMe", store=store, power=None)


def crossing(name: str) -> Switch:
    return Switch.model_construct(kind="switch", name=name, power=None)


def wire(
    name: str, ends: Sequence[tuple[str, str]], bandwidth: float, latency: float = 0.0, duplex: str = "full"
) -> Wire:
    link = OnChip.model_construct(
        kind="onchip", name=name, bandwidth=bandwidth, latency=latency, duplex=duplex, energy_per_byte=0.0
    )
    return Wire(name, link, tuple(ends))


def system(
    devices: Mapping[str, AnyDevice], wires: Sequence[Wire] = (), works_in: Mapping[str, str] | None = None
) -> System:
    """A system; ``works_in`` names the memory of devices that have none of their own."""
    shared = works_in or {}
    nodes = {
        name: Node(
            name,
            name.rstrip("0123456789"),
            device,
            shared.get(name, None if device.kind == "switch" else name),
        )
        for name, device in devices.items()
    }
    return System("test", nodes, {w.name: w for w in wires})


def two_gpus(
    capacity: int = 1 << 20,
    bandwidth: float = 1000.0,
    latency: float = 0.0,
    duplex: str = "full",
    memory_bandwidth: float = 1e6,
) -> System:
    """Two GPUs and a host; each GPU has its own wire to the host, the wires run at ``bandwidth``."""
    return system(
        {
            "gpu0": gpu("gpu0", ram(capacity, memory_bandwidth)),
            "gpu1": gpu("gpu1", ram(capacity, memory_bandwidth)),
            "host": cpu("host", ram(1 << 30, memory_bandwidth)),
        },
        [
            wire("up0", [("gpu0", "host")], bandwidth, latency, duplex),
            wire("up1", [("gpu1", "host")], bandwidth, latency, duplex),
        ],
    )


def tensors(sizes: Mapping[str, int], roles: Mapping[str, Role] | None = None) -> dict[str, Tensor]:
    """Tensors of so many bytes; activations unless a role is given."""
    given = roles or {}
    return {
        name: Tensor(name, (size,), "int8", given.get(name, Role.ACTIVATION)) for name, size in sizes.items()
    }


def op(
    name: str,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    seconds: float = 1.0,
    updates: Sequence[str] = (),
    kind: str = "elementwise",
    launch: float = 0.0,
    moves: tuple[int, int] = (0, 0),
    **fields: FieldValue,
) -> Operator:
    """An operator that takes ``seconds`` under :class:`GivenSeconds` and reads and writes so many bytes."""
    return Operator(
        name,
        KINDS[kind](**fields),
        tuple(inputs),
        tuple(outputs),
        tuple(updates),
        measured_s=seconds,
        beside_read=moves[0],
        beside_written=moves[1],
        source=str(launch) if launch else "",
    )


def run_task(operator: str, device: str, stream: str = "", **more: object) -> Task:
    """A compute task named after its operator."""
    return ComputeTask(operator, stream or f"{device}.compute", operator, device, **more)  # type: ignore[arg-type]


def move(tensor: str, source: str, target: str, stream: str = "", name: str = "", **more: object) -> Task:
    """A transfer, by default on a copy engine per pair of memories."""
    return Transfer(
        name or f"move {tensor} to {target}",
        stream or f"{source}->{target}",
        tensor=tensor,
        source=source,
        target=target,
        **more,  # type: ignore[arg-type]
    )


def plan(graph: Graph, machine: System, tasks: Sequence[Task], homes: Mapping[str, str]) -> Plan:
    """A plan with one home per tensor."""
    places = {tensor: (Home(memory),) for tensor, memory in homes.items()}
    return Plan(graph.name, machine.name, "hand", tuple(tasks), places)


def event_run(plan: Plan, graph: Graph, machine: System, collective: str = "auto") -> PhaseRun:
    """The plan at event fidelity under :class:`GivenSeconds`."""
    costs = CostTable(machine, GivenSeconds(), collective)
    return run_events(graph, bind(plan, graph, machine), machine, costs)


def analytic_run(plan: Plan, graph: Graph, machine: System, collective: str = "auto") -> PhaseRun:
    """The plan at analytic fidelity under :class:`GivenSeconds`."""
    costs = CostTable(machine, GivenSeconds(), collective)
    return run_analytic(graph, bind(plan, graph, machine), machine, costs)


def spans(run: PhaseRun) -> dict[str, tuple[float, float]]:
    """Start and end of every task by name."""
    return {record.task.name: (record.start, record.end) for record in run.records}


def with_capacity(machine: System, capacity: Mapping[str, int]) -> System:
    """The machine with other sizes of some memories."""
    nodes = dict(machine.nodes)
    for name, size in capacity.items():
        device = nodes[name].device
        own = "store" if device.kind == "flash" else "memory"
        memory = getattr(device, own).model_copy(update={"capacity": float(size)})
        nodes[name] = replace(nodes[name], device=device.model_copy(update={own: memory}))
    return replace(machine, nodes=nodes)
