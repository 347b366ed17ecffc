"""Cache traffic against a slow oracle; attention's traces against arithmetic; counts against closed forms."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu.attention_io import (
    Head,
    blocked_trace,
    fused_accesses,
    fused_closed_form,
    fused_tiles,
    fused_trace,
)
from simulator.gpu.ideal_cache import lru_traffic, optimal_traffic

accesses = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=14)


def arrays(trace):
    lines, writes = [a for a, _ in trace], [w for _, w in trace]
    return np.array(lines, dtype=np.int64), np.array(writes, dtype=np.bool_)


def plain_lru(trace, lines):
    held, made, loads, stores = {}, set(), 0, 0
    for line, write in trace:
        dirty = held.pop(line, None)
        if dirty is None:
            if len(held) == lines:
                stores += held.pop(next(iter(held)))
            loads += line in made or not write
            made.add(line)
        held[line] = bool(dirty) or write
    return loads, stores + sum(held.values())


def fewest_loads(trace, lines):
    """Over every choice of what to drop."""

    @cache
    def least(at, held, made):
        if at == len(trace):
            return 0
        line, write = trace[at]
        cost = 0 if line in held else int(line in made or not write)
        made = made | {line}
        if line in held or len(held) < lines:
            return cost + least(at + 1, held | {line}, made)
        return cost + min(least(at + 1, held - {old} | {line}, made) for old in held)

    return least(0, frozenset(), frozenset())


@settings(max_examples=200, deadline=None)
@given(accesses, st.integers(1, 5))
def test_lru_is_the_plain_one(trace, lines):
    traffic = lru_traffic(*arrays(trace), lines)
    assert (traffic.loads, traffic.stores) == plain_lru(trace, lines)


@settings(max_examples=150, deadline=None)
@given(accesses, st.integers(1, 4))
def test_optimal_replacement_loads_least(trace, lines):
    best = optimal_traffic(*arrays(trace), lines)
    assert best.loads == fewest_loads(tuple(trace), lines)
    assert best.loads <= lru_traffic(*arrays(trace), lines).loads


def test_a_cache_has_lines():
    with pytest.raises(ValueError, match="at least one line"):
        lru_traffic(*arrays([(0, False)]), 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 10), st.integers(1, 10))
def test_traces_touch_what_attention_touches(n, d, rows, keys):
    head = Head(n, d)
    fused, blocked = fused_trace(head, min(rows, n), min(keys, n)), blocked_trace(head, rows)
    for trace, writes in (fused, blocked):
        # Two products of n n d multiply-adds with three accesses each, and a read and a write of every score.
        assert len(trace) == 6 * n * n * d + 2 * n * n
        assert set(range(4 * n * d)) <= set(trace.tolist())
        assert not writes[trace < 3 * n * d].any()
        outputs = (trace >= 3 * n * d) & (trace < 4 * n * d)
        assert writes[outputs].all()
        assert outputs.sum() == n * n * d
    # With room for everything, the inputs are loaded once and everything written is stored once.
    whole = optimal_traffic(*blocked, 4 * n * d + n * n)
    assert (whole.loads, whole.stores) == (3 * n * d, n * d + n * n)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 2000))
def test_counts_are_the_closed_form_where_blocks_divide(n, d, extra):
    head, m = Head(n, d), 4 * d + extra
    rows, keys = fused_tiles(head, m)
    assert 1 <= rows <= min(d, n)
    assert 1 <= keys <= n
    assert fused_accesses(head, m).total == fused_closed_form(head, m)


def test_fused_needs_room_for_its_blocks():
    with pytest.raises(ValueError, match="hold no block"):
        fused_tiles(Head(128, 64), 255)
