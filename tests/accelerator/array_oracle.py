"""Two plain readings of a systolic array: cells that pass numbers on clock by clock, and folds one after another."""

import numpy as np


def hold_and_stream(held, streamed):
    """One fold, cell by cell: ``held`` r x c, ``streamed`` T x r; the product T x c and the clocks it took.

    The held values move in from above, one row of cells a clock. Then row i of the cells receives column i of the
    stream, i clocks late; every cell multiplies, adds what came from above, and passes both on.
    """
    rows, columns = held.shape
    length = len(streamed)
    cells = np.zeros((rows, columns), np.int64)
    clock = 0
    for row in range(rows):
        cells[1:] = cells[:-1].copy()
        cells[0] = held[rows - 1 - row]
        clock += 1
    values = np.zeros((rows, columns), np.int64)
    sums = np.zeros((rows, columns), np.int64)
    out = np.zeros((length, columns), np.int64)
    left = length * columns
    step = 0
    while left:
        entering = np.array([streamed[step - i][i] if 0 <= step - i < length else 0 for i in range(rows)])
        values = np.column_stack([entering, values[:, :-1]])
        above = np.vstack([np.zeros((1, columns), np.int64), sums[:-1]])
        sums = above + values * cells
        step += 1
        clock += 1
        for column in range(columns):
            vector = step - rows - column
            if 0 <= vector < length:
                out[vector, column] = sums[-1, column]
                left -= 1
    return out, clock


def accumulate(one, other):
    """One fold that keeps its outputs: r x K by K x c; the product and the clocks, draining included."""
    rows, inner = one.shape
    columns = other.shape[1]
    a, b = np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.int64)
    sums = np.zeros((rows, columns), np.int64)
    clock = 0
    while clock < inner + rows + columns - 2:
        right = np.array([one[i][clock - i] if 0 <= clock - i < inner else 0 for i in range(rows)])
        down = np.array([other[clock - j][j] if 0 <= clock - j < inner else 0 for j in range(columns)])
        a = np.column_stack([right, a[:, :-1]])
        b = np.vstack([down[None, :], b[:-1]])
        sums += a * b
        clock += 1
    out = np.zeros((rows, columns), np.int64)
    for row in range(rows):
        out[rows - 1 - row] = sums[-1]
        sums[1:] = sums[:-1].copy()
        clock += 1
    return out, clock


def tiles(side, most):
    """Lengths of the runs that a side is cut into."""
    return [min(most, side - start) for start in range(0, side, most)]


def one_array(down, across, streamed, rows, columns, dataflow, prefetch):
    """Folds in a row, with when each begins: columns outside, rows inside."""
    folds = [(r, c) for c in tiles(across, columns) for r in tiles(down, rows)]
    if not prefetch:
        return sum(r + streamed + r + c - 2 for r, c in folds)
    begin, end = 0, 0
    for place, (r, c) in enumerate(folds):
        if dataflow == "output":
            # The second set takes this fold's sums once the fold before has left it.
            begin = 0 if place == 0 else begin + max(streamed, folds[place - 1][0])
            end = max(end, begin + streamed + r + c - 2 + r)
        else:
            begin = r if place == 0 else begin + max(streamed, r)
            end = max(end, begin + streamed + r + c - 2)
    return end


def clocks(m, k, n, count, shape):
    """Every way to share the work among the arrays, the best of them."""
    held = {"weight": (k, n, m), "output": (m, n, k), "input": (k, m, n)}[shape.dataflow]
    down, across, streamed = held

    def single(width, vectors):
        return one_array(down, width, vectors, shape.rows, shape.columns, shape.dataflow, shape.prefetch)

    deals = [0] * shape.arrays
    for product in range(count):
        deals[product % shape.arrays] += 1
    options = [max(deals) * single(across, streamed)]
    if shape.arrays > 1 and count % shape.arrays:
        columns = tiles(across, shape.columns)
        widths = [sum(columns[first :: shape.arrays]) for first in range(shape.arrays)]
        options.append(count * single(max(widths), streamed))
        options.append(
            count * single(across, max(len(range(a, streamed, shape.arrays)) for a in range(shape.arrays)))
        )
    return min(options)
