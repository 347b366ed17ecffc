"""Reversible layers: nothing of a layer is kept, its input is worked out of its result in the backward pass.

Two halves of the stream, each added to by a function of the other, can be taken apart again: x1 = y1 - F(x2), and so on
(The Reversible Residual Network, arXiv:1707.04585; of pre-trained models: MEFT, arXiv:2306.00477). The functions run
once more, as under full recomputation, and the subtractions beside them; of all layers' inputs the last result alone
outlives the forward pass. A layer's input is taken to come from the next layer's, whichever way round its halves are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod

from mapping.training.recompute.skeleton import skeleton_of
from workloads.graph import Graph, Operator, make_operator
from workloads.operators import Elementwise

__all__ = ["work_out_inputs"]

_LATER = frozenset({"backward", "recompute"})


def work_out_inputs(full: Graph, original: Graph) -> Graph:
    """A graph under full recomputation without its layers' inputs: each is worked out of the next layer's.

    ``original`` is the same graph before recomputation was written in.
    """
    inputs = skeleton_of(original).inputs
    layers = sorted(inputs)
    tensors = dict(full.tensors)
    inverse: dict[str, str] = {}
    made: dict[int | None, Operator] = {}
    for layer, after in pairwise(layers):
        name = inputs[layer]
        inverse[name] = f"{name}.worked_out"
        tensors[inverse[name]] = replace(tensors[name], name=inverse[name])
        source = inputs[after]
        work = Elementwise(m=1, n=prod(tensors[name].shape), flops_per_element=2.0, function="subtract")
        reader = next(
            op for op in full.operators if op.place.layer == layer and op.place.training_pass in _LATER
        )
        made[layer] = make_operator(
            f"{name}.work_out", work, (inverse.get(source, f"{source}"),), (inverse[name],), tensors,
            dtype=reader.dtype, place=replace(reader.place, training_pass="recompute", axis="split"),
        )  # fmt: skip
    # The next layer's input is itself worked out, but for the last one's.
    for layer, after in pairwise(layers):
        source = inputs[after]
        made[layer] = replace(made[layer], inputs=(inverse.get(source, source),))
    operators: list[Operator] = []
    waiting = dict(made)
    for op in full.operators:
        if op.place.training_pass not in _LATER:
            operators.append(op)
            continue
        if op.place.layer in waiting:
            operators.append(waiting.pop(op.place.layer))
        operators.append(replace(op, inputs=tuple(inverse.get(name, name) for name in op.inputs)))
    return replace(full, tensors=tensors, operators=tuple(operators))
