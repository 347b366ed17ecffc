"""Memory accesses of attention: FlashAttention's counts, and measured accesses against the lower bounds.

Dao et al. (FlashAttention, arXiv:2205.14135) count memory accesses of fused attention; Saha and Ye (The I/O
Complexity of Attention, arXiv:2402.07443) prove n^2 d^2 / m the least for m >= d^2, and n^2 d / sqrt(m) below.
Here every element access of either algorithm goes through a cache of m elements.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np

from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from simulator.gpu.attention_io import (
    Head,
    blocked_trace,
    fused_accesses,
    fused_closed_form,
    fused_tiles,
    fused_trace,
    standard_passes,
)
from simulator.gpu.ideal_cache import lru_traffic, optimal_traffic

__all__ = ["STUDY", "measured"]

HEAD: Final = Head(n=128, d=16)
CACHES: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)
GPT2: Final = Head(n=1024, d=64)
HEADS: Final = 16 * 64
"""Heads of the batch that FlashAttention's table runs: 16 heads, 64 sequences."""
SHARED_ELEMENTS: Final = 192 * 1024 // 2
_FLASH = "FlashAttention, arXiv:2205.14135"
_TABLE = f"{_FLASH}, table of GPT-2 medium on an A100 (sequence 1024, head 64, 16 heads, batch 64)"
_BOUND = "The I/O Complexity of Attention, arXiv:2402.07443"
_SMALL = f"{_BOUND}, as reported by a review (gresearch.com); the exponent itself is recalled"


def measured(m: int) -> dict[str, int]:
    """Loads and stores of either algorithm under either replacement, each with its best tile size, for one head."""
    found: dict[str, int] = {}
    for name, traces in (("fused", _fused_traces(m)), ("blocked", _blocked_traces(m))):
        for policy, traffic in (("LRU", lru_traffic), ("optimal", optimal_traffic)):
            found[f"{name}, {policy}"] = min(traffic(*trace, m).total for trace in traces)
    return found


def _fused_traces(m: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blocks of keys that take two to four fifths of the cache, and the queries that then fit."""
    n, d = HEAD.n, HEAD.d
    traces = []
    for share in (0.4, 0.6, 0.8):
        keys = max(1, min(n, int(share * m / (2 * d))))
        queries = max(1, min(n, (m - 2 * d * keys) // (2 * d + keys)))
        traces.append(fused_trace(HEAD, queries, keys))
    return traces


def _blocked_traces(m: int) -> list[tuple[np.ndarray, np.ndarray]]:
    sides = {max(1, int(share * math.sqrt(m))) for share in (0.5, 0.7, 0.95)}
    return [blocked_trace(HEAD, side) for side in sorted(sides)]


def _slope(caches: list[int], accesses: list[int]) -> float:
    return float(np.polyfit(np.log(caches), np.log(accesses), 1)[0])


def _complexity(table: dict[int, dict[str, int]]) -> list[ClaimResult]:
    edge = HEAD.d**2
    large = [m for m in CACHES if edge <= m <= 8 * edge]
    small = [m for m in CACHES if m <= edge]
    method = (
        f"Every element access of one head (n = {HEAD.n}, d = {HEAD.d}) through a fully associative cache of m "
        "elements with optimal replacement, tile sizes chosen for least traffic"
    )
    offset = (
        "The fit holds the compulsory traffic (4 n d elements, and 2 n^2 scores of the blocked algorithm) too, which "
        "flattens it; the bounds hide it, as they hide constants."
    )
    results = []
    for key, algorithm, caches, published in (
        ("large", "fused", large, -1.0),
        ("small", "blocked", small, -0.5),
    ):
        side = ">=" if key == "large" else "<="
        span = f"{caches[0]} to {caches[-1]} elements"
        claim = Claim(
            f"exponent-{key}", f"exponent of m in the accesses, {algorithm} algorithm, m {side} d^2",
            published, "", _BOUND if key == "large" else _SMALL, "published" if key == "large" else "second-hand",
            "mechanism",
        )  # fmt: skip
        ours = _slope(caches, [table[m][f"{algorithm}, optimal"] for m in caches])
        results.append(
            compare(claim, ours, f"{method}; a least-squares fit in logarithms over {span}.", offset)
        )
    for key, m, winner in (("below", edge // 4, "blocked"), ("above", 4 * edge, "fused")):
        best = min(("fused", "blocked"), key=lambda name: table[m][f"{name}, optimal"])
        claim = Claim(
            f"best-{key}",
            f"algorithm with fewer accesses {key} m = d^2 (m = {m})",
            winner,
            "",
            _BOUND,
            "published",
            "mechanism",
        )
        results.append(compare(claim, best, f"{method}, at m = {m}."))
    return results


def _counts() -> list[ClaimResult]:
    results = []
    for kib in (48, 100, 192):
        m = kib * 1024 // 2
        claim = Claim(
            f"closed-form-{kib}", f"accesses of one head, forward, {kib} KiB of shared memory",
            float(fused_closed_form(GPT2, m)), "elements", f"{_FLASH}, algorithm 1", "derived", "counting",
        )  # fmt: skip
        results.append(
            compare(
                claim,
                float(fused_accesses(GPT2, m).total),
                "Counted over the loops of algorithm 1.",
            )
        )
    return results


def _bytes() -> list[ClaimResult]:
    standard = sum(standard_passes(GPT2, backward).total for backward in (False, True)) * HEADS * 2
    fused = (
        sum(fused_accesses(GPT2, SHARED_ELEMENTS, backward).total for backward in (False, True)) * HEADS * 2
    )
    rows, keys = fused_tiles(GPT2, SHARED_ELEMENTS)
    open_points = "The published table does not say how mask and dropout are stored; both are taken as FP16."
    tiles = (
        f"Blocks of {rows} queries and {keys} keys, by algorithm 1 for 192 KiB of shared memory in FP16; the "
        "released kernels take other blocks, and count what an L2 serves as no access."
    )
    method = "Elements read and written, forward and backward, times two bytes and 1024 heads, counted "
    return [
        compare(Claim("standard", "HBM accesses of standard attention", 40.3e9, "B", _TABLE, "recalled", "mechanism"),
                float(standard), f"{method}over the kernels of unfused attention.", open_points),
        compare(Claim("fused", "HBM accesses of FlashAttention", 4.4e9, "B", _TABLE, "recalled", "mechanism"),
                float(fused), f"{method}over the loops of the two algorithms.", tiles),
        compare(Claim("ratio", "standard over FlashAttention", 40.3 / 4.4, "", _TABLE, "recalled", "mechanism"),
                standard / fused, "The two counts above.", tiles),
    ]  # fmt: skip


def _not_covered() -> list[ClaimResult]:
    """The paper's training speed-ups, which rest on baselines that Offchip does not have."""
    entries = (
        ("bert", "BERT-large (512), faster than the record of MLPerf 1.1", 0.15, "",
         "The record's implementation, with fused attention of its own for short sequences, is not modelled."),
        ("gpt2", "GPT-2 (1K), faster end to end, at most", 3.0, "x",
         "The baseline is a framework's implementation, most of whose time beside attention is its own; a graph with "
         "unfused attention has none of that."),
        ("long-range", "long-range arena (1K to 4K), faster, at most", 2.4, "x",
         "Its models have no workload here."),
    )  # fmt: skip
    return [
        compare(Claim(key, words, value, unit, f"{_FLASH}, abstract", "published", "mechanism"), None,
                "Not covered.", why)
        for key, words, value, unit, why in entries
    ]  # fmt: skip


def _run() -> Outcome:
    table = {m: measured(m) for m in CACHES}
    names = list(table[CACHES[0]])
    n, d = HEAD.n, HEAD.d
    bounds = {
        "n²d²/m": [(float(m), n * n * d * d / m) for m in CACHES if m >= d * d],
        "n²d/√m": [(float(m), n * n * d / math.sqrt(m)) for m in CACHES if m <= d * d],
        "compulsory, 4nd": [(float(m), 4.0 * n * d) for m in CACHES],
    }
    rows = tuple((float(m), *(float(table[m][name]) for name in names)) for m in CACHES)
    caption = (
        f"Loads and stores of one head of attention (n = {n}, d = {d}) in a cache of m elements, and the lower bounds "
        "without their constants. At m = d² = 256 the fused algorithm overtakes the blocked one."
    )

    def draw(path: Path) -> None:
        lines = {name: [(float(m), float(table[m][name])) for m in CACHES] for name in names}
        axis = "fast memory m (elements)"
        draw_lines(path, lines, axis, "accesses (elements)", bounds=bounds, log_x=True, log_y=True)

    return Outcome(
        [*_complexity(table), *_counts(), *_bytes(), *_not_covered()],
        [StudyTable("Accesses by size of the fast memory", ("m", *names), rows)],
        [Figure("accesses", caption, draw)],
    )


STUDY: Final = Study(
    "attention-io",
    "Memory accesses of attention, and their lower bounds",
    f"{_FLASH}; {_BOUND}",
    "One head of attention, run access by access through caches under LRU and under optimal replacement; and "
    "FlashAttention's algorithm 1 counted at GPT-2 medium's shape.",
    _run,
)
