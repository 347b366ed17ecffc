"""Operators that pass over rows of elements: norms, pointwise arithmetic, lookups, windows, copies, losses, updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from workloads.operators.products import EXPERT_LIBRARIES
from workloads.operators.work import Work, count, flag, named, number

__all__ = [
    "Activation",
    "Copy",
    "Custom",
    "Elementwise",
    "Embedding",
    "Gather",
    "Host",
    "Loss",
    "Norm",
    "Optimizer",
    "Pool",
    "Quantize",
    "Reduce",
    "Resize",
    "Rotary",
    "Rows",
    "Scatter",
    "Softmax",
    "Sort",
    "TopK",
    "View",
]

_NAME: Final = "names the function; its arithmetic is flops_per_element"
_WINDOW: Final = "tells a plan which rows a strip needs; the arithmetic is flops_per_element"
_PLAN: Final = "tells a plan how the rows may be divided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Work):
    """m rows of n elements, with so many operations each."""

    m: int = count("rows", "rows of the result", 1, least=0)
    n: int = count("columns", "elements of a row", 1, least=0)
    flops_per_element: float = number("FLOP", "operations per element of m x n", 0.0)

    def arithmetic(self) -> float:
        """Every element once."""
        return self.flops_per_element * (self.m * self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm(Rows):
    """Layer, RMS, group or batch norm. Batch norm has n channels and m values of each."""

    kind: ClassVar[str] = "norm"
    norm: str = named(
        "over what it averages; empty: over the row", "", ("", "rms", "layer", "group", "batch"),
    )  # fmt: skip
    adds: int = count("tensors", "tensors added to the input in the same pass", 0, 0)
    activation: str = named("non-linearity applied in the same pass", without_effect=_NAME)
    vectorised: bool = flag("the kernel moves several elements per thread", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize(Rows):
    """Rows of activations into a narrower element type, with their scales.

    A dynamic scale follows from the largest magnitude it covers: that of a block of a row, of a row (``per_token``),
    or of the whole tensor, which has to be read twice. A static one is known beforehand.
    """

    kind: ClassVar[str] = "quantize"
    to_dtype: str = named("element type of the result", "fp8", (), "bytes are those of its tensors")
    block: int = count("elements", "elements of a row that share a scale; 0: all of them", 0, 0)
    dynamic: bool = flag("scales are found in the values, not known beforehand", True)
    per_token: bool = flag("each row has a scale of its own (or one per block), not the whole tensor", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Rows):
    """Softmax over each row."""

    kind: ClassVar[str] = "softmax"
    heads: int = count("heads", "query heads among the rows", 0, 0, _PLAN)
    kv_heads: int = count("heads", "key and value heads among the rows", 0, 0, _PLAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Rows):
    """A pointwise non-linearity, gated or not."""

    kind: ClassVar[str] = "activation"
    function: str = named("the non-linearity", without_effect=_NAME)
    gated: bool = flag("half of the input gates the other half")
    vectorised: bool = flag("the kernel moves several elements per thread", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Rows):
    """Pointwise arithmetic over one or more tensors."""

    kind: ClassVar[str] = "elementwise"
    function: str = named("the arithmetic (add, multiply, ...)", without_effect=_NAME)
    activation: str = named("non-linearity applied in the same pass", without_effect=_NAME)
    gathers: bool = flag("each multiply-add loads an operand from the multiprocessor's own cache (windows)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary(Rows):
    """Rotary position embedding."""

    kind: ClassVar[str] = "rotary"
    vectorised: bool = flag("the kernel moves several elements per thread", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Rows):
    """m rows of n elements looked up in a table."""

    kind: ClassVar[str] = "embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather(Rows):
    """An indexed read of m rows of n elements."""

    kind: ClassVar[str] = "gather"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter(Rows):
    """An indexed write of m rows of n elements."""

    kind: ClassVar[str] = "scatter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort(Rows):
    """The order of the n elements of each row, as a permutation: which rows go to which expert."""

    kind: ClassVar[str] = "sort"
    library: str = named(
        "library of kernels over experts that sorts for itself; empty: no particular one",
        "",
        EXPERT_LIBRARIES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK(Rows):
    """The best k of n, row by row."""

    kind: ClassVar[str] = "topk"
    k: int = count("elements", "elements chosen of each row", 1, 0)
    groups: int = count(
        "groups", "groups the row is chosen from first", 0, 0, "the arithmetic is flops_per_element"
    )
    top_groups: int = count("groups", "groups chosen first", 0, 0, "the arithmetic is flops_per_element")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Rows):
    """Window or global pooling."""

    kind: ClassVar[str] = "pool"
    mode: str = named("max or average", without_effect=_NAME)
    kernel_h: int = count("rows", "rows of the window; 0: not said", 0, 0, _WINDOW)
    kernel_w: int = count("columns", "columns of the window; 0: not said", 0, 0, _WINDOW)
    stride_h: int = count("rows", "rows the window moves; 0: all of it (global)", 0, 0, _WINDOW)
    stride_w: int = count("columns", "columns the window moves; 0: all of it (global)", 0, 0, _WINDOW)
    padding_h: int = count("rows", "rows of padding above the input", 0, 0, _WINDOW)
    padding_w: int = count("columns", "columns of padding left of the input", 0, 0, _WINDOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Rows):
    """A reduction over axes."""

    kind: ClassVar[str] = "reduce"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Rows):
    """Up- or downsampling."""

    kind: ClassVar[str] = "resize"
    mode: str = named("nearest, bilinear, cubic", without_effect=_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Rows):
    """Data movement within a memory: transpose, concatenation, slice, pad."""

    kind: ClassVar[str] = "copy"
    function: str = named(
        "what is copied (concat, crop, load: a graph input comes in)",
        without_effect="bytes are those of its tensors",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class View(Work):
    """No data movement at all: reshape, identity."""

    kind: ClassVar[str] = "view"
    unused: ClassVar[Mapping[str, str]] = dict.fromkeys(("share", "extra_flops"), "a view computes nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Work):
    """Work of the host's software (a framework's thread, a launch): no device does it, and its time is measured."""

    kind: ClassVar[str] = "host"
    unused: ClassVar[Mapping[str, str]] = dict.fromkeys(("share", "extra_flops"), "no device computes it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(Rows):
    """A loss over rows of logits, or its gradient."""

    kind: ClassVar[str] = "loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer(Work):
    """A parameter update."""

    kind: ClassVar[str] = "optimizer"
    parameters: int = count("parameters", "parameters updated", least=0)
    states: int = count("tensors", "states kept per parameter", 0, 0, "bytes are those of its tensors")
    flops_per_parameter: float = number("FLOP", "operations per parameter", 0.0)

    def arithmetic(self) -> float:
        """Every parameter once."""
        return self.flops_per_parameter * self.parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom(Work):
    """An operator Offchip has no cost rule for; counted by its bytes and ``extra_flops``, reported by name."""

    kind: ClassVar[str] = "custom"
    unused: ClassVar[Mapping[str, str]] = {"share": "it has no formula that could be done in part"}
