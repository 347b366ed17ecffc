"""Linear attention: keys and values are summed into one matrix per head, which queries read.

A decode step takes one token after another (a chunk of 1): decay the state, correct and add the token, read it out. A
prefill takes a chunk of tokens at once, so that all of it are products of matrices: inside a chunk, attention under a
causal mask; between chunks, the state.

- ``delta``: the gated delta rule (Gated DeltaNet, arXiv:2412.06464; chunks as in DeltaNet, arXiv:2406.06484, section
  3): a token overwrites what the state holds under its key. The corrections of a chunk solve a triangular system.
- ``decay``: Mamba-2 and gated linear attention (arXiv:2405.21060, section 6): a token is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from workloads.operators.work import Work, count, named

__all__ = ["RULES", "LinearAttention"]

RULES: Final = ("delta", "decay")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention(Work):
    """``sequence`` tokens of each sequence pass the states of all heads, in chunks where there is more than one."""

    kind: ClassVar[str] = "linear_attention"
    matrix: ClassVar[bool] = True

    batch: int = count("sequences", "sequences")
    sequence: int = count("tokens", "new tokens of a sequence")
    heads: int = count("heads", "states; each has its own values")
    kv_heads: int = count("heads", "heads of keys and queries, which states share")
    key_dim: int = count("elements", "elements of a key and of a query: rows of a state")
    value_dim: int = count("elements", "elements of a value: columns of a state")
    rule: str = named("what a token does to the state: overwrite (delta) or add (decay)", "delta", RULES)
    chunk: int = count("tokens", "tokens that the kernel takes at once; 1: one after another", 64)
    state_dtype: str = named("element type of the states", "fp32")

    @property
    def state_elements(self) -> int:
        """Elements of the states of all sequences."""
        return self.batch * self.heads * self.key_dim * self.value_dim

    @property
    def token_elements(self) -> int:
        """Elements of a token's queries, keys, values and result."""
        return 2 * self.kv_heads * self.key_dim + 2 * self.heads * self.value_dim

    def arithmetic(self) -> float:
        """Token by token, or chunk by chunk, the last one as long as it is."""
        if self.chunk == 1:
            return float(self.sequence) * self.state_elements * self.token_operations
        whole, rest = divmod(self.sequence, self.chunk)
        return float(self.batch) * (
            whole * self.chunk_flops(self.chunk) + (self.chunk_flops(rest) if rest else 0.0)
        )

    @property
    def token_operations(self) -> int:
        """Per token and element of a state: decay 1, add 2, read out 2; the delta rule reads by the key before, 2."""
        return 7 if self.rule == "delta" else 5

    def chunk_flops(self, tokens: int) -> float:
        """FLOP of one chunk of so many tokens of one sequence.

        Both rules: queries by keys, decayed and masked scores by values, queries by the state, keys by values into the
        state, its decay. Delta also: keys by keys, the inverse of a unit triangular matrix by substitution, that matrix
        by keys and by values, and the keys so made by the state. A rectangle counts whole, as kernels compute it.
        Without per-head corrections (``decay``) the scores are those of the shared heads.
        """
        c, k, v = float(tokens), float(self.key_dim), float(self.value_dim)
        read_and_add = 4 * c * k * v + k * v
        if self.rule == "decay":
            return self.kv_heads * 2 * c * c * k + self.heads * (2 * c * c * v + read_and_add)
        inverse = (c - 1) * c * (c + 1) / 3
        return self.heads * (6 * c * c * k + 4 * c * c * v + inverse + 2 * c * k * v + read_and_add)
