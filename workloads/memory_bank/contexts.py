"""Which contexts come: the leaf of each, by Zipf's law or from a file, and the blocks that it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from workloads.cache_trace.trace import ArrayCacheTrace
from workloads.memory_bank.bank import MOST_CONTEXTS, HierarchicalBank

__all__ = ["block_trace", "leaves_of"]

Ints = npt.NDArray[np.int64]


def leaves_of(bank: HierarchicalBank, count: int, seed: int) -> Ints:
    """The leaf of each context; a file is read to its end or to ``count``."""
    if bank.contexts is not None:
        return _from_file(Path(bank.contexts), bank.leaves)[:count]
    random = np.random.default_rng(seed)
    weights = np.arange(1, bank.leaves + 1, dtype=np.float64) ** -bank.zipf
    ranks = np.searchsorted(np.cumsum(weights / weights.sum()), random.random(count), side="right")
    return random.permutation(bank.leaves)[np.minimum(ranks, bank.leaves - 1)].astype(np.int64)


def block_trace(bank: HierarchicalBank, leaves: Ints) -> ArrayCacheTrace:
    """The blocks of each context as requests, one of each level, the root's children first.

    Blocks are numbered level by level.
    """
    blocks, first = [], 0
    for level in bank.levels:
        blocks.append(first + leaves // (bank.leaves // level.blocks))
        first += level.blocks
    sizes = np.array([bank.block_bytes(level) for level in bank.levels], np.int64)
    return ArrayCacheTrace(np.stack(blocks, axis=1).ravel(), np.tile(sizes, len(leaves)), name=bank.name)


def _from_file(path: Path, leaves: int) -> Ints:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise bad_input(
            f"cannot be read: {getattr(error, 'strerror', None) or error}", file=str(path)
        ) from None
    if not 1 <= len(lines) <= MOST_CONTEXTS:
        raise bad_input(f"found {len(lines)} lines; expected 1 to {MOST_CONTEXTS} contexts", file=str(path))
    found = np.zeros(len(lines), np.int64)
    for number, line in enumerate(lines):
        text = line.strip()
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) >= leaves:
            raise bad_input(
                f"found {text[:40]!r}; expected a leaf from 0 to {leaves - 1}",
                file=str(path),
                line=number + 1,
            )
        found[number] = int(text)
    return found
