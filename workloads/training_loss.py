"""The loss on a model's logits and their gradient, in the form that a framework takes it.

``start_loss`` writes its operators into a step under construction and returns where the backward pass begins. Sizes:
N tokens, V columns. Fused: one kernel each way over the logits as they are. Eager: a cast, a log-softmax and a pick,
N x V each, and as many gradients (10 bytes per logit forward and 14 backward with BF16 logits and an FP32 loss). In
place: the cast copy becomes the probabilities. Chunked: head and loss over N / chunks tokens at a time, gradients at
once. Cut: the product is worked out again where it is needed; of N x V nothing is written but a sum per row
(arXiv:2411.09009, algorithms 1 to 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final, Protocol

from hw_configs.problems import bad_input
from workloads.graph import Graph, Operator, Place, Role, Tensor
from workloads.operators import Elementwise, Loss, Product, Softmax, Work
from workloads.operators.traffic import NO_PARTS
from workloads.step_types import StepTypes

__all__ = ["LossEnd", "StepWriter", "start_loss"]

LOSS_FLOPS: Final = 6.0
SOFTMAX_FLOPS: Final = 5.0
SUM_DTYPE: Final = "fp32"


class StepWriter(Protocol):
    """What a step under construction offers the loss."""

    tensors: dict[str, Tensor]

    def new(self, name: str, shape: tuple[int, ...], dtype: str, role: Role) -> str:
        """A new tensor under a free name."""
        ...

    def add(
        self, name: str, work: Work, inputs: Iterable[str], outputs: Iterable[str], dtype: str, place: Place,
        updates: tuple[str, ...] = (), touched: Mapping[str, int] = NO_PARTS,
    ) -> None:  # fmt: skip
        """Append an operator."""
        ...

    def gradient(self, name: str, source: str) -> str:
        """A new gradient of a tensor."""
        ...


@dataclass(frozen=True)
class LossEnd:
    """Where the backward pass begins: the loss, tensors whose gradients are there, operators that are done with."""

    loss: str
    found: Mapping[str, str]
    done: frozenset[str] = frozenset()
    trained: Mapping[str, Operator] | None = None


def start_loss(w: StepWriter, forward: Graph, types: StepTypes, wanted: Callable[[str], bool]) -> LossEnd:
    """The loss on a graph's first output; ``wanted`` says whether a tensor's gradient is asked for."""
    logits = forward.outputs[0]
    loss = w.new("loss.value", (1,), "fp32", Role.ACTIVATION)
    place = replace(forward.operators[-1].place, training_pass="forward", microbatch=None)
    writer = _Loss(w, forward, types, logits, loss, place)
    if types.loss in ("chunked", "cut"):
        return writer.with_head(wanted)
    return {"fused": writer.fused, "eager": writer.eager, "in-place": writer.in_place}[types.loss]()


@dataclass
class _Loss:
    w: StepWriter
    forward: Graph
    types: StepTypes
    logits: str
    loss: str
    place: Place

    def __post_init__(self) -> None:
        tensor = self.w.tensors[self.logits]
        self.columns = tensor.shape[-1] if tensor.shape else 1
        self.rows = max(prod(tensor.shape) // max(self.columns, 1), 1)
        self.back = replace(self.place, training_pass="backward")
        self.wide = self.types.logits or tensor.dtype

    def _work(self, rows: int | None = None) -> Loss:
        return Loss(m=self.rows if rows is None else rows, n=self.columns, flops_per_element=LOSS_FLOPS)

    def _square(self, label: str, dtype: str, role: Role = Role.ACTIVATION) -> str:
        return self.w.new(label, self.w.tensors[self.logits].shape, dtype, role)

    def fused(self) -> LossEnd:
        """One kernel each way. Logits of the loss's own type are a copy where that is wider."""
        source = self._cast() if self.wide != self.w.tensors[self.logits].dtype else self.logits
        grad = self.w.gradient(self.logits, "loss")
        self.w.add("loss", self._work(), (source,), (self.loss,), SUM_DTYPE, self.place)
        self.w.add("loss.backward", self._work(), (source, self.loss), (grad,), SUM_DTYPE, self.back)
        return LossEnd(self.loss, {self.logits: grad})

    def _cast(self) -> str:
        out = self._square("loss.cast.out", self.wide)
        work = Elementwise(m=self.rows, n=self.columns, flops_per_element=0.0, function="cast")
        self.w.add("loss.cast", work, (self.logits,), (out,), self.wide, self.place)
        return out

    def eager(self) -> LossEnd:
        """Cast, log-softmax, pick; backward each of them."""
        casts = self.wide != self.w.tensors[self.logits].dtype
        source = self._cast() if casts else self.logits
        logs = self._square("loss.log_softmax.out", self.wide)
        softmax = Softmax(m=self.rows, n=self.columns, flops_per_element=SOFTMAX_FLOPS)
        self.w.add("loss.log_softmax", softmax, (source,), (logs,), self.wide, self.place)
        pick = Loss(m=self.rows, n=1, flops_per_element=1.0)
        # The model hands its logits out beside the loss, so that they stay until that is there.
        touched = {logs: self.rows, self.logits: 0}
        self.w.add("loss", pick, (logs, self.logits), (self.loss,), SUM_DTYPE, self.place, touched=touched)
        picked = self._square("loss.picked.grad", self.wide, Role.GRADIENT)
        self.w.add("loss.backward", pick, (self.loss,), (picked,), self.wide, self.back)
        grad = self.w.gradient(self.logits, "loss")
        if not casts:
            self.w.add("loss.log_softmax.backward", softmax, (picked, logs), (grad,), self.wide, self.back)
            return LossEnd(self.loss, {self.logits: grad})
        cast_grad = self._square("loss.cast.out.grad", self.wide, Role.GRADIENT)
        self.w.add("loss.log_softmax.backward", softmax, (picked, logs), (cast_grad,), self.wide, self.back)
        work = Elementwise(m=self.rows, n=self.columns, flops_per_element=0.0, function="cast")
        self.w.add("loss.cast.backward", work, (cast_grad,), (grad,), self.wide, self.back)
        return LossEnd(self.loss, {self.logits: grad})

    def in_place(self) -> LossEnd:
        """The cast copy becomes the probabilities, and these the gradient."""
        source = self._cast()
        grad = self.w.gradient(self.logits, "loss")
        self.w.add("loss", self._work(), (source,), (self.loss,), SUM_DTYPE, self.place)
        self.w.add("loss.backward", self._work(), (source, self.loss), (grad,), SUM_DTYPE, self.back)
        return LossEnd(self.loss, {self.logits: grad})

    def with_head(self, wanted: Callable[[str], bool]) -> LossEnd:
        """Head and loss as one: in pieces of the tokens, or without logits at all."""
        head = self.forward.operator_by_name[self.forward.producer[self.logits]]
        work = head.work
        weights = [name for name in head.inputs if self.w.tensors[name].role is Role.WEIGHT]
        if not isinstance(work, Product) or len(weights) != 1 or len(head.inputs) != 2:
            raise bad_input(
                f"a {self.types.loss} loss takes the output projection along; {head.name!r} is no plain product with a "
                "weight",
                path="loss",
            )
        hidden = next(name for name in head.inputs if name not in weights)
        sides = {name: wanted(name) for name in (hidden, weights[0])}
        write = self._cut if self.types.loss == "cut" else self._chunked
        found = write(head, work, hidden, weights[0], sides)
        trained = {weights[0]: head} if sides[weights[0]] else {}
        return LossEnd(self.loss, found, frozenset({head.name}), trained)

    def _cut(
        self, head: Operator, work: Product, hidden: str, weight: str, sides: Mapping[str, bool]
    ) -> dict[str, str]:
        sums = self.w.new("loss.sums", (self.rows,), SUM_DTYPE, Role.ACTIVATION)
        place = replace(head.place, training_pass="forward")
        self.w.add("loss", work, (hidden, weight), (self.loss, sums), head.dtype, place)
        found = {}
        # Both gradients start from scores that are worked out again; one pass over them serves both.
        share = 2.0 if sides[hidden] != sides[weight] else 1.5
        for name, label in ((hidden, "backward_input"), (weight, "backward_weight")):
            if not sides[name]:
                continue
            grad = self.w.gradient(name, "loss")
            turned = (
                replace(work, n=work.k, k=work.n, share=share)
                if name == hidden
                else replace(work, m=work.n, n=work.k, k=work.m, share=share)
            )
            inputs = (hidden, weight, sums, self.loss)
            self.w.add(
                f"loss.{label}", turned, inputs, (grad,), head.dtype, replace(place, training_pass="backward")
            )
            found[name] = grad
        return found

    def _chunked(
        self, head: Operator, work: Product, hidden: str, weight: str, sides: Mapping[str, bool]
    ) -> dict[str, str]:
        count = min(self.types.loss_chunks, work.m)
        place = replace(head.place, training_pass="forward")
        grads = {name: self.w.gradient(name, "loss") for name in (hidden, weight) if sides[name]}
        dtype = self.w.tensors[self.logits].dtype
        first = True
        for index in range(count):
            rows = work.m * (index + 1) // count - work.m * index // count
            part = f"loss.chunk{index}"
            logits = self.w.new(f"{part}.logits", (rows, work.n), dtype, Role.ACTIVATION)
            grad = self.w.new(f"{part}.grad", (rows, work.n), dtype, Role.GRADIENT)
            product = replace(work, m=rows)
            here = {hidden: rows * work.k}
            self.w.add(f"{part}.head", product, (hidden, weight), (logits,), head.dtype, place, touched=here)
            value, changed = ((self.loss, grad), ()) if first else ((grad,), (self.loss,))
            self.w.add(part, self._work(rows), (logits,), value, SUM_DTYPE, place, changed)
            for name, out in grads.items():
                other = weight if name == hidden else hidden
                turned = (
                    replace(product, n=work.k, k=work.n)
                    if name == hidden
                    else replace(product, m=work.n, n=work.k, k=rows)
                )
                made, updated = ((out,), ()) if first else ((), (out,))
                label = "input" if name == hidden else "weight"
                touched = {other: rows * work.k} if other == hidden else NO_PARTS
                if updated and name == hidden:
                    touched = {**touched, out: rows * work.k}
                self.w.add(
                    f"{part}.backward_{label}",
                    turned,
                    (grad, other),
                    made,
                    head.dtype,
                    place,
                    updated,
                    touched,
                )
            first = False
        return dict(grads)
