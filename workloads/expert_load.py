"""How tokens spread over experts: how many experts some token reaches, and what falls to the busiest rank.

Four loads. ``independent``: every token picks its experts evenly and on its own, so that counts are binomial.
``balanced``: rows are dealt out evenly. ``repeated``: all tokens choose as one does, as in a decode step of sequences
that repeat one prompt. ``power_law``: how often an expert is wanted follows a bounded Pareto law
(density proportional to x to the power of minus the exponent, from 1 to eight tenths of the tokens), as routers that
are not balanced show it and benchmarks of engines draw it; where there are fewer rows than experts the law runs from
0.01 to 2, and what rounds to no row at all goes to the most wanted experts.

The experts of a rank are a run of equal length; the busiest of the ranks is what a layer waits for.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOADS",
    "QUANTILES",
    "RankLoad",
    "busiest_rank",
    "expected_experts",
    "row_quantiles",
    "sampled_rows",
]

Array = NDArray[np.float64]
LOADS: Final = ("independent", "balanced", "power_law", "repeated")
QUANTILES: Final = 16
"""Parts of equal size into which a kernel divides the experts that some token reaches."""
SAMPLES: Final = 15
"""Draws of a power law, of which the middle one stands; odd, so that there is one."""
SEED: Final = 0
LARGEST_SHARE: Final = 0.8
"""Share of the tokens that the most wanted expert gets at most; an assumption of the benchmarks that draw this law."""
SPARSE: Final = (0.01, 2.0)
"""Limits of the law where there are fewer rows than experts."""
DEVIATES: Final = np.array([
    -1.863, -1.318, -1.010, -0.776, -0.579, -0.402, -0.237, -0.078, 0.078, 0.237, 0.402, 0.579, 0.776, 1.010, 1.318,
    1.863,
])  # fmt: skip
"""Normal deviates at the middle of each sixteenth."""


class RankLoad(NamedTuple):
    """Rows of the busiest rank, and experts of it that some token reaches."""

    rows: int
    touched: float


def expected_experts(count: int, active: int, tokens: int) -> float:
    """Distinct experts that ``tokens`` tokens reach on average, if each picks ``active`` of them evenly.

    >>> expected_experts(8, 2, 1)
    2.0
    """
    return count * (1.0 - (1.0 - active / count) ** tokens)


@lru_cache(maxsize=4096)
def busiest_rank(
    experts: int, active: int, tokens: int, ranks: int = 1, load: str = "independent", exponent: float = 0.0,
    first: bool = False,
) -> RankLoad:  # fmt: skip
    """Rows and touched experts of the fullest of ``ranks`` ranks, which hold equal runs of the experts.

    ``first``: shares are cut to whole rows, and what is left goes to the experts of lowest number, as in older
    benchmarks, instead of anywhere.
    """
    rows, own = tokens * active, experts // ranks
    if load == "balanced":
        mine = math.ceil(rows / ranks)
        return RankLoad(mine, float(min(own, mine)))
    if load == "repeated":
        one = busiest_rank(experts, active, 1, ranks)
        distinct = min(own, one.rows)
        return RankLoad(distinct * tokens, float(distinct))
    if load == "power_law":
        drawn = sampled_rows(experts, active, tokens, exponent, first=first)
        by_rank = drawn[:, : own * ranks].reshape(SAMPLES, ranks, own)
        busiest = by_rank.sum(axis=2).argmax(axis=1)
        mine_all = by_rank[np.arange(SAMPLES), busiest]
        totals, touched = mine_all.sum(axis=1), (mine_all > 0).sum(axis=1)
        return RankLoad(max(1, round(float(np.median(totals)))), max(1.0, float(np.median(touched))))
    mean = rows / ranks
    # The largest of so many Poisson counts lies about this far above their mean.
    most = mean + math.sqrt(2.0 * math.log(ranks) * mean) if ranks > 1 else mean
    mine = min(rows, max(1, math.ceil(most))) if rows else 0
    return RankLoad(mine, max(1.0, min(float(mine), expected_experts(experts, active, tokens) / ranks)))


def sampled_rows(
    experts: int, active: int, tokens: int, exponent: float, samples: int = SAMPLES, seed: int = SEED,
    first: bool = False,
) -> Array:  # fmt: skip
    """Rows of each expert in draws of a power law: samples x experts, whole numbers, at most ``tokens`` each."""
    random = np.random.default_rng(seed)
    rows = tokens * active
    low, high = (1.0, max(1.0, LARGEST_SHARE * tokens)) if rows > experts else SPARSE
    made = np.zeros((samples, experts))
    for draw in made:
        wanted = quantile_of(random.random(experts), low, high, exponent)
        share = wanted / wanted.sum() * rows
        draw[:] = np.floor(share) if first else np.round(share)
        ties = np.arange(experts) if first else random.permutation(experts)
        order = np.lexsort((ties, -draw))
        missing = int(rows - draw.sum())
        if missing > 0:
            draw += missing // experts
            draw[order[: missing % experts]] += 1
        for expert in order:
            if missing >= 0:
                break
            taken = min(-missing, int(draw[expert]))
            draw[expert] -= taken
            missing += taken
        np.minimum(draw, tokens, out=draw)
        # No token goes to an expert twice: what is beyond goes to the most wanted of those with room.
        while (over := int(rows - draw.sum())) > 0:
            open_to = order[draw[order] < tokens][:over]
            draw[open_to] = np.minimum(tokens, draw[open_to] + over // len(open_to))
    return made


def quantile_of(share: Array, low: float, high: float, exponent: float) -> Array:
    """The bounded Pareto law's value below which a share of the experts lies."""
    if abs(exponent - 1.0) < 1e-9:
        return np.asarray(low * (high / low) ** share)
    power = 1.0 - exponent
    return np.asarray((low**power + share * (high**power - low**power)) ** (1.0 / power))


@lru_cache(maxsize=4096)
def row_quantiles(
    rows: float,
    groups: float,
    touched: float,
    tokens: float,
    load: str = "independent",
    exponent: float = 0.0,
) -> tuple[float, ...]:
    """Rows of the touched experts, from the emptiest to the fullest sixteenth; their mean is rows / touched."""
    mean = max(1.0, rows / max(1.0, touched))
    if load in ("balanced", "repeated") or mean <= 1.0:
        return (mean,) * QUANTILES
    if load == "power_law":
        missed = 1.0 - min(1.0, touched / max(1.0, groups))
        share = missed + (1.0 - missed) * (np.arange(QUANTILES) + 0.5) / QUANTILES
        spread = quantile_of(share, 1.0, max(1.0, LARGEST_SHARE * tokens), exponent)
        made = np.maximum(1.0, spread * (mean / spread.mean()))
    else:
        made = np.maximum(1.0, mean + DEVIATES * math.sqrt(mean))
    return tuple((made * (mean / made.mean())).tolist())
