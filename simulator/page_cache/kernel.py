"""Touches of a file's pages through an operating system's page cache, one after another.

The rules are Linux's as its documentation and the comments of mm/readahead.c, mm/swap.c, mm/workingset.c and
mm/page-writeback.c state them: a window that ramps up while reads follow one another and starts the next one at a
marker, two lists with refault distances, and write-back above thresholds or after a time. What is left out stands
in docs/page-caches.md.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.page_cache.state import (
    ACTIVATED,
    ACTIVE,
    AGE,
    AHEAD,
    AHEAD_READ,
    ASYNC,
    BACKGROUND,
    BACKGROUND_WRITTEN,
    BATCH,
    BEFORE,
    CAPACITY,
    CLOCK,
    DIRTY,
    DIRTY_HEAD,
    DIRTY_SIZE,
    DIRTY_TAIL,
    EVICTED,
    EXPIRE,
    EXPIRED,
    FAULTS,
    FREE,
    FRESH,
    HARD,
    HEAD,
    HITS,
    INTERVAL,
    LENGTH,
    MAPPED,
    MARGIN,
    MARK,
    MISS,
    NEXT_FLUSH,
    PAGES,
    RATIO,
    READ,
    READ_AHEAD,
    RECLAIMED,
    REFAULT,
    REFAULTS,
    REFERENCED,
    REQUESTS,
    RESIDENT,
    SIZE,
    START,
    TAIL,
    THROTTLED,
    TOUCH_NS,
    TOUCHES,
    TWO_LISTS,
    USEFUL,
    USELESS,
    WAIT,
    WINDOW,
    WRITE,
    WRITE_NS,
    WRITE_WAITED,
    Events,
    PageState,
)
from simulator.page_cache.step import step

__all__ = ["Touches", "run_pages"]

Ints = npt.NDArray[np.int64]
MANY_MISSES = 100
"""Of a mapping: above these nothing is read around a miss (MMAP_LOTSAMISS)."""


class Touches(NamedTuple):
    """Runs of pages: the first, how many, how many at the ends are written in part (1: first, 2: last), write, ns."""

    page: Ints
    pages: Ints
    partial: Ints
    write: Ints
    arrival: Ints


@step
def _tell(s: PageState, e: Events, kind, page, pages):
    """Put an event down."""
    n = e.filled[0]
    e.kind[n], e.page[n], e.pages[n], e.touch[n] = kind, page, pages, s.counts[TOUCHES]
    e.filled[0] = n + 1
    if kind != WAIT:
        s.word[REQUESTS] += 1


@step
def _link(s: PageState, which, page):
    """Put a page at the head of a list."""
    head = s.word[HEAD + which]
    s.before[page], s.after[page] = -1, head
    if head >= 0:
        s.before[head] = page
    else:
        s.word[TAIL + which] = page
    s.word[HEAD + which] = page
    s.word[SIZE + which] += 1


@step
def _unlink(s: PageState, which, page):
    before, after = s.before[page], s.after[page]
    if before >= 0:
        s.after[before] = after
    else:
        s.word[HEAD + which] = after
    if after >= 0:
        s.before[after] = before
    else:
        s.word[TAIL + which] = before
    s.word[SIZE + which] -= 1


@step
def _soil(s: PageState, page):
    """A page is written: it joins the dirty ones as the youngest, unless it is one."""
    if s.flag[page] & DIRTY:
        return
    s.flag[page] |= DIRTY
    s.written[page] = s.word[CLOCK]
    tail = s.word[DIRTY_TAIL]
    s.dirty_before[page], s.dirty_after[page] = tail, -1
    if tail >= 0:
        s.dirty_after[tail] = page
    else:
        s.word[DIRTY_HEAD] = page
    s.word[DIRTY_TAIL] = page
    s.word[DIRTY_SIZE] += 1


@step
def _clean(s: PageState, page):
    """A page is written back."""
    s.flag[page] &= ~DIRTY
    before, after = s.dirty_before[page], s.dirty_after[page]
    if before >= 0:
        s.dirty_after[before] = after
    else:
        s.word[DIRTY_HEAD] = after
    if after >= 0:
        s.dirty_before[after] = before
    else:
        s.word[DIRTY_TAIL] = before
    s.word[DIRTY_SIZE] -= 1


@step
def _write_back(s: PageState, e: Events, kind, cause, left, older):
    """Write dirty pages back, oldest first, until so many are left or none is older than a time; a batch at most.

    Pages that follow one another in age and in the file go as one request. How many pages that was.
    """
    done = 0
    while done < BATCH and s.word[DIRTY_SIZE] > left:
        first = s.word[DIRTY_HEAD]
        if s.written[first] > older:
            break
        pages = 0
        while (
            done < BATCH and s.word[DIRTY_SIZE] > left and s.word[DIRTY_HEAD] == first + pages
            and s.written[first + pages] <= older
        ):  # fmt: skip
            _clean(s, first + pages)
            pages += 1
            done += 1
        s.counts[cause] += pages
        _tell(s, e, kind, first, pages)
    return done


@step
def _reclaim(p: Ints, s: PageState, e: Events):
    """One page gives way: the inactive list's oldest, once the active list has given up what it has too much."""
    if p[TWO_LISTS]:
        while s.word[SIZE] * p[RATIO] < s.word[SIZE + 1]:
            page = s.word[TAIL + 1]
            _unlink(s, 1, page)
            s.flag[page] &= ~(ACTIVE | REFERENCED)
            _link(s, 0, page)
    page = s.word[TAIL]
    if s.flag[page] & DIRTY:
        _clean(s, page)
        s.counts[RECLAIMED] += 1
        _tell(s, e, WRITE_WAITED, page, 1)
    if s.flag[page] & AHEAD:
        s.counts[USELESS] += 1
    _unlink(s, 0, page)
    s.flag[page] = 0
    s.counts[EVICTED] += 1
    s.word[AGE] += 1
    s.shadow[page] = s.word[AGE]


@step
def _enter(p: Ints, s: PageState, e: Events, page, flag):
    """A page comes into memory; one that left not long ago (refault distance within the active list) as active."""
    if s.word[SIZE] + s.word[SIZE + 1] >= p[CAPACITY]:
        _reclaim(p, s, e)
    which = 0
    if s.shadow[page]:
        s.counts[REFAULTS] += 1
        if p[TWO_LISTS] and p[REFAULT] and s.word[AGE] - s.shadow[page] <= s.word[SIZE + 1]:
            which = 1
            s.counts[ACTIVATED] += 1
            s.word[AGE] += 1
    s.flag[page] = RESIDENT | flag | (ACTIVE if which else 0)
    _link(s, which, page)


@step
def _use(p: Ints, s: PageState, page):
    """A touch: the second one of an inactive page makes it active (two lists); the page becomes the youngest (LRU)."""
    flag = s.flag[page]
    if not p[TWO_LISTS]:
        _unlink(s, 0, page)
        _link(s, 0, page)
    elif not flag & REFERENCED:
        s.flag[page] = flag | REFERENCED
    elif not flag & ACTIVE:
        _unlink(s, 0, page)
        s.flag[page] = (flag | ACTIVE) & ~REFERENCED
        _link(s, 1, page)
        s.counts[ACTIVATED] += 1
        s.word[AGE] += 1


@step
def _first_window(asked, most):
    """Pages of the first window: the next power of two, four times that if it is small, twice if it is middling."""
    size = 1
    while size < asked:
        size *= 2
    if size <= most // 32:
        return size * 4
    return size * 2 if size <= most // 4 else most


@step
def _next_window(size, most):
    """Pages of the window after one."""
    if size < most // 16:
        return 4 * size
    return 2 * size if size <= most // 2 else most


@step
def _read_window(p: Ints, s: PageState, e: Events, page, first, pages, mark):
    """Read what is missing of a window, run by run; the run of ``page`` (-1: none) is waited for.

    ``mark``: the page whose touch starts the next window, -1 for none.
    """
    last = min(first + pages, p[PAGES])
    at = max(first, 0)
    while at < last:
        if s.flag[at] & RESIDENT:
            at += 1
            continue
        run = at
        request = s.word[REQUESTS]
        while run < last and not s.flag[run] & RESIDENT:
            run += 1
        kind = READ if at <= page < run else READ_AHEAD
        # Told before room is made, so that requests of what gives way come behind.
        _tell(s, e, kind, at, run - at)
        for k in range(at, run):
            _enter(p, s, e, k, AHEAD | (MARK if k == mark else 0))
            s.request[k] = request
        s.counts[AHEAD_READ] += run - at
        at = run


@step
def _submit(p: Ints, s: PageState, e: Events, page, index):
    """Read the window; one that begins at the page that is touched takes the next one with it."""
    if index == s.word[START] and s.word[LENGTH] == s.word[ASYNC]:
        more = _next_window(s.word[LENGTH], p[WINDOW])
        if s.word[LENGTH] + more <= p[WINDOW]:
            s.word[ASYNC] = more
            s.word[LENGTH] += more
        else:
            s.word[LENGTH], s.word[ASYNC] = p[WINDOW], p[WINDOW] >> 1
    mark = s.word[START] + s.word[LENGTH] - s.word[ASYNC]
    _read_window(p, s, e, page, s.word[START], s.word[LENGTH], mark)


@step
def _follows(s: PageState, index):
    """Whether a page is where the window expects the reader next; the window then moves on."""
    end = s.word[START] + s.word[LENGTH]
    return s.word[LENGTH] > 0 and (index == end or index == end - s.word[ASYNC])


@step
def _advance(p: Ints, s: PageState):
    s.word[START] += s.word[LENGTH]
    s.word[LENGTH] = _next_window(s.word[LENGTH], p[WINDOW])
    s.word[ASYNC] = s.word[LENGTH]


@step
def _missed(p: Ints, s: PageState, e: Events, page, asked):
    """Read a page that is missing, and what its reader seems to want next."""
    most = p[WINDOW]
    if most == 0:
        _read_window(p, s, e, page, page, 1, -1)
        return
    if p[MAPPED]:
        s.word[MISS] += 1
        if s.word[MISS] > MANY_MISSES:
            _read_window(p, s, e, page, page, 1, -1)
            return
        s.word[START], s.word[LENGTH], s.word[ASYNC] = max(page - most // 2, 0), most, most // 4
        _read_window(p, s, e, page, s.word[START], most, s.word[START] + most - s.word[ASYNC])
        return
    if page and _follows(s, page):
        _advance(p, s)
    elif page == 0 or asked > most or 0 <= page - s.word[BEFORE] <= 1:
        size = _first_window(min(asked, most), most)
        s.word[START], s.word[LENGTH] = page, size
        s.word[ASYNC] = size - asked if size > asked else size
    else:
        _read_window(p, s, e, page, page, min(asked, most), -1)
        return
    _submit(p, s, e, page, page)
    if not s.flag[page] & RESIDENT:
        _read_window(p, s, e, page, page, 1, -1)


@step
def _marked(p: Ints, s: PageState, e: Events, page, asked):
    """The marker was touched: read the next window while the reader goes on."""
    if _follows(s, page):
        _advance(p, s)
    else:
        start = page + 1
        while start < p[PAGES] and start - page <= p[WINDOW] and s.flag[start] & RESIDENT:
            start += 1
        if start >= p[PAGES] or start - page > p[WINDOW]:
            return
        s.word[START] = start
        s.word[LENGTH] = _next_window(start - page + min(asked, p[WINDOW]), p[WINDOW])
        s.word[ASYNC] = s.word[LENGTH]
    _submit(p, s, e, -1, page)


@step
def _touch(p: Ints, s: PageState, e: Events, page, asked, write, whole):
    """One touch of a page; ``asked``: pages that its reader still wants, this one included; ``whole``: all of it."""
    s.counts[TOUCHES] += 1
    flag = s.flag[page]
    if flag & RESIDENT:
        s.counts[HITS] += 1
        if flag & AHEAD:
            s.counts[USEFUL] += 1
            s.flag[page] &= ~AHEAD
            _tell(s, e, WAIT, s.request[page], 0)
            if s.word[MISS] > 0:
                s.word[MISS] -= 1
        if flag & MARK:
            s.flag[page] &= ~MARK
            _marked(p, s, e, page, asked)
    elif write and whole:
        s.counts[FRESH] += 1
        _enter(p, s, e, page, 0)
    else:
        s.counts[FAULTS] += 1
        _missed(p, s, e, page, asked)
        s.counts[AHEAD_READ] -= 1
        s.flag[page] &= ~(AHEAD | MARK)
    if s.flag[page] & RESIDENT:
        _use(p, s, page)
        if write:
            _soil(s, page)
    s.word[BEFORE] = page


@step
def _flush(p: Ints, s: PageState, e: Events):
    """Write back what is too much or too old.

    In the background, while the drive has taken what went before; a writer above the hard threshold waits for a batch.
    """
    w = s.word
    if w[DIRTY_SIZE] > p[HARD]:
        pages = _write_back(s, e, WRITE_WAITED, THROTTLED, p[BACKGROUND], w[CLOCK])
        w[CLOCK] = max(w[CLOCK], w[FREE]) + pages * p[WRITE_NS]
        w[FREE] = w[CLOCK]
    elif w[DIRTY_SIZE] > p[BACKGROUND] and w[CLOCK] >= w[FREE]:
        pages = _write_back(s, e, WRITE, BACKGROUND_WRITTEN, p[BACKGROUND], w[CLOCK])
        w[FREE] = w[CLOCK] + pages * p[WRITE_NS]
    if w[CLOCK] >= w[NEXT_FLUSH] and w[CLOCK] >= w[FREE]:
        pages = _write_back(s, e, WRITE, EXPIRED, 0, w[CLOCK] - p[EXPIRE])
        w[FREE] = w[CLOCK] + pages * p[WRITE_NS]
        # A batch that was full is followed by another at once.
        w[NEXT_FLUSH] = w[CLOCK] + (0 if pages >= BATCH else p[INTERVAL])


@step
def run_pages(p: Ints, s: PageState, e: Events, t: Touches, at: Ints):
    """Take touches from run ``at[0]``, page ``at[1]`` of it on, until they end or there is no room for more events."""
    while at[0] < t.page.size:
        n = at[0]
        if t.arrival.size and t.arrival[n] > s.word[CLOCK]:
            s.word[CLOCK] = t.arrival[n]
        while at[1] < t.pages[n]:
            if e.filled[0] + MARGIN > e.kind.size:
                return
            k = at[1]
            s.word[CLOCK] += p[TOUCH_NS]
            cut = (k == 0 and t.partial[n] & 1) or (k == t.pages[n] - 1 and t.partial[n] & 2)
            asked = 1 if p[MAPPED] else t.pages[n] - k
            _touch(p, s, e, t.page[n] + k, asked, t.write[n], not cut)
            _flush(p, s, e)
            at[1] = k + 1
        at[0], at[1] = n + 1, 0
