"""Paging with one predicted bit per request: misses over the optimum's as the bits go wrong.

Antoniadis et al. (Paging with Succinct Predictions, arXiv:2210.02775) prove bounds and print no figures: right bits
reach the optimum, wrong ones cost O(log k), and every wrong bit costs a bounded number of misses. Here their rules run
beside LRU, marking, PredictiveMarker and blind trust, on traces whose optimum is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from hw_configs.settings import read_settings
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Certainty, Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from simulator.cache.hierarchy import Level
from simulator.cache.hints import discard_bits
from simulator.cache.objects import Objects
from simulator.cache.replacement.policy import POLICIES
from simulator.cache.simulate import Hierarchy, simulate_caches, whole_trace
from workloads.cache_trace import open_pattern

__all__ = ["STUDY", "Sweep", "measured"]

PAGES: Final = 64
"""k: pages that fit."""
TRACES: Final = (
    f"zipf0.9:20000:{20 * PAGES}:1", f"scan-mix:20000:{10 * PAGES}:1", f"loop:20000:{PAGES + 1}:1",
    f"walk:20000:{10 * PAGES}:1",
)  # fmt: skip
BIT_ERRORS: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SPREADS: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
SEEDS: Final = (1, 2, 3)
HARMONIC: Final = float(sum(1 / i for i in range(1, PAGES + 1)))
_PAPER = "Paging with Succinct Predictions, arXiv:2210.02775"
_REVIEW = f"{_PAPER}, as reported by a review"
_ALONE = (
    " The rule alone pays a miss for every bit wrongly 'drop', as the bound below says, and a loop is made of them; a "
    "guarantee against all bits wrong needs a combination with a robust rule, which is not modelled."
)
_RECALLED = f"{_PAPER}, theorem recalled"


class Sweep(NamedTuple):
    """Ratios of misses to Belady's on one trace: of policies without predictions, and by error of those with."""

    optimum: int
    plain: Mapping[str, float]
    bits: Mapping[str, Sequence[float]]
    distances: Mapping[str, Sequence[float]]


def measured(recipe: str) -> Sweep:
    """All policies on one trace; those that draw by chance are averaged over three seeds."""
    optimum = _misses(recipe, "belady")
    plain = {name: _misses(recipe, name) / optimum for name in ("lru", "marking", "random")}
    bits = {
        name: [_misses(recipe, name, error) / optimum for error in BIT_ERRORS]
        for name in ("discard-predictions", "phase-predictions")
    }
    distances = {
        name: [_misses(recipe, name, spread) / optimum for spread in SPREADS]
        for name in ("predictive-marker", "blind-oracle")
    }
    return Sweep(int(optimum), plain, bits, distances)


def _misses(recipe: str, name: str, error: float | None = None) -> float:
    policy = POLICIES.get(name)
    settings = read_settings(policy.settings, {} if error is None else {"error": error})
    hierarchy = Hierarchy(name, (Level("cache", PAGES, policy, settings),))
    seeds = SEEDS if policy.random or error else SEEDS[:1]
    runs = [simulate_caches(open_pattern(recipe), [hierarchy], seed=seed).runs[0].misses for seed in seeds]
    return sum(runs) / len(runs)


def _smooth(recipe: str, optimum: int) -> float:
    """Most misses above OPT + 2 H_k (bits wrongly 0) + (bits wrongly 1), over the errors and seeds."""
    (chunk,) = whole_trace(open_pattern(recipe))
    true = discard_bits(Objects().nodes_of(chunk.object), chunk.size, PAGES)
    worst = -np.inf
    for error in BIT_ERRORS[1:]:
        for seed in SEEDS:
            turned = np.random.default_rng(seed).random(len(true)) < error
            wrongly_kept, wrongly_dropped = (
                int((turned & (true == 1)).sum()),
                int((turned & (true == 0)).sum()),
            )
            bound = optimum + 2 * HARMONIC * wrongly_kept + wrongly_dropped
            policy = POLICIES.get("discard-predictions")
            level = Level("cache", PAGES, policy, read_settings(policy.settings, {"error": error}))
            run = simulate_caches(open_pattern(recipe), [Hierarchy("", (level,))], seed=seed).runs[0]
            worst = max(worst, run.misses - bound)
    return float(worst)


def _claims(sweeps: Mapping[str, Sweep]) -> list[ClaimResult]:
    method = f"{len(TRACES)} traces of 20000 requests, {PAGES} pages fit; misses over Belady's. "
    results = [_consistent(recipe, sweep, method) for recipe, sweep in sweeps.items()]
    bits = "The bits are those of this optimum, each turned round by chance: an adversary could choose worse ones."

    def within(key: str, words: str, ratio: float, bound: float, source: str) -> ClaimResult:
        certainty: Certainty = "second-hand" if source == _REVIEW else "recalled"
        claim = Claim(key, words, "yes", "", source, certainty, "mechanism")
        found = "yes" if ratio <= bound else "no"
        more = _ALONE if key == "discard-robust" else ""
        return compare(claim, found, f"{method}Worst ratio {ratio:.3f}, bound {bound:.3f}.", bits + more)

    worst = {
        name: max(max(getattr(s, kind)[name]) for s in sweeps.values())
        for kind, names in (
            ("bits", ("discard-predictions", "phase-predictions")), ("distances", ("predictive-marker",)),
        )
        for name in names
    }  # fmt: skip
    results += [
        within("phase-consistent", "right phase bits cost at most twice the optimum",
               max(s.bits["phase-predictions"][0] for s in sweeps.values()), 2.0, _RECALLED),
        within("discard-robust", "discard bits however wrong stay within O(log k); here 2 H_k",
               worst["discard-predictions"], 2 * HARMONIC, _REVIEW),
        within("phase-robust", "phase bits however wrong stay within O(log k); here 2 H_k",
               worst["phase-predictions"], 2 * HARMONIC, _REVIEW),
        within("marker-robust", "PredictiveMarker stays within 4 H_k", worst["predictive-marker"], 4 * HARMONIC,
               "Lykouris and Vassilvitskii, arXiv:1802.05399, theorem recalled"),
        within("marking", "marking stays within 2 H_k", max(s.plain["marking"] for s in sweeps.values()),
               2 * HARMONIC, "Fiat et al., J. Algorithms 12(4), 1991, theorem recalled"),
    ]  # fmt: skip
    excess = max(_smooth(recipe, sweep.optimum) for recipe, sweep in sweeps.items())
    claim = Claim(
        "discard-smooth", "misses are at most OPT + 2 H_k (bits wrongly 'keep') + (bits wrongly 'drop')", "yes", "",
        _RECALLED, "recalled", "mechanism",
    )  # fmt: skip
    results.append(
        compare(
            claim,
            "yes" if excess <= 0 else "no",
            f"{method}Largest excess over the bound: {excess:.0f} misses.",
            bits,
        )
    )
    loop = sweeps[TRACES[2]]
    claim = Claim(
        "lru-worst", f"LRU over the optimum on a loop of k + 1 pages, k = {PAGES}", float(PAGES), "",
        "Sleator and Tarjan, Comm. ACM 28(2), 1985", "recalled", "mechanism",
    )  # fmt: skip
    results.append(
        compare(
            claim,
            (loop.plain["lru"] * loop.optimum - PAGES) / (loop.optimum - PAGES),
            f"20000 requests, {PAGES} pages fit; without the first {PAGES} misses, which both have and the ratio's "
            "definition allows for.",
        )
    )
    return results


def _consistent(recipe: str, sweep: Sweep, method: str) -> ClaimResult:
    name = recipe.partition(":")[0]
    claim = Claim(
        f"consistent-{name}", f"right discard bits reach the optimum: misses over Belady's, {name}", 1.0, "", _REVIEW,
        "second-hand", "mechanism",
    )  # fmt: skip
    words = "A page that may go stays here until its room is wanted; the paper's rule drops it at once."
    return compare(claim, sweep.bits["discard-predictions"][0], method + "Bits of Belady's run.", words)


def _run() -> Outcome:
    sweeps = {recipe: measured(recipe) for recipe in TRACES}
    tables = []
    for recipe, sweep in sweeps.items():
        rows = [
            (
                error,
                *(round(values[at], 4) for values in sweep.bits.values()),
                *(round(v, 4) for v in sweep.plain.values()),
            )
            for at, error in enumerate(BIT_ERRORS)
        ]
        tables.append(
            StudyTable(
                f"Misses over the optimum's {sweep.optimum} by share of wrong bits, {recipe}",
                ("error", *sweep.bits, *sweep.plain), tuple(rows),
            )
        )  # fmt: skip
        rows = [
            (spread, *(round(values[at], 4) for values in sweep.distances.values()))
            for at, spread in enumerate(SPREADS)
        ]
        tables.append(
            StudyTable(
                f"The same by spread of the predicted distance (e to a normal deviate), {recipe}",
                ("spread", *sweep.distances), tuple(rows),
            )
        )  # fmt: skip
    first = sweeps[TRACES[0]]
    caption = (
        f"Misses over Belady's as more predicted bits are wrong ({TRACES[0]}, {PAGES} pages fit). Dashed: policies "
        "without predictions, which no error moves."
    )

    def draw(path: Path) -> None:
        lines = {name: list(zip(BIT_ERRORS, values, strict=True)) for name, values in first.bits.items()}
        bounds = {
            name: [(BIT_ERRORS[0], ratio), (BIT_ERRORS[-1], ratio)] for name, ratio in first.plain.items()
        }
        draw_lines(path, lines, "share of wrong bits", "misses / Belady's misses", bounds=bounds)

    return Outcome(_claims(sweeps), tables, [Figure("errors", caption, draw)])


STUDY: Final = Study(
    "succinct-paging",
    "Paging with succinct predictions",
    _PAPER,
    f"Four traces of 20000 requests to a cache of {PAGES} pages: LRU, marking and random beside two rules that are "
    "told one bit per request and two that are told next uses, as more of what they are told is wrong. All over "
    "Belady's misses.",
    _run,
)
