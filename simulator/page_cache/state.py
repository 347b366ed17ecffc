"""What the page cache's kernel reads and changes: parameters, a few words for each page of the file, two lists.

Arrays have an entry for each page; zeros mean that nothing is known of it, so that only pages that are touched take
memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["CachePolicy", "Events", "PageState", "new_page_state", "parameters"]

Ints = npt.NDArray[np.int64]
Links = npt.NDArray[np.int32]

(CAPACITY, WINDOW, MAPPED, BACKGROUND, HARD, EXPIRE, INTERVAL, TOUCH_NS, TWO_LISTS, REFAULT, PAGES,
 RATIO, WRITE_NS) = range(13)  # fmt: skip
"""Parameters: pages, pages, 0 or 1, pages, pages, ns, ns, ns, 0 or 1, 0 or 1, pages of the file, times, ns."""
RESIDENT, ACTIVE, REFERENCED, DIRTY, AHEAD, MARK = 1, 2, 4, 8, 16, 32
"""Flags of a page. ``AHEAD``: read before it was asked for, and not touched yet."""
(HEAD, TAIL, SIZE, DIRTY_HEAD, DIRTY_TAIL, DIRTY_SIZE) = 0, 2, 4, 6, 7, 8
"""Places in ``word``: of the inactive list, and one further of the active one; of the dirty pages in order."""
(START, LENGTH, ASYNC, BEFORE, MISS, AGE, CLOCK, NEXT_FLUSH, REQUESTS, FREE) = range(9, 19)
"""Places in ``word``: the window, its marker's distance from the end, the page before, misses of a mapping, ...;
``FREE``: the ns at which the drive has taken what was written in the background."""
(TOUCHES, HITS, FAULTS, FRESH, AHEAD_READ, USEFUL, USELESS, BACKGROUND_WRITTEN, THROTTLED, EXPIRED, RECLAIMED, EVICTED,
 REFAULTS, ACTIVATED) = range(14)  # fmt: skip
"""Places in ``count``, in pages: FRESH were written whole and not read; the four causes of writing back; ..."""
READ, READ_AHEAD, WRITE, WRITE_WAITED, WAIT = range(5)
"""Kinds of events."""
BATCH: Final = 1024
"""Pages that one look at the dirty pages writes back at most."""
MARGIN: Final = 8 * BATCH
"""Events that one touch can make, at most."""
LARGEST_WINDOW: Final = BATCH
MOST_PAGES: Final = 2**29
"""Of a file."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """An operating system's page cache, with Linux's defaults.

    ``replacement``: two-lists (active and inactive, with refault distances unless ``refault`` is False) or lru.
    ``read_ahead_bytes``: the largest window; 0 reads what is asked for alone. Ratios are shares of the memory: above
    them pages are written back in the background, and writers wait. ``touch_ns``: to copy or map a page that is there.
    """

    memory_bytes: int
    page_bytes: int = 4096
    read_ahead_bytes: int = 128 * 1024
    replacement: str = "two-lists"
    refault: bool = True
    background_ratio: float = 0.10
    dirty_ratio: float = 0.20
    expire_s: float = 30.0
    interval_s: float = 5.0
    touch_ns: int = 400
    write_bytes_per_s: float = 0.0
    """What the drive takes of pages written back; 0: any number at once."""


class PageState(NamedTuple):
    """Of each page: flags, links of its list, links of dirty pages, age when it left, when it was written, request."""

    flag: npt.NDArray[np.uint8]
    before: Links
    after: Links
    dirty_before: Links
    dirty_after: Links
    shadow: Ints
    written: Ints
    request: Links
    word: Ints
    counts: Ints


class Events(NamedTuple):
    """What happened in time: kind, first page (or the request waited for), pages, touches before; how many."""

    kind: npt.NDArray[np.uint8]
    page: Ints
    pages: Ints
    touch: Ints
    filled: Ints


def parameters(policy: CachePolicy, file_bytes: int, mapped: bool) -> Ints:
    """The kernel's parameters. Raises ``InputError`` for a cache that cannot be."""
    size = policy.page_bytes
    if size & (size - 1) or not 512 <= size <= 2**24:
        raise bad_input(f"found {size} bytes; expected a power of two from 512 B to 16 MiB", path="--page")
    if policy.replacement not in ("two-lists", "lru"):
        raise bad_input(f"found {policy.replacement!r}; known: two-lists, lru", path="--replacement")
    capacity, pages = policy.memory_bytes // size, -(-file_bytes // size)
    if capacity < 16:
        raise bad_input(
            f"{policy.memory_bytes} bytes hold {capacity} pages; expected 16 or more", path="--memory"
        )
    if pages > MOST_PAGES:
        raise bad_input(
            f"{file_bytes} bytes are too many pages of {size} bytes; take larger ones", path="--page"
        )
    if not 0 < policy.background_ratio <= policy.dirty_ratio <= 1:
        raise bad_input("expected 0 < background ratio <= dirty ratio <= 1", path="--dirty-ratio")
    if policy.touch_ns < 0 or policy.expire_s < 0 or policy.interval_s <= 0:
        raise bad_input("expected times of 0 or more", path="--touch-time")
    given = [0] * 13
    given[CAPACITY], given[PAGES], given[MAPPED] = capacity, pages, int(mapped)
    given[WINDOW] = min(policy.read_ahead_bytes // size, capacity // 4, LARGEST_WINDOW)
    given[BACKGROUND] = max(int(capacity * policy.background_ratio), 1)
    given[HARD] = max(int(capacity * policy.dirty_ratio), 1)
    given[EXPIRE], given[INTERVAL] = round(policy.expire_s * 1e9), max(round(policy.interval_s * 1e9), 1)
    given[TOUCH_NS] = policy.touch_ns
    if policy.write_bytes_per_s:
        given[WRITE_NS] = max(round(size / policy.write_bytes_per_s * 1e9), 1)
    given[TWO_LISTS], given[REFAULT] = int(policy.replacement == "two-lists"), int(policy.refault)
    # Linux's inactive_is_low: the active list may be so many times the inactive one.
    given[RATIO] = max(math.isqrt(10 * (policy.memory_bytes >> 30)), 1)
    return np.array(given, np.int64)


def new_page_state(given: Ints) -> PageState:
    """An empty cache of a file."""
    pages = int(given[PAGES])
    word = np.zeros(19, np.int64)
    word[[HEAD, HEAD + 1, TAIL, TAIL + 1, DIRTY_HEAD, DIRTY_TAIL]] = -1
    word[BEFORE] = -2
    word[NEXT_FLUSH] = given[INTERVAL]
    return PageState(
        np.zeros(pages, np.uint8), np.zeros(pages, np.int32), np.zeros(pages, np.int32), np.zeros(pages, np.int32),
        np.zeros(pages, np.int32), np.zeros(pages, np.int64), np.zeros(pages, np.int64), np.zeros(pages, np.int32),
        word, np.zeros(14, np.int64),
    )  # fmt: skip
