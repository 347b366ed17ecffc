"""The KV cache outside the GPU: in host memory, on drives, or in drives that attend over it themselves.

Where it lives and who attends is :mod:`mapping.placement.kv_store`'s choice. This mapper writes the plan:
a cache that the GPU (or the host processor) attends over comes in layer by layer, some pieces ahead of the
computation, and only the new tokens go back; attention inside a drive gets q, k and v and returns its result.
In prefill the GPU attends and the cache leaves for its home while the next layers compute. Weights that the
GPU cannot hold beside all this are streamed from host memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.settings import Settings, count, name_of, share, size, word
from hw_configs.system import Node, System
from mapping.liveness import footprint
from mapping.mapper import MapperOptions
from mapping.offload.mapper_policy import answer_by_plan
from mapping.offload.policy import OffloadAnswer, OffloadRequest
from mapping.offload.stream_weights import choose_streamed
from mapping.offload.touched_weights import brought_bytes, chosen_by, touched_bytes
from mapping.placement.kv_store import (
    ATTENDERS,
    STORES,
    KvPlacement,
    KvRequest,
    attention_of,
    choose_placement,
)
from mapping.placement.single_device import candidates, refuse_communication, too_large
from simulator.csd.endurance import tokens_until_wear_out
from simulator.plan import Compute, Division, Home, Pieces, Plan, PlanNotes, Sparsity, Task, Transfer
from simulator.rewrite.divide import append_name, part_name
from workloads.graph import Graph, Operator
from workloads.operators import Attention

__all__ = ["MAPPER", "OffloadKv"]

_MAX_PIECES: Final = 256
_BUFFER_SHARE: Final = 0.5
"""Share of the GPU's free bytes that pieces of the cache on their way may fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadKvSettings(Settings):
    """Settings of ``offload-kv``."""

    kv: str = word("auto", "where the cache lives; auto: the least estimate that fits", (*STORES, "auto"))
    attend: str = word("auto", "who attends in decode", (*ATTENDERS, "auto"))
    room: int = count(0, "tokens to leave room for beyond the context", most=1 << 24, unit="tokens")
    kept: float = share(1.0, "channels and tokens that sparse attention keeps; 1 is dense")
    groups: float | None = share(
        None, "token groups with a kept token, a property of the workload", absent="tokens independent"
    )
    chunk: int = size(0, "what a host reads from a drive at a time; 0: whole tensors")
    readers: int = count(0, "reads of a chunk in flight; 0: the simulator's 32", most=4096, unit="reads")
    ahead: int = count(
        2, "pieces of the cache per memory in flight or waiting", least=1, most=64, unit="pieces"
    )
    device: str | None = name_of("the GPU to use", absent="the first")

    def request(self) -> KvRequest:
        """What is asked of the placement."""
        if self.groups is not None and not self.kept <= self.groups:
            raise bad_input(
                f"found {self.groups:g}; groups with a kept token cannot be fewer than kept tokens ({self.kept:g})",
                path="--set groups",
            )
        return KvRequest(
            None if self.kv == "auto" else self.kv,  # type: ignore[arg-type]
            None if self.attend == "auto" else self.attend,  # type: ignore[arg-type]
            self.room,
            Sparsity(self.kept, self.groups) if self.kept < 1 else None,
            self.chunk,
            self.readers,
        )


@dataclass(frozen=True, slots=True)
class ConsideredPlacement:
    """A placement of the cache, its estimate, and why it cannot be; an empty obstacle when it can."""

    kv: str
    attend: str
    estimated_attention_s: float
    obstacle: str


@dataclass(frozen=True)
class OffloadKvNotes(PlanNotes):
    """The placement chosen and those considered; ``estimated_attention_s`` is of all attention of a decode step."""

    kv: str
    attend: str
    memories: tuple[str, ...]
    estimated_attention_s: float
    pieces: int
    considered: tuple[ConsideredPlacement, ...]
    tokens_until_worn_out: float | None = None
    """Where the cache lives on drives that state the erases they are rated for."""
    written_bytes_per_token: float | None = None
    streamed_weight_bytes: int | None = None


class OffloadKv:
    """The mapper ``offload-kv``; see the module's first lines."""

    DESCRIPTION = "KV cache on host, drives or computational storage, attention where it is fastest"
    SETTINGS = OffloadKvSettings
    PHASES: tuple[str, ...] = ("decode", "prefill")

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan of the fastest placement; ``InfeasibleError`` when no memory holds the cache."""
        refuse_communication(graph)
        chosen = options.of(OffloadKvSettings)
        gpu = candidates(system)[0] if chosen.device is None else system.node(chosen.device)
        request, ahead = chosen.request(), chosen.ahead
        memory = system.memories[gpu.memory or gpu.name]
        caches = {name for op in graph.operators if op.kind == "attention" for name in op.updates}
        cache_bytes = sum(graph.tensors[name].size_bytes for name in caches)
        need = footprint(graph).bytes - cache_bytes
        free = memory.usable_bytes - need
        placement, looked_at = choose_placement(graph, system, gpu, free, request)
        layout = _Layout.of(graph, placement, free if free > 0 else memory.usable_bytes / 4, ahead)
        streamed: dict[str, tuple[str, ...]] = {}
        if placement.store != "gpu" and need + layout.buffer_bytes > memory.usable_bytes:
            room = int(memory.usable_bytes - layout.buffer_bytes) + cache_bytes
            found = choose_streamed(graph, room, 2)
            if found is None:
                raise too_large(graph, system, [gpu], footprint(graph))
            streamed = found
        worn, written = _wear(graph, system, placement, request)
        notes = OffloadKvNotes(
            placement.store, placement.attend, tuple(placement.memories), placement.seconds, layout.pieces,
            tuple(ConsideredPlacement(p.store, p.attend, p.seconds, p.obstacle) for p in looked_at), worn, written,
        )  # fmt: skip
        return _Writer(graph, system, gpu, placement, layout, request, streamed, ahead).plan(notes)

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The plan of one step, with every placement that was considered."""
        why = "the cache lives on {kv} and {attend} attends: the least estimate that fits"
        return answer_by_plan("offload-kv", self, request, why)


MAPPER: Final = OffloadKv()


def _wear(
    graph: Graph, system: System, placement: KvPlacement, request: KvRequest
) -> tuple[float | None, float | None]:
    """Tokens until the drives' rated erases are used up, and the bytes that each writes.

    None where the cache does not live on drives that state them.
    """
    drives = [system.nodes[name].device for name in placement.memories]
    rated = [
        d for d in drives if isinstance(d, Flash | ComputationalStorage) and d.store.rated_cycles is not None
    ]
    if not rated or len(rated) < len(drives):
        return None, None
    per_token = 0.0
    for op in graph.operators:
        if not isinstance(op.work, Attention):
            continue
        for name in op.updates:
            tensor = graph.tensors[name]
            tokens = op.work.batch * (tensor.shape[-2] if len(tensor.shape) > 1 else 1)
            # Inside a drive sparse attention keeps K twice.
            twice = request.sparsity is not None and placement.attend == "drive" and name.endswith("k_cache")
            per_token += tensor.size_bytes / max(tokens, 1) * (2 if twice else 1)
    return tokens_until_wear_out(rated, per_token), per_token


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one layer's cache is cut: along sequences or heads, into how many pieces, with what buffer."""

    axis: int
    counts: tuple[int, ...]
    buffer_bytes: float

    @property
    def pieces(self) -> int:
        return len(self.counts)

    @staticmethod
    def of(graph: Graph, placement: KvPlacement, free_bytes: float, ahead: int) -> _Layout:
        """As many pieces as memories, or a multiple, so that the pieces in flight fit beside the weights."""
        first = next(op for op in graph.operators if op.kind == "attention" and op.updates)
        batch, heads = attention_of(first).batch, attention_of(first).kv_heads
        stores = len(placement.memories)
        per_layer = sum(graph.tensors[name].size_bytes for name in first.updates)
        axis, length = (0, batch) if batch >= stores else (1, heads)
        if length < stores:
            raise InfeasibleError(
                f"{stores} memories cannot share {batch} sequences of {heads} KV heads; use fewer drives"
            )
        moved = placement.attend != "drive" and placement.store != "gpu"
        pieces = stores
        while moved and pieces * 2 <= min(length, _MAX_PIECES):
            if ahead * stores * per_layer / pieces <= free_bytes * _BUFFER_SHARE:
                break
            pieces *= 2
        counts = tuple(length // pieces + (i < length % pieces) for i in range(pieces))
        buffer = (
            ahead * stores * per_layer * max(counts) / length if moved and placement.attend == "gpu" else 0.0
        )
        return _Layout(axis, counts, buffer)


@dataclass
class _Writer:
    graph: Graph
    system: System
    gpu: Node
    placement: KvPlacement
    layout: _Layout
    request: KvRequest
    streamed: Mapping[str, tuple[str, ...]]
    ahead: int
    tasks: list[Task] = field(default_factory=list)
    homes: dict[str, tuple[Home, ...]] = field(default_factory=dict)
    divisions: dict[str, Division] = field(default_factory=dict)
    pieces: dict[str, Pieces] = field(default_factory=dict)
    appends: list[str] = field(default_factory=list)
    sparsity: dict[str, Sparsity] = field(default_factory=dict)
    attended: list[str] = field(default_factory=list)
    """Tasks of attention pieces so far, whose buffers later pieces take over."""
    streamers: list[str] = field(default_factory=list)

    def plan(self, notes: OffloadKvNotes) -> Plan:
        """The whole plan, operator by operator in program order."""
        memory = self.gpu.memory or self.gpu.name
        attends = [op for op in self.graph.operators if op.kind == "attention" and op.updates]
        caches = {name for op in attends for name in op.updates}
        outside = {weight for weights in self.streamed.values() for weight in weights}
        for name in self.graph.tensors:
            if name in self.graph.producer or name in caches:
                continue
            self.homes[name] = (Home(self._weight_store() if name in outside else memory),)
        self._weights_of_attention(attends, memory)
        names = {op.name for op in attends}
        for op in self.graph.operators:
            self._stream(op, memory)
            if op.name not in names:
                self._compute(op.name, self.gpu)
            elif self.placement.store == "gpu":
                self._stay(op, memory)
            elif attention_of(op).q_len != 1:
                self._prefill(op, memory)
            elif self._lies_there():
                self._attend_at_home(op, memory)
            else:
                self._attend_away(op, memory)
        if outside:
            notes = replace(
                notes,
                streamed_weight_bytes=sum(
                    brought_bytes(self.graph, self.graph.operator_by_name[name], weight)
                    for name, weights in self.streamed.items()
                    for weight in weights
                ),
            )
        return Plan(
            self.graph.name, self.system.name, "offload-kv", tuple(self.tasks), self.homes, notes=notes,
            divisions=self.divisions, pieces=self.pieces, appends=tuple(self.appends), sparsity=self.sparsity,
        )  # fmt: skip

    def _weights_of_attention(self, attends: list[Operator], memory: str) -> None:
        """Weights that attention itself reads (sinks) live wherever it runs, and on the GPU for prefill."""
        where = [memory]
        for device in self.placement.devices:
            at = self.system.nodes[device].memory or device
            if at not in where:
                where.append(at)
        for op in attends:
            for name in op.inputs:
                if name not in op.updates and name not in self.graph.producer:
                    self.homes[name] = tuple(Home(at) for at in where)

    def _weight_store(self) -> str:
        """Host memory of the first processor that has one; else the first memory of the cache."""
        hosts = [node.memory for node in self.system.of_kind("cpu") if node.memory is not None]
        return hosts[0] if hosts else self.placement.memories[0]

    def _lies_there(self) -> bool:
        """Whether attention runs in the memory that holds the cache."""
        homes = {self.system.nodes[d].memory or d for d in self.placement.devices}
        return set(self.placement.memories) <= homes

    def _stream(self, op: Operator, memory: str) -> None:
        for weight in self.streamed.get(op.name, ()):
            touched = touched_bytes(self.graph, op, weight)
            after = dict.fromkeys(self.streamers[-2:-1] if len(self.streamers) >= 2 else ())
            after |= dict.fromkeys(chosen_by(self.graph, op) if touched else ())
            self._move(f"stream {weight}", weight, self._weight_store(), memory, after, touched=touched)
        if op.name in self.streamed:
            self.streamers.append(op.name)

    def _compute(self, operator: str, node: Node) -> None:
        self.tasks.append(Compute(operator, f"{node.name}.compute", operator=operator, device=node.name))

    def _move(
        self,
        name: str,
        tensor: str,
        source: str,
        target: str,
        after: Iterable[str] = (),
        chunk: int = 0,
        touched: int = 0,
    ) -> None:
        stream = f"{source}->{target}"
        self.tasks.append(
            Transfer(
                name,
                stream,
                tensor=tensor,
                source=source,
                target=target,
                after=tuple(after),
                chunk_bytes=chunk,
                readers=self.request.readers if chunk else 0,
                touched_bytes=touched,
            )
        )

    def _stay(self, op: Operator, memory: str) -> None:
        self._sparse(op)
        for cache in op.updates:
            self.homes[cache] = (Home(memory),)
        self._compute(op.name, self.gpu)

    def _sparse(self, op: Operator) -> None:
        if self.request.sparsity is not None and attention_of(op).q_len == 1:
            self.sparsity[op.name] = self.request.sparsity

    def _cut(self, op: Operator, tensors: Iterable[str]) -> list[tuple[str, str]]:
        """Cut an operator and tensors as laid out; returns (piece, memory), the pieces dealt out in turn."""
        layout, memories = self.layout, self.placement.memories
        if layout.pieces == 1:
            return [("", memories[0])]
        read = (True,) * layout.pieces
        for tensor in dict.fromkeys(tensors):
            self.divisions[tensor] = Division(layout.axis, layout.counts, read)
        self.pieces[op.name] = Pieces("batch" if layout.axis == 0 else "head", layout.counts)
        return [(str(i), memories[i % len(memories)]) for i in range(layout.pieces)]

    @staticmethod
    def _named(name: str, piece: str) -> str:
        return part_name(name, int(piece)) if piece else name

    def _prefill(self, op: Operator, memory: str) -> None:
        """The GPU attends over what it just made; the cache leaves for its home beside the next layers."""
        self.appends.append(op.name)
        for piece, home in self._cut(op, (*op.updates, *op.outputs)):
            self._compute(self._named(op.name, piece), self.gpu)
            for cache in op.updates:
                part = self._named(cache, piece)
                self.homes[part] = (Home(home),)
                new = append_name(part)
                self._move(f"store {new}", new, memory, home)

    def _attend_at_home(self, op: Operator, memory: str) -> None:
        """Inputs go to where the cache lies, the result comes back; the cache grows in place."""
        self._sparse(op)
        made = [name for name in op.inputs if name not in op.updates and name in self.graph.producer]
        pieces = self._cut(op, (*op.updates, *made, *op.outputs))
        for piece, home in pieces:
            for cache in op.updates:
                self.homes[self._named(cache, piece)] = (Home(home),)
            for tensor in made:
                part = self._named(tensor, piece)
                self._move(f"send {part} to {home}", part, memory, home)
        devices = {self.system.nodes[d].memory or d: self.system.nodes[d] for d in self.placement.devices}
        for piece, home in pieces:
            self._compute(self._named(op.name, piece), devices[home])
        for piece, home in pieces:
            for tensor in op.outputs:
                part = self._named(tensor, piece)
                self._move(f"fetch {part} from {home}", part, home, memory)

    def _attend_away(self, op: Operator, memory: str) -> None:
        """The cache comes to the attending device piece by piece; new tokens go back, the rest is dropped."""
        self._sparse(op)
        device = self.system.nodes[self.placement.devices[0]]
        at = device.memory or device.name
        self.appends.append(op.name)
        made = [name for name in op.inputs if name not in op.updates and name in self.graph.producer]
        if at != memory:
            for tensor in made:
                self._move(f"send {tensor} to {at}", tensor, memory, at)
        window = self.ahead * len(self.placement.memories)
        for piece, home in self._cut(op, (*op.updates, *op.outputs)):
            after = (self.attended[-window],) if len(self.attended) >= window else ()
            name = self._named(op.name, piece)
            for cache in op.updates:
                part = self._named(cache, piece)
                self.homes[part] = (Home(home),)
                self._move(f"load {part}", part, home, at, after, self.request.chunk_bytes)
            self._compute(name, device)
            self.attended.append(name)
            for cache in op.updates:
                new = append_name(self._named(cache, piece))
                self._move(f"store {new}", new, at, home)
            if at != memory:
                for tensor in op.outputs:
                    part = self._named(tensor, piece)
                    self._move(f"fetch {part} from {at}", part, at, memory)
