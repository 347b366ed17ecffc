"""Which bytes of its tensors an operator touches: the rule of each kind, tensor by tensor.

The rule is the compulsory traffic: every operand moves once, and of an operand that is only used in part, that part
moves. A kind knows what it uses: a lookup the rows it returns, experts the weights that some token reaches, a decode
step what it sees of a cache. An operator that reads a slice of a wider tensor (queries inside a fused projection)
says so by the elements it touches. Bytes then follow from the tensor's own element type, so that a tensor stored
narrower moves fewer bytes without another word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from workloads.operators import Attention, Embedding, Gather, GroupedProduct, Product, View, Work

if TYPE_CHECKING:
    from workloads.graph import Tensor

__all__ = ["NO_PARTS", "Traffic", "bytes_of", "traffic"]

NO_PARTS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes read of each input and then of each update, and written of each output and then of each update."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


def bytes_of(tensor: Tensor, elements: float) -> int:
    """Bytes of some elements of a tensor, its scales and padding in proportion, rounded to whole bytes.

    Never more than the tensor has.
    """
    whole = prod(tensor.shape)
    if whole <= elements or not whole:
        return tensor.size_bytes
    return round(tensor.size_bytes * elements / whole)


def traffic(
    work: Work,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    updates: Sequence[Tensor] = (),
    touched: Mapping[str, int] = NO_PARTS,
    written: Mapping[str, int] = NO_PARTS,
) -> Traffic:
    """The traffic of an operator over its tensors.

    ``touched``: elements read of an input or update that the kind's own rule does not know; ``written``: elements
    written of an output or update that is written in part. An update is written whole and not read unless said.
    """
    if isinstance(work, View):
        return Traffic((0,) * (len(inputs) + len(updates)), (0,) * (len(outputs) + len(updates)))
    reads = [
        bytes_of(tensor, touched[tensor.name] if tensor.name in touched else _used(work, index, tensor))
        for index, tensor in enumerate(inputs)
    ]
    names = [tensor.name for tensor in inputs]
    if len(set(names)) < len(names):
        # What is named twice is read once.
        reads = [0 if name in names[:index] else reads[index] for index, name in enumerate(names)]
    reads += [bytes_of(tensor, touched[tensor.name]) if tensor.name in touched else 0 for tensor in updates]
    if len(updates):
        # What is read as an input is not read again as an update.
        named = {tensor.name for tensor in inputs}
        for place, tensor in enumerate(updates, len(inputs)):
            if tensor.name in named:
                reads[place] = 0
    writes = [
        bytes_of(tensor, written[tensor.name]) if tensor.name in written else tensor.size_bytes
        for tensor in (*outputs, *updates)
    ]
    return Traffic(tuple(reads), tuple(writes))


def _used(work: Work, index: int, tensor: Tensor) -> float:
    """Elements of an input that a kind uses."""
    whole = float(prod(tensor.shape))
    if (isinstance(work, Embedding) and tensor.is_weight) or (isinstance(work, Gather) and index == 0):
        return min(whole, float(work.m * work.n))
    if isinstance(work, GroupedProduct) and tensor.is_weight:
        return whole * work.touched / work.groups
    if isinstance(work, Product) and index == 0:
        return min(whole, float(work.batch * work.m * work.k))
    if isinstance(work, Attention) and tensor.is_cache:
        return cached_elements(work, tensor)
    return whole


def cached_elements(work: Attention, cache: Tensor) -> float:
    """Elements of a cache (batch, heads, tokens, width; or batch, tokens, width) that attention reads.

    The new tokens' own keys and values are operands of the step, not yet in the cache.
    """
    whole = float(prod(cache.shape))
    if len(cache.shape) < 3 or not cache.shape[-2]:
        return whole
    old = min(cache.shape[-2], max(0, work.seen - work.q_len))
    return whole * old / cache.shape[-2] * work.sparse_share
