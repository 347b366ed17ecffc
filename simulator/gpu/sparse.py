"""Sparse products: 2:4 weights, load-as-sparse-compute-as-dense, SpMM and SpGEMM, as closed forms of bytes and FLOPs.

- 2:4 (structured): of four weights two are stored, with two bits of position each; the matrix unit skips the
  rest, at twice its dense rate (Mishra et al., arXiv:2104.08378).
- Load-as-sparse-compute-as-dense (Xia et al., Flash-LLM, arXiv:2309.10285): weights travel as values with
  16-bit positions inside their tile and are expanded in shared memory; the arithmetic stays dense. Bytes of
  the weights fall to (1 - sparsity) (value + position), so it gains only above half sparsity in 16 bits.
- SpMM: a sparse m x k matrix times a dense k x n one. Every non-zero reads its value, its index and a row of
  the dense operand, of which the L2 serves all but the first read as far as the operand fits.
- SpGEMM: row by row (Gustavson, ACM TOMS 4(3), 1978): every partial product is a multiply-add, and both the
  reads of the right rows and the compressed output move.

No public measurement here checks these forms.
"""

from __future__ import annotations

from dataclasses import replace

from hw_configs.problems import bad_input
from workloads.dtypes import BITS
from workloads.graph import Operator
from workloads.operators import Elementwise, Product

__all__ = ["load_as_sparse", "spgemm", "spmm", "two_of_four"]

POSITION_BITS = 16
INDEX_BYTES = 4


def two_of_four(product: Operator) -> Operator:
    """A product whose weights are 2:4 sparse: half the FLOPs and weights, two bits of position per weight kept."""
    work = _product(product)
    stored = work.n * work.k * (BITS[product.dtype] / 2 + 1) / 8
    return _with_weights(product, work, stored, rate=2.0)


def load_as_sparse(product: Operator, sparsity: float) -> Operator:
    """A product whose weights are loaded sparse and multiplied dense; ``sparsity`` is the share of zeros."""
    if not 0 <= sparsity < 1:
        raise bad_input(f"found a sparsity of {sparsity:g}; expected at least 0 and below 1")
    work = _product(product)
    stored = work.n * work.k * (1 - sparsity) * (BITS[product.dtype] + POSITION_BITS) / 8
    return _with_weights(product, work, stored, rate=1.0)


def spmm(m: int, n: int, k: int, nonzeros: int, l2_bytes: float, dtype: str = "fp32") -> Operator:
    """Sparse (m x k, ``nonzeros``) times dense (k x n), priced by its bytes."""
    if min(m, n, k) < 1 or not 0 <= nonzeros <= m * k:
        raise bad_input(f"{nonzeros} non-zeros do not fit a matrix of {m} x {k}")
    element = BITS[dtype] / 8
    dense = k * n * element
    rows_read = nonzeros * n * element
    touched = min(dense, rows_read)
    missed = touched + (rows_read - touched) * max(0.0, 1 - l2_bytes / dense)
    read = nonzeros * (element + INDEX_BYTES) + (m + 1) * INDEX_BYTES + missed
    return _by_bytes("spmm", 2.0 * nonzeros * n, read, m * n * element, dtype)


def spgemm(
    rows: int,
    left_nonzeros: int,
    right_nonzeros_per_row: float,
    compression: float = 1.0,
    dtype: str = "fp32",
) -> Operator:
    """Sparse times sparse by rows. ``compression``: partial products per non-zero of the result, at least 1."""
    if rows < 1 or left_nonzeros < 0 or right_nonzeros_per_row < 0 or compression < 1:
        raise bad_input("SpGEMM needs rows, counts of at least 0 and a compression of at least 1")
    element = BITS[dtype] / 8
    pair = element + INDEX_BYTES
    products = left_nonzeros * right_nonzeros_per_row
    read = left_nonzeros * (pair + 2 * INDEX_BYTES) + products * pair
    return _by_bytes(
        "spgemm", 2.0 * products, read, products / compression * pair + rows * INDEX_BYTES, dtype
    )


def _product(operator: Operator) -> Product:
    if not isinstance(operator.work, Product):
        raise bad_input(f"{operator.name!r} is no product; only products have sparse weights")
    return operator.work


def _with_weights(operator: Operator, work: Product, stored: float, rate: float) -> Operator:
    """The product with ``stored`` bytes for each right operand; the rest of its reads stay."""
    dense = work.batch * work.n * work.k * BITS[operator.dtype] / 8
    saved = int(dense - work.batch * stored)
    work = replace(work, weight_bytes=stored, rate=rate)
    if len(operator.reads) > 1:
        reads = (operator.reads[0], max(0, operator.reads[1] - saved), *operator.reads[2:])
        return replace(operator, work=work, reads=reads)
    return replace(operator, work=work, beside_read=max(0, operator.beside_read - saved))


def _by_bytes(name: str, flops: float, read: float, written: float, dtype: str) -> Operator:
    work = Elementwise(extra_flops=flops)
    return Operator(name, work, (), (), dtype=dtype, beside_read=int(read), beside_written=int(written))
