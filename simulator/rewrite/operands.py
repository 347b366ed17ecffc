"""What an operator of a rewritten graph does and touches: its fields by share, its bytes operand by operand.

A rewrite replaces the tensors of an operator by parts, copies or strips of them. Of each the operator touches what it
touched of the whole, in proportion to the bytes: all of it, or the part that its builder or its kind's rule said
(:mod:`workloads.operators.traffic`). Bytes of no named tensor shrink with the work.

Arithmetic follows from the fields. Where a size is divided, the size says so; where no size does (a share of tokens
of an attention, a sequence cut into two and a half), ``share`` of the work says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil, isclose
from types import MappingProxyType
from typing import Any, Final, TypeVar

from workloads.graph import Operator, Tensor
from workloads.operators import (
    Attention,
    Convolution,
    Embedding,
    GroupedProduct,
    LinearAttention,
    Optimizer,
    Product,
    Recurrence,
    Scan,
    Scatter,
    Softmax,
    Work,
)
from workloads.operators.traffic import traffic

__all__ = ["divided_fields", "heads_of", "in_proportion", "itemised", "of_arithmetic", "reduced", "spread"]

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
W = TypeVar("W", bound=Work)


def itemised(operator: Operator, tensors: Mapping[str, Tensor]) -> Operator:
    """The operator with its bytes stated operand by operand.

    One that states totals alone (a recorded trace, a graph file with totals) gets them dealt out by its kind's rule;
    what no operand takes stays beside them.
    """
    reads, writes = (
        len(operator.inputs) + len(operator.updates),
        len(operator.outputs) + len(operator.updates),
    )
    if (len(operator.reads), len(operator.writes)) == (reads, writes):
        return operator
    inputs, outputs, updates = (
        [tensors[name] for name in names] for names in (operator.inputs, operator.outputs, operator.updates)
    )
    rule = traffic(operator.work, inputs, outputs, updates)
    changes: dict[str, Any] = {}
    if len(operator.reads) != reads:
        changes["reads"], changes["beside_read"] = _dealt(operator.read_bytes, rule.reads)
    if len(operator.writes) != writes:
        changes["writes"], changes["beside_written"] = _dealt(operator.write_bytes, rule.writes)
    return replace(operator, **changes)


def _dealt(total: int, rule: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """A total over the operands by their rule, and what is left."""
    if not any(rule):
        return rule, total
    return spread(total, rule), 0


def spread(total: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """A total in proportion to sizes, as whole numbers that add up to it; 0 for all where the sizes are 0.

    >>> spread(10, (1, 1, 1))
    (3, 3, 4)
    """
    whole = sum(sizes)
    if whole == total or len(sizes) == 1:
        return (total,) if len(sizes) == 1 else tuple(sizes)
    found, before = [], 0
    for size in sizes:
        after = before + size
        found.append(total * after // whole - total * before // whole if whole else 0)
        before = after
    return tuple(found)


def in_proportion(count: int, part: float, whole: float) -> int:
    """What falls on a part of a whole, rounded to whole bytes; the count itself where the whole is nothing."""
    return count if part == whole or not whole else round(count * part / whole)


def reduced(work: W, share: float, names: Iterable[str], given: Mapping[str, int] = NOTHING) -> W:
    """The work of one of equal shares: the named fields that the kind has are divided, whole numbers rounded up.

    A field of 0 says nothing and stays. ``given`` are fields that are divided otherwise. Where none of the sizes
    decides the arithmetic, ``share`` of the work falls.
    """
    values: dict[str, Any] = {}
    for name in names:
        value = getattr(work, name, 0)
        if value:
            values[name] = value * share if isinstance(value, float) else max(1, ceil(value * share - 1e-9))
    changed = replace(work, **{**values, **given}, extra_flops=work.extra_flops * share)
    if share != 1.0 and changed.arithmetic() == work.arithmetic() != 0:
        changed = replace(changed, share=work.share * share)
    return changed


def of_arithmetic(changed: W, work: Work, share: float) -> W:
    """Changed work whose arithmetic is a share of that of ``work``, exactly.

    Sizes that divide evenly say it by themselves; ``share`` of the work holds what they do not.
    """
    made, wanted = changed.arithmetic(), work.arithmetic() * share
    own = work.share
    if made and not isclose(made, wanted, rel_tol=1e-12):
        own *= wanted / made
    return replace(changed, share=own, extra_flops=work.extra_flops * share)


def divided_fields(work: Work, axis: str) -> tuple[str, ...]:
    """The fields of which one rank has its share when tensor parallelism divides an operator along an axis.

    Axes are those of :mod:`simulator.rewrite.split`.
    """
    if isinstance(work, Optimizer):
        return ("parameters",)
    if (axis == "vocab" and isinstance(work, Embedding)) or (axis == "column" and isinstance(work, Scatter)):
        return ("m",)  # the rows that lie in its part of the table, or of the table's gradient
    if axis == "row":
        return ("k", "in_channels")
    if isinstance(work, Convolution):
        return ("in_channels", "out_channels", "groups") if work.depthwise else ("out_channels",)
    if isinstance(work, Recurrence):
        return ("heads", "kv_heads", "hidden", "input_size", "flops_per_token")
    if isinstance(work, LinearAttention):
        return ("heads", "kv_heads")
    if isinstance(work, Scan):
        return ("channels",)
    if axis == "column":
        return ("n", "heads", "kv_heads")
    if axis == "head" and isinstance(work, Product) and work.batch > 1:
        return ("batch", "heads", "kv_heads")
    if axis == "head" and isinstance(work, Softmax):
        return ("m", "heads", "kv_heads")
    if axis == "head":
        return ("n", "heads", "kv_heads")
    return ("n",) if axis in ("split", "vocab") else ()


def heads_of(work: Work) -> tuple[int, int]:
    """Query heads, and key and value heads, that the work is made of; 0 where it does not say."""
    if isinstance(work, Product | GroupedProduct | Attention | Softmax | Recurrence | LinearAttention):
        return work.heads, work.kv_heads
    return 0, 0
