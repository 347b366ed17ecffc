"""What one graph has to compute: how many new tokens over how much context, and what of it a token sees."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """``new`` tokens per sequence, the last of ``context`` (the new ones included).

    ``capacity`` is the number of tokens per sequence the caches have room for. ``decode`` asks for the form
    of a decode step (latent attention absorbed into the queries). ``all_logits``: every new token needs
    its logits (training), not only the last of each sequence. ``same_prompts``: all sequences are alike, so that their
    tokens at one position choose the same experts.
    """

    batch: int
    new: int
    context: int
    capacity: int
    decode: bool = False
    all_logits: bool = False
    keeps_cache: bool = True
    same_prompts: bool = False

    @property
    def tokens(self) -> int:
        """New tokens over the batch."""
        return self.batch * self.new

    @property
    def past(self) -> int:
        """Tokens per sequence that are in the caches already."""
        return self.context - self.new

    def pairs(self, window: int = 0, chunk: int = 0) -> int:
        """(query, key) pairs per sequence and head that a causal mask leaves."""
        return _pairs(self.context, window, chunk) - _pairs(self.past, window, chunk)

    def seen(self, window: int = 0, chunk: int = 0) -> int:
        """Distinct positions per sequence that any new token sees."""
        if chunk:
            return self.context - self.past // chunk * chunk
        return min(self.context, window - 1 + self.new) if window else self.context

    def stored(self, window: int = 0, chunk: int = 0) -> int:
        """Positions per sequence that a cache holds: a local layer keeps only what it can still see."""
        return min(self.capacity, window or chunk or self.capacity)


def _pairs(length: int, window: int, chunk: int) -> int:
    """Pairs of the first ``length`` queries."""
    if chunk:
        whole, rest = divmod(length, chunk)
        return whole * _pairs(chunk, 0, 0) + _pairs(rest, 0, 0)
    if window and length > window:
        return window * (window + 1) // 2 + (length - window) * window
    return length * (length + 1) // 2
