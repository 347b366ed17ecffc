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
from dataclasses import dataclass, field
from math import prod
from typing import Final

from hw_configs.problems import bad_input
from workloads.dtypes import dtype_bits, size_bytes
from workloads.graph import Attribute, Graph, Operator, Role, Tensor, legacy_operator, legacy_replace

__all__ = ["training_step"]

PRODUCTS: Final = frozenset({"matmul", "grouped_matmul", "conv", "recurrent"})
"""Kinds whose backward pass is a product per operand."""

ATTENTION_BACKWARD: Final = 2.5
"""Five products against two, forward."""

BACKWARD_FLOPS: Final = {
    "norm": 2.0, "softmax": 1.0, "activation": 2.0, "attention": ATTENTION_BACKWARD, "custom": 2.0,
}  # fmt: skip
"""FLOPs of a backward operator against its forward one; 1 where not listed."""

INVERSE_KIND: Final = {"gather": "scatter", "scatter": "gather", "embedding": "scatter", "topk": "scatter"}
"""Backward kinds that are not the forward kind."""

NEEDS_OUTPUT: Final = frozenset({"softmax", "attention"})
"""Kinds whose backward pass reads the forward output again."""

NEEDS_NO_INPUT: Final = frozenset(
    {"softmax", "rotary", "gather", "scatter", "copy", "view", "reduce", "resize", "all_reduce", "all_gather",
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

    Every operator carries the attribute ``pass``: forward, backward or optimizer. Raises ``InputError`` for
    a graph without weights or without outputs.
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
        base = {"m": elements // max(tensor.shape[-1] if tensor.shape else 1, 1)}
        base["n"] = tensor.shape[-1] if tensor.shape else 1
        place = {key: last.attributes[key] for key in ("layer", "tp") if key in last.attributes}
        size = tensor.size_bytes
        self.operators.append(
            legacy_operator(
                "loss", "loss", (logits,), (self.loss,), float(LOSS_FLOPS * elements), size, 4, "fp32", (),
                {**base, **place, "pass": "forward"},
            )
        )  # fmt: skip
        self.operators.append(
            legacy_operator(
                "loss.backward", "loss", (logits, self.loss), (grad,), float(LOSS_FLOPS * elements), size + 4,
                self.tensors[grad].size_bytes, "fp32", (), {**base, **place, "pass": "backward"},
            )
        )  # fmt: skip
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
        if op.attributes.get("function") == "add" and not op.attributes.get("activation"):
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
            state_bytes = len(states) * size_bytes(count, "fp32")
            weight_bytes = size_bytes(count, weight.dtype)
            own_read = weight_bytes if len(states) == 2 else 0
            attributes: dict[str, Attribute] = {
                "parameters": count, "states": len(states), "pass": "optimizer",
                **{key: op.attributes[key] for key in ("layer", "tp") if key in op.attributes},
            }  # fmt: skip
            self.operators.append(
                legacy_operator(
                    f"optimizer.{name}", "optimizer", (grad,), (), float(ADAM_FLOPS * count),
                    self.tensors[grad].size_bytes + state_bytes + own_read,
                    state_bytes + weight_bytes, "fp32",
                    (name, *states), attributes,
                )
            )  # fmt: skip

    def _product(self, op: Operator, incoming: list[str], targets: list[str]) -> None:
        """One product for each activation, one for the weights."""
        weights = [name for name in targets if self.tensors[name].role is Role.WEIGHT]
        operands = [name for name in op.inputs if name not in weights]
        activations = [name for name in targets if name not in weights]
        stored = [name for name in op.inputs if self.tensors[name].role is Role.WEIGHT]
        split = [activations] if stored and activations else [[name] for name in activations]
        share = 2.0 if not stored and len(operands) == 1 else 1.0
        for number, group in enumerate(split):
            label = "backward_input" if len(split) == 1 else f"backward_input_{number}"
            others = [name for name in op.inputs if name not in group] or list(op.inputs)
            read = (
                self._size(incoming)
                + self._weights_read(op, stored)
                + self._size(name for name in others if name not in stored)
            )
            grads = [self._gradient(name, op.name) for name in group]
            self._emit(op, label, op.kind, (*incoming, *others), grads, op.flops * share, read, swapped=True)
            self._note(group, grads)
        if weights:
            grads = [self._gradient(name, op.name) for name in weights]
            inputs = (*incoming, *operands)
            self._emit(op, "backward_weight", op.kind, inputs, grads, op.flops, None, swapped=False)
            self._note(weights, grads)

    def _pointwise(self, op: Operator, incoming: list[str], targets: list[str]) -> None:
        """One operator for all gradients; what joins the residual stream inside a norm shares one of them."""
        again = [] if op.kind in NEEDS_NO_INPUT else list(op.inputs)
        if op.kind in ("embedding", "gather", "scatter", "topk"):
            again = [name for name in op.inputs if name not in self.wanted]
        if op.kind in NEEDS_OUTPUT:
            again += op.outputs
        joined = targets
        adds = int(op.attributes.get("adds", 0))
        if op.kind == "norm" and adds:
            activations = [name for name in targets if self.tensors[name].role is not Role.WEIGHT]
            joined = [*activations[:1], *(name for name in targets if name not in activations)]
            if len(op.outputs) > 1:
                again = [op.outputs[1], *(name for name in again if name not in activations)]
        grads = [self._gradient(name, op.name) for name in joined]
        inputs = tuple(dict.fromkeys((*incoming, *again)))
        kind = INVERSE_KIND.get(op.kind, op.kind)
        flops = op.flops * BACKWARD_FLOPS.get(op.kind, 1.0)
        read = self._size(inputs)
        if op.kind == "embedding":
            flops = float(sum(prod(self.tensors[name].shape) for name in incoming))
        self._emit(op, "backward", kind, inputs, grads, flops, 0 if op.kind == "view" else read, swapped=True)
        self._note(joined, grads)
        for name in targets:
            if name not in joined:
                self.found.setdefault(name, []).append(grads[0])

    def _emit(
        self, op: Operator, label: str, kind: str, inputs: Iterable[str], outputs: list[str], flops: float,
        read: int | None, *, swapped: bool,
    ) -> None:  # fmt: skip
        inputs = tuple(inputs)
        attributes = dict(op.attributes)
        attributes["pass"] = "backward"
        if "m" in attributes and kind in ("matmul", "grouped_matmul") and "k" in attributes:
            m, n, k = attributes["m"], attributes["n"], attributes["k"]
            attributes.update({"m": m, "n": k, "k": n} if swapped else {"m": n, "n": k, "k": m})
        if "tp" in attributes:
            table = _INPUT_TP if swapped and op.kind != "embedding" else _WEIGHT_TP
            attributes["tp"] = table.get(str(op.attributes["tp"]), attributes["tp"])
        write = 0 if kind == "view" else self._size(outputs)
        self.operators.append(
            legacy_operator(
                f"{op.name}.{label}", kind, inputs, tuple(outputs), flops,
                self._size(inputs) if read is None else read, write, op.dtype, (), attributes,
            )
        )  # fmt: skip

    def _collected(self, name: str, op: Operator) -> str | None:
        """The whole gradient of a tensor: the one found, or the sum of several."""
        grads = self.found.get(name, [])
        if len(grads) < 2:
            return grads[0] if grads else None
        total = self._new(f"{name}.grad", self.tensors[name].shape, self.tensors[name].dtype, Role.GRADIENT)
        distinct = tuple(dict.fromkeys(grads))
        elements = prod(self.tensors[name].shape)
        place = {key: op.attributes[key] for key in ("layer", "tp") if key in op.attributes}
        self.operators.append(
            legacy_operator(
                f"{name}.grad_sum", "elementwise", distinct, (total,), float((len(grads) - 1) * elements),
                self._size(distinct), self.tensors[total].size_bytes, self.tensors[name].dtype, (),
                {**place, "m": 1, "n": elements, "function": "add", "pass": "backward"},
            )
        )  # fmt: skip
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

    def _size(self, names: Iterable[str]) -> int:
        return sum(self.tensors[name].size_bytes for name in names)

    def _weights_read(self, op: Operator, stored: list[str]) -> int:
        """Weight bytes the forward operator read: of a mixture, the experts that were chosen."""
        whole = self._size(stored)
        groups, touched = op.attributes.get("groups"), op.attributes.get("expected_groups")
        if op.kind == "grouped_matmul" and isinstance(groups, int) and isinstance(touched, float):
            return round(whole * touched / groups)
        return whole


def _marked(op: Operator, name: str) -> Operator:
    return legacy_replace(op, attributes={**op.attributes, "pass": name})


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
