"""Products in narrow types with a branch of low rank beside them, as operators of a graph.

A weight is a residual in few bits and a product of two thin matrices in 16 bits (Li et al., SVDQuant,
arXiv:2411.05007). The residual's product takes activations in the same few bits, so they are quantised first. The
branch multiplies the 16-bit activations down to the rank and back up, and is added. Its two products are small, but
apart from the others they read the activations again, write a result of full size and read it back. Fused, the way down
runs where activations are quantised, and the way up as further steps of the residual's sums, each of which takes as
long as so many narrow ones: the extra traffic is that of the thin matrices alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hw_configs.problems import bad_input
from workloads.dtypes import size_bytes
from workloads.graph import Graph, Operator, Role, Tensor, make_operator
from workloads.operators import Elementwise, Product, Quantize
from workloads.rewritten import add_tensor, in_place_of, product_weight, with_products
from workloads.transformer.writer import QUANTIZE_FLOPS

__all__ = ["LowRank", "narrow_weights", "with_low_rank"]

SCALE_BYTES: Final = 2
"""Of a 16-bit scale."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """``dtype`` of weights and activations with ``group`` elements a scale; ``rank`` of the branch, 0: none.

    ``fused``: the branch's way down runs with the quantising, its way up with the product. ``wide_cost``: steps of a
    narrow sum that one step of the branch takes on the device (the ratio of its rates).
    """

    dtype: str = "int4"
    group: int = 64
    rank: int = 32
    fused: bool = True
    wide_cost: float = 1.0

    def stored(self, elements: int) -> int:
        """Bytes of so many elements with their scales."""
        return size_bytes(elements, self.dtype) + SCALE_BYTES * -(-elements // self.group)


def with_low_rank(graph: Graph, form: LowRank, chosen: Callable[[Operator], bool]) -> Graph:
    """The graph with every ``chosen`` product of activations and one weight in that form; others stay as they are.

    Activations that several such products take are quantised once. Raises ``InputError`` for a rank that is negative.
    """
    if form.rank < 0:
        raise bad_input(f"found {form.rank}; expected 0 or more", path="rank")
    weights = {o.name: product_weight(o, graph.tensors) for o in graph.operators if chosen(o)}
    return with_products(
        graph,
        {name: weight for name, weight in weights.items() if weight},
        lambda source, takers, tensors: [_quantise(source, takers, form, tensors)],
        lambda operator, weight, tensors: _product(operator, weight, form, tensors),
    )


def narrow_weights(graph: Graph, dtype: str, chosen: Callable[[Operator], bool]) -> Graph:
    """The graph with the weights of ``chosen`` products stored in a narrow type, arithmetic as it was."""
    tensors, operators = dict(graph.tensors), []
    for operator in graph.operators:
        weight = product_weight(operator, tensors)
        if weight and chosen(operator):
            whole = tensors[weight]
            tensors[weight] = Tensor(whole.name, whole.shape, dtype, whole.role)
            assert isinstance(operator.work, Product)
            operator = make_operator(
                operator.name, replace(operator.work, weight_dtype=dtype), operator.inputs, operator.outputs, tensors,
                dtype=operator.dtype, place=operator.place,
            )  # fmt: skip
        operators.append(operator)
    return replace(graph, tensors=tensors, operators=tuple(operators))


def _thin(operator: Operator, form: LowRank, tensors: dict[str, Tensor]) -> tuple[str, str]:
    """The weight of a branch's way down, and what comes of it."""
    assert isinstance(operator.work, Product)
    m, k = operator.work.m, operator.work.k
    down = add_tensor(
        tensors, f"{operator.name}.down.weight", (form.rank, k), operator.dtype, role=Role.WEIGHT
    )
    return down, add_tensor(tensors, f"{operator.name}.thin", (m, form.rank), operator.dtype)


def _quantise(source: str, takers: list[Operator], form: LowRank, tensors: dict[str, Tensor]) -> Operator:
    """Activations into the narrow type, with the ways down of all that take them where branches are fused."""
    first = takers[0].work
    assert isinstance(first, Product)
    m, k = first.m, first.k
    narrow = add_tensor(tensors, f"{source}.narrow", (m, k), form.dtype, form.stored(m * k))
    branches = [_thin(operator, form, tensors) for operator in takers] if form.fused and form.rank else []
    work = Quantize(
        m=m, n=k, to_dtype=form.dtype, block=form.group, flops_per_element=QUANTIZE_FLOPS,
        extra_flops=2.0 * m * k * form.rank * len(branches),
    )  # fmt: skip
    ends = (source, *(down for down, _ in branches)), (narrow, *(thin for _, thin in branches))
    return in_place_of(takers[0], f"{source}.quantise", work, ends, tensors, takers[0].dtype)


def _product(operator: Operator, weight: str, form: LowRank, tensors: dict[str, Tensor]) -> list[Operator]:
    """The residual's product, and its branch."""
    work, source, name, wide = operator.work, operator.inputs[0], operator.name, operator.dtype
    assert isinstance(work, Product)
    m, n, k, rank = work.m, work.n, work.k, form.rank
    narrow = add_tensor(tensors, f"{weight}.narrow", (n, k), form.dtype, form.stored(n * k), Role.WEIGHT)
    inputs = (f"{source}.narrow", narrow, *(x for x in operator.inputs[1:] if x != weight))
    residual = replace(work, weight_dtype="")
    if not rank:
        return [in_place_of(operator, name, residual, (inputs, operator.outputs), tensors, form.dtype)]
    up = add_tensor(tensors, f"{name}.up.weight", (n, rank), wide, role=Role.WEIGHT)
    if form.fused:
        longer = replace(residual, k=k + round(rank * form.wide_cost))
        ends = (*inputs, f"{name}.thin", up), operator.outputs
        return [in_place_of(operator, name, longer, ends, tensors, form.dtype)]
    down, thin = _thin(operator, form, tensors)
    half, full = (add_tensor(tensors, f"{name}.{label}", (m, n), wide) for label in ("residual", "branch"))
    add = Elementwise(m=m, n=n, flops_per_element=1.0, function="add")
    return [
        in_place_of(
            operator, f"{name}.down", Product(m=m, n=rank, k=k), ((source, down), (thin,)), tensors, wide
        ),
        in_place_of(operator, name, residual, (inputs, (half,)), tensors, form.dtype),
        in_place_of(operator, f"{name}.up", Product(m=m, n=n, k=rank), ((thin, up), (full,)), tensors, wide),
        in_place_of(operator, f"{name}.add", add, ((half, full), operator.outputs), tensors, wide),
    ]
