"""How a plan lays an operator out on a PIM memory, and the stages in which the memory and its host then run it.

A plan gives each operator a kernel: plain data whose ``kind`` says what it is and whose other keys are the
choices of :mod:`simulator.pim.matrix_layout`. A kernel and an operator make a recipe: stages that follow one
another, each either work of the memory (channels side by side) or clocks of the host's vector unit.

- ``weights``: a product with a weight matrix, once per row of its input; the host adds partial sums and bias.
- ``attention``: new keys and values are written, scores, softmax on the host, weighted sum of values, token by
  token of the new ones, so that each sees what stands before it.
- ``keys``, ``values``: the two products of attention as operators of their own.
- ``vector``: the host works alone, on ``fetch_bytes`` of parameters that it reads from the memory.

``overlap`` lets memory and host work at the same time inside an operator: partial sums are added as they come, the
first heads' softmax runs beside the scores of the next, values are written beside the softmax, and parameters are
read beside the operator before those that need them. Without it they take turns, as in the published simulator of
PIM-GPT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.device import Pim
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.vector_unit import VectorUnit
from simulator.pim.asic import clocks, operator_stages, partial_sum_stages, softmax_stages
from simulator.pim.lowering import Lowering
from simulator.pim.matrix_layout import Geometry, KeyLayout, ValueLayout, WeightLayout
from simulator.pim.product_counts import ProductCounts, key_counts, value_counts, weight_counts
from simulator.pim.program import Program
from workloads.dtypes import size_bytes
from workloads.graph import Attribute, Graph, Operator, Role
from workloads.operators import Attention, GroupedProduct, Product

__all__ = [
    "HostStage",
    "Kernel",
    "MemoryStage",
    "Share",
    "Stage",
    "attention_heads",
    "cache_slots",
    "check_kernel",
    "key_layout",
    "key_shares",
    "recipe",
    "refused_attention",
    "stored_otherwise",
    "value_layout",
    "value_shares",
    "weight_layout",
    "weight_shares",
    "write_shares",
]

Kernel = Mapping[str, Attribute]

_WEIGHTS: Final = ("output_parts", "input_parts", "tile", "packing")
_KEYS: Final = ("capacity", "token_parts", "head_parts", "heads_per_row")
_VALUES: Final = ("capacity", "output_parts", "value_parts", "value_tile")
_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "weights": _WEIGHTS,
    "attention": tuple(dict.fromkeys((*_KEYS, *_VALUES))),
    "keys": _KEYS,
    "values": _VALUES,
    "vector": (),
}
_OPTIONAL: Final = ("kind", "overlap", "fetch_bytes", "rules")
_OPERATORS: Final = {
    "weights": ("matmul", "grouped_matmul"), "attention": ("attention",), "keys": ("matmul",), "values": ("matmul",),
}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """A program that ``channels`` channels run at the same time; equal keys are equal programs."""

    key: tuple[object, ...]
    channels: int
    counts: ProductCounts | None
    """Counts of one channel; None for plain reads and writes."""
    write: Callable[[], Program] = field(compare=False)


@dataclass(frozen=True)
class MemoryStage:
    """Programs that start together, run ``times`` times one after another."""

    label: str
    shares: tuple[Share, ...]
    times: int = 1


@dataclass(frozen=True)
class HostStage:
    """Clocks of the host's vector unit that nothing hides, those it is busy, and what the memory does beside."""

    label: str
    exposed: int
    busy: int
    beside: tuple[Share, ...] = ()


Stage = MemoryStage | HostStage


def _weight(operator: Operator) -> Product | GroupedProduct:
    if not isinstance(operator.work, Product | GroupedProduct):
        raise bad_input(f"operator {operator.name!r} ({operator.kind}) is no product with a weight")
    return operator.work


def attention_heads(operator: Operator, kind: str) -> tuple[int, int, int]:
    """Key heads over all sequences, query heads per key head, and elements of a head."""
    work = operator.work
    if isinstance(work, Attention):
        return work.batch * work.kv_heads, work.heads // work.kv_heads, work.head_dim
    product = _weight(operator)
    heads, kv_heads = max(1, product.heads), max(1, product.kv_heads)
    batch = product.batch // heads if isinstance(product, Product) else 1
    return batch * kv_heads, heads // kv_heads, product.k if kind == "keys" else product.n


def cache_slots(work: Attention, room: int) -> int:
    """Tokens that a cache with room for so many has to keep: what a window or a chunk leaves is a ring."""
    return min([room, *(size for size in (work.reach, work.chunk) if size)])


def refused_attention(work: Attention) -> str:
    """Why no layout here serves such attention; empty where one does."""
    walk = "which lie in any rows; units here walk over whole runs"
    if work.top_k and work.top_k < work.kv_len:
        return f"an indexer picks {work.top_k} of {work.kv_len} keys, {walk}"
    return f"it keeps a share of channels and tokens, {walk}" if work.kept < 1 else ""


def stored_otherwise(graph: Graph, operators: Iterable[Operator], device: Pim) -> Iterator[Problem]:
    """Matrices of operators whose elements are not as wide as those that a device's units multiply."""
    dtype, width = device.units.dtype, device.element_bytes
    for op in operators:
        for name in dict.fromkeys((*op.inputs, *op.updates)):
            tensor = graph.tensors[name]
            if tensor.role not in (Role.WEIGHT, Role.KV_CACHE) or len(tensor.shape) < 2:
                continue
            if size_bytes(8, tensor.dtype) != 8 * width:
                said = f"stored as {tensor.dtype}; the units of {device.name!r} multiply {dtype} ({8 * width} bits)"
                yield Problem(f"operator {op.name!r} reads {name!r}, {said}", path="--dtype")


def _visible(work: Attention, position: int) -> int:
    """Keys that the token at a position sees: all so far, those of its chunk, or those of its window and the sinks."""
    seen = position % work.chunk + 1 if work.chunk else position + 1
    return min(seen, work.reach) if work.reach else seen


def weight_layout(operator: Operator, kernel: Kernel) -> WeightLayout:
    """The layout of an operator's weight."""
    return WeightLayout(
        _weight(operator).n,
        _weight(operator).k,
        int(kernel["output_parts"]),
        int(kernel["input_parts"]),
        int(kernel["tile"]),
        "flat" if kernel["packing"] == "flat" else "aligned",
    )


def key_layout(operator: Operator, kernel: Kernel) -> KeyLayout:
    """The layout of an attention operator's keys, over all sequences."""
    kind = "keys" if kernel["kind"] == "keys" else "attention"
    heads, _, width = attention_heads(operator, kind)
    return KeyLayout(
        heads,
        width,
        int(kernel["capacity"]),
        int(kernel["token_parts"]),
        int(kernel["head_parts"]),
        int(kernel["heads_per_row"]),
    )


def value_layout(operator: Operator, kernel: Kernel) -> ValueLayout:
    """The layout of an attention operator's values, over all sequences."""
    kind = "values" if kernel["kind"] == "values" else "attention"
    heads, _, width = attention_heads(operator, kind)
    if isinstance(operator.work, Attention):
        width = operator.work.value_dim
    return ValueLayout(
        heads,
        width,
        int(kernel["capacity"]),
        int(kernel["output_parts"]),
        int(kernel["value_parts"]),
        int(kernel["value_tile"]),
    )


def check_kernel(operator: Operator, kernel: Kernel, g: Geometry) -> None:
    """Raise ``InputError`` with everything about a kernel that does not fit its operator or the memory."""
    where = f"kernels.{operator.name}"
    kind = kernel.get("kind")
    if not isinstance(kind, str) or kind not in _NEEDED:
        near = nearest(str(kind), _NEEDED)
        raise bad_input(
            f"found {kind!r}; expected one of {', '.join(_NEEDED)}", path=f"{where}.kind", suggestion=near
        )
    needed, problems = _NEEDED[kind], []
    if operator.kind not in _OPERATORS.get(kind, (operator.kind,)):
        problems.append(Problem(f"a {kind} kernel cannot run {operator.kind}", path=f"{where}.kind"))
    for key in kernel:
        if key not in needed and key not in _OPTIONAL:
            problems.append(
                Problem("unknown key", path=f"{where}.{key}", suggestion=nearest(key, (*needed, *_OPTIONAL)))
            )
    for key in needed:
        value = kernel.get(key)
        if key == "packing":
            wrong = value not in ("aligned", "flat")
        else:
            wrong = not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 40
        if wrong:
            expected = "aligned or flat" if key == "packing" else "a whole number of 1 or more"
            problems.append(Problem(f"found {value!r}; expected {expected}", path=f"{where}.{key}"))
    fetch = kernel.get("fetch_bytes", 0)
    if not isinstance(fetch, int) or not 0 <= fetch <= 1 << 40:
        problems.append(
            Problem(f"found {fetch!r}; expected bytes of at least 0", path=f"{where}.fetch_bytes")
        )
    if not isinstance(kernel.get("overlap", False), bool):
        problems.append(
            Problem(f"found {kernel['overlap']!r}; expected true or false", path=f"{where}.overlap")
        )
    if kernel.get("rules", "published") not in ("published", "honest"):
        problems.append(
            Problem(f"found {kernel['rules']!r}; expected published or honest", path=f"{where}.rules")
        )
    if not problems:
        problems = [Problem(text, path=where) for text in _misfits(operator, kernel, g)]
    if problems:
        raise InputError(problems)


def _misfits(operator: Operator, kernel: Kernel, g: Geometry) -> Iterable[str]:
    kind = kernel["kind"]
    grids = {"weights": ("output_parts", "input_parts"), "keys": ("token_parts", "head_parts"),
             "values": ("output_parts", "value_parts")}  # fmt: skip
    for name, (one, other) in grids.items():
        if kind in (name, "attention") and name != ("weights" if kind == "attention" else ""):
            parts = int(kernel[one]) * int(kernel[other])
            if parts > g.channels:
                yield f"{one} x {other} is {parts}, more than the {g.channels} channels"
    if kind == "weights":
        tile = int(kernel["tile"])
        most = g.buffer_elements if kernel["packing"] == "flat" else min(g.buffer_elements, g.row_elements)
        if tile % g.lanes or tile > most:
            yield f"tile {tile} is no multiple of {g.lanes}, or above {most}"
    if kind in ("keys", "attention"):
        each = -(-attention_heads(operator, str(kind))[2] // g.lanes) * g.lanes
        side = int(kernel["heads_per_row"]) * each
        alone = int(kernel["heads_per_row"]) == 1
        if side > (g.buffer_elements if alone else min(g.row_elements, g.buffer_elements)):
            yield f"{kernel['heads_per_row']} heads of {each} elements are more than a row or the buffer holds"
    if kind in ("values", "attention"):
        tile = int(kernel["value_tile"])
        if tile % g.lanes or tile > min(g.row_elements, g.buffer_elements):
            yield f"value_tile {tile} is no multiple of {g.lanes}, or more than a row or the buffer holds"
    if isinstance(operator.work, Attention) and kind == "attention":
        needed = cache_slots(operator.work, operator.work.kv_len)
        if needed > int(kernel["capacity"]):
            yield f"the cache has {needed} tokens, above its capacity of {kernel['capacity']}"
        if reason := refused_attention(operator.work):
            yield reason


def recipe(operator: Operator, kernel: Kernel, lowering: Lowering, unit: VectorUnit) -> tuple[Stage, ...]:
    """The stages of an operator; raises ``InputError`` for one that neither memory nor host can run."""
    kind, overlap = kernel["kind"], bool(kernel.get("overlap", False))
    if kind == "weights":
        return _weight_recipe(operator, weight_layout(operator, kernel), lowering, unit, overlap)
    if kind == "vector":
        return _vector_recipe(operator, kernel, lowering, unit, overlap)
    return _attention_recipe(operator, kernel, lowering, unit, overlap)


def _weight_recipe(
    operator: Operator, layout: WeightLayout, lowering: Lowering, unit: VectorUnit, overlap: bool
) -> tuple[Stage, ...]:
    work = _weight(operator)
    rows = work.m * (work.batch if isinstance(work, Product) else 1)
    product = MemoryStage("products", weight_shares(layout, lowering), rows)
    tiles = sum(1 for _ in layout.tiles(lowering.geometry, 0))
    bias = operator.flops > 2.0 * rows * layout.outputs * layout.inputs
    sums = partial_sum_stages(layout.outputs, layout.input_parts * tiles, bias)
    busy = clocks(sums, unit)
    exposed = min(busy, sum(stage.depth for stage in sums) + 1) if overlap and busy else busy
    return (product, HostStage("partial sums", rows * exposed, rows * busy)) if busy else (product,)


def weight_shares(layout: WeightLayout, lowering: Lowering) -> tuple[Share, ...]:
    """The programs of a product with a weight, one for all channels that do the same."""
    g = lowering.geometry
    alike: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for _, part_m, part_k in layout.shares(g):
        alike.setdefault((layout.part_groups(g, part_m), len(layout.part_inputs(g, part_k))), []).append(
            (part_m, part_k)
        )
    return tuple(
        Share(
            ("weights", layout, m, k),
            len(parts),
            weight_counts(layout, g, m, k),
            lambda m=m, k=k: lowering.product(layout.steps(g, m, k)),  # type: ignore[misc]
        )
        for parts in alike.values()
        for m, k in parts[:1]
    )


def key_shares(layout: KeyLayout, lowering: Lowering, tokens: int, queries: int) -> tuple[Share, ...]:
    """The programs of scores over so many tokens."""
    g = lowering.geometry
    alike: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for _, part_t, part_h in layout.shares(g, tokens):
        groups = max(0, -(-(-(-tokens // g.banks) - part_t) // layout.token_parts))
        alike.setdefault((groups, len(layout.part_heads(part_h))), []).append((part_t, part_h))
    # The program depends on the groups of tokens alone, so every group count is one key.
    return tuple(
        Share(
            ("keys", layout, same, queries),
            len(parts),
            key_counts(layout, g, t, h, tokens, queries),
            lambda t=t, h=h: lowering.product(layout.steps(g, t, h, tokens, queries)),  # type: ignore[misc]
        )
        for same, parts in alike.items()
        for t, h in parts[:1]
    )


def value_shares(layout: ValueLayout, lowering: Lowering, tokens: int, queries: int) -> tuple[Share, ...]:
    """The programs of a weighted sum over so many tokens."""
    g = lowering.geometry
    each = -(-layout.width // g.banks)
    alike: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for _, part_m, part_t in layout.shares(g, tokens):
        groups = layout.part_groups(g, part_m)
        tiles = range(part_t, -(-tokens // layout.tile), layout.token_parts)
        last = min(layout.tile, tokens - tiles[-1] * layout.tile)
        same = (len(groups), groups.start % each, len(tiles), -(-last // g.lanes))
        alike.setdefault(same, []).append((part_m, part_t))
    return tuple(
        Share(
            ("values", layout, same, queries),
            len(parts),
            value_counts(layout, g, m, t, tokens, queries),
            lambda m=m, t=t: lowering.product(layout.steps(g, m, t, tokens, queries)),  # type: ignore[misc]
        )
        for same, parts in alike.items()
        for m, t in parts[:1]
    )


def write_shares(layout: KeyLayout | ValueLayout, lowering: Lowering, token: int) -> tuple[Share, ...]:
    """The programs that write a new token's keys or values, one for all channels that do the same.

    Neither the column nor the bank nor the place of the first row changes what they take, so keys leave them out;
    how a head wider than a row lies over row ends does.
    """
    g, shared = lowering.geometry, lowering.device.units.banks_per_unit
    alike: dict[tuple[int, ...], list[int]] = {}
    for _, part in layout.write_channels(g, token):
        if isinstance(layout, KeyLayout):
            side = layout.heads_per_row * -(-layout.width // g.lanes)
            wide = [write.length for write in layout.write(g, token, part)] if side > g.accesses else []
            same: tuple[int, ...] = (len(layout.part_heads(part)), *wide)
        else:
            groups = layout.part_groups(g, part)
            same = (len(groups), groups.start % -(-layout.width // g.banks))
        alike.setdefault(same, []).append(part)

    def program(part: int) -> Program:
        writes = list(layout.write(g, token, part))
        base = writes[0].row // shared * shared
        return lowering.write(write._replace(row=write.row - base) for write in writes)

    found = []
    for same, parts in alike.items():
        odd = next(iter(layout.write(g, token, parts[0]))).row % shared if shared > 1 else 0
        found.append(Share(("write", layout, same, odd), len(parts), None, lambda p=parts[0]: program(p)))  # type: ignore[misc]
    return tuple(found)


def _attention_recipe(
    operator: Operator, kernel: Kernel, lowering: Lowering, unit: VectorUnit, overlap: bool
) -> tuple[Stage, ...]:
    kind = str(kernel["kind"])
    heads, queries, _ = attention_heads(operator, kind)
    work = operator.work
    if isinstance(work, Attention):
        new, seen, sinks = work.q_len, work.kv_len, int(work.sink_logits)
    else:
        product = _weight(operator)
        new, seen, sinks = product.m, product.n if kind == "keys" else product.k, 0
    keys = key_layout(operator, kernel) if kind != "values" else None
    values = value_layout(operator, kernel) if kind != "keys" else None
    stages: list[Stage] = []
    for token in range(seen - new, seen):
        visible = _visible(work, token) if isinstance(work, Attention) else token + 1
        if keys is not None:
            stages.append(MemoryStage("key write", write_shares(keys, lowering, token % keys.capacity)))
            stages.append(MemoryStage("scores", key_shares(keys, lowering, visible, queries)))
        written = write_shares(values, lowering, token % values.capacity) if values is not None else ()
        softmax = None
        if keys is not None and values is not None:
            softmax = _softmax(heads * queries, visible, sinks, keys, unit, overlap)
            stages.append(replace(softmax, beside=written) if overlap else softmax)
        if values is not None:
            if softmax is None or not overlap:
                stages.append(MemoryStage("value write", written))
            stages.append(MemoryStage("weighted sum", value_shares(values, lowering, visible, queries)))
            sums = partial_sum_stages(heads * queries * values.width, -(-visible // values.tile), False)
            busy = clocks(sums, unit)
            if busy:
                stages.append(HostStage("partial sums", 1 if overlap else busy, busy))
    return tuple(stages)


def _softmax(
    rows: int, tokens: int, sinks: int, keys: KeyLayout, unit: VectorUnit, overlap: bool
) -> HostStage:
    """Softmax over the scores and a row's ``sinks`` (learned logits), and the scaling of scores that goes before it.

    With overlap the heads that lie in one set of rows are worked on while the memory computes the next set's
    scores, so that only the last set's softmax is exposed.
    """

    def of(rows: int) -> int:
        return -(-rows * tokens // unit.multipliers) + clocks(
            softmax_stages(rows, tokens + sinks, unit), unit
        )

    busy = of(rows)
    if not overlap:
        return HostStage("softmax", busy, busy)
    sets = -(-len(keys.part_heads(0)) // keys.heads_per_row)
    return HostStage("softmax", min(busy, of(-(-rows // sets))), busy)


def _vector_recipe(
    operator: Operator, kernel: Kernel, lowering: Lowering, unit: VectorUnit, overlap: bool
) -> tuple[Stage, ...]:
    stages = operator_stages(operator, unit)
    if stages is None:
        raise bad_input(f"operator {operator.name!r} ({operator.kind}) is none that a vector unit can run")
    busy = clocks(stages, unit)
    fetch = int(kernel.get("fetch_bytes", 0))
    if operator.kind in ("embedding", "gather"):
        fetch += operator.read_bytes
    if not fetch:
        return (HostStage("norms and activations", busy, busy),)
    g = lowering.geometry
    accesses = -(-fetch // (lowering.device.column_bytes * g.channels))
    share = Share(("read", accesses), g.channels, None, lambda: lowering.read(accesses))
    if overlap:
        return (HostStage("norms and activations", busy, busy, (share,)),)
    return (MemoryStage("parameters", (share,)), HostStage("norms and activations", busy, busy))
