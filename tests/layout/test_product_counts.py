"""The closed counts of a product are those of its steps, one by one."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.pim.product_counts import key_counts, value_counts, weight_counts
from tests.layout.test_matrix_layout import keys, values, weights


def counted(steps, lanes, banks=1):
    """Accesses, row openings and reads of a list of steps, with one row open in each of the banks of a unit."""
    vector = columns = rows = reads = 0
    open_row = [None] * banks
    for step in steps:
        if step.kind == "vector":
            vector += -(-step.length // lanes)
        elif step.kind == "mac":
            columns += step.length
            rows += step.row != open_row[step.row % banks]
            open_row[step.row % banks] = step.row
        elif step.kind == "read":
            reads += 1
    return vector, columns, rows, reads


def figures(counts):
    return counts.vector_accesses, counts.column_accesses, counts.rows, counts.reads


@settings(max_examples=150, deadline=None)
@given(weights())
def test_weights(case):
    g, layout = case
    for _, part_m, part_k in layout.shares(g):
        expected = counted(layout.steps(g, part_m, part_k), g.lanes)
        assert figures(weight_counts(layout, g, part_m, part_k)) == expected


@settings(max_examples=150, deadline=None)
@given(keys(), st.integers(1, 5), st.sampled_from([1, 2, 4]))
def test_keys(case, queries, banks):
    g, layout, tokens = case
    g = replace(g, open_rows=banks)
    for _, part_t, part_h in layout.shares(g, tokens):
        expected = counted(layout.steps(g, part_t, part_h, tokens, queries), g.lanes, banks)
        assert figures(key_counts(layout, g, part_t, part_h, tokens, queries)) == expected


@settings(max_examples=150, deadline=None)
@given(values(), st.integers(1, 5), st.sampled_from([1, 2, 4]))
def test_values(case, queries, banks):
    g, layout, tokens = case
    g = replace(g, open_rows=banks)
    for _, part_m, part_t in layout.shares(g, tokens):
        expected = counted(layout.steps(g, part_m, part_t, tokens, queries), g.lanes, banks)
        assert figures(value_counts(layout, g, part_m, part_t, tokens, queries)) == expected
