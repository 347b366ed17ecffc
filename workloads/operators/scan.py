"""A scan: a state per channel that every token decays and adds to, element by element.

Mamba's selective scan (arXiv:2312.00752, section 3.3: ``state`` elements per channel), the RG-LRU of Griffin
(arXiv:2402.19427, section 2.4: one) and RWKV-4's wkv (arXiv:2305.13048, section 3.1: sums of values and of weights).
No product of matrices: the arithmetic runs on vector lanes, and kernels scan a sequence in parallel, so that bytes
decide as a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from workloads.operators.work import Work, count, number

__all__ = ["Scan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan(Work):
    """``sequence`` tokens of each sequence pass the states of all channels."""

    kind: ClassVar[str] = "scan"

    batch: int = count("sequences", "sequences")
    sequence: int = count("tokens", "new tokens of a sequence")
    channels: int = count("channels", "features of a token, each with a state of its own")
    state: int = count("elements", "elements of a channel's state", 1)
    flops_per_element: float = number(
        "FLOP", "arithmetic per token and element of the states: decay, add, read out", 6.0
    )

    @property
    def state_elements(self) -> int:
        """Elements of the states of all sequences."""
        return self.batch * self.channels * self.state

    def arithmetic(self) -> float:
        """Every token by every element of the states."""
        return float(self.sequence) * self.state_elements * self.flops_per_element
