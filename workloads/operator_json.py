"""One operator of a graph file, from its row to typed work and traffic and back, without loss.

A row states the fields of its kind and its place under ``attributes``. FLOPs and bytes follow from fields and tensors;
a row may state them as well, and is refused where they disagree. Operands that are touched in part stand under
``reads`` and ``writes``, bytes of no tensor under ``beside_read`` and ``beside_written``. A total of bytes alone is
shared out: it has to lie between the least that the kind must touch and the sum of the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hw_configs.problems import nearest
from hw_configs.whole_number import is_whole
from workloads.graph import Operator, Place, Tensor
from workloads.operators import Attention, Gather, GroupedProduct, Product, Rows, Scatter, Work
from workloads.operators.fit import misfits
from workloads.operators.parse import FieldProblem, read_fields, read_work
from workloads.operators.traffic import bytes_of, traffic
from workloads.operators.work import FieldInfo, FieldValue
from workloads.untyped_fields import typed_fields

__all__ = ["OPERATOR_KEYS", "Fault", "StatedOperator", "operator_row", "read_operator"]

OPERATOR_KEYS: Final = (
    "name", "kind", "inputs", "outputs", "updates", "flops", "read_bytes", "write_bytes", "reads", "writes",
    "beside_read", "beside_written", "dtype", "attributes", "in_place",
)  # fmt: skip
ROUNDING: Final = 1e-6
"""Stated FLOPs may differ by so much from those that follow: other tools round."""

_PASSES: Final = ("", "forward", "backward", "recompute", "optimizer")
_RESIDENCIES: Final = ("", "cold", "hot", "previous")
_COMMON: Final[Mapping[str, FieldInfo]] = {
    name: FieldInfo(name, kind, unit, meaning, least, False, None, choices, "")
    for name, kind, unit, meaning, least, choices in (
        ("layer", int, "", "layer of the model; -1: before or after the layers", -1, ()),
        ("pass", str, "", "pass of a training step", 0, _PASSES),
        ("microbatch", int, "", "micro-batch it belongs to", 0, ()),
        ("tp", str, "", "how tensor parallelism divides it", 0, ()),
        ("ranks", str, "", "ranks of a recorded trace that ran it: 0, or 0,1,2", 0, ()),
        ("stream", str, "", "stream of each of these ranks that it ran on", 0, ()),
        ("residency", str, "", "where its inputs stand before it runs", 0, _RESIDENCIES),
        ("workspace_bytes", int, "B", "held while it runs", 0, ()),
        ("source_type", str, "", "what it was imported from", 0, ()),
        ("measured_s", float, "s", "what it took where a trace was recorded", 0, ()),
        ("runtime_us", float, "us", "what it took where a trace was recorded", 0, ()),
    )
}
"""What every operator may state beside the fields of its kind."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and under which keys of the row."""

    path: tuple[str, ...]
    message: str
    suggestion: str | None = None


@dataclass(frozen=True, slots=True)
class StatedOperator:
    """A row whose names, kind and totals have been read; ``flops`` and bytes are None where it does not say them."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    updates: tuple[str, ...]
    dtype: str
    flops: float | None
    read_bytes: int | None
    write_bytes: int | None
    attributes: Mapping[str, Any]
    reads: Mapping[str, int] | None = None
    writes: Mapping[str, int] | None = None
    beside_read: int | None = None
    beside_written: int | None = None


def read_operator(row: StatedOperator, tensors: Mapping[str, Tensor]) -> tuple[Operator | None, list[Fault]]:
    """The operator of a row, or everything that is wrong with it."""
    inputs, outputs, updates = (
        [tensors[n] for n in names] for names in (row.inputs, row.outputs, row.updates)
    )
    stated = {key: value for key, value in row.attributes.items() if key in _COMMON}
    common, wrong = read_fields(_COMMON, stated)
    own = {key: value for key, value in row.attributes.items() if key not in _COMMON}
    values, derived = typed_fields(row.kind, own, row.flops, outputs, common)
    work, problems = read_work(row.kind, values)
    faults = [_fault(problem, derived) for problem in (*wrong, *problems)]
    if work is None or faults:
        return None, faults
    faults = [
        Fault(("attributes", problem.field), problem.message, problem.suggestion)
        for problem in misfits(work, inputs, outputs, updates, backward=common.get("pass") == "backward")
        if common.get("pass") != "recompute"  # for a share of the tokens, whose rows are rounded up
    ]
    if (
        not faults
        and row.flops is not None
        and abs(work.flops - row.flops) > ROUNDING * max(work.flops, row.flops)
    ):
        faults.append(
            Fault(("flops",), f"found {row.flops:g}; the fields of the {row.kind} give {work.flops:g}")
        )
    if faults:
        return None, faults
    workspace = int(common.get("workspace_bytes", 0))
    rule = traffic(work, inputs, outputs, updates)
    read = _Side("read_bytes", "reads", row.read_bytes, row.reads, row.beside_read, workspace)
    written = _Side("write_bytes", "writes", row.write_bytes, row.writes, row.beside_written, 0)
    reads, beside_read = _shared_out(
        read, [*inputs, *updates], rule.reads, _least_read(work, inputs, rule.reads), faults
    )
    least = _least_written(work, len(outputs), rule.writes)
    writes, beside_written = _shared_out(written, [*outputs, *updates], rule.writes, least, faults)
    if faults:
        return None, faults
    operator = Operator(
        row.name, work, row.inputs, row.outputs, row.updates, row.dtype, reads, writes, beside_read, beside_written,
        workspace_bytes=workspace,
    )  # fmt: skip
    placed = _placed(operator, common, faults)
    return (None, faults) if faults else (placed, [])


def _fault(problem: FieldProblem, derived: str) -> Fault:
    """A problem of a field that came from the stated FLOPs stands at those."""
    if problem.field and problem.field == derived:
        return Fault(("flops",), f"{problem.message} ({derived})")
    path = ("attributes", problem.field) if problem.field else ("attributes",)
    return Fault(path, problem.message, problem.suggestion)


def _ranks(text: str, faults: list[Fault]) -> tuple[int, ...]:
    """The ranks of a list such as ``0,1,2``."""
    parts = text.split(",") if text else []
    if all(is_whole(part) for part in parts) and len(set(parts)) == len(parts):
        return tuple(int(part) for part in parts)
    faults.append(
        Fault(("attributes", "ranks"), f"found {text!r:.80}; expected different whole numbers, as in 0,1,2")
    )
    return ()


def _placed(operator: Operator, common: Mapping[str, FieldValue], faults: list[Fault]) -> Operator:
    measured = common.get("measured_s")
    if measured is None and "runtime_us" in common:
        measured = float(common["runtime_us"]) / 1e6
    layer, microbatch = common.get("layer"), common.get("microbatch")
    place = Place(
        layer=None if layer is None else int(layer),
        training_pass=str(common.get("pass", "")),
        microbatch=None if microbatch is None else int(microbatch),
        axis=str(common.get("tp", "")),
        ranks=_ranks(str(common.get("ranks", "")), faults),
        stream=str(common.get("stream", "")),
    )
    return replace(
        operator,
        place=place,
        residency=str(common.get("residency", "")),
        measured_s=None if measured is None else float(measured),
        source=str(common.get("source_type", "")),
    )


# --- bytes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Side:
    """What a row states of the bytes it reads, or of those it writes; ``held``: its workspace."""

    total_key: str
    parts_key: str
    total: int | None
    parts: Mapping[str, int] | None
    beside: int | None
    held: int


def _shared_out(
    side: _Side, tensors: Sequence[Tensor], rule: Sequence[int], least: Sequence[int], faults: list[Fault]
) -> tuple[tuple[int, ...], int]:
    """Bytes of each operand and of no operand, as stated or by the rule."""
    if side.parts is not None or side.beside is not None:
        amounts = _stated_parts(side, tensors, rule, faults)
        beside = side.beside or 0
        if not faults and side.total is not None and side.total != sum(amounts) + beside:
            told = f"found {side.total}; its operands and what is beside them give {sum(amounts) + beside}"
            faults.append(Fault((side.total_key,), told))
        return tuple(amounts), beside
    if side.total is None or side.total == sum(rule):
        return tuple(rule), 0
    whole, seen = [], set()
    for tensor in tensors:
        whole.append(0 if tensor.name in seen else tensor.size_bytes)
        seen.add(tensor.name)
    surplus = side.total - sum(rule)
    if not sum(whole) or (surplus > 0 and surplus == side.held):
        # A trace names no tensors; a workspace is filled and read beside them.
        return tuple(rule), surplus if surplus > 0 else 0
    if not sum(least) - len(least) <= side.total <= sum(whole):
        told = (
            f"found {side.total}; expected {sum(least)} to {sum(whole)} B, as its fields and tensors have it"
        )
        hint = f"; state operands that move in part under {side.parts_key!r}"
        faults.append(Fault((side.total_key,), told + hint))
        return tuple(rule), 0
    # Shares of experts round to whole bytes, operand by operand.
    fewest = least if side.total >= sum(least) else [max(0, low - 1) for low in least]
    limits = whole if surplus > 0 else fewest
    return tuple(_moved_towards(rule, limits, side.total)), 0


def _stated_parts(
    side: _Side, tensors: Sequence[Tensor], rule: Sequence[int], faults: list[Fault]
) -> list[int]:
    """Bytes of each operand; those of one named more than once stand at its first mention."""
    parts = side.parts or {}
    names = [tensor.name for tensor in tensors]
    for name in parts:
        if name not in names:
            told = (
                f"no operand {name!r} of this operator; they are {', '.join(dict.fromkeys(names)) or 'none'}"
            )
            faults.append(Fault((side.parts_key, name), told, nearest(name, names)))
    amounts = list(rule)
    given: set[str] = set()
    for index, tensor in enumerate(tensors):
        if tensor.name not in parts:
            continue
        amount = 0 if tensor.name in given else parts[tensor.name]
        given.add(tensor.name)
        if amount > tensor.size_bytes:
            told = f"found {amount}; expected at most the {tensor.size_bytes} B of {tensor.name!r}"
            faults.append(Fault((side.parts_key, tensor.name), told))
        amounts[index] = amount
    return amounts


def _moved_towards(rule: Sequence[int], limits: Sequence[int], total: int) -> Iterator[int]:
    """The amounts of the rule moved towards limits, each in proportion, until they give the total exactly."""
    slack = [limit - amount for amount, limit in zip(rule, limits, strict=True)]
    left, room = total - sum(rule), sum(slack)
    for amount, own in zip(rule, slack, strict=True):
        # The last operands take what rounding left over.
        share = left * own // room if room else 0
        left, room = left - share, room - own
        yield amount + share


def _least_read(work: Work, inputs: Sequence[Tensor], rule: Sequence[int]) -> list[int]:
    """The least bytes read of each operand: weights by the rule; of others a slice that holds what the fields say.

    The new tokens' keys may come from elsewhere than the cache, so that a product may read none of it.
    """
    least = list(rule)
    sliced = isinstance(work, Attention | Rows) or (
        isinstance(work, Product) and any(tensor.is_cache for tensor in inputs)
    )
    if not sliced or isinstance(work, GroupedProduct):
        return least
    need = _fewest_elements(work)
    for index, tensor in enumerate(inputs):
        if not tensor.is_weight and not (tensor.is_cache and isinstance(work, Attention)):
            least[index] = min(rule[index], bytes_of(tensor, need)) if need else 0
            need = 0
    return least


def _fewest_elements(work: Work) -> int:
    """Elements that an operator reads of its inputs at the least: each one once that it makes."""
    if isinstance(work, Attention):
        return work.batch * work.q_len * work.heads * work.head_dim
    if isinstance(work, Gather | Scatter):
        return 0
    return work.m * work.n if isinstance(work, Rows) else 0


def _least_written(work: Work, outputs: int, rule: Sequence[int]) -> list[int]:
    """The least bytes written: outputs whole but for a scatter's or a cache given out; what is updated, in part."""
    whole = 0 if isinstance(work, Scatter) else 1 if isinstance(work, Attention) else outputs
    return [amount if index < whole else 0 for index, amount in enumerate(rule)]


# --- writing ---------------------------------------------------------------------------------------------


def operator_row(op: Operator, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The row of an operator. Operands stand under ``reads`` and ``writes`` where the kind's rule does not say them."""
    inputs, outputs, updates = ([tensors[n] for n in names] for names in (op.inputs, op.outputs, op.updates))
    rule = traffic(op.work, inputs, outputs, updates)
    row: dict[str, Any] = {
        "name": op.name, "kind": op.kind, "inputs": list(op.inputs), "outputs": list(op.outputs),
    }  # fmt: skip
    if op.updates:
        row["updates"] = list(op.updates)
    row |= {"flops": op.flops, "read_bytes": op.read_bytes, "write_bytes": op.write_bytes}
    reads = _unlike((*op.inputs, *op.updates), op.reads, rule.reads)
    writes = _unlike((*op.outputs, *op.updates), op.writes, rule.writes)
    beside = (("beside_read", op.beside_read, reads), ("beside_written", op.beside_written, writes))
    for key, parts in (("reads", reads), ("writes", writes)):
        if parts:
            row[key] = parts
    for key, amount, _ in beside:
        if amount:
            row[key] = amount
    row["dtype"] = op.dtype
    # Rows and columns that a file leaves out follow from the output, so they are always said.
    sides = {"m": op.work.m, "n": op.work.n} if isinstance(op.work, Rows) else {}
    attributes = {**sides, **op.work.changed(), **_stated(op)}
    if attributes:
        row["attributes"] = attributes
    if op.in_place:
        row["in_place"] = {output: list(inputs) for output, inputs in op.in_place}
    return row


def _unlike(names: Sequence[str], amounts: Sequence[int], rule: Sequence[int]) -> dict[str, int]:
    """Bytes of each tensor that the rule does not give it."""
    own, ruled = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for name, amount in zip(names, amounts, strict=False):
        own[name] += amount
    for name, amount in zip(names, rule, strict=True):
        ruled[name] += amount
    return {name: amount for name, amount in own.items() if amount != ruled[name]}


def _stated(op: Operator) -> dict[str, FieldValue]:
    place = op.place
    stated: dict[str, FieldValue | None] = {
        "layer": place.layer, "pass": place.training_pass or None, "microbatch": place.microbatch,
        "tp": place.axis or None, "ranks": ",".join(map(str, place.ranks)) or None, "stream": place.stream or None,
        "residency": op.residency or None, "workspace_bytes": op.workspace_bytes or None,
        "source_type": op.source or None, "measured_s": op.measured_s,
    }  # fmt: skip
    return {key: value for key, value in stated.items() if value is not None}
