"""Products of matrices: dense, one per expert, and convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from workloads.expert_load import LOADS
from workloads.operators.work import Work, count, flag, named, number

__all__ = ["CONVOLUTION_WAYS", "EXPERT_LIBRARIES", "Convolution", "GroupedProduct", "Product"]

_OF_A_PLAN: Final = "tells a plan how the columns may be divided; the time follows from n"
_SCALES: Final = (
    "elements along the sum that share one scale of either operand, which is applied before the sum goes on; 0: none "
    "inside the sum (a scale per row, column or tensor is applied once to the result)"
)
_FOLDED: Final = "the operators an engine folds into the epilogue cost no pass over memory"
EXPERT_LIBRARIES: Final = (
    "", "triton", "triton_ogs", "marlin", "marlin_unfused", "cutlass", "cutlass_block", "trtllm",
    "trtllm_block",
)  # fmt: skip
"""Libraries of kernels over experts. triton: engines' own Triton kernel; triton_ogs: that of Triton's collection;
marlin_unfused: Marlin within an engine's general path, whose non-linearity is many small kernels; trtllm: kernels
generated for TensorRT-LLM; _block: those with FP8 scales inside the sums."""
CONVOLUTION_WAYS: Final = ("implicit_gemm", "im2col", "im2win", "winograd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product(Work):
    """``batch`` independent products of m x k with k x n, the right operand usually a weight."""

    kind: ClassVar[str] = "matmul"
    matrix: ClassVar[bool] = True

    m: int = count("rows", "rows of the left operand and of the result", least=0)
    n: int = count("columns", "columns of the right operand and of the result", least=0)
    k: int = count("elements", "length of the sums", least=0)
    batch: int = count("products", "independent products, each with its own right operand", 1, least=0)
    weight_dtype: str = named("element type the right operand is stored in; empty: that of the arithmetic")
    scale_block: int = count("elements", _SCALES, 0, 0)
    weight_bytes: float = number(
        "B", "stored bytes of the right operand of one product, where no element type says it (sparse formats); 0: "
        "by its element type", 0.0,
    )  # fmt: skip
    left_bytes: int = count(
        "B", "bytes of the left operand that stand in memory, where it is gathered from something smaller (an "
        "image); 0: all of m x k", 0, least=0,
    )  # fmt: skip
    folds: int = count(
        "sums", "of the m x n sums, those that the kernel scales and adds up into one element of its result, before "
        "it writes it (planes of bits); 1: none", 1,
    )  # fmt: skip
    rate: float = number(
        "times",
        "dense multiply-adds per one that the matrix unit does, skipping zeros (2 for 2:4 sparse weights)",
        1.0,
        1.0,
    )
    library: str = named(
        "generation of the kernel library of 16-bit products; empty: as a run's setup", "", ("", "2023")
    )
    heads: int = count("heads", "query heads among the columns", 0, 0, _OF_A_PLAN)
    kv_heads: int = count("heads", "key and value heads among the columns", 0, 0, _OF_A_PLAN)
    activation: str = named("operators folded into the epilogue", without_effect=_FOLDED)
    norm: bool = flag("a norm is folded into the epilogue", without_effect=_FOLDED)

    def arithmetic(self) -> float:
        """Two operations per multiply-add that is not skipped."""
        return 2.0 * self.batch * self.m * self.n * self.k / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedProduct(Work):
    """One product per expert: m rows are dealt out to ``groups`` experts of k x n."""

    kind: ClassVar[str] = "grouped_matmul"
    matrix: ClassVar[bool] = True

    m: int = count("rows", "rows over all experts: a token counts once per expert it goes to", least=0)
    n: int = count("columns", "columns of an expert's weight", least=0)
    k: int = count("elements", "length of the sums", least=0)
    groups: int = count("experts", "experts there are", 1)
    active: int = count(
        "experts", "experts that a token goes to (top-k), which tells how many tokens the rows are; 0: not said", 0, 0,
    )  # fmt: skip
    expected_groups: float = number(
        "experts", "experts that some token reaches, on average, whose weights are read; 0: all", 0.0
    )
    load: str = named("how rows spread over the experts that some token reaches", "independent", LOADS)
    exponent: float = number("", "exponent of a load by power law", 0.0)
    library: str = named(
        "library whose kernel runs; empty: the usual one of the GPU and the weights' type",
        "",
        EXPERT_LIBRARIES,
    )
    weight_dtype: str = named("element type the weights are stored in; empty: that of the arithmetic")
    scale_block: int = count("elements", _SCALES, 0, 0)
    heads: int = count("heads", "query heads among the columns", 0, 0, _OF_A_PLAN)
    kv_heads: int = count("heads", "key and value heads among the columns", 0, 0, _OF_A_PLAN)

    def arithmetic(self) -> float:
        """Two operations per multiply-add."""
        return 2.0 * self.m * self.n * self.k

    @property
    def tokens(self) -> float:
        """Tokens that the rows come from: most that one expert can get."""
        return self.m / max(1, self.active)

    @property
    def touched(self) -> float:
        """Experts whose weights are read."""
        return min(self.expected_groups or float(self.groups), float(self.groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Work):
    """A convolution over two spatial sides (a third is folded into the height), or a transposed one."""

    kind: ClassVar[str] = "conv"
    matrix: ClassVar[bool] = True

    batch: int = count("images", "images", 1, least=0)
    in_channels: int = count("channels", "channels of the input")
    out_channels: int = count("channels", "channels of the output")
    height: int = count("rows", "rows of the input", least=0)
    width: int = count("columns", "columns of the input", least=0)
    kernel_h: int = count("rows", "rows of the window")
    kernel_w: int = count("columns", "columns of the window")
    stride_h: int = count("rows", "rows the window moves", 1)
    stride_w: int = count("columns", "columns the window moves", 1)
    padding_h: int = count(
        "rows",
        "rows of padding above the input",
        0,
        0,
        "padding is not read, and the output's sides are fields",
    )
    padding_w: int = count(
        "columns", "columns of padding left of the input", 0, 0,
        "padding is not read, and the output's sides are fields",
    )  # fmt: skip
    dilation: int = count(
        "rows",
        "distance of the window's taps",
        1,
        1,
        "spreads the taps; their number stays, so bytes and FLOP do",
    )
    groups: int = count("groups", "independent groups of channels", 1)
    out_height: int = count("rows", "rows of the output", least=0)
    out_width: int = count("columns", "columns of the output", least=0)
    weight_dtype: str = named("element type the filters are stored in; empty: that of the arithmetic")
    transposed: bool = flag("each input element meets every tap (a learned upsampling)")
    way: str = named(
        "how it is computed, which decides what is written to memory beside its tensors", "implicit_gemm",
        CONVOLUTION_WAYS,
    )  # fmt: skip
    norm: bool = flag("a norm is folded into the filters and the epilogue", without_effect=_FOLDED)
    activation: str = named("operators folded into the epilogue", without_effect=_FOLDED)

    def arithmetic(self) -> float:
        """Two operations per multiply-add."""
        taps = self.kernel_h * self.kernel_w
        if self.transposed:
            inputs = self.batch * self.in_channels * self.height * self.width
            return 2.0 * inputs * (self.out_channels // self.groups) * taps
        outputs = self.batch * self.out_channels * self.out_height * self.out_width
        return 2.0 * outputs * (self.in_channels // self.groups) * taps

    @property
    def depthwise(self) -> bool:
        """One input channel per group."""
        return self.groups > 1 and self.in_channels == self.groups
