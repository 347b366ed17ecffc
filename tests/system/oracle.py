"""Plain slow answers that the simulator is held against.

``data_is_right`` plays a plan with symbolic values: an operator's result is the text of what it read. A plan
is right when every operator reads what it would read in program order and everything is home at the end.
``play`` runs a plan in time, event by event, in the most direct way: everything that can start starts, the
clock moves to the next end, flows share wires and ports by raising all rates together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hw_configs.system import System
from simulator.plan import Plan, Task
from simulator.system.costs import CostTable
from workloads.graph import PERSISTENT_ROLES, Graph, Operator

Value = int
Cell = tuple[str, str]


class _Values:
    """Symbolic values as numbers: equal numbers were computed in the same way."""

    def __init__(self) -> None:
        self.known: dict[object, Value] = {}

    def of(self, *how: object) -> Value:
        return self.known.setdefault(how, len(self.known))


def memory_of(system: System, device: str) -> str:
    return system.nodes[device].memory or device


def rank_part(names: Sequence[str], task: Task) -> tuple[str, ...]:
    share = len(names) // len(task.group)
    rank = task.group.index(task.device)
    return tuple(names[rank * share : (rank + 1) * share])


def _reference(graph: Graph, values: _Values) -> tuple[dict[str, tuple[Value, ...]], dict[str, Value]]:
    """What every operator reads in program order, and every tensor's value at the end."""
    now = {name: values.of("given", name) for name in graph.tensors if name not in graph.producer}
    reads: dict[str, tuple[Value, ...]] = {}
    for operator in graph.operators:
        reads[operator.name] = tuple(now[t] for t in (*operator.inputs, *operator.updates))
        for number, tensor in enumerate((*operator.outputs, *operator.updates)):
            now[tensor] = values.of(operator.name, number, reads[operator.name])
    return reads, now


def data_is_right(plan: Plan, graph: Graph, system: System) -> bool:
    """Whether every operator of a plan reads the right values and leaves things where they belong."""
    values = _Values()
    reads, final = _reference(graph, values)
    cells: dict[Cell, Value] = {}
    for tensor, homes in plan.homes.items():
        if tensor in graph.producer:
            return False
        for home in homes:
            cells[tensor, home.memory] = values.of("given", tensor)
    ran: set[str] = set()
    index = 0
    while index < len(plan.tasks):
        task = plan.tasks[index]
        members = [task]
        if task.kind == "transfer":
            if (task.tensor, task.source) not in cells:
                return False
            cells[task.tensor, task.target] = cells[task.tensor, task.source]
        else:
            operator = graph.operator_by_name[task.operator]
            if task.kind == "collective":
                members = list(plan.tasks[index : index + len(task.group)])
                if [(m.operator, m.device) for m in members] != [(task.operator, d) for d in task.group]:
                    return False
            ran.add(operator.name)
            if not _execute(operator, members, cells, reads, values, system):
                return False
        for member in members:
            for tensor, memory in member.frees:
                if cells.pop((tensor, memory), None) is None:
                    return False
        index += len(members)
    homes_right = all(
        cells.get((tensor, home.memory)) == final[tensor]
        for tensor, homes in plan.homes.items()
        if graph.tensors[tensor].role in PERSISTENT_ROLES
        for home in homes
    )
    outputs_right = all(
        any(cells.get((name, memory)) == final[name] for memory in system.memories) for name in graph.outputs
    )
    return ran == set(graph.operator_by_name) and homes_right and outputs_right


def _execute(
    operator: Operator,
    members: Sequence[Task],
    cells: dict[Cell, Value],
    reads: Mapping[str, tuple[Value, ...]],
    values: _Values,
    system: System,
) -> bool:
    collective = members[0].kind == "collective"
    seen: list[Value | None] = []
    for member in members:
        names = rank_part(operator.inputs, member) if collective else operator.inputs
        seen += [cells.get((t, memory_of(system, member.device))) for t in names]
    for member in members[:1]:
        seen += [cells.get((t, memory_of(system, member.device))) for t in operator.updates]
    if tuple(seen) != reads[operator.name]:
        return False
    made = {
        tensor: values.of(operator.name, number, tuple(seen))
        for number, tensor in enumerate((*operator.outputs, *operator.updates))
    }
    for member in members:
        names = rank_part(operator.outputs, member) if collective else operator.outputs
        for tensor in (*names, *operator.updates):
            cells[tensor, memory_of(system, member.device)] = made[tensor]
    return True


@dataclass
class Life:
    """A copy in list order: the tasks that touch it; ``kept`` when none of them drops it."""

    tensor: str
    memory: str
    touched: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    home: bool = False
    kept: bool = False


def lives(plan: Plan, graph: Graph, system: System) -> list[Life]:
    """Every copy that a plan makes or is given, in list order."""
    found: list[Life] = []
    here: dict[Cell, Life] = {}

    def born(tensor: str, memory: str) -> Life:
        life = here.get((tensor, memory))
        if life is None:
            homes = [home.memory for home in plan.homes.get(tensor, ())]
            stays = graph.tensors[tensor].role in PERSISTENT_ROLES and memory in homes
            life = here[tensor, memory] = Life(tensor, memory, kept=stays or tensor in graph.outputs)
            found.append(life)
        return life

    for tensor, homes in plan.homes.items():
        for home in homes:
            born(tensor, home.memory).home = True
    for index, task in enumerate(plan.tasks):
        read, written = touched_cells(task, graph, system)
        for cell in read:
            here[cell].touched.append(index)
        for cell in written:
            life = born(*cell)
            life.touched.append(index)
            life.written.append(index)
        for cell in task.frees:
            life = here.pop(cell)
            life.touched.append(index)
            life.kept = False
    return found


def touched_cells(task: Task, graph: Graph, system: System) -> tuple[list[Cell], list[Cell]]:
    """Copies that a task reads, and copies that it writes."""
    if task.kind == "transfer":
        return [(task.tensor, task.source)], [(task.tensor, task.target)]
    operator = graph.operator_by_name[task.operator]
    memory = memory_of(system, task.device)
    inputs, outputs = operator.inputs, operator.outputs
    if task.kind == "collective":
        inputs, outputs = rank_part(inputs, task), rank_part(outputs, task)
    read = [(t, memory) for t in (*inputs, *operator.updates)]
    return read, [(t, memory) for t in (*operator.updates, *outputs)]


def list_order_peaks(plan: Plan, graph: Graph, system: System) -> dict[str, int]:
    """Most bytes that each memory holds when the tasks run one after another in list order.

    The ranks of a collective run together.
    """
    moment = _moments(plan)
    peaks = dict.fromkeys(system.memories, 0)
    copies = lives(plan, graph, system)
    for now in range(-1, len(plan.tasks) + 1):
        used = dict.fromkeys(system.memories, 0)
        for life in copies:
            begin = -1 if life.home else moment[life.written[0]]
            last = max((moment[i] for i in life.touched), default=len(plan.tasks))
            if begin <= now and (life.kept or now <= last):
                used[life.memory] += graph.tensors[life.tensor].size_bytes
        peaks = {memory: max(peaks[memory], used[memory]) for memory in peaks}
    return peaks


def _moments(plan: Plan) -> list[int]:
    moments: list[int] = []
    while len(moments) < len(plan.tasks):
        task = plan.tasks[len(moments)]
        moments += [len(moments)] * (len(task.group) if task.kind == "collective" else 1)
    return moments


def waits(plan: Plan, graph: Graph, system: System) -> list[set[int]]:
    """For every task the earlier tasks it waits for: named ones, and those it shares a copy with."""
    number = {task.name: index for index, task in enumerate(plan.tasks)}
    result = [{number[name] for name in task.after} for task in plan.tasks]
    for life in lives(plan, graph, system):
        for later in life.touched:
            for earlier in life.touched:
                shares = later in life.written or earlier in life.written
                freed_only = not _uses(plan.tasks[later], life, graph, system)
                used = _uses(plan.tasks[earlier], life, graph, system)
                if earlier < later and shares and used and not freed_only:
                    result[later].add(earlier)
    return result


def _uses(task: Task, life: Life, graph: Graph, system: System) -> bool:
    """Whether a task reads or writes a copy, and not only frees it."""
    read, written = touched_cells(task, graph, system)
    return (life.tensor, life.memory) in (*read, *written)


def max_min(
    flows: Sequence[Mapping[str, float]], capacity: Mapping[str, float], caps: Sequence[float]
) -> list[float]:
    """Max-min fair rates by raising all open rates in equal steps until something is full or a cap is reached."""
    rates = [0.0] * len(flows)
    still_open = {index for index, load in enumerate(flows) if load}
    while still_open:
        growing = {r: sum(flows[i].get(r, 0.0) for i in still_open) for i in still_open for r in flows[i]}
        room = {
            r: (capacity[r] - sum(rates[i] * f.get(r, 0.0) for i, f in enumerate(flows))) / growing[r]
            for r in growing
        }
        step = min([*room.values(), *(caps[i] - rates[i] for i in still_open)])
        for index in still_open:
            rates[index] += step
        full = {r for r in room if room[r] <= step + 1e-12 * capacity[r]}
        at_cap = {i for i in still_open if rates[i] >= caps[i] * (1 - 1e-12)}
        still_open = {i for i in still_open if not full & set(flows[i])} - at_cap
    return rates


@dataclass
class _Bytes:
    """Bytes on their way: what they load, how many are left, and how fast they may go at most."""

    load: Mapping[str, float]
    left: float
    cap: float = float("inf")


@dataclass
class _Job:
    """Something in progress: first a delay, then bytes over resources; then the next round, if any."""

    tasks: list[int]
    delay: float
    flows: list[_Bytes]
    rest: list[tuple[float, list[_Bytes]]]


def _kernel(task: Task, graph: Graph, system: System, costs: CostTable) -> tuple[float, list[_Bytes]]:
    """A kernel as a delay and then bytes that go no faster than they take the kernel's time when alone."""
    cost = costs.operator(graph.operator_by_name[task.operator], task.device)
    read, written = cost.read_bytes, cost.write_bytes
    if read + written == 0:
        return cost.launch_seconds + cost.seconds, []
    memory = system.memories[memory_of(system, task.device)]
    if memory.ports == 2:
        passed = {f"{memory.name}:read": float(read), f"{memory.name}:write": float(written)}
    else:
        seconds = read / memory.read_bandwidth + written / memory.write_bandwidth
        passed = {memory.name: seconds * max(memory.read_bandwidth, memory.write_bandwidth)}
    most = max(passed.values())
    load = {name: size / most for name, size in passed.items() if size}
    return cost.launch_seconds, [_Bytes(load, most, most / cost.seconds)]


def play(plan: Plan, graph: Graph, system: System, costs: CostTable) -> list[tuple[float, float]]:
    """Start and end of every task with memory without bounds and one compute stream per device."""
    needs = waits(plan, graph, system)
    count = len(plan.tasks)
    begins: list[float] = [-1.0] * count
    ends: list[float] = [-1.0] * count
    order: dict[str, list[int]] = {}
    for index, task in enumerate(plan.tasks):
        order.setdefault(task.stream, []).append(index)
    jobs: list[_Job] = []
    now = 0.0
    moments = _moments(plan)

    def ready(index: int) -> bool:
        mine = order[plan.tasks[index].stream]
        before = mine[: mine.index(index)]
        return all(ends[i] >= 0 for i in (*before, *needs[index]))

    def start(index: int) -> None:
        task = plan.tasks[index]
        members = [i for i in range(count) if moments[i] == moments[index]]
        if begins[index] >= 0 or not all(ready(i) for i in members):
            return
        for member in members:
            begins[member] = now
        if task.kind == "compute":
            delay, flows = _kernel(task, graph, system, costs)
            jobs.append(_Job(members, delay, flows, []))
        elif task.kind == "transfer":
            path = costs.path(task.source, task.target)
            size = graph.tensors[task.tensor].size_bytes
            jobs.append(_Job(members, path.latency_s, [_Bytes(path.load, float(size))], []))
        else:
            rounds = []
            for round_ in costs.rounds(graph.operator_by_name[task.operator], task.group):
                flows, latency = [], 0.0
                for source, target, size in round_.sends:
                    path = costs.path(memory_of(system, source), memory_of(system, target))
                    flows.append(_Bytes(path.load, float(size)))
                    latency = max(latency, path.latency_s)
                rounds.append((latency * round_.hops, flows))
            jobs.append(_Job(members, 0.0, [], rounds))

    while True:
        while True:  # finish and start everything that takes no time
            moved = False
            for job in [j for j in jobs if j.delay <= 1e-12 and not j.flows]:
                moved = True
                if job.rest:
                    job.delay, job.flows = job.rest.pop(0)
                    continue
                jobs.remove(job)
                for member in job.tasks:
                    ends[member] = now
            started = sum(b >= 0 for b in begins)
            for index in range(count):
                start(index)
            if not moved and started == sum(b >= 0 for b in begins):
                break
        if not jobs:
            return list(zip(begins, ends, strict=True))
        moving = [flow for job in jobs if job.delay <= 1e-12 for flow in job.flows]
        rates = max_min([flow.load for flow in moving], costs.capacity, [flow.cap for flow in moving])
        steps = [job.delay for job in jobs if job.delay > 1e-12]
        steps += [flow.left / rate for flow, rate in zip(moving, rates, strict=True)]
        step = min(steps)
        now += step
        for flow, rate in zip(moving, rates, strict=True):
            flow.left -= step * rate
        for job in jobs:
            if job.delay > 1e-12:
                job.delay = job.delay - step if job.delay - step > 1e-12 else 0.0
            job.flows = [flow for flow in job.flows if flow.left > 1e-6]
