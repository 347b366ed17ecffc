"""Products of sparse matrices, executed: rows merged in a hash table, and lists of partial products."""

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled, inlined

__all__ = ["merge_windows", "products_of_rows", "spans_of_rows"]

_GOLDEN = np.int64(-7046029254386353131)
"""2^64 over the golden ratio, as a signed word: Fibonacci hashing (Knuth, volume 3, 6.4)."""


@inlined
def _home(key, bits, mixed):  # type: ignore[no-untyped-def]
    """The first slot of a key: its lowest bits, or the highest of its product with a constant."""
    if bits == 0:
        return np.int64(0)
    if mixed:
        return ((key * _GOLDEN) >> np.int64(64 - bits)) & ((np.int64(1) << bits) - 1)
    return key & ((np.int64(1) << bits) - 1)


@compiled
def products_of_rows(a_offsets, a_indices, b_offsets):  # type: ignore[no-untyped-def]
    """Multiplications of each row of the result."""
    rows = a_offsets.size - 1
    found = np.zeros(rows, np.int64)
    for row in range(rows):
        for place in range(a_offsets[row], a_offsets[row + 1]):
            inner = a_indices[place]
            found[row] += b_offsets[inner + 1] - b_offsets[inner]
    return found


@compiled
def spans_of_rows(offsets, word, granule):  # type: ignore[no-untyped-def]
    """Bytes of the aligned granules that each row's run of words touches, in an array that begins on a granule."""
    rows = offsets.size - 1
    found = np.zeros(rows, np.int64)
    for row in range(rows):
        first, last = offsets[row] * word, offsets[row + 1] * word
        if last > first:
            found[row] = ((last + granule - 1) // granule - first // granule) * granule
    return found


@compiled
def merge_windows(left, right, tables, out):  # type: ignore[no-untyped-def]
    """Merge the products of each window of rows in a table of 2^bits slots, by linear probing.

    ``left`` and ``right``: offsets, columns, values. ``tables``: first rows of the windows and one past the last, bits
    of each window's table, columns of the right matrix, whether slots are chosen by all of a place, slots of a chunk.
    ``out``, all zeros, is filled: probes of each stored value of the left matrix; used slots of each chunk of the
    tables, one table behind the other; the result, its columns in the order of the slots. Returns the number of
    chunks, or -1 where a table is too small.
    """
    a_offsets, a_indices, a_values = left
    b_offsets, b_indices, b_values = right
    windows, bits, columns, mixed, chunk = tables
    probes, chunk_entries, c_offsets, c_indices, c_values = out
    most = np.int64(1) << bits.max()
    keys = np.full(most, np.int64(-1))
    sums = np.zeros(most)
    entries = np.zeros(c_offsets.size, np.int64)
    at, chunks = np.int64(0), np.int64(0)
    for window in range(windows.size - 1):
        first, last, width = windows[window], windows[window + 1], bits[window]
        slots = np.int64(1) << width
        keys[:slots] = -1
        for row in range(first, last):
            for place in range(a_offsets[row], a_offsets[row + 1]):
                inner, left = a_indices[place], a_values[place]
                for other in range(b_offsets[inner], b_offsets[inner + 1]):
                    key = np.int64(row - first) * columns + b_indices[other]
                    slot, tries = _home(key, width, mixed), np.int64(1)
                    while keys[slot] != key and keys[slot] != -1:
                        slot = (slot + 1) & (slots - 1)
                        tries += 1
                        if tries > slots:
                            return np.int64(-1)
                    probes[place] += tries
                    if keys[slot] == -1:
                        keys[slot], sums[slot] = key, 0.0
                        entries[row] += 1
                    sums[slot] += left * b_values[other]
        for row in range(first, last):
            c_offsets[row + 1] = c_offsets[row] + entries[row]
            entries[row] = c_offsets[row]
        for slot in range(slots):
            if keys[slot] != -1:
                row = first + keys[slot] // columns
                at = entries[row]
                c_indices[at], c_values[at] = keys[slot] % columns, sums[slot]
                entries[row] += 1
                chunk_entries[chunks + slot // chunk] += 1
        chunks += (slots + chunk - 1) // chunk
        for row in range(first, last):
            entries[row] = 0
    return chunks
