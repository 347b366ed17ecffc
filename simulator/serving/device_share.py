"""What one device of a replica does of a step: every operator's share under a layout, and the collectives between.

Attention and dense parts are divided over ``tp`` devices as :mod:`simulator.rewrite.split` divides them. Experts that
lie otherwise (``moe_tp``, ``moe_ep``) are divided by this module: a device has ``1 / moe_ep`` of the experts and
``1 / moe_tp`` of each, and sees the tokens of all attention groups. The fullest of ``moe_ep`` groups gets, with even
and independent choices, about ``sqrt(2 ln(moe_ep) x mean)`` rows more than the mean (largest of so many Poisson
counts). Between attention groups tokens travel by the cheaper of an all-to-all of what each expert group needs, and an
all-gather of everything with a reduce-scatter after.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from hw_configs.problems import InputError, Problem
from simulator.plan import Split, SplitAxis
from simulator.rewrite.split import split_graph
from simulator.serving.layer_classes import LayerClasses
from simulator.serving.settings import Layout
from workloads.expert_load import busiest_rank
from workloads.graph import Graph, Operator
from workloads.operators import (
    Activation,
    CollectiveWork,
    GroupedProduct,
    Quantize,
    Reduce,
    Sort,
    Work,
)
from workloads.transformer.formats import Precision
from workloads.transformer.step import Step

__all__ = ["Exchange", "Shared", "check_layout", "device_operators", "expert_groups"]

_AXES: Final[dict[str, SplitAxis]] = {
    axis: axis for axis in ("column", "row", "head", "split", "vocab", "sum", "replicated")
}


class Exchange(NamedTuple):
    """Bytes that ``ranks`` devices exchange; ``also``: of a second way to do the same, the cheaper one runs."""

    kind: str
    size: int
    ranks: int
    also: tuple[Exchange, ...] = ()


class Shared(NamedTuple):
    """An operator of the busiest device, or an exchange, and how often it runs in a step."""

    name: str
    layer: int
    times: int
    operator: Operator | None
    exchange: Exchange | None


def expert_groups(layout: Layout) -> tuple[int, int]:
    """``moe_tp`` and ``moe_ep`` with what is not stated filled in: the experts lie over ``tp x attention_dp``."""
    devices = layout.tp * layout.attention_dp
    ep = layout.moe_ep or (devices // layout.moe_tp if layout.moe_tp else 1)
    return layout.moe_tp or devices // max(1, ep), max(1, ep)


def check_layout(layout: Layout, has_experts: bool) -> None:
    """Raise ``InputError`` where experts do not lie on the devices that a layout has."""
    moe_tp, moe_ep = expert_groups(layout)
    problems = [
        Problem(f"found {getattr(layout, name)}; expected 1 or more", path=f"layout.{name}")
        for name in ("tp", "pp", "attention_dp")
        if getattr(layout, name) < 1
    ]
    if not problems and has_experts and moe_tp * moe_ep != layout.tp * layout.attention_dp:
        problems.append(Problem(
            f"moe_tp {moe_tp} x moe_ep {moe_ep} experts' devices; expected tp {layout.tp} x attention_dp "
            f"{layout.attention_dp}", path="layout.moe_tp, layout.moe_ep",
        ))  # fmt: skip
    if problems:
        raise InputError(problems)


def device_operators(
    classes: LayerClasses, precision: Precision, step: Step, layout: Layout
) -> Iterator[Shared]:
    """Operators of the busiest device and exchanges of a step of one attention group, layer by layer."""
    graph = classes.graph(precision, step)
    moe_tp, moe_ep = expert_groups(layout)
    apart = {op.name: op for op in graph.operators if _of_experts(op)} if (
        moe_ep > 1 or layout.attention_dp > 1
    ) else {}  # fmt: skip
    everywhere = graph
    if layout.attention_dp > 1 and apart:
        whole = replace(step, batch=step.batch * layout.attention_dp)
        everywhere = classes.graph(precision, whole)
    for shared in _divided(graph, classes, layout.tp, layout.attention_dp > 1):
        base = shared.name
        if base in apart:
            own = _expert_share(everywhere.operator_by_name[base], moe_tp, moe_ep)
            yield Shared(base, shared.layer, shared.times, own, None)
            if isinstance(own.work, GroupedProduct) and layout.attention_dp > 1:
                yield _travel(everywhere.operator_by_name[base], shared, layout, graph)
        else:
            yield shared


def _of_experts(operator: Operator) -> bool:
    """Whether experts' devices share an operator: products per expert, and what passes over their rows."""
    own = isinstance(operator.work, GroupedProduct | Activation | Quantize | Sort | Reduce)
    return own and ".mlp.experts." in f".{operator.name}"


def _divided(graph: Graph, classes: LayerClasses, tp: int, experts_apart: bool) -> Iterator[Shared]:
    """Operators of rank 0 in the graph's order, with the collectives of tensor parallelism."""
    if tp == 1:
        for op in graph.operators:
            layer = op.place.layer if op.place.layer is not None else -1
            yield Shared(op.name, layer, classes.count(layer), op, None)
        return
    devices = tuple(f"d{i}" for i in range(tp))
    splits = {op.name: Split(_AXES.get(op.place.axis or "", "replicated"), devices) for op in graph.operators}
    for op in split_graph(graph, splits).operators:
        if isinstance(op.work, CollectiveWork):
            maker = graph.producer[op.name.rsplit(".", 1)[0]]
            layer = graph.operator_by_name[maker].place.layer or 0
            if experts_apart and _of_experts(graph.operator_by_name[maker]):
                continue
            exchange = Exchange(op.kind, op.work.bytes, tp)
            yield Shared(op.name, layer, classes.count(layer), None, exchange)
            continue
        base, _, rank = op.name.rpartition("@")
        if rank == "0":
            layer = op.place.layer if op.place.layer is not None else -1
            yield Shared(base, layer, classes.count(layer), op, None)


def _expert_share(operator: Operator, moe_tp: int, moe_ep: int) -> Operator:
    """The share of the fullest of the devices that hold the experts."""
    work = operator.work
    every = work.n if isinstance(work, Sort) else getattr(work, "m", 0)
    rows = every / moe_ep
    if moe_ep > 1:
        rows = min(float(every), rows + math.sqrt(2.0 * math.log(moe_ep) * rows))
    share = rows / max(1, every) / moe_tp
    changed: Work = work
    if isinstance(work, GroupedProduct):
        column = operator.place.axis == "column"
        touched = work.touched / moe_ep
        if work.load != "independent" and work.active:
            busiest = busiest_rank(
                work.groups, work.active, int(work.tokens), moe_ep, work.load, work.exponent
            )
            rows, touched = float(busiest.rows), busiest.touched
            share = rows / max(1, every) / moe_tp
        changed = replace(
            work, m=max(1, math.ceil(rows)), groups=max(1, work.groups // moe_ep),
            expected_groups=touched, extra_flops=work.extra_flops * share,
            n=max(1, work.n // moe_tp) if column else work.n, k=work.k if column else max(1, work.k // moe_tp),
        )  # fmt: skip
    elif isinstance(work, Activation | Quantize):
        changed = replace(work, m=max(1, math.ceil(rows)), n=max(1, work.n // moe_tp))
    # Partial sums are as wide as whole ones, and the sum over experts is written for every token.
    read = share * moe_tp if isinstance(work, Reduce) else share
    written = 1.0 if isinstance(work, Reduce) else share * moe_tp if operator.place.axis == "row" else share
    return replace(
        operator, work=changed, reads=tuple(math.ceil(b * read) for b in operator.reads),
        writes=tuple(math.ceil(b * written) for b in operator.writes),
    )  # fmt: skip


def _travel(operator: Operator, shared: Shared, layout: Layout, graph: Graph) -> Shared:
    """Tokens on their way to the experts (before the first product) or back (after the second)."""
    work = operator.work
    assert isinstance(work, GroupedProduct)
    there = operator.place.axis == "column"
    _, moe_ep = expert_groups(layout)
    ranks = layout.tp * layout.attention_dp
    tokens = work.m // max(1, work.active)
    width = work.k if there else work.n
    everything = 2 * tokens * width
    reached = min(work.active, moe_ep)
    direct = Exchange("all_to_all", 2 * (tokens // layout.attention_dp) * width * reached // layout.tp, ranks)
    gathered = Exchange("all_gather" if there else "reduce_scatter", everything, ranks, (direct,))
    name = f"{shared.name}.{'dispatch' if there else 'combine'}"
    del graph
    return Shared(name, shared.layer, shared.times, None, gathered)
