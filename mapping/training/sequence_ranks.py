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
from mapping.training.setup import TrainingSetup
from mapping.training.tensor_ranks import place_of
from workloads.dtypes import size_bytes
from workloads.graph import Graph, Operator, Role, Tensor, legacy_operator, legacy_replace

__all__ = ["divide_sequence"]


def divide_sequence(graph: Graph, setup: TrainingSetup) -> Graph:
    """The graph of a rank's share of tokens, with attention over all of them; see the module's first lines."""
    tensors = dict(graph.tensors)
    operators: list[Operator] = []
    own = _model_tensors(graph)
    for op in graph.operators:
        if op.kind == "attention":
            operators += _attention_over_ranks(op, setup, tensors, own)
        else:
            operators.append(op)
    return replace(graph, tensors=tensors, operators=tuple(operators))


def _model_tensors(graph: Graph) -> frozenset[str]:
    """Weights and their gradients, which are no share of tokens (attention sinks, for one)."""
    found = {name for name, tensor in graph.tensors.items() if tensor.role is Role.WEIGHT}
    for op in graph.operators:
        if op.kind == "optimizer":
            found.update(op.inputs)
    return frozenset(found)


def _attention_over_ranks(
    op: Operator, setup: TrainingSetup, tensors: dict[str, Tensor], own: frozenset[str]
) -> list[Operator]:
    """Attention over the whole sequence, with the exchanges before and after it."""
    ulysses, context, whole = setup.ulysses, setup.context, setup.sequence
    attributes = dict(op.attributes)
    heads, kv_heads = int(attributes["heads"]), int(attributes.get("kv_heads", attributes["heads"]))
    if heads % ulysses or kv_heads % min(ulysses, kv_heads):
        raise bad_input(f"{heads} heads cannot be divided over {ulysses} Ulysses ranks", path="--set")
    local = int(attributes["q_len"])
    window = int(attributes.get("window", 0))
    pairs = _pairs(whole, window) / (ulysses * context) / _pairs(local, window)
    attributes |= {
        "heads": heads // ulysses, "kv_heads": max(kv_heads // ulysses, 1),
        "q_len": local * ulysses, "kv_len": whole,
    }  # fmt: skip
    if context > 1 and not window:
        # Balanced over the ring, every rank does the pairs of half of all keys.
        attributes |= {"kv_len": (whole + 1) // 2, "causal": False}
    op = legacy_replace(op, flops=op.flops * pairs, attributes=attributes)
    steps: list[Operator] = [op]
    if context > 1:
        steps = _ring(op, setup, tensors, own)
    if ulysses > 1:
        steps = [
            part
            for step in steps
            for part in (_exchanged(step, ulysses, tensors, own) if step.kind == "attention" else [step])
        ]
    return steps


def _pairs(length: int, window: int) -> int:
    """(query, key) pairs that a causal mask, and a window if there is one, leaves."""
    if window and length > window:
        return window * (window + 1) // 2 + (length - window) * window
    return length * (length + 1) // 2


def _ring(
    op: Operator, setup: TrainingSetup, tensors: dict[str, Tensor], own: frozenset[str]
) -> list[Operator]:
    """Keys and values from every rank of the ring, two blocks of which are held at a time."""
    a = op.attributes
    width = int(a["head_dim"]) + int(a.get("v_head_dim", a["head_dim"]))
    local = setup.micro_batch * setup.sequence // setup.context * int(a["kv_heads"]) * width
    size = size_bytes(local, op.dtype)
    # The backward pass sends gradients of keys and values along with them.
    rounds = 2 if a.get("pass") == "backward" else 1
    block = f"{op.name}.ring"
    tensors[block] = Tensor(block, (local,), op.dtype, Role.ACTIVATION, 2 * rounds * size)
    sources = [name for name in op.inputs if name not in own]
    source = sources[-1] if rounds == 1 else sources[1]
    passed = legacy_operator(
        f"{op.name}.ring", "all_gather", (source,), (block,), dtype=op.dtype,
        attributes={
            **place_of(op), "bytes": rounds * size * setup.context, "group": setup.context, "parallel": "context",
        },
    )  # fmt: skip
    return [passed, replace(op, inputs=(*op.inputs, block))]


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
        return legacy_operator(
            f"{op.name}.{label}", "all_to_all", sources, tuple(targets), dtype=op.dtype,
            attributes={**place_of(op), "bytes": size, "group": ranks, "parallel": "ulysses"},
        )  # fmt: skip

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
