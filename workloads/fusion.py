"""Folds the pointwise operators of an imported graph into their neighbours, as inference engines do.

Exporters write one operator per step: a hard swish is four, a convolution with batch norm and ReLU three. An
engine runs a chain of pointwise operators as one kernel, and as the epilogue of the product or convolution
before it where that is their only input (TensorRT developer guide, section on layer fusion). A tensor that
something else reads too, or that the graph must give out, stays. FLOPs of an epilogue are not counted, as in
the built-in models; those of a pointwise chain are.

Some machines also run a sum of two results, or a pool, behind their arrays on what leaves them (:func:`behind_arrays`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from workloads.graph import PERSISTENT_ROLES, Graph, Operator
from workloads.operators import Activation, Convolution, Elementwise, Norm, Product, Rows

__all__ = ["behind_arrays", "fuse_pointwise"]


def fuse_pointwise(graph: Graph) -> Graph:
    """The graph with pointwise chains as one operator each, and epilogues inside their products."""
    return _with_operators(graph, _epilogues(graph, _chains(graph, list(graph.operators))))


def behind_arrays(graph: Graph, kinds: Collection[str]) -> Graph:
    """The graph with operators of these kinds inside the product or convolution that last makes one of their operands.

    Nothing else may read that operand, and the others must be there before; they are read as the product runs.
    """
    readers = _readers(graph, list(graph.operators))
    made_at: dict[str, int] = {}
    result: list[Operator] = []
    for op in graph.operators:
        moving = [name for name in op.inputs if graph.tensors[name].role not in PERSISTENT_ROLES]
        last = max(moving, key=lambda name: made_at.get(name, -1), default="")
        index = made_at.get(last, -1)
        inside = op.kind in kinds and len(op.outputs) == 1 and not op.updates and index >= 0
        if inside and readers[last] == 1 and isinstance(result[index].work, Convolution | Product):
            result[index] = _with_epilogue(result[index], op, last)
        else:
            index = len(result)
            result.append(op)
        made_at.update(dict.fromkeys((*op.outputs, *op.updates), index))
    return _with_operators(graph, result)


def _with_operators(graph: Graph, operators: list[Operator]) -> Graph:
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
    return isinstance(op.work, Activation | Elementwise) and len(op.outputs) == 1 and not op.updates


def _is_folded_norm(op: Operator) -> bool:
    """Batch norm by stored averages: a factor and a term per channel, which a product's epilogue applies."""
    return isinstance(op.work, Norm) and op.work.norm == "batch"


def _joined(graph: Graph, source: Operator, op: Operator, link: str) -> Operator:
    """One pointwise operator in place of two; each of its inputs is read once."""
    inputs = tuple(dict.fromkeys(name for name in (*source.inputs, *op.inputs) if name != link))
    moving = [name for name in inputs if graph.tensors[name].role not in PERSISTENT_ROLES]
    kind = Activation if len(moving) <= 1 else Elementwise
    assert isinstance(op.work, Rows)
    m, n = op.work.m, op.work.n
    return replace(
        op,
        work=kind(m=m, n=n, flops_per_element=(source.flops + op.flops) / max(1, m * n)),
        inputs=inputs,
        reads=tuple(graph.tensors[name].size_bytes for name in inputs),
        source=f"{source.source or source.kind}+{op.source or op.kind}",
    )


def _epilogues(graph: Graph, operators: list[Operator]) -> list[Operator]:
    """Products take in the pointwise operators and batch norms that alone read their result."""
    readers = _readers(graph, operators)
    position: dict[str, int] = {}
    result: list[Operator | None] = []
    for op in operators:
        moving = [name for name in op.inputs if graph.tensors[name].role not in PERSISTENT_ROLES]
        foldable = _is_pointwise(op) or _is_folded_norm(op)
        index = position.get(moving[0]) if len(moving) == 1 else None
        if foldable and index is not None and readers[moving[0]] == 1 and _same_size(graph, op, moving[0]):
            product = result[index]
            assert product is not None
            result[index] = _with_epilogue(product, op, moving[0])
            position[op.outputs[0]] = index
            continue
        if isinstance(op.work, Convolution | Product) and len(op.outputs) == 1:
            position[op.outputs[0]] = len(result)
        result.append(op)
    return [op for op in result if op is not None]


def _with_epilogue(product: Operator, op: Operator, link: str) -> Operator:
    """The product with a pointwise operator or norm folded in: it reads that one's other operands too."""
    work = product.work
    assert isinstance(work, Convolution | Product)
    if isinstance(op.work, Norm):
        work = replace(work, norm=True)
    else:
        work = replace(work, activation=(op.source or op.kind).lower())
    added = {
        name: size
        for name, size in zip(op.inputs, op.reads, strict=True)
        if name != link and name not in product.inputs
    }
    return replace(
        product,
        work=work,
        inputs=(*product.inputs, *added),
        outputs=op.outputs,
        reads=(*product.reads, *added.values()),
        writes=op.writes,
    )
