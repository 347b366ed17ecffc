"""The closed counts of a product are those of its steps, one by one, and those of the engine."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import Pim
from simulator.pim.matrix_layout import KeyLayout, ValueLayout
from simulator.pim.pricing import FIGURES, Pricer
from simulator.pim.product_counts import key_counts, value_counts, weight_counts
from simulator.pim.recipes import key_shares, value_shares
from tests.layout.test_matrix_layout import grids, keys, values, weights
from tests.pim.machines import small


def counted(steps, g):
    """Accesses, row openings and reads of a list of steps, with one row open at a time in each bank of a unit."""
    vector = columns = rows = reads = 0
    open_row = {}
    for step in steps:
        if step.kind == "vector":
            vector += -(-step.length // g.lanes)
        elif step.kind == "mac":
            columns += step.length
            rows += step.row != open_row.get(step.row % g.open_rows)
            open_row[step.row % g.open_rows] = step.row
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
        expected = counted(layout.steps(g, part_m, part_k), g)
        assert figures(weight_counts(layout, g, part_m, part_k)) == expected


@settings(max_examples=150, deadline=None)
@given(keys(), st.integers(1, 5))
def test_keys(case, queries):
    g, layout, tokens = case
    for _, part_t, part_h in layout.shares(g, tokens):
        expected = counted(layout.steps(g, part_t, part_h, tokens, queries), g)
        assert figures(key_counts(layout, g, part_t, part_h, tokens, queries)) == expected


@settings(max_examples=150, deadline=None)
@given(values(), st.integers(1, 5))
def test_values(case, queries):
    g, layout, tokens = case
    for _, part_m, part_t in layout.shares(g, tokens):
        expected = counted(layout.steps(g, part_m, part_t, tokens, queries), g)
        assert figures(value_counts(layout, g, part_m, part_t, tokens, queries)) == expected


@cache
def pricer(shared):
    """A memory with so many banks to a unit, few rows and a refresh interval that cuts products into chunks."""
    name = "pim-gpt-gddr6" if shared == 1 else "attacc-hbm3"
    data = small(name, interval=400, channels=1).model_dump(exclude_unset=True)
    if shared > 1:
        data["dram"]["organisation"]["banks"] = data["units"]["banks_per_unit"] = shared
        data["dram"]["organisation"]["columns"] = 64
    return Pricer(Pim.model_validate(data), exact=True)


@st.composite
def products(draw):
    """Shares of keys or values: banks of a unit x queries of a head x batch (heads) x context."""
    device = pricer(draw(st.sampled_from([1, 2, 4])))
    g, queries = device.lowering.geometry, draw(st.integers(1, 6))
    heads, width = draw(st.integers(1, 5)), draw(st.sampled_from([8, 40, 64, 128, 576]))
    capacity = draw(st.integers(1, 600))
    tokens = draw(st.integers(1, capacity))
    parts = draw(grids(g))
    if draw(st.booleans()):
        each = -(-width // g.lanes)
        per_row = draw(st.integers(1, max(1, min(heads, g.accesses // each))))
        return device, key_shares(
            KeyLayout(heads, width, capacity, *parts, per_row), device.lowering, tokens, queries
        )
    layout = ValueLayout(heads, width, capacity, *parts, draw(st.integers(1, g.accesses)) * g.lanes)
    return device, value_shares(layout, device.lowering, tokens, queries)


@settings(max_examples=120, deadline=None)
@given(products())
def test_the_engine_counts_what_the_closed_form_says(case):
    """Column accesses and rows opened, of every share, however refresh cuts it (``Pricer.work`` insists on both)."""
    device, shares = case
    for share in shares:
        work = device.work(share)
        assert work.figures[FIGURES.index("column_accesses")] == share.counts.column_accesses
        missed = work.figures[FIGURES.index("row_misses")]
        assert missed == share.counts.rows + device.reopened(share.write())
        if len(work.chunks) == 1:
            assert missed == share.counts.rows
