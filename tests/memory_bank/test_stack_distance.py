"""Hits of every cache size in one pass against caches that are kept one by one."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.memory_bank.stack_distance import FIRST_USE, stack_bytes


def kept(objects, sizes, capacity):
    """Hits of a least recently used cache of so many bytes."""
    cache, used, hits = OrderedDict(), 0, []
    for name, size in zip(objects, sizes, strict=True):
        hits.append(name in cache)
        if name in cache:
            cache.move_to_end(name)
            continue
        cache[name] = size
        used += size
        while used > capacity:
            used -= cache.popitem(last=False)[1]
    return hits


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-3, 9), min_size=1, max_size=60),
    st.integers(9, 60),
    st.randoms(use_true_random=False),
)
def test_hits_are_those_of_a_cache_that_is_kept(objects, capacity, random):
    size_of = {name: random.randint(1, 9) for name in range(-3, 10)}
    sizes = [size_of[name] for name in objects]
    found = stack_bytes(np.array(objects), np.array(sizes))
    hits = (found != FIRST_USE) & (found <= capacity)
    assert hits.tolist() == kept(objects, sizes, capacity)


def test_distances_by_hand():
    """a b c a: b and c came between, and a itself counts."""
    assert stack_bytes(np.array([5, 6, 7, 5, 5]), np.array([1, 2, 4, 1, 1])).tolist() == [-1, -1, -1, 7, 1]


@pytest.mark.parametrize("wrong", [lambda d: d + 1, lambda d: np.where(d > 0, d - 1, d)])
def test_a_distance_that_is_off_by_one_byte_is_seen(wrong):
    random = np.random.default_rng(3)
    objects = random.integers(0, 12, 400)
    sizes = 1 + objects % 5
    found = wrong(stack_bytes(objects, sizes))
    told = [((found != FIRST_USE) & (found <= capacity)).tolist() for capacity in range(5, 30)]
    assert told != [kept(objects.tolist(), sizes.tolist(), capacity) for capacity in range(5, 30)]
