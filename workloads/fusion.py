"""Folds the pointwise operators of an imported graph into their neighbours, as inference engines do.

Exporters write one operator per step: a hard swish is four, a convolution with batch norm and ReLU three. An
engine runs a chain of pointwise operators as one kernel, and as the epilogue of the product or convolution
before it where that is their only input (TensorRT developer guide, section on layer fusion). A tensor that
something else reads too, or that the graph must give out, stays. FLOPs of an epilogue are not counted, as in
the built-in models; those of a pointwise chain are.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from workloads.graph import PERSISTENT_ROLES, Graph, Operator, legacy_replace

__all__ = ["fuse_pointwise"]

_POINTWISE: Final = frozenset({"activation", "elementwise"})
_PRODUCTS: Final = frozenset({"conv", "matmul"})


def fuse_pointwise(graph: Graph) -> Graph:
    """The graph with pointwise chains as one operator each, and epilogues inside their products."""
    operators = _epilogues(graph, _chains(graph, list(graph.operators)))
    used = {name for op in operators for name in (*op.inputs, *op.outputs, *op.updates)} | set(graph.outputs)
    inputs = set(graph.tensors) - set(graph.producer)
    tensors = {name: t for name, t in graph.tensors.items() if name in used or name in inputs}
    return Graph(graph.name, tensors, tuple(operators), graph.outputs, graph.structure, graph.metadata)


def _readers(graph: Graph, operators: list[Operator]) -> Counter[str]:
    """How many operators read each tensor; one that the graph gives out counts one more."""
    count = Counter(name for op in operators for name in dict.fromkeys((*op.inputs, *op.updates)))
    count.update(graph.outputs)
    return count


def _same_size(graph: Graph, op: Operator, tensor: str) -> bool:
    return len(op.outputs) == 1 and graph.tensors[op.outputs[0]].shape == graph.tensors[tensor].shape


def _chains(graph: Graph, operators: list[Operator]) -> list[Operator]:
    """Each pointwise operator takes in the pointwise operators that only it reads."""
    readers = _readers(graph, operators)
    at: dict[str, Operator] = {}
    gone: set[str] = set()
    result: list[Operator] = []
    for op in operators:
        merged = op
        if _is_pointwise(op):
            while True:
                lone = (
                    name
                    for name in merged.inputs
                    if name in at and readers[name] == 1 and _same_size(graph, op, name)
                )
                name = next(lone, "")
                if not name:
                    break
                # A tensor that both read counts once from now on, which may leave it a lone reader.
                readers.subtract(set(at[name].inputs) & set(merged.inputs))
                merged = _joined(graph, at[name], merged, name)
                gone.add(name)
            at[merged.outputs[0]] = merged
        result.append(merged)
    return [op for op in result if not (_is_pointwise(op) and op.outputs[0] in gone)]


def _is_pointwise(op: Operator) -> bool:
    return op.kind in _POINTWISE and len(op.outputs) == 1 and not op.updates


def _source_type(first: Operator, second: Operator) -> str:
    names = [str(op.attributes.get("source_type", op.kind)) for op in (first, second)]
    return "+".join(names)


def _joined(graph: Graph, source: Operator, op: Operator, link: str) -> Operator:
    """One pointwise operator in place of two; each of its inputs is read once."""
    inputs = tuple(dict.fromkeys(name for name in (*source.inputs, *op.inputs) if name != link))
    moving = [name for name in inputs if graph.tensors[name].role not in PERSISTENT_ROLES]
    return legacy_replace(
        op,
        kind="activation" if len(moving) <= 1 else "elementwise",
        inputs=inputs,
        flops=source.flops + op.flops,
        read_bytes=sum(graph.tensors[name].size_bytes for name in inputs),
        attributes={**op.attributes, "source_type": _source_type(source, op)},
    )


def _epilogues(graph: Graph, operators: list[Operator]) -> list[Operator]:
    """Products take in the pointwise operators and batch norms that alone read their result."""
    readers = _readers(graph, operators)
    position: dict[str, int] = {}
    result: list[Operator | None] = []
    for op in operators:
        moving = [name for name in op.inputs if graph.tensors[name].role not in PERSISTENT_ROLES]
        foldable = _is_pointwise(op) or op.attributes.get("source_type") == "BatchNormalization"
        index = position.get(moving[0]) if len(moving) == 1 else None
        if foldable and index is not None and readers[moving[0]] == 1 and _same_size(graph, op, moving[0]):
            product = result[index]
            assert product is not None
            result[index] = _with_epilogue(graph, product, op, moving[0])
            position[op.outputs[0]] = index
            continue
        if op.kind in _PRODUCTS and len(op.outputs) == 1:
            position[op.outputs[0]] = len(result)
        result.append(op)
    return [op for op in result if op is not None]


def _with_epilogue(graph: Graph, product: Operator, op: Operator, link: str) -> Operator:
    kind = "norm" if op.kind == "norm" else "activation"
    said = True if kind == "norm" else str(op.attributes.get("source_type", op.kind)).lower()
    return legacy_replace(
        product,
        inputs=(
            *product.inputs,
            *(name for name in op.inputs if name != link and name not in product.inputs),
        ),
        outputs=op.outputs,
        read_bytes=product.read_bytes + max(0, op.read_bytes - graph.tensors[link].size_bytes),
        write_bytes=op.write_bytes,
        attributes={**product.attributes, kind: said},
    )
