"""Pixels through stages that run side by side, event by event; times are clocks."""

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled

__all__ = ["pixel_clocks", "window_reads"]


@compiled
def pixel_clocks(side, stride, ahead, costs, room):  # type: ignore[no-untyped-def]
    """Clock at which all pixels of a square image are stored, and the last one that is kept is written.

    ``costs``: clocks that a pixel takes to be read, multiplied, stored in the line buffer, taken from it as a window,
    and written. The line buffer does its two steps in turn: after storing a pixel it takes the one ``ahead`` rows
    before, if the stride keeps it. A stage begins a pixel when it has ended the last one, the stage before has ended
    this one, and no more than ``room`` pixels wait behind it.
    """
    read, product, store, take, write = costs[0], costs[1], costs[2], costs[3], costs[4]
    pixels = side * side
    read_end, product_end = np.zeros(pixels), np.zeros(pixels)
    store_end, write_end = np.zeros(pixels), np.zeros(pixels)
    buffer_free, taken = 0.0, 0
    steps = (side + ahead) * side
    for step in range(steps):
        if step < pixels:
            start = read_end[step - 1] if step > 0 else 0.0
            if step > room:
                start = max(start, product_end[step - room - 1])
            read_end[step] = start + read
            start = read_end[step]
            if step > 0:
                start = max(start, product_end[step - 1])
            if step > room:
                start = max(start, store_end[step - room - 1])
            product_end[step] = start + product
            buffer_free = max(buffer_free, product_end[step]) + store
            store_end[step] = buffer_free
        row, column = step // side - ahead, step % side
        if row >= 0 and row % stride == 0 and column % stride == 0:
            if taken > room:
                buffer_free = max(buffer_free, write_end[taken - room - 1])
            buffer_free += take
            start = buffer_free
            if taken > 0:
                start = max(start, write_end[taken - 1])
            write_end[taken] = start + write
            taken += 1
    return max(write_end[taken - 1], buffer_free)


@compiled
def window_reads(rows, columns, side, kept, whole):  # type: ignore[no-untyped-def]
    """Pixels that the taps of every output read: from the line buffer, from memory beyond it, and none (padding).

    ``rows`` and ``columns``: places of the taps, an output a row. A tap between pixels reads its four neighbours,
    those of one row side by side; ``whole``: taps are whole pixels. ``kept``: rows above and below an output that the
    line buffer holds. Returns pixels buffered, pixels from memory, runs of pixels from memory.
    """
    buffered, missed, runs = np.int64(0), np.int64(0), np.int64(0)
    outputs, taps = rows.shape
    for output in range(outputs):
        middle = output // side
        for tap in range(taps):
            top, left = np.int64(np.floor(rows[output, tap])), np.int64(np.floor(columns[output, tap]))
            down = 1 if whole or rows[output, tap] == top else 2
            wide = 1 if whole or columns[output, tap] == left else 2
            for row in range(top, top + down):
                if row < 0 or row >= side:
                    continue
                count = np.int64(0)
                for column in range(left, left + wide):
                    if 0 <= column < side:
                        count += 1
                if count == 0:
                    continue
                if abs(row - middle) <= kept:
                    buffered += count
                else:
                    missed += count
                    runs += 1
    return buffered, missed, runs
