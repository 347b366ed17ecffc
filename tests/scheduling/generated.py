"""Graphs of every shape that schedulers meet, and of some that they should survive; from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mapping.scheduling import InPlace, ScheduleOperator, ScheduleProblem, ScheduleTensor

__all__ = ["FAMILIES", "made"]


@dataclass
class Wiring:
    """Operators of one output each, by what they read; index of an operator is that of its tensor."""

    inputs: list[tuple[int, ...]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    in_place: list[bool] = field(default_factory=list)

    def add(self, inputs: Sequence[int], size: int, in_place: bool = False) -> int:
        """Append an operator; its index."""
        self.inputs.append(tuple(dict.fromkeys(inputs)))
        self.sizes.append(int(size))
        self.in_place.append(in_place)
        return len(self.sizes) - 1

    def problem(self, name: str) -> ScheduleProblem:
        """The problem; what nobody reads is an output of the graph."""
        readers: list[list[int]] = [[] for _ in self.sizes]
        operators = []
        for o, inputs in enumerate(self.inputs):
            for t in inputs:
                readers[t].append(o)
            over = tuple(t for t in inputs if self.sizes[t] >= self.sizes[o] > 0) if self.in_place[o] else ()
            pairs = (InPlace(o, over),) if over else ()
            operators.append(ScheduleOperator(f"o{o}", inputs, (o,), 0, (), pairs))
        tensors = tuple(
            ScheduleTensor(f"t{o}", size, o, tuple(read), not read, not read)
            for o, (size, read) in enumerate(zip(self.sizes, readers, strict=True))
        )
        return ScheduleProblem(name, tuple(operators), tensors)


Rng = np.random.Generator


def _chain(rng: Rng, n: int, w: Wiring) -> None:
    """A chain in which some tensors are read again far on."""
    for o in range(n):
        back = [int(rng.integers(0, o - 1))] if o > 2 and rng.random() < 0.4 else []
        w.add(([o - 1] if o else []) + back, rng.integers(1, 60) * 64)


def _unet(rng: Rng, n: int, w: Wiring) -> None:
    """Down and up again: each tensor of the first half is read once more by its mirror image."""
    for o in range(n):
        w.add(([o - 1] if o else []) + ([n - o - 1] if o > n // 2 else []), rng.integers(4, 20) * 1024)


def _training(rng: Rng, n: int, w: Wiring) -> None:
    """Layers of five operators forward, and backward ones that read what those have kept."""
    layers, x = max(n // 11, 1), w.add((), 4096)
    kept: list[tuple[int, ...]] = []
    for _ in range(layers):
        norm = w.add((x,), 4096)
        qkv = w.add((norm,), 3 * 4096)
        attended = w.add((qkv,), 4096)
        up = w.add((attended, x), 4 * 4096)
        out = w.add((up, attended), 4096)
        kept.append((x, norm, qkv, attended, up))
        x = out
    grad = w.add((x,), 4096)
    for x, norm, qkv, attended, up in reversed(kept):
        g_up = w.add((grad, up), 4 * 4096)
        w.add((g_up, attended), 1024)
        g_attended = w.add((g_up, grad), 4096)
        g_qkv = w.add((g_attended, qkv), 3 * 4096)
        w.add((g_qkv, norm), 1024)
        grad = w.add((g_qkv, g_attended, x), 4096)


def _random(rng: Rng, n: int, w: Wiring) -> None:
    """Each operator reads one to three of the thirty before it."""
    for o in range(n):
        count = int(rng.integers(1, 4))
        w.add(
            [int(rng.integers(max(o - 30, 0), o)) for _ in range(count)] if o else [],
            rng.integers(2, 13) * 1024,
        )


def _wide(rng: Rng, n: int, w: Wiring) -> None:
    """Layers of many operators, each of which reads two of the layer before."""
    width = max(int(n**0.5), 2)
    for o in range(n):
        low = max((o // width - 1) * width, 0)
        there = range(low, (o // width) * width)
        w.add(
            rng.choice(there, min(2, len(there)), replace=False).tolist() if there else [], rng.integers(1, 9)
        )


def _grid(rng: Rng, n: int, w: Wiring) -> None:
    """A wavefront: each operator reads its neighbours above and to the left."""
    side = max(int(n**0.5), 2)
    for o in range(side * side):
        inputs = ([o - 1] if o % side else []) + ([o - side] if o >= side else [])
        w.add(inputs, rng.integers(1, 9) * 16)


def _butterfly(rng: Rng, n: int, w: Wiring) -> None:
    """The wiring of a fast Fourier transform."""
    bits = 1
    while (bits + 2) * 2 ** (bits + 1) <= n:
        bits += 1
    width = 2**bits
    for level in range(bits + 1):
        for i in range(width):
            low = (level - 1) * width
            w.add([low + i, low + (i ^ 1 << (level - 1))] if level else [], 8)


def _bipartite(rng: Rng, n: int, w: Wiring) -> None:
    """Every operator of the second half reads every one of the first."""
    half = min(n // 2, 24)
    first = [w.add((), rng.integers(1, 9)) for _ in range(half)]
    for _ in range(half):
        w.add(first, rng.integers(1, 4))


def _tiny(rng: Rng, n: int, w: Wiring) -> None:
    """Many tensors of one byte."""
    for o in range(n):
        w.add([int(rng.integers(max(o - 9, 0), o)) for _ in range(2)] if o else [], 1)


def _giant(rng: Rng, n: int, w: Wiring) -> None:
    """One tensor larger than all others together, read at the end."""
    giant = w.add((), 1 << 20)
    for o in range(1, n - 1):
        w.add([max(o - int(rng.integers(1, 6)), 0)], rng.integers(1, 9))
    w.add([giant, n - 2], 1)


def _empty(rng: Rng, n: int, w: Wiring) -> None:
    """Half of the tensors have no bytes."""
    for o in range(n):
        inputs = [int(rng.integers(max(o - 6, 0), o)) for _ in range(2)] if o else []
        w.add(inputs, rng.integers(0, 2) * rng.integers(1, 99))


def _twice(rng: Rng, n: int, w: Wiring) -> None:
    """Edges that stand twice, and fans that meet again."""
    for o in range(n):
        w.add([o - 1, o - 1, o - o % 8 - 1 if o % 8 and o >= 8 else o - 1] if o else [], rng.integers(1, 50))


def _in_place(rng: Rng, n: int, w: Wiring) -> None:
    """Element-wise chains with residual sums, all of which may write over an input."""
    for o in range(n):
        back = [o - int(rng.integers(2, 12))] if o > 12 and rng.random() < 0.5 else []
        w.add(([o - 1] if o else []) + back, 256 if rng.random() < 0.8 else 128, in_place=True)


FAMILIES: dict[str, Callable[[Rng, int, Wiring], None]] = {
    "chain": _chain, "unet": _unet, "training": _training, "random": _random, "wide": _wide, "grid": _grid,
    "butterfly": _butterfly, "bipartite": _bipartite, "tiny": _tiny, "giant": _giant, "empty": _empty,
    "twice": _twice, "in-place": _in_place,
}  # fmt: skip


def made(family: str, operators: int, seed: int) -> ScheduleProblem:
    """A problem of a family with about so many operators."""
    wiring = Wiring()
    FAMILIES[family](np.random.default_rng(seed), operators, wiring)
    return wiring.problem(f"{family}-{operators}-{seed}")
