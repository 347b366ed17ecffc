"""Where a KV cache lives and who attends over it: GPU, host or drives; GPU, host processor or the drives themselves.

Every pairing that a system offers is estimated for one decode step: the time of all attention at the cache's
size, with the cache brought to where attention runs. The fastest that fits is taken. Drives of one kind share
the cache evenly, by sequences or, with fewer sequences than drives, by heads. Attention inside a drive needs a
drive with an engine (InstInfer, arXiv:2409.04992); attention on the host processor over a cache in host
memory is FlexGen's (arXiv:2303.06865).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from hw_configs.device import ComputationalStorage
from hw_configs.problems import InfeasibleError, InputError, bad_input
from hw_configs.system import Node, System
from hw_configs.units import format_quantity
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from simulator.csd.model import context_of
from simulator.link.flows import fair_rates
from simulator.plan import Sparsity
from simulator.rewrite.divide import sparse_operator
from simulator.system.costs import CostTable
from workloads.graph import Graph, Operator
from workloads.operators import Attention

__all__ = [
    "ATTENDERS",
    "STORES",
    "KvPlacement",
    "KvRequest",
    "attention_of",
    "choose_placement",
    "placements",
]

Store = Literal["gpu", "host", "ssd", "csd"]
Attender = Literal["gpu", "cpu", "drive"]
STORES: Final = ("gpu", "host", "ssd", "csd")
ATTENDERS: Final = ("gpu", "cpu", "drive")


@dataclass(frozen=True, slots=True)
class KvRequest:
    """What is asked: the store and the attender, or None for the best; tokens to leave room for; sparsity.

    ``chunk_bytes`` is the size of the host's reads from drives, 0 for whole tensors; ``readers`` how many are
    in flight, 0 for the simulator's default.
    """

    store: Store | None = None
    attend: Attender | None = None
    room_tokens: int = 0
    sparsity: Sparsity | None = None
    chunk_bytes: int = 0
    readers: int = 0


@dataclass(frozen=True, slots=True)
class KvPlacement:
    """One pairing: memories that share the cache, devices that attend, and the estimate for a decode step."""

    store: Store
    attend: Attender
    memories: tuple[str, ...]
    devices: tuple[str, ...]
    seconds: float
    obstacle: str = ""
    """Why it cannot be; empty when it can."""


def choose_placement(
    graph: Graph, system: System, gpu: Node, gpu_free_bytes: float, request: KvRequest
) -> tuple[KvPlacement, list[KvPlacement]]:
    """The fastest placement that fits, and all that were looked at.

    ``gpu_free_bytes`` is what weights and activations leave free. Raises ``InfeasibleError`` with every
    obstacle when nothing fits, ``InputError`` when the system lacks what is asked for.
    """
    found = placements(graph, system, gpu, gpu_free_bytes, request)
    asked = [p for p in found if request.store in (None, p.store) and request.attend in (None, p.attend)]
    if not asked:
        offered = ", ".join(f"{p.store}/{p.attend}" for p in found)
        raise bad_input(
            f"{system.name!r} has no placement {request.store or 'any'}/{request.attend or 'any'}; it has {offered}",
            path="--set kv",
        )
    possible = [p for p in asked if not p.obstacle]
    if not possible:
        raise InfeasibleError(
            f"no place for the KV cache of {graph.name}: "
            + "; ".join(f"{p.store}/{p.attend}: {p.obstacle}" for p in asked)
        )
    return min(possible, key=lambda p: p.seconds), found


def placements(
    graph: Graph, system: System, gpu: Node, gpu_free_bytes: float, request: KvRequest
) -> list[KvPlacement]:
    """Every pairing of store and attender that the system's devices and links offer, with its estimate."""
    attends = [op for op in graph.operators if isinstance(op.work, Attention) and op.updates]
    if not attends:
        raise bad_input(f"{graph.name} has no attention with a KV cache")
    estimate = _Estimate(graph, system, gpu, attends, request)
    found = [estimate.on_gpu(gpu_free_bytes)]
    for cpu in system.of_kind("cpu"):
        if cpu.memory is not None and estimate.joined(cpu.memory):
            found += [
                estimate.away("host", "gpu", [cpu.memory]),
                estimate.away("host", "cpu", [cpu.memory], cpu),
            ]
            break
    host = next((cpu for cpu in system.of_kind("cpu") if cpu.memory is not None), None)
    for store, kind in (("ssd", "flash"), ("csd", "csd")):
        drives = [node.name for node in system.of_kind(kind) if estimate.joined(node.name)]
        if not drives:
            continue
        found.append(estimate.away(store, "gpu", drives))  # type: ignore[arg-type]
        if host is not None:
            found.append(estimate.away(store, "cpu", drives, host))  # type: ignore[arg-type]
        if kind == "csd":
            found += estimate.inside(drives)
    return found


class _Estimate:
    """Estimates for one graph on one system; see :func:`placements`."""

    def __init__(
        self, graph: Graph, system: System, gpu: Node, attends: list[Operator], request: KvRequest
    ) -> None:
        self.graph, self.system, self.gpu, self.request = graph, system, gpu, request
        self.gpu_memory = gpu.memory or gpu.name
        self.costs = CostTable(system, COST_MODELS.get(DEFAULT_COST_MODEL))
        self.layers = len(attends)
        # Layers of one kind and window are alike: one stands for all of them.
        alike: dict[tuple[object, ...], list[Operator]] = {}
        for op in attends:
            alike.setdefault((context_of(op), attention_of(op).heads), []).append(op)
        self.steps = [(_as_decode_step(graph, ops[0], request), len(ops)) for ops in alike.values()]
        self.step = self.steps[0][0]
        self.bytes = self.moved = 0.0
        for op in attends:
            after, before = context_of(_as_decode_step(graph, op, request)), max(context_of(op), 1)
            held = live = 0.0
            for name in op.updates:
                tensor = graph.tensors[name]
                # A generation's caches are as large as they will become.
                room = max(tensor.shape[-2] if len(tensor.shape) > 1 else before, 1)
                held += tensor.size_bytes
                live += tensor.size_bytes * min(before, room) / room
            self.bytes += max(held, live * after / before)
            self.moved += live * after / before

    def joined(self, memory: str) -> bool:
        """Whether links lead from a memory to the GPU's."""
        try:
            self.system.route(memory, self.gpu_memory)
        except InputError:
            return False
        return True

    def on_gpu(self, free_bytes: float) -> KvPlacement:
        seconds = self._attention(self.gpu.name)
        return KvPlacement(
            "gpu", "gpu", (self.gpu_memory,), (self.gpu.name,), seconds, self._short(free_bytes, "the GPU")
        )

    def away(
        self, store: Store, attend: Attender, memories: list[str], cpu: Node | None = None
    ) -> KvPlacement:
        """The cache is brought from its memories to where attention runs, unless it lies there."""
        device = cpu if attend == "cpu" and cpu is not None else self.gpu
        target = device.memory or device.name
        seconds = self._attention(device.name)
        if memories != [target]:
            seconds = max(seconds, self.moved / self._rate(memories, target))
        if attend == "cpu":
            seconds += self._vectors(target)
        return KvPlacement(store, attend, tuple(memories), (device.name,), seconds, self._room(memories))

    def inside(self, drives: list[str]) -> list[KvPlacement]:
        """Attention in the drives, when they have engines."""
        able = [d for d in drives if getattr(self.system.nodes[d].device, "engine", None) is not None]
        if len(able) < len(drives):
            return []
        whole = self._attention(drives[0])
        seconds = whole / len(drives) + self._vectors(drives[0])
        return [KvPlacement("csd", "drive", tuple(drives), tuple(drives), seconds, self._room(drives))]

    def _attention(self, device: str) -> float:
        """Seconds of attention in all layers on one device."""
        costs = [(self.costs.operator(step, device), count) for step, count in self.steps]
        return sum((cost.seconds + cost.launch_seconds) * count for cost, count in costs)

    def _rate(self, memories: list[str], target: str) -> float:
        paths = [
            self.costs.path(m, target, self.request.chunk_bytes, self.request.readers).load for m in memories
        ]
        return sum(fair_rates(paths, self.costs.capacity))

    def _vectors(self, memory: str) -> float:
        """Seconds that q, k, v and the result take between the GPU and where attention runs."""
        work = attention_of(self.step)
        width = (work.heads * 2 + 2 * work.kv_heads) * work.head_dim * work.batch
        there, back = self.costs.path(self.gpu_memory, memory), self.costs.path(memory, self.gpu_memory)
        rate = min(self.costs.capacity[r] for r in (*there.resources, *back.resources))
        return self.layers * (2.0 * width / rate + there.latency_s + back.latency_s)

    def _room(self, memories: list[str]) -> str:
        free = min(self.system.memories[m].usable_bytes for m in memories) * float(len(memories))
        copies = 1.0
        if self.request.sparsity is not None and all(
            isinstance(self.system.nodes[m].device, ComputationalStorage) for m in memories
        ):
            copies = 1.5
        return self._short(free / copies, " + ".join(memories))

    def _short(self, free: float, where: str) -> str:
        if self.bytes <= free:
            return ""
        need, has = (format_quantity(x, "size") for x in (self.bytes, max(free, 0.0)))
        return f"needs {need}, {where} has {has} free"


def attention_of(operator: Operator) -> Attention:
    """The work of an operator that is known to attend."""
    assert isinstance(operator.work, Attention)
    return operator.work


def _as_decode_step(graph: Graph, operator: Operator, request: KvRequest) -> Operator:
    """An attention operator as one new token per sequence would run it, at the context with room."""
    old = attention_of(operator)
    work = replace(old, q_len=1, kv_len=old.kv_len + request.room_tokens)
    step = replace(operator, work=work)
    before, after = max(context_of(operator), 1), context_of(step)
    caches = {name: graph.tensors[name].size_bytes * after // before for name in operator.updates}
    queries = work.batch * work.heads
    inputs = (*(name for name in operator.inputs if name not in caches), *caches)
    step = replace(
        step,
        inputs=inputs,
        reads=(*(caches.get(name, 0) for name in inputs), *(0 for _ in operator.updates)),
        writes=(*(0 for _ in operator.outputs), *(size // max(after, 1) for size in caches.values())),
        beside_read=2 * queries * work.head_dim,
        beside_written=2 * queries * work.value_dim,
    )
    return sparse_operator(step, request.sparsity, graph.tensors)
