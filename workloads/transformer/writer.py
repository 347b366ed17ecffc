"""Writes the operators of one graph, with their traffic and FLOPs, under the layer that is being built.

FLOPs count a multiply-add as two and a transcendental function as one operation. Traffic is compulsory: each
operand moves once. Tensors are two-dimensional, tokens by features, as serving engines keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

from hw_configs.problems import bad_input
from workloads.dtypes import dtype_bits, size_bytes
from workloads.graph import PERSISTENT_ROLES, Operator, Place, Role, Tensor, make_operator
from workloads.operators import GroupedProduct, Product, Quantize, View, Work
from workloads.transformer.adapter_products import (
    adapters_beside,
    refuse_beside,
    write_beside,
    write_beside_experts,
    write_copies,
)
from workloads.transformer.adapters import LoraAdapter
from workloads.transformer.formats import OWN_BLOCKS, PLAIN, Format, Precision
from workloads.transformer.step import Step

__all__ = [
    "ACTIVATION_FLOPS",
    "NORM_FLOPS",
    "ROTARY_FLOPS",
    "SOFTMAX_FLOPS",
    "ExpertProducts",
    "GraphWriter",
    "Linear",
    "Moves",
    "MovingPart",
    "Share",
]

ACTIVATION_FLOPS: Final = {
    "relu": 1, "relu2": 2, "silu": 4, "gelu": 8, "gelu_new": 8, "gelu_fast": 8, "gelu_erf": 5, "quick_gelu": 4,
    "sigmoid": 4, "tanh": 4, "xielu": 8,
}  # fmt: skip
"""Operations per element: SiLU is a negation, an exponential, an addition and a division. ``gelu`` is the tanh form as
one operator, ``gelu_new`` and ``gelu_fast`` the same written out step by step, ``gelu_erf`` the exact one."""

QUANTIZE_FLOPS: Final = 4.0
"""Operations per element: a magnitude, a comparison, a multiplication with the scale and a rounding."""
SCALE_BYTES: Final = 4
"""Activations of types without scales of their own have FP32 ones."""
NORM_FLOPS: Final = {"rms": 4, "layer": 7}
ROTARY_FLOPS: Final = 3
SOFTMAX_FLOPS: Final = 5


@dataclass(frozen=True, slots=True)
class Moves:
    """Traffic that differs from the kind's own: elements of tensors used in part, and bytes read of no input."""

    touched: Mapping[str, int] = field(default_factory=dict)
    written: Mapping[str, int] = field(default_factory=dict)
    beside_read: int = 0


ALL: Final = Moves()
"""Every operand once, whole."""


@dataclass(frozen=True, slots=True)
class Share:
    """The ``rows`` outputs of a fused product that are a module of their own in a checkpoint."""

    module: str
    rows: int


@dataclass(frozen=True, slots=True)
class Linear:
    """A product of ``m`` rows with a weight of ``n`` x ``k``; ``bias`` elements are added.

    ``module`` is the hub's name, which decides whether a quantised checkpoint covers the layer; without one it stays
    in the model's own type. ``shares``: the modules that the product fuses, where it fuses several; stored in different
    formats they are products of their own. ``tp``: how tensor parallelism divides it. ``weight`` names an existing
    weight tensor to use instead of a new one. ``batch``: so many independent products, each with its own weight
    (heads). ``heads`` and ``kv_heads``: the heads among the columns. ``past``: a cache that holds the first of its
    rows, and the elements read of it.
    """

    m: int
    n: int
    k: int
    module: str
    tp: str
    bias: int = 0
    weight: str | None = None
    batch: int = 1
    heads: int = 0
    kv_heads: int = 0
    past: tuple[str, int] | None = None
    shares: tuple[Share, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpertProducts:
    """One product with a weight of ``n`` x ``k`` per expert, ``active`` of them per token.

    ``rows`` counts a token once per expert it goes to. Only the ``touched`` experts' weights are read, on average.
    ``modules`` are one or several that it fuses, ``tp`` as for :class:`Linear`.
    """

    rows: int
    n: int
    k: int
    experts: int
    active: int
    touched: float
    modules: tuple[str, ...]
    tp: str
    bias: bool
    extra_flops: float = 0.0
    load: str = "independent"


@dataclass(frozen=True, slots=True)
class MovingPart:
    """Operators that change with the context, where they stand, and how to write them anew.

    ``scratch`` are the activations they alone make, whose sizes change too.
    """

    layer: int
    prefix: str
    first: int
    last: int
    scratch: tuple[str, ...]
    write: Callable[[GraphWriter, Step], None]


@dataclass
class GraphWriter:
    """Collects the tensors and operators of one graph. ``layer`` and ``prefix`` say where it is writing."""

    precision: Precision
    fused: bool = True
    flash: bool = False
    """Whether attention is one kernel where the rest is not fused."""
    splits: bool = True
    """Whether a fused product of modules in different formats is divided; otherwise it is in the model's own type."""
    layer: int = -1
    prefix: str = ""
    stack: str = ""
    """Begins every name of one of several stacks of layers (encoder, decoder)."""
    weights: str | None = None
    """Put before the names of weights instead of ``prefix``, where several layers share them."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    moving: list[MovingPart] = field(default_factory=list)
    quantised: dict[tuple[str, str, int, str], str] = field(default_factory=dict)
    """Narrow copies of activations by tensor, element type and block of scales."""
    adapters: tuple[LoraAdapter, ...] = ()
    """Adapters that stand beside the weights, and how many sequences a step has to spread over them."""
    sequences: int = 1
    met: set[str] = field(default_factory=set)
    """Targets of adapters that some module has met."""

    def write_moving(self, write: Callable[[GraphWriter, Step], None], step: Step) -> None:
        """Write operators that depend on the context, and remember how."""
        first, known = len(self.operators), len(self.tensors)
        # Written anew they stand alone, so they share no copies with what is around them.
        around, self.quantised = self.quantised, {}
        write(self, step)
        self.quantised = around
        made = list(self.tensors)[known:]
        scratch = tuple(name for name in made if self.tensors[name].role not in PERSISTENT_ROLES)
        self.moving.append(MovingPart(self.layer, self.prefix, first, len(self.operators), scratch, write))

    def at(self, layer: int, prefix: str) -> None:
        """Move on to a layer; ``prefix`` is put before every name."""
        self.layer, self.prefix = layer, prefix

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str, role: Role, size: int = -1) -> str:
        """A tensor under the prefix; returns its whole name. One that is there already stays."""
        shared = self.weights if role is Role.WEIGHT else None
        full = (self.prefix if shared is None else shared) + name
        if full not in self.tensors:
            self.tensors[full] = Tensor(full, shape, dtype, role, size)
        return full

    def activation(self, name: str, m: int, n: int, dtype: str | None = None) -> str:
        """An activation of ``m`` tokens by ``n`` features."""
        return self.tensor(name, (m, n), dtype or self.precision.own, Role.ACTIVATION)

    def weight(self, name: str, *shape: int, module: str = "") -> str:
        """A weight in the checkpoint's own type, or in the format that the checkpoint has for its ``module``."""
        fmt, own = self.precision.format_of(module), self.precision.own
        size = fmt.bytes(1, prod(shape[:-1]), shape[-1], own) if fmt != PLAIN else -1
        return self.tensor(name, shape, fmt.dtype or own, Role.WEIGHT, size)

    def shared_weight(self, name: str, *shape: int, module: str = "") -> str:
        """A weight that all stacks have in common."""
        own, self.prefix = self.prefix, ""
        full = self.weight(name, *shape, module=module)
        self.prefix = own
        return full

    def relative_biases(self, rows: int, heads: int, shared: bool) -> str:
        """A table of attention biases by distance; one per stack where all its layers share it."""
        own, self.prefix = self.prefix, self.stack if shared else self.prefix
        name = self.weight("attention.relative_bias.weight", rows, heads)
        self.prefix = own
        return name

    def cache(self, name: str, *shape: int) -> str:
        """A cache in the KV element type."""
        return self.tensor(name, shape, self.precision.cache, Role.KV_CACHE)

    def elements(self, name: str) -> int:
        """Elements of a tensor by whole name."""
        return prod(self.tensors[name].shape)

    def size(self, *names: str) -> int:
        """Bytes of tensors by whole name."""
        return sum(self.tensors[name].size_bytes for name in names)

    def emit(
        self,
        name: str,
        work: Work,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        dtype: str | None = None,
        updates: tuple[str, ...] = (),
        tp: str = "replicated",
        moves: Moves = ALL,
    ) -> None:
        """Append an operator of the layer, divided by ``tp`` under tensor parallelism.

        Its traffic is that of its kind, but for what ``moves`` says.
        """
        self.operators.append(
            make_operator(
                self.prefix + name,
                work,
                inputs,
                outputs,
                self.tensors,
                updates=updates,
                touched=moves.touched,
                written=moves.written,
                dtype=dtype or self.precision.own,
                place=Place(self.layer, axis=tp),
                beside_read=moves.beside_read,
            )
        )

    def linear(self, name: str, source: str, spec: Linear) -> str:
        """A product of a tensor of ``m`` rows with a weight; returns the output's name."""
        m, n, k, batch = spec.m, spec.n, spec.k, spec.batch
        formats = [self.precision.format_of(share.module) for share in spec.shares if share.rows]
        fmt = formats[0] if formats else self.precision.format_of(spec.module)
        if any(other != fmt for other in formats):
            if self.splits:
                return self._apart(name, source, spec, formats)
            fmt = PLAIN
        own = self.precision.own
        weight = spec.weight
        if weight is None:
            shape = (n, k) if batch == 1 else (batch, n, k)
            weight = self.tensor(
                f"{name}.weight", shape, fmt.dtype or own, Role.WEIGHT, fmt.bytes(batch, n, k, own)
            )
        arithmetic, stored = self._arithmetic(fmt)
        inputs = [
            self._narrowed(name, source, (m, k), arithmetic, fmt, spec.tp) if batch == 1 else source,
            weight,
        ]
        if spec.bias:
            inputs.append(self.weight(f"{name}.bias", spec.bias))
        beside = adapters_beside(self, spec) if self.adapters and batch == 1 else []
        if self.adapters:
            if batch > 1:
                refuse_beside(self, [spec.module])
            parts = [(share.module, share.rows) for share in spec.shares] or [(spec.module, n)]
            write_copies(self, name, parts, k)
        out = self.activation(f"{name}.base.out" if beside else f"{name}.out", m, batch * n)
        work = Product(
            m=m, n=n, k=k, batch=batch, weight_dtype=stored, scale_block=min(fmt.scale_block(), k), heads=spec.heads,
            kv_heads=spec.kv_heads, extra_flops=float(m) * spec.bias,
        )  # fmt: skip
        moves = ALL
        if spec.past is not None:
            inputs.append(spec.past[0])
            moves = Moves(touched={spec.past[0]: spec.past[1]})
        self.emit(name, work, inputs, (out,), dtype=arithmetic, tp=spec.tp, moves=moves)
        return write_beside(self, name, source, weight, out, spec, beside) if beside else out

    def emit_in_part(
        self,
        name: str,
        work: Work,
        inputs: Sequence[str],
        out: str,
        touched: Mapping[str, int],
        written: int | None = None,
        *,
        tp: str,
    ) -> None:
        """Append an operator that reads so many elements of some inputs and writes ``written`` of its output."""
        moves = Moves(touched=touched, written={} if written is None else {out: written})
        self.emit(name, work, inputs, (out,), tp=tp, moves=moves)

    def _apart(self, name: str, source: str, spec: Linear, formats: Sequence[Format]) -> str:
        """A product for each run of modules in one format, side by side in one output."""
        shares = [share for share in spec.shares if share.rows]
        outs, first = [], 0
        while first < len(shares):
            last = first + 1
            while last < len(shares) and formats[last] == formats[first]:
                last += 1
            run = tuple(shares[first:last])
            rows = sum(share.rows for share in run)
            part = replace(
                spec, n=rows, module=run[0].module, shares=run, bias=spec.bias * rows // spec.n,
                heads=spec.heads if first == 0 else 0, kv_heads=spec.kv_heads,
            )  # fmt: skip
            outs.append(self.linear(f"{name}.{run[0].module.rpartition('.')[2]}", source, part))
            first = last
        out = self.activation(f"{name}.out", spec.m, spec.n)
        self.emit(f"{name}.join", View(), outs, (out,), tp="split" if spec.tp == "column" else spec.tp)
        return out

    def _one_format(self, modules: Sequence[str]) -> Format:
        """The format that all of them have; products of experts cannot be divided."""
        formats = {self.precision.format_of(module) for module in modules}
        if len(formats) > 1:
            shown = ", ".join(
                f"{name}: {self.precision.format_of(name).dtype or 'plain'}" for name in modules
            )
            raise bad_input(f"found different formats in one product of experts ({shown}); expected one")
        return formats.pop()

    def grouped(self, name: str, inputs: Sequence[str], out: str, spec: ExpertProducts) -> str:
        """One product per expert, into ``out``; returns its name."""
        rows, n, k, experts = spec.rows, spec.n, spec.k, spec.experts
        fmt = self._one_format(spec.modules)
        own = self.precision.own
        size = fmt.bytes(experts, n, k, own)
        weights = [self.tensor(f"{name}.weight", (experts, n, k), fmt.dtype or own, Role.WEIGHT, size)]
        if spec.bias:
            weights.append(self.weight(f"{name}.bias", experts, n))
        arithmetic, stored = self._arithmetic(fmt)
        shape = self.tensors[inputs[0]].shape
        source = self._narrowed(name, inputs[0], (prod(shape[:-1]), shape[-1]), arithmetic, fmt, spec.tp)
        inputs = (source, *inputs[1:])
        work = GroupedProduct(
            m=rows, n=n, k=k, groups=experts, active=spec.active, expected_groups=spec.touched, load=spec.load,
            weight_dtype=stored, scale_block=min(fmt.scale_block(), k),
            extra_flops=(float(rows) * n if spec.bias else 0.0) + spec.extra_flops,
        )  # fmt: skip
        self.emit(name, work, (*inputs, *weights), (out,), dtype=arithmetic, tp=spec.tp)
        return write_beside_experts(self, name, inputs[0], out, spec) if self.adapters else out

    def _narrowed(
        self, name: str, source: str, shape: tuple[int, int], arithmetic: str, fmt: Format, tp: str
    ) -> str:
        """The copy of an activation in the type of a narrower product; several products share one.

        Dynamic scales belong to a row (or to blocks of it), as serving engines have it, static ones to the tensor.
        """
        held = self.tensors[source].dtype
        if dtype_bits(arithmetic) >= min(16, dtype_bits(held)):
            return source
        m, k = shape
        block = min(fmt.scale_block(), k)
        axis = "split" if tp == "row" else "replicated"
        key = (source, arithmetic, block, axis)
        if key not in self.quantised:
            own = arithmetic in OWN_BLOCKS
            scales = 0 if own or fmt.static else m * (-(-k // block) if block else 1) * SCALE_BYTES
            out = self.tensor(
                f"{name}.quantized",
                shape,
                arithmetic,
                Role.ACTIVATION,
                size_bytes(m * k, arithmetic) + scales,
            )
            work = Quantize(
                m=m, n=k, to_dtype=arithmetic, block=block, dynamic=not fmt.static, per_token=not fmt.static,
                flops_per_element=QUANTIZE_FLOPS,
            )  # fmt: skip
            self.emit(
                f"{name}.quantize", work, (source,), (out,), tp=axis, moves=Moves(touched={source: m * k})
            )
            self.quantised[key] = out
        return self.quantised[key]

    def _arithmetic(self, fmt: Format) -> tuple[str, str]:
        """The precision of a product with such a weight, and the type it is stored in where that is narrower."""
        if fmt == PLAIN:
            return self.precision.own, ""
        arithmetic = fmt.arithmetic or self.precision.own
        return arithmetic, fmt.dtype if self.precision.narrow(fmt, arithmetic) else ""
