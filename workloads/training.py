"""A training step from any forward graph: loss, backward pass and AdamW, by one rule per operator kind.

The backward pass walks the forward operators in reverse. A product becomes two: one for the gradient of its
input, one for the gradient of its weight, each with the forward FLOPs. Attention recomputes its scores, five
products for the forward two (FlashAttention-2, arXiv:2307.08691, section 3.1). Forward activations that a
backward operator reads stay alive until then, because they are its inputs.

A tensor that several operators read collects as many gradients; an operator adds them up. The gradient of an
addition is the gradient of its sum: no operator, the same tensor. AdamW keeps first and second moment in fp32
and, under weights narrower than that, a master copy of them (ZeRO, arXiv:1910.02054, section 3.1).

Element types, the form of the loss and of what is kept are a :class:`~workloads.step_types.StepTypes`; which weights
are trained, and how, a :class:`~workloads.trained_parts.TrainedParts`. Gradients go no further down than the lowest
trained weight, and what no gradient needs is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

from hw_configs.problems import bad_input
from workloads.dtypes import dtype_bits
from workloads.graph import Graph, Operator, Place, Role, Tensor, make_operator
from workloads.operators import (
    Activation,
    Copy,
    Elementwise,
    Embedding,
    Gather,
    GroupedProduct,
    Norm,
    Product,
    Quantize,
    Rows,
    Scatter,
    TopK,
    View,
    Work,
)  # fmt: skip
from workloads.operators.traffic import NO_PARTS
from workloads.saved_activations import PLAIN_FORM, EagerForm, Kept, kept_by
from workloads.step_types import PLAIN_TYPES, StepTypes
from workloads.trained_parts import ALL_TRAINED, FROZEN, FULL, TrainedParts, WeightMethod, without_match
from workloads.training_loss import LossEnd, start_loss
from workloads.weight_methods import narrow_bytes
from workloads.weight_updates import Trained, update_weights

__all__ = ["PLAIN_STEP", "StepOptions", "training_step"]

PRODUCTS: Final = frozenset({"matmul", "grouped_matmul", "conv", "recurrent", "linear_attention"})
"""Kinds whose backward pass is a product per operand."""

ATTENTION_BACKWARD: Final = 2.5
"""Five products against two, forward. GPUs have prices of their own for the backward kernel; other devices run it as
well as the forward one (assumption)."""

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

WITH_THE_KERNEL: Final = frozenset({"mean", "root", "indices", "sums", "cosines", "sines", "factor"})
"""Storages that a kernel writes beside its result, or that all layers share."""
DOUBLE_NF4_BITS: Final = 4 + 8 / 64 + 32 / (64 * 256)
"""NF4 with a quantised scale per 64 elements and an FP32 one per 256 of these (QLoRA, arXiv:2305.14314, section 3)."""
PACKED_GROUP: Final = 256
PACKED_SCALES: Final = 4
"""Bytes of a 16-bit scale and offset for each group of saved values."""

_INPUT_TP: Final = {"column": "row", "row": "column", "vocab": "row"}
"""How the product for an input's gradient is divided: a divided sum becomes a divided result and back."""

_WEIGHT_TP: Final = {"row": "split", "vocab": "column"}
"""How the operator for a weight's gradient is divided: as the weight is, with nothing left to reduce."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a step is trained: element types, trained parts, and how the family's eager code is written."""

    types: StepTypes = PLAIN_TYPES
    parts: TrainedParts = ALL_TRAINED
    form: EagerForm = PLAIN_FORM


PLAIN_STEP: Final = StepOptions()


def training_step(forward: Graph, name: str | None = None, options: StepOptions = PLAIN_STEP) -> Graph:
    """One training step of a forward graph whose first output is the logits.

    Every operator says in its place to which pass it belongs: forward, backward or optimizer. Raises
    ``InputError`` for a graph without weights or without outputs, and for a pattern that fits no weight.
    """
    if not forward.outputs:
        raise bad_input("the graph names no outputs; training needs the tensor the loss is taken of")
    weights = [tensor.name for tensor in forward.tensors.values() if tensor.role is Role.WEIGHT]
    if not weights:
        raise bad_input("the graph has no weights to train")
    if not options.parts.everything:
        without_match(options.parts, weights)
    step = _Step(forward, options)
    if not any(method.method != "frozen" for method in step.methods.values()):
        raise bad_input("every weight is frozen: nothing is left to train", path="--train")
    end = step.start()
    for op in [] if options.parts.forward_only else reversed(forward.operators):
        if op.name not in end.done:
            step.backward(op)
    step.optimize()
    label = name or f"{forward.name}.train"
    operators = (*step.forward_pass(end.done), *step.operators)
    return Graph(label, step.tensors, operators, (step.loss,), label, forward.metadata)


@dataclass
class _Step:
    """The graph under construction, with the gradients found so far for each tensor.

    ``operators`` are those behind the forward pass; what a forward operator needs before it and leaves behind it stands
    in ``before`` and ``after`` by its name.
    """

    forward: Graph
    options: StepOptions
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    found: dict[str, list[str]] = field(default_factory=dict)
    trained: dict[str, Operator] = field(default_factory=dict)
    methods: dict[str, WeightMethod] = field(default_factory=dict)
    before: dict[str, list[Operator]] = field(default_factory=dict)
    after: dict[str, list[Operator]] = field(default_factory=dict)
    renamed: dict[tuple[str, str], str] = field(default_factory=dict)
    """(operator, weight) -> the copy of the weight that it reads."""
    packed: dict[str, str] = field(default_factory=dict)
    """Activation -> its copy in few bits that the backward pass is left."""
    loss: str = "loss"

    def __post_init__(self) -> None:
        self.types, self.parts = self.options.types, self.options.parts
        self.tensors.update(self.forward.tensors)
        for name, tensor in self.forward.tensors.items():
            if tensor.role is Role.WEIGHT:
                adapter = ".lora" in name and self.parts.adapters is not None
                self.methods[name] = FULL if adapter else self.parts.method_of(name)
        self._hold_weights()
        self.wanted = _differentiable(
            self.forward, {name for name, method in self.methods.items() if method != FROZEN}
        )
        self.readers = {
            name: sum(1 for reader in readers if name in self.wanted)
            for name, readers in self.forward.consumers.items()
        }

    def _hold_weights(self) -> None:
        """Weights in the types in which they are held, and the copies that products read instead."""
        outer = self._outer_weights()
        for op in self.forward.operators:
            if op.kind not in PRODUCTS:
                continue
            for name in op.inputs:
                tensor = self.forward.tensors[name]
                if tensor.role is not Role.WEIGHT or len(tensor.shape) < 2:
                    continue
                if name in outer and self.methods[name] == FROZEN:
                    continue
                held = self._held_type(name)
                if held and held != tensor.dtype:
                    self._narrowed(op, tensor, held)
        for name, method in self.methods.items():
            tensor = self.tensors[name]
            wide = self.types.weights
            if wide and method != FROZEN and tensor is self.forward.tensors[name] and _is_float(tensor):
                self.tensors[name] = Tensor(name, tensor.shape, wide, Role.WEIGHT)

    def _outer_weights(self) -> set[str]:
        """Tables and the output projection, which quantised checkpoints leave as they are."""
        return {
            name
            for op in self.forward.operators
            if isinstance(op.work, Embedding) or set(op.outputs) & set(self.forward.outputs)
            for name in op.inputs
            if self.forward.tensors[name].role is Role.WEIGHT
        }

    def _held_type(self, name: str) -> str:
        """The type that a matrix is held in, where products read a copy of it."""
        method = self.methods[name]
        if method.method == "scales":
            return f"int{method.bits}"
        if method == FROZEN:
            return "" if ".lora" in name else self.parts.base
        return self.types.weights

    def _narrowed(self, op: Operator, tensor: Tensor, held: str) -> None:
        """A weight held in another type, and the copy of it before an operator that reads it."""
        name = tensor.name
        size = -1
        if dtype_bits(held) <= 8 and not held.startswith(("nf4", "fp8")):
            size = narrow_bytes(prod(tensor.shape), held, self.methods[name].group)
        if held == "nf4" and self.parts.double:
            size = round(prod(tensor.shape) * DOUBLE_NF4_BITS / 8)
        self.tensors[name] = Tensor(name, tensor.shape, held, Role.WEIGHT, size)
        # A wide weight is cast once and the copy kept; a narrow one is expanded whenever it is read.
        casts = dtype_bits(held) > dtype_bits(tensor.dtype)
        copy = f"{name}.cast" if casts else f"{name}.expanded.{op.name}"
        self.renamed[op.name, name] = copy
        if copy in self.tensors:
            return
        self.tensors[copy] = replace(tensor, name=copy, role=Role.ACTIVATION)
        self.before.setdefault(op.name, []).append(self._conversion(op, name, copy, "forward"))

    def _conversion(self, op: Operator, source: str, target: str, which: str) -> Operator:
        elements = prod(self.tensors[target].shape)
        narrow = dtype_bits(self.tensors[source].dtype) < 16
        work = Elementwise(
            m=1, n=elements, flops_per_element=2.0 * narrow, function="dequantize" if narrow else "cast"
        )
        place = replace(op.place, training_pass=which)
        return make_operator(
            f"{target}.{which}", work, (source,), (target,), self.tensors, dtype=op.dtype, place=place
        )

    def forward_pass(self, done: frozenset[str]) -> list[Operator]:
        """The forward operators with what stands before and behind them; those done by the loss are left out."""
        found: list[Operator] = []
        for op in self.forward.operators:
            if op.name in done:
                continue
            marked = _marked(op, "forward")
            names = {
                name: self.renamed[op.name, name] for name in op.inputs if (op.name, name) in self.renamed
            }
            if names:
                marked = replace(marked, inputs=tuple(names.get(name, name) for name in op.inputs))
            found += [*self.before.get(op.name, ()), marked, *self.after.get(op.name, ())]
        if not self.parts.forward_only:
            return found
        # Gradients come from the difference of two losses: everything runs twice, nothing is kept.
        second = [self._again(op) for op in found]
        return [*found, *second]

    def _again(self, op: Operator) -> Operator:
        """A forward operator of the second pass; what only the graph's inputs and weights give is its own."""

        def other(name: str) -> str:
            if name not in self.forward.producer and self.tensors[name].role is not Role.ACTIVATION:
                return name
            if name not in self.forward.producer and name in self.forward.tensors:
                return name
            twin = f"{name}.second"
            self.tensors.setdefault(twin, replace(self.tensors[name], name=twin))
            return twin

        return replace(
            op,
            name=f"{op.name}.second",
            inputs=tuple(map(other, op.inputs)),
            outputs=tuple(map(other, op.outputs)),
        )

    def start(self) -> LossEnd:
        """The loss on the logits and its gradient, if anything leads to it."""
        if self.parts.forward_only:
            return self._two_losses()
        end = start_loss(self, self.forward, self.types, lambda name: name in self.wanted)
        self.loss = end.loss
        for name, grad in end.found.items():
            self.found.setdefault(name, []).append(grad)
        for name, op in (end.trained or {}).items():
            self.trained.setdefault(name, op)
        return end

    def _two_losses(self) -> LossEnd:
        """The losses of two forward passes that differ in the trained weights."""
        end = start_loss(self, self.forward, replace(self.types, loss="fused"), lambda _: False)
        self.operators = [op for op in self.operators if op.place.training_pass == "forward"]
        self.operators += [self._again(op) for op in self.operators]
        self.loss = end.loss
        for name, method in self.methods.items():
            if method != FROZEN:
                reader = self.forward.operator_by_name[self.forward.consumers[name][0]]
                self.trained[name] = reader
                self.found[name] = [self.loss]
        return end

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
            grad = self._collected(name, op)
            if grad is not None:
                weight = Trained(self.tensors[name], self.methods[name], grad, op)
                update_weights(self, weight, self.types, forward_only=self.parts.forward_only)

    def _product(self, op: Operator, incoming: list[str], targets: list[str]) -> None:
        """One product for each activation, one for the weights."""
        weights = [name for name in targets if self.tensors[name].role is Role.WEIGHT]
        held = [name for name in op.inputs if self.tensors[name].role is Role.WEIGHT]
        operands = [name for name in op.inputs if name not in held]
        activations = [name for name in targets if name not in weights]
        kept = self._storages(op)
        instead = kept.instead or {}
        # What stands behind the product (a cap on the logits) is undone with it.
        beside = [one.name for one in kept.made if one.name not in instead.values()]
        split = [activations] if held and activations else [[name] for name in activations]
        share = 2.0 if not held and len(operands) == 1 else 1.0
        for number, group in enumerate(split):
            label = "backward_input" if len(split) == 1 else f"backward_input_{number}"
            # Of several operands each gradient reads the others; a weight's product reads the weight alone.
            others = [name for name in op.inputs if name not in group] or list(op.inputs)
            if held:
                others = [name for name in others if name in held or name not in self.wanted]
                frozen = [name for name in others if name in held and len(self.tensors[name].shape) < 2]
                others = [name for name in others if name not in frozen or name in weights] or others
            grads = [self.gradient(name, op.name) for name in group]
            work = _turned(_repeated(op.work, share), swapped=True)
            read = [self._readable(op, instead.get(name, name)) for name in others]
            self._emit(op, label, work, (*incoming, *read, *beside), grads, swapped=True)
            self._note(group, grads)
        if weights:
            self._weight_gradients(op, incoming, weights, [instead.get(name, name) for name in operands])

    def _weight_gradients(
        self, op: Operator, incoming: list[str], weights: list[str], operands: list[str]
    ) -> None:
        """The product for the weights' gradients, from whole inputs or from the part that the method keeps."""
        method = next((self.methods[name] for name in weights if len(self.tensors[name].shape) > 1), FULL)
        axis = op.place.axis in ("column", "vocab")
        work: Work = op.work
        if method.method == "columns" and isinstance(work, Product):
            rank = min(method.rank, work.k)
            operands = [self._partial(op, operands[0], (work.m, rank), "columns")]
            work = replace(work, k=rank)
        elif method.method == "sampled" and isinstance(work, Product):
            rows = max(round(work.m * method.share), 1)
            operands = [self._partial(op, operands[0], (rows, work.k), "sampled")]
            work = replace(work, m=rows)
        grads = []
        for name in weights:
            shape = self.tensors[name].shape
            if method.method == "columns" and len(shape) == 2:
                shape = (shape[0], min(method.rank, shape[1]))
            grads.append(self.gradient(name, op.name, shape))
        turned = _turned(work, swapped=False, columns=axis)
        self._emit(op, "backward_weight", turned, (*incoming, *operands), grads, swapped=False)
        self._note(weights, grads)

    def _partial(self, op: Operator, source: str, shape: tuple[int, int], label: str) -> str:
        """The part of an input that the backward pass is left, copied behind the forward operator."""
        tensor = self.tensors[source]
        out = self.new(f"{op.name}.{label}", shape, tensor.dtype, Role.ACTIVATION)
        work = Copy(m=shape[0], n=shape[1], function="crop")
        self.after.setdefault(op.name, []).append(
            make_operator(
                f"{op.name}.{label}.copy", work, (source,), (out,), self.tensors, touched={source: prod(shape)},
                dtype=op.dtype, place=replace(op.place, training_pass="forward"),
            )
        )  # fmt: skip
        return out

    def _readable(self, op: Operator, name: str) -> str:
        """What the backward pass reads for a weight: itself, the copy that was cast, or a copy expanded anew."""
        copy = self.renamed.get((op.name, name))
        if copy is None or copy.endswith(".cast"):
            return copy or name
        again = self.new(f"{copy}.again", self.tensors[copy].shape, self.tensors[copy].dtype, Role.ACTIVATION)
        self.operators.append(self._conversion(op, name, again, "backward"))
        return again

    def _storages(self, op: Operator) -> Kept:
        """What eager code keeps of an operator, its own storages written before it; nothing of fused kernels."""
        if not self.types.eager:
            return Kept()
        form = self.options.form
        if self.types.softmax:
            form = replace(form, softmax=self.types.softmax)
        kept = kept_by(op, self.forward, form)
        for name, storage in (kept.instead or {}).items():
            if storage not in self.tensors and storage not in {one.name for one in kept.made}:
                # A storage that the operator before makes, whose own turn comes later.
                self._storages(self.forward.operator_by_name[self.forward.producer[name]])
        for one in kept.made:
            if one.name in self.tensors:
                continue
            self.tensors[one.name] = one
            label = one.name.rpartition(".")[2]
            # Figures per row come with the kernel itself; copies and steps read what they are made of.
            source = op.inputs[0]
            count = 0 if label in WITH_THE_KERNEL else min(prod(self.tensors[source].shape), prod(one.shape))
            work = Elementwise(m=1, n=prod(one.shape), flops_per_element=float(count > 0), function=label)
            self.before.setdefault(op.name, []).append(
                make_operator(
                    f"{one.name}.make", work, (source,), (one.name,), self.tensors, touched={source: count},
                    dtype=one.dtype, place=replace(op.place, training_pass="forward"),
                )
            )  # fmt: skip
        return kept

    def _pointwise(self, op: Operator, incoming: list[str], targets: list[str]) -> None:
        """One operator for all gradients; what joins the residual stream inside a norm shares one of them."""
        again = self._read_again(op, targets)
        joined = targets
        if isinstance(op.work, Norm) and op.work.adds:
            activations = [name for name in targets if self.tensors[name].role is not Role.WEIGHT]
            joined = [*activations[:1], *(name for name in targets if name not in activations)]
            if len(op.outputs) > 1:
                again = [op.outputs[1], *(name for name in again if name not in activations)]
        grads = [self.gradient(name, op.name) for name in joined]
        inputs = tuple(dict.fromkeys((*incoming, *again)))
        self._emit(op, "backward", self._backward_work(op, incoming), inputs, grads, swapped=True)
        self._note(joined, grads)
        for name in targets:
            if name not in joined:
                self.found.setdefault(name, []).append(grads[0])

    def _read_again(self, op: Operator, targets: list[str]) -> list[str]:
        """What a pointwise operator's backward pass reads of the forward one."""
        if self.types.eager:
            kept = self._storages(op)
            weights = [name for name in op.inputs if self.tensors[name].role is Role.WEIGHT]
            trained = any(name in targets for name in weights)
            made = [one.name for one in kept.made if trained or not one.name.endswith(".normed")]
            params = weights if isinstance(op.work, Norm) else []
            return list(dict.fromkeys((*kept.tensors, *made, *params)))
        again = [] if op.kind in NEEDS_NO_INPUT else list(op.inputs)
        if type(op.work) in INVERSE_KIND:
            again = [name for name in op.inputs if name not in self.wanted]
        return self._kept(op, again)

    def _kept(self, op: Operator, inputs: list[str]) -> list[str]:
        """What a pointwise operator's backward pass reads of the forward one: inputs, outputs or neither."""
        work = op.work
        if isinstance(work, Activation) and work.function in FROM_OUTPUT and not work.gated:
            return list(op.outputs)
        if isinstance(work, Elementwise) and work.function == "dropout":
            return list(op.outputs[1:])
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
        bits = dict(self.parts.saved_bits).get(op.kind)
        if bits is not None:
            inputs = [self._unpacked(op, name, bits) for name in inputs]
        self.add(f"{op.name}.{label}", work, inputs, outputs, op.dtype, place)

    def _unpacked(self, op: Operator, name: str, bits: float) -> str:
        """A saved activation from its copy in few bits, which is made behind the operator that reads it first."""
        tensor = self.tensors[name]
        if tensor.role is not Role.ACTIVATION or not _is_float(tensor) or dtype_bits(tensor.dtype) <= bits:
            return name
        if name not in self.forward.producer and name not in self._made():
            return name
        elements = prod(tensor.shape)
        place = replace(op.place, training_pass="forward")
        if name not in self.packed:
            size = -(-round(elements * bits) // 8) + -(-elements // PACKED_GROUP) * PACKED_SCALES
            copy = self.new(f"{name}.packed", tensor.shape, "int8", Role.ACTIVATION)
            self.tensors[copy] = replace(self.tensors[copy], size_bytes=size)
            self.packed[name] = copy
            work: Work = Quantize(m=1, n=elements, to_dtype="int8", flops_per_element=4.0)
            self.after.setdefault(op.name, []).append(
                make_operator(
                    f"{copy}.pack", work, (name,), (copy,), self.tensors, dtype=op.dtype, place=place
                )
            )
        out = self.new(f"{name}.unpacked", tensor.shape, tensor.dtype, Role.ACTIVATION)
        work = Elementwise(m=1, n=elements, flops_per_element=2.0, function="dequantize")
        back = replace(op.place, training_pass="backward")
        self.add(f"{out}.unpack", work, (self.packed[name],), (out,), op.dtype, back)
        return out

    def _made(self) -> set[str]:
        """Storages that stand before and behind forward operators."""
        return {
            name for ops in (*self.before.values(), *self.after.values()) for op in ops for name in op.outputs
        }

    def add(
        self, name: str, work: Work, inputs: Iterable[str], outputs: Iterable[str], dtype: str, place: Place,
        updates: tuple[str, ...] = (), touched: Mapping[str, int] = NO_PARTS,
    ) -> None:  # fmt: skip
        """Append an operator behind the forward pass."""
        inputs = tuple(inputs)
        if isinstance(work, Gather):
            # Gradients are gathered and scattered whole; only weights are looked up in part.
            touched = {inputs[0]: prod(self.tensors[inputs[0]].shape)}
        self.operators.append(
            make_operator(
                name, work, inputs, tuple(outputs), self.tensors, updates=updates, touched=touched, dtype=dtype,
                place=place,
            )
        )  # fmt: skip

    def _collected(self, name: str, op: Operator) -> str | None:
        """The whole gradient of a tensor: the one found, or the sum of several."""
        grads = self.found.get(name, [])
        if len(grads) < 2:
            return grads[0] if grads else None
        model = self.tensors[grads[0]]
        dtype = self.tensors[name].dtype if name not in self.methods else model.dtype
        total = self.new(f"{name}.grad", model.shape, dtype, Role.GRADIENT)
        distinct = tuple(dict.fromkeys(grads))
        elements = prod(model.shape)
        work = Elementwise(m=1, n=elements, flops_per_element=float(len(grads) - 1), function="add")
        place = replace(op.place, training_pass="backward", microbatch=None)
        self.add(f"{name}.grad_sum", work, distinct, (total,), dtype, place)
        self.found[name] = [total]
        return total

    def gradient(self, name: str, source: str, shape: tuple[int, ...] | None = None) -> str:
        """A new gradient tensor; it names its source where the tensor has several readers."""
        tensor = self.tensors[name]
        label = f"{name}.grad" if self.readers.get(name, 0) < 2 else f"{name}.grad.{source}"
        own = self.forward.tensors[name].dtype if name in self.forward.tensors else tensor.dtype
        dtype = own if dtype_bits(own) >= 16 else "bf16"
        if name in self.methods:
            dtype = self.types.gradients or self.types.weights or dtype
        return self.new(label, tensor.shape if shape is None else shape, dtype, Role.GRADIENT)

    def new(self, name: str, shape: tuple[int, ...], dtype: str, role: Role) -> str:
        """A new tensor under the name, or the next free one behind it."""
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


def _is_float(tensor: Tensor) -> bool:
    return not tensor.dtype.startswith(("int32", "int64", "bool"))


def _differentiable(graph: Graph, trained: set[str]) -> set[str]:
    """Float tensors that some trained weight leads to, and those weights themselves."""
    wanted = {name for name in trained if _is_float(graph.tensors[name])}
    for op in graph.operators:
        if any(name in wanted for name in op.inputs):
            wanted.update(name for name in op.outputs if _is_float(graph.tensors[name]))
    return wanted
