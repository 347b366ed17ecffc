"""A rank's step as a framework's kernels run it: what stands beside the graph's own operators, as operators.

What is added moves bytes of no named tensor, so that no price is hidden in a constant and no address changes, but for
the scores of unfused attention, which are kept: unfused passes, casts and transposes of narrow formats, dropout, copies
beside sharded collectives, sums of gradients. The graph's own operators keep their tensors; a linear layer takes its
recipe's element type, and attention its library or, unfused, the first of its products.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import Final

from mapping.training.kernel_style import KernelStyle, style_of
from mapping.training.setup import TrainingSetup
from workloads.graph import Graph, Operator, Place, Role, Tensor
from workloads.operators import (
    Activation,
    AllGather,
    Attention,
    CollectiveWork,
    Custom,
    Elementwise,
    Loss,
    Norm,
    Optimizer,
    Product,
    ReduceScatter,
    Rotary,
)

__all__ = ["with_kernels"]

OPTIMIZER_PASSES: Final = {"ideal": 1.0, "fused": 1.0, "foreach": 2.5, "loop": 3.0}
"""Times that the optimizer's bytes pass: AdamW in one kernel, as lists of PyTorch's foreach kernels (each of about ten
operations reads one or two lists and writes one), or tensor by tensor with decay apart."""
SHARD_COPIES: Final = {"flat": (8.0, 10.0), "tensors": (6.0, 8.0), "buckets": (0.0, 0.0), "": (0.0, 0.0)}
"""Bytes read and written per weight and micro-batch beside sharded collectives. FSDP's flat parameters: gradients are
joined (2, 2), made fp32 (2, 4) and divided (4, 4). FSDP2: gathered weights are copied out twice (2, 2 each), gradients
into chunks (2, 4)."""
RMS_EAGER: Final = 22.0
"""Bytes per element of an RMS norm in PyTorch's own operators beside those of one kernel: the input in fp32 (2, 4),
its square (4, 4), the mean (4), product (4, 4) and the result in 16 bits times the weight (4, 2, 2, 2), less 2, 2."""
ROTARY_EAGER: Final = 16.0
"""Bytes per element of a rotary embedding through complex fp32 numbers beside those of one kernel: made fp32 (2, 4),
multiplied (4, 4), made 16 bits (4, 2), less 2 and 2. torch.compile leaves complex numbers to PyTorch."""
LOSS_UPCAST: Final = {"forward": 12.0, "backward": 18.0}
"""Bytes per logit beside one pass: made fp32 (2, 4) and a softmax of them (4, 4), less 2; backward the gradient of the
softmax and the logits (4, 4, 4), cleared and made 16 bits (4, 4, 2), less 2 and 2."""


def with_kernels(graph: Graph, setup: TrainingSetup) -> Graph:
    """The step of a rank as the setup's framework runs it; the graph itself for the plain one."""
    style = style_of(setup.framework)
    if style.ideal:
        return graph
    return _Writer(graph, setup, style).run()


@dataclass
class _Writer:
    graph: Graph
    setup: TrainingSetup
    style: KernelStyle
    operators: list[Operator] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    """What unfused attention makes of scores, by name."""

    def run(self) -> Graph:
        for op in self.graph.operators:
            self._write(op)
        if not self.scores:
            return replace(self.graph, operators=tuple(self.operators))
        tensors = {**self.graph.tensors, **self.scores}
        return replace(self.graph, operators=tuple(self.operators), tensors=tensors)

    def _write(self, op: Operator) -> None:
        work = op.work
        if isinstance(work, Attention):
            self._attention(op, work)
            return
        if isinstance(work, Product) and self._linear(op):
            self._product(op, work)
            return
        if isinstance(work, CollectiveWork) and work.parallel == "tensor":
            self.operators.append(self._beside_products(op, work))
            return
        self.operators.append(op)
        if isinstance(work, Norm):
            self._norm(op)
        elif isinstance(work, Activation):
            self._activation(op)
        elif isinstance(work, Rotary):
            self._rotary(op)
        elif isinstance(work, Loss) and self.setup.state_types.step.loss == "fused":
            # Other forms of the loss stand in the graph, operator by operator.
            self._loss(op)
        elif isinstance(work, Optimizer):
            self._optimizer(op, work)

    def _kernel(
        self, op: Operator, label: str, read: float, written: float, place: Place | None = None
    ) -> None:
        """A kernel that streams so many bytes, of no named tensor."""
        if read + written <= 0:
            return
        count = max(1, int(max(read, written)) // 2)
        work = Elementwise(m=1, n=count, function=label)
        self.operators.append(
            Operator(
                f"{op.name}#{label}", work, (), (), dtype="bf16", beside_read=int(read), beside_written=int(written),
                place=place or op.place,
            )
        )  # fmt: skip

    # Pointwise kernels.

    def _norm(self, op: Operator) -> None:
        assert isinstance(op.work, Norm)
        elements = self._elements(op)
        backward = op.place.training_pass == "backward"
        eager = self.style.pointwise == "eager" and not self.setup.state_types.step.eager
        if backward:
            # Gradients of the weights come from a second walk over the input and the incoming gradient.
            self._kernel(op, "weights", 4.0 * elements, 0.0)
            if eager and op.work.norm == "rms":
                self._kernel(op, "unfused", RMS_EAGER * elements, 0.5 * RMS_EAGER * elements)
            if self.style.pointwise in ("eager", "megatron") and op.work.adds:
                self._kernel(op, "residual", 2.0 * elements, 2.0 * elements)
            return
        if op.work.adds and self.style.pointwise in ("eager", "megatron"):
            # The sum of the residual stream is a kernel of its own, whose result the norm reads again.
            self._kernel(op, "residual", 2.0 * elements, 0.0)
        if eager and op.work.norm == "rms":
            self._kernel(op, "unfused", 0.6 * RMS_EAGER * elements, 0.4 * RMS_EAGER * elements)
        if self.style.dropout and op.work.adds:
            self._kernel(op, "dropout", 0.0, elements)

    def _activation(self, op: Operator) -> None:
        assert isinstance(op.work, Activation)
        if self.style.pointwise != "eager" or not op.work.gated or self.setup.state_types.step.eager:
            return
        backward = op.place.training_pass == "backward"
        half = (op.write_bytes if not backward else op.write_bytes // 2) // 2
        self._kernel(op, "unfused", (6.0 if backward else 2.0) * half, 2.0 * half)

    def _rotary(self, op: Operator) -> None:
        if self.style.pointwise in ("eager", "compiled"):
            elements = op.write_bytes / 2
            self._kernel(op, "complex", 0.6 * ROTARY_EAGER * elements, 0.4 * ROTARY_EAGER * elements)

    def _loss(self, op: Operator) -> None:
        if self.style.loss == "upcast":
            more = LOSS_UPCAST.get(op.place.training_pass, 0.0) * self._elements(op)
            self._kernel(op, "fp32", 0.5 * more, 0.5 * more)
        elif self.style.loss == "fused" and op.place.training_pass == "forward":
            self._kernel(op, "sums", 2.0 * self._elements(op), 0.0)

    # Linear layers.

    def _linear(self, op: Operator) -> bool:
        """Whether a product multiplies a weight; those of unfused attention do not."""
        return op.place.training_pass in ("forward", "backward", "recompute") and op.place.axis != "head"

    def _product(self, op: Operator, work: Product) -> None:
        weights = op.name.endswith(".backward_weight")
        inside = op.place.layer is not None and 0 <= op.place.layer < self._layers
        narrow = self.style.narrow if inside else ""
        # The tokens of the micro-batch stand in the rows, or, for a weight's gradient, in the reduction.
        tokens = work.k if weights else work.m
        work = replace(work, library=self.style.products)
        self.operators.append(replace(op, work=work, dtype=narrow or op.dtype))
        if narrow:
            self._casts(op, work, tokens, weights)
        if weights:
            self._bias_gradient(op, work)
            self._accumulate(op, work.m * work.n * work.batch)

    def _casts(self, op: Operator, work: Product, tokens: int, weights: bool) -> None:
        """Narrow copies of a product's operands: of the input once, of the weight once, of the gradient once.

        The forward product casts input and weight (and transposes them for the backward pass), the product for the
        input's gradient casts the gradient; the product for the weight's gradient uses copies that are there.
        """
        if weights:
            return
        stored = 0.5 if self.style.recipe == "nvfp4" else 1.0
        finds = self.style.recipe in ("current", "tensorwise", "nvfp4")
        elements = float(tokens) * work.k
        self._cast(op, "cast", elements, stored, finds)
        if op.place.training_pass == "forward":
            # Weights are cast anew in every micro-batch: sharded ones have just been gathered.
            times = 1.0 / self.setup.micro_batches if self.style.weights_kept else 1.0
            self._cast(op, "cast_weight", float(work.k) * work.n * times, stored, finds)

    def _cast(self, op: Operator, label: str, elements: float, stored: float, finds: bool) -> None:
        if finds:
            self._kernel(op, f"{label}_largest", 2.0 * elements, 0.0)
        self._kernel(op, label, 2.0 * elements, 2.0 * stored * elements)

    def _bias_gradient(self, op: Operator, work: Product) -> None:
        gradients = [name for name in op.outputs if self.graph.tensors[name].role is Role.GRADIENT]
        if len(gradients) > 1:
            columns = min(prod(self.graph.tensors[name].shape) for name in gradients)
            self._kernel(op, "bias", 2.0 * float(work.k) * columns, 0.0)

    def _accumulate(self, op: Operator, elements: float) -> None:
        """Micro-batches add up gradients: in the product's own store (fp32), or by a kernel of its own."""
        if self.style.accumulates == "product":
            # The gradient is read and written in its own width; the product's store has counted two bytes.
            wide = float(max(self.style.reduce_bytes, 2))
            self._kernel(op, "main_gradient", wide * elements, (wide - 2.0) * elements)
        elif self.setup.zero_stage >= 2 and self.setup.shards > 1:
            read, written = SHARD_COPIES[self.style.sharding]
            self._kernel(op, "shard_copies", read * elements, written * elements)
        elif self.style.accumulates == "add" and self.setup.micro_batches > 1 and self.setup.zero_stage < 2:
            self._kernel(op, "accumulate", 4.0 * elements, 2.0 * elements)

    # Attention.

    def _attention(self, op: Operator, work: Attention) -> None:
        if self.style.attention == "unfused":
            self._unfused(op, work)
        else:
            seen = work if self.style.skips_mask else replace(work, causal=False)
            self.operators.append(replace(op, work=replace(seen, library=self.style.attention)))
            copied = self.style.attention_copies * work.batch * work.heads * work.q_len * work.value_dim
            self._kernel(op, "copies", copied / 2, copied / 2)
        if self.setup.context > 1 and self.style.ring_bytes:
            elements = float(work.batch) * work.heads * work.q_len * work.value_dim
            more = self.style.ring_bytes * elements * (self.setup.context - 1)
            self._kernel(op, "merge", 0.6 * more, 0.4 * more)

    def _unfused(self, op: Operator, work: Attention) -> None:
        """Scores, softmax, dropout and weighted sum as kernels of their own, scores in memory in 16 bits."""
        backward = op.place.training_pass == "backward"
        again = self.setup.recompute == "selective"
        if backward and again:
            self._core(op, work, replace(op.place, training_pass="recompute"), forward=True)
        self._core(op, work, op.place, forward=not backward)
        # The operator stays for its tensors, with those of the scores; its work is done.
        inputs, outputs = op.inputs, op.outputs
        mask = int(self.style.dropout)
        if not backward:
            outputs += (
                self._scores(op, work, "kept", 0 if again else 2 + 3 * mask),
                self._scores(op, work, "raw", 2),
            )
        else:
            made = (self.graph.producer.get(name, "") for name in op.inputs)
            source = next((name for name in made if f"{name}.kept" in self.scores), "")
            inputs += (f"{source}.kept",) if source else ()
            outputs += (self._scores(op, work, "grad", 2 + 2 * mask + again * (4 + 3 * mask)),)
        inputs, outputs = (tuple(filter(None, names)) for names in (inputs, outputs))
        self.operators.append(
            replace(
                op, work=Custom(), inputs=inputs, outputs=outputs, reads=(0,) * (len(inputs) + len(op.updates)),
                writes=(0,) * len(outputs), beside_read=0, beside_written=0,
            )
        )  # fmt: skip

    def _scores(self, op: Operator, work: Attention, label: str, wide: int) -> str:
        """A tensor of so many bytes a score; "" for none.

        Kept are the softmax's result in 16 bits and, with dropout, its mask and what it leaves: 5 bytes a score
        (arXiv:2205.05198, section 4.1); the products' results and their gradients live while the core runs.
        """
        if not wide:
            return ""
        count = work.batch * work.heads * work.q_len * work.kv_len
        name = f"{op.name}.{label}"
        self.scores[name] = Tensor(name, (count, wide), "uint8", Role.ACTIVATION)
        return name

    def _core(self, op: Operator, work: Attention, place: Place, *, forward: bool) -> None:
        scores = float(work.batch) * work.heads * work.q_len * work.kv_len
        mask = 1.0 if self.style.dropout else 0.0
        for number, (depth, thin) in enumerate(_core_products(work, forward)):
            product = Product(
                m=work.q_len, n=depth if thin else work.kv_len, k=work.kv_len if thin else depth,
                batch=work.batch * work.heads, library=self.style.products,
            )  # fmt: skip
            sides = 2.0 * work.batch * work.heads * depth * (work.q_len + work.kv_len)
            read, written = (2 * scores + sides / 2, sides / 2) if thin else (sides, 2 * scores)
            self.operators.append(
                Operator(
                    f"{op.name}#{place.training_pass}_core{number}", product, (), (), dtype=op.dtype,
                    beside_read=int(read), beside_written=int(written), place=place,
                )
            )  # fmt: skip
        if forward:
            self._kernel(op, f"{place.training_pass}_softmax", 2 * scores, 2 * scores, place)
            self._kernel(op, f"{place.training_pass}_dropout", 2 * scores * mask, 3 * scores * mask, place)
        else:
            self._kernel(op, "softmax_back", 4 * scores, 2 * scores, place)
            self._kernel(op, "dropout_back", 3 * scores * mask, 2 * scores * mask, place)

    # Communication and states.

    def _beside_products(self, op: Operator, work: CollectiveWork) -> Operator:
        """What of a tensor-parallel collective shows; cut into as many chunks as ranks, one has nothing beside it."""
        if not self.style.tensor_hidden or not isinstance(work, AllGather | ReduceScatter):
            return op
        shown = 1.0 - self.style.tensor_hidden * (1.0 - 1.0 / work.group)
        return replace(op, work=replace(work, bytes=ceil(work.bytes * shown)))

    def _optimizer(self, op: Operator, work: Optimizer) -> None:
        passes = OPTIMIZER_PASSES[self.style.optimizer] - 1.0
        self._kernel(op, "passes", passes * op.read_bytes, passes * op.write_bytes)
        if self.style.clips:
            # Norm of the gradient, then its product with one factor.
            self._kernel(op, "clip", 8.0 * work.parameters, 4.0 * work.parameters)

    @property
    def _layers(self) -> int:
        return max((op.place.layer for op in self.graph.operators if op.place.layer is not None), default=0)

    def _elements(self, op: Operator) -> float:
        """Elements of the tensor that a pointwise operator walks over."""
        assert isinstance(op.work, Norm | Loss)
        return float(op.work.m) * op.work.n


def _core_products(work: Attention, forward: bool) -> tuple[tuple[int, bool], ...]:
    """Products of attention's core: elements of a head that take part, and whether the result is as wide as a head."""
    if forward:
        return (work.head_dim, False), (work.value_dim, True)
    return (work.value_dim, False), (work.value_dim, True), (work.head_dim, True), (work.head_dim, True)
