"""Kernels of graph generation and sampling.

Random numbers are SplitMix64 by counter: draw ``i`` of stream ``seed`` is a function of both, so that a plain loop in
Python gives the same samples. A draw below ``n`` is the high half of n times its upper 32 bits; its bias is n / 2^32.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled, inlined

__all__ = [
    "attach_preferentially", "candidate_weights", "fill_rows", "keep_edges", "random_matrix_edges",
    "release", "repeats", "sample_layer", "shuffle", "spread",
]  # fmt: skip

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31, S32, S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32), np.uint64(11)
LOW = np.uint64(0xFFFFFFFF)
UNIT = 1.0 / 9007199254740992.0


@inlined
def draw(seed, index):
    """Number ``index`` of the stream ``seed``."""
    z = seed * GOLDEN + (np.uint64(index) + np.uint64(1)) * GOLDEN
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@inlined
def below(seed, index, bound):
    """A number from 0 to ``bound - 1``, ``bound`` below 2^32."""
    word = draw(seed, index) >> S32
    return np.int64((word * np.uint64(bound)) >> S32)


@compiled
def fill_rows(source, target, cursor, neighbours, both):
    """Write each edge's source into its target's row, and the other way round where ``both``."""
    for edge in range(source.size):
        row = target[edge]
        neighbours[cursor[row]] = source[edge]
        cursor[row] += 1
        if both:
            row = source[edge]
            neighbours[cursor[row]] = target[edge]
            cursor[row] += 1


@compiled
def random_matrix_edges(levels, nodes, shares, seed, source, target):
    """R-MAT edges: a quadrant a level by ``shares`` (a, a + b, a + b + c); one outside ``nodes`` is drawn again."""
    number = np.uint64(seed)
    index = 0
    for edge in range(source.size):
        while True:
            row, column = 0, 0
            for _ in range(levels):
                u = float(draw(number, index) >> S11) * UNIT
                index += 1
                row, column = 2 * row, 2 * column
                if u >= shares[1]:
                    row += 1
                    if u >= shares[2]:
                        column += 1
                elif u >= shares[0]:
                    column += 1
            if row < nodes and column < nodes:
                break
        source[edge], target[edge] = row, column


@compiled
def attach_preferentially(nodes, each, seed, source, target):
    """Barabasi-Albert: node n >= each takes ``each`` distinct earlier ones by degree; a fresh core is taken alike."""
    number = np.uint64(seed)
    edges, index = 0, 0
    for node in range(each, nodes):
        first = edges
        while edges < first + each:
            ends = 2 * first
            if ends == 0:
                pick = edges - first
            else:
                place = below(number, index, ends)
                index += 1
                pick = source[place >> 1] if place & 1 == 0 else target[place >> 1]
            new = True
            for earlier in range(first, edges):
                if target[earlier] == pick:
                    new = False
            if new:
                source[edges], target[edges] = node, pick
                edges += 1


@compiled
def spread(values, counts, out):
    """Each of ``values`` as often as ``counts`` says."""
    place = 0
    for index in range(values.size):
        for _ in range(counts[index]):
            out[place] = values[index]
            place += 1


@compiled
def shuffle(values, seed):
    """Fisher-Yates in place; below 2^32 values."""
    number = np.uint64(seed)
    for last in range(values.size - 1, 0, -1):
        other = below(number, last, last + 1)
        values[last], values[other] = values[other], values[last]


@inlined
def place_of(node, place, nodes, count):
    """The local number of a node; a new one is added at ``count``."""
    if place[node] < 0:
        place[node] = count
        nodes[count] = node
    return place[node]


@compiled
def sample_layer(graph, span, fan_out, replace, draws, known, edges):
    """Draw ``fan_out`` neighbours (all: -1) for the local nodes of ``span`` (first, count).

    ``graph``: offsets and neighbours. ``known``: the local number of each node or -1, and the unique nodes so far, to
    which new ones are added. ``edges``: local targets and sources to fill. ``draws``: seed and number of the next draw.
    Returns (nodes, edges, next draw). Without replacement a row of at most ``fan_out`` is taken whole, and a longer one
    by Floyd's rule: for j from d - k to d - 1 a draw t of 0..j, or j itself where t was taken before.
    """
    offsets, neighbours = graph
    targets, sources = edges
    place, nodes = known
    first, count = span
    number = np.uint64(draws[0])
    index, made, unique = draws[1], 0, count
    for local in range(first, count):
        node = nodes[local]
        begin = offsets[node]
        degree = offsets[node + 1] - begin
        row = made
        if degree == 0:
            continue
        if fan_out < 0 or (not replace and degree <= fan_out):
            for j in range(degree):
                sources[made] = begin + j
                made += 1
        elif replace:
            for _ in range(fan_out):
                sources[made] = begin + below(number, index, degree)
                index += 1
                made += 1
        else:
            for j in range(degree - fan_out, degree):
                taken = begin + below(number, index, j + 1)
                index += 1
                for earlier in range(row, made):
                    if sources[earlier] == taken:
                        taken = begin + j
                        break
                sources[made] = taken
                made += 1
        for edge in range(row, made):
            found = place_of(neighbours[sources[edge]], place, nodes, unique)
            if found == unique:
                unique += 1
            targets[edge], sources[edge] = local, found
    return unique, made, index


@compiled
def release(nodes, count, place):
    """Forget the local numbers."""
    for index in range(count):
        place[nodes[index]] = -1


@compiled
def candidate_weights(graph, targets, place, nodes, weights):
    """LADIES' weight of each neighbour of ``targets``: the sum over them of 1 / degree^2; returns their number."""
    offsets, neighbours = graph
    count = 0
    for target in targets:
        begin, end = offsets[target], offsets[target + 1]
        for edge in range(begin, end):
            found = place_of(neighbours[edge], place, nodes, count)
            if found == count:
                weights[count] = 0.0
                count += 1
            weights[found] += 1.0 / float((end - begin) * (end - begin))
    return count


@compiled
def keep_edges(graph, targets, place, edges):
    """The edges from ``targets`` to nodes that have a local number; returns how many."""
    offsets, neighbours = graph
    made = 0
    for local in range(targets.size):
        node = targets[local]
        for edge in range(offsets[node], offsets[node + 1]):
            if place[neighbours[edge]] >= 0:
                edges[0][made], edges[1][made] = local, place[neighbours[edge]]
                made += 1
    return made


@compiled
def repeats(offsets, rows, last):
    """Whether a batch names a row twice; ``last`` holds -1 for every row of the table."""
    for batch in range(offsets.size - 1):
        for place in range(offsets[batch], offsets[batch + 1]):
            if last[rows[place]] == batch:
                return True
            last[rows[place]] = batch
    return False
