"""Whether the fields of an operator fit the tensors it names, and which field does not.

A price follows from fields, memory from tensors, so a product of 8,000,000 rows over an input of 8 is wrong whichever
of the two is meant. What may differ is let pass: queries that are a slice of a fused projection, keys that heads
share, a weight under every product of a batch, a backward pass whose sizes are those of the forward one. Where no
tensor is told (the result of a traced node is an empty one, of shape (0,)), there is nothing to hold fields against.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

from workloads.operators import (
    Attention,
    CollectiveWork,
    Convolution,
    Custom,
    Embedding,
    GroupedProduct,
    Host,
    LinearAttention,
    Message,
    Optimizer,
    Product,
    Recurrence,
    Rows,
    Scan,
    Scatter,
    TopK,
    View,
    Work,
)
from workloads.operators.parse import FieldProblem
from workloads.operators.rows import Activation, Loss, Norm, Quantize, Reduce

if TYPE_CHECKING:
    from workloads.graph import Tensor

__all__ = ["misfits"]

PART_SUFFIXES: Final = (".dropped", ".again")
"""Names of the parts of a tensor that a training plan does not keep (:mod:`mapping.training.recompute.in_graph`): a
file of such a graph has them behind the kept part."""
_READ_BY_ROWS: Final = (TopK, Loss, Reduce, Scatter)
"""Kinds whose m x n are the elements of what they read, not of what they make."""
FORMAT_ROUNDING: Final = 1e-3
"""A sparse format's bytes are averages; the tensor's are whole."""
IMAGE_SIDES: Final = 4
"""Images (batch, channels, rows, columns) say each side; other shapes are compared by their elements."""


@dataclass(frozen=True, slots=True)
class _Operands:
    """The tensors of an operator; ``backward``: it belongs to the backward pass of a training step."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    updates: Sequence[Tensor]
    backward: bool

    @property
    def all(self) -> tuple[Tensor, ...]:
        return (*self.inputs, *self.outputs, *self.updates)

    @property
    def caches(self) -> list[Tensor]:
        return [tensor for tensor in self.all if tensor.is_cache]

    @property
    def weights(self) -> list[Tensor]:
        return [tensor for tensor in self.inputs if tensor.is_weight]

    def sizes(self) -> set[int]:
        """Elements of each tensor."""
        return {_elements(tensor) for tensor in self.all}


def misfits(
    work: Work,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    updates: Sequence[Tensor] = (),
    *,
    backward: bool = False,
) -> list[FieldProblem]:
    """What of an operator's fields cannot be true of its tensors, field by field; empty when all fits."""
    operands = _Operands(_whole(inputs), _whole(outputs), _whole(updates), backward)
    if not operands.all or any(tensor.shape == (0,) for tensor in outputs):
        return []
    return list(_problems(work, operands))


def _whole(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with their parts put together: those kept, and those dropped or made again, which stand behind them."""
    found: list[Tensor] = []
    for tensor in tensors:
        before = found[-1] if found else None
        if before is not None and tensor.name in (before.name + suffix for suffix in PART_SUFFIXES):
            elements = _elements(before) + _elements(tensor)
            size = before.size_bytes + tensor.size_bytes
            found[-1] = replace(before, shape=(elements,), size_bytes=size)
        else:
            found.append(tensor)
    return found


def _problems(work: Work, operands: _Operands) -> Iterator[FieldProblem]:
    if isinstance(work, Product | GroupedProduct | Convolution):
        yield from _stored_as(work.weight_dtype, "weight_dtype", operands.weights)
    if isinstance(work, Product):
        yield from _product(work, operands)
    elif isinstance(work, GroupedProduct):
        yield from _grouped(work, operands)
    elif isinstance(work, Convolution):
        yield from _convolution(work, operands)
    elif isinstance(work, Attention):
        yield from _attention(work, operands)
    elif isinstance(work, LinearAttention):
        yield from _linear_attention(work, operands)
    elif isinstance(work, Scan):
        yield from _scan(work, operands)
    elif isinstance(work, Recurrence):
        yield from _recurrence(work, operands)
    elif isinstance(work, Rows):
        yield from _rows(work, operands)
    elif isinstance(work, Optimizer):
        yield from _optimizer(work, operands)
    elif isinstance(work, CollectiveWork | Message):
        yield from _exchanged(work, operands)
    else:
        assert isinstance(work, Custom | Host | View)


def _elements(tensor: Tensor) -> int:
    return prod(tensor.shape)


def _total(tensors: Iterable[Tensor]) -> int:
    return sum(_elements(tensor) for tensor in {tensor.name: tensor for tensor in tensors}.values())


def _told(tensor: Tensor) -> str:
    return f"{tensor.name!r} of shape {list(tensor.shape)}"


def _wrong(work: Work, field: str, expected: str) -> FieldProblem:
    return FieldProblem(field, f"found {getattr(work, field)}; expected {expected}")


def _sized(work: Any, fields: Sequence[str], tensor: Tensor) -> FieldProblem:
    """The product of the fields is not the elements of a tensor: names the one that would have to change.

    A last field that is not the tensor's last side is taken for the wrong one, otherwise the first.
    """
    wanted = _elements(tensor)
    candidates = list(fields)
    last = fields[-1]
    if len(fields) > 1 and tensor.shape and tensor.shape[-1] != getattr(work, last):
        candidates = [last, *fields[:-1]]
    for field in candidates:
        others = prod(getattr(work, other) for other in fields if other != field)
        if others and wanted % others == 0 and wanted // others != getattr(work, field):
            break
    else:
        field, others = candidates[0], 0
    shown = " x ".join(fields)
    told = f"{shown} has to be the {wanted} elements of {_told(tensor)}"
    if others and wanted % others == 0:
        told = f"{wanted // others}: {told}"
    return _wrong(work, field, told)


def _stored_as(dtype: str, field: str, tensors: Sequence[Tensor]) -> Iterator[FieldProblem]:
    if dtype and tensors and all(tensor.dtype != dtype for tensor in tensors):
        kept = ", ".join(dict.fromkeys(f"{tensor.dtype} ({tensor.name!r})" for tensor in tensors))
        yield FieldProblem(field, f"found {dtype!r}; the tensors are stored as {kept}")


def _shared(need: int, one: int, times: int, tensor: Tensor) -> bool:
    """Whether a tensor holds ``need`` elements, or each of several products uses the same ``one``."""
    held = _elements(tensor)
    return need == held or (times > 1 and 0 < one <= held and held > 0 and need % held == 0)


def _product(work: Product, operands: _Operands) -> Iterator[FieldProblem]:
    made, left, right = work.m * work.n // work.folds, work.m * work.k, work.n * work.k
    if operands.backward:
        shared = max(1, work.heads // work.kv_heads) if work.kv_heads else 1
        most = max(operands.sizes()) * shared
        if work.batch * max(made, left, right) > most:
            field = "k" if max(left, right) > made else "m"
            yield _wrong(work, field, f"sizes of at most {most} elements, the largest tensor's")
        return
    exact = any(work.batch * made == _elements(tensor) for tensor in operands.outputs)
    if operands.outputs and not exact and not _combined(work, operands.outputs[0]):
        yield _sized(work, ("batch", "m", "n") if work.batch != 1 else ("m", "n"), operands.outputs[0])
        return
    if not operands.inputs:
        return
    first, others = operands.inputs[0], operands.inputs[1:]
    need = work.batch * left
    # Output and weight say all sizes; then rows may come from elsewhere too, as latents from a cache.
    known = exact and any(tensor.is_weight for tensor in others)
    if (
        need > _elements(first)
        and not (known or work.left_bytes)
        and not _shared(need, left, work.batch, first)
    ):
        yield _sized(work, ("batch", "m", "k") if work.batch != 1 else ("m", "k"), first)
        return
    if work.left_bytes and work.left_bytes != first.size_bytes:
        yield _wrong(work, "left_bytes", f"the {first.size_bytes} bytes of {first.name!r}")
    weights = [tensor for tensor in others if tensor.is_weight]
    if work.weight_bytes:
        stored = work.batch * work.weight_bytes
        if weights and all(abs(stored - tensor.size_bytes) > FORMAT_ROUNDING * stored for tensor in weights):
            sizes = ", ".join(f"{tensor.size_bytes} of {tensor.name!r}" for tensor in weights)
            yield _wrong(work, "weight_bytes", f"the bytes of its weight: {sizes}")
        return
    need = work.batch * right
    if others and not any(_shared(need, right, work.batch, tensor) for tensor in others):
        if weights:
            yield _sized(work, ("batch", "n", "k") if work.batch != 1 else ("n", "k"), weights[0])
        elif need > _total((*operands.inputs, *operands.updates)):
            yield _sized(work, ("batch", "n", "k") if work.batch != 1 else ("n", "k"), others[0])


def _combined(work: Product, out: Tensor) -> bool:
    """Whether several products are added up on the way out, which is counted beside them (heads of an indexer)."""
    made, held = work.batch * work.m * work.n, _elements(out)
    return work.extra_flops > 0 and 0 < held < made and made % held == 0


def _grouped(work: GroupedProduct, operands: _Operands) -> Iterator[FieldProblem]:
    for field in ("active", "expected_groups"):
        if getattr(work, field) > work.groups:
            yield _wrong(work, field, f"at most the {work.groups} groups")
    made, left, right = work.m * work.n, work.m * work.k, work.groups * work.n * work.k
    times = work.active or work.groups
    if operands.backward:
        most = max(operands.sizes())
        for field, need in (("m", made), ("k", left)):
            if need > most * times:
                yield _wrong(work, field, f"sizes of at most {most} elements, the largest tensor's")
                return
        return
    if operands.inputs:
        first = operands.inputs[0]
        if not _elements(first) <= left <= _elements(first) * times:
            yield _sized(work, ("m", "k"), first)
            return
    # Two products in one (an expert's whole feed-forward) say the sizes of the first.
    if work.share != 1.0:
        return
    out = next(iter(operands.outputs), None)
    if out is not None and not _elements(out) <= made <= _elements(out) * times:
        yield _sized(work, ("m", "n"), out)
    elif operands.weights and all(right != _elements(tensor) for tensor in operands.weights):
        yield _sized(work, ("groups", "n", "k"), operands.weights[0])


def _convolution(work: Convolution, operands: _Operands) -> Iterator[FieldProblem]:
    for field in ("in_channels", "out_channels"):
        if getattr(work, field) % work.groups:
            yield _wrong(work, "groups", f"a divisor of the {getattr(work, field)} {field}")
            return
    read = work.batch * work.in_channels * work.height * work.width
    made = work.batch * work.out_channels * work.out_height * work.out_width
    filters = work.out_channels * (work.in_channels // work.groups) * work.kernel_h * work.kernel_w
    if operands.backward:
        sizes = operands.sizes()
        for field, need in (("out_height", made), ("height", read)):
            # Only some rows of an image with a depth are read where the window skips over its frames.
            if need not in sizes and not any(need <= _elements(t) and len(t.shape) > 4 for t in operands.all):
                yield _wrong(work, field, f"sizes of one of the tensors, of {_listed(sizes)} elements")
                return
        return
    image = operands.inputs[0] if operands.inputs else None
    if image is not None:
        held = _elements(image)
        if read > held or (read < held and len(image.shape) == IMAGE_SIDES):
            yield _side(work, ("batch", "in_channels", "height", "width"), image)
            return
    if operands.outputs and all(made != _elements(tensor) for tensor in operands.outputs):
        yield _side(work, ("batch", "out_channels", "out_height", "out_width"), operands.outputs[0])
        return
    held_in = [tensor for tensor in operands.inputs[1:] if tensor.is_weight]
    if held_in and all(filters != _elements(tensor) for tensor in held_in):
        yield _side(work, ("out_channels", "in_channels", "kernel_h", "kernel_w"), held_in[0])
        return
    if image is not None and len(image.shape) == IMAGE_SIDES and not work.transposed:
        yield from _steps(work)


def _listed(sizes: set[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))


def _side(work: Convolution, fields: Sequence[str], tensor: Tensor) -> FieldProblem:
    """The first of four fields that is not the side of a tensor; that of any other shape goes by its elements."""
    if len(tensor.shape) == len(fields):
        for field, side in zip(fields, tensor.shape, strict=True):
            wanted = side * work.groups if field == "in_channels" and tensor.is_weight else side
            if getattr(work, field) != wanted:
                return _wrong(work, field, f"{wanted}, a side of {_told(tensor)}")
    wanted = _elements(tensor)
    return _wrong(work, fields[-2], f"{' x '.join(fields)} to be the {wanted} elements of {_told(tensor)}")


def _steps(work: Convolution) -> Iterator[FieldProblem]:
    """Whether windows that move so far reach from the image's first row to its last, and not beyond its padding."""
    for axis, name, side, made, kernel in (
        ("h", "rows", work.height, work.out_height, work.kernel_h),
        ("w", "columns", work.width, work.out_width, work.kernel_w),
    ):
        stride, before = getattr(work, f"stride_{axis}"), getattr(work, f"padding_{axis}")
        span = work.dilation * (kernel - 1) + 1
        reached = (made - 1) * stride - before + span
        # Dilation is that of the wider side, so the other one may seem to reach further.
        if made and not side - stride < reached <= side + span:
            told = f"{made} windows of {span} {name} to cover the {side} of the input; they end at {reached}"
            yield _wrong(work, f"stride_{axis}", told)


def _attention(work: Attention, operands: _Operands) -> Iterator[FieldProblem]:
    if work.heads % work.kv_heads:
        yield _wrong(work, "kv_heads", f"a number that the {work.heads} heads share evenly")
        return
    if work.causal and work.q_len > work.kv_len:
        yield _wrong(
            work, "kv_len", f"at least the {work.q_len} queries, which are the last positions under the mask"
        )
        return
    if work.sink_tokens and not work.window:
        yield _wrong(work, "sink_tokens", "0: without a window a query sees the first tokens anyway")
        return
    made = work.batch * work.q_len * work.heads * work.value_dim
    if operands.backward:
        if made not in operands.sizes():
            yield _sized(work, ("batch", "q_len", "heads", "value_dim"), operands.inputs[0])
        return
    if operands.outputs and all(made != _elements(tensor) for tensor in operands.outputs):
        yield _attended(work, operands.outputs[0])
        return
    yield from _stored_as(work.kv_dtype, "kv_dtype", operands.caches)
    if not operands.inputs:
        return
    held = _total(operands.inputs)
    asked = work.batch * work.q_len * work.heads * work.head_dim
    if not work.latent and asked > held:
        yield _wrong(work, "head_dim", f"queries among the {held} elements of its inputs; they need {asked}")
        return
    caches = [tensor for tensor in operands.caches if len(tensor.shape) > 2]
    if caches:
        longest = max(tensor.shape[-2] for tensor in caches)
        if work.seen > longest + work.q_len:
            yield _wrong(work, "kv_len", f"at most the {longest} tokens of {_told(caches[0])}")
        cache = caches[0]
        if len(cache.shape) == IMAGE_SIDES and work.batch * work.kv_heads != cache.shape[0] * cache.shape[1]:
            yield _wrong(work, "kv_heads", f"the heads of {_told(cache)}")
        return
    keys = work.batch * work.kv_heads * work.seen * work.head_dim
    if not work.latent and keys > held:
        yield _wrong(work, "kv_len", f"keys among the {held} elements of its inputs; they need {keys}")


def _attended(work: Attention, out: Tensor) -> FieldProblem:
    """Which of the sizes of the result is wrong; an element of a value is stated as that of a key where both agree."""
    width = "v_head_dim" if work.v_head_dim else "head_dim"
    wanted = _elements(out)
    for field in ("q_len", "batch", "heads", width):
        others = work.batch * work.q_len * work.heads * work.value_dim // max(1, getattr(work, field))
        if others and wanted % others == 0:
            break
    else:
        field, others = "q_len", 0
    told = f"batch x q_len x heads x {width} has to be the {wanted} elements of {_told(out)}"
    return _wrong(work, field, f"{wanted // others}: {told}" if others else told)


def _recurrence(work: Recurrence, operands: _Operands) -> Iterator[FieldProblem]:
    tokens, most = work.batch * work.sequence, max(operands.sizes())
    for field, width in (("input_size", work.input_size), ("hidden", work.hidden)):
        if tokens * width > most:
            wrong = "sequence" if tokens > most else field
            yield _wrong(
                work, wrong, f"batch x sequence x {field} of at most {most}, the largest tensor's elements"
            )
            return


def _linear_attention(work: LinearAttention, operands: _Operands) -> Iterator[FieldProblem]:
    """Tokens by the heads' values in some tensor; a state has as many elements as the fields say, of their type."""
    most = max(operands.sizes())
    tokens = work.batch * work.sequence
    if tokens * work.heads * work.value_dim > most:
        wrong = "sequence" if tokens > most else "heads"
        told = f"batch x sequence x heads x value_dim of at most {most}, the largest tensor's elements"
        yield _wrong(work, wrong, told)
        return
    for tensor in operands.inputs:
        if tensor.is_cache and len(tensor.shape) == 4 and prod(tensor.shape) != work.state_elements:
            told = f"batch x heads x key_dim x value_dim of {prod(tensor.shape)}, the elements of {tensor.name!r}"
            yield _wrong(work, "key_dim", told)
        if tensor.is_cache and len(tensor.shape) == 4 and tensor.dtype != work.state_dtype:
            yield _wrong(work, "state_dtype", f"{tensor.dtype}, the element type of {tensor.name!r}")


def _scan(work: Scan, operands: _Operands) -> Iterator[FieldProblem]:
    """Tokens by channels in some tensor; a cached state has as many elements as the fields say."""
    most, tokens = max(operands.sizes()), work.batch * work.sequence
    if tokens * work.channels > most:
        wrong = "sequence" if tokens > most else "channels"
        told = f"batch x sequence x channels of at most {most}, the largest tensor's elements"
        yield _wrong(work, wrong, told)
        return
    for tensor in operands.inputs:
        if tensor.is_cache and len(tensor.shape) == 3 and prod(tensor.shape) != work.state_elements:
            told = f"batch x channels x state of {prod(tensor.shape)}, the elements of {tensor.name!r}"
            yield _wrong(work, "state", told)


def _is_part(work: Rows, tensor: Tensor) -> bool:
    """Whether rows or columns of a tensor can be all that the work touches.

    A rank that holds a part of a table looks up that part of the rows, and the others stay zero; what overwrites a
    tensor in place may leave some of its columns as they are (queries and keys beside values).
    """
    elements = _elements(tensor)
    whole = work.n if isinstance(work, Embedding | Scatter) else work.m
    return bool(whole) and work.m * work.n <= elements and elements % whole == 0


def _rows(work: Rows, operands: _Operands) -> Iterator[FieldProblem]:
    need = work.m * work.n
    made = (*operands.outputs, *operands.updates)
    strict = not operands.backward and not isinstance(work, _READ_BY_ROWS)
    allowed = made if strict and made else operands.all
    totals = {_total(made)} if strict else {_total(made), _total(operands.inputs)}
    partly = operands.updates
    if isinstance(work, Embedding):
        partly = operands.outputs
    elif isinstance(work, Scatter):
        partly = operands.inputs[:1]
    if any(_is_part(work, tensor) for tensor in partly):
        return
    if need not in {_elements(tensor) for tensor in allowed} | totals:
        yield _sized(work, ("m", "n"), allowed[0])
        return
    if isinstance(work, Quantize) and work.block > work.n:
        yield _wrong(work, "block", f"at most the {work.n} elements of a row")
    if isinstance(work, TopK) and work.k > work.n:
        yield _wrong(work, "k", f"at most the {work.n} elements of a row")
    if isinstance(work, Quantize) and operands.outputs:
        yield from _stored_as(work.to_dtype, "to_dtype", operands.outputs[:1])
    if isinstance(work, Norm) and work.adds >= max(1, len(operands.all)):
        yield _wrong(work, "adds", f"fewer than its {len(operands.all)} tensors")
    if isinstance(work, Activation) and work.gated and strict and operands.inputs:
        held = _total(operands.inputs)
        if held < 2 * need:
            yield _wrong(
                work, "gated", f"inputs of {2 * need} elements, half of them gates; they have {held}"
            )


def _optimizer(work: Optimizer, operands: _Operands) -> Iterator[FieldProblem]:
    most = max(max(operands.sizes()), _total(operands.outputs) // (work.states + 1))
    if work.parameters > most:
        yield _wrong(work, "parameters", f"at most the {most} elements of its tensors")


def _exchanged(work: CollectiveWork | Message, operands: _Operands) -> Iterator[FieldProblem]:
    # One side of a gather holds a rank's part of the whole.
    ranks = max(1, work.group) if isinstance(work, CollectiveWork) else 1
    held = max(
        sum(tensor.size_bytes for tensor in (*operands.inputs, *operands.updates)),
        sum(tensor.size_bytes for tensor in operands.outputs),
    )
    if work.bytes > held * ranks:
        yield _wrong(work, "bytes", f"at most the {held} bytes of its tensors")
