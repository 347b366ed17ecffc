"""Operators that overwrite what they read, so that their results take no bytes of their own.

Rotary embeddings work in place, as fused kernels do: rotated queries and keys lie where the plain ones lay, and so
do their gradients on the way back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from workloads.graph import Graph, Operator

__all__ = ["rotate_in_place"]


def rotate_in_place(graph: Graph) -> Graph:
    """The graph with rotary embeddings, and their backward passes, that overwrite what they read."""
    names = _in_place_names(graph)
    operators = []
    for op in graph.operators:
        inputs = tuple(dict.fromkeys(names.get(name, name) for name in op.inputs))
        outputs = tuple(dict.fromkeys(names.get(name, name) for name in op.outputs))
        read, written = _moved(op, names)
        beside_read = op.beside_read + _cap(read, graph)
        beside_written = op.beside_written + _cap(written, graph)
        both = tuple(name for name in outputs if name in inputs)
        if both and op.name.endswith(".grad_sum") and inputs == outputs:
            continue
        if both:
            inputs = tuple(name for name in inputs if name not in both)
            outputs = tuple(name for name in outputs if name not in both)
            op = replace(op, updates=(*op.updates, *both))
        updates = tuple(names.get(name, name) for name in op.updates)
        operators.append(
            replace(
                op,
                inputs=inputs,
                outputs=outputs,
                updates=updates,
                reads=tuple(read[name] for name in (*inputs, *updates)),
                writes=tuple(written[name] for name in (*outputs, *updates)),
                beside_read=beside_read,
                beside_written=beside_written,
            )
        )
    tensors = {name: tensor for name, tensor in graph.tensors.items() if names.get(name, name) == name}
    return replace(graph, tensors=tensors, operators=tuple(operators))


def _moved(op: Operator, names: Mapping[str, str]) -> tuple[Counter[str], Counter[str]]:
    """Bytes that an operator reads and writes of each tensor under its new name."""
    found = Counter[str](), Counter[str]()
    for total, tensors, sizes in zip(
        found,
        ((*op.inputs, *op.updates), (*op.outputs, *op.updates)),
        (op.reads, op.writes),
        strict=True,
    ):
        for name, size in zip(tensors, sizes, strict=False):
            total[names.get(name, name)] += size
    return found


def _cap(moved: Counter[str], graph: Graph) -> int:
    """Hold each tensor's bytes at its size; return the bytes above it, a second pass over parts that now coincide."""
    above = 0
    for name, size in moved.items():
        over = max(0, size - graph.tensors[name].size_bytes)
        moved[name] = size - over
        above += over
    return above


def _in_place_names(graph: Graph) -> dict[str, str]:
    """Tensors that share the bytes of another: a rotary result and the gradients on both sides of it."""
    names: dict[str, str] = {}
    for op in graph.operators:
        backward = graph.operator_by_name.get(f"{op.name}.backward")
        if op.kind != "rotary" or len(op.inputs) != 1 or len(op.outputs) != 1 or backward is None:
            continue
        source, turned = op.inputs[0], op.outputs[0]
        incoming, outgoing = backward.inputs[0], backward.outputs[0]
        names[turned] = source
        total = outgoing
        maker = graph.producer.get(incoming, "")
        for reader in graph.consumers[outgoing]:
            if reader.endswith(".grad_sum"):
                summed = graph.operator_by_name[reader]
                others = [name for name in summed.inputs if name != outgoing]
                if all(graph.producer.get(name) == maker for name in others):
                    total = summed.outputs[0]
                    names.update(dict.fromkeys(others, total))
        names[incoming] = total
        if outgoing != total:
            names[outgoing] = total
    return names
