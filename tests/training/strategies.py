"""Random request sequences, with segments in which most blocks are born and die."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from mapping.training.requests import RequestSequence

SIZES = st.one_of(
    st.integers(1, 2**12),
    st.integers(2**19, 2**21 + 4096),
    st.integers(2**20, 48 * 2**20).map(lambda n: n // 512 * 512),
)


@st.composite
def request_sequences(draw: st.DrawFn, most: int = 24) -> RequestSequence:
    """Mallocs and frees in a random but valid order, cut into segments at random places."""
    sizes = draw(st.lists(SIZES, min_size=1, max_size=most))
    malloc, free = [0] * len(sizes), [-1] * len(sizes)
    live: list[int] = []
    clock, born = 0, 0
    while born < len(sizes) or live:
        if born < len(sizes) and (not live or draw(st.booleans())):
            malloc[born] = clock
            live.append(born)
            born += 1
        else:
            free[live.pop(draw(st.integers(0, len(live) - 1)))] = clock
        clock += 1
    cuts = sorted(draw(st.sets(st.integers(1, clock - 1), max_size=4)))
    where = np.searchsorted(np.array(cuts, np.int64), np.arange(clock), side="right")
    return RequestSequence(
        tuple(f"t{n}" for n in range(len(sizes))), np.array(sizes, np.int64), np.array(malloc, np.int64),
        np.array(free, np.int64), where[malloc].astype(np.int64), where[free].astype(np.int64),
        np.zeros(len(sizes), np.bool_), tuple(f"s{n}" for n in range(len(cuts) + 1)), clock,
    )  # fmt: skip
