"""A graph run for several micro-batches: the same operators once per micro-batch over shared weights.

Weights, optimizer state and the gradients that an optimizer reads exist once; caches and activations exist
per micro-batch, with ``#m`` behind their names. The first micro-batch writes a weight's gradient, later ones
accumulate into it, and optimizer operators run once at the end.
"""

from __future__ import annotations

from dataclasses import replace

from workloads.graph import Graph, Operator, Role, Tensor

__all__ = ["microbatched"]


def microbatched(graph: Graph, count: int) -> Graph:
    """The graph of ``count`` micro-batches, each of the size that ``graph`` was built for."""
    if count == 1:
        return graph
    shared = _shared_tensors(graph)
    tensors = {name: graph.tensors[name] for name in shared}
    operators: list[Operator] = []
    for batch in range(count):
        for tensor in graph.tensors.values():
            if tensor.name not in shared:
                name = f"{tensor.name}#{batch}"
                tensors[name] = Tensor(name, tensor.shape, tensor.dtype, tensor.role, tensor.size_bytes)
        operators += [_of_batch(op, batch, shared, graph) for op in graph.operators if not _is_optimizer(op)]
    operators += [op for op in graph.operators if _is_optimizer(op)]
    outputs = [name for name in graph.outputs if name in shared]
    outputs += [f"{name}#{batch}" for batch in range(count) for name in graph.outputs if name not in shared]
    structure = f"{graph.structure}#{count}" if graph.structure else ""
    metadata = {**graph.metadata, "microbatches": count}
    return Graph(graph.name, tensors, tuple(operators), tuple(outputs), structure, metadata)


def _is_optimizer(operator: Operator) -> bool:
    return operator.place.training_pass == "optimizer"


def _shared_tensors(graph: Graph) -> set[str]:
    once = {t.name for t in graph.tensors.values() if t.role in (Role.WEIGHT, Role.OPTIMIZER_STATE)}
    for op in graph.operators:
        if _is_optimizer(op):
            once.update((*op.inputs, *op.outputs, *op.updates))
    return once


def _of_batch(operator: Operator, batch: int, shared: set[str], graph: Graph) -> Operator:
    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name if name in shared else f"{name}#{batch}" for name in names)

    # What a weight's gradient is by the first micro-batch is added to, read and written, by those after it.
    added = [index for index, name in enumerate(operator.outputs) if batch > 0 and name in shared]
    fresh = [index for index in range(len(operator.outputs)) if index not in added]
    accumulated = tuple(operator.outputs[index] for index in added)
    made = len(operator.outputs)
    writes = operator.writes or (0,) * (made + len(operator.updates))
    return replace(
        operator,
        name=f"{operator.name}#{batch}",
        inputs=renamed(operator.inputs),
        outputs=renamed(tuple(operator.outputs[index] for index in fresh)),
        updates=renamed((*operator.updates, *accumulated)),
        reads=(*operator.reads, *(graph.tensors[name].size_bytes for name in accumulated)),
        writes=(
            *(writes[index] for index in fresh),
            *writes[made:],
            *(writes[index] for index in added),
        ),
        place=replace(operator.place, microbatch=batch),
    )
