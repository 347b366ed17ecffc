"""How keys and values lie on flash pages, and how many pages a step of attention touches.

A page holds the keys (or values) of consecutive tokens of one head, a *token group*; groups are striped over
the channels, so that one head's pages come from all channels at once. Sparse attention needs keys by channel
of the head dimension as well, so K is stored a second time: a page then holds a few channels of many tokens.
New keys and values wait in the drive's DRAM until a group fills its page, so that no page is programmed
partly and nothing is ever rewritten (InstInfer, arXiv:2409.04992, section IV).

Pages are counted per (sequence, KV head); the same numbers hold for every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.problems import bad_input

__all__ = ["KvLayout", "PageCounts", "SparseChoice"]


@dataclass(frozen=True, slots=True)
class SparseChoice:
    """What sparse attention keeps: shares of channels and of tokens, 0 to 1 (SparF; SparQ, arXiv:2312.04985).

    ``group_share`` is the share of token groups that hold at least one chosen token, a property of the
    workload: InstInfer reports that whole pages leave about half of the data. None: tokens chosen
    independently of one another, which touches nearly every group.
    """

    channels: float
    tokens: float
    group_share: float | None = None

    def __post_init__(self) -> None:
        shares = {
            "channels": self.channels,
            "tokens": self.tokens,
            "group_share": self.group_share or self.tokens,
        }
        for name, share in shares.items():
            if not 0 < share <= 1:
                raise bad_input(f"found {share:g}; expected a share above 0, at most 1", path=name)
        if shares["group_share"] < self.tokens:
            raise bad_input(
                "fewer groups than tokens are chosen; expected at least the tokens' share", path="group_share"
            )


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Pages and bytes of one (sequence, head) in one step.

    ``useful_bytes`` are those that the arithmetic needs, ``pages`` those that leave the array; ``filtered_pages``
    of them pass a filter.
    """

    pages: float
    useful_bytes: float
    filtered_pages: float


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Page size in bytes, elements of a head and bytes of an element; ``key_channels_per_page`` as configured."""

    page_bytes: int
    head_dim: int
    element_bytes: int
    key_channels_per_page: int

    def __post_init__(self) -> None:
        if self.page_bytes < self.head_dim * self.element_bytes:
            raise bad_input(
                f"a page of {self.page_bytes} bytes does not hold one token's key of {self.head_dim} elements"
            )
        if not 1 <= self.key_channels_per_page <= self.head_dim:
            raise bad_input(
                f"found {self.key_channels_per_page}; expected 1 to {self.head_dim}",
                path="key_channels_per_page",
            )

    @property
    def group_tokens(self) -> int:
        """Tokens of one head on a page."""
        return self.page_bytes // (self.head_dim * self.element_bytes)

    @property
    def channel_page_tokens(self) -> int:
        """Tokens on a page of the channel-indexed copy of K."""
        return self.page_bytes // (self.key_channels_per_page * self.element_bytes)

    def token_pages(self, tokens: int) -> int:
        """Pages of K (or of V) by token; the last group may still be in the drive's DRAM."""
        return -(-tokens // self.group_tokens)

    def channel_pages(self, tokens: int) -> int:
        """Pages of the copy of K by channel."""
        return -(-self.head_dim // self.key_channels_per_page) * -(-tokens // self.channel_page_tokens)

    def stored_pages(self, tokens: int, *, sparse: bool) -> int:
        """Pages that a sequence's head takes up in one layer: K and V, and K again for sparse attention."""
        return 2 * self.token_pages(tokens) + (self.channel_pages(tokens) if sparse else 0)

    def dense_step(self, tokens: int) -> PageCounts:
        """All of K and V are read."""
        useful = 2.0 * tokens * self.head_dim * self.element_bytes
        return PageCounts(2.0 * self.token_pages(tokens), useful, 0.0)

    def sparse_step(self, tokens: int, choice: SparseChoice) -> PageCounts:
        """Chosen channels of K, then chosen tokens of K and V; a page is read when any entry on it is chosen.

        Channels are chosen by the query's magnitude, which says nothing about the neighbour on a page, so a
        page of c channels is read with probability 1 - (1 - share)^c.
        """
        touched = 1 - (1 - choice.channels) ** self.key_channels_per_page
        groups = choice.group_share
        if groups is None:
            groups = 1 - (1 - choice.tokens) ** self.group_tokens
        by_channel = touched * self.channel_pages(tokens)
        by_token = 2.0 * groups * self.token_pages(tokens)
        row = tokens * self.head_dim * self.element_bytes
        useful = choice.channels * row + 2.0 * choice.tokens * row
        return PageCounts(by_channel + by_token, useful, by_channel + by_token)

    def pages_per_token(self, *, sparse: bool) -> float:
        """Pages programmed per token and head in the long run: each is written once, when it is full."""
        whole = 2.0 / self.group_tokens
        if sparse:
            whole += -(-self.head_dim // self.key_channels_per_page) / self.channel_page_tokens
        return whole
