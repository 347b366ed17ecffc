"""Bytes between two uses of a block: one pass that gives the hits of every cache size under least recently used.

A cache that drops the least recently used blocks holds, of the blocks in order of their last use, the first whose
bytes fit together. A block is a hit exactly if what was used since its last use, itself included, has at most the
cache's bytes (Mattson et al., IBM Systems Journal 1970, with bytes for pages); no block may be larger than the cache.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled

__all__ = ["FIRST_USE", "stack_bytes"]

Ints = npt.NDArray[np.int64]
FIRST_USE = -1


@compiled
def _stack_bytes(number, size, last, tree, found):
    """``number``: blocks as 0, 1, ...; ``last``: the place after each block's last use, 0 for none.

    ``tree``: sums of bytes by place of last use (Fenwick).
    """
    count = number.size
    total = 0
    for i in range(count):
        block, bytes_ = number[i], size[i]
        before = last[block]
        if before == 0:
            found[i] = -1
        else:
            # Bytes last used at or before the block's own last use are below it in the stack.
            below, at = 0, before
            while at > 0:
                below += tree[at]
                at -= at & -at
            found[i] = total - below + bytes_
            at = before
            while at <= count:
                tree[at] -= bytes_
                at += at & -at
            total -= bytes_
        at = i + 1
        while at <= count:
            tree[at] += bytes_
            at += at & -at
        total += bytes_
        last[block] = i + 1


def stack_bytes(objects: Ints, sizes: Ints) -> Ints:
    """Bytes used since the last use of each request's object, itself included; ``FIRST_USE`` where there was none.

    The size of an object is the same in all of its requests.

    >>> stack_bytes(np.array([7, 8, 7, 7]), np.array([10, 5, 10, 10])).tolist()
    [-1, -1, 15, 10]
    """
    names, number = np.unique(objects, return_inverse=True)
    found = np.empty(len(objects), np.int64)
    last, tree = np.zeros(len(names), np.int64), np.zeros(len(objects) + 1, np.int64)
    _stack_bytes(number.astype(np.int64), np.ascontiguousarray(sizes, np.int64), last, tree, found)
    return found
