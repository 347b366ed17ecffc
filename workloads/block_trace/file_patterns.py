"""How programs read a file, by rule: in order, in a loop, at random, written over, and a mapped model per token.

A pattern is ``NAME:NUMBERS[:SEED]`` with sizes as ``8GiB``:

- ``sequential:SIZE``, ``loop:SIZE:ROUNDS``: requests in order, once or again and again;
- ``random:SIZE:REQUESTS``, ``overwrite:SIZE:REQUESTS``: reads or writes of places drawn alike;
- ``mapped-model:MODEL[:TOKENS]``: the weights of a model stand in a file in the order that a decode step reads them;
  each token touches the bytes that each operator reads of each weight. What is less than the whole weight (a row of
  an embedding, the experts that a token takes) begins at a place drawn for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input, nearest
from hw_configs.units import UnitError, parse_quantity
from hw_configs.whole_number import integer
from workloads.block_trace.trace import MAX_REQUEST, READ, WRITE, BlockRequests
from workloads.memory_trace.generators import splitmix64

__all__ = ["FILE_PATTERNS", "FilePattern", "generate_file_pattern"]

Ints = npt.NDArray[np.int64]
MOST_REQUESTS: Final = 2**40
LARGEST_FILE: Final = 2**44
FILE_PATTERNS: Final = ("sequential", "loop", "random", "overwrite", "mapped-model")
"""Names of the patterns."""
_NONE: Final = np.zeros(0, np.int64)


@dataclass(frozen=True)
class FilePattern:
    """Requests by rule over a file of ``file_bytes``; ``mapped``: the file is mapped into memory, not read by calls."""

    name: str
    file_bytes: int
    count: int | None
    make: Callable[[int, int], BlockRequests]
    mapped: bool = False

    def chunks(self, size: int) -> Iterator[BlockRequests]:
        """The requests from the beginning, at most ``size`` at a time."""
        for start in range(0, self.count or 0, size):
            yield self.make(start, min(size, (self.count or 0) - start))


def _size(text: str, told: str) -> int:
    try:
        value = int(parse_quantity(text, "size"))
    except UnitError as error:
        raise bad_input(f"{told}: {error}") from None
    if not 1 <= value <= LARGEST_FILE:
        raise bad_input(f"{told}: found {text!r}; expected 1 B to 16 TiB")
    return value


def _whole(text: str, told: str, least: int = 1, most: int = MOST_REQUESTS) -> int:
    value = integer(text.replace("_", ""), least, most)
    if value is None:
        raise bad_input(f"{told}: found {text[:40]!r}; expected a whole number from {least} to {most}")
    return value


def generate_file_pattern(text: str, request_bytes: int = 4096) -> FilePattern:
    """The pattern of a text. Raises ``InputError`` for what makes no sense.

    >>> pattern = generate_file_pattern("loop:8KiB:2")
    >>> next(pattern.chunks(9)).address.tolist()
    [0, 4096, 0, 4096]
    """
    name, *rest = text.split(":")
    told = text[:80]
    if name not in FILE_PATTERNS:
        known = ", ".join(FILE_PATTERNS)
        raise bad_input(
            f"unknown pattern {name[:40]!r}; known: {known}", suggestion=nearest(name, FILE_PATTERNS)
        )
    if not 1 <= request_bytes <= MAX_REQUEST:
        raise bad_input(f"found {request_bytes}; expected 1 to {MAX_REQUEST} bytes", path="--block-size")
    least, most = {"sequential": (1, 1), "loop": (2, 2), "mapped-model": (1, 3)}.get(name, (2, 3))
    if not least <= len(rest) <= most:
        raise bad_input(f"found {told!r}; expected {_FORMS[name]}")
    if name == "mapped-model":
        tokens = _whole(rest[1], told) if len(rest) > 1 else 1
        return _mapped_model(text, rest[0], tokens, _whole(rest[2], told, 0) if len(rest) > 2 else 1)
    size = _size(rest[0], told)
    if name in ("sequential", "loop"):
        rounds = _whole(rest[1], told) if name == "loop" else 1
        return _in_order(text, size, request_bytes, rounds)
    seed = _whole(rest[2], told, 0) if len(rest) > 2 else 1
    return _at_random(text, size, request_bytes, _whole(rest[1], told), seed)


_FORMS: Final = {
    "sequential": "sequential:SIZE",
    "loop": "loop:SIZE:ROUNDS",
    "random": "random:SIZE:REQUESTS[:SEED]",
    "overwrite": "overwrite:SIZE:REQUESTS[:SEED]",
    "mapped-model": "mapped-model:MODEL[:TOKENS[:SEED]]",
}


def _in_order(text: str, size: int, request: int, rounds: int) -> FilePattern:
    per = -(-size // request)
    if per * rounds > MOST_REQUESTS:
        raise bad_input(f"found {text[:80]!r}; expected at most 2^40 requests")

    def make(start: int, count: int) -> BlockRequests:
        address = np.arange(start, start + count, dtype=np.int64) % per * request
        length = np.minimum(request, size - address)
        return BlockRequests(np.full(count, READ, np.int64), address, length, _NONE)

    return FilePattern(text, size, per * rounds, make)


def _at_random(text: str, size: int, request: int, requests: int, seed: int) -> FilePattern:
    places = max(size // request, 1)
    kind = WRITE if text.startswith("overwrite") else READ

    def make(start: int, count: int) -> BlockRequests:
        drawn = splitmix64(seed, start, count) % np.uint64(places)
        length = np.full(count, min(request, size), np.int64)
        return BlockRequests(np.full(count, kind, np.int64), drawn.astype(np.int64) * request, length, _NONE)

    return FilePattern(text, size, requests, make)


def _mapped_model(text: str, model: str, tokens: int, seed: int) -> FilePattern:
    from workloads.importers import load_workload
    from workloads.workload import WorkloadOptions

    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=1)).phases[0].graph
    place: dict[str, int] = {}
    end = 0
    weights: list[list[int]] = []
    for operator in graph.operators:
        for name, read in zip(operator.inputs, operator.reads, strict=False):
            tensor = graph.tensors[name]
            if not tensor.is_weight or read < 1 or tensor.size_bytes < 1:
                continue
            if name not in place:
                place[name] = end
                end += tensor.size_bytes
            weights.append([place[name], min(read, tensor.size_bytes), tensor.size_bytes])
    if not weights:
        raise bad_input(f"{model!r} reads no weights")
    return FilePattern(text, end, *_touched(np.array(weights, np.int64), tokens, seed), mapped=True)


def _touched(weights: Ints, tokens: int, seed: int) -> tuple[int, Callable[[int, int], BlockRequests]]:
    """How many requests tokens make, and what makes any stretch of them."""
    base, read, whole = weights.T
    if int(read.max()) > MAX_REQUEST:
        # A weight of more than a request is touched in requests one behind another.
        parts = -(-read // MAX_REQUEST)
        which = np.repeat(np.arange(read.size), parts)
        step = (np.arange(which.size) - np.repeat(np.cumsum(parts) - parts, parts)) * MAX_REQUEST
    else:
        which, step = np.arange(read.size), np.zeros(read.size, np.int64)

    def make(start: int, count: int) -> BlockRequests:
        index = np.arange(start, start + count, dtype=np.int64)
        token, at = index // which.size, index % which.size
        weight = which[at]
        choices = np.maximum(whole[weight] // read[weight], 1)
        drawn = np.array([int(splitmix64(seed, t * base.size + w, 1)[0]) for t, w in
                          zip(token.tolist(), weight.tolist(), strict=True)], np.uint64)  # fmt: skip
        first = (drawn % choices.astype(np.uint64)).astype(np.int64) * read[weight]
        length = np.minimum(read[weight] - step[at], MAX_REQUEST)
        return BlockRequests(np.full(count, READ, np.int64), base[weight] + first + step[at], length, _NONE)

    return which.size * tokens, make
