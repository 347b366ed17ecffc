"""Products of sparse matrices: the result is scipy's and a dictionary's, bytes and probes are counted by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.threads.sparse_product import CHUNK, WAYS, ProductOptions, product_phases
from simulator.threads.work import totals
from tests.threads import plain
from tests.threads.test_engine import machine
from workloads.sparse_matrix import SparseMatrix, random_matrix, transposed


def matrix(rows: list[dict[int, float]], columns: int) -> SparseMatrix:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    indices = [column for row in rows for column in sorted(row)]
    values = [row[column] for row in rows for column in sorted(row)]
    return SparseMatrix(offsets, np.array(indices, np.int32), np.array(values, float), columns)


def drawn(rows: int, columns: int) -> st.SearchStrategy[SparseMatrix]:
    row = st.dictionaries(st.integers(0, columns - 1), st.integers(1, 9), max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda found: matrix(found, columns))


@settings(max_examples=80, deadline=None)
@given(
    drawn(6, 5), drawn(5, 7), st.sampled_from(WAYS), st.sampled_from(["low", "mixed"]),
    st.sampled_from([0.3, 0.5, 1.0]), st.sampled_from([8, 64]),
)  # fmt: skip
def test_every_way_gives_the_product_and_counts_what_it_touches(
    left: SparseMatrix, right: SparseMatrix, way: str, hashing: str, load: float, granule: int
) -> None:
    here = machine(scratchpad="512 B", granule=f"{granule} B")
    made = product_phases(left, right, here, ProductOptions(way, load, hashing))  # type: ignore[arg-type]
    expected = plain.product(left, right)
    assert [dict(sorted(row.items())) for row in plain.rows_of(made.result)] == [
        dict(sorted(row.items())) for row in expected
    ]
    assert made.multiplications == sum(len(b) for row in plain.rows_of(left) for b in
                                       (plain.rows_of(right)[k] for k in row))  # fmt: skip
    assert made.probes >= made.multiplications
    sums = totals(made.phases)
    reads, kept = _reads(left, right, way, granule), made.result.nonzeros
    assert sums.read_bytes == reads
    if way == "row-hash":
        assert kept * 12 <= sums.write_bytes <= kept * (12 + 2 * granule)


def _reads(left: SparseMatrix, right: SparseMatrix, way: str, granule: int) -> int:
    """Bytes read: sums over what each step touches, granule by granule."""
    rows = plain.rows_of(right)
    whole = [
        plain.touched(4 * a, 4 * b, granule) + plain.touched(8 * a, 8 * b, granule) + max(granule, 16)
        for a, b in zip(right.offsets.tolist(), right.offsets.tolist()[1:], strict=False)
    ]
    found = 0
    if way == "row-hash":
        for row in plain.rows_of(left):
            found += sum(12 + whole[inner] for inner in row)
    elif way == "outer":
        for inner, column in enumerate(plain.rows_of(transposed(left))):
            found += 12 * len(column) + (whole[inner] if column else 0)
            found += len(column) * plain.touched(0, 16 * len(rows[inner]), granule)
    else:
        offsets = transposed(right).offsets.tolist()
        columns = sum(plain.touched(4 * a, 4 * b, granule) for a, b in pairwise(offsets))
        for row in plain.rows_of(left):
            found += plain.touched(0, 12 * len(row), granule)
            if row:
                found += columns + max(granule, 8) * sum(len(rows[inner]) for inner in row)
    return found


def test_a_larger_product_is_scipys() -> None:
    left, right = random_matrix(300, 1500, seed=3), random_matrix(300, 1200, seed=4)
    made = product_phases(left, right, machine(scratchpad="16 KiB"))
    assert made.windows > 1

    def other(m: SparseMatrix) -> scipy.sparse.csr_matrix:
        return scipy.sparse.csr_matrix((m.values, m.indices, m.offsets), shape=(m.rows, m.columns))

    expected = other(left) @ other(right)
    expected.sort_indices()
    assert np.array_equal(expected.indptr, made.result.offsets)
    assert np.array_equal(expected.indices, made.result.indices)
    assert np.allclose(expected.data, made.result.values)


def test_probes_are_those_of_linear_probing() -> None:
    """Columns 0, 8 and 1 of one row in a table of 8 slots by their lowest bits: 1, 2 and 2 probes."""
    left = matrix([{0: 1.0}], 1)
    right = matrix([{0: 1.0, 8: 1.0, 9: 1.0}], 16)
    made = product_phases(left, right, machine(), ProductOptions(load=0.4, hashing="low"))
    assert made.probes == 1 + 2 + 2
    assert made.phases[1].segments[0, 5] == 40, "three values of 12 B, rounded up to 8 B"
    assert made.phases[1].segments[0, 0] == 3 * min(8, CHUNK)


def test_a_row_that_no_table_holds_is_refused() -> None:
    left, right = matrix([{}, {0: 1.0}], 1), matrix([dict.fromkeys(range(20), 1.0)], 20)
    with pytest.raises(InputError, match=r"row 1 of the result may have 20 values; .* has room for 16"):
        product_phases(left, right, machine(scratchpad="512 B"))
    with pytest.raises(InputError, match="a matrix of 1 columns times one of 2 rows"):
        product_phases(left, left, machine())
    with pytest.raises(InputError, match="did you mean 'inner'"):
        ProductOptions("iner")


@pytest.mark.parametrize(
    ("offsets", "indices", "words"),
    [
        ([0, 2], [1, 1], "columns that rise"), ([0, 2], [0, 5], "outside of 0 to 4"), ([0, 2, 1], [0], "never fall"),
        ([0, 1], [0, 1], "the last offset is 1"),
    ],
)  # fmt: skip
def test_a_matrix_that_is_none_is_refused(offsets: list[int], indices: list[int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SparseMatrix(np.array(offsets), np.array(indices), np.ones(len(indices)), 5)


def test_transposing_twice_changes_nothing() -> None:
    one = random_matrix(50, 300, seed=9)
    two = transposed(transposed(one))
    assert np.array_equal(one.offsets, two.offsets)
    assert np.array_equal(one.indices, two.indices)
    assert np.array_equal(one.values, two.values)
