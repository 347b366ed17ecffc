"""Writes the operators of one graph, with their traffic and FLOPs, under the layer that is being built.

FLOPs count a multiply-add as two and a transcendental function as one operation. Traffic is compulsory: each
operand moves once. Tensors are two-dimensional, tokens by features, as serving engines keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from workloads.graph import PERSISTENT_ROLES, Attribute, Operator, Role, Tensor, legacy_operator
from workloads.transformer.formats import PLAIN, Format, Precision
from workloads.transformer.step import Step

__all__ = ["ACTIVATION_FLOPS", "NORM_FLOPS", "ROTARY_FLOPS", "SOFTMAX_FLOPS", "GraphWriter", "MovingPart"]

ACTIVATION_FLOPS: Final = {
    "relu": 1, "relu2": 2, "silu": 4, "gelu": 8, "gelu_erf": 5, "sigmoid": 4, "xielu": 8,
}  # fmt: skip
"""Operations per element: SiLU is a negation, an exponential, an addition and a division."""

NORM_FLOPS: Final = {"rms": 4, "layer": 7}
ROTARY_FLOPS: Final = 3
SOFTMAX_FLOPS: Final = 5


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
    layer: int = -1
    prefix: str = ""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    moving: list[MovingPart] = field(default_factory=list)

    def write_moving(self, write: Callable[[GraphWriter, Step], None], step: Step) -> None:
        """Write operators that depend on the context, and remember how."""
        first, known = len(self.operators), len(self.tensors)
        write(self, step)
        made = list(self.tensors)[known:]
        scratch = tuple(name for name in made if self.tensors[name].role not in PERSISTENT_ROLES)
        self.moving.append(MovingPart(self.layer, self.prefix, first, len(self.operators), scratch, write))

    def at(self, layer: int, prefix: str) -> None:
        """Move on to a layer; ``prefix`` is put before every name."""
        self.layer, self.prefix = layer, prefix

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str, role: Role, size: int = -1) -> str:
        """A tensor under the prefix; returns its whole name. One that is there already stays."""
        full = self.prefix + name
        if full not in self.tensors:
            self.tensors[full] = Tensor(full, shape, dtype, role, size)
        return full

    def activation(self, name: str, m: int, n: int, dtype: str | None = None) -> str:
        """An activation of ``m`` tokens by ``n`` features."""
        return self.tensor(name, (m, n), dtype or self.precision.own, Role.ACTIVATION)

    def weight(self, name: str, *shape: int) -> str:
        """A weight in the checkpoint's own type."""
        return self.tensor(name, shape, self.precision.own, Role.WEIGHT)

    def cache(self, name: str, *shape: int) -> str:
        """A cache in the KV element type."""
        return self.tensor(name, shape, self.precision.cache, Role.KV_CACHE)

    def size(self, *names: str) -> int:
        """Bytes of tensors by whole name."""
        return sum(self.tensors[name].size_bytes for name in names)

    def emit(
        self,
        name: str,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        flops: float = 0.0,
        read: int | None = None,
        write: int | None = None,
        dtype: str | None = None,
        updates: tuple[str, ...] = (),
        tp: str = "replicated",
        known: Mapping[str, Attribute] | None = None,
        **more: Attribute,
    ) -> None:
        """Append an operator; traffic defaults to all of its inputs and outputs.

        Its attributes are ``known`` and ``more``, the layer and ``tp``.
        """
        attributes = {**(known or {}), **more, "layer": self.layer, "tp": tp}
        operator = legacy_operator(
            self.prefix + name,
            kind,
            tuple(inputs),
            tuple(outputs),
            flops,
            self.size(*inputs) if read is None else read,
            self.size(*outputs) if write is None else write,
            dtype or self.precision.own,
            updates,
            attributes,
        )
        self.operators.append(operator)

    def linear(
        self,
        name: str,
        source: str,
        m: int,
        n: int,
        k: int,
        *,
        module: str,
        tp: str,
        bias: int = 0,
        weight: str | None = None,
        batch: int = 1,
        read_source: int | None = None,
        **attributes: Attribute,
    ) -> str:
        """A product with a weight of ``n`` x ``k``; ``bias`` elements are added. Returns the output's name.

        ``batch``: so many independent products, each with its own weight (heads). ``weight`` names an
        existing weight tensor to use instead of a new one. ``module`` is the hub's name, which decides
        whether a quantised checkpoint covers the layer; without one it stays in the model's own type.
        """
        fmt = self.precision.format_of(module) if module else PLAIN
        own = self.precision.own
        if weight is None:
            shape = (n, k) if batch == 1 else (batch, n, k)
            weight = self.tensor(
                f"{name}.weight", shape, fmt.dtype or own, Role.WEIGHT, fmt.bytes(batch, n, k, own)
            )
        inputs = [source, weight]
        if bias:
            inputs.append(self.weight(f"{name}.bias", bias))
        out = self.activation(f"{name}.out", m, batch * n)
        arithmetic = self._note(fmt, attributes)
        self.emit(
            name,
            "matmul",
            inputs,
            (out,),
            flops=2.0 * batch * m * n * k + float(m) * bias,
            read=None if read_source is None else read_source + self.size(*inputs[1:]),
            dtype=arithmetic,
            tp=tp,
            m=m,
            n=n,
            k=k,
            batch=batch,
            known=attributes,
        )
        return out

    def grouped(
        self,
        name: str,
        inputs: Sequence[str],
        out: str,
        rows: int,
        n: int,
        k: int,
        *,
        experts: int,
        active: int,
        touched: float,
        module: str,
        tp: str,
        bias: bool,
        extra_flops: float = 0.0,
    ) -> str:
        """One product per expert. ``rows`` counts a token once per expert it goes to.

        Only the ``touched`` experts' weights are read, on average.
        """
        fmt = self.precision.format_of(module)
        own = self.precision.own
        size = fmt.bytes(experts, n, k, own)
        weights = [self.tensor(f"{name}.weight", (experts, n, k), fmt.dtype or own, Role.WEIGHT, size)]
        if bias:
            weights.append(self.weight(f"{name}.bias", experts, n))
        attributes: dict[str, Attribute] = {}
        arithmetic = self._note(fmt, attributes)
        self.emit(
            name,
            "grouped_matmul",
            (*inputs, *weights),
            (out,),
            flops=2.0 * rows * n * k + (float(rows) * n if bias else 0.0) + extra_flops,
            read=self.size(*inputs) + round(self.size(*weights) * touched / experts),
            dtype=arithmetic,
            tp=tp,
            m=rows,
            n=n,
            k=k,
            groups=experts,
            active=active,
            expected_groups=touched,
            known=attributes,
        )
        return out

    def _note(self, fmt: Format, attributes: dict[str, Attribute]) -> str:
        """The precision of a product with such a weight; narrower storage is noted as an attribute."""
        if fmt is PLAIN:
            return self.precision.own
        arithmetic = fmt.arithmetic or self.precision.own
        if self.precision.narrow(fmt, arithmetic):
            attributes["weight_dtype"] = fmt.dtype
        return arithmetic
