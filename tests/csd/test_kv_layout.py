"""Pages of a KV layout against a count of actual pages, entry by entry."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.csd.kv_layout import KvLayout, SparseChoice


def counted(layout: KvLayout, tokens: int, channels: set[int], kept: set[int]) -> tuple[int, int]:
    """Pages of the channel-indexed K and of K (as of V) by token that hold a chosen entry."""
    by_channel = {
        (channel // layout.key_channels_per_page, token // layout.channel_page_tokens)
        for channel in channels
        for token in range(tokens)
    }
    return len(by_channel), len({token // layout.group_tokens for token in kept})


def test_the_published_layout() -> None:
    layout = KvLayout(4096, 128, 2, 4)
    assert layout.group_tokens == 16
    assert [KvLayout(4096, 128, 2, c).channel_page_tokens for c in (2, 8)] == [1024, 256]
    assert layout.dense_step(1024).pages == 2 * 64
    assert layout.stored_pages(1024, sparse=True) == 3 * 64
    assert layout.pages_per_token(sparse=False) == 2 / 16
    assert layout.pages_per_token(sparse=True) == 3 / 16


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([32, 64, 128]),
    st.sampled_from([2048, 4096]),
)
def test_all_pages_are_those_of_all_entries(tokens: int, channels: int, width: int, page: int) -> None:
    layout = KvLayout(page, width, 2, channels)
    by_channel, by_token = counted(layout, tokens, set(range(width)), set(range(tokens)))
    assert layout.channel_pages(tokens) == by_channel
    assert layout.token_pages(tokens) == by_token
    everything = layout.sparse_step(tokens, SparseChoice(1.0, 1.0))
    assert everything.pages == by_channel + 2 * by_token


@settings(max_examples=10, deadline=None)
@given(
    st.integers(64, 600),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([0.125, 0.25, 0.5]),
    st.integers(0, 10**6),
)
def test_expected_pages_are_the_mean_of_drawn_choices(
    tokens: int, channels: int, share: float, seed: int
) -> None:
    """Each channel and token chosen with the share's probability, counted over 150 draws."""
    layout, rng = KvLayout(1024, 32, 2, channels), random.Random(seed)
    total = 0
    draws = 150
    for _ in range(draws):
        by_channel, by_token = counted(
            layout,
            tokens,
            {c for c in range(32) if rng.random() < share},
            {t for t in range(tokens) if rng.random() < share},
        )
        total += by_channel + 2 * by_token
    expected = layout.sparse_step(tokens, SparseChoice(share, share)).pages
    # The last group may be short, which the closed form takes for a whole one.
    assert total / draws == pytest.approx(expected, rel=0.08, abs=2.5)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="does not hold"):
        KvLayout(128, 128, 2, 4)
    with pytest.raises(InputError, match="expected 1 to 128"):
        KvLayout(4096, 128, 2, 129)
    with pytest.raises(InputError, match="share above 0"):
        SparseChoice(0.0, 0.5)
    with pytest.raises(InputError, match="fewer groups than tokens"):
        SparseChoice(0.5, 0.5, 0.25)
