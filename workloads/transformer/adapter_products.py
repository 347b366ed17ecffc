"""The operators of adapters that stay apart from the weights: two small products beside a large one, and their sum.

Adapters of one rank beside one product run as one grouped product, as the kernels of multi-adapter serving have it
(Punica, arXiv:2310.18547). A batch's rows are taken to be spread evenly over the adapters. DoRA works out the norm of
every row of the changed weight anew in each step, as PEFT does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hw_configs.problems import bad_input
from workloads.operators import Elementwise, GroupedProduct, Norm, Product
from workloads.transformer.adapters import LoraAdapter

if TYPE_CHECKING:
    from workloads.transformer.writer import ExpertProducts, GraphWriter, Linear

__all__ = [
    "Beside", "adapters_beside", "refuse_beside", "write_beside", "write_beside_experts", "write_copies",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Beside:
    """Adapters of one rank and make beside some outputs of a product: ``count`` of them, ``target`` names them."""

    target: str
    columns: int
    rank: int
    dora: bool
    bias: bool
    first: bool
    """Whether they stand beside the first module of a fused product, which has the query heads."""
    count: int = 1


def adapters_beside(w: GraphWriter, spec: Linear) -> list[Beside]:
    """All adapters beside a product, those alike together; the writer notes which targets were met."""
    found: dict[Beside, int] = {}
    parts = [(share.module, share.rows) for share in spec.shares if share.rows] or [(spec.module, spec.n)]
    for adapter in w.adapters:
        for one in _of(w, adapter, parts):
            found[one] = found.get(one, 0) + 1
    return [Beside(b.target, b.columns, b.rank, b.dora, b.bias, b.first, count) for b, count in found.items()]


def _of(w: GraphWriter, adapter: LoraAdapter, parts: Sequence[tuple[str, int]]) -> list[Beside]:
    """Where one adapter stands; a target that names a whole fused product has one way down for all of it."""
    spans: dict[str, tuple[int, int, bool]] = {}
    for index, (module, rows) in enumerate(parts):
        target = adapter.target_of(module)
        if not target:
            continue
        w.met.add(target)
        short = target if adapter.fuses(target) else module
        columns, rank, first = spans.get(short, (0, adapter.rank_of(module), index == 0))
        spans[short] = (columns + rows, rank, first)
    return [
        Beside(short.rpartition(".")[2], columns, rank, adapter.dora, adapter.bias, first)
        for short, (columns, rank, first) in spans.items()
    ]


def refuse_beside(w: GraphWriter, modules: Sequence[str]) -> None:
    """``InputError`` where an adapter stands beside weights whose products have no place for it."""
    for adapter in w.adapters:
        for module in modules:
            if adapter.rank_of(module):
                raise bad_input(
                    f"adapter {adapter.name!r} stands beside {module}, whose products are absorbed into others; "
                    "expected it merged (--merge-adapters)",
                    path="--adapter",
                )


def write_beside(
    w: GraphWriter, name: str, source: str, weight: str, base: str, spec: Linear, beside: Sequence[Beside]
) -> str:  # fmt: skip
    """The adapters' products over ``source``, added to ``base``, what the large product gave; returns the sum."""
    column = spec.tp in ("column", "vocab")
    inputs = [base]
    for index, one in enumerate(beside):
        inputs += _pair(w, f"{name}.{one.target}", index, source, weight, spec, one)
    columns = sum(one.columns for one in beside)
    out = w.activation(f"{name}.out", spec.m, spec.n)
    # Scaled and added in place: only the adapters' columns move.
    work = Elementwise(m=spec.m, n=columns, flops_per_element=2.0, function="add")
    w.emit_in_part(
        f"{name}.adapted", work, inputs, out, {base: spec.m * columns}, spec.m * columns,
        tp="split" if column else "replicated",
    )  # fmt: skip
    return out


def _pair(
    w: GraphWriter, beside: str, index: int, source: str, weight: str, spec: Linear, one: Beside
) -> list[str]:
    """Down to the rank and up from it; returns what is to be added, and DoRA's magnitudes."""
    name = f"{beside}.lora{index}"
    rows = max(1, -(-spec.m * one.count // len(w.adapters)))
    column = spec.tp in ("column", "vocab")
    several = (one.count,) if one.count > 1 else ()
    # Two halves of one module (latent attention's expansion) share its way down.
    place = beside.removesuffix(one.target).rstrip(".").rpartition(".")[0]
    shared = f"{place}.{one.target}" if place else one.target
    down_weight = w.weight(f"{shared}.lora{index}.down.weight", *several, one.rank, spec.k)
    up_weight = w.weight(f"{name}.up.weight", *several, one.columns, one.rank)
    down = w.activation(f"{name}.down.out", rows, one.rank)
    up = w.activation(f"{name}.up.out", rows, one.columns)
    if any(adapter.dropout for adapter in w.adapters):
        source = _dropped(w, name, source, rows, spec)
    touched = {source: rows * spec.k}
    w.emit_in_part(
        f"{name}.down", _product(w, rows, one.rank, spec.k, one.count), (source, down_weight), down,
        touched if one.count == 1 else {**touched, **_share(w, down_weight, one.count)},
        tp="row" if spec.tp == "row" else "replicated",
    )  # fmt: skip
    heads = (spec.heads, 0) if one.first else (0, spec.kv_heads)
    up_inputs = [down, up_weight]
    if one.bias:
        up_inputs.append(w.weight(f"{name}.bias", *several, one.columns))
    w.emit_in_part(
        f"{name}.up", _product(w, rows, one.columns, one.rank, one.count, heads), up_inputs, up,
        {} if one.count == 1 else _share(w, up_weight, one.count), tp=spec.tp if column else "replicated",
    )  # fmt: skip
    added = [up]
    if one.dora:
        added += _magnitudes(w, name, weight, (down_weight, up_weight), spec, one)
    return added


def _dropped(w: GraphWriter, name: str, source: str, rows: int, spec: Linear) -> str:
    """What enters an adapter with some of it dropped, and the mask that says which."""
    out = w.activation(f"{name}.dropout.out", rows, spec.k)
    mask = w.activation(f"{name}.dropout.mask", rows, spec.k, "bool")
    work = Elementwise(m=rows, n=spec.k, flops_per_element=2.0, function="dropout")
    w.emit(f"{name}.dropout", work, (source,), (out, mask), tp="row" if spec.tp == "row" else "replicated")
    return out


def _product(
    w: GraphWriter, rows: int, n: int, k: int, count: int, heads: tuple[int, int] = (0, 0)
) -> Product | GroupedProduct:
    if count == 1:
        return Product(m=rows, n=n, k=k, heads=heads[0], kv_heads=heads[1])
    touched = float(min(count, w.sequences))
    return GroupedProduct(
        m=rows, n=n, k=k, groups=count, active=1, expected_groups=touched, heads=heads[0], kv_heads=heads[1]
    )


def _share(w: GraphWriter, weight: str, count: int) -> dict[str, int]:
    """Elements of all adapters' weights that a step reads: those of adapters that some sequence uses."""
    elements = 1
    for side in w.tensors[weight].shape:
        elements *= side
    return {weight: elements * min(count, w.sequences) // count}


def _magnitudes(
    w: GraphWriter, name: str, weight: str, pair: tuple[str, str], spec: Linear, one: Beside
) -> list[str]:
    """DoRA: norms of the rows of the changed weight, for each adapter that some sequence uses, and the magnitudes."""
    used = min(one.count, w.sequences)
    delta = w.activation(f"{name}.delta.out", used * one.columns, spec.k)
    w.emit_in_part(
        f"{name}.delta", Product(m=one.columns, n=spec.k, k=one.rank, batch=used), (pair[1], pair[0]), delta,
        {} if one.count == 1 else {**_share(w, pair[0], one.count), **_share(w, pair[1], one.count)}, tp="replicated",
    )  # fmt: skip
    norms = w.activation(f"{name}.norms.out", used * one.columns, 1)
    work = Norm(m=used * one.columns, n=spec.k, flops_per_element=3.0, norm="rms")
    w.emit_in_part(
        f"{name}.norms", work, (weight, delta), norms, {weight: one.columns * spec.k}, tp="replicated"
    )
    return [norms, w.weight(f"{name}.magnitude", one.count, one.columns)]


def write_beside_experts(w: GraphWriter, name: str, source: str, base: str, spec: ExpertProducts) -> str:
    """An adapter of every expert, each on the rows of its own; returns the sum, or ``base`` where there is none."""
    ranks = {}
    for adapter in w.adapters:
        for module in spec.modules:
            target = adapter.target_of(module)
            if target:
                w.met.add(target)
                short = target if adapter.fuses(target) else module
                ranks[short.rpartition(".")[2]] = adapter.rank_of(module)
    if not ranks:
        return base
    if len(w.adapters) > 1:
        raise bad_input(
            "several adapters on experts are not modelled; expected one, or merged", path="--adapter"
        )
    inputs = [base]
    columns = spec.n // len(ranks)
    for short, rank in ranks.items():
        stem = f"{name}.{short}.lora{rank}"
        sizes = {"down": (rank, spec.k), "up": (columns, rank)}
        out = source
        for way, (n, k) in sizes.items():
            weight = w.weight(f"{stem}.{way}.weight", spec.experts, n, k)
            made = w.activation(f"{stem}.{way}.out", spec.rows, n)
            work = GroupedProduct(
                m=spec.rows, n=n, k=k, groups=spec.experts, active=spec.active, expected_groups=spec.touched
            )
            axis = spec.tp if (way == "up") == (spec.tp == "column") else "replicated"
            w.emit_in_part(f"{stem}.{way}", work, (out, weight), made, {}, tp=axis)
            out = made
        inputs.append(out)
    total = w.activation(f"{name}.adapted.out", spec.rows, spec.n)
    add = Elementwise(m=spec.rows, n=spec.n, flops_per_element=2.0, function="add")
    w.emit_in_part(
        f"{name}.adapted", add, inputs, total, {}, tp="split" if spec.tp == "column" else "replicated"
    )
    return total


def write_copies(w: GraphWriter, name: str, modules: Sequence[tuple[str, int]], k: int) -> None:
    """Whole copies of modules that adapters have of their own: they lie in memory beside the weight they replace."""
    for module, rows in modules:
        count = sum(module in adapter.saved for adapter in w.adapters)
        if count:
            w.weight(f"{name}.{module.rpartition('.')[2]}.saved.weight", count, rows, k)
