"""Operators along a sequence: attention in its forms, and recurrences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from workloads.operators.work import Work, count, flag, named, number

__all__ = ["Attention", "Recurrence", "causal_pairs"]


SINK_FLOPS: Final = 2.0
"""Arithmetic of a sink's logit for one query and head: less the largest score, and into the sum of exponentials."""


def causal_pairs(length: int, window: int = 0, chunk: int = 0) -> int:
    """(query, key) pairs of the first ``length`` queries that a causal mask leaves.

    ``window``: a query sees so many keys, itself included; ``chunk``: only those of its own chunk; 0: all before it.

    >>> causal_pairs(4), causal_pairs(4, window=2), causal_pairs(4, chunk=2)
    (10, 7, 6)
    """
    if chunk:
        whole, rest = divmod(length, chunk)
        return whole * causal_pairs(chunk) + causal_pairs(rest)
    if window and length > window:
        return window * (window + 1) // 2 + (length - window) * window
    return length * (length + 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Work):
    """Scores, softmax and weighted sum in one: the last ``q_len`` of ``kv_len`` positions are queries."""

    kind: ClassVar[str] = "attention"
    matrix: ClassVar[bool] = True

    batch: int = count("sequences", "sequences")
    heads: int = count("heads", "query heads")
    kv_heads: int = count("heads", "key and value heads, which query heads share")
    head_dim: int = count("elements", "elements of a query and of a key")
    v_head_dim: int = count("elements", "elements of a value; 0: as many as of a key", 0, 0)
    q_len: int = count("tokens", "queries per sequence")
    kv_len: int = count("tokens", "keys per sequence, the queries' own included")
    causal: bool = flag("a query sees only the keys up to its own position")
    window: int = count("tokens", "keys that a query sees at most (a sliding window); 0: no window", 0, 0)
    chunk: int = count(
        "tokens", "length of the chunks inside which a query sees keys (chunked attention); 0: none", 0, 0
    )
    top_k: int = count("tokens", "keys that an indexer leaves of all, per query; 0: all", 0, 0)
    sink_logits: bool = flag(
        "a learned logit per query head stands in the softmax beside those of the keys (gpt-oss)"
    )
    sink_tokens: int = count(
        "tokens", "first tokens of a sequence that a query sees beside those of its window (StreamingLLM, "
        "arXiv:2309.17453); 0: none", 0, 0,
    )  # fmt: skip
    kept: float = number(
        "share", "share of channels and of tokens that a sparse decode step keeps: scores over all tokens on so many "
        "channels, then exact attention on so many tokens", 1.0,
    )  # fmt: skip
    kept_groups: float = number(
        "share", "share of token groups that a drive's engine opens for the kept tokens; 0: by chance", 0.0
    )
    kv_dtype: str = named("element type of the cache; empty: that of the arithmetic")
    latent: bool = flag("keys and values are one latent vector, read once")
    page: int = count("tokens", "tokens of a cache page; 0: the cache is one piece", 0, 0)
    split_kv: bool = flag("the kernel divides a sequence's keys among multiprocessors", True)
    library: str = named(
        "kernel library of a training step; empty: the device's own", "", ("", "fa2", "fa3", "cudnn", "fa4")
    )

    @property
    def value_dim(self) -> int:
        """Elements of a value."""
        return self.v_head_dim or self.head_dim

    @property
    def reach(self) -> int:
        """Keys that the window leaves a query: its own and the sink tokens; 0: no window."""
        return self.window + self.sink_tokens if self.window else 0

    @property
    def limit(self) -> int:
        """Keys that a query sees at most: of all, the least of window, chunk and indexer's choice."""
        return min([self.kv_len, *(size for size in (self.reach, self.chunk, self.top_k) if size)])

    @property
    def seen(self) -> int:
        """Distinct positions of a sequence that some query sees, new ones included."""
        past = max(0, self.kv_len - self.q_len)
        if self.chunk:
            return self.kv_len - past // self.chunk * self.chunk
        window = self.reach or self.top_k
        if self.top_k and not self.window:
            return min(self.kv_len, self.top_k * self.q_len + self.q_len) if past else self.kv_len
        return min(self.kv_len, window - 1 + self.q_len) if window else self.kv_len

    @property
    def pairs(self) -> int:
        """(query, key) pairs of one sequence and head."""
        window = min(size for size in (self.reach or self.kv_len, self.top_k or self.kv_len))
        if not self.causal or self.q_len > self.kv_len:
            return self.q_len * min(self.limit, self.kv_len)
        window = 0 if window >= self.kv_len else window
        past = self.kv_len - self.q_len
        return causal_pairs(self.kv_len, window, self.chunk) - causal_pairs(past, window, self.chunk)

    @property
    def sparse_share(self) -> float:
        """Arithmetic and cache bytes against dense attention: of 4 operations per element, 2r + 4r remain.

        Scores from a share r of the channels, keys and values of a share r of the tokens (SparQ attention,
        arXiv:2312.04985).
        """
        return min(1.0, 1.5 * self.kept)

    def arithmetic(self) -> float:
        """Two products over the pairs that the mask leaves; a sink's logit is added to each query's sum once."""
        width = self.head_dim + self.value_dim
        sinks = SINK_FLOPS * self.batch * self.q_len * self.heads if self.sink_logits else 0.0
        return 2.0 * self.batch * self.pairs * self.heads * width * self.sparse_share + sinks


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence(Work):
    """A cell or state that every token passes in turn: LSTM, GRU, state-space and linear-attention layers."""

    kind: ClassVar[str] = "recurrent"
    matrix: ClassVar[bool] = True

    batch: int = count("sequences", "sequences")
    sequence: int = count("tokens", "tokens of a sequence, one after another")
    hidden: int = count("elements", "elements of a token's result")
    input_size: int = count("elements", "elements of a token's input", 0, 0)
    directions: int = count("passes", "passes over the sequence (2: bidirectional)", 1)
    flops_per_token: float = number("FLOP", "arithmetic of one token in one direction")
    gates: int = count(
        "gates", "gates of a cell; 0: no such cell", 0, 0, "flops_per_token holds their arithmetic"
    )
    heads: int = count("heads", "heads of the state", 0, 0, "tells a plan how the state may be divided")
    kv_heads: int = count(
        "heads", "key heads of the state", 0, 0, "tells a plan how the state may be divided"
    )

    def arithmetic(self) -> float:
        """Every token of every sequence, in every direction."""
        return self.directions * self.sequence * self.batch * self.flops_per_token
