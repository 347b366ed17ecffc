"""Which layers an operator is to a spatial accelerator: extended einsums for its products.

A product has the dims M, N, K and, where there are several, B; a convolution N, K, C, P, Q, R, S and, in groups, G;
attention is two products per head, over query heads H that share the keys and values of B. Masked scores are computed
too. Transposed convolutions and linear attention are the products of :mod:`simulator.accelerator.lowering`. What is no
product (norms, softmax, element-wise work) has no layer.
"""

from __future__ import annotations

from hw_configs.spatial import Operand
from simulator.accelerator.lowering import lowered
from workloads import operators
from workloads.einsum import Einsum, Term
from workloads.graph import Operator

__all__ = ["layers_of"]


def layers_of(operator: Operator) -> tuple[Einsum, ...]:
    """The einsums of an operator; none for one that multiplies no matrices."""
    work = operator.work
    if isinstance(work, operators.Product):
        depth = max(1, round(work.k / work.rate))
        return _some(_product(operator.name, work.batch, work.m, depth, work.n))
    if isinstance(work, operators.GroupedProduct):
        touched = max(1, round(work.touched))
        return _some(_product(operator.name, touched, -(-work.m // touched), work.k, work.n))
    if isinstance(work, operators.Convolution) and not work.transposed:
        return _some(_convolution(operator.name, work))
    if isinstance(work, operators.Attention):
        return _attention(operator.name, work)
    if isinstance(work, operators.Convolution | operators.LinearAttention):
        products = found.products if (found := lowered(operator)) is not None else ()
        return tuple(
            layer
            for number, product in enumerate(products)
            for layer in _some(
                _product(f"{operator.name}.{number}", product.count, product.m, product.k, product.n)
            )
        )
    return ()


def _some(layer: Einsum) -> tuple[Einsum, ...]:
    return (layer,) if layer.macs else ()


def _product(name: str, count: int, m: int, k: int, n: int) -> Einsum:
    sizes = {"M": m, "N": n, "K": k}
    axes: dict[str, tuple[str, ...]] = {"I": ("M", "K"), "W": ("K", "N"), "O": ("M", "N")}
    if count > 1:
        sizes = {"B": count, **sizes}
        axes = {operand: ("B", *dims) for operand, dims in axes.items()}
    return Einsum(name, sizes, _plain(axes))


def _plain(axes: dict[str, tuple[str, ...]]) -> dict[Operand, tuple[tuple[Term, ...], ...]]:
    """Operands whose axes are one dim each."""
    known: dict[str, Operand] = {"I": "I", "W": "W", "O": "O"}
    return {known[operand]: tuple((Term(dim, 1),) for dim in dims) for operand, dims in axes.items()}


def _convolution(name: str, work: operators.Convolution) -> Einsum:
    sizes = {
        "N": work.batch, "K": work.out_channels // work.groups, "C": work.in_channels // work.groups,
        "P": work.out_height, "Q": work.out_width, "R": work.kernel_h, "S": work.kernel_w,
    }  # fmt: skip
    rows = (Term("P", work.stride_h), Term("R", work.dilation))
    columns = (Term("Q", work.stride_w), Term("S", work.dilation))
    group = ((Term("G", 1),),) if work.groups > 1 else ()
    if group:
        sizes["G"] = work.groups
    return Einsum(
        name, sizes,
        {
            "I": ((Term("N", 1),), *group, (Term("C", 1),), rows, columns),
            "W": (*group, (Term("K", 1),), (Term("C", 1),), (Term("R", 1),), (Term("S", 1),)),
            "O": ((Term("N", 1),), *group, (Term("K", 1),), (Term("P", 1),), (Term("Q", 1),)),
        },
    )  # fmt: skip


def _attention(name: str, work: operators.Attention) -> tuple[Einsum, ...]:
    """Scores of queries by keys, then scores by values; query heads of a group read the same keys."""
    shared = max(1, work.heads // max(work.kv_heads, 1))
    outer = {"B": work.batch * max(work.kv_heads, 1), "H": shared, "M": work.q_len}
    seen = work.kv_len
    if work.limit < work.kv_len:
        seen = min(work.kv_len, work.limit + work.q_len)
    seen = max(1, round(seen * work.sparse_share))
    scores = Einsum(
        f"{name}.scores", {**outer, "N": seen, "K": work.head_dim},
        _plain({"I": ("B", "H", "M", "K"), "W": ("B", "N", "K"), "O": ("B", "H", "M", "N")}),
    )  # fmt: skip
    mixed = Einsum(
        f"{name}.values", {**outer, "N": work.value_dim, "K": seen},
        _plain({"I": ("B", "H", "M", "K"), "W": ("B", "N", "K"), "O": ("B", "H", "M", "N")}),
    )  # fmt: skip
    return (*_some(scores), *_some(mixed))
