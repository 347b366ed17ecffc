"""Access traces of described kernels: which bytes each thread block asks for, step by step.

A kernel is ``NAME:NUMBERS[:KEY=VALUE...]``, such as ``matmul:4096:4096:4096:order=swizzle``. Thread block b of a wave
runs on multiprocessor b modulo their number; the blocks of a wave take their steps side by side. Arrays stand one
behind another, each from a border of 2 MiB. An access is what a warp asks of one run of bytes: at most 512 here, as
32 lanes of 16 bytes do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input, nearest
from hw_configs.whole_number import integer
from workloads.gpu_trace.trace import LOAD, MAX_ACCESS, STORE, GpuAccesses
from workloads.memory_trace.generators import splitmix64

__all__ = ["KERNELS", "ORDERS", "KernelTrace", "Launch", "block_order", "generate_kernel"]

Ints = npt.NDArray[np.int64]

ALIGNMENT: Final = 1 << 21
WARP_BYTES: Final = 512
MOST: Final = 2**44
"""Bytes that a kernel's arrays span at most."""
WARPS: Final = 8
"""Of a thread block that gathers rows."""
ORDERS: Final = ("row", "column", "swizzle")
SWIZZLE: Final = 8
"""Rows of tiles in a column of the order ``swizzle``."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Where a kernel runs: multiprocessors, and thread blocks at work on each."""

    sms: int
    blocks_per_sm: int = 1

    def waves(self, blocks: int) -> Iterator[Ints]:
        """The numbers of the blocks that run side by side."""
        at_once = self.sms * self.blocks_per_sm
        for start in range(0, blocks, at_once):
            yield np.arange(start, min(start + at_once, blocks), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A kernel's numbers and options, checked."""

    number: Mapping[str, int]
    launch: Launch

    def __getitem__(self, name: str) -> int:
        return self.number[name]


Chunk = GpuAccesses


def _bases(*sizes: int) -> list[int]:
    """Where arrays of so many bytes begin."""
    found, at = [], ALIGNMENT
    for size in sizes:
        found.append(at)
        at += -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
    return found


def _chunk(kind: int, address: Ints, size: Ints | int, sm: Ints) -> Chunk:
    """Accesses from arrays that broadcast against one another, in the order of ``address``."""
    whole = np.broadcast_shapes(address.shape, sm.shape)
    parts = (np.broadcast_to(part, whole).reshape(-1) for part in (address, np.asarray(size, np.int64), sm))
    at, bytes_, where = (np.ascontiguousarray(part, np.int64) for part in parts)
    return GpuAccesses(np.full(at.size, kind, np.int64), at, bytes_, where, np.zeros(at.size, np.int64))


def _runs(kind: int, start: Ints, length: int, sm: Ints) -> Iterator[Chunk]:
    """Rows of ``length`` bytes from ``start``, each in pieces that a warp takes at a time."""
    pieces = np.arange(0, length, WARP_BYTES, dtype=np.int64)
    sizes = np.minimum(length - pieces, WARP_BYTES)
    whole = (*start.shape, pieces.size)
    yield _chunk(
        kind, start[..., None] + pieces, np.broadcast_to(sizes, whole), np.broadcast_to(sm[..., None], whole)
    )


def block_order(order: str, rows: int, columns: int, blocks: Ints) -> tuple[Ints, Ints]:
    """The tile row and column of thread blocks: along rows, down columns, or down columns of eight rows.

    >>> [part.tolist() for part in block_order("column", 2, 3, np.arange(3))]
    [[0, 1, 0], [0, 0, 1]]
    """
    if order == "row":
        return blocks // columns, blocks % columns
    if order == "column":
        return blocks % rows, blocks // rows
    band = blocks // (SWIZZLE * columns)
    height = np.minimum(SWIZZLE, rows - band * SWIZZLE)
    inside = blocks - band * SWIZZLE * columns
    return band * SWIZZLE + inside % height, inside // height


def _matmul(p: _Asked) -> Iterator[Chunk]:
    """C = A B, all row by row: each block loads a tile of A and of B per step, and stores its tile of C at the end.

    ``tiled``: the operands lie tile by tile, whole tiles at the edges too, and a tile is asked for as one run.
    """
    m, n, k, e = p["m"], p["n"], p["k"], p["bytes"]
    bm, bn, bk = p["tile_m"], p["tile_n"], p["tile_k"]
    rows, columns = -(-m // bm), -(-n // bn)
    deepest = -(-k // bk)
    a, b, c = _bases(rows * bm * deepest * bk * e, columns * bn * deepest * bk * e, m * n * e)
    for blocks in p.launch.waves(rows * columns):
        sm = blocks % p.launch.sms
        at = block_order(ORDERS[p["order"]], rows, columns, blocks)
        for step in range(0, k, bk):
            deep = min(bk, k - step)
            if p["tiled"]:
                yield _chunk(LOAD, a + (at[0] * deepest + step // bk) * bm * bk * e, bm * bk * e, sm)
                yield _chunk(LOAD, b + (at[1] * deepest + step // bk) * bn * bk * e, bn * bk * e, sm)
                continue
            yield from _tile(LOAD, a, at[0] * bm, step, (bm, deep), (m, k, e), sm)
            yield from _tile(LOAD, b, np.full_like(at[1], step), at[1] * bn, (deep, bn), (k, n, e), sm)
        if p["stores"]:
            yield from _tile(STORE, c, at[0] * bm, at[1] * bn, (bm, bn), (m, n, e), sm)


def _tile(
    kind: int,
    base: int,
    row: Ints,
    column: Ints | int,
    tile: tuple[int, int],
    matrix: tuple[int, int, int],
    sm: Ints,
) -> Iterator[Chunk]:
    """The rows of a tile of each block, whole or cut by the matrix's edge."""
    rows, columns, e = matrix
    left = np.broadcast_to(np.asarray(column, np.int64), row.shape)
    inside = row[:, None] + np.arange(tile[0], dtype=np.int64)
    for width in np.unique(np.minimum(tile[1], columns - left)):
        mine = np.minimum(tile[1], columns - left) == width
        here = inside[mine]
        start = base + (here * columns + left[mine, None]) * e
        where = np.broadcast_to(sm[mine, None], here.shape)
        kept = here < rows
        yield from _runs(kind, start[kept], int(width) * e, where[kept])


def _attention(p: _Asked) -> Iterator[Chunk]:
    """One block per sequence, head and tile of queries: queries, then keys and values block by block, then outputs.

    ``tiled``: each head's rows lie together, in whole tiles, and a tile is asked for as one run.
    """
    batch, heads, kv_heads, q, kv = (p[x] for x in ("batch", "heads", "kv_heads", "q_len", "kv_len"))
    tile, keys, wide = p["tile_q"], p["tile_k"], p["head_dim"] * p["bytes"]
    tiles, turns = -(-q // tile), -(-kv // keys)
    asked, cached = batch * tiles * tile * heads * wide, batch * turns * keys * kv_heads * wide
    queries, k_base, v_base, out = _bases(asked, cached, cached, asked)
    for blocks in p.launch.waves(batch * heads * tiles):
        sm = blocks % p.launch.sms
        head, at, sequence = blocks // tiles % heads, blocks % tiles, blocks // (tiles * heads)
        own = _RowsOf(sequence, head, at, (tile, q, heads, wide))
        yield from own.accesses(LOAD, queries, sm, p["tiled"])
        last = np.minimum((at + 1) * tile, q) + (kv - q) if p["causal"] else np.full_like(at, kv)
        for turn in range(turns):
            mine = turn * keys < last
            group = head[mine] // (heads // kv_heads)
            shared = _RowsOf(sequence[mine], group, np.full_like(group, turn), (keys, kv, kv_heads, wide))
            for base in (k_base, v_base):
                yield from shared.accesses(LOAD, base, sm[mine], p["tiled"])
        yield from own.accesses(STORE, out, sm, p["tiled"])


@dataclass(frozen=True, slots=True)
class _RowsOf:
    """Tile ``at`` of a head's rows in a sequence, for each block. ``shape``: rows of a tile, rows, heads, bytes."""

    sequence: Ints
    head: Ints
    at: Ints
    shape: tuple[int, int, int, int]

    def accesses(self, kind: int, base: int, sm: Ints, tiled: int) -> Iterator[Chunk]:
        """The rows of the tiles one by one, as they lie between those of other heads; or a run a tile."""
        tile, rows, heads, wide = self.shape
        if tiled:
            tiles = -(-rows // tile)
            number = (self.sequence * heads + self.head) * tiles + self.at
            for part in range(0, tile * wide, MAX_ACCESS):
                size = min(tile * wide - part, MAX_ACCESS)
                yield _chunk(kind, base + number * tile * wide + part, size, sm)
            return
        inside = self.at[:, None] * tile + np.arange(tile, dtype=np.int64)
        kept = inside < rows
        start = ((self.sequence[:, None] * rows + inside) * heads + self.head[:, None]) * wide
        yield from _runs(kind, (base + start)[kept], wide, np.broadcast_to(sm[:, None], inside.shape)[kept])


def _paged_attention(p: _Asked) -> Iterator[Chunk]:
    """Decoding: one block per sequence and KV head reads a table of pages, and each page's keys and values."""
    batch, kv_heads, context, dim = (p[x] for x in ("batch", "kv_heads", "context", "head_dim"))
    e, page = p["bytes"], p["page"]
    pages = -(-context // page)
    row = kv_heads * dim * e
    total = batch * pages * page * row
    table, k_base, v_base, out = _bases(batch * pages * 4, total, total, batch * p["heads"] * dim * e)
    wide = p["heads"] // kv_heads * dim * e
    # Pages are dealt out in an order of their own: an affine rule over all of them.
    count = batch * pages
    stride = _coprime(count, p["seed"])
    for blocks in p.launch.waves(batch * kv_heads):
        sm = blocks % p.launch.sms
        sequence, head = blocks // kv_heads, blocks % kv_heads
        yield from _runs(LOAD, out + (sequence * kv_heads + head) * wide, wide, sm)
        for at in range(pages):
            yield _chunk(LOAD, table + (sequence * pages + at) * 4, 4, sm)
            physical = (sequence * pages + at) * stride % count
            token = np.arange(min(page, context - at * page), dtype=np.int64)
            where = np.broadcast_to(sm[:, None], (blocks.size, token.size))
            place = (physical[:, None] * page + token) * row + head[:, None] * dim * e
            for base in (k_base, v_base):
                yield from _runs(LOAD, base + place, dim * e, where)
        yield from _runs(STORE, out + (sequence * kv_heads + head) * wide, wide, sm)


def _coprime(count: int, seed: int) -> int:
    """A number that has no factor with ``count``, chosen by the seed."""
    stride = int(splitmix64(seed, 0, 1)[0] % np.uint64(max(count, 2))) | 1
    while math.gcd(stride, count) != 1:
        stride += 2
    return stride


def _gather(p: _Asked) -> Iterator[Chunk]:
    """A warp per chosen row: its index, the row, and the copy of it; rows are drawn alike."""
    rows, width, count = p["rows"], p["row_bytes"], p["count"]
    index, table, out = _bases(count * 8, rows * width, count * width)
    at_once = p.launch.sms * p.launch.blocks_per_sm * WARPS
    for start in range(0, count, at_once):
        chosen = np.arange(start, min(start + at_once, count), dtype=np.int64)
        sm = chosen % p.launch.sms
        drawn = (splitmix64(p["seed"], start, chosen.size) % np.uint64(rows)).astype(np.int64)
        yield _chunk(LOAD, index + chosen * 8, 8, sm)
        yield from _runs(LOAD, table + drawn * width, width, sm)
        if p["stores"]:
            yield from _runs(STORE, out + chosen * width, width, sm)


def _transpose(p: _Asked) -> Iterator[Chunk]:
    """Rows are read; columns are written element by element, or by way of tiles that shared memory turns."""
    m, n, e, tile = p["m"], p["n"], p["bytes"], p["tile"]
    source, target = _bases(m * n * e, m * n * e)
    side = tile or 32
    rows, columns = -(-m // side), -(-n // side)
    for blocks in p.launch.waves(rows * columns):
        sm = blocks % p.launch.sms
        row, column = blocks // columns * side, blocks % columns * side
        yield from _tile(LOAD, source, row, column, (side, side), (m, n, e), sm)
        if tile:
            yield from _tile(STORE, target, column, row, (side, side), (n, m, e), sm)
        else:
            place = np.arange(side * side, dtype=np.int64)
            i, j = row[:, None] + place // side, column[:, None] + place % side
            kept = (i < m) & (j < n)
            where = np.broadcast_to(sm[:, None], i.shape)
            yield _chunk(STORE, (target + (j * m + i) * e)[kept], e, where[kept])


def _strided(p: _Asked) -> Iterator[Chunk]:
    """Elements ``stride`` bytes apart, 32 lanes of a warp side by side; lanes that meet in a sector ask for it once."""
    count, stride, e = p["count"], p["stride"], p["bytes"]
    (base,) = _bases(count * stride)
    at_once = 1 << 15
    for start in range(0, count, at_once):
        lane = np.arange(start, min(start + at_once, count), dtype=np.int64)
        sm = lane // 32 % p.launch.sms
        if stride == e:
            first = lane[::32]
            size = np.minimum(32, count - first) * e
            yield _chunk(LOAD, base + first * stride, size, sm[::32])
        else:
            # Lanes of a warp that begin in the sector of the lane before do not ask again.
            sector = (base + lane * stride) // 32
            new = np.ones(lane.size, np.bool_)
            new[1:] = (sector[1:] != sector[:-1]) | (lane[1:] % 32 == 0)
            yield _chunk(LOAD, (base + lane * stride)[new], e, sm[new])


def _stream(p: _Asked) -> Iterator[Chunk]:
    """Bytes in order, again and again, and a copy of them where ``copy`` is 1."""
    size = p["size"]
    source, target = _bases(size, size)
    at_once = 1 << 14
    for _ in range(p["rounds"]):
        for start in range(0, size, at_once * WARP_BYTES):
            place = np.arange(start, min(start + at_once * WARP_BYTES, size), WARP_BYTES, dtype=np.int64)
            sizes = np.minimum(size - place, WARP_BYTES)
            sm = place // WARP_BYTES % p.launch.sms
            yield _chunk(LOAD, source + place, sizes, sm)
            if p["copy"]:
                yield _chunk(STORE, target + place, sizes, sm)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Names of a kernel's numbers, options with their defaults, its accesses, the bytes that its arrays span."""

    numbers: tuple[str, ...]
    options: Mapping[str, int]
    make: Callable[[_Asked], Iterator[Chunk]]
    span: Callable[[_Asked], int]
    described: str


def _matmul_span(p: _Asked) -> int:
    return (p["m"] * p["k"] + p["k"] * p["n"] + p["m"] * p["n"]) * p["bytes"]


KERNELS: Final[dict[str, _Kernel]] = {
    "matmul": _Kernel(
        ("m", "n", "k"),
        {"tile_m": 128, "tile_n": 128, "tile_k": 32, "bytes": 2, "order": 0, "tiled": 0, "stores": 1},
        _matmul, _matmul_span,
        "a tiled product; order: row, column or swizzle",
    ),
    "attention": _Kernel(
        ("batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim"),
        {"tile_q": 128, "tile_k": 64, "bytes": 2, "causal": 1, "tiled": 0}, _attention,
        lambda p: 2 * p["batch"] * p["head_dim"] * p["bytes"]
        * (p["q_len"] * p["heads"] + p["kv_len"] * p["kv_heads"]),
        "flash attention, tile of queries by tile of queries",
    ),
    "paged-attention": _Kernel(
        ("batch", "heads", "kv_heads", "context", "head_dim"), {"page": 16, "bytes": 2, "seed": 1}, _paged_attention,
        lambda p: 2 * p["batch"] * (p["context"] + p["page"]) * p["kv_heads"] * p["head_dim"] * p["bytes"],
        "decoding over pages of the KV cache",
    ),
    "gather": _Kernel(
        ("rows", "row_bytes", "count"), {"seed": 1, "stores": 1}, _gather,
        lambda p: (p["rows"] + p["count"]) * p["row_bytes"] + p["count"] * 8, "rows of a table by index",
    ),
    "transpose": _Kernel(
        ("m", "n"), {"tile": 32, "bytes": 4}, _transpose, lambda p: 2 * p["m"] * p["n"] * p["bytes"],
        "a transpose; tile=0: element by element",
    ),
    "strided": _Kernel(
        ("count", "stride"), {"bytes": 4}, _strided, lambda p: p["count"] * p["stride"], "elements so many bytes apart",
    ),
    "stream": _Kernel(
        ("size",), {"copy": 0, "rounds": 1}, _stream, lambda p: 2 * p["size"], "bytes in order",
    ),
}  # fmt: skip
"""The kernels by name."""
_ZERO_ALLOWED: Final = frozenset({"order", "causal", "tile", "tiled", "stores", "copy", "seed"})


@dataclass(frozen=True)
class KernelTrace:
    """A kernel's accesses on so many multiprocessors."""

    name: str
    kernel: str
    number: Mapping[str, int]
    launch: Launch
    count: int | None = None

    def chunks(self, size: int) -> Iterator[GpuAccesses]:
        """The accesses from the beginning, at most ``size`` at a time, steps of a wave held together where they fit."""
        held: list[GpuAccesses] = []
        filled = 0
        for part in KERNELS[self.kernel].make(_Asked(self.number, self.launch)):
            for start in range(0, part.kind.size, size):
                piece = GpuAccesses(*(column[start : start + size] for column in part))
                if filled + piece.kind.size > size:
                    yield _joined(held)
                    held, filled = [], 0
                held.append(piece)
                filled += piece.kind.size
        if filled:
            yield _joined(held)


def _joined(held: list[GpuAccesses]) -> GpuAccesses:
    return (
        held[0]
        if len(held) == 1
        else GpuAccesses(*(np.concatenate(parts) for parts in zip(*held, strict=True)))
    )


def generate_kernel(text: str, launch: Launch) -> KernelTrace:
    """The trace of ``NAME:NUMBERS[:KEY=VALUE...]``. Raises ``InputError`` for what makes no sense.

    >>> trace = generate_kernel("stream:1024", Launch(4))
    >>> next(trace.chunks(8)).size.tolist()
    [512, 512]
    """
    name, *rest = text.split(":")
    if name not in KERNELS:
        known = ", ".join(KERNELS)
        raise bad_input(f"unknown kernel {name[:40]!r}; known: {known}", suggestion=nearest(name, KERNELS))
    kernel = KERNELS[name]
    plain = [part for part in rest if "=" not in part]
    if len(plain) != len(kernel.numbers):
        form = ":".join((name, *(n.upper() for n in kernel.numbers)))
        raise bad_input(f"found {text[:80]!r}; expected {form} in whole numbers, then KEY=VALUE")
    number = dict(kernel.options)
    for key, value in zip(kernel.numbers, plain, strict=True):
        number[key] = _value(text, key, value)
    for part in rest:
        key, sign, value = part.partition("=")
        if sign and key not in kernel.options:
            known = ", ".join(kernel.options)
            raise bad_input(
                f"{name} has no {key[:40]!r}; it has {known}", suggestion=nearest(key, kernel.options)
            )
        if sign:
            number[key] = _value(text, key, value)
    trace = KernelTrace(text, name, number, launch)
    _possible(text, trace)
    return trace


def _value(text: str, key: str, value: str) -> int:
    if key == "order":
        if value not in ORDERS:
            raise bad_input(
                f"order: found {value[:40]!r}; known: {', '.join(ORDERS)}", suggestion=nearest(value, ORDERS)
            )
        return ORDERS.index(value)
    least = 0 if key in _ZERO_ALLOWED else 1
    found = integer(value.replace("_", ""), least, 2**40)
    if found is None:
        raise bad_input(
            f"{key}: found {value[:40]!r} in {text[:80]!r}; expected a whole number of {least} or more"
        )
    return found


def _possible(text: str, trace: KernelTrace) -> None:
    """Refuse numbers that contradict one another, and arrays beyond all memories."""
    p = _Asked(trace.number, trace.launch)
    if trace.kernel in ("attention", "paged-attention") and p["heads"] % p["kv_heads"]:
        raise bad_input(f"{p['heads']} heads cannot share {p['kv_heads']} KV heads evenly")
    if trace.kernel == "attention" and p["causal"] and p["q_len"] > p["kv_len"]:
        raise bad_input(f"{p['q_len']} queries see only {p['kv_len']} keys under a causal mask")
    if trace.kernel == "strided" and p["stride"] < p["bytes"]:
        raise bad_input(f"a stride of {p['stride']} bytes is shorter than an element of {p['bytes']}")
    if "bytes" in p.number and p["bytes"] > 16:
        raise bad_input(f"bytes: found {p['bytes']}; a lane moves at most 16")
    if KERNELS[trace.kernel].span(p) > MOST:
        raise bad_input(f"found {text[:80]!r}; expected arrays of at most 16 TiB")
