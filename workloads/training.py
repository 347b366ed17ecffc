"""A training step from any forward graph: loss, backward pass and AdamW, by one rule per operator kind.

The backward pass walks the forward operators in reverse. A product becomes two: one for the gradient of its
input, one for the gradient of its weight, each with the forward FLOPs. Attention recomputes its scores, five
products for the forward two (FlashAttention-2, arXiv:2307.08691, section 3.1). Forward activations that a
backward operator reads stay alive until then, because they are its inputs.

A tensor that several operators read collects as many gradients; an operator adds them up. The gradient of an
addition is the gradient of its sum: no operator, the same tensor. AdamW keeps first and second moment in fp32
and, under weights narrower than that, a master copy of them (ZeRO, arXiv:1910.02054, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

from hw_configs.problems import bad_input
from workloads.dtypes import dtype_bits
from workloads.graph import Graph, Operator, Place, Role, Tensor, make_operator
from workloads.operators import (
    Activation,
    Elementwise,
    Embedding,
    Gather,
    GroupedProduct,
    Loss,
    Norm,
    Optimizer,
    Product,
    Quantize,
    Rows,
    Scatter,
    TopK,
    View,
    Work,
)  # fmt: skip
from workloads.operators.traffic import NO_PARTS

__all__ = ["training_step"]

PRODUCTS: Final = frozenset({"matmul", "grouped_matmul", "conv", "recurrent", "linear_attention"})
"""Kinds whose backward pass is a product per operand."""

ATTENTION_BACKWARD: Final = 2.5
"""Five products against two, forward. Cost models take them to run as well as the forward kernel's two: assumption."""

BACKWARD_FLOPS: Final = {
    "norm": 2.0, "softmax": 1.0, "activation": 2.0, "attention": ATTENTION_BACKWARD, "custom": 2.0, "scan": 2.0,
}  # fmt: skip
"""FLOPs of a backward operator against its forward one; 1 where not listed."""

INVERSE_KIND: Final[dict[type[Work], type[Rows]]] = {
    Gather: Scatter, Scatter: Gather, Embedding: Scatter, TopK: Scatter,
}  # fmt: skip
"""Backward kinds that are not the forward kind."""

NEEDS_OUTPUT: Final = frozenset({"softmax", "attention"})
"""Kinds whose backward pass reads the forward output again."""

FROM_OUTPUT: Final = frozenset({"relu", "relu6", "sigmoid", "tanh"})
"""Functions whose slope follows from their result, which the operators behind need anyway; so that nothing keeps what
went in. Frameworks run them in place for that reason (``torch.nn.ReLU(inplace=True)``)."""
LINEAR: Final = frozenset({"add", "subtract", "sub"})
"""Pointwise arithmetic whose gradients are the incoming one."""

NEEDS_NO_INPUT: Final = frozenset(
    {"softmax", "rotary", "quantize", "gather", "scatter", "copy", "view", "reduce", "resize", "all_reduce",
     "all_gather",
     "reduce_scatter", "all_to_all", "broadcast", "send", "receive"}
)  # fmt: skip
"""Kinds whose backward pass needs the gradient alone (and the indices, which are not floats)."""

LOSS_FLOPS: Final = 6
ADAM_FLOPS: Final = 14
"""Operations per parameter: two moments, their corrections, a root, a division, decay and the update."""

_INPUT_TP: Final = {"column": "row", "row": "column", "vocab": "row"}
"""How the product for an input's gradient is divided: a divided sum becomes a divided result and back."""

_WEIGHT_TP: Final = {"row": "split", "vocab": "column"}
"""How the operator for a weight's gradient is divided: as the weight is, with nothing left to reduce."""


def training_step(forward: Graph, name: str | None = None) -> Graph:
    """One training step of a forward graph whose first output is the logits.

    Every operator says in its place to which pass it belongs: forward, backward or optimizer. Raises
    ``InputError`` for a graph without weights or without outputs.
    """
    if not forward.outputs:
        raise bad_input("the graph names no outputs; training needs the tensor the loss is taken of")
    step = _Step(forward)
    if not any(tensor.role is Role.WEIGHT for tensor in step.tensors.values()):
        raise bad_input("the graph has no weights to train")
    for op in forward.operators:
        step.operators.append(_marked(op, "forward"))
    step.start(forward.outputs[0])
    for op in reversed(forward.operators):
        step.backward(op)
    step.optimize()
    label = name or f"{forward.name}.train"
    return Graph(label, step.tensors, tuple(step.operators), (step.loss,), label, forward.metadata)


@dataclass
class _Step:
    """The graph under construction, with the gradients found so far for each tensor."""

    forward: Graph
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    found: dict[str, list[str]] = field(default_factory=dict)
    trained: dict[str, Operator] = field(default_factory=dict)
    loss: str = "loss"

    def __post_init__(self) -> None:
        self.tensors.update(self.forward.tensors)
        self.wanted = _differentiable(self.forward)
        self.readers = {
            name: sum(1 for reader in readers if name in self.wanted)
            for name, readers in self.forward.consumers.items()
        }

    def start(self, logits: str) -> None:
        """The loss on the logits and its gradient."""
        tensor, last = self.tensors[logits], self.forward.operators[-1]
        elements = prod(tensor.shape)
        self.loss = self._new("loss.value", (1,), "fp32", Role.ACTIVATION)
        grad = self._gradient(logits, "loss")
        columns = tensor.shape[-1] if tensor.shape else 1
        work = Loss(m=elements // max(columns, 1), n=columns, flops_per_element=float(LOSS_FLOPS))
        forward = replace(last.place, training_pass="forward", microbatch=None)
        self._add("loss", work, (logits,), (self.loss,), "fp32", forward)
        backward = replace(forward, training_pass="backward")
        self._add("loss.backward", work, (logits, self.loss), (grad,), "fp32", backward)
        self.found[logits] = [grad]

    def backward(self, op: Operator) -> None:
        """The backward operators of one forward operator, if any gradient reaches it."""
        incoming = [grad for name in op.outputs if (grad := self._collected(name, op)) is not None]
        targets = list(dict.fromkeys(name for name in op.inputs if name in self.wanted))
        if not incoming or not targets:
            return
        for name in targets:
            if self.tensors[name].role is Role.WEIGHT:
                self.trained.setdefault(name, op)
        if isinstance(op.work, Elementwise) and op.work.function == "add" and not op.work.activation:
            for name in targets:
                self.found.setdefault(name, []).append(incoming[0])
        elif op.kind in PRODUCTS:
            self._product(op, incoming, targets)
        else:
            self._pointwise(op, incoming, targets)

    def optimize(self) -> None:
        """AdamW for every weight that got a gradient."""
        for name, op in self.trained.items():
            weight = self.tensors[name]
            grad = self._collected(name, op)
            if grad is None:
                continue
            count = prod(weight.shape)
            kinds = ["m", "v"] if dtype_bits(weight.dtype) >= 32 else ["master", "m", "v"]
            states = tuple(
                self._new(f"{name}.{kind}", weight.shape, "fp32", Role.OPTIMIZER_STATE) for kind in kinds
            )
            work = Optimizer(parameters=count, states=len(states), flops_per_parameter=float(ADAM_FLOPS))
            # A weight without a master copy is read too.
            read = dict.fromkeys((*states, *([name] if len(states) == 2 else [])), count)
            self.operators.append(
                make_operator(
                    f"optimizer.{name}", work, (grad,), (), self.tensors, updates=(name, *states), touched=read,
                    dtype="fp32", place=replace(op.place, training_pass="optimizer", microbatch=None),
                )
            )  # fmt: skip

    def _product(self, op: Operator, incoming: list[str], targets: list[str]) -> None:
        """One product for each activation, one for the weights."""
        weights = [name for name in targets if self.tensors[name].role is Role.WEIGHT]
        operands = [name for name in op.inputs if name not in weights]
        activations = [name for name in targets if name not in weights]
        stored = any(self.tensors[name].role is Role.WEIGHT for name in op.inputs)
        split = [activations] if stored and activations else [[name] for name in activations]
        share = 2.0 if not stored and len(operands) == 1 else 1.0
        for number, group in enumerate(split):
            label = "backward_input" if len(split) == 1 else f"backward_input_{number}"
            others = [name for name in op.inputs if name not in group] or list(op.inputs)
            grads = [self._gradient(name, op.name) for name in group]
            work = _turned(_repeated(op.work, share), swapped=True)
            self._emit(op, label, work, (*incoming, *others), grads, swapped=True)
            self._note(group, grads)
        if weights:
            grads = [self._gradient(name, op.name) for name in weights]
            inputs = (*incoming, *operands)
            work = _turned(op.work, swapped=False, columns=op.place.axis in ("column", "vocab"))
            self._emit(op, "backward_weight", work, inputs, grads, swapped=False)
            self._note(weights, grads)

    def _pointwise(self, op: Operator, incoming: list[str], targets: list[str]) -> None:
        """One operator for all gradients; what joins the residual stream inside a norm shares one of them."""
        again = [] if op.kind in NEEDS_NO_INPUT else list(op.inputs)
        if type(op.work) in INVERSE_KIND:
            again = [name for name in op.inputs if name not in self.wanted]
        again = self._kept(op, again)
        joined = targets
        if isinstance(op.work, Norm) and op.work.adds:
            activations = [name for name in targets if self.tensors[name].role is not Role.WEIGHT]
            joined = [*activations[:1], *(name for name in targets if name not in activations)]
            if len(op.outputs) > 1:
                again = [op.outputs[1], *(name for name in again if name not in activations)]
        grads = [self._gradient(name, op.name) for name in joined]
        inputs = tuple(dict.fromkeys((*incoming, *again)))
        self._emit(op, "backward", self._backward_work(op, incoming), inputs, grads, swapped=True)
        self._note(joined, grads)
        for name in targets:
            if name not in joined:
                self.found.setdefault(name, []).append(grads[0])

    def _kept(self, op: Operator, inputs: list[str]) -> list[str]:
        """What a pointwise operator's backward pass reads of the forward one: inputs, outputs or neither."""
        work = op.work
        if isinstance(work, Activation) and work.function in FROM_OUTPUT and not work.gated:
            return list(op.outputs)
        if isinstance(work, Elementwise) and work.function in LINEAR:
            if work.activation in FROM_OUTPUT:
                return list(op.outputs)
            return inputs if work.activation else []
        return [*inputs, *op.outputs] if op.kind in NEEDS_OUTPUT else inputs

    def _backward_work(self, op: Operator, incoming: list[str]) -> Work:
        """What a backward operator that is no product does."""
        if isinstance(op.work, Quantize):
            return View()  # the gradient goes straight through
        inverse = INVERSE_KIND.get(type(op.work))
        if inverse is None:
            return _repeated(op.work, BACKWARD_FLOPS.get(op.kind, 1.0))
        assert isinstance(op.work, Rows)
        m, n = op.work.m, op.work.n
        added = op.work.flops_per_element
        if isinstance(op.work, Embedding):
            # Every element of the gradient is added to its row.
            added = sum(prod(self.tensors[name].shape) for name in incoming) / max(1, m * n)
        return inverse(m=m, n=n, flops_per_element=added, extra_flops=op.work.extra_flops)

    def _emit(
        self,
        op: Operator,
        label: str,
        work: Work,
        inputs: Iterable[str],
        outputs: list[str],
        *,
        swapped: bool,
    ) -> None:
        axis = op.place.axis
        table = _INPUT_TP if swapped and not isinstance(op.work, Embedding) else _WEIGHT_TP
        place = replace(op.place, training_pass="backward", axis=table.get(axis, axis))
        self._add(f"{op.name}.{label}", work, inputs, outputs, op.dtype, place)

    def _add(
        self, name: str, work: Work, inputs: Iterable[str], outputs: Iterable[str], dtype: str, place: Place
    ) -> None:
        inputs = tuple(inputs)
        # Gradients are gathered and scattered whole; only weights are looked up in part.
        touched = {inputs[0]: prod(self.tensors[inputs[0]].shape)} if isinstance(work, Gather) else NO_PARTS
        self.operators.append(
            make_operator(
                name, work, inputs, outputs, self.tensors, touched=touched, dtype=dtype, place=place
            )
        )

    def _collected(self, name: str, op: Operator) -> str | None:
        """The whole gradient of a tensor: the one found, or the sum of several."""
        grads = self.found.get(name, [])
        if len(grads) < 2:
            return grads[0] if grads else None
        total = self._new(f"{name}.grad", self.tensors[name].shape, self.tensors[name].dtype, Role.GRADIENT)
        distinct = tuple(dict.fromkeys(grads))
        elements = prod(self.tensors[name].shape)
        work = Elementwise(m=1, n=elements, flops_per_element=float(len(grads) - 1), function="add")
        place = replace(op.place, training_pass="backward", microbatch=None)
        self._add(f"{name}.grad_sum", work, distinct, (total,), self.tensors[name].dtype, place)
        self.found[name] = [total]
        return total

    def _gradient(self, name: str, source: str) -> str:
        """A new gradient tensor; it names its source where the tensor has several readers."""
        tensor = self.tensors[name]
        label = f"{name}.grad" if self.readers.get(name, 0) < 2 else f"{name}.grad.{source}"
        dtype = tensor.dtype if dtype_bits(tensor.dtype) >= 16 else "bf16"
        return self._new(label, tensor.shape, dtype, Role.GRADIENT)

    def _new(self, name: str, shape: tuple[int, ...], dtype: str, role: Role) -> str:
        while name in self.tensors:
            name += "'"
        self.tensors[name] = Tensor(name, shape, dtype, role)
        return name

    def _note(self, names: list[str], grads: list[str]) -> None:
        for name, grad in zip(names, grads, strict=True):
            self.found.setdefault(name, []).append(grad)


def _repeated(work: Work, times: float) -> Work:
    """The work done so many times over: pointwise work does more per element, the rest all of it again."""
    if times == 1.0:
        return work
    if isinstance(work, Rows):
        return replace(
            work, flops_per_element=work.flops_per_element * times, extra_flops=work.extra_flops * times
        )
    return replace(work, share=work.share * times, extra_flops=work.extra_flops * times)


def _turned(work: Work, *, swapped: bool, columns: bool = False) -> Work:
    """The sizes of the product for an input's gradient (``swapped``) or for the weight's.

    ``columns``: the weight is divided over its outputs, which are then the columns of its gradient too.
    """
    if not isinstance(work, Product | GroupedProduct):
        return work
    if swapped:
        return replace(work, n=work.k, k=work.n)
    if columns:
        return replace(work, m=work.k, k=work.m)
    return replace(work, m=work.n, n=work.k, k=work.m)


def _marked(op: Operator, name: str) -> Operator:
    return replace(op, place=replace(op.place, training_pass=name))


def _differentiable(graph: Graph) -> set[str]:
    """Float tensors that some weight leads to, and the weights themselves."""
    wanted = {
        tensor.name
        for tensor in graph.tensors.values()
        if tensor.role is Role.WEIGHT and not tensor.dtype.startswith(("int32", "int64", "bool"))
    }
    for op in graph.operators:
        if any(name in wanted for name in op.inputs):
            wanted.update(
                name
                for name in op.outputs
                if not graph.tensors[name].dtype.startswith(("int32", "int64", "bool"))
            )
    return wanted
