"""The plan of one decode step of a block: weights in shares over GPU, host and disk, caches batch by batch.

The mapper ``block-schedule`` asks the linear program (:mod:`mapping.offload.placement_lp`) for the shares at the
graph's batch and writes what they mean. Every matrix of a layer is cut into a part for each memory; host parts
stream to the GPU two operators ahead, disk parts go through the host. The cache is cut into GPU batches, the
first of which live on the GPU, the next on the host, the rest on disk, whose caches come to the host for
attention there. Products run over the whole block at once, as the zig-zag order allows
(FlexGen, arXiv:2303.06865, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from hw_configs.problems import InfeasibleError, InputError, bad_input
from hw_configs.settings import Settings, count, flag, share, word
from hw_configs.system import Node, System
from mapping.offload.block_policy import BlockPolicy, shape_of_graph
from mapping.offload.block_schedule import FORMS, Form
from mapping.offload.machine_rates import block_machine, capacities_of, graph_rates
from mapping.offload.placement_lp import FILL, PlacementResult, best_policy
from mapping.placement.single_device import refuse_communication
from simulator.plan import Compute, Division, Home, Pieces, Plan, PlanNotes, Task, Transfer
from simulator.rewrite.divide import append_name, part_name
from workloads.graph import Graph, Operator, Role
from workloads.operators import Attention

__all__ = ["BlockNotes", "BlockSettings", "plan_block", "write_block_plan"]

GENERATE: Final = 32
"""Tokens generated where none are asked for, as in the publication."""
_COUNTS: Final = 1000
"""Parts of a matrix are cut to a thousandth of its rows."""
Place = Literal["gpu", "host", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSettings(Settings):
    """Settings of ``block-schedule``."""

    gpu_batch: int | None = count(
        None, "sequences the GPU takes at once; divides the batch of a graph", least=1, unit="sequences",
        absent="searched",
    )  # fmt: skip
    batches: int | None = count(None, "GPU batches of a block", least=1, absent="searched", only="offload")
    form: Form = word("published", "how the streams overlap", FORMS, only="offload")
    rates: Literal["machine", "released-t4"] = word(
        "machine",
        "from the system's parts, or the released model's fit",
        ("machine", "released-t4"),
        only="offload",
    )
    fill: float = share(FILL, "what of each capacity to fill; at most 1 for a plan", most=1.5)
    host_attention: bool = flag(
        True, "attend on the host over a cache that lies there or on disk", only="offload"
    )
    weight_bits: str = word("16", "bits of a stored weight", ("16", "8", "4"), only="offload")
    generate: int = count(
        GENERATE, "tokens of the generation that the step belongs to", least=1, unit="tokens", only="plan"
    )
    ahead: int = count(
        2, "operators whose weights may be on their way", least=1, unit="operators", only="plan"
    )


@dataclass(frozen=True)
class BlockNotes(PlanNotes):
    """The shares of GPU, host and disk, and what is expected of them."""

    gpu_batch: int
    batches: int
    weight: tuple[float, ...]
    cache: tuple[float, ...]
    hidden: tuple[float, ...]
    estimated_step_s: float
    cache_pieces: Mapping[str, int]
    linear_programs: int
    not_executed: tuple[str, ...] = ("hidden states on the host: they are small, and stay on the GPU",)


def plan_block(graph: Graph, system: System, chosen: BlockSettings) -> Plan:
    """The plan of the fastest shares for a decode step; ``InfeasibleError`` when none fit."""
    refuse_communication(graph)
    attends = [op.work for op in graph.operators if isinstance(op.work, Attention) and op.updates]
    if not attends or attends[0].q_len != 1:
        raise bad_input("the mapper block-schedule plans decode steps (--phase decode)", path="--phase")
    if chosen.fill > 1:
        message = f"found {chosen.fill:g}; a plan that runs fills at most 1 of each capacity"
        raise bad_input(message, path="--set fill")
    batch, context = attends[0].batch, attends[0].kv_len
    asked = chosen.gpu_batch
    if asked is not None and batch % asked:
        raise bad_input(f"{asked} does not divide the batch of {batch}", path="--set gpu-batch")
    shape = shape_of_graph(graph, max(1, context - chosen.generate // 2), chosen.generate)
    sizes = [asked] if asked is not None else [n for n in range(1, batch + 1) if batch % n == 0]
    rates = graph_rates(graph, system)
    best: PlacementResult | None = None
    for size in sizes:
        try:
            found = best_policy(
                shape, rates, capacities_of(system), "published", fill=chosen.fill, gpu_batch=size,
                batches=batch // size,
            )  # fmt: skip
        except InfeasibleError:
            continue
        if best is None or found.cost.total_s < best.cost.total_s * (1 - 1e-9):
            best = found
    if best is None:
        raise InfeasibleError(f"no shares of {graph.name} over GPU, host and disk fit a block of {batch}")
    return write_block_plan(graph, system, best, chosen.ahead)


def write_block_plan(graph: Graph, system: System, found: PlacementResult, ahead: int = 2) -> Plan:
    """The plan of a policy for a decode graph whose batch is the policy's block."""
    gpu, cpu = block_machine(system)
    assert cpu.memory is not None
    return _Writer(graph, system, gpu, cpu, _disk(system, cpu.memory), found.policy, ahead).plan(found)


def _disk(system: System, host: str) -> str | None:
    """The first drive that links join to the host's memory."""
    for node in system.of_kind("flash", "csd"):
        try:
            system.route(node.name, host)
        except InputError:
            continue
        return node.name
    return None


@dataclass
class _Writer:
    graph: Graph
    system: System
    gpu: Node
    cpu: Node
    disk: str | None
    policy: BlockPolicy
    ahead: int
    tasks: list[Task] = field(default_factory=list)
    homes: dict[str, tuple[Home, ...]] = field(default_factory=dict)
    divisions: dict[str, Division] = field(default_factory=dict)
    pieces: dict[str, Pieces] = field(default_factory=dict)
    appends: list[str] = field(default_factory=list)
    fetchers: list[str] = field(default_factory=list)
    """Operators so far whose weights came from elsewhere."""
    disk_pieces: list[str] = field(default_factory=list)

    def plan(self, found: PlacementResult) -> Plan:
        """The whole plan, operator by operator in program order."""
        attends = {op.name for op in self.graph.operators if op.kind == "attention" and op.updates}
        caches = {n for op in self.graph.operators if op.name in attends for n in op.updates}
        matrices = self._matrices()
        for name in self.graph.tensors:
            if name not in self.graph.producer and name not in caches and name not in matrices:
                self.homes[name] = (Home(self._memory("gpu")),)
        places = self._piece_places()
        for op in self.graph.operators:
            self._fetch(op, [name for name in op.inputs if name in matrices])
            if op.name in attends:
                self._attend(op, places)
            else:
                self._compute(op.name, self.gpu)
        policy = found.policy.to_json()
        notes = BlockNotes(
            **policy,
            estimated_step_s=found.cost.decode_layer_s * len(attends),
            cache_pieces={place: places.count(place) for place in ("gpu", "host", "disk")},
            linear_programs=found.programs,
        )
        return Plan(
            self.graph.name, self.system.name, "block-schedule", tuple(self.tasks), self.homes, notes=notes,
            divisions=self.divisions, pieces=self.pieces, appends=tuple(self.appends),
        )  # fmt: skip

    def _memory(self, place: Place) -> str:
        if place == "gpu":
            return self.gpu.memory or self.gpu.name
        if place == "host":
            assert self.cpu.memory is not None
            return self.cpu.memory
        if self.disk is None:
            raise bad_input(f"system {self.system.name!r} has no drive for what the policy puts on disk")
        return self.disk

    def _matrices(self) -> set[str]:
        """Weights of layers that one operator alone reads; the others stay on the GPU."""
        found = set()
        for op in self.graph.operators:
            if op.kind == "matmul" and (".mlp." in op.name or ".attention." in op.name):
                found |= {
                    name
                    for name in op.inputs
                    if self.graph.tensors[name].role is Role.WEIGHT
                    and len(self.graph.tensors[name].shape) == 2
                    and self.graph.consumers[name] == (op.name,)
                }
        return found

    def _piece_places(self) -> list[Place]:
        """Where each GPU batch of the cache lives: GPU first, then host, then disk."""
        batches, policy = self.policy.batches, self.policy
        on_gpu = int(policy.cache_gpu * batches + 1e-6)
        away = batches - on_gpu
        share = (
            policy.cache_host / (policy.cache_host + policy.cache_disk)
            if away and policy.cache_gpu < 1
            else 1.0
        )
        on_host = min(away, round(share * away))
        places: list[Place] = ["gpu"] * on_gpu
        places += ["host"] * on_host
        places += ["disk"] * (away - on_host)
        return places

    def _compute(self, operator: str, node: Node) -> None:
        self.tasks.append(Compute(operator, f"{node.name}.compute", operator=operator, device=node.name))

    def _move(self, tensor: str, source: str, target: str, after: tuple[str, ...] = ()) -> None:
        name = f"{tensor} {source}->{target}"
        self.tasks.append(
            Transfer(
                name,
                f"{source}->{target}",
                tensor=tensor,
                source=source,
                target=target,
                after=after,
            )
        )

    def _fetch(self, op: Operator, weights: list[str]) -> None:
        """Cut an operator's matrices over the memories, and bring the parts that are elsewhere."""
        policy = self.policy
        shares: dict[Place, float] = {
            "gpu": policy.weight_gpu, "host": policy.weight_host, "disk": policy.weight_disk
        }  # fmt: skip
        counts: dict[Place, int] = {place: round(share * _COUNTS) for place, share in shares.items()}
        used: list[Place] = [place for place in counts if counts[place] > 0]
        after = (self.fetchers[-self.ahead],) if len(self.fetchers) >= self.ahead else ()
        gpu, host = self._memory("gpu"), self._memory("host")
        for name in weights:
            if len(used) > 1:
                self.divisions[name] = Division(0, tuple(counts[p] for p in used), (True,) * len(used))
            for index, place in enumerate(used):
                part = part_name(name, index) if len(used) > 1 else name
                self.homes[part] = (Home(self._memory(place)),)
                if place == "disk":
                    self._move(part, self._memory("disk"), host, after)
                if place != "gpu":
                    self._move(part, host, gpu, after)
        if weights and used != ["gpu"]:
            self.fetchers.append(op.name)

    def _attend(self, op: Operator, places: list[Place]) -> None:
        """Each GPU batch where its cache lives; caches on disk come to the host and leave their new tokens."""
        gpu, host = self._memory("gpu"), self._memory("host")
        for name in op.inputs:
            if name not in op.updates and name not in self.graph.producer:
                self.homes[name] = (Home(gpu), Home(host))
        made = [n for n in op.inputs if n not in op.updates and n in self.graph.producer]
        cut = len(places) > 1
        if cut:
            counts = (self.policy.gpu_batch,) * len(places)
            for name in dict.fromkeys((*op.updates, *made, *op.outputs)):
                self.divisions[name] = Division(0, counts, (True,) * len(places))
            self.pieces[op.name] = Pieces("batch", counts)
        if "disk" in places:
            # All pieces leave new tokens as tensors of their own: the rewrite is the operator's, not a piece's.
            self.appends.append(op.name)
        for index, place in enumerate(places):

            def named(name: str, index: int = index) -> str:
                return part_name(name, index) if cut else name

            for cache in op.updates:
                self.homes[named(cache)] = (Home(self._memory(place)),)
            if place == "gpu":
                self._compute(named(op.name), self.gpu)
                continue
            for name in made:
                self._move(named(name), gpu, host)
            if place == "disk":
                after = (self.disk_pieces[-self.ahead],) if len(self.disk_pieces) >= self.ahead else ()
                for cache in op.updates:
                    self._move(named(cache), self._memory("disk"), host, after)
                self.disk_pieces.append(named(op.name))
            self._compute(named(op.name), self.cpu)
            if place == "disk":
                for cache in op.updates:
                    self._move(append_name(named(cache)), host, self._memory("disk"))
            for name in op.outputs:
                self._move(named(name), host, gpu)
