"""Names that tables give to pairs of element types: how a product's weight is stored, and what it computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FORMATS", "PairedTypes"]


@dataclass(frozen=True, slots=True)
class PairedTypes:
    """Element types of a product's arithmetic and of its weight.

    ``scale_block``: elements along the sums that share one scale of either operand; 0 where a scale holds for a row, a
    column or the whole tensor and is applied once to the result.
    """

    dtype: str
    weight_dtype: str
    scale_block: int = 0


FORMATS: Final[dict[str, PairedTypes]] = {
    "fp8_block": PairedTypes("fp8", "fp8", 128),
    "int8_wo": PairedTypes("fp16", "int8"),
    "int4_wo": PairedTypes("fp16", "int4"),
    "sq": PairedTypes("int8", "int8"),
    "w4a16_mxfp4": PairedTypes("bf16", "mxfp4", 32),
    "w4a8_mxfp4_mxfp8": PairedTypes("mxfp8", "mxfp4", 32),
}
"""fp8_block: 128 x 128 scales of weights, 1 x 128 of activations (DeepSeek-V3, arXiv:2412.19437, 3.3.2). sq:
SmoothQuant (arXiv:2211.10438). mxfp4: blocks of 32 (OCP Microscaling Formats 1.0)."""
