"""Tensor and pipeline parallelism for transformers.

Layers are dealt out to pipeline stages in equal runs; within a stage every operator is divided over the
stage's devices along the axis that its place names (after Megatron-LM, arXiv:1909.08053).
Stages hand activations to the next over the links. Micro-batches flow through the stages; a training step
runs them one forward, one backward (1F1B: Narayanan et al., PipeDream, SOSP 2019), which bounds the live
activations of stage s of p to p - s micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple, get_args

from hw_configs.problems import bad_input
from hw_configs.system import System
from mapping.mapper import MapperOptions
from mapping.placement.single_device import COMMUNICATION, candidates, refuse_communication
from simulator.plan import Collective, Compute, Home, Plan, Split, SplitAxis, Task, Transfer
from simulator.rewrite.apply import rewrite
from workloads.graph import PERSISTENT_ROLES, Graph, Operator

__all__ = ["MAPPER", "TensorPipeline"]


class TensorPipeline:
    """The mapper ``tensor-pipeline``: ``--tp`` devices per stage, ``--pp`` stages."""

    DESCRIPTION = "operators divided over --tp devices, layers over --pp stages"

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """A plan over the first tp x pp devices; ``InputError`` when there are fewer or nothing to divide."""
        tensor, pipeline = options.tensor_parallel, options.pipeline_parallel
        devices = [node.name for node in candidates(system)]
        if len(devices) < tensor * pipeline:
            raise bad_input(
                f"tp {tensor} x pp {pipeline} needs {tensor * pipeline} devices; "
                f"system {system.name!r} has {len(devices)}",
                path="--tp, --pp",
            )
        if tensor == 1:
            refuse_communication(graph)
        elif not any(op.place.axis or op.kind in COMMUNICATION for op in graph.operators):
            raise bad_input(
                f"no operator of {graph.name} says along which axis it is divided; every device would do all of "
                "the work",
                path="--tp",
            )
        stages = [tuple(devices[s * tensor : (s + 1) * tensor]) for s in range(pipeline)]
        stage_of = _stages(graph, pipeline)
        ordered = _scheduled(graph, stage_of, pipeline)
        splits = {}
        if tensor > 1:
            splits = {op.name: Split(_axis(op), stages[stage_of[op.name]]) for op in ordered.operators}
        draft = Plan(graph.name, system.name, "tensor-pipeline", (), {}, splits)
        writer = _Writer(rewrite(ordered, draft), system, stages, stage_of)
        tasks = tuple(writer.tasks())
        return Plan(graph.name, system.name, "tensor-pipeline", tasks, writer.homes, splits)


MAPPER: Final = TensorPipeline()


def _axis(operator: Operator) -> SplitAxis:
    return next((axis for axis in get_args(SplitAxis) if axis == operator.place.axis), "replicated")


def _stages(graph: Graph, pipeline: int) -> dict[str, int]:
    """Operator -> stage: layers 0..L-1 in equal runs, what comes before to the first, after to the last."""
    inner = sorted({layer for op in graph.operators if (layer := op.place.layer) is not None and layer >= 0})
    count = max(inner[-1], 1) if inner else 0
    if pipeline > 1 and count < pipeline:
        raise bad_input(f"{graph.name} has {count} layers, too few for {pipeline} stages", path="--pp")
    return {
        op.name: min(max(op.place.layer or 0, 0) * pipeline // count, pipeline - 1) if count else 0
        for op in graph.operators
    }


def _scheduled(graph: Graph, stage_of: dict[str, int], pipeline: int) -> Graph:
    """The graph with its micro-batches in pipeline order; unchanged without backward micro-batches."""
    batches = int(graph.metadata.get("microbatches", 1))
    backward = any(op.place.training_pass == "backward" for op in graph.operators)
    if pipeline == 1 or batches == 1 or not backward:
        return graph
    chunks: dict[tuple[int, int, str], list[Operator]] = {}
    rest: list[Operator] = []
    for op in graph.operators:
        which = op.place.training_pass
        if which in ("forward", "backward"):
            key = (stage_of[op.name], op.place.microbatch or 0, which)
            chunks.setdefault(key, []).append(op)
        else:
            rest.append(op)
    wished = [op for key in _one_forward_one_backward(pipeline, batches) for op in chunks.get(key, ())]
    operators = _in_valid_order(graph, [*wished, *rest])
    return Graph(graph.name, graph.tensors, operators, graph.outputs, graph.structure, graph.metadata)


def _in_valid_order(graph: Graph, wished: list[Operator]) -> tuple[Operator, ...]:
    """The order wished for, except that an operator waits for what it needs.

    Gradients of tied weights need this: they join two stages, whose backward passes end at different times.
    """
    import networkx

    rank = {op.name: index for index, op in enumerate(wished)}
    order = networkx.lexicographical_topological_sort(graph.digraph(), key=rank.__getitem__)
    return tuple(graph.operator_by_name[name] for name in order)


def _one_forward_one_backward(stages: int, batches: int) -> Iterator[tuple[int, int, str]]:
    """(stage, micro-batch, pass) in an order that is valid as a whole and 1F1B on every stage."""
    queues = []
    for stage in range(stages):
        warm = min(stages - 1 - stage, batches)
        order = [(batch, "forward") for batch in range(warm)]
        for batch in range(batches - warm):
            order += [(warm + batch, "forward"), (batch, "backward")]
        order += [(batch, "backward") for batch in range(batches - warm, batches)]
        queues.append(order)
    done: set[tuple[int, int, str]] = set()
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue:
                batch, which = queue[0]
                before = stage - 1 if which == "forward" else stage + 1
                first = before in (-1, stages)
                ready = first or (before, batch, which) in done
                if which == "backward" and (stage, batch, "forward") not in done:
                    ready = False
                if not ready:
                    break
                done.add((stage, batch, which))
                yield stage, *queue.pop(0)


class Placed(NamedTuple):
    """An operator and the devices that run it."""

    operator: Operator
    kind: Literal["compute", "collective"]
    devices: tuple[str, ...]


class _Writer:
    """Writes the tasks of a divided graph, with a transfer wherever a tensor is not where it is read."""

    def __init__(
        self, graph: Graph, system: System, stages: list[tuple[str, ...]], stage_of: dict[str, int]
    ) -> None:
        self.graph, self.system, self.stages, self.stage_of = graph, system, stages, stage_of
        self.where: dict[str, list[str]] = {}
        self.homes: dict[str, tuple[Home, ...]] = {}

    def tasks(self) -> Iterator[Task]:
        placed = [Placed(op, *self._place(op)) for op in self.graph.operators]
        self._settle_homes(placed)
        for op, kind, devices in placed:
            for rank, device in enumerate(devices):
                memory = self._memory(device)
                for tensor in (*self._of_rank(op.inputs, kind, rank, len(devices)), *op.updates):
                    yield from self._bring(tensor, memory)
                for tensor in op.updates:
                    self.where[tensor] = [memory]
                for tensor in self._of_rank(op.outputs, kind, rank, len(devices)):
                    self.where.setdefault(tensor, []).append(memory)
                if kind == "collective":
                    yield Collective(f"{op.name}@{rank}", f"{device}.compute", op.name, device, devices)
                else:
                    yield Compute(op.name, f"{device}.compute", op.name, device)
        yield from self._bring_home()

    def _bring_home(self) -> Iterator[Task]:
        """A tied weight that was updated in another stage goes back to where the next step reads it."""
        for tensor, homes in self.homes.items():
            if self.graph.tensors[tensor].role in PERSISTENT_ROLES:
                for home in homes:
                    yield from self._bring(tensor, home.memory, "back ")

    def _place(self, op: Operator) -> tuple[Literal["compute", "collective"], tuple[str, ...]]:
        """Compute on one device, or a collective over a stage."""
        base, at, rank = op.name.rpartition("@")
        if at and base in self.stage_of:
            return "compute", (self.stages[self.stage_of[base]][int(rank)],)
        if op.name in self.stage_of:
            devices = self.stages[self.stage_of[op.name]]
            if op.kind in COMMUNICATION:
                return "collective", devices
            return "compute", devices[:1]
        maker = self.graph.producer.get(op.inputs[0], "").rpartition("@")[0]
        return "collective", self.stages[self.stage_of.get(maker, 0)]

    def _settle_homes(self, placed: Iterable[Placed]) -> None:
        """A tensor without a producer lives where it is read; one that is updated, where it is first read."""
        updated = {tensor for op in self.graph.operators for tensor in op.updates}
        for op, kind, devices in placed:
            for rank, device in enumerate(devices):
                home = Home(self._memory(device))
                for tensor in (*self._of_rank(op.inputs, kind, rank, len(devices)), *op.updates):
                    if tensor in self.graph.producer:
                        continue
                    homes = self.homes.get(tensor, ())
                    persistent = self.graph.tensors[tensor].role in PERSISTENT_ROLES
                    if not homes or (persistent and tensor not in updated and home not in homes):
                        self.homes[tensor] = (*homes, home)
        self.where = {tensor: [home.memory for home in homes] for tensor, homes in self.homes.items()}

    def _memory(self, device: str) -> str:
        return self.system.nodes[device].memory or device

    @staticmethod
    def _of_rank(names: tuple[str, ...], kind: str, rank: int, ranks: int) -> tuple[str, ...]:
        if kind != "collective":
            return names
        share = len(names) // ranks
        return names[rank * share : (rank + 1) * share]

    def _bring(self, tensor: str, memory: str, why: str = "") -> Iterator[Task]:
        places = self.where.setdefault(tensor, [])
        if memory not in places:
            source = places[0]
            places.append(memory)
            name = f"move {tensor} {why}to {memory}"
            yield Transfer(name, f"{source}->{memory}", tensor=tensor, source=source, target=memory)
