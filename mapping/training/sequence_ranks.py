"""Context and Ulysses parallelism: attention over a whole sequence whose tokens lie on several ranks.

The graph is that of a rank's share of tokens; attention alone sees the others. Context parallelism passes keys and
values round a ring (Liu et al., Ring Attention, arXiv:2310.01889) and balances the causal mask, so that each rank
does an equal share of all pairs. Ulysses exchanges tokens for heads before attention and back after it
(DeepSpeed-Ulysses, arXiv:2309.14509).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hw_configs.problems import bad_input
from mapping.training.kernel_style import style_of
from mapping.training.setup import TrainingSetup
from mapping.training.tensor_ranks import beside
from simulator.rewrite.operands import itemised, of_arithmetic
from workloads.dtypes import size_bytes
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import AllGather, AllToAll, Attention, Optimizer

__all__ = ["divide_sequence"]


def divide_sequence(graph: Graph, setup: TrainingSetup) -> Graph:
    """The graph of a rank's share of tokens, with attention over all of them; see the module's first lines."""
    tensors = dict(graph.tensors)
    operators: list[Operator] = []
    own = _model_tensors(graph)
    for op in graph.operators:
        if isinstance(op.work, Attention):
            operators += _attention_over_ranks(op, op.work, setup, tensors, own)
        else:
            operators.append(op)
    return replace(graph, tensors=tensors, operators=tuple(operators))


def _model_tensors(graph: Graph) -> frozenset[str]:
    """Weights and their gradients, which are no share of tokens (attention sinks, for one)."""
    found = {name for name, tensor in graph.tensors.items() if tensor.role is Role.WEIGHT}
    for op in graph.operators:
        if isinstance(op.work, Optimizer):
            found.update(op.inputs)
    return frozenset(found)


def _attention_over_ranks(
    op: Operator, work: Attention, setup: TrainingSetup, tensors: dict[str, Tensor], own: frozenset[str]
) -> list[Operator]:
    """Attention over the whole sequence, with the exchanges before and after it."""
    ulysses, context = setup.ulysses, setup.context
    if work.heads % ulysses or work.kv_heads % min(ulysses, work.kv_heads):
        raise bad_input(f"{work.heads} heads cannot be divided over {ulysses} Ulysses ranks", path="--set")
    work = _work_of_a_rank(work, setup)
    op = replace(itemised(op, tensors), work=work)
    steps: list[Operator] = [op]
    if context > 1:
        steps = _ring(op, work, setup, tensors, own)
    if ulysses > 1:
        steps = [
            part
            for step in steps
            for part in (_exchanged(step, ulysses, tensors, own) if step.work is work else [step])
        ]
    return steps


def _work_of_a_rank(work: Attention, setup: TrainingSetup) -> Attention:
    """The attention of one of equal ranks: its heads, its share of the queries, and the keys that they see.

    ``share`` is what these sizes leave over of an equal part of all (query, key) pairs.
    """
    whole = replace(
        work,
        heads=work.heads // setup.ulysses,
        kv_heads=max(work.kv_heads // setup.ulysses, 1),
        q_len=setup.sequence,
        kv_len=setup.sequence,
    )
    rank = replace(whole, q_len=work.q_len * setup.ulysses)
    if setup.context > 1 and work.causal and not (setup.zigzag and style_of(setup.framework).balanced_ring):
        # The rank with the last tokens sees all keys, and the others wait for it.
        extra = work.extra_flops * rank.arithmetic() / (work.arithmetic() or 1.0)
        return replace(rank, share=work.share, extra_flops=extra)
    if setup.context > 1 and work.causal and whole.limit == whole.kv_len:
        # Balanced over the ring, every rank does the pairs of half of all keys.
        rank = replace(rank, kv_len=(setup.sequence + 1) // 2, causal=False)
    extra = work.extra_flops * whole.arithmetic() / setup.context / (work.arithmetic() or 1.0)
    return replace(of_arithmetic(rank, whole, 1 / setup.context), extra_flops=extra)


def _ring(
    op: Operator, work: Attention, setup: TrainingSetup, tensors: dict[str, Tensor], own: frozenset[str]
) -> list[Operator]:
    """Keys and values from every rank of the ring, two blocks of which are held at a time."""
    width = work.head_dim + work.value_dim
    local = setup.micro_batch * setup.sequence // setup.context * work.kv_heads * width
    size = size_bytes(local, op.dtype)
    # The backward pass sends gradients of keys and values along with them.
    rounds = 2 if op.place.training_pass == "backward" else 1
    block = f"{op.name}.ring"
    tensors[block] = Tensor(block, (local,), op.dtype, Role.ACTIVATION, 2 * rounds * size)
    sources = [name for name in op.inputs if name not in own]
    source = sources[-1] if rounds == 1 else sources[1]
    gather = AllGather(bytes=rounds * size * setup.context, group=setup.context, parallel="context")
    passed = Operator(f"{op.name}.ring", gather, (source,), (block,), dtype=op.dtype, place=beside(op))
    count = len(op.inputs)
    # The other ranks' keys and values pass through the block one after another.
    reads = (*op.reads[:count], rounds * size * (setup.context - 1), *op.reads[count:])
    return [passed, replace(op, inputs=(*op.inputs, block), reads=reads)]


def _exchanged(op: Operator, ranks: int, tensors: dict[str, Tensor], own: frozenset[str]) -> list[Operator]:
    """All-to-all of what attention reads and makes; what the forward pass exchanged is not sent again."""
    before: list[str] = []
    names: dict[str, str] = {}
    for name in op.inputs:
        if name.endswith(".ring") or name in own:
            continue
        names[name] = f"{name}.heads"
        if names[name] not in tensors:
            tensors[names[name]] = replace(tensors[name], name=names[name])
            before.append(name)
    made = [name for name in op.outputs if name not in own]
    for name in made:
        names[name] = f"{name}.heads"
        tensors[names[name]] = replace(tensors[name], name=names[name])

    def exchange(label: str, sources: Iterable[str], targets: Iterable[str]) -> Operator:
        sources = tuple(sources)
        size = sum(tensors[name].size_bytes for name in sources)
        work = AllToAll(bytes=size, group=ranks, parallel="ulysses")
        return Operator(f"{op.name}.{label}", work, sources, tuple(targets), dtype=op.dtype, place=beside(op))

    inside = replace(
        op,
        inputs=tuple(names.get(name, name) for name in op.inputs),
        outputs=tuple(names.get(name, name) for name in op.outputs),
    )
    return [
        exchange("to_heads", before, [names[name] for name in before]),
        inside,
        exchange("to_tokens", [names[name] for name in made], made),
    ]
