"""Every layout computes the product it is for: nothing lost, nothing counted twice, no padding read as a value."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.pim.matrix_layout import Geometry, KeyLayout, ValueLayout, WeightLayout
from tests.layout.bank_contents import apply_writes, empty_banks, run_steps, store

LANES = 4


@st.composite
def geometries(draw):
    channels, accesses = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    row = accesses * LANES
    shared = draw(st.integers(1, 4))
    return Geometry(channels, draw(st.sampled_from([1, 2, 4])), row, LANES, row, 4096, shared)


@st.composite
def grids(draw, geometry):
    """Two numbers of parts whose product does not exceed the channels."""
    first = draw(st.integers(1, geometry.channels))
    return first, draw(st.integers(1, geometry.channels // first))


def accesses(draw, geometry):
    return draw(st.integers(1, geometry.accesses))


@st.composite
def weights(draw):
    g = draw(geometries())
    m, k = draw(grids(g))
    packing = draw(st.sampled_from(["aligned", "flat"]))
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 60))
    return g, WeightLayout(*shape, m, k, accesses(draw, g) * LANES, packing)


@settings(max_examples=150, deadline=None)
@given(weights(), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_weights_times_vectors(case, seed, count):
    g, layout = case
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((layout.outputs, layout.inputs))
    vectors = rng.standard_normal((count, layout.inputs))
    banks = empty_banks(g, layout.rows(g), seed)
    store(banks, layout.addresses(g), matrix)
    out = np.zeros((count, layout.outputs))
    for channel, part_m, part_k in layout.shares(g):
        run_steps(banks, channel, layout.steps(g, part_m, part_k, count), vectors, g, out)
    np.testing.assert_allclose(out, vectors @ matrix.T, rtol=1e-9, atol=1e-6)


@st.composite
def keys(draw):
    g = draw(geometries())
    token_parts, head_parts = draw(grids(g))
    g = replace(g, buffer_elements=3 * g.row_elements)
    width = draw(st.integers(1, draw(st.sampled_from([g.row_elements, g.buffer_elements]))))
    each = -(-width // LANES)
    per_row = draw(st.integers(1, max(1, g.accesses // each)))
    layout = KeyLayout(
        draw(st.integers(1, 6)), width, draw(st.integers(1, 40)), token_parts, head_parts, per_row
    )
    return g, layout, draw(st.integers(1, layout.capacity))


def writes(g, layout, token):
    """Channel and write of everything that a new token adds."""
    for channel, part in layout.write_channels(g, token):
        for write in layout.write(g, token, part):
            yield channel, write


def padded_queries(queries, layout):
    """Query heads at whole accesses, as the buffer takes them: shape (queries, heads x padded width)."""
    each = -(-layout.width // LANES) * LANES
    out = np.zeros((len(queries), layout.heads, each))
    out[:, :, : layout.width] = queries
    return out.reshape(len(queries), -1)


@settings(max_examples=150, deadline=None)
@given(keys(), st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_keys_written_token_by_token_give_the_scores(case, seed, count):
    g, layout, tokens = case
    rng = np.random.default_rng(seed)
    key = rng.standard_normal((layout.capacity, layout.heads, layout.width))
    queries = rng.standard_normal((count, layout.heads, layout.width))
    banks = empty_banks(g, layout.rows(g), seed)
    filled = banks.copy()
    store(filled, layout.addresses(g), key)
    each = -(-layout.width // LANES) * LANES
    for token in range(tokens):
        padded = np.zeros((layout.heads, each))
        padded[:, : layout.width] = key[token]
        taken = 0
        for channel, write in writes(g, layout, token):
            size = write.length * LANES
            values = padded.reshape(1, -1)[:, taken : taken + size]
            apply_writes(banks, channel, write, LANES, values)
            taken += size
        assert taken == padded.size
    kept = tuple(part[:tokens] for part in layout.addresses(g))
    np.testing.assert_array_equal(banks[kept], filled[kept])
    out = np.zeros((count, layout.heads * layout.capacity))
    vectors = padded_queries(queries, layout)
    for channel, part_t, part_h in layout.shares(g, tokens):
        run_steps(banks, channel, layout.steps(g, part_t, part_h, tokens, count), vectors, g, out)
    scores = out.reshape(count, layout.heads, layout.capacity)
    expected = np.einsum("qhe,the->qht", queries, key[:tokens])
    np.testing.assert_allclose(scores[:, :, :tokens], expected, rtol=1e-9, atol=1e-6)
    assert not scores[:, :, tokens:].any()


@st.composite
def values(draw):
    g = draw(geometries())
    output_parts, token_parts = draw(grids(g))
    tile = accesses(draw, g) * LANES
    sizes = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 40))
    layout = ValueLayout(*sizes, output_parts, token_parts, tile)
    return g, layout, draw(st.integers(1, layout.capacity))


@settings(max_examples=150, deadline=None)
@given(values(), st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_values_written_token_by_token_give_the_weighted_sum(case, seed, count):
    g, layout, tokens = case
    rng = np.random.default_rng(seed)
    value = rng.standard_normal((layout.capacity, layout.heads, layout.width))
    share = rng.standard_normal((count * layout.heads, layout.capacity))
    banks = empty_banks(g, layout.rows(g), seed)
    filled = banks.copy()
    store(filled, layout.addresses(g), value)
    for token in range(tokens):
        flat = value[token]
        for channel, write in writes(g, layout, token):
            group = groups_of(g, layout, channel, write, token)
            head, sub = divmod(group, -(-layout.width // g.banks))
            new = flat[head, sub * g.banks : sub * g.banks + write.banks].reshape(-1, 1)
            apply_writes(banks, channel, write, LANES, new, token % layout.tile % LANES)
    kept = tuple(part[:tokens] for part in layout.addresses(g))
    np.testing.assert_array_equal(banks[kept], filled[kept])
    out = np.zeros((count * layout.heads, layout.heads * layout.width))
    for channel, part_m, part_t in layout.shares(g, tokens):
        run_steps(banks, channel, layout.steps(g, part_m, part_t, tokens, count), share, g, out)
    expected = np.einsum(
        "qht,the->qhe", share[:, :tokens].reshape(count, layout.heads, tokens), value[:tokens]
    )
    whole = out.reshape(count, layout.heads, layout.heads, layout.width)
    for head in range(layout.heads):
        np.testing.assert_allclose(whole[:, head, head], expected[:, head], rtol=1e-9, atol=1e-6)


def groups_of(g, layout, channel, write, token):
    """The group of outputs whose address a write has, found by looking for it."""
    addresses = layout.addresses(g)
    here = addresses.channel[token] == channel
    here &= addresses.row[token] == write.row
    here &= addresses.element[token] // LANES == write.at
    head, element = np.argwhere(here)[0]
    return head * -(-layout.width // g.banks) + element // g.banks


def test_two_elements_at_one_address_are_noticed():
    g = Geometry(1, 1, 4, 4, 4, 8)
    layout = WeightLayout(1, 4, 1, 1, 4, "aligned")
    wrong = layout.addresses(g)._replace(element=np.zeros((1, 4), dtype=np.int64))
    with pytest.raises(ValueError, match="one address"):
        store(empty_banks(g, 1, 0), wrong, np.zeros((1, 4)))


def test_a_published_row_holds_one_token_of_all_heads():
    """GPT2-small's 12 heads of 64 fill three quarters of a 1024-element row."""
    g = Geometry(8, 16, 1024, 16, 1024, 16384)
    layout = KeyLayout(12, 64, 1024, 8, 1, 12)
    addresses = layout.addresses(g)
    token = 300
    assert len({int(row) for row in addresses.row[token].ravel()}) == 1
    assert sorted(addresses.element[token].ravel()) == list(range(768))
